//! Nodes whose calls wait for something new.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keyward_model::id::NodeId;
use tokio::sync::Notify;

/// Calls that wait at once, at most; further ones are answered at once.
const MOST: usize = 20_000;

/// Nodes whose calls wait for something new. One small entry each.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<HashMap<NodeId, Vec<Arc<Notify>>>>);

/// A call that waits; made before the store is looked at, so that nothing is missed.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    waiting: &'a Waiting,
    node: NodeId,
    woken: Arc<Notify>,
}

impl Waiting {
    /// Lets the node's waiting call look again.
    pub fn wake(&self, node: NodeId) {
        for woken in self.lock().get(&node).into_iter().flatten() {
            woken.notify_one();
        }
    }

    /// How many nodes wait.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Announces a call that may wait; `None` when too many do.
    pub(super) fn announce(&self, node: NodeId) -> Option<Wait<'_>> {
        let woken = Arc::new(Notify::new());
        let mut waiting = self.lock();
        if waiting.len() >= MOST && !waiting.contains_key(&node) {
            return None;
        }
        waiting.entry(node).or_insert_with(|| Vec::with_capacity(1)).push(Arc::clone(&woken));
        drop(waiting);
        Some(Wait { waiting: self, node, woken })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Vec<Arc<Notify>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait<'_> {
    /// Returns when the node was woken since the announcement.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock();
        if let Some(calls) = waiting.get_mut(&self.node) {
            calls.retain(|woken| !Arc::ptr_eq(woken, &self.woken));
            if calls.is_empty() {
                waiting.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_between_announcement_and_wait_is_not_lost_and_nothing_stays() {
        let waiting = Waiting::default();
        let (node, other) = (NodeId(uuid::Uuid::from_u128(1)), NodeId(uuid::Uuid::from_u128(2)));
        let wait = waiting.announce(node).unwrap();
        let second = waiting.announce(node).unwrap();
        waiting.wake(other);
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(20), wait.woken()).await;
        assert!(quiet.is_err(), "another node's wake is not ours");
        waiting.wake(node);
        wait.woken().await;
        second.woken().await;
        drop((wait, second));
        assert_eq!(waiting.count(), 0);
        assert!(waiting.0.lock().unwrap().is_empty());
    }
}
