//! What the agent asks of a member about its replica set: who is there, and to hand over or to end.

use std::{sync::Arc, time::Duration};

use bson::{Bson, Document, doc};
use tokio::time::Instant;

use super::{Database, DatabaseError, Failure, Place};

/// How long a former primary may not become primary again.
const STAND_BACK_S: i32 = 60;
/// How long the primary waits for a secondary to catch up before it refuses to hand over.
const CATCH_UP_S: i32 = 10;
/// How long another primary may take to be known after that.
const ELECTION: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(250);

/// A replica set as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSet {
    /// Its name.
    pub name: String,
    /// Its members.
    pub members: Vec<Member>,
}

/// A member of a replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `host:port`, as the set's configuration has it.
    pub address: String,
    /// Whether it is the one that was asked.
    pub own: bool,
    /// Whether it answers.
    pub healthy: bool,
    /// `PRIMARY`, `SECONDARY`, …
    pub state: String,
    /// Whether it has a vote.
    pub votes: bool,
    /// When the last write that it has was made, by the primary's clock.
    pub written_ms: Option<i64>,
}

impl Database {
    /// The replica set as this member sees it.
    ///
    /// # Errors
    /// It is in none, may not say, or does not answer.
    pub async fn replica_set(&self) -> Result<ReplicaSet, DatabaseError> {
        let status = self.run("admin", "replSetGetStatus", doc! { "replSetGetStatus": 1 }).await?;
        let config = self.run("admin", "replSetGetConfig", doc! { "replSetGetConfig": 1 }).await?;
        read(&status, &config).ok_or(DatabaseError::Unclear { command: "replSetGetStatus" })
    }

