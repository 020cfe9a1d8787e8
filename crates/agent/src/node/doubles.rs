//! An engine that is a thread, and a vault that is a table.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use keyward_keys::wire::{self, PROTOCOL_VERSION, ToAgent, ToEncryptor};
use keyward_kms::{About, Facts, Finding, KeyDescription, KeyService, KmsError, Operation, Severity};
use keyward_model::{Class, Evidence, KeyIdentifier, Timestamp};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::engine::{
    Engine, EngineError, EngineProcess, EngineRecord, Exit, Launch, OperatorsProcess,
    database::{Member, ReplicaSet},
};

/// Under which key something was wrapped, and what.
type Wrapped = (KeyIdentifier, Vec<u8>);

/// A vault with one switch.
#[derive(Debug, Default)]
pub(crate) struct TableService {
    wrapped: Mutex<BTreeMap<Vec<u8>, Wrapped>>,
    /// What every call answers; `None` works.
    answer: Mutex<Option<Class>>,
    /// Customer keys that answer something of their own.
    answers_of: Mutex<BTreeMap<String, Class>>,
    /// What a call that works says of its region.
    pub(crate) region: Mutex<Option<String>>,
    /// Calls that may still succeed.
    calls_left: Mutex<Option<usize>>,
    pub(crate) unwraps: AtomicUsize,
    pub(crate) faults: Faults,
    count: AtomicU64,
}

impl TableService {
    pub(crate) fn set(&self, answer: Option<Class>) {
        *self.answer.lock().unwrap() = answer;
    }

    /// From now on this customer key answers so, whatever the others do.
    pub(crate) fn set_key(&self, key: &str, answer: Class) {
        self.answers_of.lock().unwrap().insert(key.to_owned(), answer);
    }

    /// Lets `calls` more through, then nobody answers.
    pub(crate) fn fail_after(&self, calls: Option<usize>) {
        *self.calls_left.lock().unwrap() = calls;
    }

    fn ask(&self, operation: Operation, key: &KeyIdentifier) -> Result<(), KmsError> {
        let error = |class| KmsError {
            class,
            operation,
            key_identifier: key.clone(),
            facts: Box::new(Facts::default()),
        };
        if let Some(left) = &mut *self.calls_left.lock().unwrap() {
            *left = left.checked_sub(1).ok_or_else(|| error(Class::TimedOut))?;
        }
        let own = self.answers_of.lock().unwrap().get(&key.to_string()).copied();
        own.or(*self.answer.lock().unwrap()).map_or(Ok(()), |class| Err(error(class)))
    }
}

#[async_trait]
impl KeyService for TableService {
    async fn describe(&self, key: &KeyIdentifier) -> Result<KeyDescription, KmsError> {
        self.ask(Operation::Describe, key)?;
        Ok(KeyDescription {
            key_identifier: key.clone(),
            kty: "RSA".to_owned(),
            key_size_bits: Some(2048),
            key_ops: vec!["wrapKey".to_owned(), "unwrapKey".to_owned()],
            enabled: true,
            not_before: None,
            expires: None,
            recovery_level: None,
            public_key_sha256: "a".repeat(64),
        })
    }

    async fn wrap(&self, key: &KeyIdentifier, plaintext: &[u8]) -> Result<Vec<u8>, KmsError> {
        self.ask(Operation::Wrap, key)?;
        let mut ciphertext = vec![3; 256];
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        ciphertext[..8].copy_from_slice(&number.to_le_bytes());
        self.wrapped.lock().unwrap().insert(ciphertext.clone(), (key.clone(), plaintext.to_vec()));
        Ok(ciphertext)
    }

    async fn unwrap(
        &self,
        key: &KeyIdentifier,
        ciphertext: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Facts), KmsError> {
        self.faults.may_panic("unwrap");
        self.ask(Operation::Unwrap, key)?;
        self.unwraps.fetch_add(1, Ordering::Relaxed);
        match self.wrapped.lock().unwrap().get(ciphertext) {
            Some((with, plaintext)) if with == key => {
                let region = self.region.lock().unwrap().clone();
                Ok((Zeroizing::new(plaintext.clone()), Facts { region, ..Facts::default() }))
            }
            Some(_) | None => Err(KmsError {
                class: Class::BadCiphertext,
                operation: Operation::Unwrap,
                key_identifier: key.clone(),
                facts: Box::new(Facts::default()),
            }),
        }
    }

