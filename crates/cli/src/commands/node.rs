//! `keyward node …`: asks the agent of a node on this host.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keyward_agent::admin::client::{AdminClient, ClientError};
use keyward_agent::admin::{ExportedKeystore, Request};
use keyward_agent::preflight::{self, Level};
use keyward_agent::prove::{Proof, ProofVerdict};
use keyward_model::{NodeStatus, Timestamp, sync::HeldBack};
use serde_json::Value;

use crate::args::node::{KeystoreCommand, NodeCommand, Target};
use crate::dev::home::DevFile;
use crate::failure::Failure;
use crate::output::{Output, print};
use crate::progress::StepBar;
use crate::prompt::confirm;
use crate::render;

pub(crate) async fn run(command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::Status(target) => status(&target).await,
        NodeCommand::Prove(target) => prove(&target).await,
        NodeCommand::Preflight { mongod, config, json } => preflight(mongod, config.as_deref(), json).await,
        NodeCommand::RotateMasterKey(target) => ask(&target, &Request::RotateMasterKey, render::fields).await,
        NodeCommand::Rewrap { key_identifier, target } => {
            ask(&target, &Request::Rewrap { key_identifier }, render::fields).await
        }
        NodeCommand::Snapshot { to, target } => ask(&target, &Request::Snapshot { to }, render::fields).await,
        NodeCommand::Restore { from, target } => {
            ask(&target, &Request::Restore { from }, render::fields).await
        }
        NodeCommand::Start(target) => ask(&target, &Request::Start, status_text).await,
        NodeCommand::Stop(target) => ask(&target, &Request::Stop, status_text).await,
        NodeCommand::Join { token, target } => join(token, &target).await,
        NodeCommand::Leave { force, yes, target } => leave(&target, force, yes).await,
        NodeCommand::Approve { yes, list, target } => approve(&target, yes, list).await,
        NodeCommand::Keystore(KeystoreCommand::Export { out, target }) => {
            export(&target, out.as_deref()).await
        }
    }
}

/// What a failed request means for a person.
pub(crate) fn failure(error: &ClientError, node: &str) -> Failure {
    let failure = Failure::new(String::new(), error.hint()).with_exit(error.exit());
    match error {
        // The agent's own words, with its reasons in them.
        ClientError::Failure(said) => Failure { message: said.message.clone(), ..failure },
        ClientError::Connect { .. }
        | ClientError::Http(_)
        | ClientError::Request(_)
        | ClientError::Answer(_)
        | ClientError::NoResult => {
            Failure { message: format!("the agent of {node} could not be asked"), ..failure }.because(error)
        }
    }
}

async fn status(target: &Target) -> Result<(), Failure> {
    let (name, socket) = find(target)?;
    let client = connect(&name, &socket).await?;
    let status = client.status().await.map_err(|e| failure(&e, &name))?;
    let now = Timestamp(jiff::Timestamp::now());
    Output { json: target.json }.data(&status, |status| render::status(status, now))
}

/// A result that is the node's status.
fn status_text(result: &Value) -> String {
    match serde_json::from_value::<NodeStatus>(result.clone()) {
        Ok(status) => render::status(&status, Timestamp(jiff::Timestamp::now())),
        // An agent of another version: its words as they are.
        Err(_) => render::fields(result),
    }
}

async fn ask(target: &Target, request: &Request, text: fn(&Value) -> String) -> Result<(), Failure> {
    let result = send(target, request).await?;
    Output { json: target.json }.data(&result, text)
}

async fn send(target: &Target, request: &Request) -> Result<Value, Failure> {
    let (name, socket) = find(target)?;
    let client = connect(&name, &socket).await?;
    let mut bar = StepBar::new(!target.json);
    client
        .run(request, |line| bar.report(&line.step, line.done, line.total, &line.unit))
        .await
        .map_err(|e| failure(&e, &name))
}

async fn join(token: String, target: &Target) -> Result<(), Failure> {
    let token = match token.as_str() {
        "-" => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map_err(|e| {
                Failure::new("no token could be read from standard input", "give it as one line").because(&e)
            })?;
            line.trim().to_owned()
        }
        _ => token,
    };
    ask(target, &Request::Join { token }, render::fields).await
}

/// Names the server, asks, and leaves it.
async fn leave(target: &Target, force: bool, yes: bool) -> Result<(), Failure> {
    let (name, socket) = find(target)?;
    let client = connect(&name, &socket).await?;
    let status = client.status().await.map_err(|e| failure(&e, &name))?;
    if let Some(link) = &status.link {
        confirm(&format!("Take the node {} away from the server {}?", status.node, link.server), yes)?;
    }
    let left = client.run(&Request::Leave { force }, |_| {}).await.map_err(|e| failure(&e, &name))?;
    Output { json: target.json }.data(&left, render::fields)
}

/// Shows what waits for this host's approval and approves exactly that.
async fn approve(target: &Target, yes: bool, list: bool) -> Result<(), Failure> {
    let (name, socket) = find(target)?;
    let client = connect(&name, &socket).await?;
    let waiting = client.approvals().await.map_err(|e| failure(&e, &name))?;
    if list {
        return Output { json: target.json }.data(&waiting, |waiting| approvals_text(waiting));
    }
    let names: Vec<String> = waiting.iter().filter_map(|held| held.approval.clone()).collect();
    if !names.is_empty() {
        confirm(&format!("{}Approve?", approvals_text(&waiting)), yes)?;
    }
    let request = Request::Approve { approvals: Some(names) };
    let status = client.run(&request, |_| {}).await.map_err(|e| failure(&e, &name))?;
    let nothing = waiting.is_empty();
    Output { json: target.json }.data(&status, |status| {
        let said = if nothing { "nothing waits for approval\n" } else { "approved\n" };
        format!("{said}{}", status_text(status))
    })
}