    /// Has a primary hand over to another member and waits until there is one. Nothing to do for others.
    ///
    /// # Errors
    /// No secondary can take over, or the member does not answer.
    pub async fn step_down(&self) -> Result<(), DatabaseError> {
        if !self.is_primary().await?.0 {
            return Ok(());
        }
        let command = doc! { "replSetStepDown": STAND_BACK_S, "secondaryCatchUpPeriodSecs": CATCH_UP_S };
        match self.run("admin", "replSetStepDown", command).await {
            Ok(_) => {}
            Err(DatabaseError::Command { source, .. }) if matches!(*source, Failure::Refused { .. }) => {
                return Err(DatabaseError::NoSuccessor(source));
            }
            // Members may close their connections over it: what it says afterwards counts.
            Err(error) => tracing::debug!("replSetStepDown: {}", crate::node::chain(&error)),
        }
        let deadline = Instant::now() + ELECTION;
        loop {
            let (primary, another) = self.is_primary().await?;
            if !primary && (another || Instant::now() > deadline) {
                return Ok(());
            }
            if primary && Instant::now() > deadline {
                return Err(DatabaseError::StillPrimary);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks the member to end cleanly. That it closes the connection over it is its answer.
    ///
    /// # Errors
    /// It refuses.
    pub async fn shut_down(&self) -> Result<(), DatabaseError> {
        match self.run("admin", "shutdown", doc! { "shutdown": 1 }).await {
            Err(error) if error.is_answer() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The same agent's user on another member of the set.
    pub fn of_member(&self, address: &str) -> Option<Self> {
        let (host, port) = host_and_port(address)?;
        let place = Place { host, port, own: false, ..self.place.clone() };
        Some(Self { kind: self.kind, place, kept: Arc::default() })
    }

    /// Whether it is primary, and whether it knows another one.
    async fn is_primary(&self) -> Result<(bool, bool), DatabaseError> {
        let hello = self.run("admin", "hello", doc! { "hello": 1 }).await?;
        let primary = hello.get_bool("isWritablePrimary").unwrap_or(false);
        let named = hello.get_str("primary").ok().filter(|name| !name.is_empty());
        let own = hello.get_str("me").ok();
        Ok((primary, named.is_some() && named != own))
    }
}

/// `host:port`, `[address]:port`, or a host alone, as a set's configuration names its members.
fn host_and_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(27_017), |port| port.parse().ok())?;
    (!host.is_empty() && !host.starts_with('/')).then(|| (host.to_owned(), port))
}

/// `None` when it is not what a member answers.
fn read(status: &Document, config: &Document) -> Option<ReplicaSet> {
    let config = config.get_document("config").ok()?;
    let votes = |address: &str| {
        let mut members = config.get_array("members").ok()?.iter().filter_map(Bson::as_document);
        let found = members.find(|member| member.get_str("host").is_ok_and(|host| host == address))?;
        Some(number(found, "votes").unwrap_or(1) > 0)
    };
    let members = status.get_array("members").ok()?;
    let members: Option<Vec<Member>> = members
        .iter()
        .map(|member| {
            let member = member.as_document()?;
            let address = member.get_str("name").ok()?.to_owned();
            Some(Member {
                own: member.get_bool("self").unwrap_or(false),
                healthy: number(member, "health")? == 1,
                state: member.get_str("stateStr").ok()?.to_owned(),
                // One that the configuration does not know is on its way out, or in: it counts as one that
                // votes.
                votes: votes(&address).unwrap_or(true),
                written_ms: member.get_datetime("optimeDate").ok().map(|at| at.timestamp_millis()),
                address,
            })
        })
        .collect();
    Some(ReplicaSet { name: status.get_str("set").ok()?.to_owned(), members: members? })
}

/// A whole number, in whatever type it came.
fn number(document: &Document, name: &str) -> Option<i64> {
    let value = document.get(name)?;
    #[expect(clippy::cast_possible_truncation, reason = "small numbers only")]
    let whole = |n: f64| n as i64;
    value.as_i64().or_else(|| value.as_i32().map(i64::from)).or_else(|| value.as_f64().map(whole))
}

#[cfg(test)]
mod tests {
    use bson::DateTime;

    use super::*;

    #[test]
    fn the_address_of_a_member_is_taken_apart() {
        let of = |address| host_and_port(address);
        assert_eq!(of("db1.example.net:27018"), Some(("db1.example.net".to_owned(), 27018)));
        assert_eq!(of("db1"), Some(("db1".to_owned(), 27017)));
        assert_eq!(of("[::1]:27018"), Some(("::1".to_owned(), 27018)));
        assert_eq!(of("[::1]"), Some(("::1".to_owned(), 27017)));
        for wrong in ["", ":1", "db1:x", "db1:70000", "[::1:1", "/tmp/mongodb.sock"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_members_answer_becomes_a_set() {
        let at = DateTime::from_millis(1_000);
        let status = doc! { "set": "rs", "members": [
            { "_id": 0, "name": "a:1", "health": 1.0, "state": 1, "stateStr": "PRIMARY", "optimeDate": at },
            { "_id": 1, "name": "b:1", "health": 1, "state": 2, "stateStr": "SECONDARY", "optimeDate": at,
              "self": true },
            { "_id": 2, "name": "c:1", "health": 0.0, "state": 8, "stateStr": "(not reachable/healthy)" },
        ]};
        let config = doc! { "config": { "_id": "rs", "members": [
            { "_id": 0, "host": "a:1", "votes": 1 }, { "_id": 1, "host": "b:1", "votes": 0_i64 },
            { "_id": 2, "host": "c:1", "votes": 1.0 },
        ]}};
        let set = read(&status, &config).unwrap();
        let found: Vec<_> =
            set.members.iter().map(|m| (m.own, m.healthy, m.votes, m.written_ms, m.state.as_str())).collect();
        assert_eq!(set.name, "rs");
        assert_eq!(
            found,
            [
                (false, true, true, Some(1_000), "PRIMARY"),
                (true, true, false, Some(1_000), "SECONDARY"),
                (false, false, true, None, "(not reachable/healthy)"),
            ]
        );
        assert_eq!(read(&doc! { "ok": 1 }, &config), None);
        assert_eq!(read(&status, &doc! {}), None);
        let odd = doc! { "set": "rs", "members": [{ "name": "a:1", "stateStr": "PRIMARY" }] };
        assert_eq!(read(&odd, &config), None, "a member without health");
    }
}
