//! The encryptor's end of the socket to the agent: hello at load, and one thread that reports assignments and takes in spares.
//!
//! No callback of WiredTiger waits for anything here. When the agent goes away the thread connects again, with back-off, for
//! as long as the connection lives; the database works on with the keys it has.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyward_keys::KeyId;
use keyward_keys::wire::{
    MIN_PROTOCOL_VERSION, PROTOCOL_VERSION, ToAgent, ToEncryptor, WireError, WireKey, read_to_encryptor,
    write_to_agent,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;

use crate::keyring::Keyring;

/// How long the agent may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// First and longest pause before connecting again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A conversation that was shorter is no sign of an agent that works.
const LONG_CONVERSATION: Duration = Duration::from_secs(1);

/// What this encryptor says about itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// What WiredTiger calls itself.
    pub wiredtiger_version: String,
    /// The layout's name.
    pub layout: String,
    /// The database's directory.
    pub data_path: PathBuf,
}

/// What the agent's welcome brought.
#[derive(Debug)]
pub struct Welcome {
    /// The key of `.system`.
    pub system_key_id: KeyId,
    /// All database keys and some spares.
    pub keys: Vec<WireKey>,
}

/// Why the agent can't be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket's place isn't there or can't be looked at.
    #[error("the place of the agent's socket {path} can't be examined")]
    Place {
        /// The socket or a directory above it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Someone else could put a socket there.
    #[error("{path}, on the way to the agent's socket, may be written by others")]
    Writable {
        /// The directory.
        path: PathBuf,
    },
    /// No agent listens.
    #[error("no agent answers at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process at the other end isn't the directory's owner.
    #[error("the process at {path} runs as user {peer}, but its directory belongs to user {owner}")]
    Peer {
        /// The socket.
        path: PathBuf,
        /// The user at the other end.
        peer: u32,
        /// The owner of the directory.
        owner: u32,
    },
    /// The conversation broke off.
    #[error("the conversation with the agent broke off")]
    Wire(#[from] WireError),
    /// The agent said no.
    #[error("the agent refused: {reason}")]
    Refused {
        /// In the agent's words.
        reason: String,
    },
    /// The agent has no master key at the moment, so it could send no database keys.
    #[error("the agent doesn't hold this node's master key at the moment")]
    NoMasterKey,
    /// An answer that doesn't belong here.
    #[error("the agent's first answer was neither a welcome nor a refusal")]
    Unexpected,
    /// A welcome in a version of the protocol that was not offered.
    #[error(
        "the agent speaks version {0} of the protocol, this encryptor {MIN_PROTOCOL_VERSION} to {PROTOCOL_VERSION}"
    )]
    Version(u16),
}

impl ClientError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Place { .. } | Self::Connect { .. } | Self::Wire(_) | Self::Unexpected => {
                "start the database through this node's agent, and see the agent's log"
            }
            Self::Writable { .. } => {
                "the socket's directory must belong to the agent's user, with mode 0750 or stricter"
            }
            Self::Peer { .. } => "the socket's directory must belong to the user that the agent runs as",
            Self::Refused { .. } => "see the agent's log; `keyward node status` says what the node waits for",
            Self::NoMasterKey => "it comes back when the customer key answers: `keyward node status`",
            Self::Version(_) => "use an agent and an encryptor of one release",
        }
    }

    /// The error number that WiredTiger's open fails with.
    pub fn code(&self) -> i32 {
        match self {
            Self::Place { source, .. } | Self::Connect { source, .. } => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            Self::Writable { .. } | Self::Peer { .. } | Self::Refused { .. } | Self::NoMasterKey => {
                libc::EACCES
            }
            Self::Wire(_) | Self::Unexpected | Self::Version(_) => libc::EIO,
        }
    }
}

