//! Key pairs and what a vault does with them: RSA, and EC of P-256, which is made and shown only. The only file that touches private keys.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{
    KeyPair, KeyPairComponents, KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm,
    OaepPrivateDecryptingKey, OaepPublicEncryptingKey, Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey,
    PrivateDecryptingKey, PublicKeyComponents,
};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

/// A key pair as it is kept in the state file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Material {
    /// PKCS#8, base64url.
    pkcs8: String,
    /// Modulus, base64url; empty for what is not RSA.
    pub n: String,
    /// Public exponent, base64url; empty for what is not RSA.
    pub e: String,
    /// The public point of an EC key pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<Point>,
}

/// A point of P-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Point {
    /// base64url.
    pub x: String,
    /// base64url.
    pub y: String,
}

/// Size, in bits, by which an EC key pair is asked for.
pub const EC_BITS: u32 = 256;

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("n", &self.n).field("e", &self.e).finish_non_exhaustive()
    }
}

/// Big-endian components of an RSA private key, as a JWK carries them.
pub struct Components {
    /// Modulus.
    pub n: Vec<u8>,
    /// Public exponent.
    pub e: Vec<u8>,
    /// Private exponent.
    pub d: Vec<u8>,
    /// First prime.
    pub p: Vec<u8>,
    /// Second prime.
    pub q: Vec<u8>,
    /// `d mod (p - 1)`.
    pub dp: Vec<u8>,
    /// `d mod (q - 1)`.
    pub dq: Vec<u8>,
    /// Inverse of `q` modulo `p`.
    pub qi: Vec<u8>,
}

/// Why a key pair can't be made or used. Says nothing about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// Not a size that Key Vault makes.
    #[error("RSA keys have 2048, 3072 or 4096 bits, not {0}")]
    Size(u32),
    /// The components don't belong together.
    #[error("the components do not make an RSA key")]
    Inconsistent,
    /// The library failed.
    #[error("the RSA key could not be used")]
    Unusable,
    /// More than the padding leaves room for.
    #[error("{given} bytes are too many for this key and algorithm: at most {largest}")]
    TooLong {
        /// Length that came.
        given: usize,
        /// Longest that fits.
        largest: usize,
    },
    /// Ciphertext of the wrong length, or made with another key or algorithm.
    #[error("the value could not be decrypted with this key and algorithm")]
    Undecryptable,
}

/// RSA algorithms of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// OAEP with SHA-256.
    RsaOaep256,
    /// OAEP with SHA-1.
    RsaOaep,
    /// PKCS #1 v1.5.
    Rsa15,
}

impl Algorithm {
    /// From the name that a request gives.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "RSA-OAEP-256" => Some(Self::RsaOaep256),
            "RSA-OAEP" => Some(Self::RsaOaep),
            "RSA1_5" => Some(Self::Rsa15),
            _ => None,
        }
    }

    fn oaep(self) -> Option<&'static OaepAlgorithm> {
        match self {
            Self::RsaOaep256 => Some(&OAEP_SHA256_MGF1SHA256),
            Self::RsaOaep => Some(&OAEP_SHA1_MGF1SHA1),
            Self::Rsa15 => None,
        }
    }
}

impl Material {
    /// A new random RSA key pair of 2048, 3072 or 4096 bits, which takes from tenths of a second to seconds; or,
    /// with [`EC_BITS`], an EC one.
    pub fn make(bits: u32) -> Result<Self, MaterialError> {
        let size = match bits {
            EC_BITS => return Self::make_ec(),
            2048 => KeySize::Rsa2048,
            3072 => KeySize::Rsa3072,
            4096 => KeySize::Rsa4096,
            other => return Err(MaterialError::Size(other)),
        };
        Self::keep(&KeyPair::generate(size).map_err(|_| MaterialError::Unusable)?)
    }

