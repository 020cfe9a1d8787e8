//! The authority that agents trust a server by is replaced: nobody is cut off, and what is over is over.

use std::time::{Duration, Instant};

use keyward_model::{
    authority::LIFE_MS,
    event::{Actor, Event, EventType},
    id::NodeId,
    node::JoinText,
    sync::{Enrolled, SyncAnswer, SyncRequest},
};
use keyward_server::link::{
    AuthorityError, AuthorityStatus, authority_status, replace_authority, retire_authority,
};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

use crate::{
    agents::events,
    link::{Agent, Endpoint, client, enrolment, post, refused},
    site::{Answer, Database, Site},
};

fn sha256(text: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text).as_ref())
}

async fn status(endpoint: &Endpoint) -> AuthorityStatus {
    let app = endpoint.server.app();
    authority_status(app.store(), app.now()).await.unwrap()
}

async fn replace(endpoint: &Endpoint) -> Result<AuthorityStatus, AuthorityError> {
    let app = endpoint.server.app();
    replace_authority(app.store(), Actor::Operator, app.now()).await
}

async fn retire(endpoint: &Endpoint, force: bool) -> Result<(), AuthorityError> {
    let app = endpoint.server.app();
    retire_authority(app.store(), force, Actor::Operator, app.now()).await.map(drop)
}

