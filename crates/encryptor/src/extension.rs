//! The extension inside the database process: load, the encryptor's callbacks, the wrapped methods.
#![allow(unsafe_code, reason = "entries that WiredTiger calls, and hands raw pointers to")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use keyward_keys::page::{OVERHEAD, PageCipher};
use keyward_keys::wire::ToAgent;
use keyward_keys::{KeyId, MemoryLock, memory_lock};

use crate::client::{ClientError, Introduction, Link, Log};
use crate::create_slots;
use crate::ffi::{
    ConnectionTable, ExtensionApi, OpenSessionFn, WtConfigArg, WtConnection, WtEncryptor, WtSession, buffers,
    config_texts, connection_of, guard, session_method, set_create,
};
use crate::journal::{AssignmentJournal, JournalError};
use crate::keyring::{AssignError, Assigned, CipherError, FEW_SPARES, Keyring};
use crate::layout::{self, Layout};
use crate::memory_map::{CodeObject, LiveImage, Memory};
use crate::probe::{self, ProbeError, SessionKind};
use crate::session::{Clause, Import, Owner, owner_of, with_clause};
use crate::settings::{Settings, SettingsError};

const NAME: &CStr = c"keyward";

/// WiredTiger's entry: loads the extension into one connection. Called for each `wiredtiger_open` of the process.
///
/// # Safety
/// WiredTiger calls it with a connection that is being opened and the extension's configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wiredtiger_extension_init(
    connection: *mut WtConnection,
    config: *mut WtConfigArg,
) -> c_int {
    guard(|| {
        // SAFETY: by the contract of the entry.
        match unsafe { load(connection, config) } {
            Ok(()) => 0,
            Err((error, api)) => {
                let message = format!("keyward: {}. hint: {}", chain(&error), error.hint());
                match api.or_else(|| any_api(connection)) {
                    Some(api) => api.error(ptr::null_mut(), &message),
                    // Nothing in this process is trusted enough to be called.
                    None => eprintln!("{message}"),
                }
                error.code()
            }
        }
    })
}

