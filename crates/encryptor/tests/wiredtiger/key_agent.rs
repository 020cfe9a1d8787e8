//! The agent's side of the socket: a real keystore with real keys, on disk; only the vault is absent.

use std::fs;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use keyward_keys::assignment::decode_assignments;
use keyward_keys::keystore::{CanaryWrap, MasterKeyWrap, OpenKeystore, Provider, Purpose, SealedKeystore};
use keyward_keys::wire::{
    PROTOCOL_VERSION, ToAgent, ToEncryptor, WireKey, read_to_agent, write_to_encryptor,
};
use keyward_keys::{KeyId, MasterKey, NodeId};

/// Spares kept ready.
pub const SPARES: usize = 24;

/// What the agent answers to a hello.
#[derive(Clone, Debug)]
pub enum Answer {
    Keys,
    Refuse(&'static str),
    NoMasterKey,
    /// The hello is read and not answered.
    Nothing,
    /// Not even the hello is read.
    HangUp,
}

pub struct KeyAgent {
    node: Arc<Node>,
    // For a second agent on a copy of the data path.
    master: [u8; 32],
    directory: tempfile::TempDir,
    listening: Option<Listening>,
}

struct Listening {
    thread: JoinHandle<()>,
    stopped: Arc<Mutex<bool>>,
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

struct Node {
    keystore: Mutex<OpenKeystore>,
    data_path: PathBuf,
    answer: Mutex<Answer>,
    hellos: Mutex<Vec<ToAgent>>,
}

impl KeyAgent {
    /// Makes a node's keystore under `data_path`, and listens.
    pub fn new(data_path: &Path) -> Self {
        fs::create_dir_all(data_path.join(".keyward")).unwrap();
        let master = MasterKey::make().unwrap();
        let bytes = *master.expose();
        let wrap = MasterKeyWrap {
            provider: Provider::AzureKeyVault,
            key_identifier: "https://example.vault.azure.net/keys/test/0".to_owned(),
            public_key_sha256: "0".repeat(64),
            algorithm: "RSA-OAEP-256".to_owned(),
            ciphertext: vec![1; 256],
            created_at: jiff::Timestamp::now(),
            canary: CanaryWrap { ciphertext: vec![2; 256], sha256: [3; 32] },
        };
        let wraps = vec![wrap.verified(&master, &bytes).unwrap()];
        let (keystore, image) =
            OpenKeystore::create(NodeId::make(), master, wraps, SPARES, jiff::Timestamp::now()).unwrap();
        fs::write(data_path.join(".keyward/keystore.json"), image.bytes).unwrap();
        Self::with(keystore, bytes, data_path)
    }

    /// The agent of a copy of this node's data path.
    pub fn of_copy(&self, data_path: &Path) -> Self {
        let file = fs::read(data_path.join(".keyward/keystore.json")).unwrap();
        let mut bytes = self.master;
        let keystore = SealedKeystore::parse(&file).unwrap().open(MasterKey::take_from(&mut bytes).unwrap());
        Self::with(keystore.unwrap(), self.master, data_path)
    }

    fn with(keystore: OpenKeystore, master: [u8; 32], data_path: &Path) -> Self {
        let node = Node {
            keystore: Mutex::new(keystore),
            data_path: data_path.to_owned(),
            answer: Mutex::new(Answer::Keys),
            hellos: Mutex::default(),
        };
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let mut agent = Self { node: Arc::new(node), master, directory, listening: None };
        agent.start();
        agent
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub fn system_key_id(&self) -> KeyId {
        self.node.keystore.lock().unwrap().system_key_id()
    }

    pub fn answer(&self, answer: Answer) {
        *self.node.answer.lock().unwrap() = answer;
    }

    pub fn hellos(&self) -> Vec<ToAgent> {
        self.node.hellos.lock().unwrap().clone()
    }

    /// The keystore's databases and their keys, as the agent knows them now.
    pub fn databases(&self) -> Vec<(String, KeyId)> {
        let keystore = self.node.keystore.lock().unwrap();
        let entries = keystore.sealed().entries().iter();
        entries
            .filter_map(|entry| match &entry.purpose {
                Purpose::Database(name) => Some((name.clone(), entry.id)),
                Purpose::System | Purpose::Spare => None,
            })
            .collect()
    }

    /// Every key, spares included, by what it is for.
    pub fn keys(&self) -> Vec<(Purpose, [u8; 32])> {
        self.node.keys(|_| true).into_iter().map(|key| (key.purpose, *key.key.expose())).collect()
    }

    /// Takes the journal into the keystore, as at a start.
    pub fn fold(&self) {
        self.node.fold_and_refill();
    }

    /// The journal as it is on disk.
    pub fn journal(&self) -> PathBuf {
        self.node.data_path.join(".keyward/assignments")
    }

    pub fn start(&mut self) {
        assert!(self.listening.is_none());
        let _ = fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).unwrap();
        let node = Arc::clone(&self.node);
        let stopped = Arc::new(Mutex::new(false));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let thread = {
            let (stopped, streams) = (Arc::clone(&stopped), Arc::clone(&streams));
            std::thread::spawn(move || {
                let mut conversations = Vec::new();
                for stream in listener.incoming() {
                    let stream = stream.unwrap();
                    if *stopped.lock().unwrap() {
                        break;
                    }
                    if matches!(*node.answer.lock().unwrap(), Answer::HangUp) {
                        continue;
                    }
                    streams.lock().unwrap().push(stream.try_clone().unwrap());
                    let node = Arc::clone(&node);
                    conversations.push(std::thread::spawn(move || node.converse(stream)));
                }
                for conversation in conversations {
                    conversation.join().unwrap();
                }
            })
        };
        self.listening = Some(Listening { thread, stopped, streams });
    }

