//! Syncing: what a node reports is stored, what is desired of it is given, and where nothing is new the answer waits.

use std::time::Duration;

use hyper::body::Incoming;
use keyward_model::{
    NodeState,
    event::{Actor, EventType, NewEvent},
    node::EnrolledNode,
    sync::{AgentRefusalCode, Desired, Observed, SyncAnswer, SyncRequest},
};
use keyward_store::{StoreError, Stored};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    Endpoint,
    answer::{Refused, check_version, json, known, read, shown},
    authority::{Authority, Shown, sha256},
};
use crate::{App, http::listener::Peer};

/// The longest an answer is held back, whatever is asked for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) async fn sync(
    endpoint: &Endpoint,
    peer: &Peer,
    request: http::Request<Incoming>,
) -> Result<Vec<u8>, Refused> {
    let shown = shown(endpoint, peer)?;
    let app = &endpoint.app;
    if !shown.holds(app.now()) {
        return Err(Refused::new(
            AgentRefusalCode::CertificateExpired,
            "the node's certificate does not hold now",
            "nothing has to be done: the agent renews it",
        ));
    }
    let request: SyncRequest = read(request.into_body()).await?;
    check_version(request.version)?;
    // Announced before anything is looked at: a change in between is not missed.
    let wait = app.waiting().announce(shown.node_id);
    let (stored_report, known_report) = take(endpoint, &shown, &request).await?;
    let have = Have { revision: request.have_revision, digest: request.have_digest };
    let until = Instant::now() + Duration::from_secs(request.wait_s.into()).min(LONGEST_WAIT);
    drop(request.observed);
    let mut authority = endpoint.authority.clone();
    loop {
        let renew = renews(&authority.borrow_and_update(), &shown, request.authorities_sha256.as_deref());
        let news = look(endpoint, &shown, &have).await?;
        let ripe = news.is_some() || !known_report || renew;
        let patient = wait.as_ref().filter(|_| !ripe && Instant::now() < until);
        let Some(patient) = patient else {
            let (desired, digest) = news.unzip();
            return json(&SyncAnswer { desired, digest, stored_report, renew });
        };
        tokio::select! {
            () = patient.woken() => {}
            Ok(()) = authority.changed() => {}
            () = tokio::time::sleep_until(until) => {}
            () = app.stop().cancelled() => {
                return json(&SyncAnswer { desired: None, digest: None, stored_report, renew: false });
            }
        }
    }
}

/// Whether the node is to renew although its certificate holds: it is under the former authority, or the node trusts
/// other ones than it should.
fn renews(authority: &Authority, shown: &Shown, trusts: Option<&str>) -> bool {
    authority.above(shown) != Some(authority.sha256())
        || trusts.is_some_and(|trusts| trusts != authority.trusted_sha256())
}

/// What the agent has seen already.
struct Have {
    revision: u64,
    digest: Option<String>,
}

/// Takes the report in; gives the number that is stored, and whether that is the agent's.
async fn take(endpoint: &Endpoint, shown: &Shown, request: &SyncRequest) -> Result<(u64, bool), Refused> {
    let app = &endpoint.app;
    let now = app.now();
    let mut tx = app.store().read().await?;
    let node = known(&mut tx, shown).await?;
    let mut stored = tx.report_number(shown.node_id).await?;
    let mut before = match &request.observed {
        Some(_) => tx.report(shown.node_id).await?,
        None => None,
    };
    drop(tx);
    note_authority(endpoint, shown, &node).await;
    let Some(observed) = &request.observed else {
        endpoint.seen.note(shown.node_id, now);
        return Ok((stored, stored == request.report));
    };
    if observed.node_id != shown.node_id || observed.report != request.report {
        return Err(Refused::new(
            AgentRefusalCode::BadRequest,
            "the report is not of the node that the certificate names, or not of the number given",
            "use a keyward of the server's version",
        ));
    }
    while stored < request.report {
        let told = told(before.as_ref().map(|report| &report.observed), observed);
        if put(app, &node, observed, stored, &told).await? {
            app.nudge().jobs();
            return Ok((request.report, true));
        }
        // Another report came meanwhile, perhaps by another server: this one is compared with that.
        let mut tx = app.store().read().await?;
        stored = tx.report_number(shown.node_id).await?;
        before = tx.report(shown.node_id).await?;
    }
    // Repeated or overtaken: it changes nothing.
    endpoint.seen.note(shown.node_id, now);
    Ok((stored, stored == request.report))
}

