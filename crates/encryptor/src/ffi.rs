//! WiredTiger's C interface, as far as the extension uses it: raw tables, their signatures, and the guard of every entry.
//!
//! Nothing here decides anything; a table is only used at slots that [`crate::probe`] has verified.
#![allow(unsafe_code, reason = "the C boundary")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::layout::{ConnectionSlots, ExtensionSlots, WiredTigerVersion};
use crate::probe::extension_head;

/// Opaque `WT_CONNECTION`.
#[repr(C)]
pub struct WtConnection {
    _opaque: [usize; 0],
}

/// Opaque `WT_SESSION`.
#[repr(C)]
pub(crate) struct WtSession {
    _opaque: [usize; 0],
}

/// Opaque `WT_CONFIG_ARG`: a list of configuration texts, ended by a null pointer.
#[repr(C)]
pub struct WtConfigArg {
    _opaque: [usize; 0],
}

/// `WT_CONFIG_ITEM`.
#[repr(C)]
pub(crate) struct WtConfigItem {
    text: *const c_char,
    length: usize,
    value: i64,
    kind: c_int,
}

/// `encrypt` and `decrypt` of `WT_ENCRYPTOR`.
pub(crate) type TransformFn = unsafe extern "C" fn(
    *mut WtEncryptor,
    *mut WtSession,
    *mut u8,
    usize,
    *mut u8,
    usize,
    *mut usize,
) -> c_int;

/// `WT_ENCRYPTOR`, and the null pointers that a changed WiredTiger may read behind it (one such appends optional methods).
#[repr(C)]
pub(crate) struct WtEncryptor {
    pub(crate) encrypt: TransformFn,
    pub(crate) decrypt: TransformFn,
    pub(crate) sizing: unsafe extern "C" fn(*mut WtEncryptor, *mut WtSession, *mut usize) -> c_int,
    pub(crate) customize: unsafe extern "C" fn(
        *mut WtEncryptor,
        *mut WtSession,
        *mut WtConfigArg,
        *mut *mut WtEncryptor,
    ) -> c_int,
    pub(crate) terminate: unsafe extern "C" fn(*mut WtEncryptor, *mut WtSession) -> c_int,
    pub(crate) reserved: [*mut c_void; 8],
}

/// `open_session` of `WT_CONNECTION`.
pub(crate) type OpenSessionFn =
    unsafe extern "C" fn(*mut WtConnection, *mut c_void, *const c_char, *mut *mut WtSession) -> c_int;

/// `create` of `WT_SESSION`.
pub(crate) type CreateFn = unsafe extern "C" fn(*mut WtSession, *const c_char, *const c_char) -> c_int;

type AddEncryptorFn =
    unsafe extern "C" fn(*mut WtConnection, *const c_char, *mut WtEncryptor, *const c_char) -> c_int;
type GetHomeFn = unsafe extern "C" fn(*mut WtConnection) -> *const c_char;
type GetExtensionApiFn = unsafe extern "C" fn(*mut WtConnection) -> *mut c_void;
type PrintfFn = unsafe extern "C" fn(*mut c_void, *mut WtSession, *const c_char, ...) -> c_int;
type ConfigGetFn = unsafe extern "C" fn(
    *mut c_void,
    *mut WtSession,
    *mut WtConfigArg,
    *const c_char,
    *mut WtConfigItem,
) -> c_int;
type ConfigGetStringFn = unsafe extern "C" fn(
    *mut c_void,
    *mut WtSession,
    *const c_char,
    *const c_char,
    *mut WtConfigItem,
) -> c_int;
type VersionFn = unsafe extern "C" fn(*mut c_int, *mut c_int, *mut c_int) -> *const c_char;

/// Runs the body of an entry; a panic becomes `EIO`, since none may cross the C boundary.
pub(crate) fn guard(body: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(libc::EIO)
}

