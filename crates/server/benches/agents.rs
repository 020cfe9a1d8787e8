//! 10,000 simulated agents syncing against one server process: its share of a core, the time of a sync, the time of
//! reads of the API meanwhile.
//!
//! The server runs in a process of its own, this binary again, so that its processor time can be told apart. Each
//! agent keeps one TLS connection with a certificate of its own and a call that waits, as a real one does; every
//! second some of them have something to report, and some are given another desired state. `KEYWARD_AGENTS` and
//! `KEYWARD_SECONDS` change the size; `KEYWARD_STORE` names a PostgreSQL in the place of SQLite.

#![allow(clippy::print_stdout, reason = "a benchmark's results go to stdout")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use keyward_model::{
    NodeState, NodeStatus, Timestamp, Verdict,
    event::{Actor, EventType, NewEvent},
    id::{Id, NodeId, ProjectId},
    sync::{
        Desired, DesiredCluster, DesiredRun, Enrolled, Enrolment, Observed, SyncAnswer, SyncRequest, VERSION,
    },
};
use keyward_server::{Config, ServeOptions, init, link, serve_with};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{net::TcpStream, sync::Semaphore};

type Anyhow<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SERVER: &str = "KEYWARD_BENCH_SERVER";
const PROJECT: ProjectId = Id::from_bytes([1; 12]);
/// Each agent has something to report this often on average, s: five times an hour, far more than a quiet node.
const REPORT_EVERY_S: u64 = 720;
/// Agents given another desired state, per second.
const CHANGES_PER_S: u64 = 5;
/// The API is read this often, ms.
const READ_EVERY_MS: u64 = 100;

fn main() -> Anyhow<()> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(dir) = std::env::var_os(SERVER) {
        return threads.block_on(server(PathBuf::from(dir)));
    }
    // `cargo test --benches` runs it too: a few agents show that it works.
    let full = std::env::args().any(|arg| arg == "--bench");
    let number =
        |name: &str, usual: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let agents = number("KEYWARD_AGENTS", if full { 10_000 } else { 20 });
    let seconds = number("KEYWARD_SECONDS", if full { 60 } else { 2 });
    threads.block_on(measure(agents, seconds))
}

/// What the server's process says of itself on its first line.
#[derive(Serialize, Deserialize)]
struct Ready {
    api: u16,
    token_secrets: Vec<String>,
    agents: u16,
    authority: String,
    api_authority: String,
    public_key: String,
    private_key: String,
    org: String,
}

