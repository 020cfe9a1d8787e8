//! What `keyward server authority` does: on the server's machine, beside servers that run.

use keyward_model::event::Actor;
use keyward_store::{ServerKey, Store};

pub use crate::link::{AuthorityError, AuthorityStatus, FormerStatus, Holder};
use crate::{Config, app::machine_clock, link};

/// How the authority stands that agents trust, and who still needs the one before it.
pub async fn show(config: &Config) -> Result<AuthorityStatus, AuthorityError> {
    let store = open(config).await?;
    let status = link::authority_status(&store, machine_clock()()).await;
    store.close().await;
    status
}

/// Puts a new authority in its place; both are trusted until the former one is let go.
pub async fn replace(config: &Config) -> Result<AuthorityStatus, AuthorityError> {
    let store = open(config).await?;
    let replaced = link::replace_authority(&store, Actor::Operator, machine_clock()()).await;
    store.close().await;
    replaced
}

/// Lets the former authority go; only with `force` where somebody still needs it.
pub async fn retire(config: &Config, force: bool) -> Result<FormerStatus, AuthorityError> {
    let store = open(config).await?;
    let retired = link::retire_authority(&store, force, Actor::Operator, machine_clock()()).await;
    store.close().await;
    retired
}

async fn open(config: &Config) -> Result<Store, AuthorityError> {
    let key = ServerKey::read_file(&config.key_file())?;
    Ok(Store::open(&config.store_url(), key).await?)
}
