//! Simulated agents: nodes that are enrolled and report through the store, and do what is asked of them.

use std::{future::Future, time::Duration};

use keyward_model::{
    KeyIdentifier, NodeState, NodeStatus, Timestamp, Verdict,
    encryption::{AzureEnvironment, AzureKeyVault, EncryptionAtRest},
    event::{Actor, EventType, NewEvent},
    id::{NodeId, ProjectId},
    node::EnrolledNode,
    status::{CustomerKeyStatus, EngineStatus, MasterKeyStatus},
    sync::{Desired, DesiredRun, HeldBack, Observed, ObservedWrap},
};

use serde_json::{Value, json};

use crate::site::{Answer, Site};

/// An agent with its node.
pub(crate) struct Agent {
    pub(crate) id: NodeId,
    pub(crate) observed: Observed,
    /// What was asked of it last.
    pub(crate) desired: Option<Desired>,
    /// Whether its database is primary while it runs in a cluster.
    pub(crate) primary: bool,
    masters: u32,
}

/// Customer key number `n`.
pub(crate) fn key(n: u8) -> KeyIdentifier {
    KeyIdentifier::new("https://v.vault.azure.net", "k", &format!("{n:032x}")).unwrap()
}

/// Puts customer key number `n` on a project, past the API, which would try it out.
pub(crate) async fn put_customer_key(site: &Site, project: &str, n: u8) {
    let (app, project): (_, ProjectId) = (site.server.app(), project.parse().unwrap());
    let mut change = app.store().change().await.unwrap();
    let vault = AzureKeyVault {
        azure_environment: AzureEnvironment::Azure,
        client_id: "c1".into(),
        tenant_id: "t1".into(),
        subscription_id: "s1".into(),
        resource_group_name: "g1".into(),
        key_vault_name: "v".into(),
        key_identifier: key(n).to_string(),
        role_id: None,
        require_private_networking: false,
    };
    let stored = change.get::<EncryptionAtRest>(project).await.unwrap();
    let before =
        stored.as_ref().map_or_else(|| EncryptionAtRest::none(project), |stored| stored.document.clone());
    let with = EncryptionAtRest { azure_key_vault: Some(vault), ..before };
    match stored {
        Some(stored) => drop(change.update(&with, stored.revision).await.unwrap()),
        None => change.insert(&with).await.unwrap(),
    }
    let owner = keyward_server::customer_key::secret_owner(project);
    change.put_secret(&owner, b"the client secret").await.unwrap();
    let event = NewEvent::new(EventType::EncryptionUpdated, Actor::Operator).project(project);
    change.commit(event, app.now()).await.unwrap();
    app.nudge().jobs();
}

impl Agent {
    /// A node that has joined `project` and waits for the server.
    pub(crate) async fn enrol(site: &Site, project: &str, n: u16) -> Self {
        let app = site.server.app();
        let id = NodeId(uuid::Uuid::from_u128(u128::from(n)));
        let node = EnrolledNode {
            node_id: id,
            project: project.parse().unwrap(),
            name: format!("n{n}"),
            hostname: format!("host{n}"),
            cluster: None,
            public_key_sha256: "00".into(),
            enrolled_at: app.now(),
            revoked_at: None,
            silent_since: None,
            authority: None,
        };
        let mut change = app.store().change().await.unwrap();
        change.insert(&node).await.unwrap();
        let event = NewEvent::new(EventType::NodeEnrolled, Actor::Operator).project(node.project);
        change.commit(event, app.now()).await.unwrap();
        let observed = Observed {
            node_id: id,
            report: 0,
            at: app.now(),
            agent_version: "0.1.0".into(),
            address: format!("host{n}:{}", 27_000 + n),
            status: status(&format!("n{n}"), app.now()),
            wraps: Vec::new(),
            done_revision: 0,
            progress: None,
            held_back: Vec::new(),
            validated: Vec::new(),
            snapshots: Vec::new(),
            replica_state: None,
            unencrypted: false,
        };
        let mut agent = Self { id, observed, desired: None, primary: n == 1, masters: 0 };
        agent.report(site).await;
        agent
    }

    /// Sends a report.
    pub(crate) async fn report(&mut self, site: &Site) {
        let app = site.server.app();
        self.observed.report += 1;
        self.observed.at = app.now();
        let mut observation = app.store().observe().await.unwrap();
        observation.put_report(&self.observed, app.now()).await.unwrap();
        observation.commit().await.unwrap();
        app.nudge().jobs();
    }

    /// Reads what is asked of it.
    pub(crate) async fn fetch(&mut self, site: &Site) -> Option<&Desired> {
        let mut tx = site.server.app().store().read().await.unwrap();
        self.desired = tx.desired(self.id).await.unwrap();
        self.desired.as_ref()
    }

