//! The one task that decides for the node, and carries the decisions out.

use std::{path::PathBuf, sync::Arc, time::Duration};

use keyward_keys::KeyId;
use keyward_model::{
    Verdict,
    lifecycle::{Effect, EnginePhase, Event, Keys, Lifecycle, SpawnFailure, UnlockFailure, Wanted},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{NodeError, NodeHandle, Posted, chain, key_socket, revoked_by, unlock};
use crate::{
    blocking,
    config::Initial,
    engine::{EngineError, EngineProcess, EngineRecord, Launch},
    link,
    memory::{self, StartedEngine},
    notify, preflight,
};

/// Time between two tries to stop a process that could not be stopped.
const STOP_AGAIN: Duration = Duration::from_secs(5);

/// Before a task that ended by itself is begun anew.
const BEGUN_ANEW: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 1 });

/// Decides for one node.
pub struct Shell {
    node: NodeHandle,
    posted: mpsc::UnboundedReceiver<Posted>,
    lifecycle: Lifecycle,
}

impl Shell {
    pub(super) fn new(node: NodeHandle, posted: mpsc::UnboundedReceiver<Posted>) -> Result<Self, NodeError> {
        let config = node.config();
        let never_had_one = match node.0.memory.claim() {
            Ok(claim) => claim.is_none_or(|claim| claim.seen_generation == 0),
            // Told when the keystore is opened, which nothing vouches for now. A database that runs goes on.
            Err(error) if error.is_of_one_file() => false,
            Err(error) => return Err(error.into()),
        };
        let waits_for_restore = config.initial == Initial::Restore && never_had_one;
        let (wanted, reason) = match node.0.memory.wanted()? {
            // What else is wrong with what is remembered of a resync is told when something is to be opened or started.
            _ if matches!(node.refuse_unencrypted(), Err(NodeError::Unencrypted(_))) => {
                (Wanted::Stopped, "its data is not encrypted")
            }
            Some(wanted) => (wanted, "the operator stopped it"),
            None if waits_for_restore => (Wanted::Stopped, "waiting for `keyward node restore`"),
            None if config.initial == Initial::Server && never_had_one => {
                (Wanted::Stopped, "waiting for the server to place this node in a cluster")
            }
            None => (Wanted::Running, "the operator stopped it"),
        };
        let revoked = revoked_by(&node.shared().judged);
        let hello_ms = u64::try_from(config.engine.hello_timeout.as_millis()).unwrap_or(u64::MAX);
        let lifecycle = Lifecycle::new(wanted, revoked, hello_ms, reason);
        Ok(Self { node, posted, lifecycle })
    }

