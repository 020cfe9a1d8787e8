//! The authority that agents trust a server by: when it is replaced, and when the one before it is let go.
//!
//! Between the two lies the overlap. In it nothing is issued by the former authority any more, but both are trusted,
//! so that a node that was away finds back by itself.

use crate::{
    Timestamp,
    node::{EnrolledNode, JoinToken},
};

/// How long an authority is used until the server replaces it by itself, in milliseconds: five years. The dates in its
/// certificate say nothing of it, since no host's wrong clock may cut a node off.
pub const LIFE_MS: i64 = 5 * 365 * 86_400_000;

/// Whether the authority made at `made_at` is to be replaced. One without a date is not replaced by itself.
pub fn replacement_due(now: Timestamp, made_at: Option<Timestamp>) -> bool {
    made_at.is_some_and(|made| now.epoch_ms().saturating_sub(made.epoch_ms()) >= LIFE_MS)
}

/// Who would not find back without the former authority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders<'n> {
    /// Nodes that have not shown a certificate of the `present` one.
    pub nodes: Vec<&'n EnrolledNode>,
    /// How many join tokens may name it and have not expired: also a used one, whose answer may have been lost.
    pub join_tokens: usize,
}

impl<'n> Holders<'n> {
    /// Those among `nodes` and `tokens`, where `present` (its SHA-256) has replaced another authority at `replaced_at`.
    pub fn of(
        nodes: impl IntoIterator<Item = &'n EnrolledNode>,
        tokens: impl IntoIterator<Item = &'n JoinToken>,
        present: &str,
        replaced_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        let holds =
            |node: &&EnrolledNode| node.revoked_at.is_none() && node.authority.as_deref() != Some(present);
        let names = |token: &&JoinToken| token.created_at <= replaced_at && now < token.expires_at;
        Self {
            nodes: nodes.into_iter().filter(holds).collect(),
            join_tokens: tokens.into_iter().filter(names).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{JoinTokenId, NodeId, ProjectId},
        node::JoinTokenUse,
    };

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_epoch_ms(ms)
    }

    fn node(n: u128, authority: Option<&str>, revoked: bool) -> EnrolledNode {
        EnrolledNode {
            node_id: NodeId(uuid::Uuid::from_u128(n)),
            project: ProjectId::from_bytes([1; 12]),
            name: format!("n{n}"),
            hostname: "h".into(),
            cluster: None,
            public_key_sha256: "k".into(),
            enrolled_at: at(0),
            revoked_at: revoked.then(|| at(1)),
            silent_since: None,
            authority: authority.map(str::to_owned),
        }
    }

    #[test]
    fn an_authority_is_replaced_after_five_years_and_one_without_a_date_is_not() {
        assert!(!replacement_due(at(LIFE_MS - 1), Some(at(0))));
        assert!(replacement_due(at(LIFE_MS), Some(at(0))));
        assert!(!replacement_due(at(0), Some(at(LIFE_MS))), "a clock that was set back");
        assert!(!replacement_due(at(i64::MAX / 2), None));
    }

    #[test]
    fn the_former_one_is_held_by_whoever_has_not_shown_the_new_one() {
        let all_nodes = [
            node(1, Some("new"), false),
            node(2, Some("old"), false),
            node(3, None, false),
            node(4, Some("old"), true),
        ];
        let token = |created: i64, used: bool| JoinToken {
            id: JoinTokenId::from_bytes([7; 12]),
            project: ProjectId::from_bytes([1; 12]),
            name: None,
            secret_sha256: String::new(),
            created_at: at(created),
            expires_at: at(created + 1_000),
            used: used.then(|| JoinTokenUse {
                node_id: NodeId(uuid::Uuid::from_u128(1)),
                public_key_sha256: "k".into(),
                at: at(created),
            }),
        };
        let all_tokens = [token(400, false), token(500, true), token(501, false)];
        let held = |from: usize, to: usize, tokens: usize, now| {
            Holders::of(&all_nodes[from..to], &all_tokens[..tokens], "new", at(500), at(now))
        };
        let all = held(0, 4, 3, 600);
        assert_eq!(all.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n2", "n3"]);
        assert_eq!(all.join_tokens, 2, "the third was made by the new one");
        assert_eq!(held(0, 1, 3, 1_400).join_tokens, 1);
        assert_eq!(held(0, 1, 3, 1_500), Holders::default());
        assert_eq!(held(3, 4, 0, 600), Holders::default(), "a revoked node finds back by a token");
    }
}