/// Notes that the node has shown a certificate of the present authority: then it trusts that one, and needs no other.
async fn note_authority(endpoint: &Endpoint, shown: &Shown, node: &Stored<EnrolledNode>) {
    let authority = endpoint.authority();
    let present = authority.sha256();
    if authority.above(shown) != Some(present) || node.authority.as_deref() == Some(present) {
        return;
    }
    let noted = async {
        let mut observation = endpoint.app.store().observe().await?;
        let seen = EnrolledNode { authority: Some(present.to_owned()), ..node.document.clone() };
        observation.update(&seen, node.revision).await?;
        observation.commit().await
    };
    match noted.await {
        Ok(()) => endpoint.app.nudge().jobs(),
        // The next call notes it.
        Err(error) => tracing::debug!(%error, node = %shown.node_id, "the node's authority was not noted"),
    }
}

/// What a report tells that belongs into the audit log, in order.
fn told(before: Option<&Observed>, now: &Observed) -> Vec<EventType> {
    [news(before, now), needs_approval(before, now)].into_iter().flatten().collect()
}

/// Whether the database was stopped for its customer key, or started again.
fn news(before: Option<&Observed>, now: &Observed) -> Option<EventType> {
    let was = before.map(|before| before.status.state);
    let was_stopped = was == Some(NodeState::StoppedRevoked);
    match now.status.state {
        NodeState::StoppedRevoked => (!was_stopped).then_some(EventType::NodeStoppedRevoked),
        NodeState::Starting | NodeState::Running => was_stopped.then_some(EventType::NodeStartedAgain),
        NodeState::WaitingForCustomerKey | NodeState::Stopped | NodeState::Failed => None,
    }
}

/// Whether something waits for the node's host that did not before.
fn needs_approval(before: Option<&Observed>, now: &Observed) -> Option<EventType> {
    let waits = |observed: &Observed, approval: &str| {
        observed
            .held_back
            .iter()
            .any(|held| held.needs_approval && held.approval.as_deref() == Some(approval))
    };
    let mut asked =
        now.held_back.iter().filter(|held| held.needs_approval).filter_map(|held| held.approval.as_deref());
    let new = asked.any(|approval| !before.is_some_and(|before| waits(before, approval)));
    new.then_some(EventType::NodeApprovalNeeded)
}

/// Stores a report in the place of report `former`, together with the events of what it tells; whether that one was
/// still there.
async fn put(
    app: &App,
    node: &EnrolledNode,
    observed: &Observed,
    former: u64,
    told: &[EventType],
) -> Result<bool, StoreError> {
    let now = app.now();
    let Some((last, others)) = told.split_last() else {
        let mut observation = app.store().observe().await?;
        let put = observation.put_report_after(former, observed, now).await?;
        observation.commit().await?;
        return Ok(put);
    };
    let mut change = app.store().change().await?;
    if change.report_number(node.node_id).await? != former
        || !change.put_report_after(former, observed, now).await?
    {
        return Ok(false);
    }
    for kind in others {
        change.also(event(node, observed, *kind), now).await?;
    }
    change.commit(event(node, observed, *last), now).await?;
    Ok(true)
}

fn event(node: &EnrolledNode, observed: &Observed, kind: EventType) -> NewEvent {
    let mut event = NewEvent::new(kind, Actor::Node { id: node.node_id, name: node.name.clone() });
    if kind == EventType::NodeStoppedRevoked {
        event = event.detail("reason", observed.status.reason.clone());
    }
    if kind == EventType::NodeApprovalNeeded {
        let waiting = observed.held_back.iter().filter(|held| held.needs_approval);
        let waiting: Vec<&str> = waiting.filter_map(|held| held.approval.as_deref()).collect();
        event = event.detail("approvals", waiting.join(", "));
    }
    event
}

/// What is desired, unless the agent has seen it.
async fn look(endpoint: &Endpoint, shown: &Shown, have: &Have) -> Result<Option<(Desired, String)>, Refused> {
    let mut tx = endpoint.app.store().read().await?;
    // A node may have been revoked while it waited.
    known(&mut tx, shown).await?;
    let Some(desired) = tx.desired(shown.node_id).await? else { return Ok(None) };
    let unnumbered = Desired { revision: 0, ..desired.clone() };
    let digest = sha256(&Zeroizing::new(json(&unnumbered)?));
    let seen = desired.revision == have.revision && have.digest.as_ref() == Some(&digest);
    Ok((!seen).then_some((desired, digest)))
}