/// The buffers of `encrypt` or `decrypt`; `None` for what WiredTiger never passes: a null pointer to some bytes, a length
/// that no memory has, or two buffers that overlap.
///
/// # Safety
/// Each pointer that isn't null has as many bytes as its length says, for as long as the entry runs.
pub(crate) unsafe fn buffers<'a>(
    source: *const u8,
    source_length: usize,
    target: *mut u8,
    target_length: usize,
) -> Option<(&'a [u8], &'a mut [u8])> {
    const MOST: usize = isize::MAX as usize;
    let (from, to) = (source.addr(), target.addr());
    let is_real = |address: usize, length: usize| length == 0 || (address != 0 && length <= MOST);
    if !is_real(from, source_length) || !is_real(to, target_length) {
        return None;
    }
    let overlap = from < to.saturating_add(target_length) && to < from.saturating_add(source_length);
    if overlap && source_length > 0 && target_length > 0 {
        return None;
    }
    // SAFETY: by the contract; an empty buffer's pointer, which may be null, isn't used. They don't overlap.
    unsafe {
        let source = if source_length == 0 { &[] } else { std::slice::from_raw_parts(source, source_length) };
        let target =
            if target_length == 0 { &mut [] } else { std::slice::from_raw_parts_mut(target, target_length) };
        Some((source, target))
    }
}

/// The texts of a `WT_CONFIG_ARG`, read without any call so that they are there before a table is trusted.
///
/// # Safety
/// `argument` is null or what WiredTiger passed to the running entry.
pub(crate) unsafe fn config_texts<'a>(argument: *mut WtConfigArg) -> Vec<&'a CStr> {
    const MOST_TEXTS: usize = 8;
    let list = argument.cast::<*const c_char>();
    let mut texts = Vec::new();
    if list.is_null() {
        return texts;
    }
    for index in 0..MOST_TEXTS {
        // SAFETY: by the contract a list ended by a null pointer, and no element before `index` was null.
        let text = unsafe { *list.add(index) };
        if text.is_null() {
            break;
        }
        // SAFETY: an element is a NUL-terminated text that lives as long as the entry runs.
        texts.push(unsafe { CStr::from_ptr(text) });
    }
    texts
}

/// A `WT_CONNECTION` whose slots are verified.
#[derive(Copy, Clone)]
pub(crate) struct ConnectionTable {
    connection: *mut WtConnection,
    slots: ConnectionSlots,
}

// SAFETY: a connection handle may be used from any thread until it is closed (WiredTiger's documentation).
unsafe impl Send for ConnectionTable {}
// SAFETY: as above.
unsafe impl Sync for ConnectionTable {}

impl ConnectionTable {
    /// # Safety
    /// `connection` is open and its table has been verified to have these slots.
    pub(crate) unsafe fn new(connection: *mut WtConnection, slots: ConnectionSlots) -> Self {
        Self { connection, slots }
    }

    /// The directory of the database.
    pub(crate) fn home(&self) -> Option<&CStr> {
        // SAFETY: the slot is verified to be `get_home`.
        let get_home = unsafe { self.method::<GetHomeFn>(self.slots.get_home) };
        // SAFETY: the connection is open.
        let home = unsafe { get_home(self.connection) };
        // SAFETY: `get_home` returns a text that lives as long as the connection.
        (!home.is_null()).then(|| unsafe { CStr::from_ptr(home) })
    }

    /// The `WT_EXTENSION_API` of this connection, not yet verified.
    pub(crate) fn extension_api(&self) -> *mut c_void {
        // SAFETY: the slot is verified to be `get_extension_api`.
        let get = unsafe { self.method::<GetExtensionApiFn>(self.slots.get_extension_api()) };
        // SAFETY: the connection is open.
        unsafe { get(self.connection) }
    }

    /// Registers an encryptor; WiredTiger owns it from success on.
    ///
    /// # Safety
    /// `encryptor` stays valid until its `terminate` is called.
    pub(crate) unsafe fn add_encryptor(&self, name: &CStr, encryptor: *mut WtEncryptor) -> c_int {
        // SAFETY: the slot is verified to be `add_encryptor`.
        let add = unsafe { self.method::<AddEncryptorFn>(self.slots.add_encryptor) };
        // SAFETY: the connection is open, the encryptor is valid, and a null configuration is allowed.
        unsafe { add(self.connection, name.as_ptr(), encryptor, ptr::null()) }
    }

