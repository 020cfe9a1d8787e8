//! A server and a vault in this process, and a user's own folder for configuration.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use keyward_model::Timestamp;
use keyward_server::config::AzureConfig;
use keyward_server::{Config, Running, ServeOptions};
use keyward_vault::client::VaultAdmin;
use secrecy::ExposeSecret;
use serde_json::Value;

/// How long anything may take on a busy machine. Nothing is measured with it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A server with a vault that it takes for public Azure, and a user.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: Option<Running>,
    vault: Option<keyward_vault::RunningVault>,
    pub(crate) admin: VaultAdmin,
    pub(crate) key: String,
    pub(crate) url: String,
    pub(crate) ca_file: PathBuf,
    pub(crate) public_key: String,
    pub(crate) private_key: String,
    ahead_ms: Arc<AtomicI64>,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_at(0).await
    }

    /// With a server whose clock is ahead of everybody's, or behind.
    pub(crate) async fn start_at(ahead_ms: i64) -> Self {
        Self::start_with(ahead_ms, |_| {}).await
    }

    /// With a say in the server's configuration.
    pub(crate) async fn start_with(ahead_ms: i64, configure: impl FnOnce(&mut Config)) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // Short: an agent's sockets lie below.
        let dir = tempfile::Builder::new().prefix("kw").tempdir().unwrap();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = keyward_vault::ServeOptions { dir: dir.path().join("vault"), listen };
        let vault = keyward_vault::serve(options).await.unwrap();
        let description = vault.description().clone();
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
        // What is refused or down is told soon.
        config.customer_key.check_timeout = Duration::from_secs(4);
        config.customer_key.new_credential_wait = Duration::ZERO;
        configure(&mut config);
        let made = keyward_server::init(&config).await.unwrap();
        let ahead_ms = Arc::new(AtomicI64::new(ahead_ms));
        let server = serve(config, &ahead_ms).await;
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
            ahead_ms,
        }
    }

    pub(crate) async fn stop(mut self) {
        self.server.take().unwrap().stop().await;
        self.vault.take().unwrap().shutdown().await;
    }

    /// Stops the server and starts it again, at other ports.
    pub(crate) async fn restart(&mut self) {
        let server = self.server.take().unwrap();
        let config = server.app().config().clone();
        server.stop().await;
        let server = serve(config, &self.ahead_ms).await;
        self.url = format!("https://localhost:{}", server.api_addr.port());
        self.server = Some(server);
    }

    /// Lets the server's clock go on, and wakes its jobs.
    pub(crate) fn advance(&self, time: Duration) {
        self.ahead_ms.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
        self.nudge();
    }

    /// Wakes the server's jobs.
    pub(crate) fn nudge(&self) {
        self.server.as_ref().unwrap().app().nudge().jobs();
    }

    pub(crate) fn vault(&self) -> keyward_vault::VaultDescription {
        keyward_vault::client::description(&self.dir.path().join("vault")).unwrap()
    }

    /// Where `keyward login` keeps what it keeps.
    pub(crate) fn profiles(&self) -> PathBuf {
        self.dir.path().join("config/keyward/credentials.toml")
    }

    /// Runs `keyward` with these words, off this thread: the server answers on it.
    pub(crate) async fn run(&self, words: &[&str], input: &str) -> Output {
        let (config, words) = (self.dir.path().join("config"), words.iter().map(ToString::to_string));
        let (words, input): (Vec<String>, String) = (words.collect(), input.to_owned());
        tokio::task::spawn_blocking(move || run(&config, &words, &input)).await.unwrap()
    }

    /// What a command that must succeed prints.
    pub(crate) async fn says(&self, words: &[&str]) -> String {
        self.says_with(words, "").await.0
    }

    /// What it prints on stdout and on stderr when it reads `input`.
    pub(crate) async fn says_with(&self, words: &[&str], input: &str) -> (String, String) {
        let output = self.run(words, input).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?}: {stderr}");
        (String::from_utf8(output.stdout).unwrap(), stderr)
    }

    /// What it prints with `--json`: data and nothing else.
    pub(crate) async fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let (said, told) = self.says_with(&words, "").await;
        assert_eq!(told, "", "{words:?} tells more than data");
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{words:?} is no JSON: {said}"))
    }

    /// Exit code and stderr of a command that must fail.
    pub(crate) async fn fails(&self, words: &[&str]) -> (i32, String) {
        self.fails_with(words, "").await
    }

    pub(crate) async fn fails_with(&self, words: &[&str], input: &str) -> (i32, String) {
        let output = self.run(words, input).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{words:?} failed and prints data");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("hint: ") && last.len() > "hint: ".len(),
            "{words:?} gives no hint: {stderr}"
        );
        (output.status.code().unwrap(), stderr)
    }

    /// Starts a command that goes on until it is told to end.
    pub(crate) fn begin(&self, words: &[&str]) -> Begun {
        let mut command = keyward(&self.dir.path().join("config"));
        let mut child = command.args(words).stdin(Stdio::null()).spawn().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Begun { child, lines }
    }

    pub(crate) async fn login(&self) {
        let (said, _) = self.says_with(&self.login_words(), &format!("{}\n", self.private_key)).await;
        assert!(said.starts_with(&format!("logged in to {}/ as {}", self.url, self.public_key)), "{said}");
        assert!(!said.contains(&self.private_key));
    }

    /// `keyward login` as the organization's owner; the private key is read from stdin.
    pub(crate) fn login_words(&self) -> [&str; 9] {
        let ca_file = self.ca_file.to_str().unwrap();
        let key = &self.public_key;
        ["login", "--url", &self.url, "--ca-file", ca_file, "--public-key", key, "--secret-file", "-"]
    }

    /// A call of the API with a token of `keyward login`, which owns the profile's project.
    pub(crate) async fn call(&self, method: &str, path: &str, version: &str, body: Option<Value>) -> Value {
        let token = self.says(&["login", "--print-token"]).await;
        let pem = std::fs::read(&self.ca_file).unwrap();
        let roots = [reqwest::Certificate::from_pem(&pem).unwrap()];
        let client = reqwest::Client::builder().tls_certs_only(roots).no_proxy().build().unwrap();
        let media = format!("application/vnd.atlas.{version}+json");
        let request = client
            .request(method.parse().unwrap(), format!("{}{path}", self.url))
            .header("accept", &media)
            .bearer_auth(token.trim());
        let request = match body {
            Some(body) => request.header("content-type", &media).body(body.to_string()),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// The arguments that set the customer key, without the secret.
    pub(crate) fn customer_key(&self) -> Vec<String> {
        let vault = self.vault();
        let options = [
            ("--tenant-id", &vault.tenant_id),
            ("--client-id", &vault.client_id),
            ("--subscription-id", &vault.subscription_id),
            ("--resource-group", &vault.resource_group),
            ("--key-vault", &vault.vault_name),
            ("--key-identifier", &self.key),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value.clone()]);
        ["encryption", "set"].map(str::to_owned).into_iter().chain(options).collect()
    }

    /// Sets the project's customer key.
    pub(crate) async fn set_customer_key(&self) {
        let words = self.customer_key();
        let words: Vec<&str> = words.iter().map(String::as_str).chain(["--secret-file", "-"]).collect();
        self.says_with(&words, &self.vault().client_secret).await;
    }

    /// Asks with `--json` until the answer is as wanted.
    pub(crate) async fn until(&self, what: &str, words: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LONG;
        loop {
            let answer = self.json(words).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "never {what}: {answer:#}");
            self.nudge();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn serve(config: Config, ahead_ms: &Arc<AtomicI64>) -> Running {
    let ahead = Arc::clone(ahead_ms);
    let clock = Arc::new(move || {
        let now = jiff::Timestamp::now().as_millisecond();
        Timestamp::from_epoch_ms(now + ahead.load(Ordering::SeqCst))
    });
    keyward_server::serve_with(config, ServeOptions { clock, ..ServeOptions::default() }).await.unwrap()
}

/// A command under way.
pub(crate) struct Begun {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Begun {
    /// The next line of its stdout.
    pub(crate) async fn line(&mut self) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            match self.lines.try_recv() {
                Ok(line) => return line,
                Err(std::sync::mpsc::TryRecvError::Empty) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("no line more: {error}"),
            }
        }
    }

    /// Whether nothing waits to be read.
    pub(crate) fn is_quiet(&self) -> bool {
        self.lines.try_recv().is_err()
    }

    /// Ends it as Ctrl-C does; its exit code.
    pub(crate) fn interrupt(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

/// What a failed test leaves running.
impl Drop for Begun {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `keyward` for a user whose configuration is in `config`.
pub(crate) fn keyward(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command
        .env("XDG_CONFIG_HOME", config)
        .env("NO_COLOR", "1")
        .env_remove("KEYWARD_PROFILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(config: &Path, words: &[String], input: &str) -> Output {
    let mut child = keyward(config).args(words).spawn().unwrap();
    // One that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}
