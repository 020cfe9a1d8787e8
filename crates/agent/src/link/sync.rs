//! Talking to the server: what is observed goes up, what is desired comes down.
//!
//! Lost, late and repeated messages change nothing: both sides name what they have by number, and a report counts
//! as told only once the server says that it has stored it.

use std::time::Duration;

use keyward_model::{
    Timestamp,
    approval::Seen,
    sync::{AgentRefusalCode, Observed, SyncAnswer, SyncRequest, VERSION},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Link, LinkError, backoff,
    client::{CallError, Client},
    files::{Accepted, Joined},
    observe,
};
use crate::node::{NodeError, chain};

/// How long the server may hold an answer back, in seconds.
const WAIT_S: u16 = 50;
/// Changes that come together are told together.
const GATHER: Duration = Duration::from_millis(300);
/// Two calls never follow each other faster.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// A report whose evidence has grown older than this is told anew although nothing else changed.
const EVIDENCE_AGE: Duration = Duration::from_secs(900);
/// Whatever the server asks for, a certificate is not renewed twice within this time.
const RENEWED_AGAIN: Duration = Duration::from_secs(10);
/// The pause while such a wish is put off.
const PUT_OFF: Duration = Duration::from_secs(5);
/// Report numbers written down at once: one write of the disk for so many reports.
const RESERVED: u64 = 256;

