//! `valid` says what is true: refusals flip it once confirmed, outages never.

use keyward_vault::fault::FaultKind;
use serde_json::json;

use super::customer::{Customer, eventually};
use crate::site::{Database, Site};

const MINUTE_MS: i64 = 60_000;

with_vault_on_each_database! {
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
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID").await, 1);
        let stored = site.encryption(&customer.project).await;
        assert!(stored.validity.findings[0].contains("disabled"), "{:?}", stored.validity.findings);

        customer.vault.enable_key("cmk").await.unwrap();
        site.advance_ms(MINUTE_MS);
        eventually(&site, "valid", async || valid().await.then_some(())).await;
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIG_IS_VALID").await, 1);
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID").await, 1);
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
        assert_eq!(count("ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID").await, 0);
    }

    /// A server clock that jumps, far ahead and back, changes nothing but when checks come.
    async fn the_clock_jumps(site: Site) {
        let customer = Customer::configured(&site).await;
        let before = site.encryption(&customer.project).await;
        let events = site.events().await;
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
        assert_eq!(site.events().await, events);
        // While the clock is behind, a rotation still leaves a period that does not end before it begins.
        site.advance_ms(-24 * 60 * MINUTE_MS);
        let version = customer.vault.rotate_key("cmk").await.unwrap();
        customer.patch(json!({"azureKeyVault": {"keyIdentifier": version.key_identifier().unwrap()}})).await.expect(200);
        let former = site.encryption(&customer.project).await.former_keys;
        assert!(former[0].from <= former[0].until, "{former:?}");
    }
}