    /// What stands at `open_session`.
    pub(crate) fn open_session(&self) -> OpenSessionFn {
        // SAFETY: the slot is verified to be `open_session`.
        unsafe { self.method::<OpenSessionFn>(self.slots.open_session) }
    }

    /// Whether this very function stands at `open_session`.
    pub(crate) fn open_session_is(&self, function: OpenSessionFn) -> bool {
        ptr::fn_addr_eq(self.open_session(), function)
    }

    /// Puts `replacement` in place of `open_session`.
    pub(crate) fn set_open_session(&self, replacement: OpenSessionFn) {
        let slot = slot_of(self.connection.cast(), self.slots.open_session);
        // SAFETY: the connection's copy of its table lies in WiredTiger's heap, aligned and writable.
        let slot = unsafe { AtomicUsize::from_ptr(slot) };
        slot.store(replacement as usize, Ordering::Release);
    }

    /// # Safety
    /// The slot is verified to hold a function of type `F`, a pointer to a function.
    unsafe fn method<F: Copy>(&self, slot: usize) -> F {
        // SAFETY: by the contract.
        unsafe { method_at::<F>(self.connection.cast(), slot) }
    }
}

/// A `WT_EXTENSION_API` whose slots are verified.
#[derive(Copy, Clone)]
pub(crate) struct ExtensionApi {
    api: *mut c_void,
    slots: ExtensionSlots,
}

// SAFETY: the interface is part of the connection, whose methods may be called from any thread.
unsafe impl Send for ExtensionApi {}
// SAFETY: as above.
unsafe impl Sync for ExtensionApi {}

impl ExtensionApi {
    /// # Safety
    /// `api` belongs to an open connection and has been verified to have these slots.
    pub(crate) unsafe fn new(api: *mut c_void, slots: ExtensionSlots) -> Self {
        Self { api, slots }
    }

    /// What WiredTiger calls itself, in numbers and in words.
    pub(crate) fn version(&self) -> (WiredTigerVersion, String) {
        let (mut major, mut minor, mut patch) = (0, 0, 0);
        // SAFETY: the slot is verified to be `version`.
        let version = unsafe { method_at::<VersionFn>(self.api.cast(), self.slots.version) };
        // SAFETY: three valid places for the numbers.
        let text = unsafe { version(&raw mut major, &raw mut minor, &raw mut patch) };
        // SAFETY: a static text of WiredTiger's.
        let text = if text.is_null() { c"" } else { unsafe { CStr::from_ptr(text) } };
        let number = |number: c_int| u32::try_from(number).unwrap_or(u32::MAX);
        ((number(major), number(minor), number(patch)), text.to_string_lossy().into_owned())
    }

    /// Writes an error into the database's log.
    pub(crate) fn error(&self, session: *mut WtSession, message: &str) {
        self.print(extension_head::ERR_PRINTF, session, message);
    }

    /// Writes a message into the database's log.
    pub(crate) fn message(&self, session: *mut WtSession, message: &str) {
        self.print(extension_head::MSG_PRINTF, session, message);
    }

    fn print(&self, slot: usize, session: *mut WtSession, message: &str) {
        let text = CString::new(message.replace('\0', "?")).unwrap_or_default();
        // SAFETY: the slot is one of the two printf members, the same in every release.
        let printf = unsafe { method_at::<PrintfFn>(self.api.cast(), slot) };
        // SAFETY: the format takes exactly one text. A null session means the connection's own.
        unsafe { printf(self.api, session, c"%s".as_ptr(), text.as_ptr()) };
    }

