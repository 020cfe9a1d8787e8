//! A server in process for tests: free ports, a folder of its own, a clock that can be moved, SQLite or PostgreSQL, a
//! development vault on demand, and a client that signs.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use keyward_model::{Timestamp, id::OrgId};
use keyward_server::{
    Config, Running, ServeOptions, auth::digest, config::AzureConfig, customer_key::CustomerKeys, init,
    serve_with,
};
use keyward_vault::RunningVault;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The databases that every contract test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    /// A file.
    Sqlite,
    /// A private server; skipped, with a line, where there is no `initdb`.
    Postgresql,
}

/// Declares tests that run on each database: `async fn name(site: Site)`. What a test gets instead of a plain site is
/// made by the function named in `from …;`, such as `from Site::start_with_vault;`.
macro_rules! on_each_database {
    (from $start:path;
     $($(#[$meta:meta])* async fn $name:ident($given:ident: $given_type:ty) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn run($given: $given_type) $body

            #[tokio::test]
            async fn sqlite() {
                if let Some(given) = $start(Database::Sqlite).await {
                    run(given).await;
                }
            }

            #[tokio::test]
            async fn postgresql() {
                if let Some(given) = $start(Database::Postgresql).await {
                    run(given).await;
                }
            }
        }
    )*};
    ($($tests:tt)*) => { on_each_database! { from Site::start; $($tests)* } };
}

/// A server, and the owner of its first organization.
pub(crate) struct Site {
    /// The server.
    pub(crate) server: Running,
    /// Its folder.
    pub(crate) dir: TempDir,
    /// The API's URL.
    pub(crate) url: String,
    /// The first organization.
    pub(crate) org: OrgId,
    /// Public and private key of the organization's owner.
    pub(crate) owner: Pair,
    /// The development vault, where the test asked for one.
    pub(crate) vault: Option<RunningVault>,
    clock: Arc<AtomicI64>,
    http: reqwest::Client,
    #[allow(dead_code, reason = "for outside clients, which another test binary runs")]
    ca_file: PathBuf,
}

/// An API key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) public: String,
    pub(crate) private: String,
}

impl Site {
    /// `None` when this database is not to be had here.
    pub(crate) async fn start(database: Database) -> Option<Self> {
        Self::start_with(database, false, |_| {}).await
    }

    /// With a development vault that the server takes for public Azure.
    pub(crate) async fn start_with_vault(database: Database) -> Option<Self> {
        Self::start_with(database, true, |_| {}).await
    }

    /// With a say in the server's configuration.
    pub(crate) async fn start_with(
        database: Database,
        with_vault: bool,
        configure: impl FnOnce(&mut Config),
    ) -> Option<Self> {
        Self::start_asking(database, with_vault, None, configure).await
    }

