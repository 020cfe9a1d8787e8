//! What a core of the idle agent shows: no key, raw or base64. A positive control shows that the search would find
//! them; after a revocation not even that finds them.

mod support;

use std::{collections::HashSet, ffi::OsStr, fs, path::Path, process::Command, time::Duration};

use aho_corasick::AhoCorasick;
use anyhow::{Context as _, Result, ensure};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use keyward_agent::admin::Request;
use keyward_keys::{MasterKey, keystore::SealedKeystore};
use keyward_kms::{KeyService as _, azure::AzureKeyService};
use keyward_model::NodeState;
use support::{World, connect, database, insert, until, until_state};

#[global_allocator]
static ALLOC: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Not a test: what the other starts as an agent process.
#[test]
#[ignore = "an agent process for the other test"]
fn agent_process() {
    support::agent_main();
}

/// A key, and the ways in which it could lie around.
struct Known {
    name: String,
    bytes: Vec<u8>,
}

impl Known {
    fn patterns(&self) -> Vec<(String, Vec<u8>)> {
        // Base64 of the key alone; within longer text it would be shifted, and the JSON of a vault holds it alone.
        vec![
            (format!("{} raw", self.name), self.bytes.clone()),
            (format!("{} base64", self.name), BASE64.encode(&self.bytes).trim_end_matches('=').into()),
            (format!("{} base64url", self.name), BASE64URL_NOPAD.encode(&self.bytes).into()),
            (format!("{} hex", self.name), data_encoding::HEXLOWER.encode(&self.bytes).into()),
        ]
    }
}

/// Of keys, the master key, as one that was replaced by another one later.
fn earlier(keys: Vec<Known>, number: usize) -> impl Iterator<Item = Known> {
    let master = keys.into_iter().filter(|key| key.name == MASTER);
    master.map(move |key| Known { name: format!("{MASTER} replaced by rotation {number}"), ..key })
}

const MASTER: &str = "master key";

/// The node's keys, as only the customer key's owner can learn them.
async fn known_keys(config: &keyward_agent::config::Config) -> Result<Vec<Known>> {
    let sealed = SealedKeystore::parse(&fs::read(config.data_path.join(".keyward/keystore.json"))?)?;
    let service = AzureKeyService::new(config.customer_key.azure.clone())?;
    let wrap = &sealed.wraps()[0];
    let (mut master, _) = service.unwrap(&wrap.key_identifier.parse()?, &wrap.ciphertext).await?;
    let mut known = vec![Known { name: MASTER.to_owned(), bytes: master.to_vec() }];
    let open = sealed.open(MasterKey::take_from(&mut master)?)?;
    for (entry, key) in open.database_keys()? {
        known.push(Known { name: format!("database key {:?}", entry.purpose), bytes: key.expose().to_vec() });
    }
    Ok(known)
}

/// A core of the process; with `excluded`, also of the memory that it keeps out of cores.
fn core(pid: u32, dir: &Path, excluded: bool) -> Result<Vec<u8>> {
    let prefix = dir.join(if excluded { "all" } else { "usual" });
    let mut gdb = Command::new("gdb");
    gdb.args(["--batch", "--nx", "-p", &pid.to_string()]);
    if excluded {
        gdb.args(["-ex", "set use-coredump-filter off", "-ex", "set dump-excluded-mappings on"]);
    }
    let output = gdb.args(["-ex", &format!("gcore {}", prefix.display())]).output()?;
    ensure!(prefix.exists(), "gdb made no core: {}", String::from_utf8_lossy(&output.stderr));
    let bytes = fs::read(&prefix)?;
    fs::remove_file(&prefix)?;
    ensure!(bytes.len() > 1_000_000, "a core of {} bytes is none", bytes.len());
    Ok(bytes)
}

fn search(core: &[u8], known: &[Known]) -> Result<Vec<String>> {
    let patterns: Vec<_> = known.iter().flat_map(Known::patterns).collect();
    let searcher = AhoCorasick::new(patterns.iter().map(|(_, bytes)| bytes))?;
    let mut found: Vec<String> =
        searcher.find_iter(core).map(|hit| patterns[hit.pattern().as_usize()].0.clone()).collect();
    found.sort();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_of_the_idle_agent_holds_no_key() -> Result<()> {
    if Command::new("gdb").arg("--version").output().is_err() {
        keyward_testkit::report_skip("gdb is not installed");
        return Ok(());
    }
    let world = World::new().await?;
    let (path, config) = world.config("n")?;
    let agent = support::AgentProcess::start(&path)?;
    let client = connect(&config.admin_socket).await?;
    until_state(&client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..10).await?;
    // Everything that handles keys has happened at least once.
    let mut known: Vec<_> = earlier(known_keys(&config).await?, 1).collect();
    client.run(&Request::RotateMasterKey, |_| {}).await?;
    let second =
        world.vault.admin.rotate_key("k1").await?.versions.last().context("one")?.key_identifier.clone();
    client.run(&support::rewrap_to(&second)?, |_| {}).await?;
    known.extend(earlier(known_keys(&config).await?, 2));
    client.run(&Request::RotateMasterKey, |_| {}).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;

    known.extend(known_keys(&config).await?);
    assert!(known.len() > 7);
    let masters: HashSet<_> =
        known.iter().filter(|key| key.name.starts_with(MASTER)).map(|key| &key.bytes).collect();
    assert_eq!(masters.len(), 3, "each rotation made another one");
    let found = search(&core(agent.pid(), world.dir.path(), false)?, &known)?;
    assert!(found.is_empty(), "a core of the idle agent holds {found:?}");

    // The control: the memory that is kept out of cores holds the master key, once, and nothing else.
    let found = search(&core(agent.pid(), world.dir.path(), true)?, &known)?;
    assert_eq!(found, ["master key raw"]);

    world.vault.admin.disable_key("k1").await?;
    until(&client, "revoked", |s| s.state == NodeState::StoppedRevoked && !s.master_key_held).await?;
    for excluded in [false, true] {
        let found = search(&core(agent.pid(), world.dir.path(), excluded)?, &known)?;
        assert!(
            found.is_empty(),
            "after the revocation a core (excluded memory: {excluded}) holds {found:?}"
        );
    }
    agent.kill()
}

/// In a container that may lock no memory a node works, and says what it does without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_lock_no_memory_runs_and_says_so() -> Result<()> {
    let world = World::new().await?;
    let (path, config) = world.config("n")?;
    let agent = support::AgentProcess::start_with(&path, &[(support::LOCKS_NO_MEMORY, OsStr::new("1"))])?;
    let client = connect(&config.admin_socket).await?;
    until_state(&client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..10).await?;
    let status = client.status().await?;
    assert!(!status.memory_locked);
    let said = status.warnings.iter().find(|warning| warning.contains("memory that is not locked"));
    assert!(said.is_some_and(|warning| warning.contains("RLIMIT_MEMLOCK")), "{:?}", status.warnings);
    agent.terminate()
}
