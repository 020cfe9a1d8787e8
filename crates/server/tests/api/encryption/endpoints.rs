//! Private endpoints: asked for, approved by the vault's owner, rejected, removed, deleted.

use serde_json::{Value, json};

use super::customer::{Customer, eventually};
use crate::site::{Database, Site};

impl Customer<'_> {
    fn endpoints(&self) -> String {
        format!("{}/AZURE/privateEndpoints", self.path())
    }

    async fn endpoint(&self, id: &Value) -> (u16, Value) {
        let answer = self.caller().get(&format!("{}/{}", self.endpoints(), id.as_str().unwrap())).await;
        (answer.status, answer.body)
    }

    /// Waits until the endpoint has this status.
    async fn until(&self, id: &Value, status: &str) -> Value {
        eventually(self.site, status, async || {
            let (code, body) = self.endpoint(id).await;
            (code == 200 && body["status"] == status).then_some(body)
        })
        .await
    }

    async fn until_gone(&self, id: &Value) {
        eventually(self.site, "gone", async || (self.endpoint(id).await.0 == 404).then_some(())).await;
    }

    async fn ask(&self, region: &str) -> Value {
        let answer = self.caller().post(&self.endpoints(), json!({"regionName": region})).await.expect(202);
        assert_eq!(
            (&answer.body["status"], &answer.body["cloudProvider"]),
            (&json!("INITIATING"), &json!("AZURE"))
        );
        assert_eq!(answer.body["regionName"], region);
        answer.body["id"].clone()
    }

    async fn private(&self) {
        self.patch(json!({"azureKeyVault": {"requirePrivateNetworking": true}})).await.expect(200);
    }
}

