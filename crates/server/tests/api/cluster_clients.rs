//! The request sequences of the Atlas CLI and of the Terraform provider for clusters, with what they insist on.

use serde_json::{Value, json};

use crate::{
    agents::{Agent, clusters as path, put_customer_key, state, until},
    site::{Database, Site},
};

/// What the provider sends for `mongodbatlas_advanced_cluster`.
fn terraform(provider: &str) -> Value {
    json!({
        "clusterType": "REPLICASET",
        "name": "tf",
        "encryptionAtRestProvider": provider,
        "advancedConfiguration": {"minimumEnabledTlsProtocol": "TLS1_2"},
        "labels": [{"key": "Infrastructure Tool", "value": "MongoDB Atlas Terraform Provider"}],
        "replicationSpecs": [{"regionConfigs": [{
            "analyticsSpecs": null,
            "electableSpecs": {"instanceSize": "M10", "nodeCount": 3},
            "priority": 7, "providerName": "AZURE", "regionName": "US_EAST_2",
        }]}],
    })
}

on_each_database! {
    async fn terraform_creates_changes_and_destroys(site: Site) {
        let project = site.project("P").await;
        put_customer_key(&site, &project, 1).await;
        let mut agents = Vec::new();
        for n in 1..=3 {
            agents.push(Agent::enrol(&site, &project, n).await);
        }
        let (write, read, delete) =
            (site.owner().version("2024-10-23"), site.owner().version("2024-08-05"), site.owner().version("2023-02-01"));
        let created = write.post(&path(&project, ""), terraform("AZURE")).await.expect(201);
        assert_eq!(created.body["stateName"], "CREATING");
        until(&site, &mut agents, "IDLE", || async { state(&site, &project, "tf").await == "IDLE" }).await;
        let one = path(&project, "/tf");
        let found = read.get(&one).await.expect(200).body;
        // What was given comes back as it was; what is computed is there.
        assert_eq!(found["encryptionAtRestProvider"], "AZURE");
        assert_eq!(found["labels"], terraform("AZURE")["labels"]);
        let region = &found["replicationSpecs"][0]["regionConfigs"][0];
        for (name, value) in [("providerName", "AZURE"), ("regionName", "US_EAST_2")] {
            assert_eq!(region[name], value);
        }
        assert!(found["replicationSpecs"][0]["id"].as_str().is_some_and(|id| id.len() == 24));
        assert!(found["connectionStrings"]["standard"].as_str().unwrap().starts_with("mongodb://host1:27001,"));
        // It fails with "container id not found for AZURE:US_EAST_2" unless one comes back.
        let containers = format!("/api/atlas/v2/groups/{project}/containers?providerName=AZURE");
        let containers = site.owner().version("2023-01-01").get(&containers).await.expect(200).body;
        let there = |container: &Value| container["region"] == "US_EAST_2" && container["id"].is_string();
        assert!(containers["results"].as_array().unwrap().iter().any(there), "{containers}");
        read.get(&format!("{one}/processArgs")).await.expect(200);
        let flex = format!("/api/atlas/v2/groups/{project}/flexClusters");
        assert_eq!(site.owner().version("2024-11-13").get(&flex).await.expect(200).body["totalCount"], 0);

        // A plan without a change sends the whole resource again.
        let mut again = terraform("AZURE");
        again["replicationSpecs"][0]["id"] = found["replicationSpecs"][0]["id"].clone();
        assert_eq!(write.patch(&one, again).await.expect(200).body["stateName"], "IDLE");

        delete.delete(&one).await.expect(202);
        let gone = || async { state(&site, &project, "tf").await == "CLUSTER_NOT_FOUND" };
        until(&site, &mut agents, "gone", gone).await;
        let left = read.get(&path(&project, "")).await.expect(200).body;
        assert_eq!(left["totalCount"], 0, "the project is deleted once no cluster is left");
        site.owner().delete(&format!("/api/atlas/v2/groups/{project}")).await.expect(202);
    }

    async fn the_cli_creates_from_a_file_and_watches(site: Site) {
        let project = site.project("P").await;
        put_customer_key(&site, &project, 1).await;
        let mut agents = vec![Agent::enrol(&site, &project, 1).await];
        let cli = site.owner().version("2023-02-01");
        let version = site.plain("GET", "/api/private/unauth/nds/defaultMongoDBMajorVersion").send().await.unwrap();
        assert_eq!((version.status().as_u16(), version.text().await.unwrap()), (200, "8.0".to_owned()));
        let file = json!({
            "name": "cli", "clusterType": "REPLICASET", "encryptionAtRestProvider": "AZURE", "diskSizeGB": 32,
            "mongoDBMajorVersion": "8.0", "backupEnabled": false,
            "labels": [{"key": "Infrastructure Tool", "value": "Atlas CLI"}],
            "biConnector": {"enabled": false, "readPreference": "secondary"},
            "replicationSpecs": [{"numShards": 1, "zoneName": "Zone 1", "regionConfigs": [{
                "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
                "electableSpecs": {"instanceSize": "M10", "nodeCount": 1},
                "autoScaling": {"compute": {"enabled": false}, "diskGB": {"enabled": true}},
            }]}],
        });
        cli.post(&path(&project, ""), file.clone()).await.expect(201);
        cli.post(&path(&project, ""), file).await.refused(400, "DUPLICATE_CLUSTER_NAME");
        until(&site, &mut agents, "IDLE", || async { state(&site, &project, "cli").await == "IDLE" }).await;
        let one = path(&project, "/cli");
        let described = cli.get(&one).await.expect(200).body;
        assert_eq!((&described["diskSizeGB"], &described["mongoDBVersion"]), (&json!(32.0), &json!("8.0.29")));
        let region = &described["replicationSpecs"][0]["regionConfigs"][0];
        assert_eq!(region["autoScaling"]["diskGB"]["enabled"], true);
        let listed = cli.get(&path(&project, "?includeCount=true&itemsPerPage=100&pageNum=1")).await.expect(200).body;
        assert_eq!((&listed["totalCount"], &listed["results"][0]["name"]), (&json!(1), &json!("cli")));
        // `clusters update`: the description, changed, goes back.
        let mut update = described.clone();
        update["terminationProtectionEnabled"] = json!(true);
        let updated = cli.patch(&one, update).await.expect(200).body;
        assert_eq!(updated["terminationProtectionEnabled"], true);
        cli.patch(&one, json!({"terminationProtectionEnabled": false})).await.expect(200);
        // `clusters pause` and `start`.
        cli.patch(&one, json!({"paused": true})).await.expect(200);
        until(&site, &mut agents, "paused", || async { state(&site, &project, "cli").await == "IDLE" }).await;
        cli.patch(&one, json!({"paused": false})).await.expect(200);
        until(&site, &mut agents, "started", || async { state(&site, &project, "cli").await == "IDLE" }).await;
        cli.delete(&one).await.expect(202);
        let gone = || async { state(&site, &project, "cli").await == "CLUSTER_NOT_FOUND" };
        until(&site, &mut agents, "gone", gone).await;
        // The next thing it looks at when there is no such cluster.
        let flex = format!("/api/atlas/v2/groups/{project}/flexClusters/cli");
        site.owner().version("2024-11-13").get(&flex).await.refused(404, "CLUSTER_NOT_FOUND");
    }
}
