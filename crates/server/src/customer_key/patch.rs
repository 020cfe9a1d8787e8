//! The body of a PATCH of `encryptionAtRest`, read and checked. Pure.
//!
//! Follows the Atlas Administration API's `EncryptionAtRest`: what is absent or `null` stays as it is; `valid` is the
//! server's and ignored; a body that repeats the whole answer of a GET, as Terraform sends it, changes nothing but
//! what differs. keyward serves Azure Key Vault; the other providers' objects are read and may say only that they
//! are off.

use keyward_model::{Code, encryption::AzureEnvironment, id::CloudRoleId};
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::http::error::ApiError;

/// What a PATCH asks for.
#[derive(Debug)]
pub struct Patch {
    /// Azure Key Vault.
    pub azure: AzurePatch,
    /// Whether search nodes are included.
    pub search_nodes: Option<bool>,
}

/// What a PATCH asks of Azure Key Vault.
#[derive(Debug)]
pub enum AzurePatch {
    /// Nothing.
    Untouched,
    /// That it be switched off.
    Disable,
    /// That these fields be set, and that it be on.
    Set(Box<AzureFields>),
}

/// The fields of `azureKeyVault` that were given.
#[derive(Debug, Default)]
pub struct AzureFields {
    /// Whether `enabled` was given (as `true`).
    pub enabled: bool,
    /// `azureEnvironment`.
    pub environment: Option<AzureEnvironment>,
    /// `clientID`, as given.
    pub client_id: Option<String>,
    /// `tenantID`, as given.
    pub tenant_id: Option<String>,
    /// `subscriptionID`, as given.
    pub subscription_id: Option<String>,
    /// `resourceGroupName`, as given.
    pub resource_group_name: Option<String>,
    /// `keyVaultName`, as given.
    pub key_vault_name: Option<String>,
    /// `keyIdentifier`, as given.
    pub key_identifier: Option<String>,
    /// `secret`.
    pub secret: Option<SecretString>,
    /// `roleId`.
    pub role_id: Option<CloudRoleId>,
    /// `requirePrivateNetworking`.
    pub require_private_networking: Option<bool>,
}

impl AzureFields {
    fn is_empty(&self) -> bool {
        !self.enabled
            && self.environment.is_none()
            && self.client_id.is_none()
            && self.tenant_id.is_none()
            && self.subscription_id.is_none()
            && self.resource_group_name.is_none()
            && self.key_vault_name.is_none()
            && self.key_identifier.is_none()
            && self.secret.is_none()
            && self.role_id.is_none()
            && self.require_private_networking.is_none()
    }
}

/// Reads a body.
pub fn read(body: Value) -> Result<Patch, ApiError> {
    let Value::Object(object) = body else {
        return Err(ApiError::new(Code::InvalidJson).detail("The body is not an object."));
    };
    let mut patch = Patch { azure: AzurePatch::Untouched, search_nodes: None };
    for (name, value) in object {
        match name.as_str() {
            "azureKeyVault" => patch.azure = azure(fields("azureKeyVault", value)?)?,
            "awsKms" => other("awsKms", "AWS KMS", &AWS_FIELDS, fields("awsKms", value)?)?,
            "googleCloudKms" => {
                other("googleCloudKms", "Google Cloud KMS", &GCP_FIELDS, fields("googleCloudKms", value)?)?;
            }
            "enabledForSearchNodes" => patch.search_nodes = boolean(&name, value)?,
            _ => return Err(unknown(&name)),
        }
    }
    Ok(patch)
}

