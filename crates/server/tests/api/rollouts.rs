//! Rolling work as simulated nodes see it: one at a time, waiting where it must, and nothing twice.

use std::time::Duration;

use keyward_model::{NodeState, event::EventType};
use serde_json::json;

use crate::{
    agents::{Agent, clusters as path, events, key, nodes, put_customer_key, ready, state, until},
    site::{Database, Site},
};

const DAY_MS: i64 = 86_400_000;

/// Which agents are asked for customer key `n`.
async fn asked_for(site: &Site, agents: &mut [Agent], n: u8) -> Vec<usize> {
    let mut asked = Vec::new();
    for (at, agent) in agents.iter_mut().enumerate() {
        let desired = agent.fetch(site).await.unwrap();
        if desired.encryption.as_ref().unwrap().key_identifier == key(n) {
            asked.push(at + 1);
        }
    }
    asked
}

/// Waits until exactly the `expected` agents are asked for customer key `n`, and a while longer for one too many.
async fn asked_soon(site: &Site, agents: &mut [Agent], n: u8, expected: &[usize]) {
    for _ in 0..60 {
        if asked_for(site, agents, n).await == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    pause().await;
    assert_eq!(asked_for(site, agents, n).await, expected);
}

/// Long enough for what happens to happen on a busy machine.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(1200)).await;
}

