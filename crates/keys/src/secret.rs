//! One type per role of a key, each on locked memory.
//!
//! None of them can be cloned, dereferenced, compared with `==`, printed or serialized. `expose` is the one way to
//! the bytes, so a search for it finds every use.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use crate::locked::Locked;
pub use crate::locked::{MemoryLock, memory_lock, set_dont_fork};

/// Length of every key of keyward: 256 bits.
pub const KEY_BYTES: usize = 32;

/// Why a secret could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The bytes offered as a key have another length; they were wiped all the same.
    #[error("a key is {KEY_BYTES} bytes long, not {found}")]
    Length {
        /// How many bytes were offered.
        found: usize,
    },
    /// The kernel gave no memory for another slab.
    #[error("the system gave no memory for keys ({0})")]
    NoMemory(String),
    /// The random generator failed.
    #[error("the random generator gave no bytes")]
    NoRandomness,
}

impl SecretError {
    /// What the operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Length { .. } => "what was unwrapped is no key of keyward: check the ciphertext's origin",
            Self::NoMemory(_) => "free memory on this host, or raise the memory limit of this process",
            Self::NoRandomness => "check that getrandom(2) works on this host",
        }
    }
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name(Locked<[u8; KEY_BYTES]>);

        impl $name {
            /// A new random secret, filled in place.
            pub fn make() -> Result<Self, SecretError> {
                let mut slot = Locked::zeroed()?;
                aws_lc_rs::rand::fill(&mut slot.get_mut()[..]).map_err(|_| SecretError::NoRandomness)?;
                Ok(Self(slot))
            }

            /// Takes the secret out of `bytes`, which are wiped whether or not they have the right length.
            pub fn take_from(bytes: &mut [u8]) -> Result<Self, SecretError> {
                let result = Locked::zeroed().and_then(|mut slot: Locked<[u8; KEY_BYTES]>| {
                    if bytes.len() != KEY_BYTES {
                        return Err(SecretError::Length { found: bytes.len() });
                    }
                    slot.get_mut().copy_from_slice(bytes);
                    Ok(Self(slot))
                });
                bytes.zeroize();
                result
            }

            /// The bytes themselves. Whoever copies them must wipe the copy.
            pub fn expose(&self) -> &[u8; KEY_BYTES] {
                self.0.get()
            }

            /// Whether `bytes` are this secret, in constant time for a given length.
            pub fn is(&self, bytes: &[u8]) -> bool {
                bool::from(self.expose()[..].ct_eq(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret! {
    /// A node's master key: wraps its database keys. On disk only as the vault's ciphertext.
    MasterKey
}

secret! {
    /// The key of one database of one node, or a spare: encrypts pages.
    DatabaseKey
}

secret! {
    /// The 32 bytes that a probe asks the customer key to unwrap. They protect nothing.
    CanarySecret
}

impl DatabaseKey {
    /// Copies the key out of a buffer that its owner wipes.
    pub(crate) fn copy_of(bytes: &[u8]) -> Result<Self, SecretError> {
        let mut slot = Locked::<[u8; KEY_BYTES]>::zeroed()?;
        let found = bytes.len();
        slot.get_mut().copy_from_slice(bytes.get(..KEY_BYTES).ok_or(SecretError::Length { found })?);
        Ok(Self(slot))
    }

    /// A key that was unwrapped in place.
    pub(crate) fn from_slot(slot: Locked<[u8; KEY_BYTES]>) -> Self {
        Self(slot)
    }
}

impl CanarySecret {
    /// SHA-256 of the canary: kept in the keystore, so that a probe's answer can be checked.
    pub fn sha256(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.expose()).as_ref());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_wipes_the_source_in_every_case() {
        for len in [0, 31, 32, 33, 64] {
            let mut bytes = vec![7; len];
            let taken = MasterKey::take_from(&mut bytes);
            assert!(bytes.iter().all(|b| *b == 0), "{len} bytes");
            match taken {
                Ok(key) => assert!(len == 32 && key.is(&[7; 32])),
                Err(error) => assert_eq!(error, SecretError::Length { found: len }),
            }
        }
    }

    #[test]
    fn secrets_are_random_and_print_nothing() {
        let (a, b) = (DatabaseKey::make().unwrap(), DatabaseKey::make().unwrap());
        assert!(!a.is(b.expose()));
        assert!(!a.is(&[]));
        assert!(!a.is(&a.expose()[..31]));
        insta::assert_debug_snapshot!(a, @"DatabaseKey(..)");
        insta::assert_debug_snapshot!(MasterKey::make().unwrap(), @"MasterKey(..)");
        insta::assert_debug_snapshot!(CanarySecret::make().unwrap(), @"CanarySecret(..)");
    }

    /// Does not compile when one of the types has the trait: then two methods would fit.
    macro_rules! has_none_of {
        ([$($type:ty),+ $(,)?], $traits:tt) => { $(has_none_of!(@type $type, $traits);)+ };
        (@type $type:ty, [$($trait:path),+ $(,)?]) => {
            $(const _: fn() = || {
                trait Either<A> {
                    fn of() {}
                }
                impl<T: ?Sized> Either<()> for T {}
                #[allow(dead_code)]
                struct Has;
                impl<T: ?Sized + $trait> Either<Has> for T {}
                let _ = <$type as Either<_>>::of;
            };)+
        };
    }

    has_none_of!(
        [
            MasterKey,
            DatabaseKey,
            CanarySecret,
            Locked<[u8; KEY_BYTES]>,
            crate::page::PageCipher,
            crate::keystore::OpenKeystore,
            crate::keystore::Successor,
            crate::wire::WireKey,
            crate::wire::ToEncryptor,
            crate::wire::Frame,
        ],
        [
            Clone,
            Copy,
            std::ops::Deref,
            AsRef<[u8]>,
            std::borrow::Borrow<[u8]>,
            PartialEq,
            PartialOrd,
            std::hash::Hash,
            std::fmt::Display,
            std::fmt::LowerHex,
            serde::Serialize,
            serde::de::DeserializeOwned,
            Default,
        ]
    );

    #[test]
    fn the_canary_is_checked_by_its_sha256() {
        let canary = CanarySecret::take_from(&mut [0; 32]).unwrap();
        // SHA-256 of 32 zero bytes.
        assert_eq!(
            data_encoding::HEXLOWER.encode(&canary.sha256()),
            "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        );
    }
}
