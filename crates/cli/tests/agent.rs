//! A real agent: `keyward node keystore export` and `node approve`, what an operator keeps and how it comes back; and an
//! agent whose disk hangs.

mod processes;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use keyward_keys::keystore::SealedKeystore;
use keyward_vault::{RunningVault, ServeOptions, client::VaultAdmin};

const KEYWARD: &str = env!("CARGO_BIN_EXE_keyward");

struct Node {
    dir: tempfile::TempDir,
    config: PathBuf,
    vault: RunningVault,
}

/// An agent in a process of its own; its database outlives it.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Node {
    async fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("kw").tempdir()?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let vault = keyward_vault::serve(ServeOptions { dir: dir.path().join("vault"), listen }).await?;
        let known = vault.description();
        let made = VaultAdmin::of(known)?.create_key("k1", 2048).await?;
        let key = &made.versions.last().context("a version")?.key_identifier;
        let secret = dir.path().join("secret");
        fs::write(&secret, &known.client_secret)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let config = dir.path().join("n.toml");
        let text = format!(
            "name = \"n\"\ndata_path = \"{dir}/db\"\nstate_dir = \"{dir}/state\"\nencryptor = \"{encryptor}\"\n\
             [engine]\nkind = \"secantusdb\"\nprogram = \"{python}\"\nport = {port}\nexposure = \"open\"\n\
             accept_plaintext_in_swap = true\n\
             [customer_key]\nkey_identifier = \"{key}\"\ntenant_id = \"{tenant}\"\nclient_id = \"{client}\"\n\
             client_secret_file = \"{secret}\"\ncloud = \"CUSTOM\"\nauthority = \"{authority}\"\n\
             ca_file = \"{ca}\"\n\
             [verdict]\nprobe_interval_s = 1\nstrong_window_s = 2\n\
             [admin]\nsocket = \"{dir}/admin.sock\"\n",
            dir = dir.path().display(),
            encryptor = keyward_testkit::built::encryptor_library()?.display(),
            python = keyward_testkit::python::secantusdb()?.display(),
            tenant = known.tenant_id,
            client = known.client_id,
            secret = secret.display(),
            authority = known.authority,
            ca = known.ca_file.display(),
        );
        fs::write(&config, text)?;
        Ok(Self { dir, config, vault })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn agent(&self) -> Result<Agent> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("agent.log"))?;
        let mut command = Command::new(KEYWARD);
        command.args(["agent", "run", "--config"]).arg(&self.config);
        Ok(Agent(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?))
    }

    fn keyward(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(KEYWARD);
        command.arg("node").args(words).arg("--socket").arg(self.path("admin.sock"));
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// Waits until status says this state.
    fn until(&self, state: &str) -> Result<serde_json::Value> {
        self.until_status(state, |status| status["state"] == state)
    }

    fn until_status(
        &self,
        what: &str,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let output = self.keyward(&["status", "--json"])?;
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if wanted(&status) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("never {what}: {status:#}\n{}", String::from_utf8_lossy(&output.stderr));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn done(&self, words: &[&str]) -> Result<String> {
        let output = self.keyward(words)?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exported_keystore_is_private_whole_and_puts_a_node_back() -> Result<()> {
    let _alone = keyward_testkit::Alone::wait()?;
    let node = Node::new().await?;
    let _cleaner = processes::Cleaner(node.dir.path());
    let agent = node.agent()?;
    node.until("running")?;
    let keystore = node.path("db/.keyward/keystore.json");

    // On stdout and in a file: the exact bytes of the keystore, for the owner alone.
    assert_eq!(node.done(&["keystore", "export"])?.into_bytes(), fs::read(&keystore)?);
    let out = node.path("export.json");
    let out_name = out.to_str().context("a path")?;
    let said = node.done(&["keystore", "export", "--out", out_name])?;
    let exported = fs::read(&out)?;
    assert_eq!((&exported, mode(&out)?), (&fs::read(&keystore)?, 0o600));
    let generation = SealedKeystore::parse(&exported)?.generation();
    assert_eq!(said, format!("wrote generation {generation} to {out_name}\n"));

    // Never over something else.
    fs::write(&out, "mine")?;
    let refused = node.keyward(&["keystore", "export", "--out", out_name])?;
    let told = String::from_utf8(refused.stderr)?;
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(
        told.contains("export.json could not be written") && told.contains("never overwritten"),
        "{told}"
    );
    assert_eq!(fs::read(&out)?, b"mine");

    // The keystore is lost; the error names the way back, and it is one.
    node.done(&["stop"])?;
    drop(agent);
    fs::remove_file(&keystore)?;
    let agent = node.agent()?;
    node.until("stopped")?;
    let refused = node.keyward(&["start"])?;
    let told = String::from_utf8(refused.stderr)?;
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("there is no keystore") && told.contains("keyward node keystore export"), "{told}");
    node.until("failed")?;
    fs::write(&keystore, &exported)?;
    node.done(&["start"])?;
    node.until("running")?;

    // The agent's memory is lost as well: only a word on this host makes the keystore this node's.
    node.done(&["stop"])?;
    drop(agent);
    fs::remove_dir_all(node.path("state"))?;
    let agent = node.agent()?;
    let status = node.until("failed")?;
    assert!(status["reason"].as_str().is_some_and(|r| r.contains("keyward node approve")), "{status:#}");
    node.done(&["approve", "--yes"])?;
    node.until("running")?;
    node.done(&["stop"])?;
    drop(agent);
    assert_eq!(processes::mentioning(node.dir.path()), Vec::<String>::new());
    node.vault.shutdown().await;
    Ok(())
}

/// A pipe in place of a file of `state_dir` does what a disk that hangs does: who reads it waits for ever. The revocation is
/// seen and obeyed, and the agent ends when it is asked to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_disk_hangs_obeys_a_revocation_and_ends() -> Result<()> {
    let _alone = keyward_testkit::Alone::wait()?;
    let node = Node::new().await?;
    let _cleaner = processes::Cleaner(node.dir.path());
    let mut agent = node.agent()?;
    node.until("running")?;
    let copy = node.path("state/canaries.json");
    fs::remove_file(&copy)?;
    ensure!(Command::new("mkfifo").arg(&copy).status()?.success(), "no pipe");
    let told = |status: &serde_json::Value| status["warnings"].to_string().contains("does not answer for");
    node.until_status("told of", told)?;
    VaultAdmin::of(node.vault.description())?.disable_key("k1").await?;
    let status = node.until("stoppedRevoked")?;
    assert!(status["engine"].is_null(), "{status:#}");
    ensure!(Command::new("kill").arg(agent.0.id().to_string()).status()?.success(), "no signal");
    let deadline = Instant::now() + Duration::from_secs(60);
    while agent.0.try_wait()?.is_none() {
        ensure!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(processes::mentioning(node.dir.path()), Vec::<String>::new());
    node.vault.shutdown().await;
    Ok(())
}
