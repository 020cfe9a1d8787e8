//! What the Atlas Administration API has no place for: progress per node, former keys, the policy.

use keyward_model::{Timestamp, sync::ObservedSnapshot};
use serde_json::{Value, json};

use super::customer::Customer;
use crate::{
    agents::Agent,
    site::{Database, Site},
};

impl Customer<'_> {
    fn own(&self, rest: &str) -> String {
        format!("/api/keyward/v1/groups/{}/encryption{rest}", self.project)
    }
}

on_each_database! {
    from Site::start_with_vault;

    async fn former_keys_and_who_needs_them(site: Site) {
        let customer = Customer::configured(&site).await;
        let first = customer.key("cmk").await;
        let mut agent = Agent::enrol(&site, &customer.project, 1).await;
        agent.observed.snapshots = vec![ObservedSnapshot {
            url: "file:///snapshots/1".into(),
            created_at: Timestamp::from_epoch_ms(1_790_000_000_000),
            key_identifier: first.clone(),
            master_key_id: "m1".into(),
        }];
        agent.report(&site).await;
        let version = customer.vault.rotate_key("cmk").await.unwrap();
        let second = version.key_identifier().unwrap();
        customer.patch(json!({"azureKeyVault": {"keyIdentifier": second}})).await.expect(200);
        let shown = customer.caller().get(&customer.own("")).await.expect(200).body;
        assert_eq!(shown["azureKeyVault"]["keyIdentifier"], second);
        let former = &shown["formerKeys"][0];
        assert_eq!((&former["keyIdentifier"], &former["neededByNodes"]), (&json!(first), &json!([])));
        assert_eq!(former["neededBySnapshots"][0]["url"], "file:///snapshots/1");
        assert_eq!(former["neededBySnapshots"][0]["node"], "n1");
        // The node belongs to no cluster: nothing is asked of it.
        assert_eq!(shown["progress"], json!({"nodes": 0, "moved": 0}));
        assert_eq!(shown["nodes"][0]["wantedKeyIdentifier"], Value::Null);
        assert!(!shown.to_string().contains(customer.secret()));
    }

    async fn the_end_of_the_client_secret(site: Site) {
        let customer = Customer::new(&site).await;
        let ends = json!({"clientSecretExpires": "2027-03-01T00:00:00Z"});
        customer.caller().patch(&customer.own(""), ends.clone()).await.refused(400, "ENCRYPTION_AT_REST_NOT_ENABLED");
        customer.patch(customer.whole_with(json!({})).await).await.expect(200);
        let events = site.events().await;
        for _ in 0..2 {
            let shown = customer.caller().patch(&customer.own(""), ends.clone()).await.expect(200).body;
            assert_eq!(shown["clientSecretExpires"], "2027-03-01T00:00:00Z");
        }
        assert_eq!(site.events().await, events + 1, "the second one changed nothing");
        customer.caller().patch(&customer.own(""), json!({"clientSecretExpires": "soon"})).await
            .refused(400, "INVALID_ATTRIBUTE");
        // The one that is known already, as Terraform sends it: its end stays.
        customer.patch(json!({"azureKeyVault": {"secret": customer.secret()}})).await.expect(200);
        let shown = customer.caller().get(&customer.own("")).await.expect(200).body;
        assert_eq!(shown["clientSecretExpires"], "2027-03-01T00:00:00Z");
        assert_eq!(site.events().await, events + 1);
        // A new secret has an end that nobody has said yet.
        let new = customer.vault.add_secret(customer.client_id(), None).await.unwrap();
        customer.patch(json!({"azureKeyVault": {"secret": new.client_secret}})).await.expect(200);
        let shown = customer.caller().get(&customer.own("")).await.expect(200).body;
        assert_eq!(shown["clientSecretExpires"], Value::Null);
        let reader = site.project_key(&customer.project, &["GROUP_READ_ONLY"]).await;
        site.caller(&reader).get(&customer.own("")).await.expect(200);
        site.caller(&reader).patch(&customer.own(""), ends).await.refused(401, "USER_UNAUTHORIZED");
    }

    async fn the_policy(site: Site) {
        let customer = Customer::new(&site).await;
        let path = customer.own("/policy");
        let usual = json!({"refusals": 3, "strongWindowMs": 60_000, "denialWindowMs": 600_000, "gapMs": 600_000});
        assert_eq!(customer.caller().get(&path).await.expect(200).body, usual);
        let short = json!({"strongWindowMs": 5_000, "denialWindowMs": 15_000});
        let set = customer.caller().patch(&path, short).await.expect(200).body;
        assert_eq!(set, json!({"refusals": 3, "strongWindowMs": 5_000, "denialWindowMs": 15_000, "gapMs": 600_000}));
        for (wrong, field) in [
            (json!({"refusals": 1}), "refusals"),
            (json!({"strongWindowMs": 0}), "strongWindowMs"),
            (json!({"denialWindowMs": 4_999}), "denialWindowMs"),
            (json!({"gapMs": 604_800_001}), "gapMs"),
            (json!({"gapMs": 29_999}), "gapMs"),
            (json!({"strongWindowMs": "5s"}), "strongWindowMs"),
            (json!({"window": 5}), "window"),
        ] {
            let answer = customer.caller().patch(&path, wrong).await.refused(400, "INVALID_ATTRIBUTE");
            assert_eq!(answer.body["parameters"], json!([field]));
        }
        assert_eq!(customer.caller().get(&path).await.expect(200).body, set);
        // Configuring a key keeps it, and so does switching it off.
        customer.patch(customer.whole_with(json!({})).await).await.expect(200);
        customer.patch(json!({"azureKeyVault": {"enabled": false}})).await.expect(200);
        assert_eq!(customer.caller().get(&path).await.expect(200).body, set);
        let told = site.event_types(&customer.project).await;
        assert_eq!(told.iter().filter(|kind| *kind == "KEYWARD_REVOCATION_POLICY_UPDATED").count(), 1, "{told:?}");
    }
}