    /// A value of the configuration that WiredTiger passed to the running entry, as raw text.
    ///
    /// # Safety
    /// `argument` is what WiredTiger passed to the running entry.
    pub(crate) unsafe fn config_value(
        &self,
        session: *mut WtSession,
        argument: *mut WtConfigArg,
        key: &CStr,
    ) -> Option<Vec<u8>> {
        // SAFETY: the slot is `config_get`, the same in every release.
        let get = unsafe { method_at::<ConfigGetFn>(self.api.cast(), extension_head::CONFIG_GET) };
        let mut item = WtConfigItem::empty();
        // SAFETY: the argument by the contract; the rest is ours.
        let code = unsafe { get(self.api, session, argument, key.as_ptr(), &raw mut item) };
        // SAFETY: on success the item points into the configuration, which outlives the entry.
        (code == 0).then(|| unsafe { item.to_vec() })
    }

    /// A value of a configuration text, as raw text; a dotted key reaches into a structure.
    pub(crate) fn text_value(&self, session: *mut WtSession, config: &CStr, key: &CStr) -> Option<Vec<u8>> {
        // SAFETY: the item points into `config`.
        self.item(session, config, key).map(|item| unsafe { item.to_vec() })
    }

    /// Whether a value of a configuration text is true, as WiredTiger takes it.
    pub(crate) fn is_set(&self, session: *mut WtSession, config: &CStr, key: &CStr) -> bool {
        self.item(session, config, key).is_some_and(|item| item.value != 0)
    }

    /// The last value of `key`; it points into `config`.
    fn item(&self, session: *mut WtSession, config: &CStr, key: &CStr) -> Option<WtConfigItem> {
        // SAFETY: the slot is `config_get_string`, the same in every release.
        let get =
            unsafe { method_at::<ConfigGetStringFn>(self.api.cast(), extension_head::CONFIG_GET_STRING) };
        let mut item = WtConfigItem::empty();
        // SAFETY: two NUL-terminated texts and a place for the answer.
        let code = unsafe { get(self.api, session, config.as_ptr(), key.as_ptr(), &raw mut item) };
        (code == 0).then_some(item)
    }
}

impl WtConfigItem {
    fn empty() -> Self {
        Self { text: ptr::null(), length: 0, value: 0, kind: 0 }
    }

    /// # Safety
    /// The item was filled by WiredTiger and what it points into still lives.
    unsafe fn to_vec(&self) -> Vec<u8> {
        if self.text.is_null() {
            return Vec::new();
        }
        // SAFETY: by the contract.
        unsafe { std::slice::from_raw_parts(self.text.cast::<u8>(), self.length) }.to_vec()
    }
}

/// Puts `replacement` in place of a session's `create` unless it is there already.
///
/// # Safety
/// `session` was just opened and its table has been verified to have `create` at `slot`.
pub(crate) unsafe fn set_create(session: *mut WtSession, slot: usize, replacement: CreateFn) {
    // SAFETY: the session's copy of its table lies in WiredTiger's heap, aligned and writable; nobody else has the session yet.
    let slot = unsafe { AtomicUsize::from_ptr(slot_of(session.cast(), slot)) };
    slot.store(replacement as usize, Ordering::Release);
}

/// The address of the function at `slot` of a session.
///
/// # Safety
/// `session` is open and its table has at least `slot + 1` members.
pub(crate) unsafe fn session_method(session: *mut WtSession, slot: usize) -> usize {
    // SAFETY: by the contract.
    unsafe { *slot_of(session.cast(), slot) }
}

/// The connection of a session: its first member in every release.
///
/// # Safety
/// `session` is open.
pub(crate) unsafe fn connection_of(session: *mut WtSession) -> usize {
    // SAFETY: by the contract.
    unsafe { *session.cast::<usize>() }
}