    fn make_ec() -> Result<Self, MaterialError> {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| MaterialError::Unusable)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| MaterialError::Unusable)?;
        // Uncompressed: 4, then both coordinates.
        let (x, y) = match pair.public_key().as_ref() {
            [4, point @ ..] if point.len() == 64 => point.split_at(32),
            _ => return Err(MaterialError::Unusable),
        };
        Ok(Self {
            pkcs8: BASE64URL_NOPAD.encode(pkcs8.as_ref()),
            n: String::new(),
            e: String::new(),
            point: Some(Point { x: BASE64URL_NOPAD.encode(x), y: BASE64URL_NOPAD.encode(y) }),
        })
    }

    /// For tests of clients: the public half, and no other, of an RSA key of a size that no vault makes; of 0 bits, a
    /// key that has no public half. A random odd number stands for the modulus: it is shown, and nothing is done with
    /// it.
    pub fn shown_only_for_tests(bits: u32) -> Result<Self, MaterialError> {
        let length = usize::try_from(bits / 8).map_err(|_| MaterialError::Size(bits))?;
        let mut modulus = vec![0; length];
        aws_lc_rs::rand::fill(&mut modulus).map_err(|_| MaterialError::Unusable)?;
        if let [first, .., last] = modulus.as_mut_slice() {
            *first |= 0x80;
            *last |= 1;
        }
        let exponent: &[u8] = if modulus.is_empty() { &[] } else { &[1, 0, 1] };
        Ok(Self {
            pkcs8: String::new(),
            n: BASE64URL_NOPAD.encode(&modulus),
            e: BASE64URL_NOPAD.encode(exponent),
            point: None,
        })
    }

    /// A key pair that somebody brings.
    pub fn import(components: &Components) -> Result<Self, MaterialError> {
        let bits = u32::try_from(components.n.len() * 8).unwrap_or(u32::MAX);
        if ![2048, 3072, 4096].contains(&bits) {
            return Err(MaterialError::Size(bits));
        }
        let parts = KeyPairComponents {
            public_key: PublicKeyComponents { n: &components.n, e: &components.e },
            d: &components.d,
            p: &components.p,
            q: &components.q,
            dP: &components.dp,
            dQ: &components.dq,
            qInv: &components.qi,
        };
        Self::keep(&KeyPair::from_components(&parts).map_err(|_| MaterialError::Inconsistent)?)
    }

    fn keep(pair: &KeyPair) -> Result<Self, MaterialError> {
        let pkcs8 = pair.as_der().map_err(|_| MaterialError::Unusable)?;
        let public = pair.public_key();
        Ok(Self {
            pkcs8: BASE64URL_NOPAD.encode(pkcs8.as_ref()),
            n: BASE64URL_NOPAD.encode(public.modulus().big_endian_without_leading_zero()),
            e: BASE64URL_NOPAD.encode(public.exponent().big_endian_without_leading_zero()),
            point: None,
        })
    }

    /// Bits of the modulus, or of the curve.
    pub fn bits(&self) -> u32 {
        if self.point.is_some() {
            return EC_BITS;
        }
        u32::try_from(self.n.len() * 6 / 8 * 8).unwrap_or(0)
    }

    /// The key as PKCS#1 DER, for signing tokens: what PKCS#8 wraps, after a header that is 26 bytes long for
    /// every RSA key of 2048 to 4096 bits.
    pub(crate) fn pkcs1(&self) -> Result<Vec<u8>, MaterialError> {
        let pkcs8 = self.pkcs8()?;
        match pkcs8.get(26..) {
            Some(inner) if inner.starts_with(&[0x30, 0x82]) => Ok(inner.to_vec()),
            _ => Err(MaterialError::Unusable),
        }
    }

    fn pkcs8(&self) -> Result<Vec<u8>, MaterialError> {
        BASE64URL_NOPAD.decode(self.pkcs8.as_bytes()).map_err(|_| MaterialError::Unusable)
    }

    fn private(&self) -> Result<PrivateDecryptingKey, MaterialError> {
        PrivateDecryptingKey::from_pkcs8(&self.pkcs8()?).map_err(|_| MaterialError::Unusable)
    }

    /// Encrypts under the public key.
    pub fn encrypt(&self, algorithm: Algorithm, plain: &[u8]) -> Result<Vec<u8>, MaterialError> {
        let public = self.private()?.public_key();
        let mut out = vec![0; public.key_size_bytes()];
        let unusable = |_| MaterialError::Unusable;
        let fits = |largest| {
            if plain.len() > largest {
                Err(MaterialError::TooLong { given: plain.len(), largest })
            } else {
                Ok(())
            }
        };
        let written = match algorithm.oaep() {
            Some(oaep) => {
                let key = OaepPublicEncryptingKey::new(public).map_err(unusable)?;
                fits(key.max_plaintext_size(oaep))?;
                key.encrypt(oaep, plain, &mut out, None).map_err(unusable)?.len()
            }
            None => {
                let key = Pkcs1PublicEncryptingKey::new(public).map_err(unusable)?;
                fits(key.max_plaintext_size())?;
                key.encrypt(plain, &mut out).map_err(unusable)?.len()
            }
        };
        out.truncate(written);
        Ok(out)
    }

    /// Decrypts with the private key.
    pub fn decrypt(&self, algorithm: Algorithm, sealed: &[u8]) -> Result<Vec<u8>, MaterialError> {
        let private = self.private()?;
        if sealed.len() != private.key_size_bytes() {
            return Err(MaterialError::Undecryptable);
        }
        let mut out = vec![0; private.key_size_bytes()];
        let undecryptable = |_| MaterialError::Undecryptable;
        let written = match algorithm.oaep() {
            Some(oaep) => {
                let key = OaepPrivateDecryptingKey::new(private).map_err(|_| MaterialError::Unusable)?;
                key.decrypt(oaep, sealed, &mut out, None).map_err(undecryptable)?.len()
            }
            None => {
                let key = Pkcs1PrivateDecryptingKey::new(private).map_err(|_| MaterialError::Unusable)?;
                key.decrypt(sealed, &mut out).map_err(undecryptable)?.len()
            }
        };
        out.truncate(written);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_algorithm_opens_what_it_sealed_and_no_other() {
        let key = Material::make(2048).unwrap();
        let all = [Algorithm::RsaOaep256, Algorithm::RsaOaep, Algorithm::Rsa15];
        for sealer in all {
            let sealed = key.encrypt(sealer, &[7; 96]).unwrap();
            for opener in all {
                let opened = key.decrypt(opener, &sealed);
                if sealer == opener {
                    assert_eq!(opened.unwrap(), [7; 96]);
                } else {
                    assert_ne!(opened.ok().as_deref(), Some(&[7; 96][..]));
                }
            }
        }
    }

    #[test]
    fn what_is_only_shown_has_the_size_it_shows_and_does_nothing() {
        for bits in [1024, 8192] {
            let key = Material::shown_only_for_tests(bits).unwrap();
            assert_eq!(key.bits(), bits);
            assert_eq!(key.encrypt(Algorithm::RsaOaep256, &[7; 32]), Err(MaterialError::Unusable));
        }
        assert_eq!(Material::shown_only_for_tests(0).unwrap().n, "");
    }

    #[test]
    fn largest_input_is_what_oaep_leaves() {
        for (bits, largest) in [(2048, 190), (3072, 318), (4096, 446)] {
            let key = Material::make(bits).unwrap();
            assert_eq!(key.bits(), bits);
            assert!(key.encrypt(Algorithm::RsaOaep256, &vec![1; largest]).is_ok());
            assert_eq!(
                key.encrypt(Algorithm::RsaOaep256, &vec![1; largest + 1]),
                Err(MaterialError::TooLong { given: largest + 1, largest })
            );
        }
    }

    #[test]
    fn debug_shows_no_private_part() {
        let key = Material::make(2048).unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.n));
        assert!(!shown.contains(&key.pkcs8[40..80]));
    }

    #[test]
    fn signing_form_is_found_for_every_size() {
        for bits in [2048, 3072, 4096] {
            let der = Material::make(bits).unwrap().pkcs1().unwrap();
            assert!(KeyPair::from_der(&der).is_ok());
        }
    }

    #[test]
    fn odd_sizes_are_refused() {
        assert_eq!(Material::make(1024).unwrap_err(), MaterialError::Size(1024));
    }
}
