//! The customer key and the nodes under it: who can follow to another key, who tries a key out, who is in the way.

use keyward_model::{
    Class,
    sync::{Validated, ValidationFinding},
};
use keyward_server::customer_key::Asked;
use keyward_vault::{admin::KeySettings, fault::FaultKind};
use serde_json::{Value, json};

use super::customer::{Customer, eventually};
use crate::{
    agents::Agent,
    site::{Database, Site},
};

impl Customer<'_> {
    fn clusters(&self) -> String {
        format!("/api/atlas/v2/groups/{}/clusters", self.project)
    }

    /// A cluster under the customer key, all its nodes done with what is asked of them.
    async fn cluster(&self, name: &str, agents: &mut [Agent]) {
        let nodes = agents.len();
        let body = json!({
            "name": name, "clusterType": "REPLICASET", "encryptionAtRestProvider": "AZURE",
            "replicationSpecs": [{"regionConfigs": [{
                "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
                "electableSpecs": {"instanceSize": "M10", "nodeCount": nodes},
            }]}],
        });
        self.caller().version("2024-10-23").post(&self.clusters(), body).await.expect(201);
        self.settled(name, agents).await;
    }

    async fn settled(&self, name: &str, agents: &mut [Agent]) {
        let path = format!("{}/{name}", self.clusters());
        eventually(self.site, "IDLE", async || {
            for agent in agents.iter_mut() {
                agent.obey(self.site).await;
            }
            let answer = self.caller().version("2024-08-05").get(&path).await.expect(200);
            (answer.body["stateName"] == "IDLE").then_some(())
        })
        .await;
    }

    async fn agents(&self, count: u16) -> Vec<Agent> {
        let mut agents = Vec::new();
        for n in 1..=count {
            agents.push(Agent::enrol(self.site, &self.project, n).await);
        }
        agents
    }

    async fn set_version(&self, identifier: &str, enabled: bool) {
        let version = identifier.rsplit('/').next().unwrap().to_owned();
        let settings =
            KeySettings { version: Some(version), enabled: Some(enabled), ..KeySettings::default() };
        self.vault.change_key("cmk", &settings).await.unwrap();
    }
}

fn to(identifier: &str) -> Value {
    json!({"azureKeyVault": {"keyIdentifier": identifier}})
}