    /// Decides until `shutdown`. The engine runs on afterwards; the keys are wiped.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.tell_what_was_set_aside();
        // For status and probes; what is wrong with it is said when it is needed.
        if let Err(error) = unlock::load(&self.node).await {
            unlock::note_keystore(&self.node, Some(&error));
            tracing::warn!("{}", chain(&error));
        }
        let first = self.find_engine().await;
        self.take_in(first);
        // Read while the disk still answers.
        self.node.copied_canaries().await;
        let standing = [
            kept_up("asks the customer key", &self.node, &shutdown, super::probing::run),
            kept_up(
                "looks after the engine and the keystore",
                &self.node,
                &shutdown,
                super::probing::look_after,
            ),
            kept_up("looks at the operator's database", &self.node, &shutdown, super::adoption::run),
        ];
        loop {
            let tick = self.until_tick();
            tokio::select! {
                posted = self.posted.recv() => {
                    let Some(Posted { event, taken_in }) = posted else { break };
                    self.take_in(event);
                    if let Some(taken_in) = taken_in {
                        let _ = taken_in.send(());
                    }
                }
                () = tick => self.take_in(Event::Tick),
                () = shutdown.cancelled() => break,
            }
        }
        self.posted.close();
        for task in standing {
            let _ = task.await;
        }
        self.node.wipe_keys();
        self.node.remembered().await;
    }

    fn tell_what_was_set_aside(&self) {
        let state_dir = &self.node.config().state_dir;
        let disk = self.node.disk();
        let dirs = [state_dir.clone(), state_dir.join(link::FOLDER)];
        let found = |dir: &PathBuf| memory::files_set_aside(&*disk, dir);
        let aside = blocking::apart(|| dirs.iter().flat_map(found).collect::<Vec<_>>());
        let aside = aside.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let text = format!(
            "what the agent remembered could not be read and was set aside: {}; see the log for what it does without \
             it and docs/guides/lost-keystore.md, then remove what was set aside",
            aside.join(", ")
        );
        self.node.set_note("set aside", (!aside.is_empty()).then_some(text));
    }

    async fn find_engine(&self) -> Event {
        let node = &self.node;
        match find(node).await {
            Ok(Some((process, hello_seen))) => {
                let pid = process.record().pid;
                tracing::info!(pid, hello_seen, "found the engine that an earlier agent started");
                remember(node, &process, hello_seen);
                watch(node.clone(), process);
                Event::EngineFound { hello_seen }
            }
            Ok(None) => {
                if let Err(error) = node.0.memory.set_engine(None) {
                    tracing::warn!("{}", chain(&error));
                }
                Event::Tick
            }
            Err(error) => {
                tracing::error!("no engine of an earlier agent could be looked for: {}", chain(&error));
                Event::Tick
            }
        }
    }

    async fn sleep_ms(ms: Option<u64>) {
        match ms {
            Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            None => std::future::pending().await,
        }
    }

    fn until_tick(&self) -> impl Future<Output = ()> + use<> {
        let now = self.node.0.clock.boot_ms();
        Self::sleep_ms(self.lifecycle.next_tick_ms().map(|at| at.saturating_sub(now)))
    }

    pub(super) fn take_in(&mut self, event: Event) {
        let now = self.node.0.clock.boot_ms();
        let was_revoked = self.lifecycle.revoked().is_some();
        let effects = self.lifecycle.on(event, now);
        // Who sees the state finds the keys wiped.
        let (wipes, others): (Vec<_>, Vec<_>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::WipeKeys));
        wipes.into_iter().for_each(|wipe| self.obey(wipe));
        self.publish(was_revoked);
        others.into_iter().for_each(|other| self.obey(other));
        self.node.touch();
    }

    fn publish(&self, was_revoked: bool) {
        let state = self.lifecycle.state();
        let reason = self.lifecycle.reason();
        let mut shared = self.node.shared();
        if (shared.state, &shared.reason) != (state, &reason) {
            tracing::info!(%state, "{reason}");
            notify::status(&format!("{state}: {reason}"));
        }
        if shared.state != state {
            shared.state = state;
            shared.since = self.node.0.clock.now();
        }
        shared.reason = reason;
        shared.wanted = self.lifecycle.wanted();
        shared.engine_gone = matches!(self.lifecycle.engine(), EnginePhase::Down) && shared.process.is_none();
        shared.engine_up = matches!(self.lifecycle.engine(), EnginePhase::Up { .. });
        shared.unlocking = matches!(self.lifecycle.keys(), Keys::Unlocking { .. });
        // Only where it changes here: between two changes the judgement may be ahead of what was taken in.
        let judgement = &mut shared.judged.judgement;
        let changed = match (was_revoked, self.lifecycle.revoked()) {
            // Refused at start: one refusal was enough.
            (false, Some(class)) => {
                let known = judgement.verdict == Verdict::Revoked;
                judgement.verdict = Verdict::Revoked;
                shared.judged.refusal.get_or_insert(class);
                !known
            }
            (true, None) if judgement.verdict == Verdict::Revoked => {
                judgement.verdict = Verdict::Unavailable;
                true
            }
            (true, _) | (false, None) => false,
        };
        match self.lifecycle.revoked() {
            Some(_) => shared.revoked.cancel(),
            None if shared.revoked.is_cancelled() => shared.revoked = CancellationToken::new(),
            None => {}
        }
        drop(shared);
        if changed {
            self.node.remember();
        }
    }

    fn obey(&self, effect: Effect) {
        let node = self.node.clone();
        match effect {
            // Each outcome is waited for: one that never came would leave the node as it is, for ever.
            Effect::Unlock => {
                tokio::spawn(async move {
                    let unlocking = tokio::spawn(unlock_for(node.clone()));
                    let outcome = unlocking.await.unwrap_or_else(|_| {
                        let text = "a task of the agent ended while it asked for the master key".to_owned();
                        Err(UnlockFailure::Unavailable(text))
                    });
                    let ok = outcome.is_ok();
                    node.post(Event::Unlocked(outcome));
                    if ok {
                        super::probing::describe(&node).await;
                    }
                });
            }
            Effect::Spawn => {
                tokio::spawn(async move {
                    let spawning = tokio::spawn(spawn(node.clone()));
                    let spawned = spawning.await.unwrap_or_else(|_| {
                        let text = "a task of the agent ended while it started the engine".to_owned();
                        Err(SpawnFailure { text, again: true })
                    });
                    match spawned {
                        Ok(process) => {
                            node.post(Event::Spawned(Ok(())));
                            watch(node, process);
                        }
                        Err(failure) => node.post(Event::Spawned(Err(failure))),
                    }
                });
            }
            Effect::StopEngine => {
                tokio::spawn(async move {
                    while tokio::spawn(stop(node.clone())).await.is_err() {
                        tracing::error!("a task of the agent ended while it stopped the engine: once more");
                        tokio::time::sleep(BEGUN_ANEW).await;
                    }
                });
            }
            Effect::WipeKeys => node.wipe_keys(),
        }
    }
}