/// Connects and says hello; `None` if the agent is there but holds no master key now. `connected` is shown the connection
/// before anything is said.
fn greet(
    socket: &Path,
    introduction: &Introduction,
    connected: impl FnOnce(&UnixStream) -> io::Result<()>,
) -> Result<(UnixStream, Option<Welcome>), ClientError> {
    let owner = trusted_owner(socket)?;
    let failed = |source| ClientError::Connect { path: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    connected(&stream).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(|error| failed(error.into()))?;
    let peer = peer.uid.as_raw();
    if peer != owner {
        return Err(ClientError::Peer { path: socket.to_owned(), peer, owner });
    }
    let hello = ToAgent::Hello {
        min_version: MIN_PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
        pid: std::process::id(),
        wiredtiger_version: introduction.wiredtiger_version.clone(),
        layout: introduction.layout.clone(),
        data_path: introduction.data_path.to_string_lossy().into_owned(),
    };
    write_to_agent(&mut stream, &hello)?;
    match read_to_encryptor(&mut stream)? {
        ToEncryptor::Welcome { version, .. }
            if !(MIN_PROTOCOL_VERSION..=PROTOCOL_VERSION).contains(&version) =>
        {
            Err(ClientError::Version(version))
        }
        ToEncryptor::Welcome { system_key_id, keys, held, .. } => {
            Ok((stream, held.then_some(Welcome { system_key_id, keys })))
        }
        ToEncryptor::Refused { reason } => Err(ClientError::Refused { reason }),
        ToEncryptor::Spares(_) => Err(ClientError::Unexpected),
    }
}

/// The user whose socket it may be: the owner of its directory, which nobody else may write. The directories above must not
/// let others replace it.
fn trusted_owner(socket: &Path) -> Result<u32, ClientError> {
    const OTHERS_WRITE: u32 = 0o002;
    const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let place = |path: &Path, source| ClientError::Place { path: path.to_owned(), source };
    let parent = socket.parent().unwrap_or(Path::new("/"));
    let parent = parent.canonicalize().map_err(|error| place(parent, error))?;
    let mut owner = None;
    for directory in parent.ancestors() {
        let metadata = directory.metadata().map_err(|error| place(directory, error))?;
        let writable = match owner {
            None => metadata.mode() & GROUP_OR_OTHERS_WRITE != 0,
            Some(_) => metadata.mode() & OTHERS_WRITE != 0 && metadata.mode() & STICKY == 0,
        };
        if writable {
            return Err(ClientError::Writable { path: directory.to_owned() });
        }
        owner = owner.or(Some(metadata.uid()));
    }
    Ok(owner.unwrap_or(0))
}

/// Where the thread's messages go: the database's log.
pub trait Log: Send + Sync {
    /// Something is wrong.
    fn error(&self, message: &str);
    /// Something changed.
    fn message(&self, message: &str);
}

/// The thread that stays in touch with the agent. Dropping it ends the thread.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    process: u32,
}

#[derive(Debug)]
struct Shared {
    outbox: Mutex<VecDeque<ToAgent>>,
    wake: OwnedFd,
    stop: AtomicBool,
    /// The connection that the thread reads and writes, so that it can be ended from outside.
    connection: Mutex<Option<UnixStream>>,
}

impl Link {
    /// Connects, says hello and returns the agent's welcome. Blocks; called once, while the database opens.
    pub fn connect(socket: &Path, introduction: &Introduction) -> Result<(Greeted, Welcome), ClientError> {
        let (stream, welcome) = greet(socket, introduction, |_| Ok(()))?;
        let welcome = welcome.ok_or(ClientError::NoMasterKey)?;
        let greeted = Greeted { stream, socket: socket.to_owned(), introduction: introduction.clone() };
        Ok((greeted, welcome))
    }

    /// Queues a message; returns at once. What isn't delivered is told by the journal at the next hello.
    pub fn tell(&self, message: ToAgent) {
        let mut outbox = self.shared.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        // Asking twice brings no more: the outbox stays small however long the agent is away.
        if !outbox.contains(&message) {
            outbox.push_back(message);
        }
        drop(outbox);
        self.shared.wake();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // The thread doesn't exist in a forked child: nothing to wait for there.
        if std::process::id() != self.process {
            return;
        }
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        self.shared.stop_reading();
        let _ = thread.join();
    }
}

impl Shared {
    fn wake(&self) {
        // Fails only if the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Lets others end what the thread waits for on `stream`. A connection made too late for that is refused.
    fn is_connected(&self, stream: &UnixStream) -> io::Result<()> {
        let handle = stream.try_clone()?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        if self.is_stopping() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// The connection is over: the agent must see its end, which a handle left here would hide.
    fn is_disconnected(&self) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends the waiting for an agent that doesn't answer. What the thread still has to say goes out all the same.
    fn stop_reading(&self) {
        if let Some(stream) = self.connection.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Read);
        }
    }
}

/// A conversation with the agent that has begun; [`Greeted::keep`] hands it to the thread.
#[derive(Debug)]
pub struct Greeted {
    stream: UnixStream,
    socket: PathBuf,
    introduction: Introduction,
}

impl Greeted {
    /// Starts the thread.
    pub fn keep(self, keyring: Arc<Keyring>, log: Arc<dyn Log>) -> io::Result<Link> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            outbox: Mutex::default(),
            wake,
            stop: AtomicBool::new(false),
            connection: Mutex::default(),
        });
        shared.is_connected(&self.stream)?;
        let correspondent = Correspondent {
            shared: Arc::clone(&shared),
            keyring,
            log,
            socket: self.socket,
            introduction: self.introduction,
        };
        let stream = self.stream;
        let thread = crate::ffi::spawn_without_signals("keyward", move || correspondent.run(stream))?;
        Ok(Link { shared, thread: Some(thread), process: std::process::id() })
    }
}

