//! What the Terraform provider sends for this feature, replayed: the whole body back in every PATCH, three provider
//! objects in every GET, texts as they were given, containers by region, and deletion until nothing is found.

use serde_json::{Value, json};

use crate::{
    agents::Agent,
    customer_key::CustomerKey,
    replay_atlas_cli::wait_for,
    site::{Database, Site},
};

const PROVIDERS: [&str; 3] = ["awsKms", "azureKeyVault", "googleCloudKms"];

on_each_database! {
    from Site::start_with_vault;

    async fn replayed(site: Site) {
        replay(site).await;
    }
}

async fn replay(site: Site) {
    let key = CustomerKey::make(&site, "terraform").await;
    let tf = site.owner();
    let v1 = tf.version("2023-01-01");

    // mongodbatlas_project: created, read with all that belongs to it.
    let group =
        v1.post("/api/atlas/v2/groups", json!({"name": "tf", "orgId": site.org})).await.expect(201).body;
    let project = group["id"].as_str().unwrap().to_owned();
    let group = format!("/api/atlas/v2/groups/{project}");
    for part in ["", "/settings", "/limits", "/teams", "/ipAddresses"] {
        v1.get(&format!("{group}{part}")).await.expect(200);
    }
    assert_eq!(v1.get(&format!("{group}/clusters")).await.expect(200).body["totalCount"], 0);

    // mongodbatlas_encryption_at_rest: created.
    let encryption = format!("{group}/encryptionAtRest");
    let vault = key.body();
    let created = v1.patch(&encryption, json!({"azureKeyVault": vault})).await.expect(200).body;
    let read = v1.get(&encryption).await.expect(200).body;
    for provider in PROVIDERS {
        assert!(read[provider].is_object(), "the provider takes the first element without a look: {read}");
    }
    assert_eq!(read["awsKms"]["enabled"], false);
    let azure = &read["azureKeyVault"];
    for (name, given) in vault.as_object().unwrap() {
        let shown = if name == "secret" { &Value::Null } else { given };
        assert_eq!(&azure[name], shown, "{name} is compared with what was given");
    }
    assert_eq!(azure["valid"], true);
    assert_eq!(azure["roleId"], Value::Null, "shown only where it was given");
    assert_eq!(created["azureKeyVault"], *azure);

    // Updated: read, one object replaced, everything sent back; computed fields and all, the secret included or not.
    let events = site.events().await;
    let mut whole = read.clone();
    whole["azureKeyVault"]["keyIdentifier"] = json!(key.next_version().await);
    let rotated = v1.patch(&encryption, whole.clone()).await.expect(200).body;
    assert_eq!(rotated["azureKeyVault"]["keyIdentifier"], whole["azureKeyVault"]["keyIdentifier"]);
    assert_eq!(rotated["azureKeyVault"]["valid"], true, "the stored secret was kept: {rotated}");
    assert!(site.events().await > events);
    let mut with_secret = whole;
    with_secret["azureKeyVault"]["secret"] = json!(key.vault.client_secret);
    with_secret["awsKms"] = json!({});
    v1.patch(&encryption, with_secret).await.expect(200);

    // mongodbatlas_maintenance_window
    let window = format!("{group}/maintenanceWindow");
    v1.patch(&window, json!({"dayOfWeek": 3, "hourOfDay": 4})).await.expect(200);
    assert_eq!(v1.get(&window).await.expect(200).body["hourOfDay"], 4);
    v1.send("POST", &format!("{window}/autoDefer"), None).await.expect(200);

    // mongodbatlas_advanced_cluster
    let clusters = format!("{group}/clusters");
    let body = json!({
        "name": "orders",
        "clusterType": "REPLICASET",
        "backupEnabled": false,
        "encryptionAtRestProvider": "AZURE",
        "replicationSpecs": [{
            "regionConfigs": [{
                "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
                "electableSpecs": {"instanceSize": "M10", "nodeCount": 3},
            }],
            "zoneName": "ZoneName managed by Terraform",
        }],
    });
    let (write, read) = (tf.version("2024-10-23"), tf.version("2024-08-05"));
    let created = write.post(&clusters, body).await.expect(201);
    assert_eq!(created.header("content-type"), "application/vnd.atlas.2024-10-23+json;charset=utf-8");
    let mut agents = Vec::new();
    for n in 1..=3 {
        agents.push(Agent::enrol(&site, &project, n).await);
    }
    let one = format!("{clusters}/orders");
    let idle = wait_for(&site, &mut agents, || async {
        Some(read.get(&one).await.expect(200)).filter(|answer| answer.body["stateName"] == "IDLE")
    });
    let cluster = idle.await.body;
    assert_eq!(cluster["encryptionAtRestProvider"], "AZURE");
    assert_eq!(cluster["replicationSpecs"][0]["zoneName"], "ZoneName managed by Terraform");
    assert!(cluster["connectionStrings"]["standard"].is_string(), "{cluster}");
    let containers = v1.get(&format!("{group}/containers?providerName=AZURE")).await.expect(200).body;
    let of_region = |container: &Value| container["region"] == "US_EAST_2" && container["id"].is_string();
    assert!(
        containers["results"].as_array().unwrap().iter().any(of_region),
        "container id not found: {containers}"
    );
    read.get(&format!("{one}/processArgs")).await.expect(200);
    let flex = tf.version("2024-11-13").get(&format!("{group}/flexClusters")).await.expect(200).body;
    assert_eq!(flex["results"], json!([]));

    // Complaints 2 and 7: destroying the project's key while a cluster uses it is refused, and names the cluster.
    let off: Value = PROVIDERS
        .map(|name| (name.to_owned(), json!({"enabled": false})))
        .into_iter()
        .collect::<serde_json::Map<_, _>>()
        .into();
    let refused = v1.patch(&encryption, off.clone()).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert!(refused.body["parameters"].as_array().unwrap().contains(&json!("orders")), "{}", refused.text);

    // destroy: the cluster until it is not found, then the key, then the project.
    tf.version("2023-02-01").delete(&one).await;
    wait_for(&site, &mut agents, || async {
        Some(read.get(&one).await).filter(|answer| answer.status == 404)
    })
    .await
    .refused(404, "CLUSTER_NOT_FOUND");
    v1.get(&encryption).await.expect(200);
    let after = v1.patch(&encryption, off).await.expect(200).body;
    assert_eq!(after["azureKeyVault"]["enabled"], false);
    v1.delete(&window).await.expect(204);
    assert_eq!(v1.get(&format!("{group}/clusters")).await.expect(200).body["totalCount"], 0);
    assert_eq!(v1.delete(&group).await.status, 202);
    let gone = v1.get(&group).await;
    assert!(matches!(gone.status, 401 | 403 | 404), "{}", gone.text);
}
