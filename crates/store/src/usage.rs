//! When secrets and entries of access lists were used last, and how often: what was seen of callers.

use std::collections::BTreeMap;

use keyward_model::Timestamp;

use crate::{
    PrincipalId, StoreError,
    tx::{Columns, Tx, Writer},
};

/// How something was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// How many requests.
    pub requests: u64,
    /// When the last one came.
    pub last_at: Timestamp,
    /// From where.
    pub last_address: String,
}

impl Tx {
    /// What is known of a principal's entries, by their names.
    pub async fn usage(&mut self, principal: &PrincipalId) -> Result<BTreeMap<String, Used>, StoreError> {
        let rows =
            sqlx::query("SELECT entry, requests, last_at, last_address FROM \"usage\" WHERE principal = $1")
                .bind(principal.to_string());
        let used = self.rows(rows).await?.into_iter().map(|row| {
            let used = Used {
                requests: row.number("requests")?.unsigned_abs(),
                last_at: Timestamp::from_epoch_ms(row.number("last_at")?),
                last_address: row.text("last_address")?,
            };
            Ok((row.text("entry")?, used))
        });
        used.collect()
    }
}

impl Writer {
    /// Adds to what is known: requests are summed up over all servers, the rest is the newest.
    pub async fn add_usage(
        &mut self,
        principal: &PrincipalId,
        entry: &str,
        used: &Used,
    ) -> Result<(), StoreError> {
        if entry.contains('\0') {
            return Err(StoreError::Unstorable { what: "an entry" });
        }
        let add = sqlx::query(
            "INSERT INTO \"usage\" (principal, entry, requests, last_at, last_address) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (principal, entry) DO UPDATE SET requests = \"usage\".requests + excluded.requests, \
             last_at = excluded.last_at, last_address = excluded.last_address",
        )
        .bind(principal.to_string())
        .bind(entry.to_owned())
        .bind(i64::try_from(used.requests).unwrap_or(i64::MAX))
        .bind(used.last_at.epoch_ms())
        .bind(used.last_address.clone());
        self.execute(add).await.map(drop)
    }

    /// Forgets an entry that is no more.
    pub async fn forget_usage(&mut self, principal: &PrincipalId, entry: &str) -> Result<(), StoreError> {
        let delete = sqlx::query("DELETE FROM \"usage\" WHERE principal = $1 AND entry = $2")
            .bind(principal.to_string())
            .bind(entry.replace('\0', ""));
        self.execute(delete).await.map(drop)
    }

    /// Forgets the entries of who has no role any more: they are gone.
    pub async fn sweep_usage(&mut self) -> Result<u64, StoreError> {
        let sweep = "DELETE FROM \"usage\" WHERE principal NOT IN (SELECT principal FROM \"grants\")";
        self.execute(sqlx::query(sweep)).await
    }
}
