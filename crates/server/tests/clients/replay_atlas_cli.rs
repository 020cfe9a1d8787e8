//! What the Atlas CLI sends for this feature, replayed: every request first unsigned with its whole body, then signed
//! with a fresh nonce (as [`crate::site::Caller`] does), old versions for clusters, polling until the end, telemetry.

use serde_json::{Value, json};

use crate::{
    agents::Agent,
    customer_key::CustomerKey,
    site::{Answer, Database, Site, nonce_of, sign},
};

on_each_database! {
    from Site::start_with_vault;

    async fn replayed(site: Site) {
        replay(site).await;
    }
}

async fn replay(site: Site) {
    challenge(&site).await;
    let key = CustomerKey::make(&site, "cli").await;
    let cli = site.owner();

    // atlas projects create
    let made = cli
        .version("2023-01-01")
        .post("/api/atlas/v2/groups", json!({"name": "cli", "orgId": site.org}))
        .await;
    assert_eq!(made.header("content-type"), "application/vnd.atlas.2023-01-01+json;charset=utf-8");
    let project = made.expect(201).body["id"].as_str().unwrap().to_owned();
    let group = format!("/api/atlas/v2/groups/{project}");

    // atlas api encryptionAtRestUsingCustomerKeyManagement updateEncryptionAtRest --file b.json
    let encryption = format!("{group}/encryptionAtRest");
    let old = cli.version("2023-01-01");
    old.patch(&encryption, json!({"azureKeyVault": key.body()})).await.expect(200);

    // atlas clusters create --file spec.json: the default version, then the cluster as version 2023-02-01 has it.
    let version =
        site.plain("GET", "/api/private/unauth/nds/defaultMongoDBMajorVersion").send().await.unwrap();
    let version = Answer::of(version).await.expect(200);
    assert_eq!(
        (version.text.as_str(), version.header("content-type").split(';').next()),
        ("8.0", Some("text/plain"))
    );
    let clusters = format!("{group}/clusters");
    let clusters_2023 = cli.version("2023-02-01");
    let spec = json!({
        "name": "orders",
        "groupId": project,
        "clusterType": "REPLICASET",
        "diskSizeGB": 10,
        "mongoDBMajorVersion": "8.0",
        "backupEnabled": false,
        "biConnector": {"enabled": false},
        "encryptionAtRestProvider": "AZURE",
        "terminationProtectionEnabled": false,
        "labels": [{"key": "Infrastructure Tool", "value": "Atlas CLI"}],
        "replicationSpecs": [{
            "numShards": 1,
            "zoneName": "Zone 1",
            "regionConfigs": [{
                "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
                "electableSpecs": {"instanceSize": "M10", "nodeCount": 3},
            }],
        }],
    });
    let created = clusters_2023.post(&clusters, spec.clone()).await.expect(201);
    assert_eq!(created.header("content-type"), "application/vnd.atlas.2023-02-01+json;charset=utf-8");
    assert!(created.header("sunset").ends_with("GMT") && created.header("deprecation").ends_with("GMT"));
    let cluster = &created.body;
    assert_eq!(
        (&cluster["stateName"], &cluster["encryptionAtRestProvider"]),
        (&json!("CREATING"), &json!("AZURE"))
    );
    assert_eq!(
        (&cluster["diskSizeGB"], &cluster["replicationSpecs"][0]["numShards"]),
        (&json!(10.0), &json!(1))
    );
    // The CLI looks for this code.
    clusters_2023.post(&clusters, spec).await.refused(400, "DUPLICATE_CLUSTER_NAME");

    // atlas clusters watch
    let one = format!("{clusters}/orders");
    let mut agents = Vec::new();
    for n in 1..=3 {
        agents.push(Agent::enrol(&site, &project, n).await);
    }
    let watched = wait_for(&site, &mut agents, || async {
        Some(clusters_2023.get(&one).await.expect(200)).filter(|answer| answer.body["stateName"] == "IDLE")
    });
    let idle = watched.await.body;
    assert!(idle["connectionStrings"]["standard"].as_str().unwrap().starts_with("mongodb://"), "{idle}");
    let listed = clusters_2023
        .get(&format!("{clusters}?includeCount=true&itemsPerPage=100&pageNum=1"))
        .await
        .expect(200);
    assert_eq!(listed.body["results"][0]["name"], "orders");

    // atlas clusters update: an older client changes one thing, and sends no more.
    let update = json!({"labels": [], "terminationProtectionEnabled": true});
    let updated = clusters_2023.patch(&one, update).await.expect(200);
    assert_eq!(updated.body["terminationProtectionEnabled"], true);
    let protected = clusters_2023.delete(&one).await;
    assert_eq!(
        protected.code(),
        "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED",
        "{}",
        protected.text
    );
    clusters_2023.patch(&one, json!({"terminationProtectionEnabled": false})).await.expect(200);

    // A flex cluster's name is looked for in the other API; there is none.
    let flex = cli.version("2024-11-13").get(&format!("{group}/flexClusters/orders")).await;
    assert_eq!(flex.code(), "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API", "{}", flex.text);
    assert_eq!(flex.body["parameters"], json!(["orders"]));

    // atlas processes list, atlas events projects list, atlas alerts settings list, atlas maintenanceWindows describe
    let processes = old.get(&format!("{group}/processes")).await.expect(200);
    assert_eq!(processes.body["totalCount"], 3, "{}", processes.text);
    let events =
        old.get(&format!("{group}/events?includeCount=true&itemsPerPage=100&pageNum=1")).await.expect(200);
    assert!(events.body["results"].as_array().unwrap().len() > 3);
    let alerts = old.get(&format!("{group}/alertConfigs?includeCount=true")).await.expect(200);
    let rotation = |config: &Value| config["eventTypeName"] == "AZURE_ENCRYPTION_KEY_NEEDS_ROTATION";
    assert!(alerts.body["results"].as_array().unwrap().iter().any(rotation), "{}", alerts.text);
    old.get(&format!("{group}/maintenanceWindow")).await.expect(200);

    // atlas clusters delete --watch: until it is not found.
    let deleted = clusters_2023.delete(&one).await;
    assert!((200..300).contains(&deleted.status), "{}", deleted.text);
    let gone = wait_for(&site, &mut agents, || async {
        Some(clusters_2023.get(&one).await).filter(|answer| answer.status != 200)
    });
    gone.await.refused(404, "CLUSTER_NOT_FOUND");

    old.patch(&encryption, json!({"azureKeyVault": {"enabled": false}})).await.expect(200);
    let deleted = old.delete(&group).await;
    assert_eq!(deleted.status, 202, "{}", deleted.text);
    telemetry(&site).await;
}

