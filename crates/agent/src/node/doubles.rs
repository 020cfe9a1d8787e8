//! An engine that is a thread, and a vault that is a table.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use keyward_keys::wire::{self, PROTOCOL_VERSION, ToAgent, ToEncryptor};
use keyward_kms::{About, Facts, Finding, KeyDescription, KeyService, KmsError, Operation, Severity};
use keyward_model::{Class, Evidence, KeyIdentifier, Timestamp};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::engine::{Engine, EngineError, EngineProcess, EngineRecord, Exit, Launch};

/// Under which key something was wrapped, and what.
type Wrapped = (KeyIdentifier, Vec<u8>);

/// A vault with one switch.
#[derive(Debug, Default)]
pub(crate) struct TableService {
    wrapped: Mutex<BTreeMap<Vec<u8>, Wrapped>>,
    /// What every call answers; `None` works.
    answer: Mutex<Option<Class>>,
    /// Calls that may still succeed.
    calls_left: Mutex<Option<usize>>,
    pub(crate) unwraps: AtomicUsize,
    count: AtomicU64,
}

impl TableService {
    pub(crate) fn set(&self, answer: Option<Class>) {
        *self.answer.lock().unwrap() = answer;
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
        self.answer.lock().unwrap().map_or(Ok(()), |class| Err(error(class)))
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
        self.ask(Operation::Unwrap, key)?;
        self.unwraps.fetch_add(1, Ordering::Relaxed);
        match self.wrapped.lock().unwrap().get(ciphertext) {
            Some((with, plaintext)) if with == key => {
                Ok((Zeroizing::new(plaintext.clone()), Facts::default()))
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
        }
    }
}

pub(crate) struct Process {
    ended: watch::Sender<Option<Exit>>,
    on_stop: Arc<Mutex<Option<OnStop>>>,
    ours: bool,
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
        let mut ended = self.0.ended.subscribe();
        let exit = ended.wait_for(Option::is_some).await.map(|exit| exit.clone());
        exit.ok().flatten().unwrap_or(Exit { text: "gone".to_owned(), clean: false })
    }

    async fn stop(&self, _grace: Duration) -> Result<Exit, EngineError> {
        if let Some(on_stop) = &*self.0.on_stop.lock().unwrap() {
            on_stop();
        }
        self.0.end("stopped", true);
        Ok(self.wait().await)
    }

    async fn ping(&self) -> Result<String, EngineError> {
        Ok("1.0.1".to_owned())
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
        Ok(*self.has_data.lock().unwrap())
    }

    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn EngineProcess>, EngineError> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        *self.has_data.lock().unwrap() = true;
        let behaviour = *self.behaviour.lock().unwrap();
        let process = Arc::new(Process {
            ended: watch::Sender::new(None),
            on_stop: Arc::clone(&self.on_stop),
            ours: true,
        });
        *self.running.lock().unwrap() = Some(Arc::clone(&process));
        if behaviour != Behaviour::Silent {
            self.connect(launch.socket.clone(), Arc::clone(&process), behaviour == Behaviour::Crashes);
        }
        Ok(Box::new(Seen(process)))
    }

    async fn find(
        &self,
        record: Option<&EngineRecord>,
        launch: &Launch,
    ) -> Result<Option<Box<dyn EngineProcess>>, EngineError> {
        let running = self.running.lock().unwrap().clone();
        let alive = running.filter(|process| process.ended.borrow().is_none() && record.is_some());
        Ok(alive.map(|process| {
            self.connect(launch.socket.clone(), Arc::clone(&process), false);
            Box::new(Seen(process)) as Box<dyn EngineProcess>
        }))
    }

    async fn foreign(&self, _own: Option<u32>) -> Option<String> {
        None
    }
}
