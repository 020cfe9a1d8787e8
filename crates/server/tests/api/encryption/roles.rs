//! Cloud provider access: a service principal in place of a client secret.

use std::time::Duration;

use keyward_server::config::ServerIdentity;
use serde_json::{Value, json};

use super::customer::Customer;
use crate::site::{Database, Site};

const UUID: &str = "11111111-2222-3333-4444-555555555555";

on_each_database! {
    from Site::start_with_vault;

    async fn created_listed_changed_and_deleted(site: Site) {
        let customer = Customer::new(&site).await;
        let path = format!("/api/atlas/v2/groups/{}/cloudProviderAccess", customer.project);
        let caller = customer.caller();
        let whole = json!({"providerName": "AZURE", "atlasAzureAppId": UUID, "servicePrincipalId": UUID, "tenantId": UUID});
        let made = caller.post(&path, whole.clone()).await.expect(200).body;
        assert_eq!((&made["providerName"], &made["tenantId"], &made["featureUsages"]), (&json!("AZURE"), &json!(UUID), &json!([])));
        let id = made["_id"].as_str().unwrap();
        let one = format!("{path}/{id}");
        assert_eq!(caller.get(&one).await.expect(200).body, made);
        let listed = caller.get(&path).await.expect(200).body;
        assert_eq!(listed, json!({"awsIamRoles": [], "azureServicePrincipals": [made], "gcpServiceAccounts": []}));

        let mut without = whole.clone();
        without.as_object_mut().unwrap().remove("tenantId");
        caller.post(&path, without).await.refused(400, "MISSING_ATTRIBUTE");
        let mut wrong = whole.clone();
        wrong["tenantId"] = json!("x");
        caller.post(&path, wrong).await.refused(400, "INVALID_ATTRIBUTE");
        for provider in ["AWS", "GCP"] {
            caller.post(&path, json!({"providerName": provider})).await
                .refused(400, "CLOUD_PROVIDER_ACCESS_PROVIDER_NOT_SUPPORTED");
        }
        let other = UUID.replace('1', "9");
        let changed = caller.patch(&one, json!({"providerName": "AZURE", "servicePrincipalId": other})).await.expect(200);
        assert_eq!(changed.body["servicePrincipalId"], other);

        let reader = site.project_key(&customer.project, &["GROUP_READ_ONLY"]).await;
        site.caller(&reader).get(&one).await.expect(200);
        site.caller(&reader).delete(&format!("{path}/AZURE/{id}")).await.refused(401, "USER_UNAUTHORIZED");
        caller.delete(&format!("{path}/AZURE/{id}")).await.expect(204);
        caller.get(&one).await.refused(404, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND");
        caller.delete(&format!("{path}/AZURE/{id}")).await.refused(404, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND");
    }

    /// Without an identity of its own and without a node the server cannot try such a key out, and says so.
    async fn a_server_without_identity(site: Site) {
        let customer = Customer::new(&site).await;
        let role = make_role(&customer).await;
        let mut body = customer.whole_with(json!({"roleId": role})).await;
        body["azureKeyVault"].as_object_mut().unwrap().remove("secret");
        let answer = customer.refused(body, 503, "AZURE_KEY_VAULT_UNAVAILABLE").await;
        assert!(answer.text.contains("no Azure identity of its own"), "{}", answer.text);
    }
}

async fn make_role(customer: &Customer<'_>) -> Value {
    let vault = customer.site.vault.as_ref().unwrap().description();
    let path = format!("/api/atlas/v2/groups/{}/cloudProviderAccess", customer.project);
    let role = json!({"providerName": "AZURE", "atlasAzureAppId": vault.client_id, "servicePrincipalId": UUID,
                      "tenantId": vault.tenant_id});
    customer.caller().post(&path, role).await.expect(200).body["_id"].clone()
}

/// With an identity of the server's: no secret anywhere, and the role cannot be taken away under the key.
#[tokio::test]
async fn a_key_is_used_as_a_role() {
    let site = Site::start_with(Database::Sqlite, true, |config| {
        let secret = config.data_dir.parent().unwrap().join("identity");
        config.customer_key.identity = Some(ServerIdentity {
            tenant_id: UUID.to_owned(),
            client_id: Some(UUID.to_owned()),
            credential: keyward_kms::azure::Credential::ClientSecretFile(secret),
        });
        config.customer_key.new_credential_wait = Duration::ZERO;
    })
    .await
    .unwrap();
    let customer = Customer::new(&site).await;
    std::fs::write(site.dir.path().join("identity"), customer.secret()).unwrap();
    let role = make_role(&customer).await;
    let mut body = customer.whole_with(json!({"roleId": role})).await;
    for field in ["secret", "clientID", "tenantID"] {
        body["azureKeyVault"].as_object_mut().unwrap().remove(field);
    }
    let answer = customer.patch(body).await.expect(200).body;
    assert_eq!(answer["azureKeyVault"]["roleId"], role);
    assert_eq!(answer["azureKeyVault"]["clientID"], customer.client_id());
    let path = format!("/api/atlas/v2/groups/{}/cloudProviderAccess", customer.project);
    let used = customer.caller().get(&format!("{path}/{}", role.as_str().unwrap())).await.expect(200).body;
    assert_eq!(used["featureUsages"][0]["featureType"], "ENCRYPTION_AT_REST");
    let delete = format!("{path}/AZURE/{}", role.as_str().unwrap());
    customer.caller().delete(&delete).await.refused(409, "CLOUD_PROVIDER_ACCESS_ROLE_IN_USE");
    // What nodes are told holds no secret.
    let stored = site.encryption(&customer.project).await;
    let desired = keyward_server::customer_key::desired::desired(&stored, None).unwrap();
    assert_eq!(desired.credential, keyward_model::sync::DesiredCredential::OfTheHost);

    // Back to a secret: the role is free again.
    customer.patch(json!({"azureKeyVault": {"secret": customer.secret()}})).await.expect(200);
    assert_eq!(customer.get().await["azureKeyVault"].get("roleId"), None);
    customer.caller().delete(&delete).await.expect(204);
}
