//! What a master key does: it wraps database keys and authenticates the keystore file.

use aws_lc_rs::{hkdf, hmac};

use super::{Purpose, Wrapped};
use crate::{
    DatabaseKey, KeyId, MasterKey, NodeId, SecretError, locked::Locked, scrub::scrubbed, xaes::Xaes,
};

/// The two keys derived from a master key. Made for one operation and dropped, never kept.
pub(super) struct WrappingKeys {
    wrap: Xaes,
    mac: hmac::Key,
}

impl WrappingKeys {
    pub(super) fn derive(master: &MasterKey) -> Result<Self, SecretError> {
        let wrap = Xaes::new(derive_key(master, b"keyward keystore v1 wrap")?.get())?;
        let mac = hmac::Key::new(hmac::HMAC_SHA256, derive_key(master, b"keyward keystore v1 mac")?.get());
        Ok(Self { wrap, mac })
    }

    pub(super) fn mac(&self, covered: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&self.mac, covered);
        let mut mac = [0; 32];
        mac.copy_from_slice(tag.as_ref());
        mac
    }

    pub(super) fn mac_fits(&self, covered: &[u8], mac: &[u8; 32]) -> bool {
        hmac::verify(&self.mac, covered, mac).is_ok()
    }

    pub(super) fn wrap(&self, place: &Place<'_>, key: &[u8; 32]) -> Result<Wrapped, SecretError> {
        let mut wrapped = Wrapped { nonce: [0; 24], ciphertext: [0; 48] };
        aws_lc_rs::rand::fill(&mut wrapped.nonce).map_err(|_| SecretError::NoRandomness)?;
        let (prefix, suffix) = wrapped.nonce_halves();
        if self.wrap.derive(&prefix)?.seal(&suffix, &place.associated_data(), key, &mut wrapped.ciphertext) {
            Ok(wrapped)
        } else {
            Err(SecretError::NoMemory("no room to wrap a key".to_owned()))
        }
    }

    /// `None` when the ciphertext does not verify in this place.
    pub(super) fn unwrap(
        &self,
        place: &Place<'_>,
        wrapped: &Wrapped,
    ) -> Result<Option<DatabaseKey>, SecretError> {
        let (prefix, suffix) = wrapped.nonce_halves();
        let gcm = self.wrap.derive(&prefix)?;
        let mut key = Locked::<[u8; 32]>::zeroed()?;
        let opened = wrapped.ciphertext.split_last_chunk().is_some_and(|(sealed, tag)| {
            gcm.open(&suffix, &place.associated_data(), sealed, tag, key.get_mut())
        });
        Ok(opened.then(|| DatabaseKey::from_slot(key)))
    }
}

/// Where a wrapped key stands. It unwraps nowhere else.
pub(super) struct Place<'a> {
    pub(super) node_id: NodeId,
    pub(super) key_id: KeyId,
    pub(super) purpose: &'a Purpose,
}

impl Place<'_> {
    /// A label, the node id (16 bytes), the key id (16 bytes), the purpose (1 byte), the database's name.
    fn associated_data(&self) -> Vec<u8> {
        let (purpose, name) = match self.purpose {
            Purpose::System => (b's', ""),
            Purpose::Database(name) => (b'd', name.as_str()),
            Purpose::Spare => (b'-', ""),
        };
        [
            &b"keyward database key v1"[..],
            self.node_id.as_bytes(),
            self.key_id.as_bytes(),
            &[purpose],
            name.as_bytes(),
        ]
        .concat()
    }
}

impl Wrapped {
    fn nonce_halves(&self) -> ([u8; 12], [u8; 12]) {
        let (mut prefix, mut suffix) = ([0; 12], [0; 12]);
        prefix.copy_from_slice(&self.nonce[..12]);
        suffix.copy_from_slice(&self.nonce[12..]);
        (prefix, suffix)
    }
}

/// HKDF-SHA-256 without salt (RFC 5869).
pub(crate) fn hkdf_sha256(secret: &[u8; 32], info: &[u8], out: &mut [u8; 32]) -> Result<(), SecretError> {
    let prk = hkdf::Salt::none(hkdf::HKDF_SHA256).extract(secret);
    prk.expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out[..]))
        .map_err(|_| SecretError::NoMemory("no memory to derive a key".to_owned()))
}

/// The same for the same master key, and of no use to find it. Never written down.
pub(super) fn fingerprint(master: &MasterKey) -> Result<[u8; 32], SecretError> {
    scrubbed(|| Ok(*derive_key(master, b"keyward master key fingerprint")?.get()))
}

fn derive_key(master: &MasterKey, info: &[u8]) -> Result<Locked<[u8; 32]>, SecretError> {
    let mut key = Locked::zeroed()?;
    hkdf_sha256(master.expose(), info, key.get_mut())?;
    Ok(key)
}