fn azure(object: Map<String, Value>) -> Result<AzurePatch, ApiError> {
    let mut given = AzureFields::default();
    let mut disable = false;
    for (name, value) in object {
        let path = format!("azureKeyVault.{name}");
        match name.as_str() {
            "enabled" => match boolean(&path, value)? {
                Some(true) => given.enabled = true,
                Some(false) => disable = true,
                None => {}
            },
            // The server's own finding, sent back.
            "valid" => _ = boolean(&path, value)?,
            "azureEnvironment" => given.environment = environment(&path, value)?,
            "clientID" => given.client_id = uuid(&path, value)?,
            "tenantID" => given.tenant_id = uuid(&path, value)?,
            "subscriptionID" => given.subscription_id = uuid(&path, value)?,
            "resourceGroupName" => {
                given.resource_group_name =
                    named(&path, value, 1..=90, "-_.()", |name| !name.ends_with('.'))?;
            }
            "keyVaultName" => given.key_vault_name = named(&path, value, 3..=24, "-", |_| true)?,
            "keyIdentifier" => given.key_identifier = text(&path, value, 1..=2048)?,
            // Clients without a value for these send the empty text.
            "secret" => {
                given.secret =
                    text(&path, value, 0..=4096)?.filter(|secret| !secret.is_empty()).map(SecretString::from);
            }
            "roleId" => given.role_id = role(&path, value)?,
            "requirePrivateNetworking" => given.require_private_networking = boolean(&path, value)?,
            _ => return Err(unknown(&path)),
        }
    }
    if given.secret.is_some() && given.role_id.is_some() {
        return Err(wrong("azureKeyVault.secret", "excludes azureKeyVault.roleId: give one of the two"));
    }
    Ok(if disable {
        AzurePatch::Disable
    } else if given.is_empty() {
        AzurePatch::Untouched
    } else {
        AzurePatch::Set(Box::new(given))
    })
}

/// What a field of a provider that is not served must be.
#[derive(Clone, Copy)]
enum Kind {
    Boolean,
    Text(usize, usize),
    Role,
    Region,
}

const AWS_FIELDS: [(&str, Kind); 8] = [
    ("enabled", Kind::Boolean),
    ("valid", Kind::Boolean),
    ("requirePrivateNetworking", Kind::Boolean),
    ("customerMasterKeyID", Kind::Text(1, 2048)),
    ("region", Kind::Region),
    ("roleId", Kind::Role),
    ("accessKeyID", Kind::Text(0, 128)),
    ("secretAccessKey", Kind::Text(0, 4096)),
];

const GCP_FIELDS: [(&str, Kind); 5] = [
    ("enabled", Kind::Boolean),
    ("valid", Kind::Boolean),
    ("keyVersionResourceID", Kind::Text(0, 2048)),
    ("roleId", Kind::Role),
    ("serviceAccountKey", Kind::Text(0, 65_536)),
];

/// Reads the object of a provider that keyward does not serve: it may say that it is off, or nothing.
fn other(
    name: &str,
    shown: &str,
    known: &[(&str, Kind)],
    object: Map<String, Value>,
) -> Result<(), ApiError> {
    let (mut on, mut off, mut settings) = (false, false, false);
    for (field, value) in object {
        let path = format!("{name}.{field}");
        let Some((_, kind)) = known.iter().find(|(known, _)| *known == field) else {
            return Err(unknown(&path));
        };
        let given = match kind {
            Kind::Boolean => match boolean(&path, value)? {
                Some(value) if field == "enabled" => {
                    (on, off) = (value, !value);
                    false
                }
                Some(value) => value && field != "valid",
                None => false,
            },
            Kind::Text(least, most) => {
                text(&path, value, *least..=*most)?.is_some_and(|text| !text.is_empty())
            }
            Kind::Role => role(&path, value)?.is_some(),
            Kind::Region => region(&path, value)?.is_some(),
        };
        settings |= given;
    }
    if on || (settings && !off) {
        return Err(ApiError::new(Code::EncryptionAtRestProviderNotSupported)
            .detail(format!("keyward does not support {shown} as key provider yet."))
            .param(name));
    }
    Ok(())
}

fn fields(name: &str, value: Value) -> Result<Map<String, Value>, ApiError> {
    match value {
        Value::Object(object) => Ok(object),
        Value::Null => Ok(Map::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(wrong(name, "is not an object"))
        }
    }
}

fn boolean(path: &str, value: Value) -> Result<Option<bool>, ApiError> {
    match value {
        Value::Bool(value) => Ok(Some(value)),
        Value::Null => Ok(None),
        Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            Err(wrong(path, "is neither true nor false"))
        }
    }
}

fn text(
    path: &str,
    value: Value,
    length: std::ops::RangeInclusive<usize>,
) -> Result<Option<String>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => {
            if !length.contains(&text.chars().count()) {
                let what = format!("must have {} to {} characters", length.start(), length.end());
                return Err(wrong(path, what));
            }
            // The store cannot keep NUL, and no name of Azure's has a control character.
            if text.chars().any(char::is_control) {
                return Err(wrong(path, "has a control character"));
            }
            Ok(Some(text))
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(wrong(path, "is not a text"))
        }
    }
}

