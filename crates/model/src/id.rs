//! Typed identifiers of the control plane.
//!
//! Atlas' ids are 12 bytes written as 24 lower-case hexadecimal characters; one Rust type per kind, so that a
//! project's id is never taken for a cluster's. A node's id is the UUID that its keystore carries.

use std::{fmt, hash, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Serialize};

/// A kind of thing that has an id.
pub trait Kind: 'static {
    /// What an error calls it, in lower case.
    const NAME: &'static str;
}

macro_rules! kinds {
    ($($kind:ident, $id:ident, $name:literal;)*) => {$(
        #[doc = concat!("Marks the id of ", $name, ".")]
        #[derive(Debug)]
        pub enum $kind {}
        impl Kind for $kind { const NAME: &'static str = $name; }
        #[doc = concat!("The id of ", $name, ".")]
        pub type $id = Id<$kind>;
    )*};
}

kinds! {
    OrganizationKind, OrgId, "an organization";
    ProjectKind, ProjectId, "a project";
    UserKind, UserId, "a user";
    ApiKeyKind, ApiKeyId, "an API key";
    SecretKind, SecretId, "a secret of a service account";
    ClusterKind, ClusterId, "a cluster";
    EndpointKind, EndpointId, "a private endpoint";
    RoleKind, CloudRoleId, "a cloud provider access role";
    EventKind, EventId, "an event";
    AlertKind, AlertId, "an alert";
    AlertConfigKind, AlertConfigId, "an alert configuration";
    ContainerKind, ContainerId, "a container";
    JoinTokenKind, JoinTokenId, "a join token";
    NotifierKind, NotifierId, "a notification";
}

/// 12 bytes, written as 24 lower-case hexadecimal characters, of a thing of kind `K`.
pub struct Id<K: Kind> {
    bytes: [u8; 12],
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Id<K> {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self { bytes, kind: PhantomData }
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.bytes
    }
}

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the id of {kind}: 24 lower-case hexadecimal characters")]
pub struct IdError {
    kind: &'static str,
    text: String,
}

impl<K: Kind> FromStr for Id<K> {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || IdError { kind: K::NAME, text: text.chars().take(64).collect() };
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| refused())?;
        Ok(Self::from_bytes(bytes.try_into().map_err(|_| refused())?))
    }
}

impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.bytes))
    }
}

impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<K: Kind> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K: Kind> Copy for Id<K> {}
impl<K: Kind> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}
impl<K: Kind> Eq for Id<K> {}
impl<K: Kind> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K: Kind> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.bytes.cmp(&other.bytes)
    }
}
impl<K: Kind> hash::Hash for Id<K> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl<K: Kind> Serialize for Id<K> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The id of a node, as its keystore has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub uuid::Uuid);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_24_lower_case_hexadecimal_characters() {
        let text = "5f3a0c9e8d7b6a5f4e3d2c1b";
        let id: ProjectId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
        for wrong in
            ["", "5f3a", "5F3A0C9E8D7B6A5F4E3D2C1B", "5f3a0c9e8d7b6a5f4e3d2c1b00", "zz3a0c9e8d7b6a5f4e3d2c1b"]
        {
            let refused = wrong.parse::<ProjectId>().unwrap_err();
            assert!(refused.to_string().contains("a project"), "{refused}");
        }
    }
}
