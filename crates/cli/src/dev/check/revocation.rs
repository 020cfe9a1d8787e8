//! What stops everything: the customer key taken away. And what starts it again: the key given back.

use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use keyward_model::{NodeState, Verdict};
use tokio::process::Command;
use tokio::time::Instant;

use super::{START, Tour, broken, ensure, is_up};
use crate::commands::vault::failure;
use crate::dev::process::ProcessRecord;
use crate::dev::site::{CUSTOMER_KEY, Node};
use crate::failure::{Failure, REVOKED};

impl Tour {
    pub(super) async fn take_key_away(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("the key is taken away: every node stops and says why");
        let done = self.revoke().await;
        self.report.end(begun, done)
    }

    async fn revoke(&mut self) -> Result<String, Failure> {
        let mut processes = Vec::new();
        for (node, pid) in self.site.members().zip(self.pids().await?) {
            let process = ProcessRecord::of(&node.name, pid);
            processes.push(process.ok_or_else(|| broken(format!("{}: no process {pid}", node.name)))?);
        }
        let taken = Instant::now();
        self.site.admin.disable_key(CUSTOMER_KEY).await.map_err(|e| failure(&e))?;
        let mut reason = String::new();
        for (node, process) in self.site.members().zip(&processes) {
            let status = node
                .wait("stopped", Duration::from_secs(60), |s| {
                    s.state == NodeState::StoppedRevoked && s.engine.is_none()
                })
                .await?;
            ensure(status.verdict == Verdict::Revoked, || format!("{}: {:?}", node.name, status.verdict))?;
            ensure(status.reason.contains("disabled"), || {
                format!("{} does not say why: {}", node.name, status.reason)
            })?;
            let status = node.wait("without keys", Duration::from_secs(10), |s| !s.master_key_held).await?;
            ensure(!process.is_alive(), || format!("{}: process {} still runs", node.name, process.pid))?;
            ensure(TcpStream::connect(("127.0.0.1", node.port)).is_err(), || {
                format!("{} still listens on port {}", node.name, node.port)
            })?;
            reason = status.reason;
        }
        let took = super::seconds(taken);
        let first = self.site.members().next().cloned().ok_or_else(|| broken("there is no node"))?;
        refused_at_start(&first).await?;
        let alert = self.server_shows_revocation().await?;
        Ok(format!(
            "after {took:.1} s: \"{reason}\"; a start is refused (exit code {REVOKED}); alert {alert}"
        ))
    }

    pub(super) async fn give_key_back(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("the key is given back: every node starts with all its data");
        let done = self.give_back().await;
        self.report.end(begun, done)
    }

    async fn give_back(&mut self) -> Result<String, Failure> {
        let version = self.site.customer_key.version().to_owned();
        self.enable_version(&version, true).await?;
        for node in self.site.members() {
            node.wait("running", START, is_up).await?;
        }
        self.alerts_are_over().await?;
        self.verify_all().await.map(|count| format!("{count} documents intact; the alert is over"))
    }
}

/// The command itself, as a person would type it.
async fn refused_at_start(node: &Node) -> Result<(), Failure> {
    let program =
        std::env::current_exe().map_err(|e| broken("this program's own path is not known").because(&e))?;
    let output = Command::new(program)
        .args(["node", "start", "--socket"])
        .arg(&node.socket)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|e| broken("keyward node start cannot be run").because(&e))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.code() == Some(REVOKED.into()) && said.contains("hint: "), || {
        format!("keyward node start of {} ended with {}: {said}", node.name, output.status)
    })
}
