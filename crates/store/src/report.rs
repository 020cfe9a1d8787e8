//! What nodes report.

use std::{collections::HashMap, fmt::Display};

use keyward_model::{Timestamp, id::NodeId, sync::Observed};
use sqlx::any::AnyRow;

use crate::{
    StoreError,
    tx::{Columns, Tx, Writer},
};

/// A node's newest report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// When the server received it.
    pub received_at: Timestamp,
    /// What it says.
    pub observed: Observed,
}

impl Tx {
    /// A node's newest report.
    pub async fn report(&mut self, node: NodeId) -> Result<Option<Report>, StoreError> {
        let found = sqlx::query("SELECT node_id, at, body FROM \"report\" WHERE node_id = $1");
        Ok(self.row(found.bind(node.to_string())).await?.as_ref().map(read).transpose()?.flatten())
    }

    /// The newest report of each node of a project (the nodes whose document has this parent), by node.
    pub async fn reports(&mut self, project: impl Display) -> Result<Vec<Report>, StoreError> {
        let found = sqlx::query(
            "SELECT r.node_id, r.at, r.body FROM \"report\" r JOIN \"node\" n ON n.id = r.node_id \
             WHERE n.parent = $1 ORDER BY r.node_id",
        );
        self.rows(found.bind(project.to_string()))
            .await?
            .iter()
            .filter_map(|row| read(row).transpose())
            .collect()
    }

    /// The number of a node's newest report; 0 for none.
    pub async fn report_number(&mut self, node: NodeId) -> Result<u64, StoreError> {
        let found = sqlx::query("SELECT report FROM \"report\" WHERE node_id = $1").bind(node.to_string());
        let number = self.row(found).await?.map_or(Ok(0), |row| row.number("report"))?;
        Ok(number.unsigned_abs())
    }

    /// When each node was heard of last.
    pub async fn heard(&mut self) -> Result<HashMap<NodeId, Timestamp>, StoreError> {
        let rows = self.rows(sqlx::query("SELECT node_id, at FROM \"report\"")).await?;
        let mut heard = HashMap::with_capacity(rows.len());
        for row in rows {
            let text = row.text("node_id")?;
            let node = text.parse().map_err(|error: uuid::Error| StoreError::Unreadable {
                what: format!("the node id {text}"),
                source: Box::new(error),
            })?;
            heard.insert(node, Timestamp::from_epoch_ms(row.number("at")?));
        }
        Ok(heard)
    }

    /// The newest report of every node, by node.
    pub async fn all_reports(&mut self) -> Result<Vec<Report>, StoreError> {
        let found = sqlx::query("SELECT node_id, at, body FROM \"report\" ORDER BY node_id");
        self.rows(found).await?.iter().filter_map(|row| read(row).transpose()).collect()
    }
}

impl Writer {
    /// Stores a report unless the stored one is as new; the number of the one that is stored then.
    pub async fn put_report(
        &mut self,
        observed: &Observed,
        received_at: Timestamp,
    ) -> Result<u64, StoreError> {
        if self.write_report(observed, None, received_at).await? {
            return Ok(observed.report);
        }
        self.report_number(observed.node_id).await
    }

    /// Stores a report in the place of report `former` (0: there was none); whether that one was still there. What
    /// the two tell together then holds, whichever server takes the next one.
    pub async fn put_report_after(
        &mut self,
        former: u64,
        observed: &Observed,
        received_at: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write_report(observed, Some(former), received_at).await
    }

    async fn write_report(
        &mut self,
        observed: &Observed,
        former: Option<u64>,
        received_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let node = observed.node_id;
        let body = serde_json::to_string(observed).map_err(|error| unreadable(node, error))?;
        let put = sqlx::query(
            "INSERT INTO \"report\" (node_id, report, at, body) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (node_id) DO UPDATE SET report = excluded.report, at = excluded.at, body = excluded.body \
             WHERE \"report\".report < excluded.report AND ($5 < 0 OR \"report\".report = $5)",
        )
        .bind(node.to_string())
        .bind(crate::document::bound(observed.report))
        .bind(received_at.epoch_ms())
        .bind(body)
        .bind(former.map_or(-1, crate::document::bound));
        if self.execute(put).await? == 0 {
            return Ok(false);
        }
        self.tell_jobs().await?;
        Ok(true)
    }

    /// Notes that nodes were heard of and had nothing new to say. Nothing is noted of a node without a report.
    pub async fn seen_nodes(&mut self, seen: &[(NodeId, Timestamp)]) -> Result<(), StoreError> {
        // In one order, so that two servers never wait for each other.
        let mut seen: Vec<_> = seen.iter().collect();
        seen.sort_by_key(|(node, _)| *node);
        for (node, at) in seen {
            let note = sqlx::query("UPDATE \"report\" SET at = $2 WHERE node_id = $1 AND at < $2")
                .bind(node.to_string())
                .bind(at.epoch_ms());
            self.execute(note).await?;
        }
        Ok(())
    }

    /// Forgets what a node reported, so that its reports may count from the beginning again.
    pub async fn drop_report(&mut self, node: NodeId) -> Result<(), StoreError> {
        let delete = sqlx::query("DELETE FROM \"report\" WHERE node_id = $1").bind(node.to_string());
        self.execute(delete).await.map(drop)
    }
}

/// `None` for a report that another version of keyward wrote: the node's next one takes its place.
fn read(row: &AnyRow) -> Result<Option<Report>, StoreError> {
    let received_at = Timestamp::from_epoch_ms(row.number("at")?);
    match serde_json::from_str(&row.text("body")?) {
        Ok(observed) => Ok(Some(Report { received_at, observed })),
        Err(error) => {
            tracing::warn!(node = row.text("node_id")?, %error, "the stored report of a node cannot be read");
            Ok(None)
        }
    }
}

fn unreadable(node: impl Display, error: serde_json::Error) -> StoreError {
    StoreError::Unreadable { what: format!("the report of node {node}"), source: error.into() }
}
