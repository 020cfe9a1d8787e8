//! How many requests are accepted: a token bucket for each project, for each organization, and for what belongs to
//! neither for each caller or, where nobody signs in, address.
//!
//! Kept in memory: each of several servers counts for itself. What is refused before its caller may do it counts
//! elsewhere ([`crate::auth::limit`]).

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use keyward_model::id::{OrgId, ProjectId};
use keyward_store::PrincipalId;
use tokio::time::Instant;

use crate::auth::{Principal, buckets::Buckets, limit::network};

/// What a request counts for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Project(ProjectId),
    Org(OrgId),
    Caller(PrincipalId),
    Network(IpAddr),
}

impl Scope {
    /// The closest that a request has.
    pub(crate) fn of(
        project: Option<ProjectId>,
        org: Option<OrgId>,
        principal: &Principal,
        remote: IpAddr,
    ) -> Self {
        match (project, org, principal.principal_id()) {
            (Some(project), _, _) => Self::Project(project),
            (None, Some(org), _) => Self::Org(org),
            (None, None, Some(caller)) => Self::Caller(caller),
            (None, None, None) => Self::Network(network(remote)),
        }
    }
}

/// What is left after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    limit: u32,
    remaining: u32,
}

impl Allowance {
    /// As an answer tells of it.
    pub(crate) fn headers(self) -> [(HeaderName, HeaderValue); 2] {
        [
            (HeaderName::from_static("ratelimit-limit"), HeaderValue::from(self.limit)),
            (HeaderName::from_static("ratelimit-remaining"), HeaderValue::from(self.remaining)),
        ]
    }
}

/// Counts accepted requests.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_minute: u32,
    began: Instant,
    buckets: Mutex<Buckets<Scope>>,
}

impl RateLimit {
    /// So many requests a minute, and as many at once.
    pub(crate) fn new(per_minute: u32) -> Self {
        let refill_us = 60_000_000 / i64::from(per_minute.max(1));
        Self {
            per_minute,
            began: Instant::now(),
            buckets: Mutex::new(Buckets::new(per_minute.max(1), refill_us.max(1))),
        }
    }

    /// Takes a request in; `Err` has the seconds to wait.
    pub(crate) fn admit(&self, scope: Scope) -> (Allowance, Result<(), u64>) {
        self.admit_after(scope, self.began.elapsed())
    }

    /// The same at a moment, counted from the beginning: no clock that someone sets has a say in this.
    fn admit_after(&self, scope: Scope, since: Duration) -> (Allowance, Result<(), u64>) {
        let now_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = buckets.check(&scope, now_us);
        if admitted.is_ok() {
            buckets.take(scope.clone(), now_us);
        }
        let allowance = Allowance { limit: self.per_minute, remaining: buckets.left(&scope, now_us) };
        (allowance, admitted.map_err(|wait_us| wait_us.unsigned_abs().div_ceil(1_000_000).max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_worth_at_once_and_then_one_by_one() {
        let limit = RateLimit::new(120);
        let project = || Scope::Project(ProjectId::from_bytes([1; 12]));
        let at = Duration::from_millis;
        for remaining in (0..120).rev() {
            let (allowance, admitted) = limit.admit_after(project(), at(0));
            assert_eq!((allowance, admitted), (Allowance { limit: 120, remaining }, Ok(())));
        }
        assert_eq!(limit.admit_after(project(), at(0)), (Allowance { limit: 120, remaining: 0 }, Err(1)));
        assert_eq!(limit.admit_after(project(), at(499)).1, Err(1));
        assert_eq!(limit.admit_after(project(), at(500)).1, Ok(()));
        assert_eq!(limit.admit_after(project(), at(500)).1, Err(1));
        // Nobody else waits for it.
        let other = Scope::Project(ProjectId::from_bytes([2; 12]));
        assert_eq!(limit.admit_after(other, at(0)), (Allowance { limit: 120, remaining: 119 }, Ok(())));
        let rare = RateLimit::new(1);
        assert_eq!(rare.admit_after(project(), at(0)).1, Ok(()));
        assert_eq!(rare.admit_after(project(), at(20_000)).1, Err(40));
    }

    #[test]
    fn a_request_counts_for_the_closest() {
        let (project, org) = (ProjectId::from_bytes([1; 12]), OrgId::from_bytes([2; 12]));
        let (nobody, remote) = (Principal::nobody(), "2001:db8::1".parse().unwrap());
        assert_eq!(Scope::of(Some(project), Some(org), &nobody, remote), Scope::Project(project));
        assert_eq!(Scope::of(None, Some(org), &nobody, remote), Scope::Org(org));
        let of_network = Scope::of(None, None, &nobody, "2001:db8::ffff".parse().unwrap());
        assert_eq!(Scope::of(None, None, &nobody, remote), of_network);
    }
}