/// Runs `task` until `shutdown`, and begins it anew where it ends by itself: what sees a revocation must not end in
/// silence.
fn kept_up<F: Future<Output = ()> + Send + 'static>(
    what: &'static str,
    node: &NodeHandle,
    shutdown: &CancellationToken,
    task: impl Fn(NodeHandle, CancellationToken) -> F + Send + 'static,
) -> JoinHandle<()> {
    let (node, shutdown) = (node.clone(), shutdown.clone());
    tokio::spawn(async move {
        while tokio::spawn(task(node.clone(), shutdown.clone())).await.is_err() {
            let text = format!(
                "the task that {what} ended by itself and was begun anew: see the log, and report it"
            );
            tracing::error!("{text}");
            node.set_note(what, Some(text));
            tokio::select! {
                () = tokio::time::sleep(BEGUN_ANEW) => {}
                () = shutdown.cancelled() => return,
            }
        }
    })
}

async fn unlock_for(node: NodeHandle) -> Result<(), UnlockFailure> {
    unlock::unlock(&node).await
}

async fn spawn(node: NodeHandle) -> Result<Arc<dyn EngineProcess>, SpawnFailure> {
    let node = &node;
    let again = |text: String| SpawnFailure { text, again: true };
    node.refuse_unencrypted().map_err(|error| SpawnFailure { text: told(&error), again: false })?;
    let refusals: Vec<String> = preflight::at_start(node.config())
        .into_iter()
        .filter(|finding| finding.refuse)
        .map(|finding| format!("{} (hint: {})", finding.text, finding.hint))
        .collect();
    if !refusals.is_empty() {
        return Err(SpawnFailure { text: refusals.join("; "), again: false });
    }
    if let Some(foreign) = node.0.engine.foreign(None).await {
        // One that an agent started, this one too, and could not tell of.
        if let Some((process, hello_seen)) = find(node).await.map_err(|error| again(told(&error.into())))? {
            tracing::info!(pid = process.record().pid, "found the engine that was looked for in vain before");
            remember(node, &process, hello_seen);
            return Ok(process);
        }
        let todo = "stop it, or give this node a port and data path of its own";
        return Err(again(format!("{foreign}; {todo}")));
    }
    let view = node.0.keyring.view().ok_or_else(|| again("the keystore is not loaded".to_owned()))?;
    let now = node.0.clock.now();
    let retired = node.with_keyring(move |keyring| keyring.retire_journal(now)).await;
    retired.map_err(|error| again(told(&error)))?;
    let launch = Launch { socket: key_socket(node.config()), system_key_id: view.system_key_id };
    let process = node
        .0
        .engine
        .spawn(&launch)
        .await
        .map_err(|error| again(format!("{} (hint: {})", chain(&error), error.hint())))?;
    let process: Arc<dyn EngineProcess> = Arc::from(process);
    node.set_note("stop", None);
    node.set_note("keystore gone", None);
    remember(node, &process, false);
    Ok(process)
}