    /// With something else than Azure to ask about customer keys.
    pub(crate) async fn start_asking(
        database: Database,
        with_vault: bool,
        keys: Option<Arc<dyn CustomerKeys>>,
        configure: impl FnOnce(&mut Config),
    ) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("server"));
        if database == Database::Postgresql {
            config.store_url = Some(keyward_testkit::postgres::database()?);
        }
        let mut vault = None;
        if with_vault {
            let options = keyward_vault::ServeOptions {
                dir: dir.path().join("vault"),
                listen: "127.0.0.1:0".parse().unwrap(),
            };
            let running = keyward_vault::serve(options).await.unwrap();
            let found = running.description();
            config.azure = Some(AzureConfig {
                authority: found.authority.parse().unwrap(),
                arm_url: found.arm_url.parse().unwrap(),
                vault_host: found.url.trim_start_matches("https://").to_owned(),
                vault_resource: "https://vault.azure.net".to_owned(),
                ca_file: Some(found.ca_file.clone()),
            });
            vault = Some(running);
            // Refusals and outages are told soon; what waits longer is a test of its own.
            config.customer_key.check_timeout = Duration::from_secs(4);
            config.customer_key.new_credential_wait = Duration::ZERO;
        }
        // Tests make more requests in a minute than people do; what comes of too many is a test of its own.
        config.requests_per_minute = 100_000;
        configure(&mut config);
        let made = init(&config).await.unwrap();
        let clock = Arc::new(AtomicI64::new(jiff::Timestamp::now().as_millisecond()));
        let ticking = Arc::clone(&clock);
        let options = ServeOptions {
            clock: Arc::new(move || Timestamp::from_epoch_ms(ticking.load(Ordering::SeqCst))),
            keys,
            ..ServeOptions::default()
        };
        let server = serve_with(config, options).await.unwrap();
        let ca_file = made.ca_file.unwrap();
        let ca = std::fs::read(&ca_file).unwrap();
        let owner = Pair { public: made.public_key, private: made.private_key.expose_secret().to_owned() };
        let url = format!("https://localhost:{}", server.api_addr.port());
        Some(Self { http: client(&ca), server, dir, url, org: made.org_id, owner, vault, clock, ca_file })
    }

    /// Another server on the same store, with the same clock and nothing else in common.
    #[allow(dead_code, reason = "for tests of several servers, which are in another test binary")]
    pub(crate) async fn another_server(&self) -> Running {
        let mut config = self.server.app().config().clone();
        for listen in [&mut config.api_listen, &mut config.agent_listen] {
            listen.set_port(0);
        }
        let ticking = Arc::clone(&self.clock);
        let options = ServeOptions {
            clock: Arc::new(move || Timestamp::from_epoch_ms(ticking.load(Ordering::SeqCst))),
            ..ServeOptions::default()
        };
        serve_with(config, options).await.unwrap()
    }

    /// Lets the server's clock go on.
    pub(crate) fn advance_ms(&self, ms: i64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    /// A request builder of the plain client, `path` from the slash on.
    pub(crate) fn plain(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    /// A caller with these keys.
    pub(crate) fn caller<'s>(&'s self, pair: &Pair) -> Caller<'s> {
        Caller { site: self, pair: pair.clone(), version: "2025-03-12" }
    }

    /// The organization's owner.
    pub(crate) fn owner(&self) -> Caller<'_> {
        self.caller(&self.owner)
    }

    /// A new project of the owner's; its id.
    pub(crate) async fn project(&self, name: &str) -> String {
        let body = json!({"name": name, "orgId": self.org});
        let answer = self.owner().post("/api/atlas/v2/groups", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["id"].as_str().unwrap().to_owned()
    }

    /// A new API key with these roles in the organization.
    pub(crate) async fn org_key(&self, roles: &[&str]) -> Pair {
        let path = format!("/api/atlas/v2/orgs/{}/apiKeys", self.org);
        let answer = self.owner().post(&path, json!({"desc": "test", "roles": roles})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        pair_of(&answer.body)
    }

    /// A new API key with these roles in a project.
    pub(crate) async fn project_key(&self, project: &str, roles: &[&str]) -> Pair {
        let path = format!("/api/atlas/v2/groups/{project}/apiKeys");
        let answer = self.owner().post(&path, json!({"desc": "test", "roles": roles})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        pair_of(&answer.body)
    }

    /// How many events the store has.
    pub(crate) async fn events(&self) -> u64 {
        let mut tx = self.server.app().store().read().await.unwrap();
        tx.events(&keyward_store::EventFilter::default(), 0, 1).await.unwrap().1
    }

    /// Everything that the store's events say, as one text.
    pub(crate) async fn events_text(&self) -> String {
        let mut tx = self.server.app().store().read().await.unwrap();
        let (events, _) = tx.events(&keyward_store::EventFilter::default(), 0, 10_000).await.unwrap();
        serde_json::to_string(&events).unwrap()
    }

    /// Everything that the store keeps, by where it is: SQLite's files, or PostgreSQL's tables.
    pub(crate) async fn stored(&self) -> Vec<(String, Vec<u8>)> {
        if let Some(url) = &self.server.app().config().store_url {
            return vec![(
                "the database".to_owned(),
                keyward_testkit::postgres::dump(url).unwrap().into_bytes(),
            )];
        }
        let files = std::fs::read_dir(self.data_dir()).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.to_string_lossy().contains("keyward.db"));
        files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
    }

    /// The authority that signed the server's certificate, PEM.
    #[allow(dead_code, reason = "for outside clients, which another test binary runs")]
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.ca_file.clone()
    }

    /// The folder of the server's files.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("server")
    }
}