on_each_database! {
    from Site::start_with_vault;

    async fn from_request_to_use_and_away(site: Site) {
        let customer = Customer::new(&site).await;
        let region = json!({"regionName": "US_EAST_2"});
        let post = async |body: Value| customer.caller().post(&customer.endpoints(), body).await;
        post(region.clone()).await.refused(400, "ENCRYPTION_AT_REST_NOT_ENABLED");
        customer.patch(customer.whole_with(json!({})).await).await.expect(200);
        post(region.clone()).await.refused(400, "ENCRYPTION_AT_REST_PRIVATE_NETWORKING_NOT_REQUIRED");
        customer.private().await;
        post(json!({"regionName": "MARS"})).await.refused(400, "INVALID_ENUM_VALUE");
        post(json!({})).await.refused(400, "MISSING_ATTRIBUTE");
        let listed = customer.caller().get(&customer.endpoints()).await.expect(200);
        assert_eq!((&listed.body["results"], &listed.body["totalCount"]), (&json!([]), &json!(0)));

        let id = customer.ask("US_EAST_2").await;
        post(region.clone()).await.refused(409, "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_ALREADY_EXISTS");
        let pending = customer.until(&id, "PENDING_ACCEPTANCE").await;
        let name = pending["privateEndpointConnectionName"].as_str().unwrap();
        let seen = customer.vault.private_endpoints().await.unwrap();
        assert_eq!(seen.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), [name]);
        let listed = customer.caller().get(&customer.endpoints()).await.expect(200);
        assert_eq!(listed.body["results"], json!([pending]));

        customer.vault.approve_private_endpoint(name).await.unwrap();
        let active = customer.until(&id, "ACTIVE").await;
        assert_eq!(active["privateEndpointConnectionName"], name);
        assert_eq!(active.get("errorMessage"), None);

        // While it exists, networking and vault are fixed.
        let patch = |fields: Value| customer.patch(json!({ "azureKeyVault": fields }));
        patch(json!({"requirePrivateNetworking": false})).await.refused(400,
            "CANNOT_DISABLE_ENCRYPTION_AT_REST_REQUIRE_PRIVATE_NETWORKING_WHILE_PRIVATE_ENDPOINTS_EXIST");
        patch(json!({"resourceGroupName": "other"})).await
            .refused(400, "ENCRYPTION_AT_REST_VAULT_IMMUTABLE_WITH_PRIVATE_NETWORKING");
        patch(json!({"enabled": false})).await.refused(400, "CANNOT_DISABLE_ENCRYPTION_AT_REST_DUE_TO_PRIVATE_ENDPOINTS");

        let one = format!("{}/{}", customer.endpoints(), id.as_str().unwrap());
        customer.caller().delete(&one).await.expect(204);
        customer.until_gone(&id).await;
        customer.caller().delete(&one).await.refused(404, "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_NOT_FOUND");
        assert!(customer.vault.private_endpoints().await.unwrap().is_empty(), "it is deleted in Azure too");
        patch(json!({"enabled": false})).await.expect(200);
        let types = site.event_types(&customer.project).await;
        for kind in ["ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_CREATED", "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_DELETED"] {
            assert_eq!(types.iter().filter(|seen| *seen == kind).count(), 1, "{types:?}");
        }
    }

    async fn a_rejected_one_failed_and_a_removed_one_comes_again(site: Site) {
        let customer = Customer::configured(&site).await;
        customer.private().await;
        let rejected = customer.ask("EUROPE_WEST").await;
        let pending = customer.until(&rejected, "PENDING_ACCEPTANCE").await;
        customer.vault.reject_private_endpoint(pending["privateEndpointConnectionName"].as_str().unwrap()).await.unwrap();
        let failed = customer.until(&rejected, "FAILED").await;
        assert!(failed["errorMessage"].as_str().unwrap().contains("rejected"), "{failed}");

        let removed = customer.ask("EUROPE_NORTH").await;
        let pending = customer.until(&removed, "PENDING_ACCEPTANCE").await;
        let name = pending["privateEndpointConnectionName"].as_str().unwrap().to_owned();
        customer.vault.approve_private_endpoint(&name).await.unwrap();
        customer.until(&removed, "ACTIVE").await;
        customer.vault.disconnect_private_endpoint(&name).await.unwrap();
        // It passes through PENDING_RECREATION and INITIATING by itself; the owner approves the new one.
        let again = customer.until(&removed, "PENDING_ACCEPTANCE").await;
        let name = again["privateEndpointConnectionName"].as_str().unwrap();
        customer.vault.approve_private_endpoint(name).await.unwrap();
        customer.until(&removed, "ACTIVE").await;

        for id in [&rejected, &removed] {
            let one = format!("{}/{}", customer.endpoints(), id.as_str().unwrap());
            customer.caller().delete(&one).await.expect(204);
            customer.until_gone(id).await;
        }
    }

    async fn one_that_is_being_made_is_not_deleted(site: Site) {
        let customer = Customer::configured(&site).await;
        customer.private().await;
        // Entra ID is down: it stays in the making, and says why.
        customer.vault.set_fault(keyward_vault::fault::FaultKind::TokenDown, None).await.unwrap();
        let id = customer.ask("US_EAST").await;
        let said = eventually(&site, "a reason", async || {
            let (_, body) = customer.endpoint(&id).await;
            body["errorMessage"].as_str().map(str::to_owned)
        })
        .await;
        assert!(said.contains("Entra ID"), "{said}");
        let one = format!("{}/{}", customer.endpoints(), id.as_str().unwrap());
        let blocked = "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_DELETE_BLOCKED_DURING_PROVISIONING";
        let answer = customer.caller().delete(&one).await.refused(400, blocked);
        assert_eq!(answer.body["parameters"], json!([id]));
        customer.vault.clear_faults().await.unwrap();
        customer.until(&id, "PENDING_ACCEPTANCE").await;
        customer.caller().delete(&one).await.expect(204);
        customer.until_gone(&id).await;
    }

    async fn other_providers_and_other_projects(site: Site) {
        let customer = Customer::configured(&site).await;
        customer.private().await;
        let aws = customer.endpoints().replace("AZURE", "AWS");
        customer.caller().get(&aws).await.expect(200);
        customer.caller().post(&aws, json!({"regionName": "US_EAST_1"})).await
            .refused(400, "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED");
        let gcp = customer.endpoints().replace("AZURE", "GCP");
        customer.caller().get(&gcp).await.refused(400, "INVALID_PATH_PARAMETER");
        let id = customer.ask("US_EAST_2").await;
        // Another project's owner finds nothing under their own project, and nothing of this one.
        let other = site.project("other").await;
        let stranger = site.project_key(&other, &["GROUP_OWNER"]).await;
        let theirs = format!("/api/atlas/v2/groups/{other}/encryptionAtRest/AZURE/privateEndpoints/{}", id.as_str().unwrap());
        site.caller(&stranger).get(&theirs).await.refused(404, "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_NOT_FOUND");
        let ours = format!("{}/{}", customer.endpoints(), id.as_str().unwrap());
        let status = site.caller(&stranger).get(&ours).await.status;
        assert!((401..=404).contains(&status));
        customer.until(&id, "PENDING_ACCEPTANCE").await;
    }
}
