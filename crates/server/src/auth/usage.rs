//! When secrets and entries of access lists were used last: counted in memory, written to the store at most once a
//! minute for each.
//!
//! What is counted and not yet written when a server is killed is lost: it tells an owner which entries are needed,
//! and decides nothing.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use keyward_model::{Timestamp, access_list::Network, id::SecretId};
use keyward_store::{PrincipalId, StoreError, Used};

use crate::App;

/// The same entry is written this often at most, in milliseconds.
const INTERVAL_MS: i64 = 60_000;
/// Most entries that are counted; what comes beside them is not.
const MOST: usize = 50_000;

/// The store's name of a network of an access list.
pub fn network_entry(network: &Network) -> String {
    format!("network:{network}")
}

/// The store's name of a secret.
pub fn secret_entry(id: SecretId) -> String {
    format!("secret:{id}")
}

/// Notes that `principal` used `entry`. Never in the way of a request: what cannot be written is counted again.
pub(crate) async fn record(app: &App, principal: &PrincipalId, entry: String, remote: IpAddr) {
    let of = (principal.clone(), entry);
    if let Some(used) = app.usage().note(of.clone(), remote, app.now()) {
        write(app, vec![(of, used)]).await;
    }
}

/// Writes what is due; with `all`, everything.
pub(crate) async fn flush(app: &App, all: bool) {
    let due = app.usage().due(app.now(), all);
    if !due.is_empty() {
        write(app, due).await;
    }
}

type Of = (PrincipalId, String);

async fn write(app: &App, entries: Vec<(Of, Used)>) {
    let written = async {
        let mut observation = app.store().observe().await?;
        for ((principal, entry), used) in &entries {
            observation.add_usage(principal, entry, used).await?;
        }
        observation.commit().await
    };
    if let Err::<(), StoreError>(error) = written.await {
        tracing::debug!(%error, "when something was used last is written later");
        app.usage().put_back(entries);
    }
}

/// Counts uses.
#[derive(Debug, Default)]
pub struct Usage(Mutex<HashMap<Of, Counted>>);

#[derive(Debug, Clone)]
struct Counted {
    requests: u64,
    last_at: Timestamp,
    last_address: IpAddr,
    written_at: Option<Timestamp>,
}

impl Counted {
    fn is_due(&self, now: Timestamp) -> bool {
        let Some(written_at) = self.written_at else { return true };
        // A clock that was set back keeps nothing waiting.
        !(0..INTERVAL_MS).contains(&now.epoch_ms().saturating_sub(written_at.epoch_ms()))
    }

    fn taken(&mut self, now: Timestamp) -> Used {
        let used = Used {
            requests: std::mem::take(&mut self.requests),
            last_at: self.last_at,
            last_address: self.last_address.to_string(),
        };
        self.written_at = Some(now);
        used
    }
}

impl Usage {
    /// Counts a use; what is to be written now, if it is time.
    fn note(&self, of: Of, address: IpAddr, now: Timestamp) -> Option<Used> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST && !all.contains_key(&of) {
            return None;
        }
        let counted = all.entry(of).or_insert(Counted {
            requests: 0,
            last_at: now,
            last_address: address,
            written_at: None,
        });
        counted.requests += 1;
        (counted.last_at, counted.last_address) = (now, address);
        counted.is_due(now).then(|| counted.taken(now))
    }

    /// What is to be written now. Forgets what has been quiet for so long that nothing is left to write.
    fn due(&self, now: Timestamp, all_of_it: bool) -> Vec<(Of, Used)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, counted| counted.requests > 0 || !counted.is_due(now));
        all.iter_mut()
            .filter(|(_, counted)| counted.requests > 0 && (all_of_it || counted.is_due(now)))
            .map(|(of, counted)| (of.clone(), counted.taken(now)))
            .collect()
    }

    /// Counts again what could not be written.
    fn put_back(&self, entries: Vec<(Of, Used)>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (of, used) in entries {
            if let Some(counted) = all.get_mut(&of) {
                counted.requests += used.requests;
            }
        }
    }

    /// Forgets an entry that is no more.
    pub(crate) fn forget(&self, principal: &PrincipalId, entry: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&(principal.clone(), entry.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_epoch_ms(1_790_000_000_000 + ms)
    }

    fn of(name: &str) -> Of {
        (PrincipalId::ServiceAccount("robot".into()), name.to_owned())
    }

    fn used(requests: u64, ms: i64) -> Used {
        Used { requests, last_at: at(ms), last_address: HERE.to_string() }
    }

    #[test]
    fn the_first_use_is_written_at_once_and_then_one_a_minute() {
        let usage = Usage::default();
        assert_eq!(usage.note(of("a"), HERE, at(0)), Some(used(1, 0)));
        for ms in 1..=100 {
            assert_eq!(usage.note(of("a"), HERE, at(ms)), None);
        }
        assert!(usage.due(at(59_999), false).is_empty());
        assert_eq!(usage.due(at(60_000), false), [(of("a"), used(100, 100))]);
        assert_eq!(usage.note(of("a"), HERE, at(60_001)), None);
        assert_eq!(usage.note(of("a"), HERE, at(120_000)), Some(used(2, 120_000)));
        assert_eq!(usage.note(of("b"), HERE, at(120_000)), Some(used(1, 120_000)));
        // At its end a server writes what it has.
        assert_eq!(usage.note(of("b"), HERE, at(120_001)), None);
        assert_eq!(usage.due(at(120_002), true), [(of("b"), used(1, 120_001))]);
    }

    #[test]
    fn nothing_is_lost_and_nothing_piles_up() {
        let usage = Usage::default();
        let first = usage.note(of("a"), HERE, at(0)).unwrap();
        usage.put_back(vec![(of("a"), first)]);
        assert_eq!(usage.due(at(60_000), false), [(of("a"), used(1, 0))]);
        assert!(usage.due(at(200_000), false).is_empty());
        assert!(usage.0.lock().unwrap().is_empty(), "what is written and quiet is forgotten");
        usage.note(of("a"), HERE, at(200_000));
        usage.note(of("a"), HERE, at(200_001));
        assert_eq!(usage.due(at(-5_000_000), false).len(), 1, "a clock that was set back");
        usage.forget(&of("a").0, "a");
        assert!(usage.0.lock().unwrap().is_empty());
        for index in 0..(MOST + 10) {
            usage.note(of(&index.to_string()), HERE, at(0));
        }
        assert_eq!(usage.0.lock().unwrap().len(), MOST);
    }
}