on_each_database! {
    from Site::start_with_vault;

    async fn switching_off_names_the_clusters_in_the_way(site: Site) {
        let customer = Customer::configured(&site).await;
        let mut agents = customer.agents(3).await;
        customer.cluster("Cluster0", &mut agents).await;
        let off = json!({"azureKeyVault": {"enabled": false}});
        let answer = customer.refused(off.clone(), 409, "CANNOT_DISABLE_ENCRYPTION_AT_REST_USED_BY_CLUSTERS").await;
        assert_eq!(answer.body["parameters"], json!(["Cluster0"]));
        assert!(answer.body["detail"].as_str().unwrap().contains("Cluster0"));
        // Terraform's way of deleting, with all three objects, is told the same.
        let all = json!({"awsKms": {"enabled": false}, "azureKeyVault": {"enabled": false}, "googleCloudKms": {"enabled": false}});
        customer.refused(all, 409, "CANNOT_DISABLE_ENCRYPTION_AT_REST_USED_BY_CLUSTERS").await;
    }

    /// The current key is unreachable: who holds its master key, and says so now, can follow; the others are named.
    async fn rotation_out_of_an_outage(site: Site) {
        let customer = Customer::configured(&site).await;
        let mut agents = customer.agents(3).await;
        customer.cluster("Cluster0", &mut agents).await;
        let first = customer.key("cmk").await;
        let second = customer.vault.rotate_key("cmk").await.unwrap().key_identifier().unwrap().to_owned();
        customer.set_version(&first, false).await;
        let code = "ENCRYPTION_AT_REST_SETTINGS_INVALID";

        // One agent lost its master key, say by a restart during the outage.
        agents[1].observed.status.master_key_held = false;
        for agent in &mut agents {
            agent.report(&site).await;
        }
        let answer = customer.refused(to(&second), 400, code).await;
        assert_eq!(answer.body["parameters"], json!(["n2"]));
        assert!(answer.text.contains("n2") && answer.text.contains("disabled"), "{}", answer.text);

        // Nobody has been heard of for long: nobody is known to hold anything.
        agents[1].observed.status.master_key_held = true;
        agents[1].report(&site).await;
        site.advance_ms(150_000);
        let answer = customer.refused(to(&second), 400, code).await;
        assert_eq!(answer.body["parameters"], json!(["n1", "n2", "n3"]));

        // All hold it, and say so now.
        for agent in &mut agents {
            agent.report(&site).await;
        }
        customer.patch(to(&second)).await.expect(200);
        customer.settled("Cluster0", &mut agents).await;
    }

    /// The seed's way out of a double outage: the same key under another name, moved by vault backup and restore.
    async fn a_copy_of_the_key_takes_everyone_along(site: Site) {
        let customer = Customer::configured(&site).await;
        let mut agents = customer.agents(1).await;
        customer.cluster("Cluster0", &mut agents).await;
        let first = customer.key("cmk").await;
        let second = customer.vault.rotate_key("cmk").await.unwrap().key_identifier().unwrap().to_owned();
        customer.set_version(&first, false).await;
        agents[0].observed.status.master_key_held = false;
        agents[0].report(&site).await;
        customer.refused(to(&second), 400, "ENCRYPTION_AT_REST_SETTINGS_INVALID").await;

        let mut vault = site.encryption(&customer.project).await.azure_key_vault.unwrap();
        vault.key_identifier = second.clone();
        let asked = Asked { vault, secret: Some(customer.secret().to_owned().into()) };
        let public_key = site.server.app().keys().public_key_sha256(&asked).await.unwrap();
        agents[0].observed.wraps[0].public_key_sha256 = public_key;
        agents[0].report(&site).await;
        customer.patch(to(&second)).await.expect(200);
    }

    /// Where the current key answers again, or only wraps no more, nobody needs to hold anything.
    async fn an_expired_key_is_no_obstacle(site: Site) {
        let customer = Customer::configured(&site).await;
        let mut agents = customer.agents(1).await;
        customer.cluster("Cluster0", &mut agents).await;
        let first = customer.key("cmk").await;
        let second = customer.vault.rotate_key("cmk").await.unwrap().key_identifier().unwrap().to_owned();
        let version = first.rsplit('/').next().unwrap().to_owned();
        let expired = jiff::Timestamp::now().as_second() - 60;
        let settings = KeySettings { version: Some(version), expires: Some(expired), ..KeySettings::default() };
        customer.vault.change_key("cmk", &settings).await.unwrap();
        agents[0].observed.status.master_key_held = false;
        agents[0].report(&site).await;
        customer.patch(to(&second)).await.expect(200);
    }

    /// The server has no way to the vault; a node has one, and tries the key out.
    async fn a_node_tries_the_key_out(site: Site) {
        let customer = Customer::new(&site).await;
        let mut agents = customer.agents(1).await;
        customer.vault.set_fault(FaultKind::PrivateLink, None).await.unwrap();
        let body = customer.whole_with(json!({"requirePrivateNetworking": true})).await;
        let finding = |refuses, outage, text: &str, class| ValidationFinding {
            refuses, outage, text: text.into(), hint: "look at it".into(), class, retry_after_s: None,
        };
        let busy = ValidationFinding { retry_after_s: Some(77), ..finding(true, true, "too busy", Some(Class::Throttled)) };
        for (findings, status, code) in [
            (vec![finding(true, false, "the key is off", Some(Class::KeyDisabled))], 400, "AZURE_KEY_VAULT_KEY_NOT_ENABLED"),
            (vec![finding(true, true, "no answer", Some(Class::TimedOut))], 503, "AZURE_KEY_VAULT_UNAVAILABLE"),
            (vec![busy], 503, "AZURE_KEY_VAULT_UNAVAILABLE"),
            (vec![finding(false, false, "no purge protection", None)], 200, ""),
        ] {
            let agent = &mut agents[0];
            let answered: Vec<String> = agent.observed.validated.iter().map(|one| one.id.clone()).collect();
            let tried = async {
                let asked = eventually(&site, "a validation", async || {
                    agent.fetch(&site).await.and_then(|desired| {
                        desired.validations.iter().find(|asked| !answered.contains(&asked.id)).cloned()
                    })
                })
                .await;
                assert!(asked.encryption.require_private_networking);
                let secret = customer.secret().to_owned();
                assert_eq!(asked.encryption.credential, keyward_model::sync::DesiredCredential::ClientSecret { secret });
                agent.observed.validated = vec![Validated { id: asked.id, findings: findings.clone() }];
                agent.report(&site).await;
            };
            let (answer, ()) = tokio::join!(customer.patch(body.clone()), tried);
            assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.text);
            if status != 200 {
                assert!(answer.text.contains("node n1"), "{}", answer.text);
                // What the vault asked of the node is what the caller hears.
                let wait = match (status, answer.text.contains("oo busy")) {
                    (503, true) => "77",
                    (503, false) => "30",
                    _ => "",
                };
                assert_eq!(answer.header("retry-after"), wait, "{}", answer.text);
            }
        }
        let stored = site.encryption(&customer.project).await;
        assert!(stored.validity.warnings[0].contains("No purge protection"), "{:?}", stored.validity);
        let mut tx = site.server.app().store().read().await.unwrap();
        let left = tx.list_all::<keyward_model::encryption::ValidationRequest>().await.unwrap();
        assert!(left.is_empty(), "nobody waits any more");
    }
}
