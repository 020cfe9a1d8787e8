//! From the first PATCH to the last: what Terraform and the Atlas CLI send, who may send it, and what is left behind.

use serde_json::{Value, json};

use super::customer::Customer;
use crate::site::{Database, Site};

/// What Terraform sends to change one provider's object: the answer of a GET, that object replaced.
fn terraform_body(mut shown: Value, azure: Value) -> Value {
    shown["azureKeyVault"] = azure;
    shown
}

on_each_database! {
    from Site::start_with_vault;

    /// Create, read, update in place (a rotation, complaint 1), delete.
    async fn terraform(site: Site) {
        let customer = Customer::new(&site).await;
        let off = json!({"enabled": false});
        let shown = customer.get().await;
        assert_eq!((&shown["awsKms"], &shown["azureKeyVault"], &shown["googleCloudKms"]), (&off, &off, &off));

        let mut azure = customer.whole().await;
        let created = customer.patch(terraform_body(shown, azure.clone())).await.expect(200);
        assert_eq!(created.header("content-type"), "application/vnd.atlas.2023-01-01+json;charset=utf-8");
        let check = |answer: &Value, azure: &Value| {
            for (name, value) in azure.as_object().unwrap() {
                match name.as_str() {
                    "secret" => assert_eq!(answer["azureKeyVault"].get("secret"), None),
                    name => assert_eq!(&answer["azureKeyVault"][name], value, "{name} must be echoed exactly"),
                }
            }
            assert_eq!(answer["azureKeyVault"].get("roleId"), None);
            assert_eq!(answer["azureKeyVault"]["valid"], true);
            assert_eq!((&answer["awsKms"], &answer["googleCloudKms"]), (&off, &off));
        };
        check(&created.body, &azure);
        let read = customer.get().await;
        check(&read, &azure);
        assert_eq!(read, created.body);

        // The key identifier changes; the secret is in Terraform's state and comes along, or it does not.
        for keeps_secret in [false, true] {
            let version = customer.vault.rotate_key("cmk").await.unwrap();
            azure["keyIdentifier"] = json!(version.key_identifier().unwrap());
            let mut body = terraform_body(customer.get().await, azure.clone());
            if !keeps_secret {
                body["azureKeyVault"].as_object_mut().unwrap().remove("secret");
            }
            check(&customer.patch(body).await.expect(200).body, &azure);
        }
        let stored = site.encryption(&customer.project).await;
        assert_eq!(stored.former_keys.len(), 2);
        assert_eq!(stored.former_keys[0].key_identifier, read["azureKeyVault"]["keyIdentifier"]);

        let deleted = customer.patch(json!({"awsKms": off, "azureKeyVault": off, "googleCloudKms": off})).await;
        let deleted = deleted.expect(200).body;
        assert_eq!((&deleted["awsKms"], &deleted["azureKeyVault"], &deleted["googleCloudKms"]), (&off, &off, &off));
        assert_eq!(customer.get().await, deleted);
        // Once more, as a retry does.
        customer.patch(json!({"awsKms": off, "azureKeyVault": off, "googleCloudKms": off})).await.expect(200);
        let types = site.event_types(&customer.project).await;
        let of = |name: &str| types.iter().filter(|kind| *kind == name).count();
        assert_eq!(of("ENCRYPTION_AT_REST_CONFIGURATION_UPDATED"), 2, "{types:?}");
        assert_eq!(of("AZURE_ENCRYPTION_KEY_ROTATED"), 2, "{types:?}");
    }

    /// `atlas api … updateEncryptionAtRest --file`: one object, then single fields, the version in both headers.
    async fn atlas_cli(site: Site) {
        let customer = Customer::new(&site).await;
        let caller = customer.caller().version("2023-01-01");
        let body = customer.whole_with(json!({})).await;
        caller.patch(&customer.path(), body.clone()).await.expect(200);
        let version = customer.vault.rotate_key("cmk").await.unwrap();
        let next = version.key_identifier().unwrap().to_owned();
        let one = json!({"azureKeyVault": {"keyIdentifier": next}});
        let answer = caller.patch(&customer.path(), one.clone()).await.expect(200);
        assert_eq!(answer.body["azureKeyVault"]["keyIdentifier"], next);
        // The same file again: nothing changes, nothing is told.
        let events = site.events().await;
        caller.patch(&customer.path(), one).await.expect(200);
        assert_eq!(site.events().await, events);
        let listed = caller.get(&format!("{}?envelope=true", customer.path())).await.expect(200);
        assert_eq!(listed.body["content"]["azureKeyVault"]["keyIdentifier"], next);
        caller.version("1999-01-01").get(&customer.path()).await.refused(406, "INVALID_VERSION_DATE");
    }

    /// A whole body that takes back what another one just changed: the last one wins, and each is an event.
    async fn two_patches_at_once(site: Site) {
        let customer = Customer::configured(&site).await;
        let events = site.events().await;
        let versions = [
            customer.vault.rotate_key("cmk").await.unwrap(),
            customer.vault.rotate_key("cmk").await.unwrap(),
        ];
        let keys = versions.map(|version| version.key_identifier().unwrap().to_owned());
        let bodies = keys.clone().map(|key| json!({"azureKeyVault": {"keyIdentifier": key}}));
        let search = json!({"enabledForSearchNodes": true});
        let [first, second] = bodies;
        let (one, two, three) = tokio::join!(customer.patch(first), customer.patch(second), customer.patch(search));
        for answer in [&one, &two, &three] {
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        let stored = site.encryption(&customer.project).await;
        assert!(stored.enabled_for_search_nodes);
        let vault = stored.azure_key_vault.unwrap();
        assert!(keys.contains(&vault.key_identifier));
        // None is lost: the one that went is a former key now.
        assert_eq!(stored.former_keys.len(), 2);
        assert_eq!(site.events().await, events + 3);
    }

    /// Only who owns the project; who owns the organization first has to join.
    async fn who_may(site: Site) {
        let customer = Customer::new(&site).await;
        let body = customer.whole_with(json!({})).await;
        let reader = site.project_key(&customer.project, &["GROUP_READ_ONLY"]).await;
        let manager = site.project_key(&customer.project, &["GROUP_CLUSTER_MANAGER"]).await;
        let org_owner = site.org_key(&["ORG_OWNER"]).await;
        let endpoints = format!("{}/AZURE/privateEndpoints", customer.path());
        for pair in [&reader, &manager, &org_owner] {
            let caller = site.caller(pair);
            caller.get(&customer.path()).await.expect(200);
            caller.patch(&customer.path(), body.clone()).await.refused(401, "USER_UNAUTHORIZED");
            caller.get(&endpoints).await.refused(401, "USER_UNAUTHORIZED");
            caller.post(&endpoints, json!({"regionName": "US_EAST_2"})).await.refused(401, "USER_UNAUTHORIZED");
        }
        assert_eq!(customer.get().await["azureKeyVault"], json!({"enabled": false}));
        let keys = format!("/api/atlas/v2/orgs/{}/apiKeys", site.org);
        let listed = site.owner().get(&keys).await.expect(200);
        let id = listed.body["results"].as_array().unwrap().iter().find(|key| key["publicKey"] == org_owner.public).unwrap()["id"].clone();
        let path = format!("/api/atlas/v2/groups/{}/apiKeys/{}", customer.project, id.as_str().unwrap());
        site.caller(&org_owner).post(&path, json!([{"roles": ["GROUP_OWNER"]}])).await.expect(204);
        site.caller(&org_owner).patch(&customer.path(), body).await.expect(200);

        let stranger = site.org_key(&["ORG_MEMBER"]).await;
        let answer = site.caller(&stranger).get(&customer.path()).await;
        assert!((401..=404).contains(&answer.status), "{}", answer.text);
    }

    /// The secret is in no answer, no event and no file of the server.
    async fn the_secret_stays_secret(site: Site) {
        let customer = Customer::configured(&site).await;
        let secret = customer.secret().to_owned();
        customer.patch(json!({"azureKeyVault": {"secret": "wrong-but-secret"}})).await.refused(400, "INVALID_AZURE_CREDENTIALS");
        let mut said = customer.get().await.to_string();
        said.push_str(&site.events_text().await);
        assert!(!said.contains(&secret) && !said.contains("wrong-but-secret"));
        for entry in walk(&site.data_dir()) {
            let bytes = std::fs::read(&entry).unwrap();
            for text in [secret.as_bytes(), b"wrong-but-secret"] {
                assert!(!bytes.windows(text.len()).any(|window| window == text), "{}", entry.display());
            }
        }
    }

    /// The alert configurations come once; deleted ones stay deleted.
    async fn alert_configurations_come_once(site: Site) {
        let customer = Customer::configured(&site).await;
        let path = format!("/api/atlas/v2/groups/{}/alertConfigs", customer.project);
        let of_rotation = async || {
            let listed = customer.caller().get(&path).await.expect(200);
            let mut found: Vec<Value> = listed.body["results"].as_array().unwrap().clone();
            found.retain(|config| config["eventTypeName"] == "AZURE_ENCRYPTION_KEY_NEEDS_ROTATION");
            found
        };
        let made = of_rotation().await;
        assert_eq!(made.len(), 1);
        assert_eq!(made[0]["threshold"], json!({"operator": "GREATER_THAN", "threshold": 90, "units": "DAYS"}));
        customer.patch(json!({"azureKeyVault": {"enabled": false}})).await.expect(200);
        customer.patch(customer.whole_with(json!({})).await).await.expect(200);
        assert_eq!(of_rotation().await, made);
        let one = format!("{path}/{}", made[0]["id"].as_str().unwrap());
        customer.caller().delete(&one).await.expect(204);
        customer.patch(json!({"azureKeyVault": {"enabled": false}})).await.expect(200);
        customer.patch(customer.whole_with(json!({})).await).await.expect(200);
        assert!(of_rotation().await.is_empty());
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}
