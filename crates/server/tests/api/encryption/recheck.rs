//! `valid` says what is true: refusals flip it once confirmed, outages never.

use keyward_vault::fault::FaultKind;
use serde_json::json;

use super::customer::{Customer, eventually};
use crate::site::{Database, Site};

const MINUTE_MS: i64 = 60_000;

on_each_database! {
    from Site::start_with_vault;

    async fn a_disabled_key_and_its_return(site: Site) {
        let customer = Customer::configured(&site).await;
        let valid = async || customer.get().await["azureKeyVault"]["valid"].as_bool().unwrap();
        let count = async |kind: &str| {
            site.event_types(&customer.project).await.iter().filter(|seen| *seen == kind).count()
        };
        customer.vault.disable_key("cmk").await.unwrap();
        site.advance_ms(15 * MINUTE_MS);
        eventually(&site, "a first refusal", async || site.encryption(&customer.project).await.validity.refused_at).await;
        assert!(valid().await, "one refusal alone may be Azure's mistake");
        site.advance_ms(MINUTE_MS);
        eventually(&site, "invalid", async || (!valid().await).then_some(())).await;
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_FAILED").await, 1);
        let stored = site.encryption(&customer.project).await;
        assert!(stored.validity.findings[0].contains("disabled"), "{:?}", stored.validity.findings);

        customer.vault.enable_key("cmk").await.unwrap();
        site.advance_ms(MINUTE_MS);
        eventually(&site, "valid", async || valid().await.then_some(())).await;
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_SUCCEEDED").await, 1);
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_FAILED").await, 1);
    }

    /// Who saves the same configuration once more has it tried out, and hears what the vault says now.
    async fn saving_again_asks_the_vault(site: Site) {
        let customer = Customer::configured(&site).await;
        let same = customer.whole_with(json!({})).await;
        let calls = async || customer.vault.log(0).await.unwrap().len();
        let count = async |kind: &str| {
            site.event_types(&customer.project).await.iter().filter(|seen| *seen == kind).count()
        };
        let (asked, events) = (calls().await, site.events().await);
        site.advance_ms(1_000);
        customer.patch(same.clone()).await.expect(200);
        assert!(calls().await > asked, "the vault was not asked");
        assert_eq!(site.events().await, events, "nothing changed");
        assert_eq!(site.encryption(&customer.project).await.validity.checked_at, Some(site.server.app().now()));

        // What an outage does not say is not told: `valid` stays as it was last known.
        customer.vault.set_fault(FaultKind::Error503, None).await.unwrap();
        customer.refused(same.clone(), 503, "AZURE_KEY_VAULT_UNAVAILABLE").await;
        assert_eq!(customer.get().await["azureKeyVault"]["valid"], true);
        customer.vault.clear_faults().await.unwrap();
        customer.patch(same.clone()).await.expect(200);

        // A refusal is told at once, and soon looked into, before the usual time.
        customer.vault.disable_key("cmk").await.unwrap();
        customer.refused(same.clone(), 400, "AZURE_KEY_VAULT_KEY_NOT_ENABLED").await;
        eventually(&site, "a first refusal", async || site.encryption(&customer.project).await.validity.refused_at).await;
        site.advance_ms(MINUTE_MS);
        eventually(&site, "invalid", async || {
            (customer.get().await["azureKeyVault"]["valid"] == false).then_some(())
        })
        .await;
        customer.vault.enable_key("cmk").await.unwrap();
        customer.patch(same).await.expect(200);
        assert_eq!(customer.get().await["azureKeyVault"]["valid"], true);
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_FAILED").await, 1);
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_SUCCEEDED").await, 1);
    }

    async fn an_outage_is_no_refusal(site: Site) {
        let customer = Customer::configured(&site).await;
        let count = async |kind: &str| {
            site.event_types(&customer.project).await.iter().filter(|seen| *seen == kind).count()
        };
        customer.vault.set_fault(FaultKind::Error503, None).await.unwrap();
        site.advance_ms(15 * MINUTE_MS);
        eventually(&site, "unreachable", async || {
            site.encryption(&customer.project).await.validity.unreachable_since
        })
        .await;
        assert_eq!(count("ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED").await, 0);
        for _ in 0..3 {
            let last = site.encryption(&customer.project).await.validity.checked_at;
            site.advance_ms(MINUTE_MS);
            eventually(&site, "another check", async || {
                (site.encryption(&customer.project).await.validity.checked_at != last).then_some(())
            })
            .await;
            assert_eq!(customer.get().await["azureKeyVault"]["valid"], true);
        }
        assert_eq!(count("ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED").await, 1);
        customer.vault.clear_faults().await.unwrap();
        site.advance_ms(MINUTE_MS);
        eventually(&site, "reachable", async || {
            site.encryption(&customer.project).await.validity.unreachable_since.is_none().then_some(())
        })
        .await;
        assert_eq!(count("ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_RESTORED").await, 1);
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_FAILED").await, 0);
    }

    /// A server clock that jumps, far ahead and back, changes nothing but when checks come.
    async fn the_clock_jumps(site: Site) {
        let customer = Customer::configured(&site).await;
        let before = site.encryption(&customer.project).await;
        // The key grows old and young again meanwhile: its alert comes and goes.
        let events = async || {
            let mut types = site.event_types(&customer.project).await;
            types.retain(|kind| !kind.starts_with("KEYWARD_ALERT_"));
            types
        };
        let told = events().await;
        for jump in [400 * 24 * 60 * MINUTE_MS, -800 * 24 * 60 * MINUTE_MS, 400 * 24 * 60 * MINUTE_MS] {
            site.advance_ms(jump);
            let last = site.encryption(&customer.project).await.validity.checked_at;
            eventually(&site, "another check", async || {
                (site.encryption(&customer.project).await.validity.checked_at != last).then_some(())
            })
            .await;
        }
        let after = site.encryption(&customer.project).await;
        assert_eq!(
            (after.azure_key_vault, after.key_changed_at, after.former_keys),
            (before.azure_key_vault, before.key_changed_at, before.former_keys)
        );
        assert_eq!(events().await, told);
        // While the clock is behind, a rotation still leaves a period that does not end before it begins.
        site.advance_ms(-24 * 60 * MINUTE_MS);
        let version = customer.vault.rotate_key("cmk").await.unwrap();
        customer.patch(json!({"azureKeyVault": {"keyIdentifier": version.key_identifier().unwrap()}})).await.expect(200);
        let former = site.encryption(&customer.project).await.former_keys;
        assert!(former[0].from <= former[0].until, "{former:?}");
    }
}
