//! The server key: what seals secrets in the database.
//!
//! Owns the key file and the sealed format. The key never leaves this module; it is wiped when the last copy goes.
//!
//! ```text
//! key file   keyward-server-key-1:BASE64URL(32 bytes)\n
//! sealed     01 ‖ salt (32) ‖ AES-256-GCM(plain) ‖ tag (16)
//! ```
//!
//! Each value is sealed under a key and nonce of its own, derived from the server key and a random salt by
//! HKDF-SHA256, so that no number of values wears the server key out. Version and purpose are associated data: a
//! value that is moved to another owner does not open.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand,
};
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use crate::StoreError;

const KEY_LEN: usize = 32;
const SALT_LEN: usize = 32;
const TAG_LEN: usize = 16;
const SEALED_VERSION: u8 = 1;
const FILE_PREFIX: &str = "keyward-server-key-1:";
const FILE_LEN_MAX: u64 = 256;
const DERIVE_INFO: &[u8] = b"keyward store sealed value 1";

/// The 256-bit key of the server.
#[derive(Clone)]
pub struct ServerKey(Arc<Zeroizing<[u8; KEY_LEN]>>);

impl ServerKey {
    /// Makes a key and its file, mode 0600. An existing file is left as it is.
    pub fn make_file(path: &Path) -> Result<ServerKey, StoreError> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        fill_random(&mut *key);
        let mut text = Zeroizing::new(String::with_capacity(FILE_LEN_MAX as usize));
        text.push_str(FILE_PREFIX);
        BASE64URL_NOPAD.encode_append(&*key, &mut text);
        text.push('\n');
        write_new_private(path, text.as_bytes())?;
        Ok(Self(Arc::new(key)))
    }

    /// Reads a key from its file, which nobody but its owner may reach.
    pub fn read_file(path: &Path) -> Result<ServerKey, StoreError> {
        let failed =
            |source| StoreError::File { doing: "read the server key", path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let none = || StoreError::NoServerKey { path: path.to_owned() };
        if !metadata.is_file() || metadata.len() > FILE_LEN_MAX {
            return Err(none());
        }
        check_private(path, &metadata)?;
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_LEN_MAX as usize));
        (&mut file).take(FILE_LEN_MAX).read_to_end(&mut text).map_err(failed)?;
        let encoded = text.strip_prefix(FILE_PREFIX.as_bytes()).ok_or_else(none)?.trim_ascii_end();
        if BASE64URL_NOPAD.decode_len(encoded.len()) != Ok(KEY_LEN) {
            return Err(none());
        }
        let mut key = Zeroizing::new([0; KEY_LEN]);
        BASE64URL_NOPAD.decode_mut(encoded, &mut *key).map_err(|_| none())?;
        Ok(Self(Arc::new(key)))
    }

    /// Seals `plain` for one purpose (`secret:encryption:…`).
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(1 + SALT_LEN + plain.len() + TAG_LEN);
        let mut salt = [0; SALT_LEN];
        fill_random(&mut salt);
        sealed.push(SEALED_VERSION);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(plain);
        let (key, nonce) = self.derive(&salt);
        let tag = key
            .seal_in_place_separate_tag(nonce, associated(purpose), &mut sealed[1 + SALT_LEN..])
            .expect("AES-GCM seals anything that fits in memory");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what was sealed for the same purpose.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let refused = || StoreError::Sealed { owner: purpose.to_owned() };
        let (&version, rest) = sealed.split_first().ok_or_else(refused)?;
        let (salt, body) = rest.split_at_checked(SALT_LEN).ok_or_else(refused)?;
        if version != SEALED_VERSION {
            return Err(refused());
        }
        let mut buffer = Zeroizing::new(body.to_vec());
        let (key, nonce) = self.derive(salt);
        let len = key.open_in_place(nonce, associated(purpose), &mut buffer).map_err(|_| refused())?.len();
        buffer.truncate(len);
        Ok(buffer)
    }

    /// The key and nonce of one value.
    fn derive(&self, salt: &[u8]) -> (LessSafeKey, Nonce) {
        let mut derived = Zeroizing::new([0; KEY_LEN + NONCE_LEN]);
        Salt::new(HKDF_SHA256, salt)
            .extract(&self.0[..])
            .expand(&[DERIVE_INFO], DerivedLen)
            .and_then(|derivation| derivation.fill(&mut *derived))
            .expect("44 bytes are within HKDF's bound");
        let (key, nonce) = derived.split_at(KEY_LEN);
        let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has the cipher's length");
        let nonce = Nonce::try_assume_unique_for_key(nonce).expect("the nonce has the cipher's length");
        (LessSafeKey::new(key), nonce)
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerKey")
    }
}

/// Refuses a file that others than its owner can reach.
pub(crate) fn check_private(path: &Path, metadata: &fs::Metadata) -> Result<(), StoreError> {
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(StoreError::TooOpen { path: path.to_owned(), mode }) }
}

