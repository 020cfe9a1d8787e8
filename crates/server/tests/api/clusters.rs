//! Clusters: created, changed, deleted; what is refused; and what goes with them.

use std::time::Duration;

use keyward_model::event::EventType;
use serde_json::{Value, json};

use crate::{
    agents::{
        Agent, clusters as path, events, key, nodes as own_nodes, put_customer_key, ready, state, until,
        wanted,
    },
    site::{Database, Site},
};

on_each_database! {
    /// From CREATING to IDLE by reports alone, and until 404 by reports alone.
    async fn a_cluster_lives_and_dies_by_its_nodes_reports(site: Site) {
        let project = site.project("P").await;
        put_customer_key(&site, &project, 1).await;
        let mut agents = vec![Agent::enrol(&site, &project, 1).await, Agent::enrol(&site, &project, 2).await];
        let created = site.owner().post(&path(&project, ""), wanted("C0", 3, "AZURE")).await.expect(201);
        assert_eq!(created.header("content-type"), "application/vnd.atlas.2024-10-23+json;charset=utf-8");
        site.owner().post(&path(&project, ""), wanted("C0", 3, "AZURE")).await.refused(400, "DUPLICATE_CLUSTER_NAME");

        // Two nodes are taken, and the third is waited for, in so many words.
        for _ in 0..20 {
            for agent in &mut agents {
                agent.obey(&site).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let nodes = own_nodes(&site, &project, "C0").await.body;
        assert_eq!(nodes["results"].as_array().unwrap().len(), 2, "{nodes}");
        assert_eq!(nodes["cluster"]["waiting"][0]["on"], json!({"kind": "noFreeNode", "missing": 1}));
        assert_eq!(state(&site, &project, "C0").await, "CREATING");
        let status = site.owner().get(&path(&project, "/C0/status")).await.expect(200);
        assert_eq!(status.body["changeStatus"], "PENDING");

        agents.push(Agent::enrol(&site, &project, 3).await);
        until(&site, &mut agents, "IDLE", || async { state(&site, &project, "C0").await == "IDLE" }).await;
        let cluster = site.owner().get(&path(&project, "/C0")).await.expect(200).body;
        assert_eq!(
            cluster["connectionStrings"]["standard"],
            "mongodb://host1:27001,host2:27002,host3:27003/?authSource=admin&replicaSet=C0"
        );
        assert_eq!(cluster["mongoDBVersion"], "8.0.29");
        let desired = agents[0].desired.clone().unwrap();
        assert_eq!(desired.cluster.unwrap().members, ["host1:27001", "host2:27002", "host3:27003"]);
        assert_eq!(desired.encryption.unwrap().key_identifier, key(1));
        let nodes = own_nodes(&site, &project, "C0").await.body;
        assert!(nodes["results"].as_array().unwrap().iter().all(|node| node["done"] == true), "{nodes}");

        let processes = site.owner().get(&format!("/api/atlas/v2/groups/{project}/processes")).await.expect(200);
        assert_eq!(processes.body["totalCount"], 3);
        assert_eq!(processes.body["results"][0]["typeName"], "REPLICA_PRIMARY");
        let one = format!("/api/atlas/v2/groups/{project}/processes/host2:27002");
        assert_eq!(site.owner().get(&one).await.expect(200).body["version"], "8.0.29");
        let none = format!("/api/atlas/v2/groups/{project}/processes/host2:1");
        site.owner().get(&none).await.refused(404, "HOST_NOT_FOUND");

        site.owner().delete(&path(&project, "/C0")).await.expect(202);
        site.owner().delete(&path(&project, "/C0")).await.refused(400, "CLUSTER_ALREADY_REQUESTED_DELETION");
        let pause = site.owner().patch(&path(&project, "/C0"), json!({"paused": true})).await;
        pause.refused(400, "CLUSTER_ALREADY_REQUESTED_DELETION");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(state(&site, &project, "C0").await, "DELETING", "no node has reported its release");
        let gone = || async { state(&site, &project, "C0").await == "CLUSTER_NOT_FOUND" };
        until(&site, &mut agents, "gone", gone).await;
        let desired = agents[0].fetch(&site).await.unwrap();
        assert!(desired.cluster.is_none());
        assert_eq!(desired.encryption.as_ref().unwrap().key_identifier, key(1), "its data stays readable");
    }

    /// Nothing of what is refused is stored, and the field in question is named.
    async fn what_makes_no_sense_is_refused(site: Site) {
        let project = site.project("P").await;
        let refused = async |body: Value, code: &str| {
            site.owner().post(&path(&project, ""), body).await.refused(400, code)
        };
        let before = site.events().await;
        let answer = refused(wanted("C0", 3, "AZURE"), "ENCRYPTION_AT_REST_NOT_ENABLED").await;
        assert_eq!(answer.body["parameters"], json!([project]));
        refused(wanted("C0", 3, "AWS"), "ENCRYPTION_AT_REST_NOT_ENABLED").await;
        refused(wanted("C0", 3, "IBM"), "INVALID_ENUM_VALUE").await;
        refused(wanted("-C0", 3, "NONE"), "INVALID_ATTRIBUTE").await;
        refused(wanted(&"x".repeat(65), 3, "NONE"), "INVALID_ATTRIBUTE").await;
        refused(wanted("C0", 0, "NONE"), "INVALID_ATTRIBUTE").await;
        refused(wanted("C0", 51, "NONE"), "INVALID_ATTRIBUTE").await;
        let with = |pointer: &str, value: Value| {
            let mut body = wanted("C0", 3, "NONE");
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            body.pointer_mut(parent).unwrap()[name] = value;
            body
        };
        let region = "/replicationSpecs/0/regionConfigs/0";
        let size = format!("{region}/electableSpecs/instanceSize");
        let mut tenant = with(&format!("{region}/providerName"), json!("TENANT"));
        refused(tenant.clone(), "KEYWARD_TENANT_CLUSTER_NOT_SUPPORTED").await;
        tenant["encryptionAtRestProvider"] = json!("AZURE");
        refused(tenant, "CANNOT_USE_ENCRYPTION_AT_REST_TENANT").await;
        for shared in ["M0", "M2", "M5", "FLEX"] {
            let mut body = with(&size, json!(shared));
            body["encryptionAtRestProvider"] = json!("AZURE");
            refused(body, "CANNOT_USE_ENCRYPTION_AT_REST_TENANT").await;
        }
        refused(with(&size, json!("M11")), "INVALID_ENUM_VALUE").await;
        refused(with(&format!("{region}/regionName"), json!("EU_WEST_1")), "INVALID_ENUM_VALUE").await;
        refused(with(&format!("{region}/priority"), json!(8)), "INVALID_ATTRIBUTE").await;
        refused(with(&format!("{region}/priority"), json!("7")), "INVALID_ATTRIBUTE").await;
        refused(with("/clusterType", json!("SHARDED")), "KEYWARD_CLUSTER_TYPE_NOT_SUPPORTED").await;
        refused(with("/replicationSpecs", json!([])), "INVALID_ATTRIBUTE").await;
        refused(with("/replicationSpecs", json!({})), "INVALID_ATTRIBUTE").await;
        refused(with("/replicationSpecs/0/numShards", json!(1)), "INVALID_ATTRIBUTE").await;
        refused(with("/mongoDBMajorVersion", json!("3.6")), "INVALID_ENUM_VALUE").await;
        refused(with("/diskSizeGB", json!(10)), "INVALID_ATTRIBUTE").await;
        refused(with("/paused", json!(true)), "INVALID_ATTRIBUTE").await;
        let unknown = refused(with("/customerManagedKey", json!(true)), "INVALID_ATTRIBUTE").await;
        assert_eq!(unknown.body["badRequestDetail"]["fields"][0]["field"], "customerManagedKey");
        refused(json!({"clusterType": "REPLICASET"}), "MISSING_ATTRIBUTE").await;
        assert_eq!(site.events().await, before);
        let list = site.owner().get(&path(&project, "")).await.expect(200);
        assert_eq!((list.body["totalCount"].as_u64(), list.body["results"].clone()), (Some(0), json!([])));
        let none = site.owner().get(&path(&project, "/C0")).await.refused(404, "CLUSTER_NOT_FOUND");
        assert_eq!(none.body["parameters"], json!(["C0", project]));
        site.owner().patch(&path(&project, "/C0"), json!({})).await.refused(404, "CLUSTER_NOT_FOUND");
        site.owner().delete(&path(&project, "/C0")).await.refused(404, "CLUSTER_NOT_FOUND");
    }

    /// One cluster in every shape that clients ask for.
    async fn every_version_has_its_shape(site: Site) {
        let project = site.project("P").await;
        let counted = json!({
            "name": "C0", "clusterType": "REPLICASET", "diskSizeGB": 32,
            "replicationSpecs": [{"numShards": 1, "zoneName": "Zone 1", "regionConfigs": [{
                "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
                "electableSpecs": {"instanceSize": "M20", "nodeCount": 3},
            }]}],
            "tags": [{"key": "team", "value": "é"}],
        });
        let old = site.owner().version("2023-02-01").post(&path(&project, ""), counted).await.expect(201);
        assert_eq!(old.header("content-type"), "application/vnd.atlas.2023-02-01+json;charset=utf-8");
        assert!(!old.header("sunset").is_empty());
        assert_eq!((&old.body["diskSizeGB"], &old.body["replicationSpecs"][0]["numShards"]), (&json!(32.0), &json!(1)));
        assert_eq!(old.body["encryptionAtRestProvider"], "NONE");
        assert_eq!(old.body["tags"], json!([{"key": "team", "value": "é"}]));

        let new = site.owner().version("2024-08-05").get(&path(&project, "/C0")).await.expect(200).body;
        let region = &new["replicationSpecs"][0]["regionConfigs"][0];
        assert_eq!(region["electableSpecs"], json!({"instanceSize": "M20", "nodeCount": 3, "diskSizeGB": 32.0}));
        assert_eq!(region["effectiveElectableSpecs"], region["electableSpecs"]);
        assert_eq!((new.get("diskSizeGB"), new["replicationSpecs"][0].get("numShards")), (None, None));
        let complete = [
            "advancedConfiguration", "backupEnabled", "biConnector", "clusterType", "connectionStrings", "createDate",
            "diskWarmingMode", "encryptionAtRestProvider", "featureCompatibilityVersion",
            "globalClusterSelfManagedSharding", "groupId", "id", "internalClusterRole", "labels", "links",
            "mongoDBMajorVersion", "mongoDBVersion", "name", "paused", "pitEnabled", "redactClientLogData",
            "replicationSpecs", "rootCertType", "stateName", "tags", "terminationProtectionEnabled",
            "useAwsTimeBasedSnapshotCopyForFastInitialSync", "versionReleaseSystem",
        ];
        for name in complete {
            assert!(new.get(name).is_some(), "{name} is missing");
        }
        let legacy = site.owner().version("2023-01-01").get(&path(&project, "/C0")).await.expect(200).body;
        assert_eq!(legacy["providerSettings"]["instanceSizeName"], "M20");
        assert_eq!(legacy["replicationSpecs"][0]["regionsConfig"]["US_EAST_2"]["electableNodes"], 3);
        let made = json!({
            "name": "C1", "numShards": 1, "replicationFactor": 3,
            "providerSettings": {"providerName": "AZURE", "instanceSizeName": "M10", "regionName": "EUROPE_WEST"},
        });
        let made = site.owner().version("2023-01-01").post(&path(&project, ""), made).await.expect(201).body;
        assert_eq!(made["replicationSpec"]["EUROPE_WEST"]["priority"], 7);
        // What was answered can be sent back whole.
        let back = site.owner().version("2024-08-05").patch(&path(&project, "/C0"), new.clone()).await.expect(200).body;
        assert_eq!(back, new);
    }

    async fn changes_are_stored_once_and_shown(site: Site) {
        let (project, mut agents) = ready(&site, "NONE").await;
        let one = path(&project, "/C0");
        let before = site.events().await;
        let same = site.owner().patch(&one, json!({"paused": false})).await.expect(200);
        assert_eq!(same.body["stateName"], "IDLE");
        assert_eq!(site.events().await, before, "nothing changed");
        let tagged = site.owner().patch(&one, json!({"tags": [{"key": "a", "value": "b"}]})).await.expect(200);
        assert_eq!((&tagged.body["stateName"], &tagged.body["tags"][0]["key"]), (&json!("IDLE"), &json!("a")));
        assert_eq!(events(&site, EventType::ClusterTagsModified).await, 1);
        site.owner().patch(&one, json!({"terminationProtectionEnabled": true})).await.expect(200);
        let kept = site.owner().delete(&one).await;
        kept.refused(400, "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED");
        site.owner().patch(&one, json!({"name": "C1"})).await.refused(400, "INVALID_ATTRIBUTE");
        let newer = site.owner().patch(&one, json!({"mongoDBMajorVersion": "8.2"})).await;
        newer.refused(400, "KEYWARD_MONGODB_VERSION_IS_THE_HOSTS");

        let paused = site.owner().patch(&one, json!({"paused": true})).await.expect(200);
        assert_eq!((&paused.body["stateName"], &paused.body["paused"]), (&json!("UPDATING"), &json!(true)));
        until(&site, &mut agents, "paused", || async { state(&site, &project, "C0").await == "IDLE" }).await;
        assert!(agents.iter().all(|agent| agent.observed.status.state == keyward_model::NodeState::Stopped));
        let twice = site.owner().patch(&one, json!({"encryptionAtRestProvider": "AZURE"})).await;
        twice.refused(409, "CANNOT_UPDATE_PAUSED_CLUSTER");
        site.owner().patch(&one, json!({"paused": false})).await.expect(200);
        until(&site, &mut agents, "resumed", || async { state(&site, &project, "C0").await == "IDLE" }).await;
        assert_eq!(events(&site, EventType::ClusterUpdateCompleted).await, 2);
    }

    async fn roles_are_kept_apart(site: Site) {
        let project = site.project("P").await;
        let reader = site.project_key(&project, &["GROUP_READ_ONLY"]).await;
        let creator = site.project_key(&project, &["GROUP_CLUSTER_CREATOR"]).await;
        let manager = site.project_key(&project, &["GROUP_CLUSTER_MANAGER"]).await;
        let post = async |pair, name: &str| {
            site.caller(pair).post(&path(&project, ""), wanted(name, 3, "NONE")).await
        };
        post(&reader, "C0").await.refused(401, "USER_UNAUTHORIZED");
        post(&creator, "C0").await.expect(201);
        site.caller(&reader).get(&path(&project, "/C0")).await.expect(200);
        let change = json!({"terminationProtectionEnabled": false});
        site.caller(&creator).patch(&path(&project, "/C0"), change.clone()).await.refused(401, "USER_UNAUTHORIZED");
        site.caller(&manager).patch(&path(&project, "/C0"), change).await.expect(200);
        site.caller(&manager).delete(&path(&project, "/C0")).await.refused(401, "USER_UNAUTHORIZED");
        let rotate = format!("/api/keyward/v1/groups/{project}/clusters/C0/rotateMasterKeys");
        site.caller(&reader).send("POST", &rotate, None).await.refused(401, "USER_UNAUTHORIZED");
        let other = site.project("Q").await;
        let foreign = site.project_key(&other, &["GROUP_OWNER"]).await;
        let answer = site.caller(&foreign).get(&path(&project, "/C0")).await;
        assert!(matches!(answer.status, 401 | 403 | 404), "{answer:?}");
    }

    /// What stands around clusters: containers, process arguments, regions, shared offers, the list of all.
    async fn what_goes_with_clusters_answers(site: Site) {
        let (project, _agents) = ready(&site, "AZURE").await;
        let of = |rest: &str| format!("/api/atlas/v2/groups/{project}{rest}");
        let containers = site.owner().get(&of("/containers?providerName=AZURE")).await.expect(200).body;
        assert_eq!(containers["totalCount"], 1);
        let first = containers["results"][0].clone();
        assert_eq!((&first["region"], &first["provisioned"]), (&json!("US_EAST_2"), &json!(true)));
        let again = site.owner().get(&of("/containers?providerName=AZURE")).await.expect(200).body;
        assert_eq!(again["results"][0]["id"], first["id"]);
        let made = json!({"providerName": "AWS", "regionName": "EU_WEST_1", "atlasCidrBlock": "10.8.0.0/21"});
        let made = site.owner().post(&of("/containers"), made).await.expect(200).body;
        assert_eq!((&made["provisioned"], &made["regionName"]), (&json!(false), &json!("EU_WEST_1")));
        let twice = json!({"providerName": "AZURE", "region": "US_EAST_2", "atlasCidrBlock": "10.8.0.0/21"});
        site.owner().post(&of("/containers"), twice).await.refused(409, "RESOURCE_EXISTS");
        let odd = json!({"providerName": "AZURE", "region": "US_EAST_1", "atlasCidrBlock": "10.8.0.0/21"});
        site.owner().post(&of("/containers"), odd).await.refused(400, "INVALID_ENUM_VALUE");

        let args = of("/clusters/C0/processArgs");
        let usual = site.owner().version("2024-08-05").get(&args).await.expect(200).body;
        assert_eq!((&usual["javascriptEnabled"], usual.get("failIndexKeyTooLong")), (&json!(true), None));
        let old = site.owner().version("2023-01-01").get(&args).await.expect(200).body;
        assert_eq!(old["failIndexKeyTooLong"], true);
        let set = json!({"javascriptEnabled": false, "oplogSizeMB": 990});
        let set = site.owner().version("2024-08-05").patch(&args, set).await.expect(200).body;
        assert_eq!((&set["javascriptEnabled"], &set["oplogSizeMB"]), (&json!(false), &json!(990)));
        let wrong = site.owner().version("2024-08-05").patch(&args, json!({"failIndexKeyTooLong": true})).await;
        wrong.refused(400, "INVALID_ATTRIBUTE");

        let regions = site.owner().get(&of("/clusters/provider/regions?providers=AZURE&tier=M10")).await.expect(200).body;
        assert_eq!(regions["results"][0]["provider"], "AZURE");
        assert_eq!(regions["results"][0]["instanceSizes"][0]["availableRegions"][0]["name"], "US_EAST_2");
        site.owner().get(&of("/clusters/provider/regions?providers=IBM")).await.refused(400, "INVALID_QUERY_PARAMETER");
        for empty in ["/flexClusters", "/serverless"] {
            assert_eq!(site.owner().get(&of(empty)).await.expect(200).body["results"], json!([]));
        }
        let flex = site.owner().get(&of("/flexClusters/C0")).await;
        let flex = flex.refused(400, "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API");
        assert_eq!(flex.body["parameters"], json!(["C0"]));
        site.owner().get(&of("/flexClusters/nothing")).await.refused(404, "CLUSTER_NOT_FOUND");
        let restart = site.owner().send("POST", &of("/clusters/C0/restartPrimaries"), None).await;
        assert_eq!(restart.status, 501, "{restart:?}");
        let all = site.owner().get("/api/atlas/v2/clusters").await.expect(200).body;
        let cluster = &all["results"][0]["clusters"][0];
        assert_eq!((&cluster["name"], &cluster["availability"]), (&json!("C0"), &json!("available")));
        assert_eq!(cluster["versions"], json!(["8.0.29"]));
        // A project with clusters is not deleted.
        let there = site.owner().delete(&of("")).await.refused(409, "CANNOT_CLOSE_GROUP_ACTIVE_ATLAS_CLUSTERS");
        let detail = there.body["detail"].as_str().unwrap();
        assert!(detail.starts_with("The project still has 1 cluster. "), "{detail}");

        let jobs = site.owner().get("/api/keyward/v1/jobs").await.expect(200).body;
        let names: Vec<&str> = jobs["results"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"clusters") && names.contains(&"desired"), "{jobs}");
        let desired = jobs["results"].as_array().unwrap().iter().find(|job| job["name"] == "desired").unwrap();
        assert_eq!((&desired["status"]["kind"], &desired["status"]["nodes"]), (&json!("desired"), &json!(3)));
        let document = site.owner().get("/api/keyward/v1/openapi.json").await.expect(200).body;
        assert_eq!(document["paths"]["/api/keyward/v1/jobs"]["get"]["operationId"], "listJobs");
        own_answers_fit_their_schemas(&site, &project, &document).await;
    }
}

/// Every name in an answer of our own stands in its schema, and every required one in the answer.
async fn own_answers_fit_their_schemas(site: &Site, project: &str, document: &Value) {
    let of = |rest: &str| {
        format!("/api/keyward/v1{}", rest.replace("{groupId}", project).replace("{clusterName}", "C0"))
    };
    let token = of("/groups/{groupId}/joinTokens");
    site.owner().post(&token, json!({"name": "t"})).await.expect(201);
    let paths = document["paths"].as_object().unwrap();
    let mut seen = 0;
    for path in paths.keys().filter(|path| paths[*path].get("get").is_some()) {
        let path = path.strip_prefix("/api/keyward/v1").unwrap();
        if path.contains("{nodeId}") || path.contains("{orgId}") {
            continue;
        }
        seen += 1;
        let answer = site.owner().get(&of(path)).await.expect(200).body;
        let pointer = format!("/api/keyward/v1{path}");
        let schema =
            &document["paths"][&pointer]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        fits(document, schema, &answer, path);
    }
    assert!(seen >= 8, "only {seen} routes were looked at");
}

fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        return fits(document, &document["components"]["schemas"][name], value, at);
    }
    if value.is_null() {
        assert_eq!(schema["nullable"], true, "{at} is null");
        return;
    }
    match schema["type"].as_str().unwrap() {
        "object" => {
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(value.get(name.as_str().unwrap()).is_some(), "{at} has no {name}");
            }
            let Some(properties) = schema.get("properties") else { return };
            for (name, value) in value.as_object().unwrap_or_else(|| panic!("{at} is no object")) {
                let property =
                    properties.get(name).unwrap_or_else(|| panic!("{at}.{name} stands in no schema"));
                fits(document, property, value, &format!("{at}.{name}"));
            }
        }
        "array" => {
            for value in value.as_array().unwrap_or_else(|| panic!("{at} is no array")) {
                fits(document, &schema["items"], value, at);
            }
        }
        "string" => {
            let text = value.as_str().unwrap_or_else(|| panic!("{at} is no text"));
            if let Some(known) = schema["enum"].as_array() {
                assert!(known.iter().any(|known| known == text), "{at} is {text}");
            }
        }
        "integer" => assert!(value.is_i64() || value.is_u64(), "{at} is {value}"),
        "boolean" => assert!(value.is_boolean(), "{at} is {value}"),
        other => panic!("{at} has the type {other}"),
    }
}
