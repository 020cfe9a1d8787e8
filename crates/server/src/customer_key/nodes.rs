//! Whether nodes can follow to another customer key while the current one cannot be reached. Pure.
//!
//! A node moves its master key under another customer key when its agent holds the master key, or when the other
//! customer key is the same RSA key under another name (moved by vault backup and restore): then it can unwrap what
//! it has.

use keyward_model::{Timestamp, sync::Observed};

/// A report is believed to be the present for this long, in milliseconds.
pub const FRESH_MS: i64 = 2 * 60 * 1000;

/// A node with a master key, as its last report has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Whether its agent held the master key.
    pub holds_master_key: bool,
    /// When the server heard of it last.
    pub heard_at: Timestamp,
    /// SHA-256 of the public keys that its master key is wrapped under.
    pub public_keys: Vec<String>,
}

impl NodeView {
    /// From a report; `None` when the node has no wrapped master key, so that nothing of it can be lost.
    pub fn of(name: &str, observed: &Observed, heard_at: Timestamp) -> Option<Self> {
        if observed.wraps.is_empty() {
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            holds_master_key: observed.status.master_key_held,
            heard_at,
            public_keys: observed.wraps.iter().map(|wrap| wrap.public_key_sha256.clone()).collect(),
        })
    }

    fn can_follow(&self, public_key_sha256: Option<&str>, now: Timestamp) -> bool {
        let age_ms = now.epoch_ms().saturating_sub(self.heard_at.epoch_ms());
        let same_key = public_key_sha256.is_some_and(|key| {
            !key.is_empty() && self.public_keys.iter().any(|known| known.eq_ignore_ascii_case(key))
        });
        same_key || (self.holds_master_key && age_ms <= FRESH_MS)
    }
}

/// The names of the nodes that could not follow to a key with this public key.
pub fn left_behind(nodes: &[NodeView], public_key_sha256: Option<&str>, now: Timestamp) -> Vec<String> {
    nodes
        .iter()
        .filter(|node| !node.can_follow(public_key_sha256, now))
        .map(|node| node.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_epoch_ms(1_790_000_000_000 + ms)
    }

    fn node(name: &str, holds_master_key: bool, heard_ms: i64) -> NodeView {
        NodeView {
            name: name.into(),
            holds_master_key,
            heard_at: at(heard_ms),
            public_keys: vec!["aa".into(), "bb".into()],
        }
    }

    #[test]
    fn who_holds_its_master_key_and_said_so_just_now_can_follow() {
        let nodes = [node("n1", true, 0), node("n2", true, -FRESH_MS), node("n3", true, -FRESH_MS - 1)];
        assert_eq!(left_behind(&nodes, None, at(0)), ["n3"]);
        assert_eq!(left_behind(&nodes, Some("cc"), at(0)), ["n3"]);
    }

    #[test]
    fn the_same_key_under_another_name_takes_everyone_along() {
        let nodes = [node("n1", false, -1_000_000_000), node("n2", true, 0)];
        assert_eq!(left_behind(&nodes, Some("BB"), at(0)), [""; 0]);
        assert_eq!(left_behind(&nodes, Some(""), at(0)), ["n1"]);
        assert_eq!(left_behind(&nodes, None, at(0)), ["n1"]);
        assert_eq!(left_behind(&[], None, at(0)), [""; 0]);
    }
}
