//! Organizations, projects, and their customer keys.

use serde_json::Value;

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn a_project_from_its_making_to_its_end() {
    let site = Site::start().await;
    // Before login there is nobody.
    let (code, said) = site.fails(&["project", "list"]).await;
    assert_eq!(code, 2, "{said}");
    site.login().await;

    let orgs = site.json(&["org", "list"]).await;
    assert_eq!(orgs.as_array().unwrap().len(), 1, "{orgs}");
    let made = site.json(&["project", "create", "payments"]).await;
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(site.says(&["project", "list"]).await.contains(&id));
    let shown = site.says(&["project", "show", "--project", "payments"]).await;
    assert!(shown.contains(&id) && shown.contains("customer key  none"), "{shown}");
    assert!(site.says(&["org", "show"]).await.contains(&site.public_key));

    // A join token is shown once, and listed without its secret.
    let token = site.json(&["project", "join-token", "create", "--name", "db1"]).await;
    let secret = token["token"].as_str().unwrap();
    assert!(secret.starts_with("kwj1."), "{token}");
    let listed = site.says(&["project", "join-token", "list"]).await;
    assert!(listed.contains("db1") && !listed.contains(secret), "{listed}");
    site.says(&["project", "join-token", "delete", token["id"].as_str().unwrap()]).await;
    assert_eq!(site.says(&["project", "join-token", "list"]).await, "no token\n");
    assert!(site.says(&["project", "node", "list"]).await.starts_with("no node has joined"));

    // Who may do what.
    let members = site.json(&["project", "member", "list"]).await;
    assert!(
        members.as_array().unwrap().iter().any(|member| member["name"] == *site.public_key
            && member["roles"].as_array().unwrap().contains(&"GROUP_OWNER".into())),
        "{members}"
    );

    // A cluster that is not there, and one that may not be encrypted yet.
    let (code, said) = site.fails(&["cluster", "show", "orders"]).await;
    assert!(code == 1 && said.contains("CLUSTER_NOT_FOUND (status 404)"), "{said}");
    let (_, said) = site.fails(&["cluster", "create", "orders", "--encryption", "azure"]).await;
    assert!(said.contains("ENCRYPTION_AT_REST_NOT_ENABLED"), "{said}");

    assert_eq!(site.says(&["alert", "list"]).await, "no open alert\n");
    let events = site.says(&["event", "list"]).await;
    assert!(events.contains(&site.public_key), "{events}");

    // Nobody deletes anything without a word.
    let (code, said) = site.fails(&["project", "delete", "payments"]).await;
    assert!(code == 2 && said.contains("--yes"), "{said}");
    site.says(&["project", "delete", "payments", "--yes"]).await;
    assert_eq!(site.json(&["project", "list"]).await, Value::Array(Vec::new()));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_customer_key_of_a_project() {
    let site = Site::start().await;
    site.login().await;
    site.says(&["project", "create", "payments"]).await;
    let vault = keyward_vault::client::description(&site.dir.path().join("vault")).unwrap();
    let secret = site.dir.path().join("secret");
    std::fs::write(&secret, &vault.client_secret).unwrap();
    let everything = [
        "encryption",
        "set",
        "--tenant-id",
        &vault.tenant_id,
        "--client-id",
        &vault.client_id,
        "--subscription-id",
        &vault.subscription_id,
        "--resource-group",
        &vault.resource_group,
        "--key-vault",
        &vault.vault_name,
        "--key-identifier",
        &site.key,
    ];
    // The secret is asked for, and there is nobody to ask.
    let output = site.run(&everything, "").await;
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));

    let with_secret: Vec<&str> =
        everything.iter().copied().chain(["--secret-file", secret.to_str().unwrap()]).collect();
    let said = site.says(&with_secret).await;
    assert!(said.contains(&site.key) && said.contains("● valid"), "{said}");
    assert!(!said.contains(&vault.client_secret), "{said}");
    let shown = site.json(&["encryption", "show"]).await;
    assert_eq!(shown["azureKeyVault"]["keyIdentifier"], *site.key);
    assert!(!shown.to_string().contains(&vault.client_secret), "{shown}");
    let status = site.says(&["encryption", "status"]).await;
    assert!(status.contains("● valid") && status.contains("no node yet"), "{status}");

    // Rotation is one option; a key that is not there is refused and changes nothing.
    let next = site.admin.rotate_key("cmk").await.unwrap().key_identifier().unwrap().to_owned();
    let wrong = format!("{}/keys/cmk/{}", vault.url.trim_end_matches('/'), "0".repeat(32));
    let (code, said) = site.fails(&["encryption", "set", "--key-identifier", &wrong]).await;
    assert!(code == 1 && said.contains("AZURE_KEY_VAULT_KEY_NOT_FOUND"), "{said}");
    site.says(&["encryption", "set", "--key-identifier", &next, "--watch"]).await;
    assert_eq!(site.json(&["encryption", "show"]).await["azureKeyVault"]["keyIdentifier"], *next);

    // A vault that is down is no refusal: exit code 4.
    site.admin.set_fault("refuse".parse().unwrap(), None).await.unwrap();
    let (code, said) = site.fails(&["encryption", "set", "--key-identifier", &site.key]).await;
    assert!(code == 4 && said.contains("503"), "{said}");
    site.admin.clear_faults().await.unwrap();

    let policy = site.json(&["encryption", "policy", "--strong-window", "90s"]).await;
    assert_eq!(policy["strongWindowMs"], 90_000);
    assert!(site.says(&["encryption", "policy"]).await.contains("strong window  90 s"));
    assert_eq!(site.says(&["encryption", "endpoint", "list"]).await, "no private endpoint\n");

    site.says(&["encryption", "disable", "--yes"]).await;
    assert!(site.says(&["encryption", "show"]).await.starts_with("no customer key"));
    // One event for each change, none for what was refused.
    for (kind, count) in
        [("ENCRYPTION_AT_REST_CONFIGURATION_UPDATED", 2), ("AZURE_ENCRYPTION_KEY_ROTATED", 1)]
    {
        let events = site.json(&["event", "list", "--type", kind]).await;
        assert_eq!(events.as_array().unwrap().len(), count, "{kind}: {events}");
    }
    site.stop().await;
}
