//! Looks at vault, server and nodes, and does what the board's keys ask for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keyward_model::Timestamp;
use keyward_vault::client::VaultAdmin;
use keyward_vault::fault::FaultKind;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use super::board::Action;
use super::server::Server;
use super::site::{CUSTOMER_KEY, Node, Site, now};
use super::view::{Audit, KeyState, KeyView, NodeView, SHORT, ServerView, VaultView, View, What};
use crate::api::answer::text;
use crate::failure::Failure;

/// Events of the audit log looked at each time.
const AUDIT: usize = 20;
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
    server: Arc<Server>,
    server_seen: Arc<Mutex<ServerView>>,
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
            server: site.server.clone(),
            server_seen: Arc::new(Mutex::new(ServerView {
                url: site.server.described.url.clone(),
                ..ServerView::default()
            })),
            nodes: site.nodes.clone(),
        }
    }

    /// Everything at this moment.
    pub(crate) async fn look(&self) -> View {
        let nodes = join_all(self.nodes.iter().map(|node| async {
            NodeView { name: node.name.clone(), uri: node.address(), status: node.status().await }
        }));
        let ((vault, key), server, nodes) = tokio::join!(self.look_at_vault(), self.look_at_server(), nodes);
        View {
            now: now(),
            started_at: self.started_at,
            engine: self.engine,
            vault,
            key,
            server,
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

    /// What the server shows; while it does not answer, what it showed last.
    async fn look_at_server(&self) -> ServerView {
        let ask = async {
            let clusters = self.server.clusters().await?;
            Ok::<_, Failure>((clusters, self.server.alerts().await?, self.server.events(AUDIT).await?))
        };
        let mut seen = self.server_seen.lock().await;
        match timeout(Duration::from_secs(2), ask).await {
            Ok(Ok((clusters, alerts, events))) => {
                seen.up = true;
                seen.cluster = clusters.first().map(|cluster| text(cluster, "/stateName").to_owned());
                seen.alerts = alerts.iter().map(|alert| text(alert, "/eventTypeName").to_owned()).collect();
                seen.audit = events.iter().rev().map(audit).collect();
            }
            Ok(Err(_)) | Err(_) => seen.up = false,
        }
        seen.clone()
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
                self.server.rotate_master_keys().await?;
                Ok(None)
            }
            Action::NewKeyVersion => {
                let key = self.admin.rotate_key(CUSTOMER_KEY).await.map_err(vault)?;
                let identifier = key.key_identifier().unwrap_or_default().parse().map_err(|e| {
                    Failure::new("the vault names its key in an unknown way", "report it as a bug")
                        .because(&e)
                })?;
                // As a project's owner rotates: the server tells the nodes.
                self.server.rotate_to(&identifier).await?;
                Ok(None)
            }
            Action::Quit => Ok(None),
        }
    }
}

fn audit(event: &Value) -> Audit {
    let by = crate::commands::event::actor(event);
    Audit { id: text(event, "/id").into(), event_type: text(event, "/type").into(), by: by.into() }
}
