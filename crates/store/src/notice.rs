//! Word to the other servers on one PostgreSQL: said in the transaction that changes something, heard by all of them
//! once it is committed (`NOTIFY`, `LISTEN`).
//!
//! A hint and nothing more. One that is lost with its connection, or kept back by a pooler in between, costs time
//! only: whoever waits looks into the store by itself too. SQLite has one server, and says nothing.

use std::str::FromStr as _;

use keyward_model::id::NodeId;
use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use crate::{
    Store, StoreError,
    open::{DatabaseKind, WAIT},
    tx::Writer,
};

/// What is desired of a node, or whether it may call, is another thing. Payload: the node's id.
const NODE: &str = "keyward_node";
/// There may be something to do for jobs. Payload: who says so, since a server needs no word of its own.
const JOBS: &str = "keyward_jobs";

/// Something that a server of this store did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A node should look again.
    Node(NodeId),
    /// Jobs should.
    Jobs,
    /// The connection was lost for a while, and whatever was said meanwhile.
    Missed,
}

/// Hears what the servers of this store do.
pub struct Notices {
    listener: PgListener,
    own: String,
}

impl Store {
    /// Begins to listen; `None` where there is no other server to hear of.
    pub async fn notices(&self) -> Result<Option<Notices>, StoreError> {
        let Some(url) = &self.0.listen_url else { return Ok(None) };
        let options = PgConnectOptions::from_str(url).map_err(StoreError::of_opening)?;
        // A connection of its own: those of the pool are lent out. It closes with the listener, not with the store.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WAIT)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options.disable_statement_logging());
        let mut listener = PgListener::connect_with(&pool).await.map_err(StoreError::of_opening)?;
        listener.listen_all([NODE, JOBS]).await.map_err(StoreError::of_database)?;
        Ok(Some(Notices { listener, own: self.0.instance.clone() }))
    }
}

impl Notices {
    /// The next word of a server; of jobs, of another one than this.
    pub async fn next(&mut self) -> Result<Notice, StoreError> {
        loop {
            let heard = self.listener.try_recv().await.map_err(StoreError::of_database)?;
            let Some(heard) = heard else { return Ok(Notice::Missed) };
            match heard.channel() {
                NODE => {
                    if let Ok(node) = heard.payload().parse() {
                        return Ok(Notice::Node(node));
                    }
                }
                _ if heard.payload() != self.own => return Ok(Notice::Jobs),
                _ => {}
            }
        }
    }
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

impl Writer {
    /// Has all servers let the node look again, once this is committed.
    pub async fn tell_node(&mut self, node: NodeId) -> Result<(), StoreError> {
        self.tell(NODE, node.to_string()).await
    }

    /// Has the other servers let their jobs look, once this is committed. Each [`Change`](crate::Change) does.
    pub async fn tell_jobs(&mut self) -> Result<(), StoreError> {
        let own = self.store.0.instance.clone();
        self.tell(JOBS, own).await
    }

    async fn tell(&mut self, channel: &'static str, payload: String) -> Result<(), StoreError> {
        match self.store.0.kind {
            DatabaseKind::Sqlite => Ok(()),
            DatabaseKind::Postgres => {
                let tell = sqlx::query("SELECT pg_notify($1, $2)").bind(channel).bind(payload);
                self.execute(tell).await.map(drop)
            }
        }
    }
}
