//! The agents' endpoint as a raw client sees it: lost, repeated, reordered and wrong messages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use keyward_model::{
    NodeState, NodeStatus, Timestamp, Verdict,
    event::{Actor, EventType, NewEvent},
    id::{NodeId, ProjectId},
    node::JoinText,
    sync::{Desired, DesiredRun, Enrolled, Enrolment, Observed, SyncAnswer, SyncRequest, VERSION},
};
use keyward_server::{Config, Running, ServeOptions, init, link, serve_with};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::site::{Answer, Database, Site};

pub(crate) const PROJECT: ProjectId = ProjectId::from_bytes([9; 12]);

/// A server without jobs: what is desired is what the test says.
pub(crate) struct Endpoint {
    pub(crate) server: Running,
    clock: Arc<AtomicI64>,
    _dir: TempDir,
}

impl Endpoint {
    pub(crate) async fn start(database: Database) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        if database == Database::Postgresql {
            config.store_url = Some(keyward_testkit::postgres::database()?);
        }
        init(&config).await.unwrap();
        let clock = Arc::new(AtomicI64::new(jiff::Timestamp::now().as_millisecond()));
        let read = Arc::clone(&clock);
        let options = ServeOptions {
            clock: Arc::new(move || Timestamp::from_epoch_ms(read.load(Ordering::SeqCst))),
            jobs: false,
            ..ServeOptions::default()
        };
        Some(Self { server: serve_with(config, options).await.unwrap(), clock, _dir: dir })
    }

    /// Another server on the same store, without jobs too.
    pub(crate) async fn another_server(&self) -> Running {
        let mut config = self.server.app().config().clone();
        for listen in [&mut config.api_listen, &mut config.agent_listen] {
            listen.set_port(0);
        }
        let read = Arc::clone(&self.clock);
        let options = ServeOptions {
            clock: Arc::new(move || Timestamp::from_epoch_ms(read.load(Ordering::SeqCst))),
            jobs: false,
            ..ServeOptions::default()
        };
        serve_with(config, options).await.unwrap()
    }

    pub(crate) fn advance_hours(&self, hours: i64) {
        self.clock.fetch_add(hours * 3_600_000, Ordering::SeqCst);
    }

    pub(crate) async fn token(&self) -> JoinText {
        let event = NewEvent::new(EventType::JoinTokenCreated, Actor::Operator).project(PROJECT);
        link::invite(self.server.app(), PROJECT, None, event).await.unwrap().1
    }

    async fn desire(&self, node: NodeId, cluster_name: &str) -> u64 {
        let revision = self.desire_at(&self.server, node, cluster_name).await;
        self.server.app().nudge().node(node);
        revision
    }

    /// Writes it by one of the servers, and wakes nobody.
    async fn desire_at(&self, server: &Running, node: NodeId, cluster_name: &str) -> u64 {
        let app = server.app();
        let cluster = keyward_model::sync::DesiredCluster {
            name: cluster_name.into(),
            replica_set: cluster_name.into(),
            members: vec![],
        };
        let desired = Desired {
            revision: 0,
            cluster: Some(cluster),
            encryption: None,
            rotate_master_key: None,
            run: DesiredRun::Unmanaged,
            step_down: false,
            resync: false,
            validations: vec![],
        };
        let mut observation = app.store().observe().await.unwrap();
        let stored = observation.put_desired(node, &desired, app.now()).await.unwrap();
        observation.commit().await.unwrap();
        stored.revision
    }

    async fn enrolments(&self) -> usize {
        let mut tx = self.server.app().store().read().await.unwrap();
        let (events, _) = tx.events(&keyward_store::EventFilter::default(), 0, 10_000).await.unwrap();
        events.iter().filter(|event| event.event_type == EventType::NodeEnrolled).count()
    }

    async fn stored(&self, node: NodeId) -> keyward_store::Report {
        self.server.app().store().read().await.unwrap().report(node).await.unwrap().unwrap()
    }
}

/// An agent that says what the test wants.
pub(crate) struct Agent {
    pub(crate) id: NodeId,
    pub(crate) key: KeyPair,
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    /// PEM of its certificate.
    pub(crate) certificate: String,
}