/// Letters, digits and `further` characters.
fn named(
    path: &str,
    value: Value,
    length: std::ops::RangeInclusive<usize>,
    further: &str,
    ends_well: fn(&str) -> bool,
) -> Result<Option<String>, ApiError> {
    let Some(text) = text(path, value, length)? else { return Ok(None) };
    if text.chars().all(|c| c.is_alphanumeric() || further.contains(c)) && ends_well(&text) {
        return Ok(Some(text));
    }
    Err(wrong(path, "is not a name that Azure gives"))
}

fn uuid(path: &str, value: Value) -> Result<Option<String>, ApiError> {
    let Some(text) = text(path, value, 0..=64)? else { return Ok(None) };
    // With hyphens and nothing around it: what Azure shows.
    if text.len() == 36 && uuid::Uuid::try_parse(&text).is_ok() {
        return Ok(Some(text));
    }
    Err(wrong(path, "is not a UUID"))
}

fn role(path: &str, value: Value) -> Result<Option<CloudRoleId>, ApiError> {
    match text(path, value, 0..=64)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => match text.parse() {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err(wrong(path, "is not an id of 24 hexadecimal characters")),
        },
    }
}

/// `US_EAST_1`: which regions AWS has is not ours to know while none is served.
fn region(path: &str, value: Value) -> Result<Option<String>, ApiError> {
    let Some(text) = text(path, value, 0..=64)? else { return Ok(None) };
    let shape = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if text.chars().all(shape) {
        return Ok(Some(text).filter(|text| !text.is_empty()));
    }
    let error = ApiError::new(Code::InvalidEnumValue).detail(format!("The attribute {path} is no region."));
    Err(error.param(path).field(path, "is no region"))
}

fn environment(path: &str, value: Value) -> Result<Option<AzureEnvironment>, ApiError> {
    let Some(text) = text(path, value, 0..=64)? else { return Ok(None) };
    match text.as_str() {
        "AZURE" => Ok(Some(AzureEnvironment::Azure)),
        "AZURE_CHINA" => Ok(Some(AzureEnvironment::AzureChina)),
        "AZURE_US_GOVERNMENT" => Ok(Some(AzureEnvironment::AzureUsGovernment)),
        _ => Err(ApiError::new(Code::AzureKeyVaultEnvironmentNotSupported)
            .param(path)
            .field(path, "is no Azure environment")),
    }
}

/// A field whose value cannot be; the value is not repeated, since it may be a secret in the wrong place.
pub(super) fn wrong(path: &str, what: impl Into<String>) -> ApiError {
    let what = what.into();
    ApiError::new(Code::InvalidAttribute)
        .detail(format!("The attribute {path} {what}."))
        .param(path)
        .field(path, what)
}