/// The pair in the answer to the creation of an API key.
pub(crate) fn pair_of(body: &Value) -> Pair {
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    Pair { public: text("publicKey"), private: text("privateKey") }
}

/// A client that trusts the server's authority alone.
pub(crate) fn client(ca_pem: &[u8]) -> reqwest::Client {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
    /// `null` when the body is no JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// Reads a response.
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status, headers, text, body }
    }

    /// The error code.
    pub(crate) fn code(&self) -> &str {
        self.body["errorCode"].as_str().unwrap_or_default()
    }

    /// A header, as text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {}", self.status, self.text);
        self
    }

    /// Asserts status and error code, and the form of the error.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.text);
        assert_eq!(self.header("x-error-code"), code);
        assert_eq!(self.header("content-type"), "application/json");
        assert_eq!(self.body["error"], status);
        assert!(self.body["parameters"].as_array().unwrap().iter().all(Value::is_string), "{}", self.text);
        self
    }
}

/// Signs requests as the Go client does: each is sent unsigned first, with its whole body, then signed with a fresh
/// nonce.
#[derive(Clone)]
pub(crate) struct Caller<'s> {
    site: &'s Site,
    pair: Pair,
    version: &'static str,
}

impl Caller<'_> {
    /// The same, asking for another version.
    pub(crate) fn version(&self, version: &'static str) -> Self {
        Self { version, ..self.clone() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    /// Any method, with a JSON body.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let bytes = body.map(|body| serde_json::to_vec(&body).unwrap());
        self.send_bytes(method, path, bytes, &format!("application/vnd.atlas.{}+json", self.version)).await
    }

    /// Any method, with any body; `media_type` is both `Accept` and `Content-Type`.
    pub(crate) async fn send_bytes(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
        media_type: &str,
    ) -> Answer {
        let request = || {
            let request = self.site.plain(method, path).header("accept", media_type);
            match &body {
                Some(body) => request.header("content-type", media_type).body(body.clone()),
                None => request,
            }
        };
        let bare = Answer::of(request().send().await.unwrap()).await;
        assert_eq!(bare.status, 401, "an unsigned request was answered: {}", bare.text);
        let nonce = nonce_of(bare.header("www-authenticate"));
        let signature = sign(&self.pair, &nonce, 1, method, path);
        Answer::of(request().header("authorization", signature).send().await.unwrap()).await
    }
}

/// The nonce of a challenge.
pub(crate) fn nonce_of(challenge: &str) -> String {
    let (_, rest) = challenge.split_once("nonce=\"").unwrap_or_else(|| panic!("no nonce in `{challenge}`"));
    rest.split_once('"').unwrap().0.to_owned()
}

/// `Authorization` of a request signed with a pair.
pub(crate) fn sign(pair: &Pair, nonce: &str, nc: u32, method: &str, target: &str) -> String {
    use md5::{Digest as _, Md5};
    let md5 = |text: String| data_encoding::HEXLOWER.encode(&Md5::digest(text.as_bytes()));
    let realm = digest::REALM;
    let ha1 = md5(format!("{}:{realm}:{}", pair.public, pair.private));
    let ha2 = md5(format!("{method}:{target}"));
    let response = md5(format!("{ha1}:{nonce}:{nc:08x}:0a4f113b:auth:{ha2}"));
    format!(
        "Digest username=\"{}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{target}\", response=\"{response}\", \
         algorithm=\"MD5\", cnonce=\"0a4f113b\", qop=auth, nc={nc:08x}",
        pair.public
    )
}