/// The server's process: makes as many join tokens as asked for, then changes desired states when told to.
async fn server(dir: PathBuf) -> Anyhow<()> {
    let agents: usize = std::env::var("KEYWARD_AGENTS")?.parse()?;
    let mut config = Config::new(dir);
    config.store_url = std::env::var("KEYWARD_STORE").ok();
    let made = init(&config).await?;
    let running = serve_with(config, ServeOptions { jobs: false, ..ServeOptions::default() }).await?;
    let app = running.app().clone();
    let mut token_secrets = Vec::with_capacity(agents);
    for n in 0..agents {
        // A project may have a thousand open tokens.
        let mut project = *PROJECT.as_bytes();
        project[10..].copy_from_slice(&u16::try_from(n / 1000)?.to_be_bytes());
        let event = NewEvent::new(EventType::JoinTokenCreated, Actor::Operator);
        let (_, text) = link::invite(&app, Id::from_bytes(project), None, event).await?;
        token_secrets.push(text.secret);
    }
    let secret = app.store().read().await?.secret("ca:agents").await?.ok_or("an authority")?;
    let sealed: serde_json::Value = serde_json::from_slice(&secret)?;
    let ready = Ready {
        api: running.api_addr.port(),
        agents: running.agent_addr.port(),
        token_secrets,
        authority: sealed["certificate"].as_str().unwrap_or_default().to_owned(),
        api_authority: std::fs::read_to_string(made.ca_file.ok_or("an authority of the API")?)?,
        public_key: made.public_key,
        private_key: made.private_key.expose_secret().to_owned(),
        org: made.org_id.to_string(),
    };
    println!("{}", serde_json::to_string(&ready)?);
    std::io::stdout().flush()?;
    let (lines, mut asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    // Each line is the number of an agent whose desired state is to change; the end of input ends the server.
    while let Some(line) = asked.recv().await {
        let (number, word) = line.split_once(' ').ok_or("NUMBER WORD")?;
        let node = node_id(number.parse()?);
        let cluster = DesiredCluster { name: word.to_owned(), replica_set: "rs".to_owned(), members: vec![] };
        let desired = Desired {
            revision: 0,
            cluster: Some(cluster),
            encryption: None,
            rotate_master_key: None,
            run: DesiredRun::Unmanaged,
            step_down: false,
            resync: false,
            validations: vec![],
        };
        let mut observation = app.store().observe().await?;
        observation.put_desired(node, &desired, app.now()).await?;
        observation.commit().await?;
        app.nudge().node(node);
    }
    running.stop().await;
    Ok(())
}

/// The server's process, as this one sees it.
struct Server {
    child: Child,
    ready: Ready,
}

impl Server {
    fn start(dir: &Path, agents: u64) -> Anyhow<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(SERVER, dir)
            .env("KEYWARD_AGENTS", agents.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("a pipe")?).read_line(&mut line)?;
        Ok(Self { ready: serde_json::from_str(&line)?, child })
    }

    /// Processor time used so far, s, and memory, MiB.
    fn used(&self) -> Anyhow<(f64, f64)> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks =
            |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap_or_default();
        // Linux counts in hundredths of a second towards programs.
        Ok(((ticks(11) + ticks(12)) / 100.0, kib / 1024.0))
    }

    fn desire(&mut self, agent: u64, word: u64) -> Anyhow<()> {
        writeln!(self.child.stdin.as_mut().ok_or("a pipe")?, "{agent} c{word}")?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the agents did while it was counted.
#[derive(Default)]
struct Counted {
    on: AtomicBool,
    syncs: AtomicU64,
    news: AtomicU64,
    times: std::sync::Mutex<Vec<Duration>>,
}

async fn measure(agents: u64, seconds: u64) -> Anyhow<()> {
    let dir = std::env::temp_dir().join(format!("keyward-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let outcome = measure_in(&dir.join("server"), agents, seconds).await;
    std::fs::remove_dir_all(&dir)?;
    outcome
}

async fn measure_in(dir: &Path, agents: u64, seconds: u64) -> Anyhow<()> {
    let mut server = Server::start(dir, agents)?;
    let began = Instant::now();
    let counted = Arc::new(Counted::default());
    let handshakes = Arc::new(Semaphore::new(64));
    let mut joining = Vec::new();
    for n in 0..agents {
        let index = usize::try_from(n)?;
        let (secret, authority) = (server.ready.token_secrets[index].clone(), server.ready.authority.clone());
        let (port, handshakes) = (server.ready.agents, Arc::clone(&handshakes));
        joining.push(tokio::spawn(async move {
            let _turn = handshakes.acquire().await?;
            Agent::enrol(n, port, &secret, &authority).await
        }));
    }
    let mut tasks = Vec::new();
    for joined in joining {
        let agent = joined.await??;
        tasks.push(tokio::spawn(agent.run(Arc::clone(&counted))));
    }
    println!("{agents} agents joined in {:.1} s", began.elapsed().as_secs_f64());
    // Every call waits before anything is counted.
    tokio::time::sleep(Duration::from_secs(seconds.min(10))).await;

    let api = Api::new(&server.ready)?;
    let (before, _) = server.used()?;
    counted.on.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let mut reads = Vec::new();
    let mut word = 0;
    let mut second = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        if began.elapsed().as_secs() >= second {
            second += 1;
            for _ in 0..CHANGES_PER_S {
                word += 1;
                server.desire(word * 7919 % agents, word)?;
            }
        }
        reads.push(api.read().await?);
        tokio::time::sleep(Duration::from_millis(READ_EVERY_MS)).await;
    }
    counted.on.store(false, Ordering::SeqCst);
    let elapsed = began.elapsed().as_secs_f64();
    let (after, resident) = server.used()?;
    let ended = tasks.iter().filter(|task| task.is_finished()).count();
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let share = (after - before) / elapsed;
    let mut times = std::mem::take(&mut *counted.times.lock().map_err(|_| "a task died")?);
    println!("measure agents {agents} nodes");
    println!("measure agents-lost {ended} nodes");
    println!("measure syncs {:.1} per second", counted.syncs.load(Ordering::SeqCst) as f64 / elapsed);
    println!("measure desired-states-delivered {} states", counted.news.load(Ordering::SeqCst));
    println!("measure server-share {share:.3} of one core");
    println!("measure server-memory {resident:.0} MiB");
    println!("measure sync-p50 {:.2} ms", percentile(&mut times, 50));
    println!("measure sync-p99 {:.2} ms", percentile(&mut times, 99));
    println!("measure api-read-p50 {:.2} ms", percentile(&mut reads, 50));
    println!("measure api-read-p99 {:.2} ms", percentile(&mut reads, 99));
    // Less than one core: the higher, the better.
    println!("ratio core-to-server-share {:.2} at-least 1.0", 1.0 / share.max(0.001));
    Ok(())
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let index = (times.len().saturating_sub(1)) * percent / 100;
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

fn node_id(n: u64) -> NodeId {
    NodeId(uuid::Uuid::from_u128(u128::from(n) + 1))
}

/// A node that only talks.
struct Agent {
    number: u64,
    id: NodeId,
    sender: SendRequest<Full<Bytes>>,
}

impl Agent {
    async fn enrol(number: u64, port: u16, secret: &str, authority: &str) -> Anyhow<Self> {
        let id = node_id(number);
        let key = KeyPair::generate()?;
        let request = Enrolment {
            version: VERSION,
            node_id: id,
            name: format!("node-{number}"),
            hostname: "host".to_owned(),
            certificate_request: CertificateParams::default().serialize_request(&key)?.pem()?,
        };
        let mut plain = connect(port, authority, None).await?;
        let enrolled: Enrolled = call(&mut plain, "/agent/v1/enrol", Some(secret), &request).await?;
        drop(plain);
        let identity = (enrolled.certificate.as_str(), &key);
        let sender = connect(port, authority, Some(identity)).await?;
        Ok(Self { number, id, sender })
    }

    /// Waits, and now and then reports, as an agent does.
    async fn run(mut self, counted: Arc<Counted>) -> Anyhow<()> {
        let mut report = 1;
        let mut stored = 0;
        let (mut have_revision, mut have_digest) = (0, None);
        // Spread evenly over the interval.
        let mut next = Instant::now() + Duration::from_millis(self.number * 7919 % (REPORT_EVERY_S * 1000));
        loop {
            if Instant::now() >= next {
                report += 1;
                next += Duration::from_secs(REPORT_EVERY_S);
            }
            // Rounded up: a call that waits 0 s is answered at once, and the next one too.
            let until_next = next.saturating_duration_since(Instant::now()).as_secs() + 1;
            let wait_s = u16::try_from(until_next.min(50)).unwrap_or(50);
            let request = SyncRequest {
                version: VERSION,
                report,
                observed: (stored != report).then(|| observed(self.id, report)),
                have_revision,
                have_digest: have_digest.clone(),
                wait_s: if stored == report { wait_s } else { 0 },
                authorities_sha256: None,
            };
            let began = Instant::now();
            let answer: SyncAnswer = call(&mut self.sender, "/agent/v1/sync", None, &request).await?;
            if counted.on.load(Ordering::Relaxed) {
                counted.syncs.fetch_add(1, Ordering::Relaxed);
                if answer.desired.is_some() {
                    counted.news.fetch_add(1, Ordering::Relaxed);
                }
                // A call that waits says nothing of the server's speed.
                if request.wait_s == 0
                    && let Ok(mut times) = counted.times.lock()
                {
                    times.push(began.elapsed());
                }
            }
            stored = answer.stored_report;
            if let (Some(desired), Some(digest)) = (answer.desired, answer.digest) {
                (have_revision, have_digest) = (desired.revision, Some(digest));
                // Carried out at once, and told.
                report += 1;
            }
        }
    }
}

/// One TLS connection, as an agent keeps it.
async fn connect(
    port: u16,
    authority: &str,
    identity: Option<(&str, &KeyPair)>,
) -> Anyhow<SendRequest<Full<Bytes>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let tls =
        rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
    let tls = match identity {
        None => tls.with_no_client_auth(),
        Some((certificate, key)) => tls.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?,
        )?,
    };
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn call<T: DeserializeOwned>(
    sender: &mut SendRequest<Full<Bytes>>,
    path: &str,
    bearer: Option<&str>,
    body: &impl Serialize,
) -> Anyhow<T> {
    let mut request = http::Request::post(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONTENT_TYPE, "application/json");
    if let Some(secret) = bearer {
        request = request.header(http::header::AUTHORIZATION, format!("Bearer {secret}"));
    }
    sender.ready().await?;
    let answer =
        sender.send_request(request.body(Full::new(Bytes::from(serde_json::to_vec(body)?)))?).await?;
    let status = answer.status();
    let bytes = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("{status} {}", String::from_utf8_lossy(&bytes)).into());
    }
    Ok(serde_json::from_slice(&bytes)?)
}

