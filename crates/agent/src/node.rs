//! The node: what others see of it, and the one task that decides for it.
//!
//! Owns the shared view of the node and everything that is asked of it from outside. Decisions are
//! `keyward_model::lifecycle`'s; [`shell`] carries them out.

pub mod access;
mod adoption;
pub mod error;
mod probing;
mod remembering;
mod shell;
mod unlock;
mod warnings;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use keyward_keys::{
    MasterKey, MemoryLock, NodeId,
    keystore::{FileImage, OpenKeystore, SealedKeystore, VerifiedWrap},
    memory_lock,
};
use keyward_kms::{KeyDescription, KeyService, azure::Regions};
use keyward_model::{
    Class, Evidence, KeyIdentifier, NodeState, NodeStatus, Timestamp, Verdict, Weight,
    lifecycle::{Event, Wanted},
    status::{CustomerKeyStatus, EngineStatus, LinkStatus},
    sync::ObservedSnapshot,
    verdict::judge,
};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use access::{KeyAccess, MakeService, NextKey};
pub use error::{NodeError, chain};
use remembering::{Remembered, Remembering};
pub use shell::Shell;

use crate::{
    blocking,
    clock::Clock,
    config::Config,
    disk::Disk,
    engine::{Engine, EngineProcess},
    keyring::{Keyring, KeyringError, View},
    keystore::KeystoreFile,
    link,
    memory::{Judged, Memory},
    wrap,
};

/// Evidence kept for status.
const EVIDENCE_KEPT: usize = 20;
/// How long a step of the keystore takes at most on a disk that answers.
const STEP_TAKES: Duration = Duration::from_secs(1);
/// Snapshots remembered for the server.
const SNAPSHOTS_KEPT: usize = 200;

/// What a node is made of: real in the agent, doubles in tests.
pub struct Parts {
    /// What reaches customer keys.
    pub make_service: MakeService,
    /// Where customer keys last worked, as those services learn it.
    pub regions: Regions,
    /// The database process' kind.
    pub engine: Arc<dyn Engine>,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// The clocks.
    pub clock: Clock,
}

/// A node, shared by everything that asks something of it.
#[derive(Clone)]
pub struct NodeHandle(Arc<Inner>);

struct Inner {
    config: Config,
    access: RwLock<Arc<KeyAccess>>,
    make_service: MakeService,
    disk: Arc<dyn Disk>,
    engine: Arc<dyn Engine>,
    clock: Clock,
    memory: Memory,
    keyring: Arc<Keyring>,
    events: mpsc::UnboundedSender<Posted>,
    shared: Mutex<Shared>,
    changed: watch::Sender<u64>,
    remembering: Remembering,
    copied_canaries: tokio::sync::Mutex<probing::CopiedCanaries>,
    /// Held while an operator's wish is remembered and told to who decides: both in one order.
    wishing: tokio::sync::Mutex<()>,
    operation: Arc<tokio::sync::Mutex<()>>,
    holding: Arc<tokio::sync::Mutex<()>>,
}

/// An event on its way to the shell.
struct Posted {
    event: Event,
    taken_in: Option<oneshot::Sender<()>>,
}

/// What status is made of.
struct Shared {
    /// What the operator asked for last.
    wanted: Wanted,
    state: NodeState,
    reason: String,
    since: Timestamp,
    /// Whether a process exists or is being started.
    engine_gone: bool,
    /// Whether the engine runs and is not being stopped.
    engine_up: bool,
    /// Whether the master key is being asked for.
    unlocking: bool,
    /// Whether the vault is being asked for it: what comes before and after may wait for a disk.
    asking_vault: bool,
    /// Whether the keystore on disk could not be opened, whatever the vault said.
    keystore_unusable: bool,
    process: Option<Arc<dyn EngineProcess>>,
    engine_version: String,
    encryptors: usize,
    /// Whether it is remembered, or is being, that the process' encryptor has said hello.
    hello_remembered: bool,
    evidence: VecDeque<Evidence>,
    judged: Judged,
    /// Where the customer keys of the keystore last worked.
    regions: BTreeMap<KeyIdentifier, String>,
    revoked: CancellationToken,
    description: Option<KeyDescription>,
    /// Warnings by topic.
    notes: BTreeMap<&'static str, String>,
    link: Option<LinkStatus>,
    replica_state: Option<String>,
    /// The operator's own database, where the data is not encrypted.
    adopted: Option<adoption::Adopted>,
    /// Snapshots that this node took, oldest first.
    snapshots: Vec<ObservedSnapshot>,
}