    /// Dies: no socket, every conversation cut.
    pub fn stop(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        *listening.stopped.lock().unwrap() = true;
        let _ = UnixStream::connect(self.socket());
        let _ = fs::remove_file(self.socket());
        for stream in listening.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        listening.thread.join().unwrap();
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Node {
    fn file(&self) -> PathBuf {
        self.data_path.join(".keyward/keystore.json")
    }

    fn converse(&self, mut stream: UnixStream) {
        while let Ok(message) = read_to_agent(&mut stream) {
            let answer = match message {
                ToAgent::Hello { .. } => {
                    self.hellos.lock().unwrap().push(message);
                    match self.answer.lock().unwrap().clone() {
                        Answer::Keys => {
                            self.fold_and_refill();
                            self.welcome(true)
                        }
                        Answer::NoMasterKey => self.welcome(false),
                        Answer::Refuse(reason) => ToEncryptor::Refused { reason: reason.to_owned() },
                        Answer::Nothing | Answer::HangUp => return,
                    }
                }
                ToAgent::Assigned(_) | ToAgent::NeedSpares => {
                    let new = self.fold_and_refill();
                    if new.is_empty() {
                        continue;
                    }
                    ToEncryptor::Spares(self.keys(|id| new.contains(id)))
                }
                ToAgent::Bye => return,
            };
            if write_to_encryptor(&mut stream, &answer).is_err() {
                return;
            }
        }
    }

    fn welcome(&self, held: bool) -> ToEncryptor {
        let system_key_id = self.keystore.lock().unwrap().system_key_id();
        let node_id = self.keystore.lock().unwrap().sealed().node_id();
        let keys = if held { self.keys(|_| true) } else { Vec::new() };
        ToEncryptor::Welcome { version: PROTOCOL_VERSION, node_id, system_key_id, keys, held }
    }

    fn keys(&self, wanted: impl Fn(&KeyId) -> bool) -> Vec<WireKey> {
        let keystore = self.keystore.lock().unwrap();
        let keys = keystore.database_keys().unwrap().into_iter();
        keys.filter(|(entry, _)| wanted(&entry.id))
            .map(|(entry, key)| WireKey { id: entry.id, purpose: entry.purpose, key })
            .collect()
    }

    /// Folds the journal and makes new spares; their ids.
    fn fold_and_refill(&self) -> Vec<KeyId> {
        let mut keystore = self.keystore.lock().unwrap();
        let journal = fs::read(self.data_path.join(".keyward/assignments")).unwrap_or_default();
        let journal = decode_assignments(&journal, |id| keystore.database_key(id).ok());
        assert_eq!(journal.rejected, [], "the encryptor wrote a record that isn't believed");
        if let Some(image) = keystore.fold(&journal.assignments).unwrap() {
            fs::write(self.file(), &image.bytes).unwrap();
            keystore.commit(&image).unwrap();
        }
        let known: Vec<_> = keystore.sealed().entries().iter().map(|entry| entry.id).collect();
        let missing = SPARES.saturating_sub(keystore.sealed().spares());
        if missing > 0 {
            let image = keystore.add_spares(missing, jiff::Timestamp::now()).unwrap();
            fs::write(self.file(), &image.bytes).unwrap();
            keystore.commit(&image).unwrap();
        }
        SealedKeystore::parse(&fs::read(self.file()).unwrap()).unwrap();
        let entries = keystore.sealed().entries().iter().map(|entry| entry.id);
        entries.filter(|id| !known.contains(id)).collect()
    }
}