/// The report of a node with a few databases: about what a real one says.
fn observed(node_id: NodeId, report: u64) -> Observed {
    let now = Timestamp::from_epoch_ms(i64::try_from(report).unwrap_or_default());
    let database = |n: u32| keyward_model::status::DatabaseKeyStatus {
        id: format!("{n:032x}"),
        database: format!("database-{n}"),
        created_at: now,
    };
    Observed {
        node_id,
        report,
        at: now,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        address: "host.example:27017".to_owned(),
        status: NodeStatus {
            node: "node".to_owned(),
            state: NodeState::Running,
            verdict: Verdict::Valid,
            reason: "the engine runs".to_owned(),
            evidence: vec![],
            customer_key: None,
            master_key: None,
            master_key_held: true,
            memory_locked: true,
            database_keys: (0..20).map(database).collect(),
            spare_database_keys: 64,
            engine: None,
            since: now,
            warnings: vec![],
            link: None,
        },
        wraps: vec![],
        done_revision: 0,
        progress: None,
        held_back: vec![],
        validated: vec![],
        snapshots: vec![],
        replica_state: Some("SECONDARY".to_owned()),
        unencrypted: false,
    }
}

/// A caller of the API, by Digest as the official clients sign.
struct Api {
    http: reqwest::Client,
    url: String,
    path: String,
    public_key: String,
    private_key: String,
}

