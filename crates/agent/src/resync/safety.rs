//! Whether a member may be emptied: what the database itself says of its replica set. Pure.
//!
//! Nothing here believes the server or the agent's own memory. A member's data is deleted only while another
//! member is primary and a majority of the set, without this one, has the data and is up to date.

use crate::engine::database::{Member, ReplicaSet};

/// A member whose last write is older than the primary's by more is not up to date.
const IN_SYNC_MS: i64 = 10_000;

/// Why a member may not be emptied now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// Nobody could fill it again.
    #[error("the replica set `{0}` has no other member: nothing could fill this one again")]
    Alone(String),
    /// It is primary.
    #[error("this member is primary")]
    Primary,
    /// It is neither primary nor secondary.
    #[error("this member is {0}, not SECONDARY")]
    NotSecondary(String),
    /// The set does not know it.
    #[error("the replica set `{0}` does not know this member")]
    Unknown(String),
    /// It is another set than before.
    #[error("the answering member is of the replica set `{found}`, not `{expected}`")]
    OtherSet {
        /// The one that this member was in.
        expected: String,
        /// The one that answered.
        found: String,
    },
    /// Nobody takes writes.
    #[error("no other member is primary")]
    NoPrimary,
    /// It lacks writes that the primary has.
    #[error("this member is not up to date: its last write is {} s older than the primary's", .0 / 1000)]
    Behind(i64),
    /// Too few others have the data.
    #[error("{whole} other voting members have the data and are up to date, and {needed} are needed")]
    NoMajority {
        /// How many have it.
        whole: usize,
        /// A majority of all that vote.
        needed: usize,
    },
}

impl Unsafe {
    /// What to do next.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Alone(_) => {
                "dump it, start an empty encrypted node, restore the dump; or make it a replica set of three first"
            }
            Self::Primary => "let another member take over: rs.stepDown()",
            Self::NotSecondary(_) | Self::Behind(_) => "wait until it is up to date; see rs.status()",
            Self::Unknown(_) | Self::OtherSet { .. } => "see rs.conf(): this member must belong to the set",
            Self::NoPrimary => "mend the replica set first; see rs.status()",
            Self::NoMajority { .. } => {
                "three voting members with data are needed at least (an arbiter has none), and the others must be up \
                 to date; see rs.status()"
            }
        }
    }
}

/// Judges by what the member that is to be emptied says itself.
pub(crate) fn by_own_answer(set: &ReplicaSet) -> Result<(), Unsafe> {
    let own = set.members.iter().find(|member| member.own).ok_or_else(|| unknown(set))?;
    match own.state.as_str() {
        "SECONDARY" => {}
        "PRIMARY" => return Err(Unsafe::Primary),
        other => return Err(Unsafe::NotSecondary(other.to_owned())),
    }
    let primary = others_hold(set, own)?;
    // Without a time nobody can say that it is up to date.
    let behind = lag(primary, own).unwrap_or(i64::MAX);
    if behind > IN_SYNC_MS { Err(Unsafe::Behind(behind)) } else { Ok(()) }
}

/// Judges by what another member says while the one at `own` is stopped. Only a primary's answer counts:
/// `None` for any other's.
pub(crate) fn by_another_answer(set: &ReplicaSet, name: &str, own: &str) -> Option<Result<(), Unsafe>> {
    let answers = set.members.iter().find(|member| member.own)?;
    if answers.state != "PRIMARY" || answers.address == own {
        return None;
    }
    if set.name != name {
        return Some(Err(Unsafe::OtherSet { expected: name.to_owned(), found: set.name.clone() }));
    }
    let Some(member) = set.members.iter().find(|member| member.address == own) else {
        return Some(Err(unknown(set)));
    };
    Some(others_hold(set, member).map(drop))
}