fn unknown(path: &str) -> ApiError {
    let shown: String = path.chars().take(100).collect();
    wrong(&shown, "is not known")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "11111111-2222-3333-4444-555555555555";

    fn refused(body: Value) -> (Code, Value) {
        let error = read(body).unwrap_err();
        (error.code(), error.body()["parameters"].clone())
    }

    #[test]
    fn what_changes_nothing_is_accepted() {
        for body in [
            json!({}),
            json!({"azureKeyVault": {}, "awsKms": {}, "googleCloudKms": {}}),
            json!({"azureKeyVault": null, "awsKms": null, "googleCloudKms": null, "enabledForSearchNodes": null}),
            json!({"azureKeyVault": {"valid": true, "secret": null, "clientID": null, "enabled": null}}),
            json!({"awsKms": {"enabled": false, "valid": false, "region": "US_EAST_1", "roleId": ""}}),
            json!({"googleCloudKms": {"enabled": false, "valid": false}}),
        ] {
            let patch = read(body.clone()).unwrap();
            assert!(matches!(patch.azure, AzurePatch::Untouched), "{body}");
            assert_eq!(patch.search_nodes, None);
        }
    }

    #[test]
    fn all_fields_are_read_as_they_were_given() {
        let mixed = ID.replace('1', "A");
        let body = json!({"azureKeyVault": {
            "enabled": true, "azureEnvironment": "AZURE_CHINA", "clientID": mixed, "tenantID": ID,
            "subscriptionID": ID, "resourceGroupName": "RG_(x).y-1", "keyVaultName": "KV-1",
            "keyIdentifier": "https://KV-1.vault.azure.cn/keys/k/0", "secret": "s",
            "requirePrivateNetworking": true, "valid": false,
        }, "enabledForSearchNodes": true});
        let patch = read(body).unwrap();
        assert_eq!(patch.search_nodes, Some(true));
        let AzurePatch::Set(given) = patch.azure else { panic!("{patch:?}") };
        assert!(given.enabled);
        assert_eq!(given.environment, Some(AzureEnvironment::AzureChina));
        assert_eq!(given.client_id, Some(mixed));
        assert_eq!(given.resource_group_name.as_deref(), Some("RG_(x).y-1"));
        assert_eq!(given.require_private_networking, Some(true));
        assert!(!format!("{given:?}").contains("\"s\""));
    }

    #[test]
    fn switching_off_wins_over_what_else_is_said() {
        let body = json!({"azureKeyVault": {"enabled": false, "clientID": ID, "valid": true}});
        assert!(matches!(read(body).unwrap().azure, AzurePatch::Disable));
    }

    #[test]
    fn what_is_wrong_is_named_and_not_repeated() {
        let azure = |field: &str, value: Value| json!({"azureKeyVault": {field: value}});
        let invalid = [
            ("clientID", json!("no uuid")),
            ("clientID", json!(ID.replace('-', ""))),
            ("tenantID", json!(format!("{{{ID}}}"))),
            ("subscriptionID", json!(7)),
            ("resourceGroupName", json!("")),
            ("resourceGroupName", json!("a/b")),
            ("resourceGroupName", json!("dot.")),
            ("keyVaultName", json!("ab")),
            ("keyVaultName", json!("under_score")),
            ("keyIdentifier", json!("")),
            ("keyIdentifier", json!("x".repeat(2049))),
            ("secret", json!(["sesame"])),
            ("secret", json!("ses\u{0}ame")),
            ("roleId", json!("sesame")),
            ("enabled", json!("true")),
            ("valid", json!("sesame")),
            ("requirePrivateNetworking", json!(1)),
            ("keyName", json!("sesame")),
        ];
        for (field, value) in invalid {
            let error = read(azure(field, value.clone())).unwrap_err();
            assert_eq!(error.code(), Code::InvalidAttribute, "{field} {value}");
            assert_eq!(error.body()["parameters"], json!([format!("azureKeyVault.{field}")]));
            assert!(!error.body().to_string().contains("sesame"), "{field}");
        }
        let environment = refused(azure("azureEnvironment", json!("AZURE_GERMANY")));
        assert_eq!(environment.0, Code::AzureKeyVaultEnvironmentNotSupported);
        assert_eq!(refused(json!({"azure": {}})).1, json!(["azure"]));
        assert_eq!(refused(json!([])).0, Code::InvalidJson);
        assert_eq!(refused(json!({"azureKeyVault": []})).1, json!(["azureKeyVault"]));
        let both = json!({"azureKeyVault": {"secret": "s", "roleId": "5f3a0c9e8d7b6a5f4e3d2c1b"}});
        assert_eq!(refused(both).1, json!(["azureKeyVault.secret"]));
    }

    #[test]
    fn other_providers_are_refused_in_so_many_words() {
        for (name, body) in [
            ("awsKms", json!({"enabled": true})),
            ("awsKms", json!({"region": "US_EAST_1", "customerMasterKeyID": "k"})),
            ("googleCloudKms", json!({"enabled": true, "keyVersionResourceID": "k"})),
            ("googleCloudKms", json!({"serviceAccountKey": "{}"})),
        ] {
            let (code, parameters) = refused(json!({name: body}));
            assert_eq!(code, Code::EncryptionAtRestProviderNotSupported);
            assert_eq!(parameters, json!([name]));
        }
        assert_eq!(refused(json!({"awsKms": {"region": "mars"}})).0, Code::InvalidEnumValue);
        assert_eq!(refused(json!({"awsKms": {"enabled": 1}})).0, Code::InvalidAttribute);
    }

    proptest::proptest! {
        /// Whatever JSON comes: read, or refused with a code of its own; never a panic.
        #[test]
        fn any_body_is_read_or_refused(
            names in proptest::collection::vec("[a-zA-Z]{1,12}|enabled|secret|roleId|valid|region|clientID", 0..6),
            kind in 0..5u8,
            provider in "azureKeyVault|awsKms|googleCloudKms|other",
        ) {
            let value = match kind {
                0 => json!(null), 1 => json!(true), 2 => json!("text"), 3 => json!(3), _ => json!({"a": []}),
            };
            let object: Map<String, Value> = names.into_iter().map(|name| (name, value.clone())).collect();
            if let Err(error) = read(json!({provider: object})) {
                assert!(error.status().is_client_error());
            }
        }
    }
}