    async fn probe(&self, key: &KeyIdentifier, ciphertext: &[u8], sha256: &[u8; 32]) -> Evidence {
        let at = Timestamp::from_epoch_ms(0);
        match self.unwrap(key, ciphertext).await {
            Ok((canary, facts)) => {
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &canary);
                let right = digest.as_ref() == sha256;
                facts.into_evidence(if right { Class::Success } else { Class::BadCiphertext }, key, at)
            }
            Err(error) => error.into_evidence(at),
        }
    }

    async fn latest_version(&self, key: &KeyIdentifier) -> Result<KeyIdentifier, KmsError> {
        Ok(key.clone())
    }

    async fn check(&self, key: &KeyIdentifier) -> Vec<Finding> {
        match self.ask(Operation::Wrap, key) {
            Ok(()) => Vec::new(),
            Err(error) => vec![Finding {
                severity: Severity::Refuse,
                about: About::Answer {
                    operation: Operation::Wrap,
                    inner_code: error.facts.inner_code.clone(),
                    retry_after_s: error.facts.retry_after_s,
                },
                class: Some(error.class),
                text: error.to_string(),
                hint: error.hint().to_owned(),
            }],
        }
    }
}

/// How a started engine behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Says hello and runs.
    Good,
    /// Runs, without an encryptor.
    Silent,
    /// Says hello and ends by itself.
    Crashes,
}

/// What goes wrong with an engine, or with a vault.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    panics: Mutex<Vec<&'static str>>,
    /// Whether the engine answers its state no more.
    pub(crate) hangs: AtomicBool,
    /// How often it still cannot be looked for.
    pub(crate) not_found: AtomicUsize,
}

impl Faults {
    /// The next call of this name panics.
    pub(crate) fn panic_in(&self, call: &'static str) {
        self.panics.lock().unwrap().push(call);
    }

    /// Whether no panic is outstanding.
    pub(crate) fn all_happened(&self) -> bool {
        self.panics.lock().unwrap().is_empty()
    }

    fn may_panic(&self, call: &str) {
        let mut panics = self.panics.lock().unwrap();
        if let Some(at) = panics.iter().position(|wanted| *wanted == call) {
            panics.remove(at);
            drop(panics);
            panic!("the call {call} panics, as a test wants it");
        }
    }
}

/// What an engine that was asked to stop saw.
type OnStop = Box<dyn Fn() + Send + Sync>;

/// An engine in this process.
pub(crate) struct ThreadEngine {
    pub(crate) behaviour: Mutex<Behaviour>,
    pub(crate) has_data: Mutex<bool>,
    pub(crate) starts: AtomicUsize,
    pub(crate) running: Arc<Mutex<Option<Arc<Process>>>>,
    pub(crate) on_stop: Arc<Mutex<Option<OnStop>>>,
    /// What the encryptor got with its welcome: database keys and spares, `held`.
    pub(crate) welcomes: Arc<Mutex<Vec<(usize, bool)>>>,
    /// The operator's own database on the data path, and the replica set that it is in.
    pub(crate) operators: Arc<Operators>,
    pub(crate) faults: Arc<Faults>,
}

/// A process that an operator started, of a member of a replica set.
#[derive(Default)]
pub(crate) struct Operators {
    /// Its data path; `None`: there is nothing of the kind.
    pub(crate) data_path: Mutex<Option<PathBuf>>,
    /// Its process id while it runs.
    pub(crate) running: Mutex<Option<u32>>,
    /// The set as the member itself sees it.
    pub(crate) own_answer: Mutex<Option<ReplicaSet>>,
    /// The set as its primary sees it.
    pub(crate) primarys_answer: Mutex<Option<ReplicaSet>>,
    /// What a service manager starts again when the process ends.
    pub(crate) starts_again: Mutex<Option<u32>>,
    /// How often it was asked to end, and to hand over.
    pub(crate) stops: AtomicUsize,
    pub(crate) step_downs: AtomicUsize,
    /// The member's state once keyward runs it.
    pub(crate) filled: Mutex<Option<String>>,
    /// Starts of an engine while the data path held something that was not encrypted.
    pub(crate) bad_starts: AtomicUsize,
}

/// What the operator's database wrote stands in every file of it.
pub(crate) const PLAINTEXT: &str = "PLAINTEXT-MARKER";

impl Operators {
    /// Whether a file of the data path holds something that is not encrypted.
    pub(crate) fn plaintext_in(path: &std::path::Path) -> bool {
        let Ok(entries) = std::fs::read_dir(path) else { return false };
        entries.flatten().any(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => Self::plaintext_in(&entry.path()),
            _ => std::fs::read(entry.path()).is_ok_and(|bytes| bytes == PLAINTEXT.as_bytes()),
        })
    }
}