/// A client that takes any server and shows `identity`.
pub(crate) fn client(authority: &str, identity: Option<(&str, &KeyPair)>) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let tls =
        rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    let tls = match identity {
        None => tls.with_no_client_auth(),
        Some((certificate, key)) => tls
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

/// The authority that the server's chain carries.
pub(crate) async fn authority(endpoint: &Endpoint) -> String {
    let secret =
        endpoint.server.app().store().read().await.unwrap().secret("ca:agents").await.unwrap().unwrap();
    let sealed: Value = serde_json::from_slice(&secret).unwrap();
    sealed["certificate"].as_str().unwrap().to_owned()
}

pub(crate) fn enrolment(id: NodeId, name: &str, key: &KeyPair) -> Enrolment {
    Enrolment {
        version: VERSION,
        node_id: id,
        name: name.to_owned(),
        hostname: "host".to_owned(),
        certificate_request: CertificateParams::default().serialize_request(key).unwrap().pem().unwrap(),
    }
}

pub(crate) async fn post(
    http: &reqwest::Client,
    url: &str,
    bearer: Option<&str>,
    body: &impl Serialize,
) -> Answer {
    let request = http.post(url).json(body);
    let request = match bearer {
        Some(secret) => request.bearer_auth(secret),
        None => request,
    };
    Answer::of(request.send().await.unwrap()).await
}

/// Asserts status and code of a refusal to an agent.
#[track_caller]
pub(crate) fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{}", answer.text);
    assert!(answer.body["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{}", answer.text);
}

impl Agent {
    pub(crate) async fn enrol(endpoint: &Endpoint, n: u128) -> Self {
        let token = endpoint.token().await;
        let (id, key) = (NodeId(uuid::Uuid::from_u128(n)), KeyPair::generate().unwrap());
        let authority = authority(endpoint).await;
        let url = token.url.as_str().trim_end_matches('/').to_owned();
        let body = enrolment(id, &format!("n{n}"), &key);
        let answer =
            post(&client(&authority, None), &format!("{url}/agent/v1/enrol"), Some(&token.secret), &body)
                .await;
        let enrolled: Enrolled = serde_json::from_value(answer.expect(200).body).unwrap();
        let http = client(&authority, Some((&enrolled.certificate, &key)));
        Self { id, key, url, http, certificate: enrolled.certificate }
    }

    pub(crate) async fn sync(&self, request: &SyncRequest) -> Answer {
        post(&self.http, &format!("{}/agent/v1/sync", self.url), None, request).await
    }

    pub(crate) async fn answered(&self, request: &SyncRequest) -> SyncAnswer {
        serde_json::from_value(self.sync(request).await.expect(200).body).unwrap()
    }

    pub(crate) fn request(&self, report: u64) -> SyncRequest {
        SyncRequest {
            version: VERSION,
            report,
            observed: Some(observed(self.id, report)),
            have_revision: 0,
            have_digest: None,
            wait_s: 0,
            authorities_sha256: None,
        }
    }
}

pub(crate) fn observed(node_id: NodeId, report: u64) -> Observed {
    Observed {
        node_id,
        report,
        at: Timestamp::from_epoch_ms(0),
        agent_version: "0.1.0".into(),
        address: format!("host:{report}"),
        status: NodeStatus {
            node: "n".into(),
            state: NodeState::Running,
            verdict: Verdict::Valid,
            reason: String::new(),
            evidence: vec![],
            customer_key: None,
            master_key: None,
            master_key_held: true,
            memory_locked: true,
            database_keys: vec![],
            spare_database_keys: 0,
            engine: None,
            since: Timestamp::from_epoch_ms(0),
            warnings: vec![],
            link: None,
        },
        wraps: vec![],
        done_revision: 0,
        progress: None,
        held_back: vec![],
        validated: vec![],
        snapshots: vec![],
        replica_state: None,
        unencrypted: false,
    }
}

on_each_database! {
    from Endpoint::start;

    async fn a_lost_answer_to_a_join_costs_no_token(endpoint: Endpoint) {
        let token = endpoint.token().await;
        let authority = authority(&endpoint).await;
        let http = client(&authority, None);
        let url = format!("{}agent/v1/enrol", token.url);
        let (id, key) = (NodeId(uuid::Uuid::from_u128(1)), KeyPair::generate().unwrap());
        let enrol = async |id, key: &KeyPair| post(&http, &url, Some(&token.secret), &enrolment(id, "n", key)).await;
        enrol(id, &key).await.expect(200);
        // The answer was lost: the same call again.
        enrol(id, &key).await.expect(200);
        assert_eq!(endpoint.enrolments().await, 1);
        // Another key, and another node, are somebody else.
        refused(&enrol(id, &KeyPair::generate().unwrap()).await, 401, "TOKEN_REFUSED");
        refused(&enrol(NodeId(uuid::Uuid::from_u128(2)), &key).await, 401, "TOKEN_REFUSED");
        endpoint.advance_hours(24);
        refused(&enrol(id, &key).await, 401, "TOKEN_REFUSED");
        assert_eq!(endpoint.enrolments().await, 1);
        endpoint.server.stop().await;
    }

    async fn reports_count_up_and_what_is_old_or_repeated_changes_nothing(endpoint: Endpoint) {
        let agent = Agent::enrol(&endpoint, 1).await;
        assert_eq!(agent.answered(&agent.request(5)).await.stored_report, 5);
        for late in [3, 5, 1] {
            let answer = agent.answered(&agent.request(late)).await;
            assert_eq!(answer.stored_report, 5, "{late}");
        }
        assert_eq!(endpoint.stored(agent.id).await.observed, observed(agent.id, 5));
        // Nothing new: only when it was heard of is noted, soon.
        endpoint.advance_hours(1);
        let quiet = SyncRequest { observed: None, ..agent.request(5) };
        assert_eq!(agent.answered(&quiet).await.stored_report, 5);
        let before = endpoint.stored(agent.id).await.received_at;
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while endpoint.stored(agent.id).await.received_at == before {
            assert!(std::time::Instant::now() < deadline, "the heartbeat was never noted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(endpoint.stored(agent.id).await.observed, observed(agent.id, 5));
        // A report that the server does not have is asked for by its number, at once.
        let unknown = SyncRequest { report: 9, wait_s: 60, ..quiet };
        assert_eq!(agent.answered(&unknown).await.stored_report, 5);
        endpoint.server.stop().await;
    }

    async fn what_waits_for_the_host_is_told_once(endpoint: Endpoint) {
        let agent = Agent::enrol(&endpoint, 1).await;
        let report = |number, approvals: &[&str]| {
            let held_back = approvals.iter().map(|approval| keyward_model::sync::HeldBack {
                revision: 1,
                needs_approval: true,
                approval: Some((*approval).to_owned()),
                what: "using a customer key".to_owned(),
                reason: "of another tenant".to_owned(),
                hint: "keyward node approve".to_owned(),
            });
            let observed = Observed { held_back: held_back.collect(), ..observed(agent.id, number) };
            SyncRequest { observed: Some(observed), ..agent.request(number) }
        };
        let told = async || {
            let mut tx = endpoint.server.app().store().read().await.unwrap();
            let (events, _) = tx.events(&keyward_store::EventFilter::default(), 0, 100).await.unwrap();
            events.iter().filter(|event| event.event_type == EventType::NodeApprovalNeeded).count()
        };
        for (number, approvals, events) in
            [(1, &[][..], 0), (2, &["a"], 1), (3, &["a"], 1), (4, &["a", "b"], 2), (5, &[], 2), (6, &["a"], 3)]
        {
            agent.answered(&report(number, approvals)).await;
            assert_eq!(told().await, events, "{number}");
        }
        endpoint.server.stop().await;
    }

    async fn a_report_that_tells_of_two_things_has_two_events(endpoint: Endpoint) {
        use EventType::{NodeApprovalNeeded as Approval, NodeStartedAgain as Again, NodeStoppedRevoked as Stopped};
        let agent = Agent::enrol(&endpoint, 1).await;
        let report = |number, state: NodeState, waits: bool| {
            let mut observed = observed(agent.id, number);
            observed.status.state = state;
            observed.status.reason = format!("reason {number}");
            observed.held_back.extend(waits.then(|| keyward_model::sync::HeldBack {
                revision: 1,
                needs_approval: true,
                approval: Some("tenant:x".to_owned()),
                what: "using a customer key".to_owned(),
                reason: "of another tenant".to_owned(),
                hint: "keyward node approve".to_owned(),
            }));
            SyncRequest { observed: Some(observed), ..agent.request(number) }
        };
        let told = async || {
            let mut tx = endpoint.server.app().store().read().await.unwrap();
            let (mut events, _) = tx.events(&keyward_store::EventFilter::default(), 0, 100).await.unwrap();
            events.retain(|event| [Stopped, Again, Approval].contains(&event.event_type));
            events.reverse();
            events
        };
        let expected: [(u64, NodeState, bool, &[EventType]); 8] = [
            (1, NodeState::Running, false, &[]),
            // The database stops for its customer key, and something waits for the host: both are told.
            (2, NodeState::StoppedRevoked, true, &[Stopped, Approval]),
            (3, NodeState::StoppedRevoked, true, &[]),
            (4, NodeState::Starting, true, &[Again]),
            (5, NodeState::Running, false, &[]),
            (6, NodeState::StoppedRevoked, false, &[Stopped]),
            (7, NodeState::Running, true, &[Again, Approval]),
            (8, NodeState::Stopped, true, &[]),
        ];
        let mut all = Vec::new();
        for (number, state, waits, new) in expected {
            // Repeated, as after a lost answer: it tells nothing twice.
            for _ in 0..2 {
                assert_eq!(agent.answered(&report(number, state, waits)).await.stored_report, number);
            }
            all.extend(new);
            let events = told().await;
            assert_eq!(events.iter().map(|event| event.event_type).collect::<Vec<_>>(), all, "{number}");
        }
        let events = told().await;
        assert_eq!(events[0].detail["reason"], "reason 2");
        assert_eq!(events[1].detail["approvals"], "tenant:x");
        assert!(events.iter().all(|event| event.project == Some(PROJECT)
            && event.actor == Actor::Node { id: agent.id, name: "n1".into() }));

        // The same report at once, as by two servers: one of them tells.
        let again = report(9, NodeState::StoppedRevoked, true);
        let (one, two) = tokio::join!(agent.sync(&again), agent.sync(&again));
        assert!([one.status, two.status].contains(&200), "{} {}", one.text, two.text);
        all.push(Stopped);
        assert_eq!(told().await.len(), all.len());
        endpoint.server.stop().await;
    }

    async fn what_is_desired_is_given_once_and_a_waiting_call_hears_of_news(endpoint: Endpoint) {
        let agent = Arc::new(Agent::enrol(&endpoint, 1).await);
        let nothing = agent.answered(&agent.request(1)).await;
        assert_eq!((nothing.desired, nothing.digest), (None, None));
        let first = endpoint.desire(agent.id, "one").await;
        let given = agent.answered(&agent.request(1)).await;
        assert_eq!(given.desired.as_ref().unwrap().revision, first);
        let have = SyncRequest {
            have_revision: first,
            have_digest: given.digest.clone(),
            ..agent.request(1)
        };
        assert_eq!(agent.answered(&have).await.desired, None);
        // Other content under the same number, or a greater number than the server's, after a store was put back.
        let other = SyncRequest { have_digest: Some("0".repeat(64)), wait_s: 60, ..have.clone() };
        assert_eq!(agent.answered(&other).await.desired, given.desired);
        let greater = SyncRequest { have_revision: first + 7, wait_s: 60, ..have.clone() };
        assert_eq!(agent.answered(&greater).await.desired, given.desired);
        // A call that waits.
        let waiting = tokio::spawn({
            let (agent, have) = (Arc::clone(&agent), SyncRequest { wait_s: 60, ..have });
            async move { agent.answered(&have).await }
        });
        while endpoint.server.app().waiting().count() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let second = endpoint.desire(agent.id, "two").await;
        assert!(second > first);
        assert_eq!(waiting.await.unwrap().desired.unwrap().revision, second);
        assert_eq!(endpoint.server.app().waiting().count(), 0);
        endpoint.server.stop().await;
    }

    async fn who_an_agent_is_is_never_taken_from_what_it_says(endpoint: Endpoint) {
        let (one, two) = (Agent::enrol(&endpoint, 1).await, Agent::enrol(&endpoint, 2).await);
        let authority = authority(&endpoint).await;
        let sync = format!("{}/agent/v1/sync", one.url);
        refused(&post(&client(&authority, None), &sync, None, &one.request(1)).await, 401, "CERTIFICATE_MISSING");
        let foreign = SyncRequest { observed: Some(observed(two.id, 1)), ..one.request(1) };
        refused(&one.sync(&foreign).await, 400, "BAD_REQUEST");
        refused(&one.sync(&SyncRequest { version: 99, ..one.request(1) }).await, 400, "VERSION");
        refused(&post(&one.http, &sync, None, &json!({"version": 1})).await, 400, "BAD_REQUEST");
        refused(&post(&one.http, &sync, None, &json!({"x": "y".repeat(5 << 20)})).await, 413, "TOO_LARGE");
        // A certificate of another authority does not get as far as HTTP.
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["n".to_owned()]).unwrap().self_signed(&key).unwrap();
        let stranger = client(&authority, Some((&own.pem(), &key)));
        assert!(stranger.post(&sync).json(&one.request(1)).send().await.is_err());
        // Renewal is for the node's own key.
        let renew = format!("{}/agent/v1/renew", one.url);
        let other_key = enrolment(one.id, "n1", &KeyPair::generate().unwrap());
        refused(&post(&one.http, &renew, None, &other_key).await, 401, "CERTIFICATE_UNKNOWN");
        refused(&post(&one.http, &renew, None, &enrolment(two.id, "n2", &two.key)).await, 401, "CERTIFICATE_UNKNOWN");
        endpoint.server.stop().await;
    }

    async fn an_ended_certificate_renews_and_nothing_else_and_a_revoked_node_does_neither(endpoint: Endpoint) {
        let agent = Agent::enrol(&endpoint, 1).await;
        let renew = format!("{}/agent/v1/renew", agent.url);
        let body = enrolment(agent.id, "n1", &agent.key);
        for hours in [25, 10_000, -20_000] {
            endpoint.advance_hours(hours);
            refused(&agent.sync(&agent.request(1)).await, 401, "CERTIFICATE_EXPIRED");
            let answer = post(&agent.http, &renew, None, &body).await;
            let enrolled: Enrolled = serde_json::from_value(answer.expect(200).body).unwrap();
            let renewed = Agent {
                id: agent.id,
                key: KeyPair::from_pem(&agent.key.serialize_pem()).unwrap(),
                url: agent.url.clone(),
                http: client(&authority(&endpoint).await, Some((&enrolled.certificate, &agent.key))),
                certificate: enrolled.certificate.clone(),
            };
            renewed.answered(&agent.request(1)).await;
        }
        // Revoked, also while a call waits.
        endpoint.advance_hours(10_000);
        let current = Agent::enrol(&endpoint, 2).await;
        let waiting = SyncRequest { wait_s: 60, ..current.request(1) };
        current.answered(&current.request(1)).await;
        let (current, app) = (Arc::new(current), endpoint.server.app().clone());
        let call = tokio::spawn({
            let current = Arc::clone(&current);
            async move { current.sync(&waiting).await }
        });
        while app.waiting().count() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut change = app.store().change().await.unwrap();
        let mut node = change.get::<keyward_model::node::EnrolledNode>(current.id).await.unwrap().unwrap();
        node.revoked_at = Some(app.now());
        change.update(&node.document, node.revision).await.unwrap();
        change.commit(NewEvent::new(EventType::NodeRevoked, Actor::Operator), app.now()).await.unwrap();
        app.nudge().node(current.id);
        refused(&call.await.unwrap(), 403, "NODE_REVOKED");
        refused(&current.sync(&current.request(2)).await, 403, "NODE_REVOKED");
        let body = enrolment(current.id, "n2", &current.key);
        refused(&post(&current.http, &renew, None, &body).await, 403, "NODE_REVOKED");
        endpoint.server.stop().await;
    }

    async fn guessing_tokens_is_limited(endpoint: Endpoint) {
        let token = endpoint.token().await;
        let authority = authority(&endpoint).await;
        let (http, url) = (client(&authority, None), format!("{}agent/v1/enrol", token.url));
        let key = KeyPair::generate().unwrap();
        let body = enrolment(NodeId(uuid::Uuid::from_u128(1)), "n", &key);
        let (id, _) = token.secret.split_once('.').unwrap();
        let guess = format!("{id}.{}", "A".repeat(43));
        let mut limited = false;
        for _ in 0..200 {
            let answer = post(&http, &url, Some(&guess), &body).await;
            limited = answer.status == 429;
            if limited {
                refused(&answer, 429, "TOO_MANY");
                break;
            }
            refused(&answer, 401, "TOKEN_REFUSED");
        }
        assert!(limited, "200 guesses in one moment");
        // The right one has to wait too, and then works.
        refused(&post(&http, &url, Some(&token.secret), &body).await, 429, "TOO_MANY");
        endpoint.advance_hours(1);
        post(&http, &url, Some(&token.secret), &body).await.expect(200);
        endpoint.server.stop().await;
    }
}

/// The look at the store, every two seconds, would take each of these changes two seconds: it is just over when one
/// is made.
#[tokio::test]
async fn a_node_that_waits_at_one_server_hears_of_another_at_once() {
    const CHANGES: u32 = 5;
    let Some(endpoint) = Endpoint::start(Database::Postgresql).await else { return };
    let other = endpoint.another_server().await;
    let agent = Agent::enrol(&endpoint, 1).await;
    agent.answered(&agent.request(1)).await;
    let mut waiting = SyncRequest { observed: None, wait_s: 60, ..agent.request(1) };
    let waits = async || {
        while endpoint.server.app().waiting().count() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let began = std::time::Instant::now();
    for n in 0..CHANGES {
        let name = format!("c{n}");
        let change = async {
            waits().await;
            endpoint.desire_at(&other, agent.id, &name).await
        };
        let (answer, revision) = tokio::join!(agent.answered(&waiting), change);
        let desired = answer.desired.unwrap();
        assert_eq!((desired.revision, desired.cluster.unwrap().name), (revision, name));
        (waiting.have_revision, waiting.have_digest) = (revision, answer.digest);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2) * (CHANGES - 1), "{took:?}: nobody told the waiting server");

    // Revoked by the other server, a call that waits here is refused.
    let revoke = async {
        waits().await;
        let app = other.app();
        let mut change = app.store().change().await.unwrap();
        let mut node = change.get::<keyward_model::node::EnrolledNode>(agent.id).await.unwrap().unwrap();
        node.revoked_at = Some(app.now());
        change.update(&node.document, node.revision).await.unwrap();
        change.tell_node(agent.id).await.unwrap();
        change.commit(NewEvent::new(EventType::NodeRevoked, Actor::Operator), app.now()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(agent.sync(&waiting), revoke);
    refused(&answer, 403, "NODE_REVOKED");
    other.stop().await;
    endpoint.server.stop().await;
}

on_each_database! {
    /// The store says whose an event is: a node, its cluster, its project and that one's organization.
    async fn events_of_joining_renewing_and_leaving_have_their_organization(site: Site) {
        use keyward_model::node::EnrolledNode;
        let project = site.project("events of nodes").await;
        let tokens = format!("/api/keyward/v1/groups/{project}/joinTokens");
        let made = site.owner().post(&tokens, json!({})).await.expect(201);
        let token: JoinText = made.body["token"].as_str().unwrap().parse().unwrap();
        let app = site.server.app();
        let secret = app.store().read().await.unwrap().secret("ca:agents").await.unwrap().unwrap();
        let sealed: Value = serde_json::from_slice(&secret).unwrap();
        let authority = sealed["certificate"].as_str().unwrap().to_owned();
        let url = token.url.as_str().trim_end_matches('/').to_owned();
        let (id, key) = (NodeId(uuid::Uuid::from_u128(5)), KeyPair::generate().unwrap());
        let body = enrolment(id, "n5", &key);
        let joined = post(&client(&authority, None), &format!("{url}/agent/v1/enrol"), Some(&token.secret), &body).await;
        let enrolled: Enrolled = serde_json::from_value(joined.expect(200).body).unwrap();
        let http = client(&authority, Some((&enrolled.certificate, &key)));
        // A member of a cluster from here on; its certificate ends, and it leaves.
        site.owner().post(&crate::agents::clusters(&project, ""), crate::agents::wanted("C5", 1, "NONE")).await.expect(201);
        let mut change = app.store().change().await.unwrap();
        let clusters = change.list::<keyward_model::cluster::Cluster>(&project).await.unwrap();
        let mut node = change.get::<EnrolledNode>(id).await.unwrap().unwrap();
        // The jobs may have placed it already.
        if node.cluster.is_none() {
            node.cluster = Some(clusters[0].id);
            change.update(&node.document, node.revision).await.unwrap();
            change.commit(NewEvent::new(EventType::NodeAssigned, Actor::Operator).node(id), app.now()).await.unwrap();
        } else {
            drop(change);
        }
        site.advance_ms(25 * 3_600_000);
        post(&http, &format!("{url}/agent/v1/renew"), None, &body).await.expect(200);
        let leave = json!({"version": VERSION, "force": true});
        post(&http, &format!("{url}/agent/v1/leave"), None, &leave).await.expect(200);

        let mut tx = app.store().read().await.unwrap();
        let (events, _) = tx.events(&keyward_store::EventFilter::default(), 0, 100).await.unwrap();
        let of = |kind| events.iter().find(|event| event.event_type == kind).unwrap_or_else(|| panic!("no {kind}"));
        for (kind, in_cluster) in
            [(EventType::NodeEnrolled, false), (EventType::NodeRenewed, true), (EventType::NodeLeft, true)]
        {
            let event = of(kind);
            assert_eq!(event.project.map(|id| id.to_string()).as_ref(), Some(&project), "{kind}");
            assert_eq!(event.org, Some(site.org), "{kind}");
            assert_eq!(event.cluster.as_deref(), in_cluster.then_some("C5"), "{kind}");
        }
        drop(tx);
        site.server.stop().await;
    }

    async fn join_tokens_and_nodes_are_managed_by_those_who_manage_clusters(site: Site) {
        let project = site.project("links").await;
        let tokens = format!("/api/keyward/v1/groups/{project}/joinTokens");
        let nodes = format!("/api/keyward/v1/groups/{project}/nodes");
        let owner = site.owner();
        let made = owner.post(&tokens, json!({"name": "rack 1"})).await.expect(201);
        let text: JoinText = made.body["token"].as_str().unwrap().parse().unwrap();
        let id = made.body["id"].as_str().unwrap();
        assert!(text.url.as_str().starts_with("https://"));

        // The secret is in the one answer, and nowhere else.
        let listed = owner.get(&tokens).await.expect(200);
        assert_eq!(listed.body["totalCount"], 1);
        assert_eq!(listed.body["results"][0]["name"], "rack 1");
        for place in [listed.text.clone(), site.events_text().await] {
            assert!(!place.contains(&text.secret) && !place.contains(made.body["token"].as_str().unwrap()));
        }
        for wrong in [json!({"name": ""}), json!({"name": 7}), json!({"colour": "red"}), json!([])] {
            let before = site.events().await;
            assert_eq!(owner.post(&tokens, wrong.clone()).await.status, 400, "{wrong}");
            assert_eq!(site.events().await, before);
        }
        let reader = site.project_key(&project, &["GROUP_READ_ONLY"]).await;
        assert_eq!(site.caller(&reader).post(&tokens, json!({})).await.status, 401);
        assert_eq!(site.caller(&reader).get(&nodes).await.expect(200).body["totalCount"], 0);

        // A token of another project is not there.
        let other = site.project("others").await;
        let foreign = format!("/api/keyward/v1/groups/{other}/joinTokens/{id}");
        owner.delete(&foreign).await.refused(404, "KEYWARD_JOIN_TOKEN_NOT_FOUND");
        owner.delete(&format!("{tokens}/{id}")).await.expect(204);
        owner.delete(&format!("{tokens}/{id}")).await.refused(404, "KEYWARD_JOIN_TOKEN_NOT_FOUND");

        // A node is shown with what it reported, and revoked once.
        let mut agent = crate::agents::Agent::enrol(&site, &project, 1).await;
        agent.report(&site).await;
        let one = format!("{nodes}/{}", agent.id);
        let shown = owner.get(&one).await.expect(200).body;
        assert_eq!(shown["name"], "n1");
        assert!(shown["state"].is_string() && shown["reportedAt"].is_string(), "{shown}");
        owner.get(&format!("{nodes}/nonsense")).await.refused(404, "KEYWARD_NODE_NOT_FOUND");
        owner.get(&format!("/api/keyward/v1/groups/{other}/nodes/{}", agent.id)).await
            .refused(404, "KEYWARD_NODE_NOT_FOUND");
        assert_eq!(site.caller(&reader).delete(&one).await.status, 401);
        let before = site.events_text().await.matches("KEYWARD_NODE_REVOKED").count();
        owner.delete(&one).await.expect(204);
        owner.delete(&one).await.expect(204);
        assert!(owner.get(&one).await.expect(200).body["revokedAt"].is_string());
        assert_eq!(site.events_text().await.matches("KEYWARD_NODE_REVOKED").count(), before + 1);
        site.server.stop().await;
    }
}