/// The primary, when it is another member than `own` and a majority has the data without `own`.
fn others_hold<'a>(set: &'a ReplicaSet, own: &Member) -> Result<&'a Member, Unsafe> {
    let others = || set.members.iter().filter(|member| member.address != own.address);
    if others().next().is_none() {
        return Err(Unsafe::Alone(set.name.clone()));
    }
    let primary = others().find(|member| member.healthy && member.state == "PRIMARY");
    let primary = primary.ok_or(Unsafe::NoPrimary)?;
    let has_data = |member: &&Member| {
        member.healthy
            && member.votes
            && matches!(member.state.as_str(), "PRIMARY" | "SECONDARY")
            && lag(primary, member).is_some_and(|ms| ms <= IN_SYNC_MS)
    };
    let whole = others().filter(has_data).count();
    let needed = set.members.iter().filter(|member| member.votes).count() / 2 + 1;
    if whole < needed { Err(Unsafe::NoMajority { whole, needed }) } else { Ok(primary) }
}

/// How much older a member's last write is than the primary's; `None` where either does not say.
fn lag(primary: &Member, member: &Member) -> Option<i64> {
    Some(primary.written_ms?.saturating_sub(member.written_ms?))
}

fn unknown(set: &ReplicaSet) -> Unsafe {
    Unsafe::Unknown(set.name.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(n: usize, state: &str) -> Member {
        Member {
            address: format!("m{n}:1"),
            own: false,
            healthy: true,
            state: state.to_owned(),
            votes: true,
            written_ms: Some(1_000_000),
        }
    }

    /// Members in these states; the first one is asked.
    fn set(states: &[&str]) -> ReplicaSet {
        let mut members: Vec<Member> = states.iter().enumerate().map(|(n, state)| member(n, state)).collect();
        members[0].own = true;
        ReplicaSet { name: "rs".to_owned(), members }
    }

    fn with(states: &[&str], change: impl FnOnce(&mut Vec<Member>)) -> Result<(), Unsafe> {
        let mut set = set(states);
        change(&mut set.members);
        by_own_answer(&set)
    }

    #[test]
    fn a_secondary_of_a_whole_set_may_be_emptied() {
        assert_eq!(with(&["SECONDARY", "PRIMARY", "SECONDARY"], |_| {}), Ok(()));
        let five = ["SECONDARY", "SECONDARY", "PRIMARY", "SECONDARY", "SECONDARY"];
        assert_eq!(with(&five, |_| {}), Ok(()));
        assert_eq!(with(&five, |all| all[4].healthy = false), Ok(()));
    }

    #[test]
    fn a_set_of_one_and_a_set_of_two_are_never_emptied() {
        assert_eq!(with(&["SECONDARY"], |_| {}), Err(Unsafe::Alone("rs".to_owned())));
        assert_eq!(with(&["PRIMARY"], |_| {}), Err(Unsafe::Primary));
        let two = with(&["SECONDARY", "PRIMARY"], |_| {});
        assert_eq!(two, Err(Unsafe::NoMajority { whole: 1, needed: 2 }));
    }

    #[test]
    fn a_primary_or_one_that_is_not_ready_is_never_emptied() {
        assert_eq!(with(&["PRIMARY", "SECONDARY", "SECONDARY"], |_| {}), Err(Unsafe::Primary));
        for state in ["STARTUP2", "RECOVERING", "ROLLBACK", "REMOVED", "ARBITER", ""] {
            let found = with(&[state, "PRIMARY", "SECONDARY"], |_| {});
            assert_eq!(found, Err(Unsafe::NotSecondary(state.to_owned())));
        }
        let unknown = with(&["SECONDARY", "PRIMARY", "SECONDARY"], |all| all[0].own = false);
        assert_eq!(unknown, Err(Unsafe::Unknown("rs".to_owned())));
    }

    #[test]
    fn without_another_primary_nobody_is_emptied() {
        assert_eq!(with(&["SECONDARY", "SECONDARY", "SECONDARY"], |_| {}), Err(Unsafe::NoPrimary));
        let down = with(&["SECONDARY", "PRIMARY", "SECONDARY"], |all| all[1].healthy = false);
        assert_eq!(down, Err(Unsafe::NoPrimary));
    }

    #[test]
    fn a_majority_without_it_must_have_the_data() {
        let few = Err(Unsafe::NoMajority { whole: 1, needed: 2 });
        let three = ["SECONDARY", "PRIMARY", "SECONDARY"];
        assert_eq!(with(&three, |all| all[2].healthy = false), few);
        assert_eq!(with(&three, |all| all[2].state = "STARTUP2".to_owned()), few);
        assert_eq!(with(&three, |all| all[2].votes = false), few, "its vote is missing");
        assert_eq!(with(&three, |all| all[2].written_ms = Some(989_999)), few, "it lacks writes");
        assert_eq!(with(&three, |all| all[2].written_ms = None), few, "it does not say");
        assert_eq!(with(&["SECONDARY", "PRIMARY", "ARBITER"], |_| {}), few, "an arbiter has no data");
    }

    #[test]
    fn one_that_is_not_up_to_date_is_not_emptied() {
        let three = ["SECONDARY", "PRIMARY", "SECONDARY"];
        assert_eq!(with(&three, |all| all[0].written_ms = Some(990_000)), Ok(()));
        assert_eq!(with(&three, |all| all[0].written_ms = Some(989_999)), Err(Unsafe::Behind(10_001)));
        assert_eq!(with(&three, |all| all[0].written_ms = None), Err(Unsafe::Behind(i64::MAX)));
    }

    #[test]
    fn while_it_is_stopped_only_the_primary_is_believed() {
        let mut seen = set(&["PRIMARY", "SECONDARY", "(not reachable/healthy)"]);
        (seen.members[2].healthy, seen.members[2].written_ms) = (false, None);
        assert_eq!(by_another_answer(&seen, "rs", "m2:1"), Some(Ok(())));
        assert_eq!(by_another_answer(&seen, "rs", "m0:1"), None, "it is the member itself");
        let gone = by_another_answer(&seen, "rs", "m9:1");
        assert_eq!(gone, Some(Err(Unsafe::Unknown("rs".to_owned()))));
        let other = by_another_answer(&seen, "other", "m2:1");
        assert!(matches!(other, Some(Err(Unsafe::OtherSet { .. }))), "{other:?}");
        seen.members[1].healthy = false;
        let few = Some(Err(Unsafe::NoMajority { whole: 1, needed: 2 }));
        assert_eq!(by_another_answer(&seen, "rs", "m2:1"), few);
        assert_eq!(by_another_answer(&set(&["SECONDARY", "PRIMARY", "DOWN"]), "rs", "m2:1"), None);
    }

    fn some_member() -> impl Strategy<Value = Member> {
        let states = prop_oneof![
            3 => Just("SECONDARY"), 2 => Just("PRIMARY"), 1 => Just("STARTUP2"), 1 => Just("ARBITER"),
        ];
        let written = proptest::option::weighted(0.9, prop_oneof![Just(1_000_000), Just(980_000)]);
        (states, prop::bool::weighted(0.8), prop::bool::weighted(0.9), written).prop_map(
            |(state, healthy, votes, written_ms)| Member {
                address: String::new(),
                own: false,
                healthy,
                state: state.to_owned(),
                votes,
                written_ms,
            },
        )
    }

    proptest! {
        /// Said another way than it is decided: whatever a set looks like, what is left without an emptied
        /// member is a primary and more than half of the votes, all with data.
        #[test]
        fn what_is_left_is_a_majority_with_a_primary(
            members in proptest::collection::vec(some_member(), 1..8),
        ) {
            let mut set = ReplicaSet { name: "rs".to_owned(), members };
            for (n, member) in set.members.iter_mut().enumerate() {
                (member.address, member.own) = (format!("m{n}:1"), n == 0);
            }
            if by_own_answer(&set).is_ok() {
                let left = &set.members[1..];
                prop_assert_eq!(&set.members[0].state, "SECONDARY");
                prop_assert!(left.iter().any(|member| member.healthy && member.state == "PRIMARY"));
                let votes = set.members.iter().filter(|member| member.votes).count();
                let data = left.iter().filter(|member| {
                    member.healthy && member.votes && ["PRIMARY", "SECONDARY"].contains(&&*member.state)
                });
                prop_assert!(data.count() * 2 > votes);
            }
        }
    }
}