/// A keystore for this node with the database keys of another one.
pub(crate) struct Prepared {
    image: FileImage,
    master: MasterKey,
    wrap: VerifiedWrap,
    _operation: OwnedMutexGuard<()>,
}

/// Keeps the engine stopped while it lives.
pub struct Hold {
    node: NodeHandle,
    _one_at_a_time: OwnedMutexGuard<()>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.node.post(Event::HoldReleased);
    }
}

impl NodeHandle {
    /// Takes the node's folders and reads what an earlier agent remembered. Nothing runs before [`Shell::run`].
    /// The caller holds the locks of both folders.
    pub fn open(config: Config, parts: Parts) -> Result<(Self, Shell), NodeError> {
        let memory = Memory::open(&config.state_dir, Arc::clone(&parts.disk))?;
        let file = KeystoreFile::new(&config.keyward_dir(), Arc::clone(&parts.disk), memory.clone());
        let journal = config.keyward_dir().join("assignments");
        let access = link::access_at_start(&config, &parts)?;
        let keyring = Keyring::new(file, Arc::clone(&parts.disk), journal, config.spare_database_keys);
        let judged = memory.judged()?;
        let regions = memory.regions();
        regions.iter().for_each(|(key, region)| parts.regions.note(key, region));
        let remembering = Remembering::new(Remembered { judged: judged.clone(), regions: regions.clone() });
        let (events, posted) = mpsc::unbounded_channel();
        let shared = Shared {
            wanted: Wanted::Running,
            state: NodeState::Starting,
            reason: "starting".to_owned(),
            since: parts.clock.now(),
            engine_gone: true,
            engine_up: false,
            unlocking: false,
            asking_vault: false,
            keystore_unusable: false,
            process: None,
            engine_version: String::new(),
            encryptors: 0,
            hello_remembered: false,
            evidence: VecDeque::new(),
            judged,
            regions,
            revoked: CancellationToken::new(),
            description: None,
            notes: BTreeMap::new(),
            link: None,
            replica_state: None,
            adopted: None,
            snapshots: memory.snapshots()?,
        };
        let node = Self(Arc::new(Inner {
            config,
            access: RwLock::new(Arc::new(access)),
            make_service: parts.make_service,
            disk: parts.disk,
            engine: parts.engine,
            clock: parts.clock,
            memory,
            keyring: Arc::new(keyring),
            events,
            shared: Mutex::new(shared),
            changed: watch::Sender::new(0),
            remembering,
            copied_canaries: tokio::sync::Mutex::default(),
            wishing: tokio::sync::Mutex::default(),
            operation: Arc::default(),
            holding: Arc::default(),
        }));
        let shell = Shell::new(node.clone(), posted)?;
        Ok((node, shell))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The customer key's service.
    pub fn key_service(&self) -> Arc<dyn KeyService> {
        Arc::clone(&self.access().service)
    }

    /// How the customer key is reached now.
    pub fn access(&self) -> Arc<KeyAccess> {
        Arc::clone(&self.0.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on the customer key is reached this way.
    pub(crate) fn set_access(&self, access: KeyAccess) {
        *self.0.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
        self.touch();
    }

    pub(crate) fn make_service(&self) -> &MakeService {
        &self.0.make_service
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.0.disk)
    }

    /// The node's keys.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.0.keyring)
    }

    /// The clocks.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The running database process.
    pub fn engine(&self) -> Option<Arc<dyn EngineProcess>> {
        self.shared().process.clone()
    }

    /// Cancelled when the verdict becomes `Revoked`; ask again after the node has healed.
    pub fn revoked(&self) -> CancellationToken {
        self.shared().revoked.clone()
    }

    /// Changes whenever status may have.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// What `keyward node status` shows.
    pub fn status(&self) -> NodeStatus {
        let view = self.0.keyring.view();
        let shared = self.shared();
        let warnings = warnings::all(&self.0, &shared, view.as_deref());
        let status = NodeStatus {
            node: self.0.config.name.clone(),
            state: shared.state,
            verdict: shared.judged.judgement.verdict,
            reason: shared.reason.clone(),
            evidence: shared.evidence.iter().cloned().collect(),
            customer_key: view.as_deref().and_then(customer_key),
            master_key: view.as_ref().map(|view| view.master_key.clone()),
            master_key_held: view.as_ref().is_some_and(|view| view.held),
            memory_locked: memory_lock() == MemoryLock::Locked,
            database_keys: view.as_ref().map(|view| view.database_keys.clone()).unwrap_or_default(),
            spare_database_keys: view
                .as_ref()
                .map_or(0, |view| u32::try_from(view.spares).unwrap_or(u32::MAX)),
            engine: shared.process.as_ref().map(|process| EngineStatus {
                kind: self.0.engine.kind().to_owned(),
                version: shared.engine_version.clone(),
                pid: process.record().pid,
            }),
            since: shared.since,
            warnings,
            link: shared.link.clone(),
        };
        match &shared.adopted {
            Some(adopted) => adopted.shown(self.0.engine.kind(), status),
            None => status,
        }
    }

    /// Starts the node and waits until it runs, or until it is clear that it does not now. An operator's wish: it
    /// outlasts restarts of the agent.
    pub async fn start(&self) -> Result<(), NodeError> {
        self.refuse_unencrypted()?;
        if self.shared().judged.judgement.verdict == Verdict::Revoked {
            self.probe().await;
        }
        self.wish(Wanted::Running).await?;
        self.until(|shared| match shared.state {
            NodeState::Running => shared.engine_up.then_some(Ok(())),
            _ if shared.unlocking => None,
            NodeState::Starting => None,
            NodeState::WaitingForCustomerKey
            | NodeState::StoppedRevoked
            | NodeState::Stopped
            | NodeState::Failed => Some(Err(shared.state_error())),
        })
        .await?
    }

    /// Stops the node and waits until its process is gone, or until somebody asks for a start. Outlasts restarts of the
    /// agent.
    pub async fn stop(&self) -> Result<(), NodeError> {
        self.refuse_unencrypted()?;
        self.wish(Wanted::Stopped).await?;
        self.until(|shared| match (shared.engine_gone, shared.wanted) {
            (true, _) => Some(Ok(())),
            (false, Wanted::Stopped) => None,
            // It may have been gone in between.
            (false, Wanted::Running) => Some(Err(NodeError::Overtaken)),
        })
        .await?
    }

    /// Remembers what the operator wants, and waits until it is taken in.
    async fn wish(&self, wanted: Wanted) -> Result<(), NodeError> {
        let event = match wanted {
            Wanted::Running => Event::StartAsked,
            Wanted::Stopped => Event::StopAsked,
        };
        let taken_in = {
            let _in_order = self.0.wishing.lock().await;
            self.0.memory.set_wanted(wanted)?;
            self.post_for_answer(event)?
        };
        taken_in.await.map_err(|_| NodeError::ShuttingDown)
    }

    /// Stops the engine and keeps it stopped until the [`Hold`] is dropped. The keys stay in memory, so that the
    /// engine comes back even if the vault is down by then; a running engine whose keys the agent does not have is not
    /// stopped.
    pub async fn hold(&self, why: &str) -> Result<Hold, NodeError> {
        self.refuse_unencrypted()?;
        let held = self.0.keyring.view().is_some_and(|view| view.held);
        if self.engine().is_some() && !held {
            return Err(self.not_held().unwrap_or(KeyringError::NotHeld.into()));
        }
        let guard = Arc::clone(&self.0.holding)
            .try_lock_owned()
            .map_err(|_| NodeError::Busy("work on the node's files".to_owned()))?;
        let hold = Hold { node: self.clone(), _one_at_a_time: guard };
        self.post_and_wait(Event::HoldAsked { why: why.to_owned() }).await?;
        self.until(|shared| shared.engine_gone.then_some(())).await?;
        Ok(hold)
    }

    /// The newest durable generation of the keystore, as it is on disk.
    pub fn keystore_bytes(&self) -> Result<Vec<u8>, NodeError> {
        Ok(self.0.keyring.bytes()?)
    }

    /// Takes the assignment journal into the keystore.
    pub async fn fold_assignments(&self) -> Result<(), NodeError> {
        let now = self.0.clock.now();
        self.with_keyring(move |keyring| keyring.fold_journal(now)).await
    }

    /// Unwraps a keystore that is not this node's with the customer key that it names.
    pub async fn unlock_foreign(&self, sealed: SealedKeystore) -> Result<OpenKeystore, NodeError> {
        let mut unwrapped = wrap::unwrap_sealed(&*self.key_service(), &sealed, || self.0.clock.now()).await?;
        let master = MasterKey::take_from(&mut unwrapped.bytes)?;
        Ok(sealed.open(master)?)
    }

    /// The restored database keys under a master key of this node's own. The vault's part of a restore: nothing is
    /// written.
    pub(crate) async fn prepare_restored(&self, opened: OpenKeystore) -> Result<Prepared, NodeError> {
        let operation = self.begin("a change of the master key")?;
        let claim = self.0.memory.claim()?;
        let node_id = claim.map_or_else(NodeId::make, |claim| claim.node_id);
        let seen = claim.map_or(0, |claim| claim.seen_generation);
        let key = self.current_key()?;
        let now = self.0.clock.now();
        let master = MasterKey::make()?;
        let (wrap, _) = wrap::wrap_and_verify(&*self.key_service(), &key, &master, now).await?;
        let image = opened.adopt_as_new_node(node_id, &master, vec![wrap.clone()], seen, now.0)?;
        Ok(Prepared { image, master, wrap, _operation: operation })
    }

    /// Writes what was prepared as this node's keystore.
    pub(crate) async fn install_restored(&self, prepared: Prepared, _hold: &Hold) -> Result<(), NodeError> {
        let Prepared { image, master, wrap, _operation } = prepared;
        self.with_keyring(move |keyring| keyring.install(&image, master, wrap)).await
    }

    /// The restore is complete: the node may start.
    pub(crate) async fn start_restored(&self, _hold: &Hold) -> Result<(), NodeError> {
        if self.0.memory.wanted()? != Some(Wanted::Stopped) {
            self.wish(Wanted::Running).await?;
        }
        Ok(())
    }

    /// What a restore that was cut off put into the data path, as it remembered before it began.
    pub(crate) fn restoring(&self) -> Result<Option<Vec<String>>, NodeError> {
        Ok(self.0.memory.restoring()?)
    }

    /// Remembers what a restore puts into the data path; `None` once it is complete or undone. Meanwhile the node
    /// starts on nothing.
    pub(crate) fn set_restoring(&self, names: Option<&[String]>) -> Result<(), NodeError> {
        Ok(self.0.memory.set_restoring(names)?)
    }

    /// What of the keystore on disk waits for [`NodeHandle::approve`].
    pub(crate) async fn unapproved(&self) -> Option<String> {
        match unlock::load(self).await {
            Err(NodeError::Keyring(KeyringError::File(
                error @ crate::keystore::KeystoreFileError::Unknown { .. },
            ))) => Some(error.to_string()),
            Ok(_) | Err(_) => None,
        }
    }

    /// Tries again what failed, as if the operator had asked for it: something it needs has changed.
    pub(crate) fn try_again(&self) {
        let failed = self.shared().state == NodeState::Failed;
        if failed {
            self.post(Event::StartAsked);
        }
    }

    /// Accepts the keystore on disk as this node's own.
    pub async fn approve(&self) -> Result<(), NodeError> {
        let accepted = self.with_keyring(Keyring::approve).await?;
        if accepted && self.0.memory.wanted()? != Some(Wanted::Stopped) {
            self.post_and_wait(Event::StartAsked).await?;
        }
        Ok(())
    }

    /// The customer key that wraps the master key now; for a new node, the configured one.
    pub(crate) fn current_key(&self) -> Result<KeyIdentifier, NodeError> {
        match self.0.keyring.view().as_deref().and_then(in_use) {
            Some(wrap) => Ok(wrap.key_identifier.parse()?),
            None => self.access().key.clone().ok_or(NodeError::NoCustomerKey),
        }
    }

    /// Why the master key is not in memory, when the node's state says it.
    pub(crate) fn not_held(&self) -> Option<NodeError> {
        let shared = self.shared();
        match shared.state {
            NodeState::StoppedRevoked
            | NodeState::WaitingForCustomerKey
            | NodeState::Stopped
            | NodeState::Failed => Some(shared.state_error()),
            NodeState::Starting | NodeState::Running => None,
        }
    }

    /// Reads the public side of the customer key anew.
    pub(crate) async fn described(&self) {
        probing::describe(self).await;
    }

    /// Takes the right to change wraps; one at a time.
    pub(crate) fn begin(&self, what: &str) -> Result<OwnedMutexGuard<()>, NodeError> {
        Arc::clone(&self.0.operation).try_lock_owned().map_err(|_| NodeError::Busy(what.to_owned()))
    }

    /// Runs a keystore step where it may block.
    pub(crate) async fn with_keyring<T: Send + 'static, E: Into<NodeError> + Send + 'static>(
        &self,
        step: impl FnOnce(&Keyring) -> Result<T, E> + Send + 'static,
    ) -> Result<T, NodeError> {
        let keyring = self.keyring();
        let done = tokio::task::spawn_blocking(move || step(&keyring)).await;
        done.map_err(|_| NodeError::TaskDied)?.map_err(Into::into)
    }

    /// Wipes the keys from memory; where a step of the keystore has them, as soon as it ends, which this waits for no
    /// longer than steps usually take.
    fn wipe_keys(&self) {
        let held = self.0.keyring.view().is_some_and(|view| view.held);
        let wiped = move || {
            if held {
                tracing::info!("master and database keys were wiped from memory");
            }
        };
        if blocking::apart(|| self.0.keyring.wipe(STEP_TAKES)) {
            return wiped();
        }
        tracing::warn!("a step of the keystore is at work on its disk: the keys are wiped when it ends");
        let keyring = self.keyring();
        self.0.remembering.tasks.spawn_blocking(move || {
            keyring.wipe_when_free();
            wiped();
        });
    }

    /// Waits up to `patience` for the engine's process to be known, then says whether `pid` is of it.
    pub(crate) async fn owns_process(&self, pid: u32, patience: Duration) -> bool {
        let known = self.until(|shared| shared.process.clone());
        match tokio::time::timeout(patience, known).await {
            Ok(Ok(process)) => process.owns(pid),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// An encryptor said hello, or went away.
    pub(crate) fn encryptor_connected(&self, on: bool) {
        let first = {
            let mut shared = self.shared();
            shared.encryptors = if on { shared.encryptors + 1 } else { shared.encryptors.saturating_sub(1) };
            let first = on && !shared.hello_remembered;
            shared.hello_remembered |= on;
            first
        };
        if first {
            self.write_apart(Self::remember_hello);
        }
        if on {
            self.post(Event::HelloSeen);
        }
        self.touch();
    }

    /// This node's id; a node without one gets it now.
    pub(crate) async fn node_id(&self) -> Result<NodeId, NodeError> {
        match unlock::load(self).await? {
            unlock::Loaded::New(node_id) | unlock::Loaded::Unencrypted(node_id) => Ok(node_id),
            unlock::Loaded::Keystore => Ok(self.0.keyring.view().ok_or(NodeError::NoKeystore)?.node_id),
        }
    }

    /// Shows how the node stands with its server.
    pub(crate) fn set_link(&self, link: Option<LinkStatus>) {
        {
            let mut shared = self.shared();
            if shared.link == link {
                return;
            }
            shared.link = link;
        }
        self.touch();
    }

    /// Snapshots that this node took, oldest first.
    pub(crate) fn snapshots(&self) -> Vec<ObservedSnapshot> {
        self.shared().snapshots.clone()
    }

    /// The member's state in its replica set, as the last look saw it.
    pub(crate) fn replica_state(&self) -> Option<String> {
        self.shared().replica_state.clone()
    }

    /// Remembers a snapshot that was taken, with the customer keys it needs.
    pub(crate) async fn remember_snapshot(&self, taken: &crate::snapshot::Taken) {
        let master_key_id = self.0.keyring.view().map_or_else(String::new, |view| view.master_key.id.clone());
        let snapshots = {
            let mut shared = self.shared();
            shared.snapshots.extend(taken.customer_keys.iter().map(|key_identifier| ObservedSnapshot {
                url: taken.to.clone(),
                created_at: self.0.clock.now(),
                key_identifier: key_identifier.clone(),
                master_key_id: master_key_id.clone(),
            }));
            let surplus = shared.snapshots.len().saturating_sub(SNAPSHOTS_KEPT);
            shared.snapshots.drain(..surplus);
            shared.snapshots.clone()
        };
        if let Err(error) = self.0.memory.set_snapshots(&snapshots) {
            tracing::warn!("the snapshot is not remembered: {}", chain(&error));
        }
        self.touch();
    }

    /// Adds to, or takes from, what status warns of.
    pub(crate) fn set_note(&self, topic: &'static str, text: Option<String>) {
        let mut shared = self.shared();
        match text {
            Some(text) => {
                if shared.notes.get(topic) != Some(&text) {
                    tracing::warn!(topic, "{text}");
                    shared.notes.insert(topic, text);
                }
            }
            None => {
                shared.notes.remove(topic);
            }
        }
        drop(shared);
        self.touch();
    }

    /// Takes in what a call to the vault showed of a customer key. What concerns a key that the node has moved away
    /// from meanwhile is shown and does not count.
    pub(crate) fn note_evidence(&self, evidence: Evidence) {
        let class = evidence.class;
        let view = self.0.keyring.view();
        let counts = view.as_ref().is_none_or(|view| {
            view.primary.as_ref().is_none_or(|key| *key == evidence.key_identifier.to_string())
        });
        let policy = self.access().policy;
        let (changed, before, after) = {
            let mut shared = self.shared();
            let before = shared.judged.clone();
            if counts {
                let at = self.0.clock.boot_instant();
                let judgement = judge(&before.judgement, class, &at, &policy);
                let refusal = match class.weight() {
                    Weight::Success => None,
                    Weight::Strong | Weight::Denial => Some(class),
                    Weight::Neutral => before.refusal,
                };
                shared.judged = Judged { judgement, refusal };
            }
            let moved = class == Class::Success && shared.note_region(&evidence, view.as_deref());
            shared.evidence.push_front(evidence);
            shared.evidence.truncate(EVIDENCE_KEPT);
            (moved || shared.judged != before, before, shared.judged.clone())
        };
        if after.judgement.verdict != before.judgement.verdict {
            tracing::info!(verdict = ?after.judgement.verdict, ?class, "the verdict changed: {}", class.text());
        }
        if counts {
            // Heard before it is written down.
            self.post(Event::Judged { revoked: revoked_by(&after), answers: class == Class::Success });
        } else {
            self.touch();
        }
        if changed {
            self.remember();
        }
    }

    fn remember_hello(&self) {
        if let Err(error) = self.0.memory.set_hello_seen() {
            tracing::error!("the engine's hello could not be remembered: {}", chain(&error));
            // Tried again with the next one.
            self.shared().hello_remembered = false;
        }
    }

    fn post(&self, event: Event) {
        // Fails only while the agent ends, when nobody decides any more.
        let _ = self.0.events.send(Posted { event, taken_in: None });
    }

    /// Whether the task that decides for the node takes in an event within `limit`.
    pub(crate) async fn decides(&self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.post_and_wait(Event::Tick)).await, Ok(Ok(())))
    }

    async fn post_and_wait(&self, event: Event) -> Result<(), NodeError> {
        self.post_for_answer(event)?.await.map_err(|_| NodeError::ShuttingDown)
    }

    /// What is received here is answered once the event is taken in.
    fn post_for_answer(&self, event: Event) -> Result<oneshot::Receiver<()>, NodeError> {
        let (taken_in, wait) = oneshot::channel();
        let posted = Posted { event, taken_in: Some(taken_in) };
        self.0.events.send(posted).map_err(|_| NodeError::ShuttingDown)?;
        Ok(wait)
    }

    async fn until<T>(&self, mut answer: impl FnMut(&Shared) -> Option<T>) -> Result<T, NodeError> {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if let Some(found) = answer(&self.shared()) {
                return Ok(found);
            }
            tokio::select! {
                changed = changes.changed() => changed.map_err(|_| NodeError::ShuttingDown)?,
                () = self.0.events.closed() => return Err(NodeError::ShuttingDown),
            }
        }
    }

