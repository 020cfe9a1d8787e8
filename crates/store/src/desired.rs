//! What is desired of each node. Sealed, since it may carry a client secret.

use keyward_model::{Timestamp, id::NodeId, sync::Desired};
use zeroize::Zeroizing;

use crate::{
    StoreError,
    tx::{Columns, Tx, Writer},
};

/// What became of a desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredDesired {
    /// The revision it is stored under.
    pub revision: u64,
    /// Whether it differs from what was stored before.
    pub changed: bool,
}

impl Tx {
    /// What is desired of a node, with its revision.
    pub async fn desired(&mut self, node: NodeId) -> Result<Option<Desired>, StoreError> {
        let Some((revision, sealed)) = self.desired_row(node).await? else { return Ok(None) };
        let content = self.store.key().open(&purpose(node), &sealed)?;
        // What serde says of it could repeat a secret.
        let desired: Desired =
            serde_json::from_slice(&content).map_err(|_| StoreError::Sealed { owner: purpose(node) })?;
        Ok(Some(Desired { revision: revision.unsigned_abs(), ..desired }))
    }

    /// The revision of what is desired of a node; 0 for none.
    pub async fn desired_revision(&mut self, node: NodeId) -> Result<u64, StoreError> {
        let found = sqlx::query("SELECT revision FROM \"desired\" WHERE node_id = $1").bind(node.to_string());
        let revision = self.row(found).await?.map_or(Ok(0), |row| row.number("revision"))?;
        Ok(revision.unsigned_abs())
    }

    /// What is desired of every node, by node id.
    pub async fn all_desired(&mut self) -> Result<Vec<(NodeId, Desired)>, StoreError> {
        let found = sqlx::query("SELECT node_id, revision, sealed FROM \"desired\" ORDER BY node_id");
        let rows = self.rows(found).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let id = row.text("node_id")?;
            let sealed = || StoreError::Sealed { owner: format!("desired:{id}") };
            let node: NodeId = id.parse().map_err(|_| sealed())?;
            let content = self.store.key().open(&purpose(node), &row.bytes("sealed")?)?;
            let desired: Desired = serde_json::from_slice(&content).map_err(|_| sealed())?;
            all.push((node, Desired { revision: row.number("revision")?.unsigned_abs(), ..desired }));
        }
        Ok(all)
    }

    /// The nodes of whose desired state the revision is greater than `revision`, with it.
    pub async fn desired_since(&mut self, revision: u64) -> Result<Vec<(NodeId, u64)>, StoreError> {
        let found = sqlx::query("SELECT node_id, revision FROM \"desired\" WHERE revision > $1")
            .bind(crate::document::bound(revision));
        let rows = self.rows(found).await?;
        let pairs = rows.iter().map(|row| {
            let text = row.text("node_id")?;
            let node = text.parse().map_err(|error: uuid::Error| StoreError::Unreadable {
                what: format!("the node id {text}"),
                source: Box::new(error),
            })?;
            Ok((node, row.number("revision")?.unsigned_abs()))
        });
        pairs.collect()
    }

    async fn desired_row(&mut self, node: NodeId) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        let found = sqlx::query("SELECT revision, sealed FROM \"desired\" WHERE node_id = $1");
        match self.row(found.bind(node.to_string())).await? {
            Some(row) => Ok(Some((row.number("revision")?, row.bytes("sealed")?))),
            None => Ok(None),
        }
    }
}

impl Writer {
    /// Stores what is desired of a node. The revision moves only where the content differs;
    /// [`Desired::revision`] as given does not count.
    ///
    /// A new revision is the time in milliseconds, or one more than the last where that is not more: it grows also
    /// over a database that was restored from a backup, so that agents never take the newest for an old one.
    pub async fn put_desired(
        &mut self,
        node: NodeId,
        desired: &Desired,
        now: Timestamp,
    ) -> Result<StoredDesired, StoreError> {
        let content = content(desired)?;
        let before = self.desired_row(node).await?;
        if let Some((revision, sealed)) = &before
            && *self.store.key().open(&purpose(node), sealed)? == *content
        {
            return Ok(StoredDesired { revision: revision.unsigned_abs(), changed: false });
        }
        let sealed = self.store.key().seal(&purpose(node), &content);
        let former = before.map_or(0, |(revision, _)| revision);
        let revision = now.epoch_ms().max(former + 1);
        // Where another server was faster, its revision is not the one that was compared with.
        let put = sqlx::query(
            "INSERT INTO \"desired\" (node_id, revision, sealed) VALUES ($1, $2, $3) \
             ON CONFLICT (node_id) DO UPDATE SET revision = excluded.revision, sealed = excluded.sealed \
             WHERE \"desired\".revision = $4",
        )
        .bind(node.to_string())
        .bind(revision)
        .bind(sealed)
        .bind(former);
        match self.execute(put).await? {
            0 => Err(StoreError::Conflict { what: format!("desired {node}") }),
            _ => {
                // Wherever it waits.
                self.tell_node(node).await?;
                Ok(StoredDesired { revision: revision.unsigned_abs(), changed: true })
            }
        }
    }

    /// Forgets what is desired of a node.
    pub async fn drop_desired(&mut self, node: NodeId) -> Result<(), StoreError> {
        let delete = sqlx::query("DELETE FROM \"desired\" WHERE node_id = $1").bind(node.to_string());
        self.execute(delete).await.map(drop)
    }
}

fn purpose(node: NodeId) -> String {
    format!("desired:{node}")
}

/// The JSON of a desired state, without its revision.
fn content(desired: &Desired) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let mut content = Zeroizing::new(Vec::with_capacity(4096));
    let unnumbered = Desired { revision: 0, ..desired.clone() };
    serde_json::to_writer(&mut *content, &unnumbered).map_err(|error| StoreError::Unreadable {
        what: "a desired state".to_owned(),
        source: error.into(),
    })?;
    Ok(content)
}
