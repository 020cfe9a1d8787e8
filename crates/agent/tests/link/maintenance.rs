//! The maintenance window from the API to real nodes: announced, put off, opened; each master key rotates once, one node
//! at a time, whatever the server's clock does.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use keyward_model::{
    event::EventType,
    id::{NodeId, ProjectId},
    node::EnrolledNode,
};
use serde_json::{Value, json};

use crate::{
    server::{join, until_link, waiting_node_at},
    site::{Site, azure, azure_key_vault, until},
    support::{Agent, World, free_port},
};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

struct Scene {
    site: Site,
    project: String,
}

impl Scene {
    /// Our own view of the cluster's nodes.
    async fn nodes(&self) -> Result<Vec<Value>> {
        let path = format!("/api/keyward/v1/groups/{}/clusters/orders/nodes", self.project);
        let answer = self.site.ask(200, "GET", &path, None).await?;
        Ok(answer["results"].as_array().context("nodes")?.clone())
    }

    async fn master_keys(&self) -> Result<BTreeMap<String, String>> {
        let of = |node: &Value| {
            let text = |name: &str| node[name].as_str().map(str::to_owned).context("a text");
            Ok((text("name")?, text("masterKeyId")?))
        };
        self.nodes().await?.iter().map(of).collect()
    }

    /// Nodes that are asked to be rid of the master key that they have. All of one moment.
    async fn rotating(&self) -> Result<Vec<NodeId>> {
        let project: ProjectId = self.project.parse()?;
        let mut tx = self.site.app().store().read().await?;
        let mut rotating = Vec::new();
        for node in tx.list::<EnrolledNode>(project).await? {
            let desired = tx.desired(node.node_id).await?.and_then(|desired| desired.rotate_master_key);
            let has = tx.report(node.node_id).await?.and_then(|report| report.observed.status.master_key);
            if let (Some(desired), Some(has)) = (desired, has)
                && desired == has.id
            {
                rotating.push(node.node_id);
            }
        }
        Ok(rotating)
    }

    /// Lets the planner look from beginning to end.
    async fn pass(&self) -> Result<()> {
        let app = self.site.app();
        let passes =
            || app.activities().all().iter().find(|job| job.name == "desired").map_or(0, |job| job.passes);
        let before = passes();
        until("the planner looks", async || {
            app.nudge().jobs();
            Ok(passes() >= before + 2)
        })
        .await
    }