/// A whole replica set of three: `own` is asked, a secondary; m1 is primary.
pub(crate) fn whole_set(asked: usize) -> ReplicaSet {
    let member = |n: usize| Member {
        address: format!("m{n}:1"),
        own: n == asked,
        healthy: true,
        state: if n == 1 { "PRIMARY" } else { "SECONDARY" }.to_owned(),
        votes: true,
        written_ms: Some(1_000_000),
    };
    ReplicaSet { name: "rs".to_owned(), members: (0..3).map(member).collect() }
}

/// The operator's process seen through the trait.
struct SeenOperators(Arc<Operators>, u32);

fn no_answer() -> EngineError {
    EngineError::Address("nobody answers".to_owned())
}

#[async_trait]
impl OperatorsProcess for SeenOperators {
    fn pid(&self) -> u32 {
        self.1
    }

    async fn version(&self) -> Result<String, EngineError> {
        Ok("7.0.0".to_owned())
    }

    async fn replica_state(&self) -> Option<String> {
        let set = self.0.own_answer.lock().unwrap().clone()?;
        set.members.into_iter().find(|member| member.own).map(|member| member.state)
    }

    async fn replica_set(&self) -> Result<ReplicaSet, EngineError> {
        self.0.own_answer.lock().unwrap().clone().ok_or_else(no_answer)
    }

    async fn step_down(&self) -> Result<(), EngineError> {
        self.0.step_downs.fetch_add(1, Ordering::SeqCst);
        if let Some(set) = &mut *self.0.own_answer.lock().unwrap() {
            for (n, member) in set.members.iter_mut().enumerate() {
                member.state = if n == 1 { "PRIMARY" } else { "SECONDARY" }.to_owned();
            }
        }
        Ok(())
    }

    async fn shut_down(&self, _patience: Duration) -> Result<(), EngineError> {
        self.0.stops.fetch_add(1, Ordering::SeqCst);
        *self.0.running.lock().unwrap() = *self.0.starts_again.lock().unwrap();
        Ok(())
    }
}

impl Default for ThreadEngine {
    fn default() -> Self {
        Self {
            behaviour: Mutex::new(Behaviour::Good),
            has_data: Mutex::default(),
            starts: AtomicUsize::default(),
            running: Arc::default(),
            on_stop: Arc::default(),
            welcomes: Arc::default(),
            operators: Arc::default(),
            faults: Arc::default(),
        }
    }
}

pub(crate) struct Process {
    ended: watch::Sender<Option<Exit>>,
    on_stop: Arc<Mutex<Option<OnStop>>>,
    ours: bool,
    operators: Arc<Operators>,
    faults: Arc<Faults>,
}

impl Process {
    pub(crate) fn end(&self, text: &str, clean: bool) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(Exit { text: text.to_owned(), clean });
            first
        });
    }
}

/// One process seen through the trait.
struct Seen(Arc<Process>);

#[async_trait]
impl EngineProcess for Seen {
    fn record(&self) -> EngineRecord {
        EngineRecord {
            pid: std::process::id(),
            start_ticks: 1,
            boot_id: "boot".to_owned(),
            version: "1.0".to_owned(),
        }
    }

    fn owns(&self, pid: u32) -> bool {
        self.0.ours && pid == std::process::id()
    }

    async fn wait(&self) -> Exit {
        self.0.faults.may_panic("wait");
        let mut ended = self.0.ended.subscribe();
        let exit = ended.wait_for(Option::is_some).await.map(|exit| exit.clone());
        exit.ok().flatten().unwrap_or(Exit { text: "gone".to_owned(), clean: false })
    }

    async fn stop(&self, _grace: Duration) -> Result<Exit, EngineError> {
        self.0.faults.may_panic("stop");
        if let Some(on_stop) = &*self.0.on_stop.lock().unwrap() {
            on_stop();
        }
        self.0.end("stopped", true);
        Ok(self.wait().await)
    }

    async fn ping(&self) -> Result<String, EngineError> {
        self.0.faults.may_panic("ping");
        Ok("1.0.1".to_owned())
    }

    async fn replica_state(&self) -> Option<String> {
        if self.0.faults.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.0.operators.filled.lock().unwrap().clone()
    }
}

impl ThreadEngine {
    /// Ends the running process as a crash does.
    pub(crate) fn crash(&self) {
        if let Some(process) = &*self.running.lock().unwrap() {
            process.end("signal 11", false);
        }
    }

