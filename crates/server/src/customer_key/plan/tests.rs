use keyward_model::{
    Timestamp,
    encryption::FormerKey,
    id::{CloudRoleId, ProjectId},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::customer_key::{patch, view::view};

const PROJECT: ProjectId = ProjectId::from_bytes([7; 12]);
const ROLE: CloudRoleId = CloudRoleId::from_bytes([9; 12]);
const ID: &str = "11111111-2222-3333-4444-555555555555";
const OTHER_ID: &str = "66666666-7777-8888-9999-AAAAAAAAAAAA";
const V1: &str = "https://kv-one.vault.azure.net/keys/cmk/0123456789abcdef0123456789abcdef";
const V2: &str = "https://kv-one.vault.azure.net/keys/cmk/fedcba9876543210fedcba9876543210";

fn whole() -> Value {
    json!({
        "enabled": true, "azureEnvironment": "AZURE", "clientID": ID, "tenantID": ID, "subscriptionID": ID,
        "resourceGroupName": "rg", "keyVaultName": "kv-one", "keyIdentifier": V1, "secret": "s3cret",
    })
}

fn role() -> CloudRole {
    CloudRole {
        id: ROLE,
        project: PROJECT,
        atlas_azure_app_id: OTHER_ID.into(),
        service_principal_id: ID.into(),
        tenant_id: ID.into(),
        created: Timestamp::from_epoch_ms(0),
        updated: Timestamp::from_epoch_ms(0),
    }
}

/// A project, as the store would keep it.
#[derive(Debug, Clone)]
struct Project {
    stored: EncryptionAtRest,
    secret: Option<SecretString>,
    endpoints: Vec<String>,
    clusters: Vec<String>,
    roles: Vec<CloudRole>,
}

impl Project {
    fn new() -> Self {
        Self {
            stored: EncryptionAtRest::none(PROJECT),
            secret: None,
            endpoints: vec![],
            clusters: vec![],
            roles: vec![role()],
        }
    }

    fn configured() -> Self {
        let mut project = Self::new();
        project.patch(json!({"azureKeyVault": whole()})).unwrap();
        project
    }

    fn plan(&self, body: Value) -> Result<Plan, ApiError> {
        let situation = Situation {
            stored: &self.stored,
            secret: self.secret.as_ref(),
            endpoints: &self.endpoints,
            clusters: &self.clusters,
            roles: &self.roles,
            vaults_have_names: true,
        };
        plan(patch::read(body)?, situation)
    }

    fn patch(&mut self, body: Value) -> Result<Plan, ApiError> {
        let plan = self.plan(body)?;
        self.stored.azure_key_vault = plan.vault.clone();
        self.stored.enabled_for_search_nodes = plan.search_nodes;
        match &plan.secret {
            SecretPlan::Keep => {}
            SecretPlan::Set(secret) => self.secret = Some(secret.clone()),
            SecretPlan::Drop => self.secret = None,
        }
        Ok(plan)
    }

    fn shown(&self) -> Value {
        view(&self.stored)
    }

    fn refused(&self, body: Value) -> (Code, Value) {
        let error = self.plan(body).unwrap_err();
        (error.code(), error.body()["parameters"].clone())
    }
}

fn azure(fields: Value) -> Value {
    json!({ "azureKeyVault": fields })
}

#[test]
fn the_first_time_all_fields_are_needed() {
    let project = Project::new();
    assert_eq!(project.refused(azure(json!({"enabled": true}))).0, Code::MissingAttributes);
    assert_eq!(
        project.refused(azure(json!({"clientID": ID}))),
        (Code::MissingAttribute, json!(["azureKeyVault.enabled"]))
    );
    for field in [
        "clientID",
        "tenantID",
        "subscriptionID",
        "resourceGroupName",
        "keyVaultName",
        "keyIdentifier",
        "secret",
    ] {
        let mut body = whole();
        body.as_object_mut().unwrap().remove(field);
        assert_eq!(
            project.refused(azure(body)),
            (Code::MissingAttribute, json!([format!("azureKeyVault.{field}")]))
        );
    }
    // The environment has a usual value.
    let mut body = whole();
    body.as_object_mut().unwrap().remove("azureEnvironment");
    assert!(project.plan(azure(body)).is_ok());
}

#[test]
fn what_was_given_is_shown_exactly_and_the_secret_never() {
    let mut project = Project::new();
    assert_eq!(
        project.shown(),
        json!({"awsKms": {"enabled": false}, "azureKeyVault": {"enabled": false},
               "enabledForSearchNodes": false, "googleCloudKms": {"enabled": false}})
    );
    let mut body = whole();
    body["clientID"] = json!(OTHER_ID);
    body["keyVaultName"] = json!("KV-One");
    project.patch(azure(body.clone())).unwrap();
    let shown = project.shown();
    for (name, value) in body.as_object().unwrap() {
        if name == "secret" {
            assert_eq!(shown["azureKeyVault"].get(name), None);
        } else {
            assert_eq!(&shown["azureKeyVault"][name], value, "{name}");
        }
    }
    assert_eq!(shown["azureKeyVault"].get("roleId"), None);
    assert!(!shown.to_string().contains("s3cret"));
}

#[test]
fn a_body_that_repeats_the_answer_changes_nothing() {
    let mut project = Project::configured();
    let shown = project.shown();
    let plan = project.patch(shown.clone()).unwrap();
    assert_eq!((plan.changed.len(), plan.check), (0, true), "the vault is asked all the same");
    assert_eq!(project.shown(), shown);
    assert!(project.secret.is_some());
    // The secret comes along: it is the one that is known, and no new credential.
    let mut body = shown.clone();
    body["azureKeyVault"]["secret"] = json!("s3cret");
    let plan = project.patch(body.clone()).unwrap();
    assert!(plan.changed.is_empty() && plan.check && !plan.new_credential);
    assert!(matches!(plan.secret, SecretPlan::Keep));
    body["azureKeyVault"]["secret"] = json!("s3cret2");
    assert_eq!(project.patch(body).unwrap().changed, ["secret"]);
    // Another part of the body asks the vault nothing.
    let plan = project.patch(json!({"enabledForSearchNodes": false, "awsKms": {"enabled": false}})).unwrap();
    assert!(plan.changed.is_empty() && !plan.check);
}

#[test]
fn one_field_is_enough_afterwards_and_the_secret_stays() {
    let mut project = Project::configured();
    let plan = project.patch(azure(json!({"keyIdentifier": V2}))).unwrap();
    assert_eq!(plan.changed, ["keyIdentifier"]);
    assert!(plan.check && plan.key_replaced && !plan.new_credential);
    assert!(matches!(plan.secret, SecretPlan::Keep));
    let plan = project.patch(azure(json!({"secret": "another"}))).unwrap();
    assert_eq!(plan.changed, ["secret"]);
    assert!(plan.check && !plan.key_replaced && plan.new_credential);
    let plan = project.patch(json!({"enabledForSearchNodes": true})).unwrap();
    assert_eq!(plan.changed, ["enabledForSearchNodes"]);
    assert!(!plan.check);
}

#[test]
fn switching_off_is_refused_while_it_is_used() {
    let off = || azure(json!({"enabled": false}));
    let mut project = Project::configured();
    project.clusters = vec!["a".into(), "b".into()];
    let error = project.plan(off()).unwrap_err();
    assert_eq!(error.code(), Code::CannotDisableEncryptionAtRestUsedByClusters);
    assert_eq!(error.status(), http::StatusCode::CONFLICT);
    assert_eq!(error.body()["parameters"], json!(["a", "b"]));
    assert!(error.body()["detail"].as_str().unwrap().contains("a, b"));
    project.clusters.clear();
    project.endpoints = vec!["US_EAST_2".into()];
    assert_eq!(project.refused(off()).0, Code::CannotDisableEncryptionAtRestDueToPrivateEndpoints);
    project.endpoints.clear();
    let plan = project.patch(off()).unwrap();
    assert!(plan.vault.is_none() && !plan.check && matches!(plan.secret, SecretPlan::Drop));
    // Off already: fine, whoever uses what.
    project.clusters = vec!["a".into()];
    assert!(project.patch(off()).unwrap().changed.is_empty());
}

#[test]
fn private_networking_fixes_the_vault() {
    let mut project = Project::configured();
    project.patch(azure(json!({"requirePrivateNetworking": true}))).unwrap();
    for (field, value) in
        [("keyVaultName", "kv-two"), ("resourceGroupName", "rg2"), ("subscriptionID", OTHER_ID)]
    {
        let mut body = json!({field: value});
        if field == "keyVaultName" {
            body["keyIdentifier"] = json!(V1.replace("kv-one", "kv-two"));
        }
        assert_eq!(
            project.refused(azure(body)),
            (Code::EncryptionAtRestVaultIsFixed, json!([format!("azureKeyVault.{field}")]))
        );
    }
    assert!(project.plan(azure(json!({"keyIdentifier": V2}))).is_ok(), "a new version is no other vault");
    project.endpoints = vec!["US_EAST_2".into()];
    let off = azure(json!({"requirePrivateNetworking": false}));
    assert_eq!(project.refused(off.clone()).0, Code::CannotStopRequiringPrivateNetworking);
    project.endpoints.clear();
    project.patch(off).unwrap();
    assert!(project.plan(azure(json!({"resourceGroupName": "rg2"}))).is_ok());
}

#[test]
fn a_role_takes_the_place_of_a_secret_and_back() {
    let mut project = Project::new();
    let mut body = whole();
    for field in ["secret", "clientID", "tenantID"] {
        body.as_object_mut().unwrap().remove(field);
    }
    body["roleId"] = json!(ROLE);
    project.patch(azure(body)).unwrap();
    let shown = project.shown()["azureKeyVault"].clone();
    assert_eq!(
        (&shown["roleId"], &shown["clientID"], &shown["tenantID"]),
        (&json!(ROLE), &json!(OTHER_ID), &json!(ID))
    );
    assert!(project.secret.is_none());

    project.patch(azure(json!({"secret": "s"}))).unwrap();
    assert_eq!(project.shown()["azureKeyVault"].get("roleId"), None);
    assert!(project.secret.is_some());

    let plan = project.patch(azure(json!({"roleId": ROLE}))).unwrap();
    assert!(matches!(plan.secret, SecretPlan::Drop));
    assert!(project.secret.is_none());

    let unknown = CloudRoleId::from_bytes([1; 12]);
    assert_eq!(
        project.refused(azure(json!({"roleId": unknown}))),
        (Code::CloudProviderAccessRoleNotFound, json!([unknown]))
    );
    assert_eq!(project.refused(azure(json!({"tenantID": OTHER_ID}))).1, json!(["azureKeyVault.tenantID"]));
}

#[test]
fn the_key_identifier_must_be_whole_and_of_the_vault() {
    let project = Project::configured();
    for wrong in [
        "not a url",
        "http://kv-one.vault.azure.net/keys/cmk/0123456789abcdef0123456789abcdef",
        "https://kv-one.vault.azure.net/keys/cmk",
        "https://kv-one.vault.azure.net/keys/cmk/",
        "https://kv-one.vault.azure.net/secrets/cmk/0123456789abcdef0123456789abcdef",
        "https://kv-one.vault.azure.net/keys/cmk/0123456789ABCDEF0123456789abcdef",
        "https://kv-two.vault.azure.net/keys/cmk/0123456789abcdef0123456789abcdef",
        "https://kv-one.vault.azure.cn/keys/cmk/0123456789abcdef0123456789abcdef",
        "https://kv-one.vault.azure.net.evil.example/keys/cmk/0123456789abcdef0123456789abcdef",
    ] {
        let (code, parameters) = project.refused(azure(json!({"keyIdentifier": wrong})));
        assert_eq!(code, Code::AzureKeyVaultKeyIdentifierInvalidFormat, "{wrong}");
        assert_eq!(parameters, json!(["azureKeyVault.keyIdentifier"]));
    }
}

#[test]
fn former_keys_and_policy_are_no_business_of_a_patch() {
    let mut project = Project::configured();
    project.stored.former_keys.push(FormerKey {
        key_identifier: V1.into(),
        from: Timestamp::from_epoch_ms(0),
        until: Timestamp::from_epoch_ms(1),
    });
    let before = project.stored.clone();
    project.patch(project.shown()).unwrap();
    assert_eq!(project.stored, before);
}

/// Fields as a client may send them: absent, null, or one of a few values.
fn any_field(values: &'static [&'static str]) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(Value::Null)),
        3 => proptest::sample::select(values).prop_map(|text| Some(json!(text))),
    ]
}