fn approvals_text(waiting: &[HeldBack]) -> String {
    if waiting.is_empty() {
        return "nothing waits for approval\n".to_owned();
    }
    let one = |held: &HeldBack| {
        let name = held.approval.as_deref().unwrap_or_default();
        format!(
            "{}\n  why it waits: {}\n  in the node's file: approve = [\"{name}\"]\n",
            held.what, held.reason
        )
    };
    waiting.iter().map(one).collect()
}

/// Fails when the proof is none, after showing what was seen.
async fn prove(target: &Target) -> Result<(), Failure> {
    let result = send(target, &Request::Prove).await?;
    let proof: Proof = serde_json::from_value(result.clone()).map_err(|e| unreadable().because(&e))?;
    Output { json: target.json }.data(&result, |_| render::proof::text(&proof))?;
    match proof.verdict {
        ProofVerdict::NoPlaintext => Ok(()),
        ProofVerdict::PlaintextFound => Err(Failure::new(
            format!("plaintext is on disk: {}", proof.reason),
            "stop the node (keyward node stop) and report it with the proof (--json)",
        )),
        ProofVerdict::Incomplete => Err(Failure::new(
            format!("nothing was found, but the search is incomplete: {}", proof.reason),
            "run it as a user who may read all of the node's files and /proc/PID/fd, while the node runs",
        )),
    }
}

/// Gives the keystore's exact bytes: they are what its MAC covers.
async fn export(target: &Target, out: Option<&Path>) -> Result<(), Failure> {
    let result = send(target, &Request::KeystoreExport).await?;
    if target.json {
        return Output { json: true }.data(&result, |_| String::new());
    }
    let exported: ExportedKeystore = serde_json::from_value(result).map_err(|e| unreadable().because(&e))?;
    let bytes = data_encoding::BASE64
        .decode(exported.keystore_base64.as_bytes())
        .map_err(|e| unreadable().because(&e))?;
    match out {
        None => print(&String::from_utf8(bytes).map_err(|e| unreadable().because(&e))?),
        Some(file) => {
            write_new(file, &bytes)?;
            print(&format!("wrote generation {} to {}\n", exported.generation, file.display()))
        }
    }
}

/// Writes a file that is not there yet, for its owner alone; on stable storage when it returns.
fn write_new(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    opened.and_then(|mut opened| opened.write_all(bytes).and_then(|()| opened.sync_all())).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::AlreadyExists {
            "name a file that is not there yet: an export is never overwritten"
        } else {
            "check the folder, its owner and the space on the disk"
        };
        Failure::new(format!("{} could not be written", file.display()), hint).because(&error)
    })
}

fn unreadable() -> Failure {
    Failure::new("the agent's answer cannot be read", "use the keyward of the agent's version")
}

async fn connect(name: &str, socket: &Path) -> Result<AdminClient, Failure> {
    AdminClient::connect(socket).await.map_err(|e| failure(&e, name))
}

/// The node's name and its agent's socket.
fn find(target: &Target) -> Result<(String, PathBuf), Failure> {
    if let Some(socket) = &target.socket {
        return Ok((socket.display().to_string(), socket.clone()));
    }
    let file = target.dir.join("dev.json");
    let Some(dev) = DevFile::read(&file)? else {
        return Err(Failure::usage(
            format!("there is no {}, so the node cannot be looked up", file.display()),
            "start `keyward dev` there, name its folder with --dir, or name the agent's socket with --socket",
        ));
    };
    let names: Vec<&str> = dev.nodes.iter().map(|node| node.name.as_str()).collect();
    let found = match &target.node {
        Some(name) => dev.nodes.iter().find(|node| node.name == *name).ok_or_else(|| {
            Failure::usage(
                format!("there is no node {name:?} in {}", file.display()),
                format!("its nodes are {}", names.join(", ")),
            )
        })?,
        None => match dev.nodes.as_slice() {
            [only] => only,
            _ => {
                return Err(Failure::usage(
                    format!("{} has {} nodes", file.display(), names.len()),
                    format!("name one with --node: {}", names.join(", ")),
                ));
            }
        },
    };
    Ok((found.name.clone(), found.socket.clone()))
}

/// Fails when anything found forbids a start, after showing everything.
async fn preflight(mongod: Option<PathBuf>, config: Option<&Path>, json: bool) -> Result<(), Failure> {
    let config = config.map(super::agent::load).transpose()?;
    let options = preflight::Options { mongod, config };
    let report = tokio::task::spawn_blocking(move || preflight::preflight(&options))
        .await
        .map_err(|e| Failure::new("this host could not be examined", "report it as a bug").because(&e))?;
    Output { json }.data(&report, render::preflight)?;
    match report.level {
        Level::Ok | Level::Warn => Ok(()),
        Level::Refuse => Err(Failure::new("a node would not start here", "do what each ✗ line says")),
    }
}
