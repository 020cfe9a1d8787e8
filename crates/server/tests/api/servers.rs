//! Two servers on one PostgreSQL: what is done through one takes effect at the other, at once and once.

use std::time::{Duration, Instant};

use keyward_model::event::EventType;
use keyward_server::{App, Running};

use crate::{
    agents::{Agent, clusters, events, ready, state, until},
    site::{Answer, Database, Pair, Site, nonce_of, sign},
};

const MINUTE_MS: i64 = 60_000;

fn passes(app: &App, name: &str) -> u64 {
    app.activities().all().into_iter().find(|job| job.name == name).map_or(0, |job| job.passes)
}

/// Lets a job pass from beginning to end on one of the servers.
async fn pass(apps: &[&App], name: &str) {
    let count = || apps.iter().map(|app| passes(app, name)).sum::<u64>();
    let (before, deadline) = (count(), Instant::now() + Duration::from_secs(30));
    // When another one begins, the one before has ended.
    while count() < before + 2 {
        assert!(Instant::now() < deadline, "the job {name} never passed");
        for app in apps {
            app.nudge().jobs();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn two() -> Option<(Site, Running)> {
    let site = Site::start(Database::Postgresql).await?;
    pass(&[site.server.app()], "desired").await;
    let other = site.another_server().await;
    Some((site, other))
}

/// The first server has the jobs' leases and passes every 15 s by itself; what is asked of the second is begun before.
#[tokio::test]
async fn jobs_follow_what_another_server_was_asked() {
    let Some((mut site, other)) = two().await else { return };
    let (project, mut agents) = ready(&site, "AZURE").await;
    site.url = format!("https://localhost:{}", other.api_addr.port());
    let before = passes(site.server.app(), "desired");
    let rotate = format!("/api/keyward/v1/groups/{project}/clusters/C0/rotateMasterKeys");
    site.owner().send("POST", &rotate, None).await.expect(202);
    let began = Instant::now();
    let mut asked = false;
    while !asked {
        for agent in &mut agents {
            asked |= agent.fetch(&site).await.unwrap().rotate_master_key.is_some();
        }
        assert!(began.elapsed() < Duration::from_secs(8), "nobody told the server that has the jobs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(passes(site.server.app(), "desired") > before, "the lease stayed where it was");
    assert_eq!(passes(other.app(), "desired"), 0);

    // The first server goes in the middle of the rollout: the second goes on, and nothing is done twice.
    site.server.app().stop().cancel();
    let keys = |agents: &[Agent]| -> Vec<String> {
        agents.iter().map(|agent| agent.observed.status.master_key.clone().unwrap().id).collect()
    };
    for _ in 0..200 {
        for agent in &mut agents {
            agent.obey(&site).await;
        }
        other.app().nudge().jobs();
        if keys(&agents) == ["n1-m2", "n2-m2", "n3-m2"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..5 {
        for agent in &mut agents {
            agent.obey(&site).await;
        }
        pass(&[other.app()], "desired").await;
    }
    assert_eq!(keys(&agents), ["n1-m2", "n2-m2", "n3-m2"]);
    assert_eq!(events(&site, EventType::MasterKeyRotationScheduled).await, 1);
    other.stop().await;
}

#[tokio::test]
async fn a_nonce_is_good_for_one_request_over_both_servers() {
    let Some((site, other)) = two().await else { return };
    let urls = [site.url.clone(), format!("https://localhost:{}", other.api_addr.port())];
    let http = crate::site::client(&std::fs::read(site.ca_file()).unwrap());
    let path = "/api/atlas/v2/groups";
    let send = async |url: &str, authorization: Option<&str>| {
        let mut request =
            http.get(format!("{url}{path}")).header("accept", "application/vnd.atlas.2025-03-12+json");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        Answer::of(request.send().await.unwrap()).await
    };
    let owner: &Pair = &site.owner;
    for (one, two) in [(0, 1), (1, 0)] {
        let nonce = nonce_of(send(&urls[one], None).await.header("www-authenticate"));
        // Given out by the one, used at the other.
        let first = sign(owner, &nonce, 1, "GET", path);
        send(&urls[two], Some(&first)).await.expect(200);
        for url in &urls {
            let again = send(url, Some(&first)).await;
            assert_eq!(again.status, 401, "{}", again.text);
            assert!(again.header("www-authenticate").contains("stale=true"));
        }
        let second = sign(owner, &nonce, 2, "GET", path);
        send(&urls[one], Some(&second)).await.expect(200);
        assert_eq!(send(&urls[two], Some(&second)).await.status, 401);
    }
    // At both in the same moment.
    for _ in 0..10 {
        let nonce = nonce_of(send(&urls[0], None).await.header("www-authenticate"));
        let signed = sign(owner, &nonce, 1, "GET", path);
        let (a, b) = tokio::join!(send(&urls[0], Some(&signed)), send(&urls[1], Some(&signed)));
        let mut statuses = [a.status, b.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401], "{} {}", a.text, b.text);
    }
    other.stop().await;
    site.server.stop().await;
}

on_each_database! {
    /// Where the database is PostgreSQL, with two servers.
    async fn a_silent_node_is_told_of_once_and_so_is_its_return(site: Site) {
        let project = site.project("P").await;
        let mut agents = vec![
            Agent::enrol(&site, &project, 1).await,
            Agent::enrol(&site, &project, 2).await,
        ];
        let other = match site.server.app().config().store_url {
            Some(_) => Some(site.another_server().await),
            None => None,
        };
        let mut apps = vec![site.server.app()];
        apps.extend(other.as_ref().map(Running::app));
        let told = async || {
            (events(&site, EventType::HostDown).await, events(&site, EventType::HostUp).await)
        };
        pass(&apps, "hosts").await;
        // A minute that is gone at once ends the job's lease: where there are two servers the other one may take it, and
        // then listens from there on.
        let latest = if apps.len() == 1 { 6 } else { 30 };
        let mut told_at = None;
        for minute in 1.. {
            site.advance_ms(MINUTE_MS);
            agents[1].report(&site).await;
            pass(&apps, "hosts").await;
            if told().await != (0, 0) {
                told_at.get_or_insert(minute);
            }
            match told_at {
                Some(at) => assert_eq!(told().await, (1, 0), "minute {minute}, told at {at}"),
                None => assert!(minute < latest, "never told"),
            }
            if told_at.is_some_and(|at| minute > at) {
                break;
            }
        }
        assert!((6..=latest).contains(&told_at.unwrap()), "told in minute {told_at:?}");
        let shown = site.events_text().await;
        assert!(shown.contains("HOST_DOWN") && shown.contains("\"node\":\"n1\""), "{shown}");
        assert!(!shown.contains("\"node\":\"n2\""), "{shown}");

        // The clock jumps, or nobody listened: that is no silence of the node's.
        site.advance_ms(600 * MINUTE_MS);
        pass(&apps, "hosts").await;
        pass(&apps, "hosts").await;
        assert_eq!(told().await, (1, 0));
        site.advance_ms(-600 * MINUTE_MS);
        pass(&apps, "hosts").await;
        assert_eq!(told().await, (1, 0));

        agents[0].report(&site).await;
        site.advance_ms(MINUTE_MS / 2);
        pass(&apps, "hosts").await;
        site.advance_ms(MINUTE_MS / 2);
        pass(&apps, "hosts").await;
        assert_eq!(told().await, (1, 1));

        // One that is revoked is not missed.
        let revoked = agents.remove(1);
        let node = format!("/api/keyward/v1/groups/{project}/nodes/{}", revoked.id);
        site.owner().delete(&node).await.expect(204);
        for _ in 0..7 {
            site.advance_ms(MINUTE_MS);
            agents[0].report(&site).await;
            pass(&apps, "hosts").await;
        }
        assert_eq!(told().await, (1, 1));
        if let Some(other) = other {
            other.stop().await;
        }
    }

    /// As in Atlas, clusters keep a project. Nodes that are in none are let go, each with its event, and may join
    /// anywhere again.
    async fn a_deleted_project_lets_its_nodes_go(site: Site) {
        let (project, mut agents) = ready(&site, "AZURE").await;
        let path = format!("/api/atlas/v2/groups/{project}");
        let before = site.events().await;
        site.owner().delete(&path).await.refused(409, "CANNOT_CLOSE_GROUP_ACTIVE_ATLAS_CLUSTERS");
        assert_eq!(site.events().await, before);
        site.owner().delete(&clusters(&project, "/C0")).await.expect(202);
        let gone = || async { state(&site, &project, "C0").await == "CLUSTER_NOT_FOUND" };
        until(&site, &mut agents, "gone", gone).await;
        // One that was revoked before is not told of again.
        let node = format!("/api/keyward/v1/groups/{project}/nodes/{}", agents[0].id);
        site.owner().delete(&node).await.expect(204);
        let revoked = async || events(&site, EventType::NodeRevoked).await;
        assert_eq!((revoked().await, events(&site, EventType::ProjectDeleted).await), (1, 0));
        site.owner().delete(&path).await.expect(202);
        assert_eq!((revoked().await, events(&site, EventType::ProjectDeleted).await), (3, 1));
        let mut tx = site.server.app().store().read().await.unwrap();
        for agent in &agents {
            assert!(tx.get::<keyward_model::node::EnrolledNode>(agent.id).await.unwrap().is_none());
        }
        let left = (tx.desired(agents[1].id).await.unwrap(), tx.report(agents[1].id).await.unwrap());
        assert_eq!(left, (None, None));
        drop(tx);
        // They join another project with the reports they go on counting.
        let other = site.project("Q").await;
        for n in 1..=3 {
            Agent::enrol(&site, &other, n).await;
        }
    }
}
