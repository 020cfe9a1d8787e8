//! Access tokens and nonces: what callers prove themselves with, for a while.

use aws_lc_rs::digest::{SHA256, digest};
use keyward_model::Timestamp;

use crate::{
    Store, StoreError,
    tx::{Columns, Tx, Writer},
};

/// What became of a nonce and its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonceUse {
    /// The count is higher than any used before: now it is used.
    Fresh,
    /// The count, or a higher one, was used before.
    Used,
}

impl Tx {
    /// Whose access token it is; `None` for an unknown, revoked or expired one.
    pub async fn access_token(&mut self, token: &str, now: Timestamp) -> Result<Option<String>, StoreError> {
        let found =
            sqlx::query("SELECT client_id FROM \"access_token\" WHERE sha256 = $1 AND expires_at > $2")
                .bind(sha256(token))
                .bind(now.epoch_ms());
        self.row(found).await?.map(|row| row.text("client_id")).transpose()
    }
}

impl Writer {
    /// Remembers an access token by its hash.
    pub async fn put_access_token(
        &mut self,
        token: &str,
        client_id: &str,
        expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        let insert =
            sqlx::query("INSERT INTO \"access_token\" (sha256, client_id, expires_at) VALUES ($1, $2, $3)")
                .bind(sha256(token))
                .bind(client_id.to_owned())
                .bind(expires_at.epoch_ms());
        self.execute(insert).await.map(drop)
    }

    /// Forgets an access token of a client; whether there was one.
    pub async fn revoke_access_token(&mut self, token: &str, client_id: &str) -> Result<bool, StoreError> {
        let delete = sqlx::query("DELETE FROM \"access_token\" WHERE sha256 = $1 AND client_id = $2");
        Ok(self.execute(delete.bind(sha256(token)).bind(client_id.to_owned())).await? > 0)
    }

    /// Forgets every access token of a client.
    pub async fn revoke_access_tokens(&mut self, client_id: &str) -> Result<(), StoreError> {
        let delete = sqlx::query("DELETE FROM \"access_token\" WHERE client_id = $1");
        self.execute(delete.bind(client_id.to_owned())).await.map(drop)
    }

    /// Uses a count of a nonce; atomic over all servers. The nonce is remembered until `expires_at`, from when on the
    /// caller refuses it by itself.
    pub async fn use_nonce(
        &mut self,
        nonce: &str,
        count: u32,
        expires_at: Timestamp,
    ) -> Result<NonceUse, StoreError> {
        if nonce.contains('\0') {
            return Err(StoreError::Unstorable { what: "a nonce" });
        }
        let used = sqlx::query(
            "INSERT INTO \"nonce\" (nonce, last_nc, expires_at) VALUES ($1, $2, $3) \
             ON CONFLICT (nonce) DO UPDATE SET last_nc = excluded.last_nc WHERE \"nonce\".last_nc < excluded.last_nc",
        )
        .bind(nonce.to_owned())
        .bind(i64::from(count))
        .bind(expires_at.epoch_ms());
        Ok(if self.execute(used).await? == 0 { NonceUse::Used } else { NonceUse::Fresh })
    }

    /// Forgets access tokens and nonces that have expired; how many.
    pub async fn sweep_expired(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let tokens = sqlx::query("DELETE FROM \"access_token\" WHERE expires_at <= $1").bind(now.epoch_ms());
        let nonces = sqlx::query("DELETE FROM \"nonce\" WHERE expires_at <= $1").bind(now.epoch_ms());
        Ok(self.execute(tokens).await? + self.execute(nonces).await?)
    }
}

impl Store {
    /// [`Writer::use_nonce`] in a transaction of its own.
    pub async fn use_nonce(
        &self,
        nonce: &str,
        count: u32,
        expires_at: Timestamp,
    ) -> Result<NonceUse, StoreError> {
        let mut observation = self.observe().await?;
        let used = observation.use_nonce(nonce, count, expires_at).await?;
        match used {
            NonceUse::Fresh => observation.commit().await?,
            NonceUse::Used => {}
        }
        Ok(used)
    }
}

fn sha256(token: &str) -> String {
    data_encoding::HEXLOWER.encode(digest(&SHA256, token.as_bytes()).as_ref())
}
