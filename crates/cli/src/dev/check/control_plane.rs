//! The server: it refuses to take a key from under a cluster, and its death in the middle of changes loses nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::documents::stop_all;
use super::{START, Tour, broken, ensure};
use crate::api::answer::{is, items, text};
use crate::api::{atlas, own};
use crate::dev::server::{CLUSTER, SERVER};
use crate::failure::Failure;

/// At least so many changes are answered before the server is killed in the middle of the next.
const CHANGES: usize = 5;

impl Tour {
    /// The project's key stays as long as a cluster uses it.
    pub(super) async fn refuse_to_remove_key(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("the server refuses to remove a key that a cluster uses");
        let done = self.try_to_remove_key().await;
        self.report.end(begun, done)
    }

    async fn try_to_remove_key(&self) -> Result<String, Failure> {
        let server = &self.site.server;
        let before = server.encryption().await?;
        let body = json!({ "azureKeyVault": { "enabled": false } });
        let refused = server.api.patch(atlas(["groups", server.project(), "encryptionAtRest"]), &body).await;
        let Err(failure) = refused else { return Err(broken("the key was removed from under a cluster")) };
        ensure(failure.causes.iter().any(|cause| cause.ends_with("(status 409)")), || {
            format!("removing the key is refused with {:?}", failure.causes)
        })?;
        ensure(failure.message.contains(CLUSTER), || {
            format!("the refusal does not name the cluster: {}", failure.message)
        })?;
        ensure(server.encryption().await? == before, || "a refused change was stored".into())?;
        Ok(format!("409: \"{}\"", failure.message))
    }

    /// kill -9 while changes are made: each answered one is there, each one that is there has exactly one event.
    pub(super) async fn kill_the_server(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("the server is killed amid changes; nodes run on, its log agrees");
        let done = self.lose_the_server().await;
        self.report.end(begun, done)
    }

    async fn lose_the_server(&mut self) -> Result<String, Failure> {
        let (writers, pids) = (self.start_writers().await?, self.pids().await?);
        let server = self.site.server.clone();
        let changes = tokio::spawn(async move {
            let mut answered = Vec::new();
            let endpoint = || own(["groups", server.project(), "joinTokens"]);
            while let Ok(made) = server.api.post(endpoint(), &json!({ "name": "unused" })).await {
                answered.push(text(&made, "/id").to_owned());
            }
            answered
        });
        // Not at a moment of its choosing.
        sleep(Duration::from_millis(700)).await;
        let process = self.site.process(SERVER).ok_or_else(|| broken("the server does not run"))?;
        process.kill();
        ensure(process.wait(Duration::from_secs(10)).await, || "the server survived SIGKILL".into())?;
        let answered = changes.await.map_err(|e| broken("the changes could not be made").because(&e))?;
        ensure(answered.len() >= CHANGES, || format!("only {} changes were answered", answered.len()))?;
        for writer in &writers {
            writer.goes_on().await?;
        }
        self.site.start_server().await?;
        let made = self.changes_and_events(&answered).await?;
        for writer in &writers {
            writer.goes_on().await?;
        }
        self.same_processes(&pids).await?;
        let written = stop_all(writers).await?;
        self.all_reported(Duration::from_secs(60)).await?;
        Ok(format!("{made} changes, one event each; {written} documents by now, none lost"))
    }

    /// Every answered join token exists; the tokens that exist and the events that tell of them are the same.
    async fn changes_and_events(&self, answered: &[String]) -> Result<usize, Failure> {
        let server = &self.site.server;
        let tokens = server.api.list(own(["groups", server.project(), "joinTokens"])).await?;
        let endpoint = own(["groups", server.project(), "events"]);
        let events = server.api.list(endpoint.with("eventType", "KEYWARD_JOIN_TOKEN_CREATED")).await?;
        let mut told: BTreeMap<&str, usize> = BTreeMap::new();
        for event in &events {
            *told.entry(text(event, "/detail/joinTokenId")).or_default() += 1;
        }
        let there: Vec<&str> = tokens.iter().map(|token| text(token, "/id")).collect();
        let lost = answered.iter().find(|id| !there.contains(&id.as_str()));
        ensure(lost.is_none(), || format!("change {lost:?} was answered, and is gone"))?;
        let silent = there.iter().find(|id| told.get(*id) != Some(&1));
        ensure(silent.is_none(), || format!("token {silent:?} has not exactly one event"))?;
        ensure(told.len() == there.len(), || {
            format!("{} tokens exist, events tell of {}", there.len(), told.len())
        })?;
        Ok(there.len())
    }

    /// Waits until the server has heard from every member, and every member has what it should.
    pub(super) async fn all_reported(&self, limit: Duration) -> Result<Vec<Value>, Failure> {
        let members = self.site.members().count();
        let deadline = Instant::now() + limit;
        loop {
            let nodes = self.site.server.nodes().await?;
            if nodes.len() == members && nodes.iter().all(|node| is(node, "/done")) {
                return Ok(nodes);
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    format!(
                        "after {} s the server does not show every node as done: {nodes:?}",
                        limit.as_secs()
                    ),
                    "read the server's log and the agents' logs",
                ));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until the server itself shows the revocation: every node stopped, an alert, events.
    pub(super) async fn server_shows_revocation(&self) -> Result<String, Failure> {
        let server = &self.site.server;
        let deadline = Instant::now() + START;
        loop {
            let nodes = server.nodes().await?;
            let stopped = nodes.iter().filter(|node| text(node, "/state") == "stoppedRevoked").count();
            let alerts = server.alerts().await?;
            let alert = alerts.iter().map(|alert| text(alert, "/eventTypeName")).find(|name| {
                ["AZURE_ENCRYPTION_KEY_INVALID", "ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID"].contains(name)
            });
            let events = server.events(50).await?;
            let told =
                events.iter().filter(|event| text(event, "/type") == "KEYWARD_NODE_STOPPED_REVOKED").count();
            if let Some(alert) = alert
                && stopped == self.site.members().count()
                && told >= stopped
            {
                return Ok(alert.to_owned());
            }
            if Instant::now() >= deadline {
                return Err(broken(format!(
                    "the server shows {stopped} nodes as stopped, alerts {:?}, {told} events",
                    alerts.iter().map(|alert| text(alert, "/eventTypeName")).collect::<Vec<_>>()
                )));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until no alert about the customer key is open any more.
    pub(super) async fn alerts_are_over(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + START;
        loop {
            let alerts = self.site.server.alerts().await?;
            let open: Vec<&str> = alerts.iter().map(|alert| text(alert, "/eventTypeName")).collect();
            if open.is_empty() {
                return Ok(());
            }
            ensure(Instant::now() < deadline, || format!("alerts stay open: {open:?}"))?;
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The held-back entries of a node, in words.
pub(super) fn held_back(node: &Value) -> String {
    let told = items(node, "/heldBack")
        .iter()
        .map(|held| format!("{}: {}", text(held, "/what"), text(held, "/reason")));
    told.collect::<Vec<_>>().join("; ")
}
