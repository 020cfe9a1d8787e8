//! Alert configurations and alerts, as Atlas' clients use them, and what raises and resolves an alert.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    agents::Agent,
    site::{Database, Site},
};

fn configs(project: &str) -> String {
    format!("/api/atlas/v2/groups/{project}/alertConfigs")
}

fn host_down() -> Value {
    json!({
        "eventTypeName": "HOST_DOWN", "enabled": true,
        "notifications": [{"typeName": "GROUP", "intervalMin": 5, "delayMin": 0, "emailEnabled": true, "roles": ["GROUP_OWNER"]}],
    })
}

on_each_database! {
    async fn a_configuration_is_made_changed_switched_and_deleted(site: Site) {
        let project = site.project("Configs").await;
        let (owner, path) = (site.owner(), configs(&project));
        let names = owner.get("/api/atlas/v2/alertConfigs/matchers/fieldNames").await.expect(200).body;
        assert!(names.as_array().unwrap().contains(&json!("HOSTNAME_AND_PORT")), "a bare array: {names}");

        let secret = "xoxb-1234567890-sesame";
        let mut body = host_down();
        body["notifications"] = json!([{"typeName": "SLACK", "channelName": "#ops", "apiToken": secret}]);
        body["matchers"] = json!([{"fieldName": "CLUSTER_NAME", "operator": "EQUALS", "value": "orders"}]);
        let made = owner.post(&path, body).await.expect(201).body;
        let one = format!("{path}/{}", made["id"].as_str().unwrap());
        assert_eq!(made["notifications"][0]["apiToken"], "****same");
        assert_eq!(made["notifications"][0]["notifierId"].as_str().unwrap().len(), 24);
        assert_eq!(owner.get(&one).await.expect(200).body, made);
        assert_eq!(owner.get(&path).await.expect(200).body["totalCount"], 1);

        // As TF does: everything that was read comes back, one thing changed. The secret stays though it is masked.
        let mut back = made.clone();
        back["enabled"] = json!(false);
        let changed = owner.put(&one, back).await.expect(200).body;
        assert_eq!(changed["enabled"], false);
        assert_eq!(changed["notifications"], made["notifications"]);
        assert_eq!(changed["created"], made["created"]);
        let mut tx = site.server.app().store().read().await.unwrap();
        let kept = tx.secret(&format!("alert_config:{}", made["id"].as_str().unwrap())).await.unwrap().unwrap();
        drop(tx);
        assert!(String::from_utf8_lossy(&kept).contains(secret));
        assert!(!site.events_text().await.contains("sesame"));

        assert_eq!(owner.patch(&one, json!({"enabled": true})).await.expect(200).body["enabled"], true);
        owner.patch(&one, json!({"enabled": "yes"})).await.refused(400, "INVALID_ATTRIBUTE");
        owner.delete(&one).await.expect(204);
        owner.get(&one).await.refused(404, "ALERT_CONFIG_NOT_FOUND");
        owner.delete(&one).await.refused(404, "ALERT_CONFIG_NOT_FOUND");
    }

    async fn a_configuration_is_refused_with_atlas_codes(site: Site) {
        let project = site.project("Refused").await;
        let (owner, path) = (site.owner(), configs(&project));
        let with = |name: &str, value: Value| {
            let mut body = host_down();
            body[name] = value;
            body
        };
        let threshold = json!({"operator": "GREATER_THAN", "threshold": 90, "units": "DAYS"});
        let mut age = with("eventTypeName", json!("AZURE_ENCRYPTION_KEY_NEEDS_ROTATION"));
        let events = site.events().await;
        let cases = [
            (with("eventTypeName", json!("OUTSIDE_METRIC_THRESHOLD")), "INVALID_EVENT_TYPE_FOR_ALERT"),
            (with("notifications", json!([])), "MISSING_NOTIFICATIONS"),
            (with("threshold", threshold.clone()), "THRESHOLD_PRESENT"),
            (age.clone(), "MISSING_THRESHOLD"),
            (with("notifications", json!([{"typeName": "GROUP", "intervalMin": 1}])), "NOTIFICATION_INTERVAL_OUT_OF_RANGE"),
            (with("notifications", json!([{"typeName": "PIGEON"}])), "INVALID_ATTRIBUTE"),
            (with("matchers", json!([{"fieldName": "MOOD"}])), "INVALID_ATTRIBUTE"),
            (with("surprise", json!(1)), "INVALID_ATTRIBUTE"),
            (json!([]), "INVALID_ATTRIBUTE"),
            (json!({"notifications": []}), "MISSING_ATTRIBUTE"),
        ];
        for (body, code) in cases {
            owner.post(&path, body).await.refused(400, code);
        }
        age["threshold"] = json!({"operator": "LESS_THAN", "threshold": 90, "units": "DAYS"});
        owner.post(&path, age.clone()).await.refused(400, "INVALID_OPERATOR_FOR_EVENT_TYPE");
        age["threshold"] = json!({"operator": "GREATER_THAN", "threshold": 90, "units": "HOURS"});
        owner.post(&path, age.clone()).await.refused(400, "UNITS_MISMATCH");
        assert_eq!(site.events().await, events, "nothing was stored");
        // Complaint 6: whoever rotates once a year says so.
        age["threshold"] = json!({"operator": "GREATER_THAN", "threshold": 400, "units": "DAYS"});
        owner.post(&path, age).await.expect(201);
    }

    async fn a_silent_node_raises_an_alert_that_is_acknowledged_and_resolved(site: Site) {
        let project = site.project("Silence").await;
        let owner = site.owner();
        owner.post(&configs(&project), host_down()).await.expect(201);
        let mut tracked = host_down();
        tracked["notifications"][0]["delayMin"] = json!(60);
        owner.post(&configs(&project), tracked).await.expect(201);
        let mut agents = Vec::new();
        for n in 1..=3 {
            agents.push(Agent::enrol(&site, &project, n).await);
        }
        let cluster = json!({
            "name": "orders", "clusterType": "REPLICASET",
            "replicationSpecs": [{"regionConfigs": [{
                "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
                "electableSpecs": {"instanceSize": "M10", "nodeCount": 3},
            }]}],
        });
        let clusters = format!("/api/atlas/v2/groups/{project}/clusters");
        owner.version("2024-10-23").post(&clusters, cluster).await.expect(201);
        while owner.get(&format!("{clusters}/orders")).await.body["stateName"] != "IDLE" {
            for agent in &mut agents {
                agent.obey(&site).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }

        let alerts = format!("/api/atlas/v2/groups/{project}/alerts");
        let count = |status: &'static str| {
            let path = format!("{alerts}?status={status}");
            let owner = owner.clone();
            async move { owner.get(&path).await.expect(200).body["totalCount"].as_u64().unwrap() }
        };
        assert_eq!(count("OPEN").await, 0);
        site.advance_ms(200_000);
        site.server.app().nudge().jobs();
        until("three nodes are missed", || async { count("OPEN").await == 3 }).await;
        assert_eq!(count("TRACKING").await, 3, "the other configuration waits an hour");
        let open = owner.get(&format!("{alerts}?status=OPEN")).await.body["results"][0].clone();
        assert_eq!((&open["eventTypeName"], &open["clusterName"]), (&json!("HOST_DOWN"), &json!("orders")));
        assert!(open["hostnameAndPort"].as_str().unwrap().starts_with("host"), "{open}");
        let one = format!("{alerts}/{}", open["id"].as_str().unwrap());
        assert_eq!(owner.get(&one).await.expect(200).body, open);
        let of = owner.get(&format!("{one}/alertConfigs")).await.expect(200);
        assert_eq!(of.body["results"][0]["id"], open["alertConfigId"]);
        let of = format!("{}/{}/alerts", configs(&project), open["alertConfigId"].as_str().unwrap());
        assert_eq!(owner.get(&of).await.expect(200).body["totalCount"], 3);

        let until_then = json!({"acknowledgedUntil": "2099-01-01T00:00:00Z", "acknowledgementComment": "known"});
        let seen = owner.version("2024-05-30").patch(&one, until_then.clone()).await.expect(200).body;
        assert_eq!(seen["acknowledgedUntil"], "2099-01-01T00:00:00Z");
        assert_eq!(seen["acknowledgementComment"], "known");
        let undo = json!({"unacknowledgeAlert": true});
        owner.version("2023-01-01").patch(&one, undo.clone()).await.refused(400, "INVALID_ATTRIBUTE");
        let undone = owner.version("2024-05-30").patch(&one, undo).await.expect(200).body;
        assert_eq!(undone["acknowledgedUntil"], Value::Null);
        owner.patch(&one, json!({})).await.refused(400, "MISSING_ATTRIBUTE");
        owner.patch(&one, json!({"acknowledgedUntil": "soon"})).await.refused(400, "INVALID_ATTRIBUTE");
        owner.get(&format!("{alerts}/0123456789abcdef01234567")).await.refused(404, "ALERT_NOT_FOUND");
        let loud = owner.get(&format!("{alerts}?status=LOUD")).await.refused(400, "INVALID_QUERY_PARAMETER");
        assert!(loud.text.contains("status names LOUD, which is not OPEN, TRACKING or CLOSED"), "{}", loud.text);

        // Our own route says what was found.
        let words = owner.get(&format!("/api/keyward/v1/groups/{project}/alerts")).await.expect(200);
        assert!(words.body["results"][0]["text"].as_str().unwrap().contains("last reported"), "{}", words.text);

        // They report again, an hour later.
        site.advance_ms(60_000);
        for agent in &mut agents {
            agent.report(&site).await;
        }
        until("all is well", || async { count("OPEN").await + count("TRACKING").await == 0 }).await;
        assert_eq!(count("CLOSED").await, 6);
        let closed = owner.get(&one).await.body;
        assert!(closed["resolved"].is_string() && closed["lastNotified"].is_null(), "{closed}");
    }
}

/// Asks until it holds; the jobs run by themselves.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never came that {what}");
}
