//! The alert about the customer key's age knows how often the vault replaces the key by itself, where it may look.

use serde_json::json;

use super::customer::{Customer, eventually};
use crate::site::{Database, Site};

const DAY_MS: i64 = 86_400_000;

/// Waits until the alerts were looked at at the present time of the server's clock.
async fn alerts_are_looked_at(site: &Site) {
    let now = site.server.app().now();
    eventually(site, "a pass of the alerts", async || {
        let all = site.server.app().activities().all();
        let job = all.iter().find(|activity| activity.name == "alerts").unwrap();
        (job.error.is_none() && job.took_ms.is_some() && job.started == Some(now) && job.status.is_some())
            .then_some(())
    })
    .await;
    // Once more: the first may have begun before what it looks at was stored.
    let passes = async || {
        let all = site.server.app().activities().all();
        all.iter().find(|activity| activity.name == "alerts").unwrap().passes
    };
    let before = passes().await;
    eventually(site, "another pass", async || (passes().await > before + 1).then_some(())).await;
}

on_each_database! {
    from Site::start_with_vault;

    async fn the_age_of_the_key_follows_the_vaults_policy(site: Site) {
        let customer = Customer::new(&site).await;
        let policy = json!({
            "lifetimeActions": [{"trigger": {"timeAfterCreate": "P200D"}, "action": {"type": "Rotate"}}],
            "attributes": {},
        });
        customer.vault.set_rotation_policy("cmk", &policy).await.unwrap();
        customer.vault.grant(customer.client_id(), None, &["getrotationpolicy".into()]).await.unwrap();
        customer.patch(customer.whole_with(json!({})).await).await.expect(200);
        let days = async || site.encryption(&customer.project).await.validity.rotation.map(|seen| seen.after_days);
        assert_eq!(eventually(&site, "the policy", days).await, Some(200));
        let events = site.events().await;

        let path = format!("/api/atlas/v2/groups/{}/alerts?status=OPEN", customer.project);
        let open = async || {
            let listed = customer.caller().get(&path).await.expect(200);
            let found = listed.body["results"].as_array().unwrap().clone();
            found.into_iter().filter(|alert| alert["eventTypeName"] == "AZURE_ENCRYPTION_KEY_NEEDS_ROTATION").count()
        };
        // The threshold is 90 days, but the vault needs 200.
        site.advance_ms(100 * DAY_MS);
        alerts_are_looked_at(&site).await;
        assert_eq!(open().await, 0);
        assert_eq!(site.events().await, events);
        site.advance_ms(108 * DAY_MS);
        eventually(&site, "the alert", async || (open().await == 1).then_some(())).await;
        let count = async |kind: &str| {
            site.event_types(&customer.project).await.iter().filter(|seen| *seen == kind).count()
        };
        alerts_are_looked_at(&site).await;
        assert_eq!((count("KEYWARD_ALERT_OPENED").await, count("KEYWARD_ALERT_CLOSED").await), (1, 0));

        let version = customer.vault.rotate_key("cmk").await.unwrap();
        customer.patch(json!({"azureKeyVault": {"keyIdentifier": version.key_identifier().unwrap()}})).await.expect(200);
        eventually(&site, "its end", async || (open().await == 0).then_some(())).await;
        alerts_are_looked_at(&site).await;
        assert_eq!((count("KEYWARD_ALERT_OPENED").await, count("KEYWARD_ALERT_CLOSED").await), (1, 1));
        let told = site.events_text().await;
        assert!(told.contains("\"alertType\":\"AZURE_ENCRYPTION_KEY_NEEDS_ROTATION\""), "{told}");
    }

    /// The recommended grant does not cover the policy: that is no trouble, and warned of nowhere.
    async fn without_the_grant_the_threshold_counts(site: Site) {
        let customer = Customer::configured(&site).await;
        let seen = eventually(&site, "a look at the policy", async || {
            site.encryption(&customer.project).await.validity.rotation
        })
        .await;
        assert_eq!(seen.after_days, None);
        let validity = site.encryption(&customer.project).await.validity;
        let said = [validity.findings, validity.warnings].concat().join(" ");
        assert!(validity.valid && !said.contains("rotation"), "{said}");
        // Asked once a day, not at every check.
        let denied = async || {
            let log = customer.vault.log(0).await.unwrap();
            log.iter().filter(|entry| entry.operation == "KeyRotationPolicyGet").count()
        };
        assert_eq!(denied().await, 1);
        for minutes in [15, 30] {
            let last = site.encryption(&customer.project).await.validity.checked_at;
            site.advance_ms(15 * 60_000);
            eventually(&site, "another check", async || {
                (site.encryption(&customer.project).await.validity.checked_at != last).then_some(())
            })
            .await;
            assert_eq!(denied().await, 1, "after {minutes} minutes");
        }
        let path = format!("/api/atlas/v2/groups/{}/alerts?status=OPEN", customer.project);
        site.advance_ms(91 * DAY_MS);
        eventually(&site, "the alert", async || {
            let listed = customer.caller().get(&path).await.expect(200);
            listed.text.contains("AZURE_ENCRYPTION_KEY_NEEDS_ROTATION").then_some(())
        })
        .await;
    }
}
