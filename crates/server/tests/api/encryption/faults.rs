//! A vault that is down: 503 with a reason and `Retry-After`, and nothing is stored. Bad input: 4xx, and nothing is
//! stored.

use keyward_vault::{fault::FaultKind, state::Settings};
use serde_json::{Value, json};

use super::customer::Customer;
use crate::site::{Database, Site};

on_each_database! {
    from Site::start_with_vault;

    async fn every_fault_during_a_patch(site: Site) {
        let customer = Customer::new(&site).await;
        let body = customer.whole_with(json!({})).await;
        customer.vault.set_settings(&Settings { slow_ms: 50, ..Settings::default() }).await.unwrap();
        for fault in FaultKind::all() {
            customer.vault.set_fault(fault, None).await.unwrap();
            match fault {
                // Reading and cryptography go on.
                FaultKind::ReadOnly | FaultKind::Slow => {
                    customer.patch(body.clone()).await.expect(200);
                    customer.patch(json!({"azureKeyVault": {"enabled": false}})).await.expect(200);
                }
                // Someone has to act.
                FaultKind::Firewall | FaultKind::PrivateLink => {
                    customer.refused(body.clone(), 400, "AZURE_KEY_VAULT_NETWORK_ACCESS_DENIED").await;
                }
                FaultKind::Refuse
                | FaultKind::Hang
                | FaultKind::Reset
                | FaultKind::Throttle
                | FaultKind::Error401
                | FaultKind::Error500
                | FaultKind::Error503
                | FaultKind::DnsGone
                | FaultKind::TokenDown => {
                    let answer = customer.refused(body.clone(), 503, "AZURE_KEY_VAULT_UNAVAILABLE").await;
                    // As the vault asked, where it did.
                    let wait = if fault == FaultKind::Throttle { "2" } else { "30" };
                    assert_eq!(answer.header("retry-after"), wait, "{fault}");
                    assert!(answer.text.contains("did not work") || answer.text.contains("took longer"), "{}", answer.text);
                }
            }
            customer.vault.clear_faults().await.unwrap();
        }
        customer.patch(body).await.expect(200);
    }

    /// An outage while a key is configured: what needs no vault is changed, the rest waits.
    async fn an_outage_of_a_configured_vault(site: Site) {
        let customer = Customer::configured(&site).await;
        let second = customer.vault.rotate_key("cmk").await.unwrap();
        customer.vault.set_fault(FaultKind::Error503, None).await.unwrap();
        let next = json!({"azureKeyVault": {"keyIdentifier": second.key_identifier().unwrap()}});
        customer.refused(next.clone(), 503, "AZURE_KEY_VAULT_UNAVAILABLE").await;
        // What is stored already, once more: whoever saves wants to know whether it works.
        customer.refused(customer.whole_with(json!({})).await, 503, "AZURE_KEY_VAULT_UNAVAILABLE").await;
        let answer = customer.patch(json!({"enabledForSearchNodes": true})).await.expect(200);
        assert_eq!(answer.body["enabledForSearchNodes"], true);
        assert_eq!(answer.body["azureKeyVault"]["valid"], true, "an outage says nothing about the key");
        customer.vault.clear_faults().await.unwrap();
        customer.patch(next).await.expect(200);
    }

    async fn bad_input_is_refused_before_the_vault_is_asked(site: Site) {
        let customer = Customer::new(&site).await;
        let calls = customer.vault.log(0).await.unwrap().len();
        let text = |body: &str| body.as_bytes().to_vec();
        let whole = customer.whole_with(json!({})).await;
        let with = |name: &str, value: Value| {
            let mut body = whole.clone();
            body["azureKeyVault"][name] = value;
            serde_json::to_vec(&body).unwrap()
        };
        let media = "application/vnd.atlas.2023-01-01+json";
        for (body, code) in [
            (text(""), "INVALID_JSON"),
            (text("{"), "MALFORMED_JSON"),
            (text("[]"), "INVALID_JSON"),
            (text("\"x\""), "INVALID_JSON"),
            (text("{\"azureKeyVault\":{\"enabled\":true,\"enabled\":false}}"), "INVALID_JSON"),
            (text("{\"azureKeyVault\":[]}"), "INVALID_ATTRIBUTE"),
            (text("{\"azure\":{}}"), "INVALID_ATTRIBUTE"),
            (with("enabled", json!("yes")), "INVALID_ATTRIBUTE"),
            (with("nodes", json!(3)), "INVALID_ATTRIBUTE"),
            (with("clientID", json!("x".repeat(100_000))), "INVALID_ATTRIBUTE"),
            (with("secret", json!("x".repeat(5_000))), "INVALID_ATTRIBUTE"),
            (with("resourceGroupName", json!("a\u{0}b")), "INVALID_ATTRIBUTE"),
            (with("azureEnvironment", json!("AZURE_MARS")), "AZURE_KEY_VAULT_ENVIRONMENT_NOT_SUPPORTED"),
            (with("roleId", json!("5f3a0c9e8d7b6a5f4e3d2c1b")), "INVALID_ATTRIBUTE"),
            (text("{\"awsKms\":{\"enabled\":true}}"), "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED"),
            (text("{\"googleCloudKms\":{\"enabled\":true}}"), "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED"),
            (text("{\"azureKeyVault\":{\"enabled\":true}}"), "MISSING_ATTRIBUTES"),
        ] {
            let events = site.events().await;
            let answer = customer.caller().send_bytes("PATCH", &customer.path(), Some(body.clone()), media).await;
            assert_eq!((answer.status, answer.code()), (400, code), "{}: {}", String::from_utf8_lossy(&body[..body.len().min(200)]), answer.text);
            assert!(answer.text.len() < 2_000, "an answer repeats no absurd value");
            assert_eq!(site.events().await, events);
        }
        let huge = format!("{{\"azureKeyVault\":{{\"secret\":\"{}\"}}}}", "x".repeat(2 << 20));
        let answer = customer.caller().send_bytes("PATCH", &customer.path(), Some(text(&huge)), media).await;
        assert_eq!(answer.status, 413, "{}", answer.text);
        let nothing = json!({"awsKms": {"enabled": false}, "azureKeyVault": {"enabled": false},
                             "enabledForSearchNodes": false, "googleCloudKms": {"enabled": false}});
        assert_eq!(customer.get().await, nothing);
        assert_eq!(customer.vault.log(0).await.unwrap().len(), calls, "the vault was asked");
    }
}
