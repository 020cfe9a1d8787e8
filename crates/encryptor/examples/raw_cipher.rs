//! What an encryptor costs that does nothing but the cipher: the yardstick of the `wtperf` benchmark, never shipped.
//!
//! One call of aws-lc's AES-256-GCM for a page, under one key that everybody knows, and no check of anything. Its blocks are
//! as long as keyward's, so that both move the same bytes. Loaded with `entry=raw_cipher_extension_init` into WiredTiger
//! 11.3.1 only: nothing is verified here.
#![allow(unsafe_code, reason = "entries that WiredTiger calls, and hands raw pointers to")]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::slice;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use keyward_encryptor::layout;
use keyward_keys::page::OVERHEAD;

/// The layout of the one WiredTiger that this is loaded into.
const LAYOUT: &str = "wiredtiger-11.3.1";
const TAG_BYTES: usize = 16;

/// `WT_ENCRYPTOR`.
#[repr(C)]
struct Encryptor {
    encrypt: Transform,
    decrypt: Transform,
    sizing: unsafe extern "C" fn(*mut Encryptor, *mut c_void, *mut usize) -> c_int,
    customize: *const c_void,
    terminate: *const c_void,
}

type Transform =
    unsafe extern "C" fn(*mut Encryptor, *mut c_void, *mut u8, usize, *mut u8, usize, *mut usize) -> c_int;
type AddEncryptor = unsafe extern "C" fn(*mut c_void, *const c_char, *mut Encryptor, *const c_char) -> c_int;

// A key that guards nothing.
static KEY: LazyLock<Option<LessSafeKey>> =
    LazyLock::new(|| UnboundKey::new(&AES_256_GCM, &[7; 32]).ok().map(LessSafeKey::new));
static PAGES: AtomicU64 = AtomicU64::new(0);

/// Registers the encryptor under the name `raw`.
///
/// # Safety
/// WiredTiger 11.3.1 calls it with a connection that is being opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn raw_cipher_extension_init(connection: *mut c_void, _config: *mut c_void) -> c_int {
    let Some(tables) = layout::by_name(LAYOUT).and_then(|layout| layout.tables) else { return libc::EINVAL };
    let encryptor = Encryptor { encrypt, decrypt, sizing, customize: ptr::null(), terminate: ptr::null() };
    // WiredTiger keeps it until the process ends: no `terminate` is called where there is none.
    let encryptor = Box::into_raw(Box::new(encryptor));
    // SAFETY: a connection begins with the table of its methods, and in this release `add_encryptor` stands at that slot.
    let add = unsafe { connection.cast::<AddEncryptor>().add(tables.connection.add_encryptor).read() };
    // SAFETY: the connection is being opened, the encryptor is never freed, a null configuration is allowed.
    unsafe { add(connection, c"raw".as_ptr(), encryptor, ptr::null()) }
}

unsafe extern "C" fn encrypt(
    _: *mut Encryptor,
    _: *mut c_void,
    source: *mut u8,
    source_length: usize,
    target: *mut u8,
    target_length: usize,
    result_length: *mut usize,
) -> c_int {
    // SAFETY: WiredTiger passes buffers of these lengths that don't overlap.
    let (plain, sealed) = unsafe {
        (slice::from_raw_parts(source, source_length), slice::from_raw_parts_mut(target, target_length))
    };
    let Some(sealed) = sealed.get_mut(..plain.len() + OVERHEAD) else { return libc::ENOMEM };
    let (header, body) = sealed.split_at_mut(OVERHEAD - TAG_BYTES);
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&PAGES.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    header.fill(0);
    header[..NONCE_LEN].copy_from_slice(&nonce);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let sealed = KEY.as_ref().map(|key| key.seal_in_place_scatter(nonce, Aad::empty(), &mut [], plain, body));
    if !matches!(sealed, Some(Ok(()))) {
        return libc::EIO;
    }
    // SAFETY: a place for the result.
    unsafe { *result_length = plain.len() + OVERHEAD };
    0
}

unsafe extern "C" fn decrypt(
    _: *mut Encryptor,
    _: *mut c_void,
    source: *mut u8,
    source_length: usize,
    target: *mut u8,
    target_length: usize,
    result_length: *mut usize,
) -> c_int {
    // SAFETY: as in `encrypt`.
    let (sealed, plain) = unsafe {
        (slice::from_raw_parts(source, source_length), slice::from_raw_parts_mut(target, target_length))
    };
    let Some((header, body)) = sealed.split_at_checked(OVERHEAD - TAG_BYTES) else { return libc::EIO };
    let (Some(nonce), Some((ciphertext, tag))) =
        (header.first_chunk::<NONCE_LEN>(), body.split_last_chunk::<TAG_BYTES>())
    else {
        return libc::EIO;
    };
    let Some(plain) = plain.get_mut(..ciphertext.len()) else { return libc::ENOMEM };
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened =
        KEY.as_ref().map(|key| key.open_separate_gather(nonce, Aad::empty(), ciphertext, tag, plain));
    if !matches!(opened, Some(Ok(()))) {
        return libc::EIO;
    }
    // SAFETY: a place for the result.
    unsafe { *result_length = ciphertext.len() };
    0
}

unsafe extern "C" fn sizing(_: *mut Encryptor, _: *mut c_void, expansion: *mut usize) -> c_int {
    // SAFETY: a place for the number.
    unsafe { *expansion = OVERHEAD };
    0
}
