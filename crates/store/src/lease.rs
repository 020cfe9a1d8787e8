//! Leases: which server does a job.
//!
//! Each taking and each handing over is one statement, so that of several servers one gets it. A server whose clock
//! jumps may take a lease too early; the *fence*, which grows with every new holder, then keeps the former holder
//! from committing anything under it ([`Writer::require_lease`](crate::Writer::require_lease)).

use keyward_model::Timestamp;

use crate::{Store, StoreError, tx::Columns};

/// The right to do a job for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    job: String,
    holder: String,
    fence: i64,
}

impl Lease {
    /// The job.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Who holds it.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Grows with each new holder.
    pub fn fence(&self) -> i64 {
        self.fence
    }
}

impl Store {
    /// Takes the lease of a job for `ttl_ms`, where it is free, over, or the holder's own; else `None`.
    ///
    /// `holder` names one run of one server. A lease that ends later than any clock near ours could have said
    /// (more than two `ttl_ms` from now) was written by a clock that was wrong, and counts as over.
    pub async fn lease(
        &self,
        job: &str,
        holder: &str,
        ttl_ms: u32,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        let (now, ttl) = (now.epoch_ms(), i64::from(ttl_ms));
        let take = sqlx::query(
            "INSERT INTO \"lease\" (job, holder, until, fence) VALUES ($1, $2, $3, 1) \
             ON CONFLICT (job) DO UPDATE SET holder = excluded.holder, until = excluded.until, fence = \"lease\".fence + 1 \
             WHERE \"lease\".holder = excluded.holder OR \"lease\".until <= $4 OR \"lease\".until > $5 \
             RETURNING fence",
        )
        .bind(job.to_owned())
        .bind(holder.to_owned())
        .bind(now.saturating_add(ttl))
        .bind(now)
        .bind(now.saturating_add(2 * ttl));
        let mut observation = self.observe().await?;
        let Some(row) = observation.row(take).await? else { return Ok(None) };
        let fence = row.number("fence")?;
        observation.commit().await?;
        Ok(Some(Lease { job: job.to_owned(), holder: holder.to_owned(), fence }))
    }

    /// Holds a lease for `ttl_ms` from now; whether it was still held.
    pub async fn renew(&self, lease: &Lease, ttl_ms: u32, now: Timestamp) -> Result<bool, StoreError> {
        let renew = sqlx::query("UPDATE \"lease\" SET until = $1 WHERE job = $2 AND fence = $3")
            .bind(now.epoch_ms().saturating_add(i64::from(ttl_ms)))
            .bind(lease.job.clone())
            .bind(lease.fence);
        let mut observation = self.observe().await?;
        let held = observation.execute(renew).await? > 0;
        observation.commit().await?;
        Ok(held)
    }

    /// Gives a lease back, and says so to the other servers. Nothing happens where another holds it.
    pub async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let release = sqlx::query(
            "UPDATE \"lease\" SET until = 0, holder = '' WHERE job = $1 AND fence = $2 AND holder <> ''",
        )
        .bind(lease.job.clone())
        .bind(lease.fence);
        let mut observation = self.observe().await?;
        if observation.execute(release).await? > 0 {
            observation.tell_jobs().await?;
        }
        observation.commit().await
    }
}
