//! XAES-256-GCM: AES-256-GCM with 24-byte nonces, as the C2SP specification `XAES-256-GCM` fixes it.
//!
//! The first 12 bytes of the nonce (the *prefix*) derive an AES key, the other 12 are that key's GCM nonce. Whoever
//! keeps the derived key for a prefix pays nothing for the longer nonce.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use zeroize::Zeroizing;

use crate::{
    locked::{GcmKey, Locked},
    secret::SecretError,
};

pub(crate) const NONCE_BYTES: usize = 24;
pub(crate) const PREFIX_BYTES: usize = 12;

/// The key-dependent part of every derivation: AES under the key, and `K1`.
pub(crate) struct Xaes {
    block: Locked<EncryptingKey>,
    k1: Locked<[u8; 16]>,
}

impl Xaes {
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, SecretError> {
        let block = UnboundCipherKey::new(&AES_256, key)
            .and_then(EncryptingKey::ecb)
            .map_err(|_| SecretError::NoMemory("no AES key schedule".to_owned()))?;
        let block = Locked::new(block)?;
        let mut k1 = Locked::<[u8; 16]>::zeroed()?;
        encrypt_blocks(block.get(), k1.get_mut());
        // K1 = L << 1, with the polynomial added when a bit falls out (as in CMAC).
        let l = u128::from_be_bytes(*k1.get());
        let doubled = (l << 1) ^ (0x87 * (l >> 127));
        *k1.get_mut() = doubled.to_be_bytes();
        Ok(Self { block, k1 })
    }

    /// The AES-256-GCM key for all nonces that begin with `prefix`.
    pub(crate) fn derive(&self, prefix: &[u8; PREFIX_BYTES]) -> Result<GcmKey, SecretError> {
        let mut key = Zeroizing::new([0_u8; 32]);
        for (counter, block) in (1..=2).zip(key.chunks_exact_mut(16)) {
            block[1] = counter;
            block[2] = b'X';
            block[4..].copy_from_slice(prefix);
            for (byte, k1) in block.iter_mut().zip(self.k1.get()) {
                *byte ^= k1;
            }
        }
        encrypt_blocks(self.block.get(), &mut key[..]);
        GcmKey::new(&key, prefix)
    }
}

fn encrypt_blocks(key: &EncryptingKey, blocks: &mut [u8]) {
    key.less_safe_encrypt(blocks, EncryptionContext::None)
        .expect("AES in ECB mode takes any whole number of blocks");
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use sha3::{
        Shake128,
        digest::{ExtendableOutput as _, Update as _, XofReader as _},
    };

    use super::*;
    use crate::locked::TAG_BYTES;

    fn seal(key: &[u8; 32], nonce: &[u8; NONCE_BYTES], aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let (prefix, suffix) = (nonce.first_chunk().unwrap(), nonce.last_chunk().unwrap());
        let derived = Xaes::new(key).unwrap().derive(prefix).unwrap();
        let mut sealed = vec![0; plain.len() + TAG_BYTES];
        assert!(derived.seal(suffix, aad, plain, &mut sealed));
        let mut opened = vec![0; plain.len()];
        let (ciphertext, tag) = sealed.split_last_chunk().unwrap();
        assert!(derived.open(suffix, aad, ciphertext, tag, &mut opened));
        assert_eq!(opened, plain);
        sealed
    }

    /// C2SP XAES-256-GCM, "Test vectors": the most significant bit of `L` is 0 for the one, 1 for the other.
    #[test]
    fn c2sp_vectors() {
        let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
        assert_eq!(
            HEXLOWER.encode(&seal(&[1; 32], nonce, b"", b"XAES-256-GCM")),
            "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"
        );
        assert_eq!(
            HEXLOWER.encode(&seal(&[3; 32], nonce, b"c2sp.org/XAES-256-GCM", b"XAES-256-GCM")),
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"
        );
    }

    /// C2SP XAES-256-GCM, "Accumulated randomized tests": 10,000 inputs drawn from one SHAKE128, all ciphertexts
    /// absorbed by another.
    #[test]
    fn c2sp_accumulated_vectors() {
        let mut draw = Shake128::default().finalize_xof();
        let mut all = Shake128::default();
        for _ in 0..10_000 {
            let (mut key, mut nonce, mut len) = ([0; 32], [0; NONCE_BYTES], [0]);
            draw.read(&mut key);
            draw.read(&mut nonce);
            draw.read(&mut len);
            let mut plain = vec![0; usize::from(len[0])];
            draw.read(&mut plain);
            draw.read(&mut len);
            let mut aad = vec![0; usize::from(len[0])];
            draw.read(&mut aad);
            all.update(&seal(&key, &nonce, &aad, &plain));
        }
        let mut digest = [0; 32];
        all.finalize_xof().read(&mut digest);
        assert_eq!(
            HEXLOWER.encode(&digest),
            "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"
        );
    }
}