impl Api {
    fn new(ready: &Ready) -> Anyhow<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ready.api_authority.as_bytes())?)?;
        let tls =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
        Ok(Self {
            http: reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build()?,
            url: format!("https://localhost:{}", ready.api),
            path: format!("/api/atlas/v2/orgs/{}", ready.org),
            public_key: ready.public_key.clone(),
            private_key: ready.private_key.clone(),
        })
    }

    /// One signed read, challenge included.
    async fn read(&self) -> Anyhow<Duration> {
        let began = Instant::now();
        let url = format!("{}{}", self.url, self.path);
        let accept = "application/vnd.atlas.2023-01-01+json";
        let challenge = self.http.get(&url).header("accept", accept).send().await?;
        let header = challenge.headers().get("www-authenticate").ok_or("a challenge")?.to_str()?.to_owned();
        let nonce =
            header.split_once("nonce=\"").and_then(|(_, rest)| rest.split_once('"')).ok_or("a nonce")?.0;
        let signature = self.sign(nonce);
        let answer =
            self.http.get(&url).header("accept", accept).header("authorization", signature).send().await?;
        if !answer.status().is_success() {
            return Err(format!("{} {}", answer.status(), answer.text().await?).into());
        }
        answer.bytes().await?;
        Ok(began.elapsed())
    }
    /// RFC 7616 with MD5, as Atlas' clients sign.
    fn sign(&self, nonce: &str) -> String {
        use md5::{Digest as _, Md5};
        let md5 = |text: String| data_encoding::HEXLOWER.encode(&Md5::digest(text.as_bytes()));
        let (realm, user, path) = (keyward_server::auth::digest::REALM, &self.public_key, &self.path);
        let secret = keyward_server::auth::digest::ha1(user, &self.private_key);
        let response =
            md5(format!("{}:{nonce}:00000001:0a4f113b:auth:{}", *secret, md5(format!("GET:{path}"))));
        format!(
            "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{path}\", \
             response=\"{response}\", algorithm=\"MD5\", cnonce=\"0a4f113b\", qop=auth, nc=00000001"
        )
    }
}
