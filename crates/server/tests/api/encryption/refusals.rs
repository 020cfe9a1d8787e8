//! What the vault has against a key is told with Atlas' code, and nothing is stored.

use keyward_vault::{
    admin::{KeySettings, VaultChange},
    state::{AccessModel, NetworkRules, Settings},
};
use serde_json::json;

use super::customer::Customer;
use crate::site::{Database, Site};

fn in_hours(hours: i64) -> i64 {
    jiff::Timestamp::now().as_second() + hours * 3600
}

on_each_database! {
    from Site::start_with_vault;

    /// Credentials, and whose they are.
    async fn credentials(site: Site) {
        let customer = Customer::new(&site).await;
        let code = "INVALID_AZURE_CREDENTIALS";
        let wrong = customer.whole_with(json!({"secret": "not-the-secret"})).await;
        let answer = customer.refused(wrong, 400, code).await;
        assert!(answer.text.contains("AADSTS7000215"), "{}", answer.text);
        assert!(answer.text.contains("not your keyward API key"), "{}", answer.text);
        assert!(answer.text.contains(customer.client_id()), "{}", answer.text);
        assert!(!answer.text.contains("not-the-secret"), "{}", answer.text);

        let unknown = customer.whole_with(json!({"clientID": "00000000-1111-2222-3333-444444444444"})).await;
        customer.refused(unknown, 400, code).await;
        customer.vault.disable_application(customer.client_id()).await.unwrap();
        customer.refused(customer.whole_with(json!({})).await, 400, code).await;
        customer.vault.enable_application(customer.client_id()).await.unwrap();
        customer.vault.expire_secret(customer.client_id()).await.unwrap();
        let answer = customer.refused(customer.whole_with(json!({})).await, 400, code).await;
        assert!(answer.text.contains("expired"), "{}", answer.text);

        let tenant = customer.whole_with(json!({"tenantID": "00000000-1111-2222-3333-444444444444"})).await;
        let answer = customer.refused(tenant, 400, "INVALID_AZURE_API_REQUEST").await;
        assert!(answer.text.contains("belongs to tenant"), "{}", answer.text);
    }

    /// The key itself.
    async fn the_key(site: Site) {
        let customer = Customer::new(&site).await;
        let key = customer.key("cmk").await;
        let (place, _) = key.rsplit_once('/').unwrap();
        let other = |name: &str| json!({"keyIdentifier": format!("{}/{name}/{}", &place[..place.rfind('/').unwrap()], "0".repeat(32))});
        customer.refused(customer.whole_with(other("none")).await, 400, "AZURE_KEY_VAULT_KEY_NOT_FOUND").await;
        customer.refused(customer.whole_with(other("cmk")).await, 400, "AZURE_KEY_VAULT_KEY_NOT_FOUND").await;

        let malformed = "AZURE_KEY_VAULT_KEY_IDENTIFIER_INVALID_FORMAT";
        customer.refused(customer.whole_with(json!({"keyIdentifier": place})).await, 400, malformed).await;
        customer.refused(customer.whole_with(json!({"keyIdentifier": "cmk"})).await, 400, malformed).await;
        let elsewhere = json!({"keyIdentifier": key.replace("localhost", "elsewhere")});
        customer.refused(customer.whole_with(elsewhere).await, 400, "INVALID_AZURE_API_REQUEST").await;

        customer.vault.disable_key("cmk").await.unwrap();
        let body = customer.whole_with(json!({"keyIdentifier": key})).await;
        customer.refused(body.clone(), 400, "AZURE_KEY_VAULT_KEY_NOT_ENABLED").await;
        customer.vault.enable_key("cmk").await.unwrap();

        let set = async |settings: KeySettings| drop(customer.vault.change_key("cmk", &settings).await.unwrap());
        set(KeySettings { not_before: Some(in_hours(2)), ..KeySettings::default() }).await;
        customer.refused(body.clone(), 400, "AZURE_KEY_VAULT_KEY_NOT_ACTIVE").await;
        set(KeySettings { not_before: Some(0), expires: Some(in_hours(-1)), ..KeySettings::default() }).await;
        customer.refused(body.clone(), 400, "AZURE_KEY_VAULT_KEY_EXPIRED").await;
        set(KeySettings { expires: Some(in_hours(47)), ..KeySettings::default() }).await;
        customer.refused(body.clone(), 400, "AZURE_KEY_VAULT_KEY_EXPIRING").await;
        let ops = |names: &[&str]| KeySettings {
            key_ops: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            expires: Some(0),
            ..KeySettings::default()
        };
        set(ops(&["wrapKey", "encrypt", "sign"])).await;
        let answer = customer.refused(body.clone(), 400, "AZURE_KEY_VAULT_KEY_NOT_SUITABLE").await;
        assert!(answer.text.contains("unwrap"), "{}", answer.text);
        set(ops(&["unwrapKey", "decrypt", "sign"])).await;
        let answer = customer.refused(body.clone(), 400, "AZURE_KEY_VAULT_KEY_NOT_SUITABLE").await;
        assert!(answer.text.contains("does not permit to wrap"), "{}", answer.text);
        set(ops(&["wrapKey", "unwrapKey"])).await;

        customer.vault.delete_key("cmk").await.unwrap();
        customer.refused(body.clone(), 400, "AZURE_KEY_VAULT_KEY_NOT_FOUND").await;
        customer.vault.recover_key("cmk").await.unwrap();

        // All mended: one that expires in 49 hours will do.
        set(KeySettings { expires: Some(in_hours(49)), ..KeySettings::default() }).await;
        let answer = customer.patch(body).await.expect(200);
        assert_eq!(answer.body["azureKeyVault"]["valid"], true);
    }

    /// Its type and size: what no vault makes is put there below its API, and served as any other.
    async fn type_and_size(site: Site) {
        let customer = Customer::new(&site).await;
        let vault = site.vault.as_ref().unwrap();
        customer.vault.create_key_of_type("curve", "EC").await.unwrap();
        let curve = customer.key("curve").await;
        let small = vault.plant_key_for_tests("small", "RSA", 1024).await.unwrap();
        let large = vault.plant_key_for_tests("large", "RSA-HSM", 8192).await.unwrap();
        let symmetric = vault.plant_key_for_tests("symmetric", "oct-HSM", 0).await.unwrap();
        for (key, told) in [
            (curve, "is a key of type EC, not RSA"),
            (small, "has 1024 bits"),
            (large, "has 8192 bits"),
            (symmetric, "is a key of type oct-HSM, not RSA"),
        ] {
            let body = customer.whole_with(json!({"keyIdentifier": key})).await;
            let answer = customer.refused(body, 400, "AZURE_KEY_VAULT_KEY_NOT_SUITABLE").await;
            assert!(answer.text.contains(&key) && answer.text.contains(told), "{}", answer.text);
            assert!(answer.text.contains("2048, 3072 or 4096 bits"), "{}", answer.text);
        }
        customer.vault.create_key_of_type("hardware", "RSA-HSM").await.unwrap();
        let hardware = json!({"keyIdentifier": customer.key("hardware").await});
        customer.patch(customer.whole_with(hardware).await).await.expect(200);
    }

    /// Each missing grant is named, in both access models, and both grants of rule 12 do.
    async fn grants(site: Site) {
        let customer = Customer::new(&site).await;
        let body = customer.whole_with(json!({})).await;
        let code = "NO_PERMISSION_TO_ENCRYPT_DECRYPT";
        for model in [AccessModel::Rbac, AccessModel::Policy] {
            for (granted, missing) in [
                (&[][..], &["wrapKey (or encrypt)", "unwrapKey (or decrypt)"][..]),
                (&["wrapKey", "unwrapKey"], &["get on"]),
                (&["get"], &["wrapKey (or encrypt)", "unwrapKey (or decrypt)"]),
                (&["get", "wrapKey"], &["unwrapKey (or decrypt)"]),
                (&["get", "decrypt"], &["wrapKey (or encrypt)"]),
            ] {
                customer.vault.revoke(customer.client_id(), None, &[]).await.unwrap();
                let actions: Vec<String> = granted.iter().map(|action| (*action).to_owned()).collect();
                if actions.is_empty() {
                    // The vault stays in the model it was switched to.
                    customer.vault.grant(customer.client_id(), Some(model), &["create".into()]).await.unwrap();
                } else {
                    customer.vault.grant(customer.client_id(), Some(model), &actions).await.unwrap();
                }
                // Who may read a key of an RBAC vault may wrap with it too: only what is really refused is named.
                let covered = model == AccessModel::Rbac && granted.contains(&"get");
                let missing: Vec<&str> =
                    missing.iter().filter(|name| !(covered && name.starts_with("wrapKey"))).copied().collect();
                let answer = customer.patch(body.clone()).await;
                if missing.is_empty() {
                    answer.expect(200);
                    customer.patch(json!({"azureKeyVault": {"enabled": false}})).await.expect(200);
                    continue;
                }
                assert_eq!((answer.status, answer.code()), (400, code), "{model:?} {granted:?}: {}", answer.text);
                for name in missing {
                    assert!(answer.text.contains(name), "{model:?} {granted:?}: {}", answer.text);
                }
                let whose = if model == AccessModel::Rbac { "role assignment" } else { "access polic" };
                assert!(answer.text.contains(whose), "{model:?} {granted:?}: {}", answer.text);
            }
            for granted in [["get", "wrapKey", "unwrapKey"], ["get", "encrypt", "decrypt"]] {
                customer.vault.revoke(customer.client_id(), None, &[]).await.unwrap();
                let actions = granted.map(str::to_owned);
                customer.vault.grant(customer.client_id(), Some(model), &actions).await.unwrap();
                customer.patch(body.clone()).await.expect(200);
                customer.patch(json!({"azureKeyVault": {"enabled": false}})).await.expect(200);
            }
        }
    }

    /// The vault: network rules refuse, missing protection and a vault that may not be read warn.
    async fn the_vault(site: Site) {
        let customer = Customer::new(&site).await;
        let body = customer.whole_with(json!({})).await;
        let change = async |change: VaultChange| drop(customer.vault.change_vault(&change).await.unwrap());
        let network = |public_access, default_allow| VaultChange {
            network: Some(NetworkRules { public_access, default_allow, ip_rules: vec![] }),
            ..VaultChange::default()
        };
        let denied = "AZURE_KEY_VAULT_NETWORK_ACCESS_DENIED";
        change(network(true, false)).await;
        let answer = customer.refused(body.clone(), 400, denied).await;
        assert!(answer.text.contains("firewall"), "{}", answer.text);
        change(network(false, true)).await;
        customer.refused(body.clone(), 400, denied).await;
        change(network(true, true)).await;

        customer.patch(body.clone()).await.expect(200);
        let warnings = async || site.encryption(&customer.project).await.validity.warnings;
        assert!(warnings().await.iter().any(|warning| warning.contains("Key Vault Reader")), "{:?}", warnings().await);
        customer.vault.grant(customer.client_id(), None, &["vaults/read".into()]).await.unwrap();
        customer.patch(body.clone()).await.expect(200);
        assert_eq!(warnings().await, [""; 0]);
        change(VaultChange { purge_protection: Some(false), ..VaultChange::default() }).await;
        customer.patch(body.clone()).await.expect(200);
        assert!(warnings().await.iter().any(|warning| warning.contains("purge protection")), "{:?}", warnings().await);
        assert!(!site.events_text().await.contains("purge protection"), "nothing was changed");
        let version = customer.vault.rotate_key("cmk").await.unwrap();
        let next = json!({"azureKeyVault": {"keyIdentifier": version.key_identifier().unwrap()}});
        customer.patch(next).await.expect(200);
        assert!(site.events_text().await.contains("purge protection"), "the event of a change tells of it too");

        customer.patch(json!({"azureKeyVault": {"enabled": false}})).await.expect(200);
        customer.vault.delete_vault().await.unwrap();
        customer.refused(body, 503, "AZURE_KEY_VAULT_UNAVAILABLE").await;
    }
}