/// The challenge, to the letter: the Go client cuts it at `", "` and knows no other parameters.
async fn challenge(site: &Site) {
    let bare =
        site.plain("GET", "/api/atlas/v2/orgs").header("accept", "application/vnd.atlas.2023-01-01+json");
    let bare = Answer::of(bare.send().await.unwrap()).await;
    assert_eq!(bare.status, 401);
    assert_eq!(
        bare.text,
        r#"{"detail":"You are not authorized for this resource.","error":401,"errorCode":"UNEXPECTED_ERROR","parameters":[],"reason":"Unauthorized"}"#
    );
    let challenge = bare.header("www-authenticate");
    let nonce = nonce_of(challenge);
    assert_eq!(
        challenge,
        format!(
            r#"Digest realm="MMS Public API", domain="", nonce="{nonce}", algorithm=MD5, qop="auth", stale=false"#
        )
    );
    assert_eq!(nonce.len(), 32);
    let signed = sign(&site.owner, &nonce, 1, "GET", "/api/atlas/v2/orgs");
    let request =
        site.plain("GET", "/api/atlas/v2/orgs").header("accept", "application/vnd.atlas.2023-01-01+json");
    let answer = Answer::of(request.header("authorization", signed).send().await.unwrap()).await.expect(200);
    assert_eq!(answer.body["totalCount"], 1);
    // An unsigned request is challenged whatever is wrong with it: its answer would be taken for the real one.
    let wrong =
        site.plain("POST", "/api/atlas/v2/groups").header("content-type", "application/json").body("{");
    assert_eq!(wrong.send().await.unwrap().status(), 401);
}

/// After a command the CLI reports its use to the same server, and backs off unless that is accepted.
async fn telemetry(site: &Site) {
    let events =
        json!([{"timestamp": "2026-08-10T03:07:31Z", "source": "atlascli", "properties": {"command": "x"}}]);
    let bare = site.plain("POST", "/api/private/unauth/telemetry/events").json(&events).send().await.unwrap();
    assert!(bare.status().is_success(), "{}", bare.status());
    let media_type = "application/json";
    let body = Some(events.to_string().into_bytes());
    let signed =
        site.owner().send_bytes("POST", "/api/private/v1.0/telemetry/events", body, media_type).await;
    assert!((200..300).contains(&signed.status), "{}", signed.text);
    let address = site.plain("GET", "/api/private/ipinfo").send().await.unwrap();
    assert_eq!(Answer::of(address).await.expect(200).body["currentIpv4Address"], "127.0.0.1");
}

/// Lets the agents work until there is what `look` looks for.
pub(crate) async fn wait_for<T, F: Future<Output = Option<T>>>(
    site: &Site,
    agents: &mut [Agent],
    look: impl Fn() -> F,
) -> T {
    for _ in 0..400 {
        if let Some(found) = look().await {
            return found;
        }
        for agent in agents.iter_mut() {
            agent.obey(site).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("waited in vain");
}
