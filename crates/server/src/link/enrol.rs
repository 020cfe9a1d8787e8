//! Joining and renewing: who gets a certificate.

use hyper::body::Incoming;
use keyward_model::{
    Timestamp,
    event::{Actor, EventType, NewEvent},
    node::{EnrolledNode, JoinOutcome, JoinRefusal, JoinText, JoinToken, JoinTokenUse},
    sync::{AgentRefusalCode, Enrolled, Enrolment},
};
use subtle::ConstantTimeEq as _;

use super::{
    Endpoint,
    answer::{Refused, check_version, json, known, read, shown},
    authority::{Authority, Request, sha256},
};
use crate::http::listener::Peer;

/// Names of nodes and hosts are cut to this many characters.
const LONGEST_NAME: usize = 128;

/// A node joins with a token.
pub(super) async fn enrol(
    endpoint: &Endpoint,
    peer: &Peer,
    request: http::Request<Incoming>,
) -> Result<Vec<u8>, Refused> {
    let app = &endpoint.app;
    let now = app.now();
    let address = peer.address.ip();
    let bearer = request
        .headers()
        .get(http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default()
        .to_owned();
    app.limits().may_try(address, now).map_err(|wait_s| {
        let hint = format!("wait {wait_s} s, then join again");
        Refused::new(AgentRefusalCode::TooMany, "too many join tokens were refused from this address", hint)
    })?;
    let outcome = admit(endpoint, &bearer, request.into_body()).await;
    if let Err(Refused(refusal)) = &outcome
        && refusal.code == AgentRefusalCode::TokenRefused
    {
        tracing::warn!(%address, "a join token was refused: {}", refusal.message);
        // Without a name only the address is counted.
        _ = app.limits().refused(address, None, now);
    }
    outcome
}

async fn admit(endpoint: &Endpoint, bearer: &str, body: Incoming) -> Result<Vec<u8>, Refused> {
    let app = &endpoint.app;
    // The token first: who has none learns nothing of what else would be wrong.
    let unknown = || token("this join token is not known");
    let (id, _) = JoinText::id_and_random(bearer).ok_or_else(unknown)?;
    let found = app.store().read().await?.get::<JoinToken>(id).await?.ok_or_else(unknown)?;
    let digest = sha256(bearer.as_bytes());
    if !bool::from(digest.as_bytes().ct_eq(found.secret_sha256.as_bytes())) {
        return Err(unknown());
    }
    let enrolment: Enrolment = read(body).await?;
    check_version(enrolment.version)?;
    let request = parse(&enrolment)?;
    let now = app.now();
    let node_id = enrolment.node_id;
    let authority = endpoint.authority();

    let mut change = app.store().change().await?;
    let mut found = change.get::<JoinToken>(id).await?.ok_or_else(unknown)?;
    match found.admits(node_id, &request.public_key_sha256, now) {
        Err(JoinRefusal::Used) => return Err(token("this join token was used already")),
        Err(JoinRefusal::Expired) => return Err(token("this join token has expired")),
        Ok(JoinOutcome::Repeat) => {}
        Ok(JoinOutcome::Admit) => {
            let project = found.project;
            let mut node = EnrolledNode {
                node_id,
                project,
                name: shortened(&enrolment.name),
                hostname: shortened(&enrolment.hostname),
                cluster: None,
                public_key_sha256: request.public_key_sha256.clone(),
                enrolled_at: now,
                revoked_at: None,
                silent_since: None,
                authority: Some(authority.sha256().to_owned()),
            };
            let former = change.get::<EnrolledNode>(node_id).await?;
            let again = former.is_some();
            match former {
                Some(former) if former.project == project => {
                    // It keeps its place; whoever used the former key is out.
                    node.cluster = former.cluster;
                    change.update(&node, former.revision).await?;
                }
                Some(former) if former.revoked_at.is_some() => {
                    change.delete::<EnrolledNode>(node_id).await?;
                    change.drop_report(node_id).await?;
                    change.drop_desired(node_id).await?;
                    change.insert(&node).await?;
                }
                Some(_) => {
                    return Err(Refused::new(
                        AgentRefusalCode::NodeTaken,
                        format!("node {node_id} belongs to another project"),
                        "revoke it there first",
                    ));
                }
                None => {
                    if change.find::<EnrolledNode>(project, &node.name).await?.is_some() {
                        return Err(Refused::new(
                            AgentRefusalCode::NodeTaken,
                            format!("the project has another node called {}", node.name),
                            "give this one another `name` in its file, or revoke the other one",
                        ));
                    }
                    change.insert(&node).await?;
                }
            }
            let revision = found.revision;
            found.used =
                Some(JoinTokenUse { node_id, public_key_sha256: request.public_key_sha256.clone(), at: now });
            change.update(&found.document, revision).await?;
            let actor = Actor::Node { id: node_id, name: node.name.clone() };
            let event = NewEvent::new(EventType::NodeEnrolled, actor)
                .detail("nodeId", node_id.to_string())
                .detail("hostname", node.hostname.clone())
                .detail("joinTokenId", id.to_string())
                .detail("again", again);
            change.tell_node(node_id).await?;
            change.commit(event, now).await?;
            app.waiting().wake(node_id);
            app.nudge().jobs();
        }
    }
    issue(&authority, request, &enrolment, now)
}

/// A node gets another certificate for its key, whether or not the former one has ended.
pub(super) async fn renew(
    endpoint: &Endpoint,
    peer: &Peer,
    request: http::Request<Incoming>,
) -> Result<Vec<u8>, Refused> {
    let shown = shown(endpoint, peer)?;
    let enrolment: Enrolment = read(request.into_body()).await?;
    check_version(enrolment.version)?;
    let request = parse(&enrolment)?;
    let node = known(&mut endpoint.app.store().read().await?, &shown).await?;
    if enrolment.node_id != node.node_id || request.public_key_sha256 != node.public_key_sha256 {
        return Err(Refused::new(
            AgentRefusalCode::CertificateUnknown,
            "a certificate is renewed for the node's own key only",
            "join again: make a token on the server, then keyward node join --token T",
        ));
    }
    let now = endpoint.app.now();
    if !shown.holds(now) {
        // Out of the ordinary, so it is on record.
        let actor = Actor::Node { id: node.node_id, name: node.name.clone() };
        let event = NewEvent::new(EventType::NodeRenewed, actor)
            .detail("nodeId", node.node_id.to_string())
            .detail("formerHadEnded", true);
        let mut change = endpoint.app.store().change().await?;
        known(&mut change, &shown).await?;
        change.commit(event, now).await?;
    }
    issue(&endpoint.authority(), request, &enrolment, now)
}

fn issue(
    authority: &Authority,
    request: Request,
    enrolment: &Enrolment,
    now: Timestamp,
) -> Result<Vec<u8>, Refused> {
    let issued = authority.issue(request, enrolment.node_id, now);
    let (certificate, not_after) = issued.map_err(|error| unusable(&error))?;
    json(&Enrolled { certificate, authorities: authority.trusted().to_owned(), not_after })
}

fn parse(enrolment: &Enrolment) -> Result<Request, Refused> {
    Request::parse(&enrolment.certificate_request).map_err(|error| unusable(&error))
}

fn unusable(error: &rcgen::Error) -> Refused {
    Refused::new(
        AgentRefusalCode::BadRequest,
        format!("the certificate request cannot be used: {error}"),
        "use a keyward of the server's version",
    )
}

fn token(message: &str) -> Refused {
    Refused::new(
        AgentRefusalCode::TokenRefused,
        message,
        "make a new one: each lets in one node, within a day",
    )
}

fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect()
}