/// Fills a buffer from the operating system's random source.
pub(crate) fn fill_random(buffer: &mut [u8]) {
    rand::fill(buffer).expect("the operating system gives random bytes");
}

struct DerivedLen;

impl KeyType for DerivedLen {
    fn len(&self) -> usize {
        KEY_LEN + NONCE_LEN
    }
}

fn associated(purpose: &str) -> Aad<Vec<u8>> {
    let mut data = Vec::with_capacity(1 + purpose.len());
    data.push(SEALED_VERSION);
    data.extend_from_slice(purpose.as_bytes());
    Aad::from(data)
}

/// Writes a new file whole and durably: written beside it, then linked to its name, which fails where one exists.
fn write_new_private(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let failed = |source: io::Error| StoreError::File { doing: "write", path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut suffix = [0; 8];
    fill_random(&mut suffix);
    let draft = folder.join(format!(".server-key.{}", data_encoding::HEXLOWER.encode(&suffix)));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::hard_link(&draft, path)
    })();
    let removed = fs::remove_file(&draft);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(StoreError::KeyFileExists { path: path.to_owned() });
        }
        Err(error) => return Err(failed(error)),
        Ok(()) => removed.map_err(failed)?,
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn key() -> (tempfile::TempDir, ServerKey) {
        let dir = tempfile::tempdir().unwrap();
        let key = ServerKey::make_file(&dir.path().join("server.key")).unwrap();
        (dir, key)
    }

    #[test]
    fn a_key_file_is_private_whole_and_never_overwritten() {
        let (dir, key) = key();
        let path = dir.path().join("server.key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let sealed = key.seal("p", b"apricot");
        let read = ServerKey::read_file(&path).unwrap();
        assert_eq!(**read.open("p", &sealed).unwrap(), *b"apricot");
        let before = fs::read(&path).unwrap();
        let refused = ServerKey::make_file(&path).unwrap_err();
        assert!(matches!(refused, StoreError::KeyFileExists { .. }), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn a_key_file_that_others_reach_is_refused() {
        let (dir, _) = key();
        let path = dir.path().join("server.key");
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = ServerKey::read_file(&path).unwrap_err();
            assert!(matches!(refused, StoreError::TooOpen { mode: found, .. } if found == mode), "{refused}");
            assert!(refused.hint().contains("0600"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        ServerKey::read_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_key_file_is_refused_and_not_shown() {
        let (dir, _) = key();
        let whole = fs::read_to_string(dir.path().join("server.key")).unwrap();
        let path = dir.path().join("other");
        let short = whole[..whole.len() - 3].to_owned();
        for content in ["", "hunter2", FILE_PREFIX, &short, &whole.replace("-1:", "-2:"), &"x".repeat(300)] {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            let refused = ServerKey::read_file(&path).unwrap_err();
            assert!(matches!(refused, StoreError::NoServerKey { .. }), "{content}: {refused}");
            assert!(!format!("{refused} {refused:?}").contains("hunter2"));
        }
        let missing = ServerKey::read_file(&dir.path().join("missing")).unwrap_err();
        assert!(matches!(missing, StoreError::File { .. }), "{missing}");
        assert!(matches!(ServerKey::read_file(dir.path()).unwrap_err(), StoreError::NoServerKey { .. }));
    }

    #[test]
    fn debug_shows_nothing() {
        let (dir, key) = key();
        assert_eq!(format!("{key:?} {key:#?}"), "ServerKey ServerKey");
        let text = fs::read_to_string(dir.path().join("server.key")).unwrap();
        assert!(text.starts_with(FILE_PREFIX), "positive control: the file does hold it");
    }

    #[test]
    fn the_same_value_is_sealed_differently_each_time() {
        let (_dir, key) = key();
        assert_ne!(key.seal("p", b"apricot"), key.seal("p", b"apricot"));
    }

    proptest! {
        #[test]
        fn a_sealed_value_opens_only_whole_for_its_purpose_and_key(
            plain in proptest::collection::vec(any::<u8>(), 0..200),
            flip in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let (_dir, key) = key();
            let sealed = key.seal("secret:encryption:a", &plain);
            prop_assert_eq!(&**key.open("secret:encryption:a", &sealed).unwrap(), &plain[..]);
            prop_assert!(key.open("secret:encryption:b", &sealed).is_err());
            let (_other_dir, other) = self::key();
            prop_assert!(other.open("secret:encryption:a", &sealed).is_err());
            let mut damaged = sealed.clone();
            let at = flip.index(damaged.len());
            damaged[at] ^= 1 << bit;
            prop_assert!(key.open("secret:encryption:a", &damaged).is_err());
            prop_assert!(key.open("secret:encryption:a", &sealed[..at]).is_err());
        }
    }
}