fn any_patch() -> impl Strategy<Value = Value> {
    let flag = || prop_oneof![3 => Just(None), 1 => Just(Some(Value::Null)), 2 => any::<bool>().prop_map(|on| Some(json!(on)))];
    let fields = (
        (flag(), flag(), flag()),
        any_field(&["AZURE", "AZURE_CHINA"]),
        any_field(&[ID, OTHER_ID]),
        any_field(&[ID, OTHER_ID]),
        any_field(&[ID, OTHER_ID]),
        any_field(&["rg", "RG"]),
        any_field(&["kv-one", "KV-ONE", "kv-two"]),
        any_field(&[V1, V2, "nonsense"]),
        any_field(&["", "s3cret"]),
        any_field(&["", "090909090909090909090909", "010101010101010101010101"]),
    );
    (fields, flag()).prop_map(|(fields, search)| {
        let (
            (enabled, valid, private),
            environment,
            client,
            tenant,
            subscription,
            group,
            vault,
            key,
            secret,
            role,
        ) = fields;
        let named = [
            ("enabled", enabled),
            ("valid", valid),
            ("requirePrivateNetworking", private),
            ("azureEnvironment", environment),
            ("clientID", client),
            ("tenantID", tenant),
            ("subscriptionID", subscription),
            ("resourceGroupName", group),
            ("keyVaultName", vault),
            ("keyIdentifier", key),
            ("secret", secret),
            ("roleId", role),
        ];
        let object: serde_json::Map<String, Value> =
            named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let mut body = json!({ "azureKeyVault": object });
        if let Some(search) = search {
            body["enabledForSearchNodes"] = search;
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Any sequence of patches, from nothing or from a configured project: what is accepted is stored as given, what
    /// was absent stays, nothing is on without a credential, and a refusal changes nothing.
    #[test]
    fn any_sequence_of_patches(
        configured in any::<bool>(),
        patches in proptest::collection::vec(any_patch(), 1..8),
        endpoints in any::<bool>(),
        clusters in any::<bool>(),
    ) {
        let mut project = if configured { Project::configured() } else { Project::new() };
        if configured && endpoints {
            project.patch(azure(json!({"requirePrivateNetworking": true}))).unwrap();
            project.endpoints = vec!["US_EAST_2".into()];
        }
        if configured && clusters {
            project.clusters = vec!["c".into()];
        }
        for body in patches {
            let before = project.clone();
            match project.patch(body.clone()) {
                Err(error) => {
                    prop_assert!(error.status().is_client_error());
                    prop_assert_eq!(&project.stored, &before.stored);
                    prop_assert!(!error.body().to_string().contains("s3cret"));
                }
                Ok(plan) => {
                    let given = &body["azureKeyVault"];
                    let shown = project.shown()["azureKeyVault"].clone();
                    match (&before.stored.azure_key_vault, &project.stored.azure_key_vault) {
                        (Some(_), None) => {
                            prop_assert_eq!(&given["enabled"], &json!(false));
                            prop_assert!(before.clusters.is_empty() && before.endpoints.is_empty());
                            prop_assert!(project.secret.is_none());
                        }
                        (None, Some(_)) => prop_assert_eq!(&given["enabled"], &json!(true)),
                        (None, None) => prop_assert!(project.secret.is_none() || before.secret.is_some()),
                        (Some(was), Some(is)) => {
                            if !before.endpoints.is_empty() {
                                prop_assert!(is.require_private_networking);
                                prop_assert_eq!(&is.key_vault_name, &was.key_vault_name);
                                prop_assert_eq!(&is.subscription_id, &was.subscription_id);
                            }
                            let replaced = was.key().unwrap() != is.key().unwrap();
                            prop_assert_eq!(plan.key_replaced, replaced);
                            let changes = was != is || matches!(plan.secret, SecretPlan::Set(_));
                            prop_assert!(plan.check || !changes);
                        }
                    }
                    if let Some(vault) = &project.stored.azure_key_vault {
                        prop_assert!(vault.role_id.is_some() != project.secret.is_some());
                        prop_assert!(vault.key().is_ok());
                        let before = view(&before.stored)["azureKeyVault"].clone();
                        for (name, value) in given.as_object().unwrap() {
                            if name == "secret" || name == "valid" { continue }
                            if value.is_null() || value == "" {
                                let by_role = ["clientID", "tenantID", "roleId"].contains(&name.as_str());
                                prop_assert!(by_role || before.get(name).is_none() || shown[name] == before[name]);
                            } else {
                                prop_assert_eq!(&shown[name], value, "{}", name);
                            }
                        }
                        prop_assert!(!shown.to_string().contains("s3cret"));
                    }
                    if plan.changed.is_empty() {
                        prop_assert_eq!(&project.stored, &before.stored);
                    }
                }
            }
        }
    }
}