    fn touch(&self) {
        self.0.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Whether the key works in another region than before. Keys that the keystore has left are forgotten.
    fn note_region(&mut self, worked: &Evidence, keystore: Option<&View>) -> bool {
        let Some(region) = &worked.region else { return false };
        let key = &worked.key_identifier;
        if self.regions.get(key) == Some(region) {
            return false;
        }
        self.regions.insert(key.clone(), region.clone());
        let relied_on = keystore.map(|view| &view.wraps[..]).unwrap_or_default();
        self.regions.retain(|known, _| {
            known == key || relied_on.iter().any(|wrap| wrap.key_identifier == known.to_string())
        });
        true
    }

    fn state_error(&self) -> NodeError {
        let class = match self.state {
            NodeState::StoppedRevoked => self.judged.refusal,
            NodeState::WaitingForCustomerKey => self.evidence.front().map(|evidence| evidence.class),
            NodeState::Starting | NodeState::Running | NodeState::Stopped | NodeState::Failed => None,
        };
        NodeError::State { state: self.state, reason: self.reason.clone(), class }
    }
}

/// Why the verdict is `Revoked`, if it is.
fn revoked_by(judged: &Judged) -> Option<Class> {
    match judged.judgement.verdict {
        Verdict::Revoked => Some(judged.refusal.unwrap_or(Class::KeyDisabled)),
        Verdict::Valid | Verdict::Unavailable => None,
    }
}

/// The wrap that the node relies on.
fn in_use(view: &View) -> Option<&keyward_keys::keystore::MasterKeyWrap> {
    match &view.primary {
        Some(primary) => view.wraps.iter().find(|wrap| wrap.key_identifier == *primary),
        None => view.wraps.first(),
    }
}

fn customer_key(view: &View) -> Option<CustomerKeyStatus> {
    let wrap = in_use(view)?;
    Some(CustomerKeyStatus {
        key_identifier: wrap.key_identifier.parse().ok()?,
        public_key_sha256: wrap.public_key_sha256.clone(),
    })
}

/// The socket for encryptors, as the engine is told.
fn key_socket(config: &Config) -> PathBuf {
    config.key_socket()
}

#[cfg(test)]
mod damaged_tests;
#[cfg(test)]
pub(crate) mod doubles;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod symlink_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unreadable_tests;
