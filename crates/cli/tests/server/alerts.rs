//! `keyward alert`: what is open, who looks after it, and what ends it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::site::Site;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_listed_shown_and_acknowledged() {
    let site = Site::start().await;
    site.login().await;
    let project = site.json(&["project", "create", "payments"]).await["id"].as_str().unwrap().to_owned();
    site.says(&["login", "--project", "payments"]).await;
    site.set_customer_key().await;
    let config = json!({
        "eventTypeName": "AZURE_ENCRYPTION_KEY_NEEDS_ROTATION", "enabled": true,
        "threshold": {"operator": "GREATER_THAN", "threshold": 90, "units": "DAYS"},
        "notifications": [{"typeName": "GROUP", "intervalMin": 5, "delayMin": 0, "emailEnabled": true, "roles": ["GROUP_OWNER"]}],
    });
    let configs = format!("/api/atlas/v2/groups/{project}/alertConfigs");
    site.call("POST", &configs, "2023-01-01", Some(config)).await;
    assert_eq!(site.says(&["alert", "list"]).await, "no open alert\n");

    // A hundred days later.
    site.advance(100 * DAY);
    let some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    let open = site.until("an alert", &["alert", "list"], some).await;
    let id = open[0]["id"].as_str().unwrap();
    let listed = site.says(&["alert", "list"]).await;
    assert!(listed.contains("AZURE_ENCRYPTION_KEY_NEEDS_ROTATION") && listed.contains(id), "{listed}");
    let shown = site.says(&["alert", "show", id]).await;
    for part in ["● OPEN", id, open[0]["text"].as_str().unwrap(), "nobody yet: keyward alert acknowledge"] {
        assert!(!part.is_empty() && shown.contains(part), "{part:?} is missing: {shown}");
    }
    assert_eq!(site.json(&["alert", "show", id]).await, open[0]);

    let comment = ["--comment", "key rotates tonight"];
    // Counted from this host's clock, which did not jump.
    let words = ["alert", "acknowledge", id, "--for", "4000h", comment[0], comment[1]];
    let said = site.says(&words).await;
    assert!(said.starts_with("AZURE_ENCRYPTION_KEY_NEEDS_ROTATION is acknowledged until 2"), "{said}");
    let shown = site.says(&["alert", "show", id]).await;
    assert!(
        shown.contains(comment[1]) && shown.contains(&format!("{}, until 2", site.public_key)),
        "{shown}"
    );
    assert!(site.says(&["alert", "list"]).await.contains(&site.public_key));
    let said = site.says(&["alert", "acknowledge", id, "--for", "0s"]).await;
    assert_eq!(said, "nobody looks after AZURE_ENCRYPTION_KEY_NEEDS_ROTATION any more\n");

    // A new key ends it.
    let next = site.admin.rotate_key("cmk").await.unwrap().key_identifier().unwrap().to_owned();
    site.says(&["encryption", "set", "--key-identifier", &next]).await;
    let closed = site.until("closed", &["alert", "list", "--status", "closed"], some).await;
    assert_eq!(closed[0]["id"], id);
    assert_eq!(site.says(&["alert", "list", "--status", "open"]).await, "no open alert\n");
    let shown = site.says(&["alert", "show", id]).await;
    assert!(shown.contains("● CLOSED") && !shown.contains("nobody yet"), "{shown}");

    for wrong in ["0123456789abcdef01234567", "nonsense"] {
        for words in [&["alert", "show", wrong][..], &["alert", "acknowledge", wrong]] {
            let (code, said) = site.fails(words).await;
            assert!(code == 1 && said.contains("ALERT_NOT_FOUND (status 404)"), "{words:?}: {said}");
        }
    }
    site.stop().await;
}
