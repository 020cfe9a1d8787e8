//! Names that say nothing about what they name: key ids and node ids.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of a master key or a database key: 16 random bytes, written as 32 lower-case hexadecimal characters.
///
/// This text is what WiredTiger is given as `keyid`. An id is never reused.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// A new random id.
    pub fn make() -> Self {
        Self(random_16())
    }

    /// From the bytes of a page header or a frame.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, as they stand in a page header.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// A text that is not 32 lower-case hexadecimal characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key id is 32 lower-case hexadecimal characters, not `{0}`")]
pub struct KeyIdError(pub String);

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        if text.len() != 32 {
            return Err(KeyIdError(text.to_owned()));
        }
        data_encoding::HEXLOWER
            .decode_mut(text.as_bytes(), &mut bytes)
            .map_err(|_| KeyIdError(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(data_encoding::HEXLOWER.encode_display(&self.0).to_string().as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The name of a node: a random UUID, made with its keystore.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(Uuid);

impl NodeId {
    /// A new random id.
    pub fn make() -> Self {
        Self(uuid::Builder::from_random_bytes(random_16()).into_uuid())
    }

    /// From its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes, as they stand in a frame.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

/// A text that is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a node id is a UUID, not `{0}`")]
pub struct NodeIdError(pub String);

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| NodeIdError(text.to_owned()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// 16 bytes of the operating system's randomness, through aws-lc's generator.
///
/// # Panics
/// When the generator has none to give: aws-lc itself aborts in that case, so no caller could act on an error.
fn random_16() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("aws-lc's random generator does not fail: it aborts");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_reads_back_what_it_prints() {
        let id = KeyId::make();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        assert_eq!(serde_json::from_str::<KeyId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        assert_ne!(id, KeyId::make());
    }

    #[test]
    fn a_key_id_is_refused_in_upper_case_or_of_another_length() {
        for text in ["", "00", "ABABABABABABABABABABABABABABABAB", "abababababababababababababababababab"] {
            assert_eq!(text.parse::<KeyId>(), Err(KeyIdError(text.to_owned())));
        }
    }

    #[test]
    fn a_node_id_reads_back_what_it_prints() {
        let id = NodeId::make();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 36);
    }
}
