//! Object stores in memory, and what their doubles share: how they are served, what they hold, and a budget after
//! which writes wait.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod blob;
pub(crate) mod s3;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use axum::{Router, body::Bytes, extract::DefaultBodyLimit};
use tokio::sync::watch;

/// Serves `app` on a free port until the test ends.
async fn serve(app: Router) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app.layer(DefaultBodyLimit::disable())).await });
    Ok(address)
}

/// Objects under `BUCKET/KEY`, in the order in which they were completed.
#[derive(Default)]
struct Objects(Vec<(String, Bytes)>);

impl Objects {
    fn put(&mut self, name: String, bytes: Bytes) {
        self.remove(&name);
        self.0.push((name, bytes));
    }

    fn get(&self, name: &str) -> Option<Bytes> {
        self.0.iter().find(|(object, _)| object == name).map(|(_, bytes)| bytes.clone())
    }

    /// Whether there was one.
    fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(object, _)| object != name);
        self.0.len() < before
    }

    /// Key and size of each object of a bucket whose key begins with `prefix`.
    fn list<'a>(&'a self, bucket: &'a str, prefix: &'a str) -> impl Iterator<Item = (&'a str, usize)> {
        self.0.iter().filter_map(move |(object, bytes)| {
            let key = object.strip_prefix(bucket)?.strip_prefix('/')?;
            key.starts_with(prefix).then_some((key, bytes.len()))
        })
    }

    /// Keys of the bucket that tests use.
    fn keys(&self) -> Vec<String> {
        self.list("backups", "").map(|(key, _)| key.to_owned()).collect()
    }
}

/// How much may still be written before the rest waits.
pub(crate) struct Budget {
    /// `None`: all.
    left: watch::Sender<Option<usize>>,
    hanging: watch::Sender<bool>,
}

impl Budget {
    fn unlimited() -> Self {
        Self { left: watch::Sender::new(None), hanging: watch::Sender::new(false) }
    }

    /// Lets `units` more through, then none.
    pub(crate) fn hang_after(&self, units: usize) {
        self.left.send_replace(Some(units));
    }

    /// Waits until a write hangs.
    pub(crate) async fn hanging(&self) {
        self.hanging.subscribe().wait_for(|hangs| *hangs).await.expect("the double lives");
    }

    /// Lets what hangs and all else through.
    pub(crate) fn go_on(&self) {
        self.left.send_replace(None);
    }

    /// Takes `units`, or waits until the budget is lifted.
    async fn spend(&self, units: usize) {
        let mut enough = true;
        self.left.send_if_modified(|left| {
            if let Some(have) = left {
                match have.checked_sub(units) {
                    Some(rest) => *have = rest,
                    None => enough = false,
                }
            }
            false
        });
        if !enough {
            self.hanging.send_replace(true);
            self.left.subscribe().wait_for(Option::is_none).await.expect("the double lives");
        }
    }
}
