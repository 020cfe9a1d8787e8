//! New keys while clients write: no client notices, no process restarts.

use std::time::Duration;

use keyward_model::{KeyIdentifier, NodeStatus};
use keyward_vault::admin::KeySettings;
use tokio::time::sleep;

use super::control_plane::held_back;
use super::documents::{Writer, stop_all};
use super::{START, Tour, broken, ensure, is_up};
use crate::api::answer::text;
use crate::commands::vault::failure;
use crate::dev::site::CUSTOMER_KEY;
use crate::dev::view::SHORT;
use crate::failure::Failure;

impl Tour {
    pub(super) async fn rotate_master_keys(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("master keys rotate one node at a time while clients write");
        let work = async {
            let (writers, pids) = (self.start_writers().await?, self.pids().await?);
            let mut before = Vec::new();
            for node in self.site.members() {
                before.push(node.wait("running", START, is_up).await?.master_key);
            }
            self.site.server.rotate_master_keys().await?;
            for (node, before) in self.site.members().zip(&before) {
                let rotated = |s: &NodeStatus| is_up(s) && s.master_key.is_some() && s.master_key != *before;
                node.wait("under a new master key", START, rotated).await?;
            }
            self.all_reported(START).await?;
            for writer in &writers {
                writer.goes_on().await?;
            }
            self.same_processes(&pids).await?;
            let written = stop_all(writers).await?;
            Ok(format!("same processes; {written} documents by now, none lost"))
        };
        let done = work.await;
        self.report.end(begun, done)
    }

    pub(super) async fn rotate_customer_key(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("the customer key rotates; its old version is no longer needed");
        let done = self.change_customer_key().await;
        self.report.end(begun, done)
    }

    async fn change_customer_key(&mut self) -> Result<String, Failure> {
        let (writers, pids) = (self.start_writers().await?, self.pids().await?);
        let old = self.site.customer_key.version().to_owned();
        let key = self.site.admin.rotate_key(CUSTOMER_KEY).await.map_err(|e| failure(&e))?;
        let new: KeyIdentifier = key
            .key_identifier()
            .unwrap_or_default()
            .parse()
            .map_err(|e| broken("the vault names its key in an unknown way").because(&e))?;
        // As the project's owner does it: one PATCH in place. The server shows per node how far that is.
        let stored = self.site.server.rotate_to(&new).await?;
        ensure(text(&stored, "/azureKeyVault/keyIdentifier") == new.to_string(), || {
            format!("the server stored {stored}")
        })?;
        for reported in self.all_reported(START).await? {
            ensure(text(&reported, "/customerKey") == new.to_string(), || {
                format!(
                    "{} is shown as done under {} ({})",
                    text(&reported, "/name"),
                    text(&reported, "/customerKey"),
                    held_back(&reported)
                )
            })?;
        }
        for node in self.site.members() {
            let now = node.wait("running", START, is_up).await?.customer_key;
            ensure(now.as_ref().is_some_and(|key| key.key_identifier == new), || {
                format!("{} is still under {now:?}", node.name)
            })?;
        }
        // Nobody needs the old version: without it, everything goes on for longer than a revocation takes.
        self.enable_version(&old, false).await?;
        sleep(Duration::from_secs(SHORT.strong_s + 2 * SHORT.probe_s)).await;
        for writer in &writers {
            writer.goes_on().await?;
        }
        self.same_processes(&pids).await?;
        let written = stop_all(writers).await?;
        self.former = Some(std::mem::replace(&mut self.site.customer_key, new));
        Ok(format!(
            "{} disabled, {} in use; same processes, {written} documents by now",
            crate::render::short(&old),
            crate::render::short(self.site.customer_key.version())
        ))
    }

    /// Enables or disables one version of the customer key.
    pub(super) async fn enable_version(&self, version: &str, enabled: bool) -> Result<(), Failure> {
        let settings = KeySettings {
            version: Some(version.to_owned()),
            enabled: Some(enabled),
            ..KeySettings::default()
        };
        self.site.admin.change_key(CUSTOMER_KEY, &settings).await.map(|_| ()).map_err(|e| failure(&e))
    }

    pub(super) async fn start_writers(&self) -> Result<Vec<Writer>, Failure> {
        let mut writers = Vec::new();
        for target in self.targets() {
            writers.push(Writer::start(&target).await?);
        }
        Ok(writers)
    }

    /// Every member runs, its key answers, and its database process is the one it was.
    pub(super) async fn same_processes(&self, before: &[u32]) -> Result<(), Failure> {
        let now = self.pids().await?;
        ensure(now == before, || format!("database processes changed from {before:?} to {now:?}"))
    }
}