/// Starts a thread that no signal of the host process is delivered to: its handlers may expect threads of its own.
pub(crate) fn spawn_without_signals(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` fills the set; `pthread_sigmask` reads it and fills the other. A new thread inherits the mask.
    let masked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) == 0
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    if masked {
        // SAFETY: the set was filled by the successful call above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    thread
}

fn slot_of(table: *mut usize, slot: usize) -> *mut usize {
    table.wrapping_add(slot)
}

/// # Safety
/// `table` has a function of type `F`, a pointer to a function, at `slot`.
unsafe fn method_at<F: Copy>(table: *mut usize, slot: usize) -> F {
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    // SAFETY: by the contract.
    unsafe { *slot_of(table, slot).cast::<F>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encryptor_begins_as_wiredtiger_expects() {
        assert_eq!(std::mem::offset_of!(WtEncryptor, terminate), 4 * size_of::<usize>());
        assert_eq!(std::mem::offset_of!(WtEncryptor, reserved), 5 * size_of::<usize>());
        assert_eq!(size_of::<WtConfigItem>(), 32);
    }

    #[test]
    fn a_panic_ends_at_the_guard() {
        assert_eq!(guard(|| panic!("on purpose")), libc::EIO);
        assert_eq!(guard(|| 7), 7);
    }

    #[test]
    fn buffers_that_wiredtiger_never_passes_are_refused() {
        let mut bytes = [1_u8, 2, 3, 4, 5, 6];
        let start = bytes.as_mut_ptr();
        let of = |from: *const u8, from_length, to: *mut u8, to_length| {
            // SAFETY: within `bytes`, or null, and no slice is left when the next is made.
            let made = unsafe { buffers(from, from_length, to, to_length) };
            made.map(|(source, target)| (source.to_vec(), target.len()))
        };
        let at = |offset: usize| start.wrapping_add(offset);
        assert_eq!(of(at(0), 3, at(3), 3), Some((vec![1, 2, 3], 3)));
        assert_eq!(of(at(3), 3, at(0), 3), Some((vec![4, 5, 6], 3)));
        // An empty block, wherever it is said to be.
        let null = ptr::null_mut();
        assert_eq!(of(null, 0, at(0), 3), Some((vec![], 3)));
        assert_eq!(of(at(0), 3, null, 0), Some((vec![1, 2, 3], 0)));
        assert_eq!(of(null, 0, null, 0), Some((vec![], 0)));
        assert_eq!(of(at(1), 0, at(0), 3), Some((vec![], 3)));
        for (from, from_length, to, to_length) in [
            (null, 1, at(0), 3),
            (at(0), 3, null, 1),
            (at(0), 3, at(0), 3),
            (at(0), 4, at(3), 3),
            (at(2), 3, at(0), 3),
            (at(1), 1, at(0), 3),
            (at(0), usize::MAX, at(3), 3),
            (at(0), 3, at(3), isize::MAX as usize + 1),
        ] {
            assert_eq!(of(from, from_length, to, to_length), None, "{from_length} {to_length}");
        }
    }

    /// Whatever C calls begins with the guard: no panic gets out.
    #[test]
    fn every_entry_that_c_calls_is_guarded() {
        let sources = [
            include_str!("extension.rs"),
            include_str!("create_slots.rs"),
            include_str!("memory_map.rs"),
            include_str!("ffi.rs"),
        ];
        let mut entries = Vec::new();
        for source in sources {
            let product = source.split("#[cfg(test)]").next().unwrap();
            for (at, _) in product.match_indices("extern \"C\" fn ") {
                let rest = &product[at + "extern \"C\" fn ".len()..];
                // A type of functions has no name, one of ours has a body.
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let body = rest[rest.find(" {\n").unwrap() + 3..].trim_start();
                assert!(body.starts_with("guard(||"), "{name} isn't guarded: {}", &body[..40]);
                entries.push(name);
            }
        }
        entries.sort();
        assert_eq!(
            entries,
            [
                "customize",
                "decrypt",
                "encrypt",
                "open_session",
                "sizing",
                "terminate",
                "visit",
                "wiredtiger_extension_init",
                "wrapper",
            ]
        );
    }

    #[test]
    fn configuration_texts_end_at_the_null_pointer() {
        let first = c"(socket=\"/run/a\")";
        let list = [first.as_ptr(), c"second".as_ptr(), ptr::null()];
        // SAFETY: a list ended by a null pointer.
        let texts = unsafe { config_texts(list.as_ptr().cast_mut().cast()) };
        assert_eq!(texts, [first, c"second"]);
        // SAFETY: null is allowed.
        assert!(unsafe { config_texts(ptr::null_mut()) }.is_empty());
    }
}
