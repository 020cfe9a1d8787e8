//! The project's customer key, against a development vault.

/// Declares tests that run on each database with a development vault: `async fn name(site: Site)`.
macro_rules! with_vault_on_each_database {
    ($($(#[$meta:meta])* async fn $name:ident($site:ident: Site) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn run($site: Site) $body

            #[tokio::test]
            async fn sqlite() {
                if let Some(site) = Site::start_with_vault(Database::Sqlite).await {
                    run(site).await;
                }
            }

            #[tokio::test]
            async fn postgresql() {
                if let Some(site) = Site::start_with_vault(Database::Postgresql).await {
                    run(site).await;
                }
            }
        }
    )*};
}
mod customer;
mod endpoints;
mod faults;
mod lifecycle;
mod nodes;
mod own_api;
mod recheck;
mod refusals;
mod roles;
