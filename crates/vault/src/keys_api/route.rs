//! Paths of the data plane.

use crate::answer::Refusal;
use crate::authorize::Permission;

/// A call of the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Call {
    List,
    Versions { name: String },
    Get { name: String, version: Option<String> },
    Create { name: String },
    Import { name: String },
    Update { name: String, version: Option<String> },
    Delete { name: String },
    DeletedList,
    DeletedGet { name: String },
    Recover { name: String },
    Purge { name: String },
    Rotate { name: String },
    GetRotationPolicy { name: String },
    SetRotationPolicy { name: String },
    Backup { name: String },
    Restore,
    Crypto { operation: CryptoOperation, name: String, version: Option<String> },
}

/// An operation with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CryptoOperation {
    Encrypt,
    Decrypt,
    WrapKey,
    UnwrapKey,
}

impl CryptoOperation {
    /// Word in `key_ops`, policies and messages.
    pub fn word(self) -> &'static str {
        self.permission().policy_word()
    }

    /// Decrypt and unwrap need the private key; encrypt and wrap don't.
    pub fn needs_private_key(self) -> bool {
        matches!(self, Self::Decrypt | Self::UnwrapKey)
    }

    fn permission(self) -> Permission {
        match self {
            Self::Encrypt => Permission::Encrypt,
            Self::Decrypt => Permission::Decrypt,
            Self::WrapKey => Permission::WrapKey,
            Self::UnwrapKey => Permission::UnwrapKey,
        }
    }
}

impl Call {
    /// What the caller must hold.
    pub fn permission(&self) -> Permission {
        match self {
            Self::List | Self::Versions { .. } | Self::DeletedList => Permission::List,
            Self::Get { .. } | Self::DeletedGet { .. } => Permission::Get,
            Self::Create { .. } => Permission::Create,
            Self::Import { .. } => Permission::Import,
            Self::Update { .. } => Permission::Update,
            Self::Delete { .. } => Permission::Delete,
            Self::Recover { .. } => Permission::Recover,
            Self::Purge { .. } => Permission::Purge,
            Self::Rotate { .. } => Permission::Rotate,
            Self::GetRotationPolicy { .. } => Permission::GetRotationPolicy,
            Self::SetRotationPolicy { .. } => Permission::SetRotationPolicy,
            Self::Backup { .. } => Permission::Backup,
            Self::Restore => Permission::Restore,
            Self::Crypto { operation, .. } => operation.permission(),
        }
    }

    /// Whether it changes the vault.
    pub fn is_write(&self) -> bool {
        match self {
            Self::Create { .. }
            | Self::Import { .. }
            | Self::Update { .. }
            | Self::Delete { .. }
            | Self::Recover { .. }
            | Self::Purge { .. }
            | Self::Rotate { .. }
            | Self::SetRotationPolicy { .. }
            | Self::Restore => true,
            Self::List
            | Self::Versions { .. }
            | Self::Get { .. }
            | Self::DeletedList
            | Self::DeletedGet { .. }
            | Self::GetRotationPolicy { .. }
            | Self::Backup { .. }
            | Self::Crypto { .. } => false,
        }
    }

    /// Name in Azure's own logs.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::List => "KeyList",
            Self::Versions { .. } => "KeyListVersions",
            Self::Get { .. } => "KeyGet",
            Self::Create { .. } => "KeyCreate",
            Self::Import { .. } => "KeyImport",
            Self::Update { .. } => "KeyUpdate",
            Self::Delete { .. } => "KeyDelete",
            Self::DeletedList => "KeyListDeleted",
            Self::DeletedGet { .. } => "KeyGetDeleted",
            Self::Recover { .. } => "KeyRecover",
            Self::Purge { .. } => "KeyPurge",
            Self::Rotate { .. } => "KeyRotate",
            Self::GetRotationPolicy { .. } => "KeyRotationPolicyGet",
            Self::SetRotationPolicy { .. } => "KeyRotationPolicySet",
            Self::Backup { .. } => "KeyBackup",
            Self::Restore => "KeyRestore",
            Self::Crypto { operation: CryptoOperation::Encrypt, .. } => "KeyEncrypt",
            Self::Crypto { operation: CryptoOperation::Decrypt, .. } => "KeyDecrypt",
            Self::Crypto { operation: CryptoOperation::WrapKey, .. } => "KeyWrap",
            Self::Crypto { operation: CryptoOperation::UnwrapKey, .. } => "KeyUnwrap",
        }
    }

    /// The key it is about.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::List | Self::DeletedList | Self::Restore => None,
            Self::Versions { name }
            | Self::Get { name, .. }
            | Self::Create { name }
            | Self::Import { name }
            | Self::Update { name, .. }
            | Self::Delete { name }
            | Self::DeletedGet { name }
            | Self::Recover { name }
            | Self::Purge { name }
            | Self::Rotate { name }
            | Self::GetRotationPolicy { name }
            | Self::SetRotationPolicy { name }
            | Self::Backup { name }
            | Self::Crypto { name, .. } => Some(name),
        }
    }

    /// The same call of the key that goes by `known(name)`.
    pub fn with_key(mut self, known: impl FnOnce(&str) -> String) -> Self {
        match &mut self {
            Self::List | Self::DeletedList | Self::Restore => {}
            Self::Versions { name }
            | Self::Get { name, .. }
            | Self::Create { name }
            | Self::Import { name }
            | Self::Update { name, .. }
            | Self::Delete { name }
            | Self::DeletedGet { name }
            | Self::Recover { name }
            | Self::Purge { name }
            | Self::Rotate { name }
            | Self::GetRotationPolicy { name }
            | Self::SetRotationPolicy { name }
            | Self::Backup { name }
            | Self::Crypto { name, .. } => *name = known(name),
        }
        self
    }

    /// The version it names.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Get { version, .. } | Self::Update { version, .. } | Self::Crypto { version, .. } => {
                version.as_deref()
            }
            Self::List
            | Self::Versions { .. }
            | Self::Create { .. }
            | Self::Import { .. }
            | Self::Delete { .. }
            | Self::DeletedList
            | Self::DeletedGet { .. }
            | Self::Recover { .. }
            | Self::Purge { .. }
            | Self::Rotate { .. }
            | Self::GetRotationPolicy { .. }
            | Self::SetRotationPolicy { .. }
            | Self::Backup { .. }
            | Self::Restore => None,
        }
    }
}