on_each_database! {
    async fn a_new_customer_key_goes_round_one_node_at_a_time(site: Site) {
        let (project, mut agents) = ready(&site, "AZURE").await;
        put_customer_key(&site, &project, 2).await;
        // A secondary first.
        asked_soon(&site, &mut agents, 2, &[2]).await;
        assert_eq!(state(&site, &project, "C0").await, "UPDATING");
        // Nothing happens until that one reports, whatever the others say.
        agents[0].report(&site).await;
        agents[2].report(&site).await;
        pause().await;
        assert_eq!(asked_for(&site, &mut agents, 2).await, [2]);
        let shown = nodes(&site, &project, "C0").await.body;
        let first = &shown["results"][0];
        assert_eq!((&first["waiting"][0]["on"]["kind"], &first["waiting"][0]["on"]["nodeName"]), (&json!("otherNode"), &json!("n2")));
        assert!(first["waiting"][0]["text"].as_str().unwrap().contains("node n2"), "{first}");
        agents[1].obey(&site).await;
        asked_soon(&site, &mut agents, 2, &[2, 3]).await;
        agents[2].obey(&site).await;
        // The primary last.
        asked_soon(&site, &mut agents, 2, &[1, 2, 3]).await;
        agents[0].obey(&site).await;
        until(&site, &mut [], "IDLE", || async { state(&site, &project, "C0").await == "IDLE" }).await;
        let shown = nodes(&site, &project, "C0").await.body;
        assert!(shown["results"].as_array().unwrap().iter().all(|node| node["customerKey"] == key(2).to_string()));
    }

    async fn a_rollout_waits_for_a_node_that_is_not_well(site: Site) {
        let (project, mut agents) = ready(&site, "AZURE").await;
        agents[0].observed.status.state = NodeState::Failed;
        agents[0].report(&site).await;
        until(&site, &mut [], "REPAIRING", || async { state(&site, &project, "C0").await == "REPAIRING" }).await;
        put_customer_key(&site, &project, 2).await;
        pause().await;
        assert_eq!(asked_for(&site, &mut agents, 2).await, [0usize; 0]);
        let shown = nodes(&site, &project, "C0").await.body;
        let on = &shown["results"][1]["waiting"][0]["on"];
        assert_eq!((&on["kind"], &on["nodeName"], &on["state"]), (&json!("nodeUnhealthy"), &json!("n1"), &json!("failed")));
        agents[0].observed.status.state = NodeState::Running;
        until(&site, &mut agents, "IDLE", || async { state(&site, &project, "C0").await == "IDLE" }).await;
        assert_eq!(asked_for(&site, &mut agents, 2).await, [1, 2, 3]);
    }

    /// Day 90 by the clock; a clock that jumps ahead and back rotates nothing twice.
    async fn master_keys_rotate_by_themselves_and_once(site: Site) {
        let (project, mut agents) = ready(&site, "AZURE").await;
        let key_of = |agent: &Agent| agent.observed.status.master_key.clone().unwrap().id;
        let former: Vec<String> = agents.iter().map(key_of).collect();
        site.advance_ms(89 * DAY_MS);
        for _ in 0..5 {
            for agent in &mut agents {
                agent.obey(&site).await;
            }
            pause().await;
        }
        assert_eq!(agents.iter().map(key_of).collect::<Vec<_>>(), former);
        site.advance_ms(200 * DAY_MS);
        for _ in 0..40 {
            for agent in &mut agents {
                agent.obey(&site).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        until(&site, &mut agents, "IDLE", || async { state(&site, &project, "C0").await == "IDLE" }).await;
        let once: Vec<String> = agents.iter().map(key_of).collect();
        assert_eq!(once, ["n1-m2", "n2-m2", "n3-m2"]);
        assert_eq!(events(&site, EventType::MasterKeyRotationScheduled).await, 1);
        assert_eq!(events(&site, EventType::MaintenanceStarted).await, 1);
        assert_eq!(events(&site, EventType::MaintenanceCompleted).await, 1);
        site.advance_ms(-199 * DAY_MS);
        for _ in 0..10 {
            for agent in &mut agents {
                agent.obey(&site).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(agents.iter().map(key_of).collect::<Vec<_>>(), once);
    }

    async fn a_rotation_can_be_asked_for(site: Site) {
        let (project, mut agents) = ready(&site, "AZURE").await;
        let rotate = format!("/api/keyward/v1/groups/{project}/clusters/C0/rotateMasterKeys");
        let asked = site.owner().send("POST", &rotate, None).await.expect(202);
        assert_eq!(asked.body["nodes"].as_array().unwrap().len(), 3);
        let again = site.owner().send("POST", &rotate, None).await.expect(202);
        assert_eq!(again.body["nodes"], json!([]), "they are to go already");
        pause().await;
        let mut rotating = Vec::new();
        for agent in &mut agents {
            rotating.push(agent.fetch(&site).await.unwrap().rotate_master_key.clone());
        }
        assert_eq!(rotating, [None, Some("n2-m1".to_owned()), None]);
        until(&site, &mut agents, "IDLE", || async { state(&site, &project, "C0").await == "IDLE" }).await;
        for _ in 0..5 {
            for agent in &mut agents {
                agent.obey(&site).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let keys: Vec<String> =
            agents.iter().map(|agent| agent.observed.status.master_key.clone().unwrap().id).collect();
        assert_eq!(keys, ["n1-m2", "n2-m2", "n3-m2"]);
        assert_eq!(events(&site, EventType::MasterKeyRotationScheduled).await, 1);
    }

    /// On an existing cluster, and off again: the nodes hold that back until their hosts approve, and so long it is
    /// not shown as done.
    async fn encryption_is_switched_on_and_off(site: Site) {
        let (project, mut agents) = ready(&site, "NONE").await;
        assert!(agents[0].desired.as_ref().unwrap().encryption.is_none());
        let one = path(&project, "/C0");
        let on = site.owner().patch(&one, json!({"encryptionAtRestProvider": "AZURE"})).await.expect(200);
        assert_eq!(on.body["stateName"], "UPDATING");
        pause().await;
        let mut asked = Vec::new();
        for agent in &mut agents {
            let desired = agent.fetch(&site).await.unwrap();
            assert_eq!(desired.encryption.is_some(), desired.resync);
            asked.push(desired.resync);
        }
        assert_eq!(asked, [false, true, false], "a member at a time is filled again");
        assert_eq!(events(&site, EventType::ClusterResyncStarted).await, 1);
        let whole = |desired: &keyward_model::sync::Desired| desired.encryption.is_some() && !desired.resync;
        for at in [1, 2] {
            // What was done is asked for no longer, and only then the next one begins.
            agents[at].obey(&site).await;
            pause().await;
            assert!(whole(agents[at].fetch(&site).await.unwrap()));
            agents[at].obey(&site).await;
            pause().await;
        }
        assert_eq!(events(&site, EventType::ClusterResyncStarted).await, 1);
        let shown = nodes(&site, &project, "C0").await.body;
        assert_eq!(shown["results"][0]["waiting"][0]["on"]["kind"], "stepDown", "{shown}");
        let first = agents[0].fetch(&site).await.unwrap();
        assert!(first.encryption.is_none() && first.step_down && !first.resync, "it is primary");
        assert_eq!(events(&site, EventType::ClusterResyncCompleted).await, 0);
        agents[2].primary = true;
        until(&site, &mut agents, "IDLE", || async { state(&site, &project, "C0").await == "IDLE" }).await;
        assert_eq!(asked_for(&site, &mut agents, 1).await, [1, 2, 3]);
        assert!(agents.iter().all(|agent| agent.desired.as_ref().is_some_and(whole)));
        let ended = || async { events(&site, EventType::ClusterResyncCompleted).await == 1 };
        until(&site, &mut agents, "the end is told", ended).await;

        let off = site.owner().patch(&one, json!({"encryptionAtRestProvider": "NONE"})).await.expect(200);
        assert_eq!(off.body["stateName"], "UPDATING");
        pause().await;
        for agent in &mut agents {
            agent.hold_back(&site).await;
            assert!(agent.desired.as_ref().unwrap().encryption.is_none());
        }
        pause().await;
        assert_eq!(state(&site, &project, "C0").await, "UPDATING");
        let shown = nodes(&site, &project, "C0").await.body;
        let node = &shown["results"][0];
        assert_eq!(node["waiting"][0]["on"]["kind"], "approval", "{node}");
        assert_eq!(node["heldBack"][0]["hint"], "keyward node approve");
        until(&site, &mut agents, "approved", || async { state(&site, &project, "C0").await == "IDLE" }).await;
    }

    /// A member that was revoked no longer counts: another node takes its place, and a deletion does not wait for it.
    async fn a_revoked_node_is_replaced_and_holds_nothing_up(site: Site) {
        let (project, mut agents) = ready(&site, "AZURE").await;
        let lost = agents.pop().unwrap();
        let node = format!("/api/keyward/v1/groups/{project}/nodes/{}", lost.id);
        site.owner().delete(&node).await.expect(204);
        until(&site, &mut agents, "UPDATING", || async { state(&site, &project, "C0").await == "UPDATING" }).await;
        let missing = json!({"kind": "noFreeNode", "missing": 1});
        let waits = || async { nodes(&site, &project, "C0").await.body["cluster"]["waiting"][0]["on"] == missing };
        until(&site, &mut agents, "the missing node is named", waits).await;
        agents.push(Agent::enrol(&site, &project, 4).await);
        until(&site, &mut agents, "IDLE", || async { state(&site, &project, "C0").await == "IDLE" }).await;
        site.owner().delete(&path(&project, "/C0")).await.expect(202);
        let gone = || async { state(&site, &project, "C0").await == "CLUSTER_NOT_FOUND" };
        until(&site, &mut agents, "gone", gone).await;
    }

    /// Of two servers on one store one does a job; when it stops, the other goes on.
    async fn another_server_takes_the_jobs_over(site: Site) {
        let mut config = site.server.app().config().clone();
        if config.store_url.is_none() {
            // SQLite's file has one server.
            return;
        }
        for listen in [&mut config.api_listen, &mut config.agent_listen] {
            listen.set_port(0);
        }
        let first = site.server.app().activities().clone();
        let doing = |activities: &keyward_server::jobs::Activities| {
            activities.all().into_iter().find(|job| job.name == "desired").is_some_and(|job| job.passes > 0)
        };
        for _ in 0..100 {
            if doing(&first) {
                break;
            }
            pause().await;
        }
        let second = keyward_server::serve(config).await.unwrap();
        pause().await;
        let other = second.app().activities().clone();
        let waits = other.all().into_iter().find(|job| job.name == "desired").unwrap();
        assert!(waits.elsewhere && waits.passes == 0, "{waits:?}");
        site.server.stop().await;
        for _ in 0..100 {
            second.app().nudge().jobs();
            if doing(&other) {
                break;
            }
            pause().await;
        }
        let waits = other.all().into_iter().find(|job| job.name == "desired").unwrap();
        assert!(!waits.elsewhere && waits.passes > 0, "{waits:?}");
        second.stop().await;
    }
}
