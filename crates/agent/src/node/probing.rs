//! Asking the customer key whether it still answers: the canary often, the master key itself once a day.

use std::time::Duration;

use keyward_keys::keystore::MasterKeyWrap;
use keyward_model::{Class, Evidence, NodeState, Verdict};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{KeyAccess, NodeHandle, chain, in_use};
use crate::{
    canaries::{self, Canaries, CanariesError, Canary},
    keystore::{Found, KeystoreFileError},
    wrap,
};

/// A look at this host that takes longer than this is told.
const LOOK: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });

/// How long a probe waits for the disk of `state_dir`, or for a step of the keystore.
const DISK_WAIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// The canaries that are probed with beside a keystore that cannot be read.
#[derive(Default)]
pub(super) struct CopiedCanaries {
    /// As they were last believed. No step of the keystore is made meanwhile, so that they are still right.
    believed: Option<Canaries>,
    /// The look at them that the disk has not answered yet.
    looking: Option<JoinHandle<Result<Canaries, CanariesError>>>,
}

/// Probes until `shutdown`. Waits for nothing but the customer's side.
pub(super) async fn run(node: NodeHandle, shutdown: CancellationToken) {
    let mut last_check_ms = node.0.clock.boot_ms();
    while waited(&node, &shutdown).await {
        tokio::select! {
            () = once(&node, &mut last_check_ms) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Looks at the engine and the keystore until `shutdown`, apart from the probes: an engine that does not answer, or a
/// disk, must not keep a revocation from being seen.
pub(super) async fn look_after(node: NodeHandle, shutdown: CancellationToken) {
    while waited(&node, &shutdown).await {
        let look = async {
            ping(&node).await;
            watch_over_keystore(&node).await;
        };
        tokio::pin!(look);
        let looked = async {
            if tokio::time::timeout(LOOK, &mut look).await.is_err() {
                let text =
                    format!("the engine or the keystore's disk does not answer for {} s", LOOK.as_secs());
                node.set_note("look", Some(text));
                look.await;
            }
            node.set_note("look", None);
        };
        tokio::select! {
            () = looked => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Waits for the next time; `false` at the end.
async fn waited(node: &NodeHandle, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(interval(node)) => true,
        () = shutdown.cancelled() => false,
    }
}

async fn once(node: &NodeHandle, last_check_ms: &mut u64) {
    // Asking for the master key is a probe of its own.
    let asked = {
        let shared = node.shared();
        shared.asking_vault || shared.state == NodeState::WaitingForCustomerKey
    };
    if asked {
        return;
    }
    node.probe().await;
    let due = u64::try_from(node.config().verdict.master_key_check_interval.as_millis()).unwrap_or(u64::MAX);
    let now = node.0.clock.boot_ms();
    if now.saturating_sub(*last_check_ms) >= due && node.0.keyring.view().is_some_and(|view| view.held) {
        *last_check_ms = now;
        check_master_key(node).await;
        describe(node).await;
    }
}

/// The keystore on disk is looked at as often as the customer key: somebody may have removed or changed it.
async fn watch_over_keystore(node: &NodeHandle) {
    let path = node.keyring().path();
    let told = match node.with_keyring(|keyring| keyring.watch_over()).await {
        Ok(None | Some(Found::AsWritten)) => None,
        Ok(Some(Found::PutBack)) => {
            let text = "was gone and has been put back from memory: find out who removed it";
            // Told until the next start.
            node.set_note("keystore gone", Some(format!("the keystore {} {text}", path.display())));
            None
        }
        Ok(Some(Found::Changed)) => {
            let error = KeystoreFileError::Changed(path);
            Some(format!("{error}: {}", error.hint()))
        }
        Err(error) => Some(format!("{} (hint: {})", chain(&error), error.hint())),
    };
    node.set_note("keystore", told);
}

/// Closer together while refusals add up, so that the window is not overshot by a whole interval.
fn interval(node: &NodeHandle) -> Duration {
    let verdict = node.config().verdict;
    let policy = node.access().policy;
    let shared = node.shared();
    let open_run =
        shared.judged.judgement.verdict != Verdict::Revoked && shared.judged.judgement.refusals.is_some();
    if !open_run {
        return verdict.probe_interval;
    }
    let steps = u64::from(policy.refusals.saturating_sub(1).max(1));
    // Well within the gap: a probe takes its time, and refusals further apart than that never add up.
    let step = Duration::from_millis((policy.strong_window_ms / steps).min(policy.gap_ms / 2));
    verdict.probe_interval.min(step).max(Duration::from_secs(1))
}

impl NodeHandle {
    /// Probes the customer key once, now.
    pub(crate) async fn probe(&self) {
        let access = self.access();
        let copy = self.copied_canaries().await;
        let evidence = match (copy, self.0.keyring.view()) {
            (Some(copy), _) => probe_sealed(&access, copy.canaries()).await,
            (None, Some(view)) if view.held => {
                let relied_on = |wrap: &&MasterKeyWrap| {
                    view.primary.as_ref().is_none_or(|primary| *primary == wrap.key_identifier)
                };
                let canaries: Vec<Canary> = view.wraps.iter().filter(relied_on).map(Canary::of).collect();
                wrap::probe(&access, &canaries).await
            }
            (None, Some(view)) => {
                let canaries: Vec<Canary> = view.wraps.iter().map(Canary::of).collect();
                probe_sealed(&access, &canaries).await
            }
            // A new node that was refused has no canary yet.
            (None, None) if self.shared().state == NodeState::StoppedRevoked => match &access.key {
                Some(key) => Some(wrap::look(&*access.service, key, self.0.clock.now()).await),
                None => None,
            },
            (None, None) => None,
        };
        if let Some(evidence) = evidence {
            self.note_evidence(evidence);
        }
    }

    /// What to probe with beside a database that runs on keys whose keystore cannot be opened, and until the
    /// customer key that stopped it for that answers again. Status tells of it.
    pub(super) async fn copied_canaries(&self) -> Option<Canaries> {
        let held = self.0.keyring.view().map(|view| view.held);
        let (runs, needed) = {
            let shared = self.shared();
            let runs = shared.process.is_some();
            let stopped_by_it = shared.state == NodeState::StoppedRevoked;
            (runs, shared.keystore_unusable && held != Some(true) && (runs || stopped_by_it))
        };
        let found = if needed {
            Some(self.believed_canaries().await)
        } else {
            // A look that the disk answers later would tell of what was before the keystore's next step.
            *self.0.copied_canaries.lock().await = CopiedCanaries::default();
            None
        };
        let file = canaries::path(&self.config().state_dir);
        let told = match &found {
            Some(Ok(_)) => Some(format!(
                "the keystore cannot be read: the customer key is probed with the canaries in {}; once the engine \
                 has stopped it does not start before the keystore is mended",
                file.display()
            )),
            Some(Err(error)) if runs => {
                let instead = match held {
                    Some(_) => {
                        "the customer key is probed with what the keystore says, which nothing confirms"
                    }
                    None => "the customer key is not probed, and a revocation is not seen",
                };
                Some(format!("the keystore cannot be read, and {}: {instead}", chain(error)))
            }
            Some(Err(_)) | None => None,
        };
        self.set_note("canaries", told);
        found.and_then(Result::ok)
    }

    /// Those on disk, or, while it does not answer, those that were there before.
    async fn believed_canaries(&self) -> Result<Canaries, CanariesError> {
        let mut copied = self.0.copied_canaries.lock().await;
        let CopiedCanaries { believed, looking } = &mut *copied;
        let look = looking.get_or_insert_with(|| {
            let memory = self.0.memory.clone();
            tokio::task::spawn_blocking(move || Canaries::believed(&memory))
        });
        let found = tokio::time::timeout(DISK_WAIT, look).await;
        if found.is_ok() {
            *looking = None;
        }
        match found {
            Ok(Ok(found)) => {
                *believed = found.as_ref().ok().cloned();
                found
            }
            Ok(Err(_)) | Err(_) => believed.clone().ok_or(CanariesError::Silent),
        }
    }
}

/// Probes while the master key is not in memory: the key that the node is to move to may open the keystore as
/// well.
async fn probe_sealed(access: &KeyAccess, canaries: &[Canary]) -> Option<Evidence> {
    let seen = wrap::probe(access, canaries).await?;
    if seen.class == Class::Success {
        return Some(seen);
    }
    Some(wrap::probe_next(access, canaries).await.unwrap_or(seen))
}

/// Unwraps the master key itself and compares: what the canary cannot show is damage to the master key's own wrap.
async fn check_master_key(node: &NodeHandle) {
    let Some(view) = node.0.keyring.view() else { return };
    let Some(wrap) = in_use(&view) else { return };
    let unwrapped =
        wrap::unwrap(&*node.key_service(), std::slice::from_ref(wrap), || node.0.clock.now()).await;
    match unwrapped {
        Ok(unwrapped) => {
            node.note_evidence(unwrapped.evidence);
            let comparing = node.with_keyring(move |keyring| keyring.is_master_key(&unwrapped.bytes));
            // A step of the keystore whose disk hangs has the key: looked at again the next time.
            let same = tokio::time::timeout(DISK_WAIT, comparing).await;
            let same = !matches!(same, Ok(Ok(false)));
            let text = "the customer key unwraps something else than the master key in memory: rotate the \
                        master key, and do not stop this node before that";
            node.set_note("master key", (!same).then(|| text.to_owned()));
        }
        Err(super::NodeError::Kms(error)) => {
            let text = format!("the daily unwrap of the master key failed: {}", error.class.text());
            node.note_evidence(error.into_evidence(node.0.clock.now()));
            node.set_note("master key", Some(text));
        }
        Err(error) => node.set_note("master key", Some(chain(&error))),
    }
}

/// Reads the public side of the customer key, for its dates.
pub(super) async fn describe(node: &NodeHandle) {
    let Ok(key) = node.current_key() else { return };
    match node.key_service().describe(&key).await {
        Ok(description) => {
            node.shared().description = Some(description);
            node.touch();
        }
        Err(error) => tracing::debug!("the customer key could not be described: {}", chain(&error)),
    }
}

/// Asks the engine for its version; shows in status when it does not answer.
async fn ping(node: &NodeHandle) {
    let Some(process) = node.engine() else { return };
    match tokio::time::timeout(Duration::from_secs(10), process.ping()).await {
        Ok(Ok(version)) => {
            node.shared().engine_version = version;
            node.set_note("engine", None);
            let replica_state = process.replica_state().await;
            node.shared().replica_state = replica_state;
        }
        Ok(Err(error)) => {
            let text = format!("the engine does not answer: {} (hint: {})", chain(&error), error.hint());
            node.set_note("engine", Some(text));
        }
        Err(_) => node.set_note("engine", Some("the engine does not answer within 10 s".to_owned())),
    }
    let own = node.engine().map(|process| process.record().pid);
    node.set_note("foreign engine", node.0.engine.foreign(own).await);
}