    async fn told(&self) -> Result<[u64; 5]> {
        let mut counts = [0; 5];
        for (count, of) in counts.iter_mut().zip([
            EventType::MaintenanceInAdvance,
            EventType::MaintenanceDeferred,
            EventType::MaintenanceStarted,
            EventType::MasterKeyRotationScheduled,
            EventType::MaintenanceCompleted,
        ]) {
            *count = self.site.events(of).await?;
        }
        Ok(counts)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn master_keys_rotate_once_when_the_deferred_window_opens() -> Result<()> {
    let world = World::new().await?;
    let vault = world.vault.running.as_ref().context("the vault runs")?.description().clone();
    let site = Site::start(&world.path("server"), |config| {
        config.azure = Some(azure(&vault));
        config.customer_key.new_credential_wait = Duration::ZERO;
    })
    .await?;
    let project = site.project("windows").await?;
    let group = format!("/api/atlas/v2/groups/{project}");
    let key = json!({ "azureKeyVault": azure_key_vault(&vault, &world.key_identifier) });
    site.ask(200, "PATCH", &format!("{group}/encryptionAtRest"), Some(key)).await?;

    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let (_, config) = waiting_node_at(&world, name, free_port()?)?;
        let agent = Agent::start(config.clone()).await?;
        join(&agent.client, &site.token(&project).await?).await?;
        nodes.push((config, agent));
    }
    let cluster = json!({
        "name": "orders", "clusterType": "REPLICASET", "encryptionAtRestProvider": "AZURE",
        "replicationSpecs": [{"regionConfigs": [{
            "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
            "electableSpecs": {"instanceSize": "M10", "nodeCount": 3},
        }]}],
    });
    site.ask(201, "POST", &format!("{group}/clusters"), Some(cluster)).await?;
    let idle = async |site: &Site| {
        let shown = site.ask(200, "GET", &format!("{group}/clusters/orders"), None).await?;
        Ok(shown["stateName"] == "IDLE")
    };
    until("the cluster is ready", async || idle(&site).await).await?;

    let scene = Scene { site, project };
    let site = &scene.site;
    let first = scene.master_keys().await?;
    ensure!(first.len() == 3, "{first:?}");
    let mut engines = Vec::new();
    for (_, agent) in &nodes {
        engines.push(agent.client.status().await?.engine.context("it runs")?.pid);
    }

    // A window two days before the keys are 90 days old.
    let now = || jiff::Timestamp::now().as_millisecond();
    let began = now();
    let start = (began + 88 * DAY_MS) / HOUR_MS * HOUR_MS;
    let window = jiff::Timestamp::from_millisecond(start)?.to_zoned_datetime(jiff::tz::TimeZone::UTC);
    let day = i64::from(window.weekday().to_sunday_one_offset());
    let path = format!("{group}/maintenanceWindow");
    site.ask(200, "PATCH", &path, Some(json!({ "dayOfWeek": day, "hourOfDay": window.hour() }))).await?;
    site.set_ahead_ms(84 * DAY_MS);
    scene.pass().await?;
    assert_eq!(scene.told().await?, [0; 5]);
    // Three days before it is announced, and can be put off: past day 90.
    site.set_ahead_ms(86 * DAY_MS);
    until("the announcement", async || Ok(scene.told().await? == [1, 0, 0, 0, 0])).await?;
    site.ask(200, "POST", &format!("{path}/defer"), None).await?;
    assert_eq!(site.ask(200, "GET", &path, None).await?["numberOfDeferrals"], 1);
    site.set_ahead_ms(start + 5 * 60_000 - now());
    scene.pass().await?;
    assert_eq!(scene.told().await?, [1, 1, 0, 0, 0], "it was put off");
    assert_eq!(scene.master_keys().await?, first);

    // A week later it opens. The agents are restarted, so that the server hears of them at once.
    site.set_ahead_ms(start + 7 * DAY_MS + 5 * 60_000 - now());
    let mut restarted = Vec::new();
    for (config, agent) in nodes {
        agent.end().await?;
        let agent = Agent::start(config).await?;
        until_link(&agent.client, "heard of", |link| link.last_contact.is_some()).await?;
        restarted.push(agent);
    }
    let mut seen = std::collections::BTreeSet::new();
    until("all three rotated", async || {
        let rotating = scene.rotating().await?;
        ensure!(rotating.len() <= 1, "two at a time: {rotating:?}");
        seen.extend(rotating);
        let keys = scene.master_keys().await?;
        Ok(keys.iter().all(|(name, key)| first[name] != *key))
    })
    .await?;
    ensure!(!seen.is_empty(), "never seen rotating");
    until("maintenance ends", async || Ok(scene.told().await? == [1, 1, 1, 1, 1])).await?;
    until("all is as wanted", async || idle(site).await).await?;
    let second = scene.master_keys().await?;

    // The clock jumps ahead, and back to before it all: nothing is due, and nothing rotates a second time.
    for ahead in [150 * DAY_MS, 0, 96 * DAY_MS] {
        site.set_ahead_ms(ahead);
        scene.pass().await?;
        scene.pass().await?;
        assert_eq!(scene.rotating().await?, [], "{ahead}");
    }
    assert_eq!(scene.master_keys().await?, second);
    assert_eq!(scene.told().await?, [1; 5]);
    for (agent, engine) in restarted.iter().zip(engines) {
        assert_eq!(
            agent.client.status().await?.engine.context("it runs")?.pid,
            engine,
            "no process restarted"
        );
    }
    for agent in restarted {
        agent.stop_all().await?;
    }
    scene.site.stop().await;
    Ok(())
}