/// Whether a path belongs to the data plane.
pub fn is_data_plane(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    first == "keys" || first == "deletedkeys"
}

/// Reads method and path. Official clients write an empty version as `/keys/NAME/` and `/keys/NAME//wrapkey`.
pub fn route(method: &str, path: &str) -> Result<Call, Refusal> {
    let mut segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    if segments.len() > 1 && segments.last() == Some(&"") {
        segments.pop();
    }
    let named = |name: &str| -> Result<String, Refusal> {
        let good =
            (1..=127).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if good {
            Ok(name.to_owned())
        } else {
            Err(Refusal::BadParameter(format!(
                "The request URI contains an invalid name: {name:?} (letters, digits and - only)"
            )))
        }
    };
    let versioned = |version: &str| -> Option<String> { (!version.is_empty()).then(|| version.to_owned()) };
    match (segments.as_slice(), method) {
        (["keys"], "GET") => Ok(Call::List),
        (["keys", "restore"], "POST") => Ok(Call::Restore),
        (["keys", name], "GET") => Ok(Call::Get { name: named(name)?, version: None }),
        (["keys", name], "PUT") => Ok(Call::Import { name: named(name)? }),
        (["keys", name], "DELETE") => Ok(Call::Delete { name: named(name)? }),
        (["keys", name], "PATCH") => Ok(Call::Update { name: named(name)?, version: None }),
        (["keys", name, "versions"], "GET") => Ok(Call::Versions { name: named(name)? }),
        (["keys", name, "rotationpolicy"], "GET") => Ok(Call::GetRotationPolicy { name: named(name)? }),
        (["keys", name, "rotationpolicy"], "PUT") => Ok(Call::SetRotationPolicy { name: named(name)? }),
        (["keys", name, "create"], "POST") => Ok(Call::Create { name: named(name)? }),
        (["keys", name, "rotate"], "POST") => Ok(Call::Rotate { name: named(name)? }),
        (["keys", name, "backup"], "POST") => Ok(Call::Backup { name: named(name)? }),
        (["keys", name, version], "GET") => Ok(Call::Get { name: named(name)?, version: versioned(version) }),
        (["keys", name, version], "PATCH") => {
            Ok(Call::Update { name: named(name)?, version: versioned(version) })
        }
        (["keys", name, version, operation], "POST") => {
            let operation = match *operation {
                "encrypt" => CryptoOperation::Encrypt,
                "decrypt" => CryptoOperation::Decrypt,
                "wrapkey" => CryptoOperation::WrapKey,
                "unwrapkey" => CryptoOperation::UnwrapKey,
                "sign" | "verify" => {
                    return Err(Refusal::BadParameter(format!(
                        "{operation} is not offered by this development vault"
                    )));
                }
                _ => return Err(Refusal::NoSuchPath),
            };
            Ok(Call::Crypto { operation, name: named(name)?, version: versioned(version) })
        }
        (["deletedkeys"], "GET") => Ok(Call::DeletedList),
        (["deletedkeys", name], "GET") => Ok(Call::DeletedGet { name: named(name)? }),
        (["deletedkeys", name], "DELETE") => Ok(Call::Purge { name: named(name)? }),
        (["deletedkeys", name, "recover"], "POST") => Ok(Call::Recover { name: named(name)? }),
        (["keys" | "deletedkeys", ..], "GET" | "POST" | "PUT" | "PATCH" | "DELETE") => {
            Err(Refusal::NoSuchPath)
        }
        (["keys" | "deletedkeys", ..], _) => Err(Refusal::MethodNotAllowed),
        _ => Err(Refusal::NoSuchPath),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_version_means_the_newest() {
        let newest = Call::Get { name: "k1".into(), version: None };
        assert_eq!(route("GET", "/keys/k1"), Ok(newest.clone()));
        assert_eq!(route("GET", "/keys/k1/"), Ok(newest));
        let wrap = |version: Option<&str>| Call::Crypto {
            operation: CryptoOperation::WrapKey,
            name: "k1".into(),
            version: version.map(str::to_owned),
        };
        assert_eq!(route("POST", "/keys/k1//wrapkey"), Ok(wrap(None)));
        assert_eq!(route("POST", "/keys/k1/abc/wrapkey"), Ok(wrap(Some("abc"))));
    }

    #[test]
    fn names_are_checked() {
        assert!(matches!(route("GET", "/keys/under_score"), Err(Refusal::BadParameter(_))));
        assert!(matches!(route("POST", "/keys//create"), Err(Refusal::BadParameter(_))));
    }

    #[test]
    fn what_is_not_there_says_so() {
        assert_eq!(route("POST", "/keys/k1/abc/melt"), Err(Refusal::NoSuchPath));
        assert_eq!(route("GET", "/secrets/s1"), Err(Refusal::NoSuchPath));
        assert_eq!(route("OPTIONS", "/keys/k1"), Err(Refusal::MethodNotAllowed));
    }
}
