//! `keyward dev --check`, the tour: every promise of keyward shown and checked on real processes, in a fresh folder
//! of its own. One line per step; the first step that fails ends it.

mod control_plane;
mod documents;
mod outage;
mod plaintext;
mod report;
mod revocation;
mod rotation;
mod snapshot;
mod three_keys;

use std::path::PathBuf;
use std::time::Duration;

use keyward_model::{KeyIdentifier, NodeState, NodeStatus, Verdict};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::database::Database;
use super::home::Home;
use super::replica_set;
use super::server;
use super::site::{Node, NodeKind, NodePlan, Plan, Site};
use super::view::{SHORT, What};
use crate::args::dev::DevArguments;
use crate::failure::Failure;
use documents::{Ledger, Target};
use report::Report;

/// How long a node may take to come up.
const START: Duration = Duration::from_secs(90);

pub(crate) async fn run(
    home: &Home,
    arguments: &DevArguments,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let fresh =
        tempfile::Builder::new().prefix("check-").rand_bytes(4).tempdir_in(home.path()).map_err(|e| {
            Failure::new(
                format!("no folder for the tour can be made in {}", home.path().display()),
                "check the folder's permissions and free space",
            )
            .because(&e)
        })?;
    let mut report = Report::new(arguments.json);
    report.title(&format!(
        "the tour of keyward, on real processes in {}; {}",
        fresh.path().display(),
        SHORT.text()
    ))?;
    let plan = Plan {
        home: Home::open(fresh.path())?,
        tools: home.path().to_owned(),
        engine: arguments.engine,
        nodes: (0..arguments.nodes)
            .map(|i| NodePlan { name: format!("node-{i}"), kind: NodeKind::Member })
            .collect(),
        show_progress: !arguments.json,
    };
    // The steps themselves say what happens.
    let mut tell = |_: What| {};
    let begun = report.begin("a vault with a customer key; a server that has checked it");
    let opened = tokio::select! {
        opened = Site::open(plan, &mut tell) => opened,
        () = shutdown.cancelled() => Err(interrupted()),
    };
    let site = match opened {
        Ok(site) => site,
        Err(failure) => {
            report.failed(begun)?;
            return Err(failure);
        }
    };
    report.passed(begun, &site.customer_key.to_string())?;

    let mut tour =
        Tour { site, report, ledger: Ledger::default(), work: fresh.path().to_owned(), former: None };
    let walked = tokio::select! {
        walked = tour.walk() => walked,
        () = shutdown.cancelled() => Err(interrupted()),
    };
    let calls = tour.vault_calls().await;
    let troubles = tour.site.stop().await;
    let Tour { report, .. } = tour;
    for trouble in &troubles {
        trouble.report();
    }
    match walked {
        Ok(()) if troubles.is_empty() => {
            report.summary(true, &calls)?;
            // Removed here; errors of that are not errors of the tour.
            drop(fresh);
            Ok(())
        }
        outcome => {
            report.summary(false, &calls)?;
            let kept = fresh.keep();
            let mut failure = match outcome {
                Err(failure) => failure,
                Ok(()) => Failure::new("not everything stopped cleanly", String::new()),
            };
            failure.hint = format!("logs and data are kept in {}; {}", kept.display(), failure.hint);
            Err(failure.with_exit(crate::failure::FAILED))
        }
    }
}

fn interrupted() -> Failure {
    Failure::new("the tour was interrupted", "start it again; each tour begins anew")
}

/// Where the tour is.
struct Tour {
    site: Site,
    report: Report,
    /// What clients wrote, and must find again.
    ledger: Ledger,
    /// The tour's own folder.
    work: PathBuf,
    /// The customer key of before its rotation.
    former: Option<KeyIdentifier>,
}

impl Tour {
    async fn walk(&mut self) -> Result<(), Failure> {
        self.start_nodes().await?;
        self.write_documents().await?;
        self.prove().await?;
        self.search().await?;
        self.three_keys().await?;
        self.rotate_master_keys().await?;
        self.rotate_customer_key().await?;
        self.refuse_to_remove_key().await?;
        self.kill_an_agent().await?;
        self.kill_the_server().await?;
        self.outage().await?;
        self.heal().await?;
        self.take_key_away().await?;
        self.give_key_back().await?;
        self.snapshot_and_restore().await
    }

    async fn start_nodes(&mut self) -> Result<(), Failure> {
        let names: Vec<String> = self.site.members().map(|node| node.name.clone()).collect();
        let title = match names.len() {
            1 => "a node joins the server and becomes an encrypted cluster".to_owned(),
            count => format!("{count} nodes join the server and become an encrypted cluster"),
        };
        let begun = self.report.begin(&title);
        let work = async {
            for name in &names {
                self.site.start_agent(name).await?;
            }
            self.site.enlist().await?;
            let mut engine = String::new();
            for node in self.site.members() {
                let status = node.wait("running", START, is_up).await?;
                engine = status.engine.map(|e| format!("{} {}", e.kind, e.version)).unwrap_or_default();
            }
            if matches!(self.site.database, Database::Mongod { .. }) {
                let members = self.site.members().cloned().collect();
                if let What::Trouble { text } = replica_set::initiate(members).await {
                    return Err(Failure::new(text, "read the logs of mongod"));
                }
            }
            self.site.server.cluster_idle(START).await?;
            Ok(format!("cluster {} is IDLE; {engine}", server::CLUSTER))
        };
        let done = work.await;
        self.report.end(begun, done)
    }

    /// Where clients write: the replica set, or each node for itself.
    fn targets(&self) -> Vec<Target> {
        let members: Vec<Node> = self.site.members().cloned().collect();
        match self.site.database {
            Database::Mongod { .. } => {
                vec![Target { name: "the replica set".into(), uri: replica_set::uri(&members) }]
            }
            Database::Secantusdb { .. } => {
                members.iter().map(|node| Target { name: node.name.clone(), uri: node.uri() }).collect()
            }
        }
    }

    async fn write_documents(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("clients write documents to three databases");
        let targets = self.targets();
        let work = async {
            for target in &targets {
                self.ledger.write(target).await?;
            }
            Ok(format!("{} documents", self.ledger.documents()))
        };
        let done = work.await;
        self.report.end(begun, done)
    }

    /// Requests that the vault has answered, by operation.
    async fn vault_calls(&self) -> Vec<(String, u64)> {
        let entries = self.site.admin.log(0).await.unwrap_or_default();
        let mut counts = std::collections::BTreeMap::new();
        for entry in entries {
            *counts.entry(entry.operation).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    /// The database processes of all members, in order.
    async fn pids(&self) -> Result<Vec<u32>, Failure> {
        let mut pids = Vec::new();
        for node in self.site.members() {
            pids.push(pid(&node.wait("running", START, is_up).await?)?);
        }
        Ok(pids)
    }
}

/// Whether a node runs and its customer key answers.
fn is_up(status: &NodeStatus) -> bool {
    status.state == NodeState::Running && status.verdict == Verdict::Valid
}

/// The database process of a node that has one.
fn pid(status: &NodeStatus) -> Result<u32, Failure> {
    status
        .engine
        .as_ref()
        .map(|engine| engine.pid)
        .ok_or_else(|| broken(format!("{} has no database process", status.node)))
}

/// A promise that was not kept.
fn broken(message: impl Into<String>) -> Failure {
    Failure::new(message, "this is a bug: report it with the logs")
}

/// Fails with `message` unless `holds`.
fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(broken(message())) }
}

/// Seconds since `begun`, to a tenth.
fn seconds(begun: Instant) -> f64 {
    (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0
}