/// The engine that an earlier agent started, and whether its encryptor has said hello.
async fn find(node: &NodeHandle) -> Result<Option<(Arc<dyn EngineProcess>, bool)>, EngineError> {
    let remembered = node.0.memory.engine().unwrap_or_else(|error| {
        tracing::warn!("{}", chain(&error));
        None
    });
    // The process is known by its record or its socket: the key id is not needed to find it.
    let launch = Launch { socket: key_socket(node.config()), system_key_id: KeyId::from_bytes([0; 16]) };
    let record = remembered.as_ref().map(|engine| &engine.record);
    let Some(process) = node.0.engine.find(record, &launch).await? else { return Ok(None) };
    let process: Arc<dyn EngineProcess> = Arc::from(process);
    let pid = process.record().pid;
    let hello_seen = remembered.is_some_and(|engine| engine.hello_seen && engine.record.pid == pid);
    Ok(Some((process, hello_seen)))
}

async fn stop(node: NodeHandle) {
    // Without a process its end has been reported already.
    let Some(process) = node.engine() else { return };
    loop {
        match process.stop(node.config().engine.stop_grace).await {
            // Stays until the next start: an engine that had to be killed is worth a look.
            Ok(exit) => {
                let text = (!exit.clean).then(|| format!("at its last stop the engine {}", exit.text));
                return node.set_note("stop", text);
            }
            Err(error) => {
                let text = format!("the engine cannot be stopped: {}", chain(&error));
                node.set_note("stop", Some(text));
                tokio::time::sleep(STOP_AGAIN).await;
            }
        }
    }
}

/// Reports the end of the process, whoever ended it.
fn watch(node: NodeHandle, process: Arc<dyn EngineProcess>) {
    tokio::spawn(async move {
        let exit = loop {
            let process = Arc::clone(&process);
            match tokio::spawn(async move { process.wait().await }).await {
                Ok(exit) => break exit,
                Err(_) => {
                    tracing::error!("a task of the agent ended while it watched the engine: once more");
                    tokio::time::sleep(BEGUN_ANEW).await;
                }
            }
        };
        tracing::info!(clean = exit.clean, "the engine ended: {}", exit.text);
        {
            let mut shared = node.shared();
            (shared.process, shared.replica_state) = (None, None);
        }
        // Heard first: a disk that hangs must not keep the keys from being wiped.
        node.post(Event::EngineEnded { text: exit.text });
        node.write_apart(move |node| forget(node, &process.record()));
    });
}

fn remember(node: &NodeHandle, process: &Arc<dyn EngineProcess>, hello_seen: bool) {
    let record = process.record();
    {
        let mut shared = node.shared();
        // Asked for before anybody knows the process, and so may say hello: that is remembered in the same file. Not
        // waited for: an engine whose start meets a disk that hangs is to be stopped like any other.
        let started = StartedEngine { record: record.clone(), hello_seen };
        node.write_apart(move |node| {
            if let Err(error) = node.0.memory.set_engine(Some(&started)) {
                // An agent that comes after us still finds the process by its socket.
                tracing::warn!("the engine could not be remembered: {}", chain(&error));
            }
        });
        shared.hello_remembered = hello_seen;
        shared.engine_version = record.version;
        shared.process = Some(Arc::clone(process));
        shared.engine_gone = false;
    }
    node.touch();
}

/// An engine that was started meanwhile is not forgotten with the one before.
fn forget(node: &NodeHandle, ended: &EngineRecord) {
    if let Err(error) = node.0.memory.forget_engine(ended) {
        tracing::warn!("{}", chain(&error));
    }
}

fn told(error: &NodeError) -> String {
    format!("{} (hint: {})", chain(error), error.hint())
}
