//! A snapshot of one node becomes another node.

use keyward_agent::admin::Request;
use keyward_model::NodeState;
use url::Url;

use super::documents::Target;
use super::{START, Tour, broken, ensure, is_up, plaintext};
use crate::dev::site::{NodeKind, NodePlan};
use crate::failure::Failure;
use crate::render;

const RESTORED: &str = "restored";

impl Tour {
    pub(super) async fn snapshot_and_restore(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("a snapshot becomes a new node with a master key of its own");
        let done = self.copy_a_node().await;
        self.report.end(begun, done)
    }

    async fn copy_a_node(&mut self) -> Result<String, Failure> {
        let source = self.site.members().next().cloned().ok_or_else(|| broken("there is no node"))?;
        let folder = self.work.join("snapshot");
        let url = Url::from_directory_path(&folder).map_err(|()| broken("the folder has no URL"))?;
        source.ask(&Request::Snapshot { to: url.clone() }).await?;
        let original = source.wait("running", START, is_up).await?;
        let searched = plaintext::search(&folder, &self.ledger.markers()).await?;
        ensure(searched.files > 0, || "the snapshot is empty".into())?;
        ensure(searched.found.is_empty(), || format!("plaintext in the snapshot: {:?}", searched.places))?;

        self.site.add_node(NodePlan { name: RESTORED.into(), kind: NodeKind::Restore })?;
        self.site.start_agent(RESTORED).await?;
        let node = self.site.node(RESTORED)?.clone();
        node.wait("ready to be restored", START, |s| s.state == NodeState::Stopped).await?;
        node.ask(&Request::Restore { from: url }).await?;
        self.site.let_run(RESTORED).await?;
        let restored = node.wait("running", START, is_up).await?;
        ensure(
            restored.master_key.is_some()
                && restored.master_key.as_ref().map(|key| &key.id)
                    != original.master_key.as_ref().map(|key| &key.id),
            || "the restored node has the master key of the other one".into(),
        )?;
        let written_to = self.targets().into_iter().find(|t| t.name == source.name || !self.independent());
        let written_to = written_to.ok_or_else(|| broken("nobody wrote to the node"))?;
        let count = self.ledger.verify(&Target { uri: node.uri(), ..written_to }).await?;
        Ok(format!(
            "{} files, {}, no marker in them; {count} documents intact",
            searched.files,
            render::bytes(searched.bytes)
        ))
    }
}
