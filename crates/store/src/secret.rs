//! Secrets: sealed under the server key, each for its owner.

use zeroize::Zeroizing;

use crate::{
    Change, StoreError,
    tx::{Columns, Tx},
};

impl Tx {
    /// The secret of an owner (`encryption:PROJECT`, `api_key:ID`, `ca:agents`, …).
    pub async fn secret(&mut self, owner: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let found = sqlx::query("SELECT sealed FROM \"secret\" WHERE owner = $1").bind(owner.to_owned());
        let Some(row) = self.row(found).await? else { return Ok(None) };
        self.store.key().open(&purpose(owner), &row.bytes("sealed")?).map(Some)
    }

    /// Whether an owner has a secret.
    pub async fn has_secret(&mut self, owner: &str) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT owner FROM \"secret\" WHERE owner = $1").bind(owner.to_owned());
        Ok(self.row(found).await?.is_some())
    }
}

impl Change {
    /// Seals and stores the secret of an owner, in place of a former one.
    pub async fn put_secret(&mut self, owner: &str, secret: &[u8]) -> Result<(), StoreError> {
        let sealed = self.store.key().seal(&purpose(owner), secret);
        let put = "INSERT INTO \"secret\" (owner, sealed) VALUES ($1, $2) \
                   ON CONFLICT (owner) DO UPDATE SET sealed = excluded.sealed";
        self.execute(sqlx::query(put).bind(owner.to_owned()).bind(sealed)).await.map(drop)
    }

    /// Deletes the secret of an owner; whether there was one.
    pub async fn drop_secret(&mut self, owner: &str) -> Result<bool, StoreError> {
        let delete = sqlx::query("DELETE FROM \"secret\" WHERE owner = $1").bind(owner.to_owned());
        Ok(self.execute(delete).await? > 0)
    }
}

fn purpose(owner: &str) -> String {
    format!("secret:{owner}")
}
