//! Looks at vault and nodes, and does what the board's keys ask for.

use std::time::Duration;

use futures_util::future::join_all;
use keyward_agent::admin::Request;
use keyward_model::Timestamp;
use keyward_vault::client::VaultAdmin;
use keyward_vault::fault::FaultKind;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use super::board::Action;
use super::site::{CUSTOMER_KEY, Node, Site, now};
use super::view::{KeyState, KeyView, NodeView, SHORT, VaultView, View, What};
use crate::failure::Failure;

/// How long the board's outage lasts, in seconds.
const OUTAGE_S: u32 = 30;

/// Everything needed to look, apart from the site itself.
#[derive(Debug, Clone)]
pub(crate) struct Watcher {
    started_at: Timestamp,
    engine: &'static str,
    url: String,
    admin: VaultAdmin,
    key_version: String,
    nodes: Vec<Node>,
}

impl Watcher {
    pub(crate) fn of(site: &Site) -> Self {
        Self {
            started_at: now(),
            engine: site.database.kind(),
            url: site.vault.url.clone(),
            admin: site.admin.clone(),
            key_version: site.customer_key.version().to_owned(),
            nodes: site.nodes.clone(),
        }
    }

    /// Everything at this moment.
    pub(crate) async fn look(&self) -> View {
        let nodes = join_all(self.nodes.iter().map(|node| async {
            NodeView { name: node.name.clone(), uri: node.address(), status: node.status().await }
        }));
        let ((vault, key), nodes) = tokio::join!(self.look_at_vault(), nodes);
        View {
            now: now(),
            started_at: self.started_at,
            engine: self.engine,
            vault,
            key,
            windows: SHORT,
            nodes,
        }
    }

    async fn look_at_vault(&self) -> (VaultView, KeyView) {
        let unknown = || KeyView {
            name: CUSTOMER_KEY.into(),
            version: self.key_version.clone(),
            state: KeyState::Unknown,
        };
        let down = || VaultView { url: self.url.clone(), up: false, faults: Vec::new() };
        let ask = async {
            Ok::<_, keyward_vault::client::ClientError>((
                self.admin.status().await?,
                self.admin.keys().await?,
            ))
        };
        let Ok(Ok((status, keys))) = timeout(Duration::from_secs(2), ask).await else {
            return (down(), unknown());
        };
        let faults = status.faults.iter().map(|fault| fault.kind.to_string()).collect();
        let vault = VaultView { url: self.url.clone(), up: true, faults };
        let key = keys.iter().find(|key| key.name == CUSTOMER_KEY).and_then(|key| {
            let newest = key.versions.last()?;
            let state = match (key.deleted.is_some(), newest.enabled) {
                (true, _) => KeyState::Deleted,
                (false, true) => KeyState::Enabled,
                (false, false) => KeyState::Disabled,
            };
            Some(KeyView { name: key.name.clone(), version: newest.version.clone(), state })
        });
        (vault, key.unwrap_or_else(unknown))
    }

    /// Does what a key asks for, in the background; says what came of it.
    pub(crate) fn act(&self, action: Action, told: UnboundedSender<What>) {
        let watcher = self.clone();
        tokio::spawn(async move {
            let what = match watcher.carry_out(action).await {
                Ok(Some(text)) => What::Notice { text },
                Ok(None) => return,
                Err(failure) => What::Trouble { text: failure.message },
            };
            let _ = told.send(what);
        });
    }

    /// `Some` with a sentence where the view itself will not tell.
    async fn carry_out(&self, action: Action) -> Result<Option<String>, Failure> {
        let vault = |e| crate::commands::vault::failure(&e);
        match action {
            Action::TakeKeyAway => {
                self.admin.disable_key(CUSTOMER_KEY).await.map_err(vault)?;
                Ok(None)
            }
            Action::GiveKeyBack => {
                self.admin.enable_key(CUSTOMER_KEY).await.map_err(vault)?;
                Ok(None)
            }
            Action::Outage => {
                self.admin.set_fault(FaultKind::Refuse, Some(OUTAGE_S)).await.map_err(vault)?;
                Ok(Some(format!("the vault refuses connections for {OUTAGE_S} s; nothing will stop")))
            }
            Action::RotateMasterKeys => {
                self.ask_all(&Request::RotateMasterKey).await?;
                Ok(None)
            }
            Action::NewKeyVersion => {
                let key = self.admin.rotate_key(CUSTOMER_KEY).await.map_err(vault)?;
                let identifier = key.key_identifier().unwrap_or_default().parse().map_err(|e| {
                    Failure::new("the vault names its key in an unknown way", "report it as a bug")
                        .because(&e)
                })?;
                self.ask_all(&Request::Rewrap { key_identifier: identifier }).await?;
                Ok(None)
            }
            Action::Quit => Ok(None),
        }
    }

    async fn ask_all(&self, request: &Request) -> Result<(), Failure> {
        join_all(self.nodes.iter().map(|node| node.ask(request)))
            .await
            .into_iter()
            .try_for_each(|r| r.map(|_| ()))
    }
}