    /// Lets an encryptor say hello as the engine's, and serves it until the agent goes.
    pub(crate) fn connect(&self, socket: PathBuf, process: Arc<Process>, crashes: bool) {
        let welcomes = Arc::clone(&self.welcomes);
        std::thread::spawn(move || {
            let mut stream = UnixStream::connect(socket).expect("the agent listens");
            let hello = ToAgent::Hello {
                min_version: PROTOCOL_VERSION,
                max_version: PROTOCOL_VERSION,
                pid: std::process::id(),
                wiredtiger_version: "WiredTiger".to_owned(),
                layout: "thread".to_owned(),
                data_path: "/db".to_owned(),
            };
            wire::write_to_agent(&mut stream, &hello).expect("the agent reads");
            while let Ok(message) = wire::read_to_encryptor(&mut stream) {
                match message {
                    ToEncryptor::Welcome { keys, held, .. } => {
                        welcomes.lock().unwrap().push((keys.len(), held));
                        if crashes {
                            process.end("signal 11", false);
                        }
                    }
                    ToEncryptor::Refused { .. } => return,
                    ToEncryptor::Spares(_) => {}
                }
            }
        });
    }
}

#[async_trait]
impl Engine for ThreadEngine {
    fn kind(&self) -> &'static str {
        "thread"
    }

    fn has_data(&self) -> Result<bool, EngineError> {
        match &*self.operators.data_path.lock().unwrap() {
            Some(data_path) => crate::engine::has_data(data_path),
            None => Ok(*self.has_data.lock().unwrap()),
        }
    }

    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn EngineProcess>, EngineError> {
        self.faults.may_panic("spawn");
        self.starts.fetch_add(1, Ordering::Relaxed);
        *self.has_data.lock().unwrap() = true;
        if let Some(data_path) = &*self.operators.data_path.lock().unwrap() {
            if Operators::plaintext_in(data_path) {
                self.operators.bad_starts.fetch_add(1, Ordering::SeqCst);
            }
            std::fs::write(data_path.join("WiredTiger"), "ciphertext").expect("the data path is there");
        }
        let behaviour = *self.behaviour.lock().unwrap();
        let process = Arc::new(Process {
            ended: watch::Sender::new(None),
            on_stop: Arc::clone(&self.on_stop),
            ours: true,
            operators: Arc::clone(&self.operators),
            faults: Arc::clone(&self.faults),
        });
        *self.running.lock().unwrap() = Some(Arc::clone(&process));
        if behaviour != Behaviour::Silent {
            self.connect(launch.socket.clone(), Arc::clone(&process), behaviour == Behaviour::Crashes);
        }
        Ok(Box::new(Seen(process)))
    }

    async fn find(
        &self,
        _record: Option<&EngineRecord>,
        launch: &Launch,
    ) -> Result<Option<Box<dyn EngineProcess>>, EngineError> {
        self.faults.may_panic("find");
        let fails = |left: usize| left.checked_sub(1);
        if self.faults.not_found.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
            return Err(no_answer());
        }
        let running = self.running.lock().unwrap().clone();
        let alive = running.filter(|process| process.ended.borrow().is_none());
        Ok(alive.map(|process| {
            self.connect(launch.socket.clone(), Arc::clone(&process), false);
            Box::new(Seen(process)) as Box<dyn EngineProcess>
        }))
    }

    async fn foreign(&self, own: Option<u32>) -> Option<String> {
        let engine = self.running.lock().unwrap().clone();
        if own.is_none() && engine.is_some_and(|process| process.ended.borrow().is_none()) {
            return Some("the engine has the data path open".to_owned());
        }
        let running = *self.operators.running.lock().unwrap();
        running.map(|pid| format!("process {pid} has the data path open"))
    }

    fn can_refill(&self) -> bool {
        self.operators.data_path.lock().unwrap().is_some()
    }

    async fn operators(&self) -> Result<Option<Arc<dyn OperatorsProcess>>, EngineError> {
        let running = *self.operators.running.lock().unwrap();
        Ok(running.map(|pid| Arc::new(SeenOperators(Arc::clone(&self.operators), pid)) as _))
    }

    async fn ask_member(&self, address: &str) -> Result<ReplicaSet, EngineError> {
        let answer = self.operators.primarys_answer.lock().unwrap().clone();
        answer.filter(|_| address == "m1:1").ok_or_else(no_answer)
    }
}
