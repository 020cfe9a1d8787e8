//! What stops nothing: an agent that is killed, a vault that is down.

use std::time::Duration;

use keyward_agent::admin::Request;
use keyward_model::{NodeState, Verdict};
use tokio::time::{Instant, sleep};

use super::documents::{Writer, stop_all};
use super::{START, Tour, broken, ensure, is_up, pid};
use crate::dev::database::Database;
use crate::dev::site::VAULT;
use crate::dev::view::SHORT;
use crate::failure::{Failure, UNAVAILABLE};

impl Tour {
    /// An agent is killed; its database serves on, and the next agent finds it.
    pub(super) async fn kill_an_agent(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("an agent is killed; its database serves on and is adopted");
        let done = self.lose_an_agent().await;
        self.report.end(begun, done)
    }

    async fn lose_an_agent(&mut self) -> Result<String, Failure> {
        let node = self.site.members().last().cloned().ok_or_else(|| broken("there is no node"))?;
        let writers = self.start_writers().await?;
        let before = pid(&node.wait("running", START, is_up).await?)?;
        let agent =
            self.site.process(&node.name).ok_or_else(|| broken(format!("{} has no agent", node.name)))?;
        agent.kill();
        ensure(agent.wait(Duration::from_secs(10)).await, || "an agent survived SIGKILL".into())?;
        for writer in &writers {
            writer.goes_on().await?;
        }
        self.site.start_agent(&node.name).await?;
        let status = node.wait("running", START, |s| is_up(s) && s.master_key_held).await?;
        ensure(pid(&status)? == before, || {
            format!("{}: process {:?} instead of {before}", node.name, status.engine)
        })?;
        for writer in &writers {
            writer.goes_on().await?;
        }
        let written = stop_all(writers).await?;
        Ok(format!("{}, process {before}; {written} documents by now, none lost", node.name))
    }

    /// The vault is killed for longer than any revocation takes.
    pub(super) async fn outage(&mut self) -> Result<(), Failure> {
        let down_s = SHORT.denial_s + 3;
        let title = format!("the vault is down for {down_s} s, past every window: nothing stops");
        let begun = self.report.begin(&title);
        let done = self.vault_down(Duration::from_secs(down_s)).await;
        self.report.end(begun, done)
    }

    async fn vault_down(&mut self, length: Duration) -> Result<String, Failure> {
        let pids = self.pids().await?;
        // The last node is stopped and started meanwhile: what needs the key waits.
        let members: Vec<_> = self.site.members().cloned().collect();
        let Some((waiting, running)) = members.split_last() else { return Err(broken("there is no node")) };
        let mut writers = Vec::new();
        for target in self.targets().iter().filter(|target| target.name != waiting.name) {
            writers.push(Writer::start(target).await?);
        }
        let vault = self.site.process(VAULT).ok_or_else(|| broken("the vault does not run"))?;
        vault.kill();
        let begun = Instant::now();
        waiting.ask(&Request::Stop).await?;
        let refused = match waiting.ask(&Request::Start).await {
            Err(failure) => failure,
            Ok(_) => return Err(broken(format!("{} started without its customer key", waiting.name))),
        };
        ensure(refused.exit == UNAVAILABLE, || {
            format!("starting without the vault ends with exit code {}: {}", refused.exit, refused.message)
        })?;
        self.refused_while_down().await?;
        while begun.elapsed() < length {
            sleep(Duration::from_millis(500)).await;
            for (node, pid_before) in running.iter().zip(&pids) {
                let status =
                    node.wait("running", Duration::from_secs(5), |s| s.state == NodeState::Running).await?;
                ensure(pid(&status)? == *pid_before, || format!("{} was restarted", node.name))?;
            }
        }
        for node in running {
            let status = node
                .wait("unavailable", Duration::from_secs(20), |s| s.verdict == Verdict::Unavailable)
                .await?;
            ensure(status.master_key_held, || format!("{} let go of its master key", node.name))?;
        }
        waiting
            .wait("waiting", Duration::from_secs(20), |s| s.state == NodeState::WaitingForCustomerKey)
            .await?;
        for writer in &writers {
            writer.goes_on().await?;
        }
        let written = stop_all(writers).await?;
        Ok(format!(
            "{written} documents by now, none lost; {}, restarted, waits; a change of the key: 503, nothing stored",
            waiting.name
        ))
    }

    /// A change of the key cannot be checked now: it is refused as an outage, and nothing is stored.
    async fn refused_while_down(&self) -> Result<(), Failure> {
        let (server, former) = (&self.site.server, self.former.as_ref());
        let former = former.ok_or_else(|| broken("the customer key was never rotated"))?;
        let before = server.encryption().await?;
        let Err(failure) = server.rotate_to(former).await else {
            return Err(broken("a key was stored that nobody could check"));
        };
        ensure(
            failure.exit == UNAVAILABLE && failure.causes.iter().any(|c| c.ends_with("(status 503)")),
            || format!("a change during the outage is refused with {failure:?}"),
        )?;
        let after = server.encryption().await?;
        ensure(before["azureKeyVault"]["keyIdentifier"] == after["azureKeyVault"]["keyIdentifier"], || {
            format!("a refused change was stored: {after}")
        })
    }

    /// The vault is back; nobody has to do anything.
    pub(super) async fn heal(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("the vault is back: the waiting node starts by itself");
        let done = self.vault_back().await;
        self.report.end(begun, done)
    }

    async fn vault_back(&mut self) -> Result<String, Failure> {
        self.site.start_vault().await?;
        for node in self.site.members() {
            node.wait("running", START, is_up).await?;
        }
        self.verify_all().await.map(|count| format!("{count} documents intact"))
    }

    /// Everything that was ever written to the members is there, unchanged.
    pub(super) async fn verify_all(&self) -> Result<i64, Failure> {
        let mut count = 0;
        for target in self.targets() {
            count += self.ledger.verify(&target).await?;
        }
        Ok(count)
    }

    /// Whether nodes are independent of each other.
    pub(super) fn independent(&self) -> bool {
        matches!(self.site.database, Database::Secantusdb { .. })
    }
}