/// A grant that was given a moment ago is waited for (complaint 3); one that never comes is refused, and the answer
/// says how long it was tried.
#[tokio::test]
async fn a_fresh_grant_is_waited_for() {
    let site = Site::start_with(Database::Sqlite, true, |config| {
        config.customer_key.new_credential_wait = std::time::Duration::from_secs(12);
    })
    .await
    .unwrap();
    let customer = Customer::new(&site).await;
    let body = customer.whole_with(json!({})).await;
    customer.vault.revoke(customer.client_id(), None, &[]).await.unwrap();
    let slow = Settings { grant_delay_s: 3, ..Settings::default() };
    customer.vault.set_settings(&slow).await.unwrap();
    customer.vault.grant(customer.client_id(), None, &[]).await.unwrap();
    let began = std::time::Instant::now();
    customer.patch(body.clone()).await.expect(200);
    assert!(began.elapsed() >= std::time::Duration::from_secs(2), "it was refused at first, and tried again");

    // A key that changes under a credential that is known is refused at once.
    customer.vault.disable_key("cmk").await.unwrap();
    let again = json!({"azureKeyVault": {"requirePrivateNetworking": true}});
    customer.refused(again, 400, "AZURE_KEY_VAULT_KEY_NOT_ENABLED").await;

    let wrong = json!({"azureKeyVault": {"secret": "never-right"}});
    let answer = customer.refused(wrong, 400, "INVALID_AZURE_CREDENTIALS").await;
    assert!(answer.text.contains("It was tried"), "{}", answer.text);
}
