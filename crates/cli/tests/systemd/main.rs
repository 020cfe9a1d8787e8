//! The packaged units on a real systemd, which the tests boot for themselves in namespaces of their own.

#![allow(clippy::unwrap_used)]

mod booted;
mod units;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use booted::{Host, LONG};
use keyward_vault::{RunningVault, ServeOptions, client::VaultAdmin};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use units::{Unit, probed};

const AGENT: &str = "keyward-agent@db1.service";
const SCOPE: &str = "keyward-engine-db1.scope";
const SERVER: &str = "keyward-server.service";
const SOCKET: &str = "/run/keyward/db1/admin.sock";
/// The engine's user, and a group that it is in besides its own.
const MONGOD: u32 = 61_001;
const KEY_READERS: u32 = 61_002;
const SERVER_USER: u32 = 61_003;
/// A user that `/etc/passwd` does not know.
const NAMELESS: u32 = 61_004;

/// What a host needs before it boots: a vault beside it, programs, units, users, the node's file.
struct Site {
    dir: tempfile::TempDir,
    vault: RunningVault,
    port: u16,
    programs: Vec<(PathBuf, PathBuf)>,
    _alone: keyward_testkit::Alone,
}

impl Site {
    /// With an engine under `user`.
    async fn new(user: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let alone = tokio::task::spawn_blocking(keyward_testkit::Alone::wait).await.unwrap().unwrap();
        let dir = tempfile::Builder::new().prefix("kw").tempdir().unwrap();
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let vault =
            keyward_vault::serve(ServeOptions { dir: dir.path().join("vault"), listen }).await.unwrap();
        let admin = VaultAdmin::of(vault.description()).unwrap();
        let key = admin.create_key("k1", 2048).await.unwrap().key_identifier().unwrap().to_owned();
        let python = keyward_testkit::python::secantusdb().unwrap();
        let programs = programs(&python);
        let site = Self { dir, vault, port: free_port(), programs, _alone: alone };
        site.furnish(&python, &key, user);
        site
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    /// Everything an operator installs.
    fn furnish(&self, python: &Path, key: &str, user: &str) {
        let root = self.root();
        for folder in ["etc/keyward", "etc/systemd/system", "home/someone", "boot", "var/log/journal"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        for unit in [AGENT, SERVER] {
            let unit = unit.replace("db1", "");
            fs::copy(packaging().join(&unit), root.join("etc/systemd/system").join(&unit)).unwrap();
        }
        let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/probe.py");
        fs::copy(probe, root.join("etc/keyward/probe.py")).unwrap();
        for (file, more) in [
            (
                "passwd",
                format!(
                    "mongod:x:{MONGOD}:{MONGOD}::/:/usr/sbin/nologin\n\
                     keyward-server:x:{SERVER_USER}:{SERVER_USER}::/:/usr/sbin/nologin\n"
                ),
            ),
            (
                "group",
                format!(
                    "mongod:x:{MONGOD}:\nkey-readers:x:{KEY_READERS}:mongod\n\
                     keyward-server:x:{SERVER_USER}:\n"
                ),
            ),
        ] {
            let own = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
            fs::write(root.join("etc").join(file), format!("{}\n{more}", own.trim_end())).unwrap();
        }
        let vault = self.vault.description();
        fs::copy(&vault.ca_file, root.join("etc/keyward/vault-ca.pem")).unwrap();
        fs::write(root.join("etc/keyward/client-secret"), &vault.client_secret).unwrap();
        let node = format!(
            r#"
name = "db1"
data_path = "/var/lib/mongo"
state_dir = "/var/lib/keyward/db1"
encryptor = "/usr/lib/keyward/libkeyward_encryptor.so"
spare_database_keys = 8

[engine]
kind = "secantusdb"
program = "{python}"
args = ["--sync-on-commit"]
port = {port}
exposure = "open"
user = "{user}"

[customer_key]
key_identifier = "{key}"
tenant_id = "{tenant}"
client_id = "{client}"
client_secret_file = "/etc/keyward/client-secret"
cloud = "CUSTOM"
authority = "{authority}"
arm_url = "{arm}"
ca_file = "/etc/keyward/vault-ca.pem"
call_timeout_s = 5

[verdict]
probe_interval_s = 1

[admin]
socket = "{SOCKET}"
"#,
            python = python.display(),
            port = self.port,
            tenant = vault.tenant_id,
            client = vault.client_id,
            authority = vault.authority,
            arm = vault.arm_url,
        );
        fs::write(root.join("etc/keyward/db1.toml"), node).unwrap();
    }

    /// More settings of a unit.
    fn drop_in(&self, unit: &str, text: &str) {
        let folder = self.root().join("etc/systemd/system").join(format!("{unit}.d"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("test.conf"), text).unwrap();
    }

    fn boot(&self) -> Result<Host, String> {
        Host::boot(&self.root(), &self.programs).unwrap()
    }

    async fn database(&self) -> mongodb::Collection<Document> {
        let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true&w=1&journal=true", self.port);
        mongodb::Client::with_uri_str(&uri).await.unwrap().database("shop").collection("orders")
    }
}

/// What is installed, and what the engine needs to run: paths here and there.
fn programs(python: &Path) -> Vec<(PathBuf, PathBuf)> {
    let same = |path: PathBuf| (path.clone(), path);
    let environment = python.ancestors().nth(2).unwrap().to_owned();
    let output = Command::new(python)
        .args(["-c", "import sys; print(sys.base_prefix)"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let base = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    let mut all = vec![
        (PathBuf::from(env!("CARGO_BIN_EXE_keyward")), PathBuf::from("/usr/bin/keyward")),
        (
            keyward_testkit::built::encryptor_library().unwrap(),
            PathBuf::from("/usr/lib/keyward/libkeyward_encryptor.so"),
        ),
        same(environment),
    ];
    if !base.starts_with("/usr") {
        all.push(same(base));
    }
    all
}

fn packaging() -> PathBuf {
    keyward_testkit::project_root().join("packaging")
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Runs `keyward` there and takes its JSON.
fn keyward(host: &Host, words: &[&str]) -> Option<Value> {
    let words: Vec<&str> = ["keyward"].iter().chain(words).chain(&["--json"]).copied().collect();
    let output = host.run(&words).unwrap();
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// Waits until the node runs and its agent holds the master key; gives its status.
fn until_running(host: &Host) -> Value {
    let deadline = Instant::now() + LONG;
    loop {
        let status = keyward(host, &["node", "status", "--socket", SOCKET]);
        match &status {
            Some(status) if status["state"] == "running" && status["masterKeyHeld"] == true => {
                return status.clone();
            }
            _ => assert!(Instant::now() < deadline, "the node does not run: {status:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn engine_of(status: &Value) -> u32 {
    u32::try_from(status["engine"]["pid"].as_u64().unwrap()).unwrap()
}

/// What is in a control group, as the host numbers its processes.
fn processes(host: &Host, group: &str) -> String {
    host.says(&["cat", &format!("{group}/cgroup.procs")]).unwrap()
}

fn agent(host: &Host) -> u32 {
    host.show(AGENT, "MainPID").unwrap().parse().unwrap()
}

/// Waits until another process than `old` is the agent, and the node runs again.
fn until_another_agent(host: &Host, old: u32) -> Value {
    host.until(AGENT, "MainPID", |pid| pid != "0" && pid != old.to_string()).unwrap();
    host.until(AGENT, "ActiveState", |state| state == "active").unwrap();
    until_running(host)
}

/// Waits until the engine's encryptor has met its agent again `times` times.
fn until_met_again(host: &Host, times: usize) {
    let deadline = Instant::now() + LONG;
    let met = || host.read("/var/lib/keyward/db1/engine.log").unwrap().matches("the agent is back").count();
    while met() < times {
        assert!(Instant::now() < deadline, "the encryptor did not connect again: {} of {times}", met());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes one document after the other until it is told to stop; gives how many. An error ends it.
async fn write_on(orders: mongodb::Collection<Document>, stop: CancellationToken) -> u64 {
    let mut written = 0;
    while !stop.is_cancelled() {
        orders.insert_one(doc! { "_id": i64::try_from(written).unwrap() }).await.unwrap();
        written += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_outlives_its_agent() {
    let site = Site::new("mongod").await;
    site.drop_in(AGENT, "[Service]\nWatchdogSec=3\nRestartSec=100ms\n");
    let host = match site.boot() {
        Ok(host) => host,
        Err(why) => keyward_testkit::skip!("{why}"),
    };
    // Type=notify: this returns once the agent has said that it is ready.
    host.says(&["systemctl", "start", AGENT]).unwrap();
    let status = until_running(&host);
    let engine = engine_of(&status);
    assert_eq!(status["memoryLocked"], true, "{status}");

    // The engine is in a scope of its own, under its own user, with that user's groups.
    assert_eq!(host.cgroup_of(engine).unwrap(), format!("/system.slice/{SCOPE}"));
    let of_agent = host.cgroup_of(agent(&host)).unwrap();
    assert!(of_agent.ends_with(&format!("/{AGENT}")), "{of_agent}");
    let there = processes(&host, &format!("/sys/fs/cgroup{of_agent}"));
    assert_eq!(there, agent(&host).to_string());
    let four_times = |id: u32| [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join("\t");
    for (field, value) in [
        ("Uid", four_times(MONGOD)),
        ("Gid", four_times(MONGOD)),
        ("Groups", KEY_READERS.to_string()),
        ("CapEff", "0".repeat(16)),
    ] {
        assert_eq!(host.status_of(engine, field).unwrap(), value, "{field} of the engine");
    }
    assert_eq!(host.status_of(agent(&host), "Uid").unwrap(), four_times(0));
    let owner = |path: &str| fs::metadata(host.path(path)).unwrap();
    assert_eq!(owner("/var/lib/mongo/WiredTiger.wt").uid(), MONGOD);
    let keystore = owner("/var/lib/mongo/.keyward/keystore.json");
    assert_eq!((keystore.uid(), keystore.mode() & 0o777), (0, 0o600));

    // What the scope limits, and what it waits for when the host goes down.
    for (property, value) in
        [("TasksMax", "infinity"), ("MemorySwapMax", "0"), ("TimeoutStopUSec", "2min 30s")]
    {
        assert_eq!(host.show(SCOPE, property).unwrap(), value, "{property}");
    }
    let group = format!("/sys/fs/cgroup/system.slice/{SCOPE}");
    if host.read("/sys/fs/cgroup/cgroup.controllers").unwrap().contains("memory") {
        assert_eq!(host.read(&format!("{group}/memory.swap.max")).unwrap().trim(), "0");
    } else {
        eprintln!("memory.swap.max is not looked at: the kernel's memory controller is of version 1 here");
    }
    assert!(host.show(SCOPE, "Before").unwrap().contains(AGENT));
    assert!(host.show(SCOPE, "RequiresMountsFor").unwrap().contains("/var/lib/mongo/_tmp"));

    // Restarted, killed, frozen: each time another agent adopts the same process, which serves all along.
    let stop = CancellationToken::new();
    let orders = site.database().await;
    let writer = tokio::spawn(write_on(orders.clone(), stop.clone()));
    let mut met = 0;
    for command in [
        vec!["systemctl", "restart", AGENT],
        vec!["systemctl", "kill", "--signal=KILL", AGENT],
        vec!["systemctl", "kill", "--signal=STOP", AGENT],
    ] {
        let old = agent(&host);
        host.says(&command).unwrap();
        assert_eq!(engine_of(&until_another_agent(&host, old)), engine, "{command:?}");
        met += 1;
        until_met_again(&host, met);
    }
    let journal = host.says(&["journalctl", "--no-pager", "--output=cat", "--unit", AGENT]).unwrap();
    assert_eq!(journal.matches("Watchdog timeout").count(), 1, "{journal}");

    // Stopped: the agent alone.
    host.says(&["systemctl", "stop", AGENT]).unwrap();
    assert_eq!(host.show(AGENT, "Result").unwrap(), "success");
    assert!(!host.path("/run/keyward/db1").exists());
    assert_eq!(processes(&host, &group), engine.to_string());
    stop.cancel();
    let written = writer.await.unwrap();
    assert!(written > 10);
    orders.insert_one(doc! { "_id": -1 }).await.unwrap();
    // A checkpoint under everything that it inherits.
    orders.client().database("admin").run_command(doc! { "fsync": 1 }).await.unwrap();
    host.says(&["systemctl", "start", AGENT]).unwrap();
    assert_eq!(engine_of(&until_running(&host)), engine);

    // Killed itself, it is started again, in a new scope of the same name.
    host.says(&["systemctl", "kill", "--signal=KILL", SCOPE]).unwrap();
    let deadline = Instant::now() + LONG;
    let second = loop {
        let second = engine_of(&until_running(&host));
        if second != engine {
            break second;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(host.cgroup_of(second).unwrap(), format!("/system.slice/{SCOPE}"));
    assert_eq!(site.database().await.count_documents(doc! {}).await.unwrap(), written + 1);

    // With the agent stopped, the scope's stop is the database's clean end.
    host.says(&["systemctl", "stop", AGENT]).unwrap();
    host.says(&["systemctl", "stop", SCOPE]).unwrap();
    assert!(!host.path(&format!("/proc/{second}")).exists());
    assert_eq!(host.show(SCOPE, "LoadState").unwrap(), "not-found");
    host.power_off().unwrap();
}

/// Where the scope cannot be made, the unit's own settings keep the engine alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_in_the_agents_own_unit_outlives_it_too() {
    let site = Site::new("mongod").await;
    // What tells the agent that systemd started it.
    site.drop_in(AGENT, "[Service]\nUnsetEnvironment=INVOCATION_ID\nRestartSec=100ms\n");
    let host = match site.boot() {
        Ok(host) => host,
        Err(why) => keyward_testkit::skip!("{why}"),
    };
    host.says(&["systemctl", "start", AGENT]).unwrap();
    let engine = engine_of(&until_running(&host));
    let unit = host.cgroup_of(engine).unwrap();
    assert!(unit.ends_with(&format!("/{AGENT}")), "{unit}");
    assert_eq!(host.status_of(engine, "Groups").unwrap(), KEY_READERS.to_string());
    for command in [
        vec!["systemctl", "restart", AGENT],
        vec!["systemctl", "kill", "--kill-who=main", "--signal=KILL", AGENT],
    ] {
        let old = agent(&host);
        host.says(&command).unwrap();
        assert_eq!(engine_of(&until_another_agent(&host, old)), engine, "{command:?}");
    }
    host.says(&["systemctl", "stop", AGENT]).unwrap();
    site.database().await.insert_one(doc! { "_id": 1 }).await.unwrap();
    assert!(host.path(&format!("/proc/{engine}")).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_goes_down_in_order_and_comes_up_by_itself() {
    let site = Site::new(&format!("{NAMELESS}:{NAMELESS}")).await;
    // SecantusDB wants a home folder.
    site.drop_in(AGENT, "[Service]\nEnvironment=HOME=/\n");
    let root = site.root();
    fs::create_dir_all(root.join("srv/mongo")).unwrap();
    fs::write(
        root.join("etc/systemd/system/var-lib-mongo.mount"),
        "[Mount]\nWhat=/srv/mongo\nWhere=/var/lib/mongo\nType=none\nOptions=bind\n\
         [Install]\nWantedBy=local-fs.target\n",
    )
    .unwrap();
    let host = match site.boot() {
        Ok(host) => host,
        Err(why) => keyward_testkit::skip!("{why}"),
    };
    host.says(&["systemctl", "enable", "--now", "var-lib-mongo.mount", AGENT]).unwrap();
    let engine = engine_of(&until_running(&host));
    assert!(host.status_of(engine, "Uid").unwrap().starts_with(&NAMELESS.to_string()));
    assert_eq!(host.status_of(engine, "Groups").unwrap(), "");
    let orders = site.database().await;
    orders.insert_many((0..100).map(|n| doc! { "_id": n })).await.unwrap();
    host.power_off().unwrap();

    let journal = Command::new("journalctl")
        .args(["--no-pager", "--output=cat", "--directory"])
        .arg(root.join("var/log/journal"))
        .output()
        .unwrap();
    let journal = String::from_utf8(journal.stdout).unwrap();
    let at = |line: &str| {
        let found = journal.lines().position(|l| l.starts_with(line));
        found.unwrap_or_else(|| panic!("no line {line:?}: {journal}"))
    };
    let steps = [
        format!("Stopped {AGENT}"),
        format!("Stopping {SCOPE}"),
        format!("Stopped {SCOPE}"),
        "Unmounting var-lib-mongo.mount".to_owned(),
        "Unmounted var-lib-mongo.mount".to_owned(),
    ];
    let order: Vec<usize> = steps.iter().map(|step| at(step)).collect();
    assert!(order.is_sorted(), "{steps:?} {order:?}: {journal}");
    assert!(!journal.contains("Killing process"), "{journal}");

    let host = site.boot().unwrap();
    until_running(&host);
    assert_eq!(site.database().await.count_documents(doc! {}).await.unwrap(), 100);
    host.power_off().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_directive_is_in_force_and_the_node_joins_the_server() {
    let site = Site::new("mongod").await;
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        keyward_testkit::skip!("needs /usr/bin/python3, to try from within a unit what it forbids");
    }
    let (api, agents) = (free_port(), free_port());
    fs::write(
        site.root().join("etc/keyward/server.toml"),
        format!(
            "data_dir = \"/var/lib/keyward-server\"\napi_listen = \"127.0.0.1:{api}\"\n\
             agent_listen = \"127.0.0.1:{agents}\"\npublic_url = \"https://localhost:{api}\"\n\
             agent_url = \"https://localhost:{agents}\"\n"
        ),
    )
    .unwrap();
    let probe = |folder: &str| {
        format!("[Service]\nExecStartPost=/usr/bin/python3 /etc/keyward/probe.py {folder}/probe\n")
    };
    site.drop_in(AGENT, &probe("/var/lib/keyward/db1"));
    site.drop_in(SERVER, &probe("/var/lib/keyward-server"));
    let host = match site.boot() {
        Ok(host) => host,
        Err(why) => keyward_testkit::skip!("{why}"),
    };
    fs::write(host.path("/tmp/of-the-host"), "").unwrap();
    fs::write(host.path("/dev/of-the-host"), "").unwrap();
    // Without a unit all of it can be done: the attempts are good ones.
    host.says(&["mkdir", "/var/control"]).unwrap();
    host.says(&["/usr/bin/python3", "/etc/keyward/probe.py", "/var/control/probe"]).unwrap();
    let control = probed(&host.read("/var/control/probe").unwrap());

    host.says(&["systemctl", "start", AGENT]).unwrap();
    let unit = Unit::read(&packaging().join("keyward-agent@.service"));
    unit.is_shown_by(&host, AGENT, "db1");
    units::compare(&control, &probed(&host.read("/var/lib/keyward/db1/probe").unwrap()), &units::AGENT);
    let engine = engine_of(&until_running(&host));
    let main = agent(&host);
    // The engine inherits everything but the control group.
    for pid in [main, engine] {
        unit.limits_hold(&host, pid);
        assert_eq!(host.status_of(pid, "CapBnd").unwrap(), unit.capabilities(), "{pid}");
        assert_eq!(host.status_of(pid, "Seccomp").unwrap(), "2", "{pid}");
        assert_eq!(host.status_of(pid, "NoNewPrivs").unwrap(), "0", "{pid}");
    }
    assert_eq!(host.status_of(main, "CapEff").unwrap(), unit.capabilities());
    let mounts = |pid: u32| fs::read_link(host.path(&format!("/proc/{pid}/ns/mnt"))).unwrap();
    assert_eq!(mounts(engine), mounts(main));
    assert_ne!(mounts(engine), mounts(1));

    // Initialised by root, as the guide says; the unit hands the folder to its user.
    let init = host.says(&["keyward", "server", "init", "--config", "/etc/keyward/server.toml"]).unwrap();
    host.says(&["systemctl", "start", SERVER]).unwrap();
    let unit = Unit::read(&packaging().join(SERVER));
    unit.is_shown_by(&host, SERVER, "");
    units::compare(&control, &probed(&host.read("/var/lib/keyward-server/probe").unwrap()), &units::SERVER);
    let server: u32 = host.show(SERVER, "MainPID").unwrap().parse().unwrap();
    unit.limits_hold(&host, server);
    for (field, value) in [("CapBnd", "0".repeat(16)), ("CapEff", "0".repeat(16)), ("NoNewPrivs", "1".into())]
    {
        assert_eq!(host.status_of(server, field).unwrap(), value, "{field} of the server");
    }
    assert!(host.status_of(server, "Uid").unwrap().starts_with(&SERVER_USER.to_string()));

    // It answers, and the node joins it.
    let said = |name: &str| {
        let line = init.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{init}"));
        line.trim().to_owned()
    };
    let desk = |command: String| host.says(&["env", "HOME=/root", "sh", "-c", &command]).unwrap();
    desk(format!(
        "echo {} | keyward login --url https://localhost:{api} --ca-file {} --public-key {} --secret-file -",
        said("private key"),
        said("authority"),
        said("public key"),
    ));
    desk("keyward project create payments".to_owned());
    let token: Value =
        serde_json::from_str(&desk("keyward project join-token create --name db1 --json".to_owned()))
            .unwrap();
    desk(format!(
        "echo {} | keyward node join --socket {SOCKET} --token -",
        token["token"].as_str().unwrap()
    ));
    let deadline = Instant::now() + LONG;
    loop {
        let nodes: Value =
            serde_json::from_str(&desk("keyward project node list --json".to_owned())).unwrap();
        if nodes.to_string().contains("\"running\"") {
            break;
        }
        assert!(Instant::now() < deadline, "{nodes}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(engine_of(&until_running(&host)), engine);

    // Nothing that the units forbid was needed.
    let journal = host.says(&["journalctl", "--no-pager", "--output=cat"]).unwrap();
    assert!(!journal.contains("\"level\":\"ERROR\""), "{journal}");
}
