//! Transactions: reading, changing, observing.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use keyward_model::{
    Timestamp,
    event::{Event, NewEvent},
};
use sqlx::{Any, Transaction, any::AnyArguments, any::AnyRow, query::Query};
use tokio::sync::OwnedMutexGuard;

use crate::{Lease, Store, StoreError, open::DatabaseKind};

/// A transaction: what it reads is of one moment. Dropped, it leaves nothing.
///
/// In an [`Observation`] on PostgreSQL each statement sees what is committed when it runs.
pub struct Tx {
    transaction: Transaction<'static, Any>,
    pub(crate) store: Store,
    /// Whether a statement failed: PostgreSQL then commits nothing, and says nothing about it.
    failed: bool,
    /// Held to the end of the transaction.
    _turn: Option<OwnedMutexGuard<()>>,
}

/// What a [`Change`] and an [`Observation`] have in common: writing what was seen, done or spent.
#[derive(Debug)]
pub struct Writer(Tx);

/// A transaction that changes what is desired: committed with exactly one audit event, or not at all.
#[derive(Debug)]
pub struct Change(Writer);

/// A transaction that writes what was seen, done or spent: reports, leases, nonces, tokens, what a check found.
#[derive(Debug)]
pub struct Observation(Writer);

pub(crate) type Statement<'q> = Query<'q, Any, AnyArguments>;

impl Store {
    /// Begins to read.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        let begin = match self.0.kind {
            DatabaseKind::Sqlite => "BEGIN",
            DatabaseKind::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        Tx::begin(self, begin, None).await
    }

    /// Begins a change, when those before it have ended. Another change must not be begun while this one is held,
    /// and no call over the network made: all servers wait.
    pub async fn change(&self) -> Result<Change, StoreError> {
        let turn = self.0.writer_turn().await?;
        let begin = match self.0.kind {
            DatabaseKind::Sqlite => "BEGIN IMMEDIATE",
            DatabaseKind::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ",
        };
        let mut tx = Tx::begin(self, begin, Some(turn)).await?;
        tx.wait_for_turn().await?;
        Ok(Change(Writer(tx)))
    }

    /// Begins to write what is no change of desired state.
    pub async fn observe(&self) -> Result<Observation, StoreError> {
        let (begin, turn) = match self.0.kind {
            DatabaseKind::Sqlite => ("BEGIN IMMEDIATE", Some(self.0.writer_turn().await?)),
            DatabaseKind::Postgres => ("BEGIN ISOLATION LEVEL READ COMMITTED", None),
        };
        Ok(Observation(Writer(Tx::begin(self, begin, turn).await?)))
    }
}

impl Change {
    /// Adds the event of a second thing that the same change tells of: a report can say two.
    pub async fn also(&mut self, event: NewEvent, now: Timestamp) -> Result<Event, StoreError> {
        self.insert_event(event, now).await
    }

    /// Commits the change and its one audit event.
    pub async fn commit(mut self, event: NewEvent, now: Timestamp) -> Result<Event, StoreError> {
        let event = self.insert_event(event, now).await?;
        self.tell_jobs().await?;
        self.0.0.commit().await?;
        Ok(event)
    }
}

impl Observation {
    /// Commits what was written.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.0.0.commit().await
    }
}

impl Writer {
    /// Fails unless `lease` is still held, and keeps others from taking it until the transaction ends: what is
    /// committed was done under it.
    pub async fn require_lease(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let held = sqlx::query("UPDATE \"lease\" SET fence = fence WHERE job = $1 AND fence = $2")
            .bind(lease.job().to_owned())
            .bind(lease.fence());
        match self.execute(held).await? {
            0 => Err(StoreError::LeaseLost { job: lease.job().to_owned() }),
            _ => Ok(()),
        }
    }
}

impl Tx {
    pub(crate) async fn begin(
        store: &Store,
        statement: &'static str,
        turn: Option<OwnedMutexGuard<()>>,
    ) -> Result<Tx, StoreError> {
        let transaction = store.0.pool.begin_with(statement).await.map_err(StoreError::of_database)?;
        Ok(Tx { transaction, store: store.clone(), failed: false, _turn: turn })
    }

    /// Waits until no other transaction has the turn to change documents; it is this one's until it ends.
    pub(crate) async fn wait_for_turn(&mut self) -> Result<(), StoreError> {
        match self.store.0.kind {
            // It was this one's from its beginning.
            DatabaseKind::Sqlite => Ok(()),
            // LOCK takes no snapshot: what follows sees all that was committed before the turn came.
            DatabaseKind::Postgres => {
                let lock = sqlx::query("LOCK TABLE \"change_turn\" IN EXCLUSIVE MODE");
                self.execute(lock).await.map(drop)
            }
        }
    }

    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Conflict { what: "the data".to_owned() });
        }
        self.transaction.commit().await.map_err(StoreError::of_database)
    }

    /// Runs a statement; how many rows it touched.
    pub(crate) async fn execute(&mut self, statement: Statement<'_>) -> Result<u64, StoreError> {
        let done = statement.execute(&mut *self.transaction).await;
        done.map(|done| done.rows_affected()).map_err(|error| self.fail(error))
    }

    /// Runs a script of several statements.
    pub(crate) async fn execute_script(&mut self, script: String) -> Result<(), StoreError> {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut *self.transaction).await;
        done.map(drop).map_err(|error| self.fail(error))
    }

    /// The first row.
    pub(crate) async fn row(&mut self, statement: Statement<'_>) -> Result<Option<AnyRow>, StoreError> {
        let row = statement.fetch_optional(&mut *self.transaction).await;
        row.map_err(|error| self.fail(error))
    }

    /// All rows.
    pub(crate) async fn rows(&mut self, statement: Statement<'_>) -> Result<Vec<AnyRow>, StoreError> {
        let rows = statement.fetch_all(&mut *self.transaction).await;
        rows.map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: sqlx::Error) -> StoreError {
        self.failed = true;
        StoreError::of_database(error)
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("failed", &self.failed).finish_non_exhaustive()
    }
}

macro_rules! derefs {
    ($($kind:ident to $target:ident)*) => {$(
        impl Deref for $kind {
            type Target = $target;

            fn deref(&self) -> &$target {
                &self.0
            }
        }

        impl DerefMut for $kind {
            fn deref_mut(&mut self) -> &mut $target {
                &mut self.0
            }
        }
    )*};
}

derefs!(Writer to Tx Change to Writer Observation to Writer);

/// The columns of a row, typed.
pub(crate) trait Columns {
    fn text(&self, column: &str) -> Result<String, StoreError>;
    fn number(&self, column: &str) -> Result<i64, StoreError>;
    fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError>;
}

impl Columns for AnyRow {
    fn text(&self, column: &str) -> Result<String, StoreError> {
        sqlx::Row::try_get(self, column).map_err(StoreError::of_database)
    }

    fn number(&self, column: &str) -> Result<i64, StoreError> {
        sqlx::Row::try_get(self, column).map_err(StoreError::of_database)
    }

    fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        sqlx::Row::try_get(self, column).map_err(StoreError::of_database)
    }
}