/// Talks until `shutdown`.
pub(super) async fn run(link: Link, shutdown: CancellationToken) {
    // The first report already says whether the data is encrypted.
    link.0.node.look_at_adopted().await;
    let mut reporter = Reporter::default();
    let mut failures = 0u32;
    loop {
        let joined = link.state().joined.clone();
        let Some(joined) = joined else {
            link.0.node.set_note("server", None);
            tokio::select! {
                () = link.0.talk.notified() => continue,
                () = shutdown.cancelled() => return,
            }
        };
        let outcome = tokio::select! {
            outcome = talk(&link, &joined, &mut reporter, &mut failures) => outcome,
            () = shutdown.cancelled() => return,
        };
        let Err(error) = outcome else { continue };
        failures = failures.saturating_add(1);
        link.trouble(&error);
        tokio::select! {
            () = tokio::time::sleep(backoff::delay(failures, backoff::chance())) => {}
            () = link.0.talk.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Talks to one server with one certificate, until either is another one.
async fn talk(
    link: &Link,
    joined: &Joined,
    reporter: &mut Reporter,
    failures: &mut u32,
) -> Result<(), NodeError> {
    let client = connect(link, joined)?;
    if renewal_due(joined, link.0.node.clock().now()) {
        return link.renew(&client).await;
    }
    let mut changes = link.0.node.changes();
    // The first call does not wait: it tells at once whether the server is there.
    let mut wait_s = 0;
    loop {
        changes.mark_unchanged();
        let began = Instant::now();
        let request = reporter.request(link, &client, std::mem::replace(&mut wait_s, WAIT_S))?;
        let poll = client.sync(&request);
        tokio::pin!(poll);
        let answer = loop {
            tokio::select! {
                answer = &mut poll => break answer,
                () = link.0.talk.notified() => return Ok(()),
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    tokio::time::sleep(GATHER).await;
                    changes.mark_unchanged();
                    if reporter.look(link)? {
                        // Told beside the call that waits. What is desired comes by that one alone: two calls may
                        // be answered in either order.
                        let request = reporter.request(link, &client, 0)?;
                        let answer = client.sync(&request).await;
                        if hear(link, &client, reporter, answer).await?.0 == Renewal::Done {
                            return Ok(());
                        }
                    }
                }
            }
        };
        let (renewal, desired) = hear(link, &client, reporter, answer).await?;
        if let Some(desired) = desired {
            link.take(desired)?;
        }
        match renewal {
            Renewal::NotAsked => {}
            Renewal::Done => return Ok(()),
            // The server goes on asking, and answers at once.
            Renewal::PutOff => tokio::time::sleep(PUT_OFF).await,
        }
        *failures = 0;
        if let Some(rest) = SHORTEST_PAUSE.checked_sub(began.elapsed()) {
            tokio::time::sleep(rest).await;
        }
        let due =
            link.state().joined.as_ref() != Some(joined) || renewal_due(joined, link.0.node.clock().now());
        if due {
            return Ok(());
        }
    }
}

/// What came of the server's wish for a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    NotAsked,
    Done,
    PutOff,
}

/// Takes an answer in; gives whether the certificate was renewed over it, and what is desired.
async fn hear(
    link: &Link,
    client: &Client,
    reporter: &mut Reporter,
    answer: Result<SyncAnswer, CallError>,
) -> Result<(Renewal, Option<Accepted>), NodeError> {
    match answer {
        Ok(answer) => {
            reporter.stored = answer.stored_report;
            {
                let mut state = link.state();
                state.last_contact = Some(link.0.node.clock().now());
                state.problem = None;
            }
            link.0.node.set_note("server", None);
            link.publish();
            let desired = answer.desired.zip(answer.digest).map(|(desired, digest)| {
                let seen = Seen { revision: desired.revision, digest };
                Accepted { seen, desired, done: false }
            });
            let renewal = match answer.renew {
                true => renew_on_request(link, client, reporter).await,
                false => Renewal::NotAsked,
            };
            Ok((renewal, desired))
        }
        Err(CallError::Refused { refusal, .. }) if refusal.code == AgentRefusalCode::CertificateExpired => {
            link.renew(client).await.map(|()| (Renewal::Done, None))
        }
        Err(error) => Err(LinkError::Call(error).into()),
    }
}

/// Renews because the server asks for it. Where that does not work, the certificate that there is still does.
async fn renew_on_request(link: &Link, client: &Client, reporter: &mut Reporter) -> Renewal {
    if reporter.renewed.is_some_and(|at| at.elapsed() < RENEWED_AGAIN) {
        return Renewal::PutOff;
    }
    reporter.renewed = Some(Instant::now());
    match link.renew(client).await {
        Ok(()) => Renewal::Done,
        Err(error) => {
            tracing::warn!("the certificate was not renewed when the server asked for it: {}", chain(&error));
            Renewal::PutOff
        }
    }
}

pub(super) fn connect(link: &Link, joined: &Joined) -> Result<Client, NodeError> {
    let files = &link.0.files;
    let missing = |what: &str| LinkError::Call(CallError::Setup(format!("{what} is missing")));
    let key = files.key().map_err(LinkError::from)?.ok_or_else(|| missing("key.pem"))?;
    let certificate = files.certificate().map_err(LinkError::from)?.ok_or_else(|| missing("cert.pem"))?;
    let authorities = files.authorities().map_err(LinkError::from)?.ok_or_else(|| missing("ca.pem"))?;
    let client = Client::with_certificate(&joined.url, &authorities, &certificate, &key);
    Ok(client.map_err(LinkError::from)?)
}

/// At two thirds of the certificate's life, measured on this host's clock; never twice within an hour, whatever the
/// two clocks say.
fn renewal_due(joined: &Joined, now: Timestamp) -> bool {
    const HOUR_MS: i64 = 3_600_000;
    let life =
        (joined.not_after.epoch_ms() - joined.issued_at.epoch_ms()).clamp(HOUR_MS * 3 / 2, 48 * HOUR_MS);
    now.epoch_ms() - joined.issued_at.epoch_ms() >= life / 3 * 2
}

impl Link {
    fn trouble(&self, error: &NodeError) {
        let text = chain(error);
        {
            let mut state = self.state();
            // It was left meanwhile.
            if state.joined.is_none() {
                return;
            }
            if state.problem.as_ref() != Some(&text) {
                tracing::warn!("{text} (hint: {})", error.hint());
            }
            state.problem = Some(text.clone());
        }
        self.0.node.set_note("server", Some(text));
        self.publish();
    }

    /// The first of `RESERVED` numbers that no report ever had, after `seen`. Durable before any of them is used.
    fn reserve_reports(&self, seen: u64) -> Result<u64, NodeError> {
        let _keeping = self.keep();
        let joined = {
            let mut state = self.state();
            let Some(joined) = &mut state.joined else { return Ok(seen + 1) };
            let first = joined.reserved_reports.max(seen) + 1;
            joined.reserved_reports = first + RESERVED - 1;
            (first, joined.clone())
        };
        self.0.files.set_joined(&joined.1).map_err(LinkError::from)?;
        Ok(joined.0)
    }
}

/// Numbers the reports and knows which one the server has.
#[derive(Default)]
struct Reporter {
    newest: Option<(Observed, Instant)>,
    /// The server's word.
    stored: u64,
    /// The last reserved number.
    reserved: u64,
    /// When the server last had a certificate renewed.
    renewed: Option<Instant>,
}

impl Reporter {
    /// Looks at the node; gives whether there is something new to tell.
    fn look(&mut self, link: &Link) -> Result<bool, NodeError> {
        let Some(node_id) = link.state().joined.as_ref().map(|joined| joined.node_id) else {
            return Ok(false);
        };
        let seen = observe::observe(link, node_id);
        if let Some((newest, at)) = &self.newest
            && newest.report > self.stored_by_others()
            && at.elapsed() < EVIDENCE_AGE
            && observe::same(newest, &seen)
        {
            return Ok(false);
        }
        let last = self.newest.as_ref().map_or(0, |(newest, _)| newest.report);
        let mut number = last.max(self.stored_by_others()) + 1;
        if number > self.reserved || last == 0 {
            number = link.reserve_reports(number - 1)?;
            self.reserved = number + RESERVED - 1;
        }
        let observed = Observed { report: number, at: link.0.node.clock().now(), ..seen };
        self.newest = Some((observed, Instant::now()));
        Ok(true)
    }

    /// A number beyond our own that the server has stored: our memory of it was lost.
    fn stored_by_others(&self) -> u64 {
        let own = self.newest.as_ref().map_or(0, |(newest, _)| newest.report);
        if self.stored > own { self.stored } else { 0 }
    }

    fn request(&mut self, link: &Link, client: &Client, wait_s: u16) -> Result<SyncRequest, NodeError> {
        self.look(link)?;
        let newest = self.newest.as_ref().map(|(observed, _)| observed);
        let report = newest.map_or(0, |observed| observed.report);
        let state = link.state();
        let have = state.older.as_ref().map(|(older, _)| older).or(state.accepted.as_ref());
        Ok(SyncRequest {
            version: VERSION,
            report,
            observed: newest.filter(|_| self.stored != report).cloned(),
            have_revision: have.map_or(0, |have| have.seen.revision),
            have_digest: have.map(|have| have.seen.digest.clone()),
            wait_s,
            authorities_sha256: client.authorities_sha256(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_whatever_the_clocks_say() {
        let hour = 3_600_000;
        let at = |hours: i64| Timestamp::from_epoch_ms(hours * hour);
        let joined = |issued: i64, ends: i64| Joined {
            node_id: keyward_model::id::NodeId(uuid::Uuid::nil()),
            url: "https://s".parse().unwrap(),
            ca_sha256: String::new(),
            issued_at: at(issued),
            not_after: at(ends),
            reserved_reports: 0,
        };
        assert!(!renewal_due(&joined(1000, 1024), at(1015)));
        assert!(renewal_due(&joined(1000, 1024), at(1016)));
        assert!(renewal_due(&joined(1000, 1024), at(9000)), "after any absence");
        // The host's clock is far ahead of the server's, or behind it.
        assert!(!renewal_due(&joined(1000, 900), at(1000)));
        assert!(renewal_due(&joined(1000, 900), at(1001)));
        assert!(!renewal_due(&joined(1000, 9000), at(1031)));
        assert!(renewal_due(&joined(1000, 9000), at(1032)));
        // It went back: nothing is due, and the server says so when the certificate is not good to it.
        assert!(!renewal_due(&joined(1000, 1024), at(10)));
    }
}