/// What the database's log was told about an agent that isn't there.
#[derive(Copy, Clone, Eq, PartialEq)]
enum Said {
    /// Nothing: it is there.
    Nothing,
    /// That it went away.
    Away,
    /// Why a new one refuses.
    Refused,
}

/// What the thread owns.
struct Correspondent {
    shared: Arc<Shared>,
    keyring: Arc<Keyring>,
    log: Arc<dyn Log>,
    socket: PathBuf,
    introduction: Introduction,
}

impl Correspondent {
    fn run(self, stream: UnixStream) {
        let mut stream = Some(stream);
        // Between attempts to connect, and after conversations that were none.
        let (mut pause, mut rest) = (BACK_OFF.0, BACK_OFF.0);
        let mut said = Said::Nothing;
        while !self.shared.is_stopping() {
            match stream.take() {
                Some(mut connected) => {
                    let begun = Instant::now();
                    let ended = self.converse(&mut connected);
                    if self.shared.is_stopping() {
                        let _ = write_to_agent(&mut connected, &ToAgent::Bye);
                        return;
                    }
                    if said == Said::Nothing {
                        self.log.message(&format!(
                            "keyward: the agent went away ({ended}); the database works on"
                        ));
                    }
                    said = Said::Away;
                    self.shared.is_disconnected();
                    // An agent that welcomes and breaks off, again and again, is not asked without end.
                    if begun.elapsed() > LONG_CONVERSATION {
                        rest = BACK_OFF.0;
                    }
                    self.pause(&mut rest);
                }
                None => match self.again() {
                    Ok(connected) => {
                        self.log.message("keyward: the agent is back");
                        stream = Some(connected);
                        said = Said::Nothing;
                        pause = BACK_OFF.0;
                    }
                    Err(error) => {
                        self.shared.is_disconnected();
                        if let (ClientError::Refused { .. } | ClientError::Version(_), Said::Away) =
                            (&error, said)
                        {
                            self.log.error(&format!(
                                "keyward: {error}; the database works on with the keys it has. hint: {}",
                                error.hint()
                            ));
                            said = Said::Refused;
                        }
                        self.pause(&mut pause);
                    }
                },
            }
        }
    }

    /// Waits, and next time longer.
    fn pause(&self, pause: &mut Duration) {
        self.sleep(*pause);
        *pause = (*pause * 2).min(BACK_OFF.1);
    }

    /// Sends and receives until the conversation or the thread ends; says why.
    fn converse(&self, stream: &mut UnixStream) -> String {
        loop {
            if let Err(error) = self.send_outbox(stream) {
                return error.to_string();
            }
            let readable = match self.wait(Some(stream), None) {
                Ok(readable) => readable,
                Err(error) => return error.to_string(),
            };
            if self.shared.is_stopping() {
                return String::new();
            }
            if !readable {
                continue;
            }
            match read_to_encryptor(stream) {
                Ok(ToEncryptor::Spares(keys) | ToEncryptor::Welcome { keys, .. }) => self.take_in(keys),
                Ok(ToEncryptor::Refused { reason }) => return format!("it refused: {reason}"),
                Err(error) => return error.to_string(),
            }
        }
    }

    fn again(&self) -> Result<UnixStream, ClientError> {
        let (stream, welcome) =
            greet(&self.socket, &self.introduction, |stream| self.shared.is_connected(stream))?;
        if let Some(welcome) = welcome {
            // The agent has read the journal: assignments still queued are known to it.
            self.take_in(welcome.keys);
        }
        Ok(stream)
    }

    fn take_in(&self, keys: Vec<WireKey>) {
        for conflict in self.keyring.take_in(keys) {
            self.log.error(&format!(
                "keyward: the agent's keystore has key {} for database {}, which already uses key {} here; it keeps that",
                conflict.offered, conflict.database, conflict.used
            ));
        }
    }

    fn send_outbox(&self, stream: &mut UnixStream) -> Result<(), WireError> {
        loop {
            let next = self.shared.outbox.lock().unwrap_or_else(PoisonError::into_inner).front().cloned();
            let Some(message) = next else { return Ok(()) };
            write_to_agent(stream, &message)?;
            self.shared.outbox.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        }
    }

    fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.shared.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.wait(None, Some(left)).is_err() {
                return;
            }
        }
    }

    /// Waits for the socket or a wake-up; true if the socket has something to say.
    fn wait(&self, stream: Option<&UnixStream>, timeout: Option<Duration>) -> io::Result<bool> {
        let mut descriptors = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if let Some(stream) = stream {
            descriptors.push(PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN));
        }
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let readable = descriptors.get(1).is_some_and(|descriptor| !descriptor.revents().is_empty());
        let woken = !descriptors[0].revents().is_empty();
        drop(descriptors);
        if woken {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.shared.wake, &mut count);
        }
        Ok(readable)
    }
}

#[cfg(test)]
mod tests;