/// Calls until the server has taken the store's authority over: then it asks for a renewal, or no more.
async fn until_renew(agent: &Agent, request: &SyncRequest, renew: bool) -> SyncAnswer {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = agent.answered(request).await;
        if answer.renew == renew {
            return answer;
        }
        assert!(Instant::now() < deadline, "the answer stays: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Renews, and trusts what is then given.
async fn renewed(agent: &Agent) -> (Agent, Enrolled) {
    let body = enrolment(agent.id, "n", &agent.key);
    let answer = post(&agent.http, &format!("{}/agent/v1/renew", agent.url), None, &body).await;
    let enrolled: Enrolled = serde_json::from_value(answer.expect(200).body).unwrap();
    let renewed = Agent {
        id: agent.id,
        key: KeyPair::from_pem(&agent.key.serialize_pem()).unwrap(),
        url: agent.url.clone(),
        http: client(&enrolled.authorities, Some((&enrolled.certificate, &agent.key))),
        certificate: enrolled.certificate.clone(),
    };
    (renewed, enrolled)
}

/// The authorities in a PEM text.
fn digests(authorities: &str) -> Vec<String> {
    CertificateDer::pem_slice_iter(authorities.as_bytes()).map(|one| sha256(&one.unwrap())).collect()
}

async fn join(token: &JoinText, trusted: &str, n: u128) -> Result<Enrolled, reqwest::Error> {
    let (id, key) = (NodeId(uuid::Uuid::from_u128(n)), KeyPair::generate().unwrap());
    let request = client(trusted, None)
        .post(format!("{}agent/v1/enrol", token.url))
        .bearer_auth(&token.secret)
        .json(&enrolment(id, &format!("n{n}"), &key));
    let answer = Answer::of(request.send().await?).await.expect(200);
    Ok(serde_json::from_value(answer.body).unwrap())
}

async fn told(endpoint: &Endpoint, kind: EventType) -> Vec<Event> {
    let filter = keyward_store::EventFilter { types: vec![kind], ..Default::default() };
    endpoint.server.app().store().read().await.unwrap().events(&filter, 0, 100).await.unwrap().0
}

on_each_database! {
    from Endpoint::start;

    async fn nodes_follow_a_new_authority_and_one_that_was_away_finds_back(endpoint: Endpoint) {
        let former = crate::link::authority(&endpoint).await;
        let (one, away) = (Agent::enrol(&endpoint, 1).await, Agent::enrol(&endpoint, 2).await);
        let early = endpoint.token().await;
        one.answered(&one.request(1)).await;
        let before = status(&endpoint).await;
        assert_eq!((&before.sha256, &before.former), (&sha256(&CertificateDer::from_pem_slice(former.as_bytes()).unwrap()), &None));

        endpoint.advance_hours(1);
        let after = replace(&endpoint).await.unwrap();
        endpoint.advance_hours(1);
        assert_ne!(after.sha256, before.sha256);
        assert_eq!(after.former.as_ref().unwrap().sha256, before.sha256);
        // The former one's key is gone: nobody can issue anything by it any more.
        let secret = endpoint.server.app().store().read().await.unwrap().secret("ca:agents").await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&secret).matches("BEGIN PRIVATE KEY").count(), 1);
        // Neither connection nor certificate end for it; the node is asked to renew, with what it trusts as well.
        until_renew(&one, &one.request(1), true).await;
        let (one, enrolled) = renewed(&one).await;
        assert_eq!(digests(&enrolled.authorities), [after.sha256.clone(), before.sha256.clone()]);
        let has = |authorities: &str| SyncRequest {
            authorities_sha256: Some(sha256(authorities.as_bytes())),
            ..one.request(1)
        };
        until_renew(&one, &has(&enrolled.authorities), false).await;
        until_renew(&one, &has("another text"), true).await;

        // Who trusts the new one alone recognizes the server, and who knows the former alone does too.
        let only_new = client(&crate::link::authority(&endpoint).await, Some((&one.certificate, &one.key)));
        let sync = format!("{}/agent/v1/sync", one.url);
        post(&only_new, &sync, None, &one.request(1)).await.expect(200);
        let joined = join(&early, &former, 3).await.unwrap();
        assert_eq!(digests(&joined.authorities).len(), 2);
        assert_eq!(endpoint.token().await.ca_sha256, after.sha256, "new tokens name the new one");

        // It is known who needs the former one: two tokens of these were used, one by a node that was not seen since.
        let needed = status(&endpoint).await.former.unwrap();
        let names: Vec<&str> = needed.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!((names, needed.join_tokens), (vec!["n2"], 3));
        for refused in [replace(&endpoint).await.map(drop), retire(&endpoint, false).await] {
            let refused = refused.unwrap_err();
            assert!(refused.to_string().ends_with("needed by the node n2, and 3 join tokens"), "{refused}");
            assert!(refused.hint().contains("--force"));
        }

        // Whoever was away for the whole time finds back with what it knows, and renews an ended certificate.
        endpoint.advance_hours(30 * 24);
        let away = Agent { http: client(&former, Some((&away.certificate, &away.key))), ..away };
        refused(&away.sync(&away.request(1)).await, 401, "CERTIFICATE_EXPIRED");
        let (back, _) = renewed(&away).await;
        back.answered(&back.request(1)).await;
        let (one, _) = renewed(&one).await;
        assert_eq!(status(&endpoint).await.former.unwrap().nodes, [], "n3 joined under the new one");
        let idle = Agent { http: client(&former, Some((&away.certificate, &away.key))), ..away };
        refused(&idle.sync(&idle.request(1)).await, 401, "CERTIFICATE_EXPIRED");
        retire(&endpoint, false).await.unwrap();

        // From then on it counts nowhere: not on a connection that is open, not on a new one, either way round.
        let deadline = Instant::now() + Duration::from_secs(60);
        while idle.sync(&idle.request(1)).await.body["code"] != "CERTIFICATE_UNKNOWN" {
            assert!(Instant::now() < deadline, "the former authority is trusted for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(client(&former, None).post(&sync).send().await.is_err(), "the server stands under the former one");
        let fresh = client(&crate::link::authority(&endpoint).await, Some((&idle.certificate, &idle.key)));
        assert!(fresh.post(&sync).json(&idle.request(1)).send().await.is_err(), "its certificates count");
        let (one, enrolled) = renewed(&one).await;
        assert_eq!(digests(&enrolled.authorities), std::slice::from_ref(&after.sha256));
        until_renew(&one, &has(&enrolled.authorities), false).await;

        // One event for each change, and no more than was done.
        let (replaced, retired) =
            (told(&endpoint, EventType::AgentAuthorityReplaced).await, told(&endpoint, EventType::AgentAuthorityRetired).await);
        assert_eq!((replaced.len(), retired.len()), (1, 1));
        assert_eq!((&replaced[0].detail["sha256"], &replaced[0].detail["formerSha256"]), (&json!(after.sha256), &json!(before.sha256)));
        assert_eq!((&retired[0].detail["force"], &retired[0].detail["nodesLeft"]), (&json!(false), &json!([])));
        assert!(matches!(retire(&endpoint, true).await, Err(AuthorityError::NoFormer)));
        endpoint.server.stop().await;
    }

    async fn a_node_that_is_left_behind_is_named_and_joins_again(endpoint: Endpoint) {
        let former = crate::link::authority(&endpoint).await;
        let left = Agent::enrol(&endpoint, 1).await;
        let after = replace(&endpoint).await.unwrap();
        retire(&endpoint, true).await.unwrap();
        let retired = told(&endpoint, EventType::AgentAuthorityRetired).await;
        assert_eq!(retired[0].detail["nodesLeft"], json!([left.id]));
        let deadline = Instant::now() + Duration::from_secs(60);
        let renew = format!("{}/agent/v1/renew", left.url);
        while client(&former, Some((&left.certificate, &left.key))).post(&renew).json(&json!({})).send().await.is_ok() {
            assert!(Instant::now() < deadline, "the former authority is trusted for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let token = endpoint.token().await;
        assert_eq!(token.ca_sha256, after.sha256);
        let joined = join(&token, &crate::link::authority(&endpoint).await, 1).await.unwrap();
        assert_eq!(digests(&joined.authorities), [after.sha256]);
        endpoint.server.stop().await;
    }
}

/// What one server does the other one learns; nodes pass between them meanwhile.
#[tokio::test]
async fn two_servers_have_one_authority() {
    let Some(endpoint) = Endpoint::start(Database::Postgresql).await else { return };
    let other = endpoint.another_server().await;
    let agent = Agent::enrol(&endpoint, 1).await;
    let at = |agent: &Agent, trusted: &str| Agent {
        id: agent.id,
        key: KeyPair::from_pem(&agent.key.serialize_pem()).unwrap(),
        url: format!("https://localhost:{}", other.agent_addr.port()),
        http: client(trusted, Some((&agent.certificate, &agent.key))),
        certificate: agent.certificate.clone(),
    };
    let there = at(&agent, &crate::link::authority(&endpoint).await);
    there.answered(&there.request(1)).await;
    replace(&endpoint).await.unwrap();
    until_renew(&there, &there.request(1), true).await;
    until_renew(&agent, &agent.request(1), true).await;
    // Renewed by the one, known to the other, which notes it.
    let (renewed, enrolled) = renewed(&agent).await;
    let there = at(&renewed, &enrolled.authorities);
    until_renew(&there, &there.request(1), false).await;
    assert_eq!(status(&endpoint).await.former.unwrap().nodes, []);
    until_renew(&renewed, &renewed.request(1), false).await;
    other.stop().await;
    endpoint.server.stop().await;
}

/// After five years the server does it by itself, once, and lets the former one go when nobody needs it.
#[tokio::test]
async fn an_old_authority_is_replaced_by_itself() {
    let site = Site::start(Database::Sqlite).await.unwrap();
    let shown = async || -> Value {
        let shown = site.owner().get("/api/keyward/v1/server").await.expect(200).body;
        assert_eq!(
            (&shown["certificate"]["own"], &shown["certificate"]["problem"]),
            (&json!(true), &json!(null))
        );
        shown["agentAuthority"].clone()
    };
    let project = site.project("P").await;
    let tokens = format!("/api/keyward/v1/groups/{project}/joinTokens");
    let made = site.owner().post(&tokens, json!({})).await.expect(201);
    let token: JoinText = made.body["token"].as_str().unwrap().parse().unwrap();
    let before = shown().await;
    assert_eq!((&before["sha256"], &before["former"]), (&json!(token.ca_sha256), &json!(null)));
    let until = async |kind, what: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while events(&site, kind).await == 0 {
            assert!(Instant::now() < deadline, "never {what}");
            site.server.app().nudge().jobs();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    site.server.app().nudge().jobs();
    site.advance_ms(LIFE_MS);
    until(EventType::AgentAuthorityReplaced, "replaced").await;
    until(EventType::AgentAuthorityRetired, "let go").await;
    let mut tx = site.server.app().store().read().await.unwrap();
    let (all, _) = tx.events(&keyward_store::EventFilter::default(), 0, 1_000).await.unwrap();
    let own: Vec<&Event> =
        all.iter().filter(|event| event.event_type.as_str().contains("AGENT_AUTHORITY")).collect();
    assert_eq!(own.len(), 2, "once each");
    assert!(
        own.iter().all(
            |event| event.org == Some(site.org) && event.actor == Actor::Job { name: "authority".into() }
        )
    );
    drop(tx);
    site.server.stop().await;
}