/// Why the extension doesn't load, so that the database doesn't open.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("the encryptor isn't configured rightly")]
    Settings(#[from] SettingsError),
    #[error("the process's memory map can't be read")]
    MemoryMap(#[source] procfs::ProcError),
    #[error("WiredTiger's code isn't found in this process")]
    NoCode,
    #[error("{path} isn't what the encryptor was told to expect")]
    Probe { path: PathBuf, source: ProbeError },
    #[error("the encryptor is loaded into this connection already")]
    Twice,
    #[error("the database's directory isn't known")]
    Home,
    #[error("the assignment journal isn't in order")]
    Journal(#[from] JournalError),
    #[error("no database keys")]
    Client(#[from] ClientError),
    #[error("WiredTiger refused the encryptor (error {0})")]
    Registration(c_int),
    #[error("the thread that talks to the agent can't be started")]
    Thread(#[source] std::io::Error),
}

impl LoadError {
    fn hint(&self) -> &'static str {
        match self {
            Self::Settings(error) => error.hint(),
            Self::MemoryMap(_) => "the database process needs to read /proc/self/maps",
            Self::NoCode | Self::Registration(_) => "this is not a WiredTiger that keyward knows",
            Self::Probe { source, .. } => source.hint(),
            Self::Twice => "name the encryptor once in `extensions=[…]`",
            Self::Home => "the data path must exist",
            Self::Journal(error) => error.hint(),
            Self::Client(error) => error.hint(),
            Self::Thread(_) => "the process's limit of threads or descriptors is reached",
        }
    }

    fn code(&self) -> c_int {
        match self {
            Self::Settings(_) | Self::NoCode | Self::Probe { .. } | Self::Twice | Self::Home => libc::EINVAL,
            Self::MemoryMap(_) => libc::EACCES,
            Self::Journal(error) => error.os_error().unwrap_or(libc::EIO),
            Self::Client(error) => error.code(),
            Self::Registration(code) => *code,
            Self::Thread(error) => error.raw_os_error().unwrap_or(libc::EAGAIN),
        }
    }
}

/// One connection that the encryptor is loaded into.
struct Connection {
    address: usize,
    layout: &'static Layout,
    api: ExtensionApi,
    object: Arc<CodeObject>,
    open_session: OpenSessionFn,
    keyring: Arc<Keyring>,
    /// Where new databases get keys of their own; `None`: the system key for everything.
    journal: Option<AssignmentJournal>,
    link: Mutex<Option<Link>>,
    sessions: Mutex<Vec<VerifiedSession>>,
    said_unlocked: AtomicBool,
}

/// A session table that was verified: sessions are copies of a few of them.
#[derive(Copy, Clone)]
struct VerifiedSession {
    slot: usize,
    original: usize,
    /// `None`: its `create` refuses by itself.
    wrapper: Option<crate::ffi::CreateFn>,
}

/// The connections of this process. Several may be open at once, and come and go.
static CONNECTIONS: RwLock<Vec<Arc<Connection>>> = RwLock::new(Vec::new());

impl Connection {
    fn find(address: usize) -> Option<Arc<Self>> {
        let connections = CONNECTIONS.read().unwrap_or_else(PoisonError::into_inner);
        connections.iter().find(|connection| connection.address == address).cloned()
    }

    fn remember(connection: Arc<Self>) {
        let mut connections = CONNECTIONS.write().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|other| other.address != connection.address);
        connections.push(connection);
    }

    fn forget(address: usize) {
        let mut connections = CONNECTIONS.write().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.address != address);
    }
}

impl Connection {
    /// Tells the database's log, once, that not all keys are in locked memory.
    fn say_if_unlocked(&self, session: *mut WtSession) {
        let MemoryLock::NotLocked { reason } = memory_lock() else { return };
        if !self.said_unlocked.swap(true, Ordering::Relaxed) {
            let message = format!(
                "keyward: database keys are in memory that isn't locked: {reason}. hint: raise the limit of locked memory of the database process (LimitMEMLOCK=), or see to it that swap is off or encrypted"
            );
            self.api.message(session, &message);
        }
    }
}

type Failed = (LoadError, Option<ExtensionApi>);

/// # Safety
/// As the entry.
unsafe fn load(connection: *mut WtConnection, config: *mut WtConfigArg) -> Result<(), Failed> {
    let silent = |error: LoadError| (error, None);
    // SAFETY: by the contract of the entry.
    let texts = unsafe { config_texts(config) };
    let texts: Vec<_> = texts.iter().map(|text| text.to_string_lossy()).collect();
    let settings = Settings::parse(texts.iter().map(AsRef::as_ref)).map_err(|error| silent(error.into()))?;
    let object = object_of(connection).map_err(silent)?;
    let (table, api) = verify(connection, &object, settings.layout)
        .map_err(|source| silent(LoadError::Probe { path: object.path().to_owned(), source }))?;
    join(connection, table, api, object, &settings).map_err(|error| (error, Some(api)))
}

/// The object that contains WiredTiger, from the first pointer of the connection's table.
fn object_of(connection: *mut WtConnection) -> Result<Arc<CodeObject>, LoadError> {
    let memory = Memory::of_this_process().map_err(LoadError::MemoryMap)?;
    let first = memory.word(connection.expose_provenance()).ok_or(LoadError::NoCode)?;
    CodeObject::containing(first, &memory).map(Arc::new).ok_or(LoadError::NoCode)
}

fn verify(
    connection: *mut WtConnection,
    object: &Arc<CodeObject>,
    layout: &'static Layout,
) -> Result<(ConnectionTable, ExtensionApi), ProbeError> {
    let image = |memory| LiveImage::new(memory, Arc::clone(object));
    let missing = ProbeError::Foreign { table: probe::Table::Connection };
    let address = connection.expose_provenance();
    let memory = Memory::of_this_process().map_err(|_| missing.clone())?;
    let image = image(memory);
    let slots = probe::examine_connection(&image, address, layout)?;
    // SAFETY: the connection is being opened and its table has just been verified.
    let table = unsafe { ConnectionTable::new(connection, slots) };
    let api = table.extension_api();
    let slots = probe::examine_extension(&image, address, api.expose_provenance(), layout)?;
    // SAFETY: the interface belongs to the connection and has just been verified.
    let api = unsafe { ExtensionApi::new(api, slots) };
    probe::examine_version(api.version().0, layout)?;
    Ok((table, api))
}

/// An interface to report a failure with: that of any known layout that fits this process.
fn any_api(connection: *mut WtConnection) -> Option<ExtensionApi> {
    let object = object_of(connection).ok()?;
    layout::all().iter().find_map(|layout| verify(connection, &object, layout).ok()).map(|(_, api)| api)
}

/// Everything after verification: keys, registration, wrapping.
fn join(
    connection: *mut WtConnection,
    table: ConnectionTable,
    api: ExtensionApi,
    object: Arc<CodeObject>,
    settings: &Settings,
) -> Result<(), LoadError> {
    if table.open_session_is(open_session) {
        return Err(LoadError::Twice);
    }
    let data_path = data_path(&table)?;
    let journal = AssignmentJournal::of(&data_path)?;
    let introduction = Introduction {
        wiredtiger_version: api.version().1,
        layout: settings.layout.name.to_owned(),
        data_path,
    };
    let (greeted, welcome) = Link::connect(&settings.socket, &introduction)?;
    // Not before the agent knows this process for its engine: another one may be writing to the journal.
    if let Some(journal) = &journal {
        journal.repair()?;
    }
    let keyring = Arc::new(Keyring::new(welcome.system_key_id, welcome.keys));
    let link = greeted.keep(Arc::clone(&keyring), Arc::new(DatabaseLog(api))).map_err(LoadError::Thread)?;
    let state = Arc::new(Connection {
        address: connection.expose_provenance(),
        layout: settings.layout,
        api,
        object,
        open_session: table.open_session(),
        keyring,
        journal: journal.filter(|_| settings.per_database),
        link: Mutex::new(Some(link)),
        sessions: Mutex::default(),
        said_unlocked: AtomicBool::new(false),
    });
    let encryptor = Encryptor::into_raw(&state, None);
    // SAFETY: the encryptor lives until its `terminate`.
    let code = unsafe { table.add_encryptor(NAME, encryptor) };
    if code != 0 {
        // SAFETY: WiredTiger hasn't taken it.
        drop(unsafe { Encryptor::from_raw(encryptor) });
        return Err(LoadError::Registration(code));
    }
    state.say_if_unlocked(ptr::null_mut());
    Connection::remember(state);
    table.set_open_session(open_session);
    Ok(())
}

fn data_path(table: &ConnectionTable) -> Result<PathBuf, LoadError> {
    let home = table.home().ok_or(LoadError::Home)?;
    Path::new(OsStr::from_bytes(home.to_bytes())).canonicalize().map_err(|_| LoadError::Home)
}

/// The database's log, for the thread.
struct DatabaseLog(ExtensionApi);

impl Log for DatabaseLog {
    fn error(&self, message: &str) {
        self.0.error(ptr::null_mut(), message);
    }

    fn message(&self, message: &str) {
        self.0.message(ptr::null_mut(), message);
    }
}

/// What WiredTiger holds: its own prefix, then ours.
#[repr(C)]
struct Encryptor {
    table: WtEncryptor,
    connection: Arc<Connection>,
    /// `None` in the base encryptor, which only makes others.
    cipher: Option<PageCipher>,
}

impl Encryptor {
    fn into_raw(connection: &Arc<Connection>, cipher: Option<PageCipher>) -> *mut WtEncryptor {
        let table =
            WtEncryptor { encrypt, decrypt, sizing, customize, terminate, reserved: [ptr::null_mut(); 8] };
        Box::into_raw(Box::new(Self { table, connection: Arc::clone(connection), cipher })).cast()
    }

    /// # Safety
    /// `raw` is from `into_raw` and used by nobody from now on.
    unsafe fn from_raw(raw: *mut WtEncryptor) -> Box<Self> {
        // SAFETY: by the contract.
        unsafe { Box::from_raw(raw.cast()) }
    }

    /// # Safety
    /// `raw` is from `into_raw` and not yet terminated.
    unsafe fn get<'a>(raw: *mut WtEncryptor) -> &'a Self {
        // SAFETY: by the contract.
        unsafe { &*raw.cast() }
    }
}

/// # Safety
/// WiredTiger's contract: `source` and `target` are buffers of these lengths that don't overlap.
unsafe extern "C" fn encrypt(
    encryptor: *mut WtEncryptor,
    session: *mut WtSession,
    source: *mut u8,
    source_length: usize,
    target: *mut u8,
    target_length: usize,
    result_length: *mut usize,
) -> c_int {
    guard(|| {
        // SAFETY: WiredTiger passes the encryptor that `customize` made.
        let this = unsafe { Encryptor::get(encryptor) };
        // SAFETY: its buffers, of these lengths.
        let buffers = unsafe { buffers(source, source_length, target, target_length) };
        let Some((plain, sealed)) = buffers else { return this.no_buffers(session) };
        let Some(cipher) = &this.cipher else { return this.no_cipher(session) };
        match cipher.seal(plain, sealed) {
            Ok(length) => {
                // SAFETY: a place for the result.
                unsafe { *result_length = length };
                0
            }
            Err(error) => this.failed(session, "encrypted", source_length, cipher.key_id(), &error),
        }
    })
}

/// # Safety
/// As [`encrypt`].
unsafe extern "C" fn decrypt(
    encryptor: *mut WtEncryptor,
    session: *mut WtSession,
    source: *mut u8,
    source_length: usize,
    target: *mut u8,
    target_length: usize,
    result_length: *mut usize,
) -> c_int {
    guard(|| {
        // SAFETY: as in `encrypt`.
        let this = unsafe { Encryptor::get(encryptor) };
        // SAFETY: as in `encrypt`.
        let buffers = unsafe { buffers(source, source_length, target, target_length) };
        let Some((sealed, plain)) = buffers else { return this.no_buffers(session) };
        let Some(cipher) = &this.cipher else { return this.no_cipher(session) };
        match cipher.open(sealed, plain) {
            Ok(length) => {
                // SAFETY: a place for the result.
                unsafe { *result_length = length };
                0
            }
            // Never WT_ERROR: salvage would throw the block away.
            Err(error) => this.failed(session, "decrypted", source_length, cipher.key_id(), &error),
        }
    })
}

/// # Safety
/// WiredTiger passes an encryptor of ours and a place for the number.
unsafe extern "C" fn sizing(_: *mut WtEncryptor, _: *mut WtSession, expansion: *mut usize) -> c_int {
    guard(|| {
        // SAFETY: a place for the number.
        unsafe { *expansion = OVERHEAD };
        0
    })
}

/// # Safety
/// WiredTiger passes the base encryptor, a configuration, and a place for the new encryptor.
unsafe extern "C" fn customize(
    encryptor: *mut WtEncryptor,
    session: *mut WtSession,
    config: *mut WtConfigArg,
    customized: *mut *mut WtEncryptor,
) -> c_int {
    guard(|| {
        // SAFETY: the base encryptor, registered by `join`.
        let this = unsafe { Encryptor::get(encryptor) };
        // SAFETY: the configuration that WiredTiger passed.
        let key_id = unsafe { this.connection.api.config_value(session, config, c"keyid") };
        let made = key_id_of(key_id.as_deref()).and_then(|id| Ok(this.connection.keyring.cipher(id)?));
        match made {
            Ok(cipher) => {
                this.connection.say_if_unlocked(session);
                // SAFETY: a place for the new encryptor, which lives until its `terminate`.
                unsafe { *customized = Encryptor::into_raw(&this.connection, Some(cipher)) };
                0
            }
            Err(error) => {
                let message = format!("keyward: {}. hint: {}", chain(&error), error.hint());
                this.connection.api.error(session, &message);
                libc::EACCES
            }
        }
    })
}

/// # Safety
/// WiredTiger passes an encryptor of ours for the last time.
unsafe extern "C" fn terminate(encryptor: *mut WtEncryptor, _: *mut WtSession) -> c_int {
    guard(|| {
        // SAFETY: WiredTiger lets go of it.
        let this = unsafe { Encryptor::from_raw(encryptor) };
        if this.cipher.is_none() {
            // The base encryptor is the last to go: all files are closed.
            let link = this.connection.link.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(link);
            Connection::forget(this.connection.address);
        }
        0
    })
}

impl Encryptor {
    #[cold]
    fn no_buffers(&self, session: *mut WtSession) -> c_int {
        self.connection.api.error(session, "keyward: WiredTiger passed buffers that overlap or aren't there");
        libc::EIO
    }

    #[cold]
    fn no_cipher(&self, session: *mut WtSession) -> c_int {
        self.connection.api.error(session, "keyward: a block reached the encryptor without a database key");
        libc::EIO
    }

    #[cold]
    fn failed(
        &self,
        session: *mut WtSession,
        what: &str,
        length: usize,
        key_id: KeyId,
        error: &dyn std::error::Error,
    ) -> c_int {
        let message = format!(
            "keyward: {length} bytes can't be {what} under database key {key_id}: {}. hint: the file was changed, or the data path isn't this keystore's",
            chain(error)
        );
        self.connection.api.error(session, &message);
        libc::EIO
    }
}

/// Why a key id has no encryptor.
#[derive(Debug, thiserror::Error)]
enum CustomizeError {
    #[error("`encryption=` names no key id")]
    NoKeyId,
    #[error("`encryption=` names the key id {0:?}, which isn't one of keyward's")]
    Foreign(String),
    #[error("a table can't be opened")]
    Cipher(#[from] CipherError),
}

impl CustomizeError {
    fn hint(&self) -> &'static str {
        match self {
            Self::NoKeyId => "the agent passes the system key's id: start the database through it",
            Self::Foreign(_) => "a data path that was encrypted by something else can't be opened",
            Self::Cipher(_) => {
                "this data path belongs to another keystore, or its keystore was lost: see `keyward node status`"
            }
        }
    }
}

fn key_id_of(text: Option<&[u8]>) -> Result<KeyId, CustomizeError> {
    let text = text.filter(|text| !text.is_empty()).ok_or(CustomizeError::NoKeyId)?;
    let text = String::from_utf8_lossy(text);
    text.parse().map_err(|_| CustomizeError::Foreign(text.chars().take(64).collect()))
}

/// # Safety
/// As WiredTiger's own method, which it stands for.
unsafe extern "C" fn open_session(
    connection: *mut WtConnection,
    handler: *mut c_void,
    config: *const c_char,
    session: *mut *mut WtSession,
) -> c_int {
    guard(|| {
        let Some(state) = Connection::find(connection.expose_provenance()) else { return libc::EINVAL };
        // SAFETY: the original method with the caller's arguments.
        let code = unsafe { (state.open_session)(connection, handler, config, session) };
        if code != 0 {
            return code;
        }
        // SAFETY: on success the place holds the new session.
        match unsafe { state.adopt(*session) } {
            Ok(()) => 0,
            Err(error) => {
                let message =
                    format!("keyward: no session is opened: {}. hint: {}", chain(&error), error.hint());
                state.api.error(ptr::null_mut(), &message);
                // SAFETY: the place is the caller's. The session is left to the connection: its `close` isn't trusted.
                unsafe { *session = ptr::null_mut() };
                libc::EINVAL
            }
        }
    })
}

impl Connection {
    /// Wraps `create` of a session that was just opened.
    ///
    /// # Safety
    /// `session` was opened by this connection.
    unsafe fn adopt(&self, session: *mut WtSession) -> Result<(), ProbeError> {
        let foreign = ProbeError::Foreign { table: probe::Table::Session };
        // SAFETY: by the contract.
        if unsafe { connection_of(session) } != self.address {
            return Err(foreign);
        }
        let mut verified = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the slot was verified for a table of this connection, and all its tables have the same length.
        let known =
            verified.iter().find(|known| unsafe { session_method(session, known.slot) } == known.original);
        let known = match known {
            Some(known) => *known,
            None => {
                let memory = Memory::of_this_process().map_err(|_| foreign)?;
                let image = LiveImage::new(memory, Arc::clone(&self.object));
                let address = session.expose_provenance();
                let (slots, kind) = probe::examine_session(&image, self.address, address, self.layout)?;
                // SAFETY: the slot has just been verified.
                let original = unsafe { session_method(session, slots.create) };
                let wrapper = match kind {
                    SessionKind::ReadOnly => None,
                    SessionKind::Writing => Some(
                        create_slots::wrapper_of(original)
                            .ok_or(ProbeError::Foreign { table: probe::Table::Session })?,
                    ),
                };
                let known = VerifiedSession { slot: slots.create, original, wrapper };
                verified.push(known);
                known
            }
        };
        drop(verified);
        if let Some(wrapper) = known.wrapper {
            // SAFETY: the slot is verified, and nobody else has the session yet.
            unsafe { set_create(session, known.slot, wrapper) };
        }
        Ok(())
    }
}

/// Stands for `create`: the table gets the key of its database. `original` is the method of this session's table.
///
/// # Safety
/// As WiredTiger's own method.
pub(crate) unsafe fn create(
    original: crate::ffi::CreateFn,
    session: *mut WtSession,
    uri: *const c_char,
    config: *const c_char,
) -> c_int {
    // SAFETY: an open session of a connection that the encryptor is loaded into.
    let state = Connection::find(unsafe { connection_of(session) });
    let (Some(state), false) = (state, uri.is_null()) else { return libc::EINVAL };
    // SAFETY: WiredTiger's contract: NUL-terminated texts; the configuration may be null.
    let (uri_text, config_text) =
        unsafe { (CStr::from_ptr(uri), (!config.is_null()).then(|| CStr::from_ptr(config))) };
    match state.configure(session, uri_text, config_text) {
        // SAFETY: the original method with a configuration that lives until it returns.
        Ok(Some(changed)) => unsafe { original(session, uri, changed.as_ptr()) },
        // SAFETY: the original method with the caller's arguments.
        Ok(None) => unsafe { original(session, uri, config) },
        Err(error) => {
            let message =
                format!("keyward: {uri_text:?} isn't created: {}. hint: {}", chain(&error), error.hint());
            state.api.error(session, &message);
            error.code()
        }
    }
}

/// Why a table isn't created.
#[derive(Debug, thiserror::Error)]
enum CreateError {
    #[error("its database has no key")]
    Assign(#[from] AssignError),
    #[error("its configuration hides the clause that encrypts it")]
    Hidden,
    #[error("it imports a file that nothing says is encrypted under a key of this node")]
    Import,
    #[error("its `lsm.bloom_config` has an encryption clause of its own")]
    Bloom,
}

impl CreateError {
    fn hint(&self) -> &'static str {
        match self {
            Self::Assign(error) => error.hint(),
            Self::Hidden => "the configuration string given for this table is malformed",
            Self::Import => {
                "import with the `file_metadata` of a table of this node, without `repair` and `metadata_file`; let data from elsewhere come in by the database's own means"
            }
            Self::Bloom => "take it out of the configuration string given for this table",
        }
    }

    fn code(&self) -> c_int {
        match self {
            Self::Assign(AssignError::NoSpare { .. }) => libc::EAGAIN,
            Self::Assign(AssignError::Record(_)) | Self::Hidden | Self::Import | Self::Bloom => libc::EINVAL,
            Self::Assign(AssignError::Journal { source, .. }) => source.os_error().unwrap_or(libc::EIO),
        }
    }
}

impl Connection {
    /// The configuration to create `uri` with; `None` if the caller's has the right clause already.
    fn configure(
        &self,
        session: *mut WtSession,
        uri: &CStr,
        config: Option<&CStr>,
    ) -> Result<Option<std::ffi::CString>, CreateError> {
        if let Some(config) = config {
            self.examine_clauses_within(session, config)?;
        }
        let clause = config.map(|config| self.clause(session, config)).unwrap_or_default();
        // Repair creates tables with the clause they were stored with: their blocks need that key.
        if clause.ours().is_some_and(|id| self.keyring.is_in_use(&id)) {
            return Ok(None);
        }
        let key_id = match (owner_of(uri), &self.journal) {
            (Owner::Database(database), Some(journal)) => self.database_key(database, journal)?,
            (Owner::System | Owner::Database(_), _) => self.keyring.system_key_id(),
        };
        let changed = with_clause(config, key_id);
        // As WiredTiger reads it, whatever the caller's text did with brackets and quotes.
        if self.clause(session, &changed).ours() != Some(key_id) {
            return Err(CreateError::Hidden);
        }
        Ok(Some(changed))
    }

    fn clause(&self, session: *mut WtSession, config: &CStr) -> Clause {
        Clause {
            name: self.api.text_value(session, config, c"encryption.name"),
            key_id: self.api.text_value(session, config, c"encryption.keyid"),
        }
    }

    /// Refuses what our clause at the end doesn't reach: the metadata of an imported file, which WiredTiger puts behind all
    /// else, and the configuration of the files that hold an LSM tree's Bloom filters.
    fn examine_clauses_within(&self, session: *mut WtSession, config: &CStr) -> Result<(), CreateError> {
        let value = |key| self.api.text_value(session, config, key);
        let names_encryption = |inner: Vec<u8>| memchr::memmem::find(&inner, b"encryption").is_some();
        if value(c"lsm.bloom_config").is_some_and(names_encryption) {
            return Err(CreateError::Bloom);
        }
        if !self.api.is_set(session, config, c"import.enabled") {
            return Ok(());
        }
        let import = Import {
            repair: self.api.is_set(session, config, c"import.repair"),
            from_file: value(c"import.metadata_file").is_some_and(|path| !path.is_empty()),
            stored: Clause {
                name: value(c"import.file_metadata.encryption.name"),
                key_id: value(c"import.file_metadata.encryption.keyid"),
            },
        };
        if import.key_id().is_some_and(|id| self.keyring.is_in_use(&id)) {
            Ok(())
        } else {
            Err(CreateError::Import)
        }
    }

    fn database_key(&self, database: &str, journal: &AssignmentJournal) -> Result<KeyId, CreateError> {
        if self.keyring.key_of(database).is_none() && self.keyring.spares() == 0 {
            self.tell(ToAgent::NeedSpares);
        }
        match self.keyring.assign(database, journal)? {
            Assigned::Known(id) => Ok(id),
            Assigned::Now { assignment, spares } => {
                let id = assignment.key_id;
                self.tell(ToAgent::Assigned(assignment));
                if spares < FEW_SPARES {
                    self.tell(ToAgent::NeedSpares);
                }
                Ok(id)
            }
        }
    }

    fn tell(&self, message: ToAgent) {
        if let Some(link) = self.link.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            link.tell(message);
        }
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(line, ": {cause}");
        source = cause.source();
    }
    line
}
