//! Who may use the agent's sockets, tried by real processes of other users.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use keyward_agent::admin::Request;
use keyward_keys::wire::{PROTOCOL_VERSION, ToAgent, ToEncryptor, read_to_encryptor, write_to_agent};
use keyward_model::NodeState;

use crate::support::{Agent, World, until_state};

const NOBODY: u32 = 65534;

/// Sends bytes to a socket, prints the answer in hexadecimal or why there is none.
const CLIENT: &str = "
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
try:
    s.connect(sys.argv[1])
    s.sendall(bytes.fromhex(sys.argv[2]))
    got = b''
    while True:
        part = s.recv(65536)
        if not part: break
        got += part
    print(got.hex())
except OSError as error:
    print('refused', type(error).__name__)
";

/// Opens many connections; prints how many of them are not closed at once.
const FLOOD: &str = "
import socket, select, sys
all = []
for _ in range(200):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    all.append(s)
# The last one is accepted after all others, and closed: there are more than are kept.
select.select([all[-1]], [], [], 60)
print(200 - len(select.select(all, [], [], 5)[0]))
";

/// What a process of user `uid` gets for `bytes`.
fn ask_as(uid: u32, socket: &Path, bytes: &[u8]) -> Result<String> {
    let output = Command::new("/usr/bin/python3")
        .args(["-I", "-c", CLIENT])
        .arg(socket)
        .arg(data_encoding::HEXLOWER.encode(bytes))
        .env_clear()
        .current_dir("/")
        .uid(uid)
        .gid(uid)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// How many of 200 connections of `NOBODY` are not closed at once.
fn kept_of_many(socket: &Path) -> Result<usize> {
    let output = Command::new("/usr/bin/python3")
        .args(["-I", "-c", FLOOD])
        .arg(socket)
        .env_clear()
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// A database process that was taken over must not be able to take the agent's descriptors either: without one left
/// the vault cannot be asked, and a revocation is not seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engines_own_user_gets_no_more_connections_than_an_engine_needs() -> Result<()> {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/python3").exists() {
        keyward_testkit::report_skip("it needs root, and /usr/bin/python3, which every user may run");
        return Ok(());
    }
    let world = World::new().await?;
    let (_, mut config) = world.config("n")?;
    config.engine.user = Some(format!("{NOBODY}:{NOBODY}"));
    let agent = Agent::start(config.clone()).await?;
    agent.client.run(&Request::Stop, |_| {}).await?;
    for folder in [world.dir.path(), &world.path("n"), &world.path("n/state"), &world.path("n/state/keys")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    }
    let open = kept_of_many(&config.key_socket())?;
    assert!((9..=64).contains(&open), "{open} of 200 were kept open");
    // The agent is as it was.
    assert_eq!(agent.client.status().await?.state, NodeState::Stopped);
    agent.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sockets_refuse_a_process_of_another_user() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        keyward_testkit::report_skip("only root can start a process under another user");
        return Ok(());
    }
    if !Path::new("/usr/bin/python3").exists() {
        keyward_testkit::report_skip("there is no /usr/bin/python3, which every user may run");
        return Ok(());
    }
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config.clone()).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let request = b"GET /v1/status HTTP/1.1\r\nHost: keyward\r\nConnection: close\r\n\r\n";
    let mut hello = Vec::new();
    write_to_agent(
        &mut hello,
        &ToAgent::Hello {
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            pid: std::process::id(),
            wiredtiger_version: String::new(),
            layout: String::new(),
            data_path: String::new(),
        },
    )?;
    let (admin, keys) = (config.admin_socket.clone(), config.key_socket());

    // As they are: others do not even get in.
    for folder in [world.dir.path(), &world.path("n"), &world.path("n/state"), &world.path("n/state/keys")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    }
    for (socket, bytes) in [(&admin, &request[..]), (&keys, &hello)] {
        assert_eq!(ask_as(NOBODY, socket, bytes)?, "refused PermissionError", "{}", socket.display());
    }

    // Open to everybody, by mistake or because the engine has a user of its own: asked who they are, and refused.
    for socket in [&admin, &keys] {
        fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    }
    let answer = data_encoding::HEXLOWER.decode(ask_as(NOBODY, &admin, request)?.as_bytes())?;
    let answer = String::from_utf8(answer)?;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("NOT_ALLOWED") && !answer.contains("masterKey"), "{answer}");
    let stop = format!(
        "POST {} HTTP/1.1\r\nHost: keyward\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        Request::Stop.path()
    );
    let answer = data_encoding::HEXLOWER.decode(ask_as(NOBODY, &admin, stop.as_bytes())?.as_bytes())?;
    assert!(answer.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(agent.client.status().await?.state, NodeState::Running);

    // Another process of the right user is not the engine either.
    for uid in [NOBODY, 0] {
        let answer = data_encoding::HEXLOWER.decode(ask_as(uid, &keys, &hello)?.as_bytes())?;
        let answer = read_to_encryptor(&mut answer.as_slice()).context("one frame")?;
        assert!(
            matches!(&answer, ToEncryptor::Refused { reason } if reason.contains("is not the engine")),
            "{answer:?}"
        );
    }
    // Who opens many and says nothing gets a few: the agent needs its descriptors to ask the vault.
    let open = kept_of_many(&keys)?;
    assert!((1..=8).contains(&open), "{open} of 200 were kept open");

    // The control: the same request from root is answered.
    let answer = data_encoding::HEXLOWER.decode(ask_as(0, &admin, request)?.as_bytes())?;
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    agent.stop_all().await
}
