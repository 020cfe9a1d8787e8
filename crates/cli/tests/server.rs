//! Every command of the API's side against a real server and a real development vault, as a person types them.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keyward_server::config::AzureConfig;
use keyward_server::{Config, Running};
use keyward_vault::ServeOptions;
use keyward_vault::client::VaultAdmin;
use secrecy::ExposeSecret;
use serde_json::Value;

/// A server and a vault in this process, and a user's own folder for configuration.
struct Site {
    dir: tempfile::TempDir,
    server: Option<Running>,
    vault: Option<keyward_vault::RunningVault>,
    admin: VaultAdmin,
    key: String,
    url: String,
    ca_file: PathBuf,
    public_key: String,
    private_key: String,
}

impl Site {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let vault =
            keyward_vault::serve(ServeOptions { dir: dir.path().join("vault"), listen }).await.unwrap();
        let description = keyward_vault::client::description(&dir.path().join("vault")).unwrap();
        let admin = VaultAdmin::of(&description).unwrap();
        admin.grant(&description.client_id, None, &["vaults/read".to_owned()]).await.unwrap();
        let key = admin.create_key("cmk", 2048).await.unwrap().key_identifier().unwrap().to_owned();

        let mut config = Config::new(dir.path().join("server"));
        let data: url::Url = description.url.parse().unwrap();
        config.azure = Some(AzureConfig {
            authority: description.authority.parse().unwrap(),
            arm_url: description.arm_url.parse().unwrap(),
            vault_host: format!("{}:{}", data.host_str().unwrap(), data.port().unwrap()),
            vault_resource: "https://vault.azure.net".to_owned(),
            ca_file: Some(description.ca_file),
        });
        let made = keyward_server::init(&config).await.unwrap();
        let server = keyward_server::serve(config).await.unwrap();
        Self {
            url: format!("https://localhost:{}", server.api_addr.port()),
            ca_file: made.ca_file.unwrap(),
            public_key: made.public_key,
            private_key: made.private_key.expose_secret().to_owned(),
            dir,
            server: Some(server),
            vault: Some(vault),
            admin,
            key,
        }
    }

    async fn stop(mut self) {
        self.server.take().unwrap().stop().await;
        self.vault.take().unwrap().shutdown().await;
    }

    /// Runs `keyward` with these words, off this thread: the server answers on it.
    async fn run(&self, words: &[&str], input: &str) -> Output {
        let (config, words) = (self.dir.path().join("config"), words.iter().map(ToString::to_string));
        let (words, input): (Vec<String>, String) = (words.collect(), input.to_owned());
        tokio::task::spawn_blocking(move || run(&config, &words, &input)).await.unwrap()
    }

    /// What a command that must succeed prints.
    async fn says(&self, words: &[&str]) -> String {
        let output = self.run(words, "").await;
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it prints with `--json`.
    async fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let said = self.says(&words).await;
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{words:?} is no JSON: {said}"))
    }

    /// Exit code and stderr of a command that must fail.
    async fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.run(words, "").await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(stderr.contains("\nhint: "), "{words:?} gives no hint: {stderr}");
        (output.status.code().unwrap(), stderr)
    }

    async fn login(&self) {
        let ca_file = self.ca_file.to_str().unwrap();
        let words = [
            "login",
            "--url",
            &self.url,
            "--ca-file",
            ca_file,
            "--public-key",
            &self.public_key,
            "--secret-file",
            "-",
        ];
        let output = self.run(&words, &format!("{}\n", self.private_key)).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with(&format!("logged in to {}/ as {}", self.url, self.public_key)), "{said}");
        assert!(!said.contains(&self.private_key));
    }
}

fn run(config: &Path, words: &[String], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(words)
        .env("XDG_CONFIG_HOME", config)
        .env("NO_COLOR", "1")
        .env_remove("KEYWARD_PROFILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

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

#[tokio::test(flavor = "multi_thread")]
async fn login_prints_a_token_that_opens_the_api_and_keeps_one_account() {
    let site = Site::start().await;
    site.login().await;
    let token = site.says(&["login", "--print-token"]).await;
    let pem = std::fs::read(&site.ca_file).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
        .build()
        .unwrap();
    let orgs = client
        .get(format!("{}/api/atlas/v2/orgs", site.url))
        .header("accept", "application/vnd.atlas.2023-01-01+json")
        .bearer_auth(token.trim())
        .send()
        .await
        .unwrap();
    assert_eq!(orgs.status(), 200);
    site.says(&["login", "--print-token"]).await;
    let org = site.json(&["org", "list"]).await[0]["id"].as_str().unwrap().to_owned();
    let accounts: Value = client
        .get(format!("{}/api/atlas/v2/orgs/{org}/serviceAccounts", site.url))
        .header("accept", "application/vnd.atlas.2024-08-05+json")
        .bearer_auth(token.trim())
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(accounts["totalCount"], 1, "{accounts}");

    // With a project, the account owns it too; its roles can be given and taken like anyone's.
    site.says(&["project", "create", "payments"]).await;
    site.login().await;
    site.says(&["login", "--project", "payments", "--print-token"]).await;
    let members = site.json(&["project", "member", "list"]).await;
    let account = members.as_array().unwrap().iter().find(|member| member["kind"] == "service account");
    let account = account.unwrap_or_else(|| panic!("no service account: {members}"));
    assert_eq!(account["roles"], serde_json::json!(["GROUP_OWNER"]));
    let account = account["name"].as_str().unwrap();
    site.says(&["project", "member", "remove", account]).await;
    site.says(&["project", "member", "add", account, "--role", "read-only"]).await;
    site.says(&["project", "member", "add", "alice@example.com", "--role", "owner"]).await;
    let members = site.says(&["project", "member", "list"]).await;
    assert!(members.contains("GROUP_READ_ONLY") && members.contains("alice@example.com"), "{members}");

    // A key that the server does not know is not kept.
    let ca_file = site.ca_file.to_str().unwrap();
    let words =
        ["login", "--url", &site.url, "--ca-file", ca_file, "--public-key", "zzzzzzzz", "--secret-file", "-"];
    let output = site.run(&words, "wrong\n").await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: the server does not accept zzzzzzzz"), "{said}");
    site.says(&["org", "list"]).await;
    site.stop().await;
}
