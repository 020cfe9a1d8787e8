//! What systemd is told, on a real notification socket.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use keyward_agent::admin::Request;
use keyward_model::NodeState;

use crate::support::{AgentProcess, LONG, World, connect, until_state};

struct Notifications {
    socket: UnixDatagram,
    seen: Vec<String>,
}

impl Notifications {
    /// Waits for a message with a line that begins with `wanted`.
    fn until(&mut self, wanted: &str) -> Result<()> {
        let deadline = Instant::now() + LONG;
        let from = self.seen.len();
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            if let Ok(length) = self.socket.recv(&mut buffer) {
                self.seen.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            if self.seen[from..].iter().any(|message| message.lines().any(|line| line.starts_with(wanted))) {
                return Ok(());
            }
        }
        bail!("never {wanted:?}: {:?}", self.seen)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_hears_ready_status_the_watchdog_and_stopping() -> Result<()> {
    let world = World::new().await?;
    let (path, config) = world.config("n")?;
    let address = world.path("notify");
    let socket = UnixDatagram::bind(&address)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut heard = Notifications { socket, seen: Vec::new() };

    let agent = AgentProcess::start_with(
        &path,
        &[("NOTIFY_SOCKET", address.as_os_str()), ("WATCHDOG_USEC", "400000".as_ref())],
    )?;
    let mut heard = tokio::task::spawn_blocking(move || {
        heard.until("READY=1")?;
        heard.until("STATUS=running: ")?;
        heard.until("WATCHDOG=1")?;
        heard.until("WATCHDOG=1")?;
        anyhow::Ok(heard)
    })
    .await??;
    let ready = heard.seen.iter().position(|message| message.contains("READY=1"));
    let running = heard.seen.iter().position(|message| message.contains("STATUS=running"));
    assert!(ready < running, "the sockets are served before the engine runs: {:?}", heard.seen);

    // The status line follows the node. Nobody reads the socket meanwhile, and it fills up: that holds up nothing.
    let client = connect(&config.admin_socket).await?;
    world.vault.admin.disable_key("k1").await?;
    until_state(&client, NodeState::StoppedRevoked).await?;
    let mut heard = tokio::task::spawn_blocking(move || {
        heard.until("STATUS=stoppedRevoked: ")?;
        anyhow::Ok(heard)
    })
    .await??;
    world.vault.admin.enable_key("k1").await?;
    until_state(&client, NodeState::Running).await?;
    client.run(&Request::Stop, |_| {}).await?;

    let heard = tokio::task::spawn_blocking(move || heard.until("STOPPING=1"));
    tokio::task::spawn_blocking(move || agent.terminate()).await??;
    heard.await?
}