    /// Does all that is asked of it, and reports.
    pub(crate) async fn obey(&mut self, site: &Site) {
        let now = site.server.app().now();
        self.fetch(site).await;
        if let Some(desired) = &self.desired {
            let observed = &mut self.observed;
            let status = &mut observed.status;
            // A customer key alone means nothing to a database that is not encrypted.
            let takes_key = desired.resync || !observed.unencrypted;
            if let Some(encryption) = desired.encryption.as_ref().filter(|_| takes_key) {
                observed.unencrypted = false;
                let identifier = encryption.key_identifier.clone();
                if status.master_key.is_none() {
                    self.masters += 1;
                    let id = format!("{}-m{}", status.node, self.masters);
                    status.master_key = Some(MasterKeyStatus { id, created_at: now });
                }
                observed.wraps = vec![ObservedWrap {
                    key_identifier: identifier.to_string(),
                    public_key_sha256: "aa".into(),
                    created_at: now,
                }];
                status.customer_key =
                    Some(CustomerKeyStatus { key_identifier: identifier, public_key_sha256: "aa".into() });
            }
            let present = status.master_key.as_ref().map(|key| key.id.clone());
            if desired.rotate_master_key.is_some() && desired.rotate_master_key == present {
                self.masters += 1;
                let id = format!("{}-m{}", status.node, self.masters);
                status.master_key = Some(MasterKeyStatus { id, created_at: now });
            }
            status.state = match desired.run {
                DesiredRun::Running => NodeState::Running,
                DesiredRun::Stopped => NodeState::Stopped,
                DesiredRun::Unmanaged => status.state,
            };
            let running = status.state == NodeState::Running;
            status.master_key_held = running && status.master_key.is_some();
            status.engine =
                running.then(|| EngineStatus { kind: "mongod".into(), version: "8.0.29".into(), pid: 1 });
            observed.unencrypted |= running && status.customer_key.is_none();
            self.primary &= !desired.step_down;
            let primary = self.primary;
            observed.replica_state = (running && desired.cluster.is_some())
                .then(|| if primary { "PRIMARY".into() } else { "SECONDARY".into() });
            observed.done_revision = desired.revision;
            observed.held_back.clear();
        }
        self.report(site).await;
    }

    /// Does nothing, and says that it waits for its host's approval.
    pub(crate) async fn hold_back(&mut self, site: &Site) {
        self.fetch(site).await;
        let revision = self.desired.as_ref().map_or(0, |desired| desired.revision);
        self.observed.held_back = vec![HeldBack {
            revision,
            needs_approval: true,
            approval: Some("encryption-off".into()),
            what: "switching encryption off".into(),
            reason: "the server names no customer key any more".into(),
            hint: "keyward node approve".into(),
        }];
        self.report(site).await;
    }
}

fn status(name: &str, now: Timestamp) -> NodeStatus {
    let json = serde_json::json!({
        "node": name, "state": NodeState::Stopped, "verdict": Verdict::Valid, "reason": "waits for the server",
        "evidence": [], "customerKey": null, "masterKey": null, "masterKeyHeld": false, "memoryLocked": true,
        "databaseKeys": [], "spareDatabaseKeys": 0, "engine": null, "since": now, "warnings": [],
    });
    serde_json::from_value(json).unwrap()
}

/// A replica set of `nodes` in Azure, in the shape of 2024-08-05.
pub(crate) fn wanted(name: &str, nodes: u32, provider: &str) -> Value {
    json!({
        "name": name,
        "clusterType": "REPLICASET",
        "encryptionAtRestProvider": provider,
        "replicationSpecs": [{"regionConfigs": [{
            "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
            "electableSpecs": {"instanceSize": "M10", "nodeCount": nodes},
        }]}],
    })
}

/// The path of a project's clusters, and `rest`.
pub(crate) fn clusters(project: &str, rest: &str) -> String {
    format!("/api/atlas/v2/groups/{project}/clusters{rest}")
}

/// A cluster's `stateName`, or the code of the refusal.
pub(crate) async fn state(site: &Site, project: &str, name: &str) -> String {
    let answer = site.owner().get(&clusters(project, &format!("/{name}"))).await;
    answer.body["stateName"].as_str().unwrap_or(answer.code()).to_owned()
}

/// Lets the agents obey until `done`, for a while.
pub(crate) async fn until<F: Future<Output = bool>>(
    site: &Site,
    agents: &mut [Agent],
    what: &str,
    mut done: impl FnMut() -> F,
) {
    for _ in 0..300 {
        if done().await {
            return;
        }
        for agent in agents.iter_mut() {
            agent.obey(site).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("in vain: {what}");
}

/// A project with customer key 1, three agents, and a cluster `C0` that is ready.
pub(crate) async fn ready(site: &Site, provider: &str) -> (String, Vec<Agent>) {
    let project = site.project("P").await;
    put_customer_key(site, &project, 1).await;
    let mut agents = Vec::new();
    for n in 1..=3 {
        agents.push(Agent::enrol(site, &project, n).await);
    }
    site.owner().post(&clusters(&project, ""), wanted("C0", 3, provider)).await.expect(201);
    until(site, &mut agents, "IDLE", || async { state(site, &project, "C0").await == "IDLE" }).await;
    (project, agents)
}

/// Our own view of a cluster's nodes.
pub(crate) async fn nodes(site: &Site, project: &str, name: &str) -> Answer {
    site.owner().get(&format!("/api/keyward/v1/groups/{project}/clusters/{name}/nodes")).await.expect(200)
}

/// How many events of a type there are.
pub(crate) async fn events(site: &Site, event_type: EventType) -> u64 {
    let filter = keyward_store::EventFilter { types: vec![event_type], ..Default::default() };
    site.server.app().store().read().await.unwrap().events(&filter, 0, 1).await.unwrap().1
}
