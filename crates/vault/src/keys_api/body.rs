//! Request bodies. Unknown fields are ignored, as Azure does.

use std::collections::BTreeMap;

use data_encoding::{BASE64URL, BASE64URL_NOPAD};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::answer::Refusal;
use crate::material::{Components, EC_BITS, Material};
use crate::state::{
    Action, KeyChange, LifetimeAction, NewVersion, RotationPolicy, Trigger, UnixSeconds, add_duration,
    check_times,
};

/// All that an RSA key may do, in Azure's order: what a key gets when none is named.
const ALL_KEY_OPS: [&str; 6] = ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"];

#[derive(Debug, Default, Deserialize)]
struct Attributes {
    enabled: Option<bool>,
    nbf: Option<UnixSeconds>,
    exp: Option<UnixSeconds>,
}

/// Body of create.
pub(super) struct Create {
    kty: String,
    pub(super) key_size: u32,
    key_ops: Vec<String>,
    attributes: Attributes,
    tags: BTreeMap<String, String>,
}

impl Create {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Wire {
            kty: String,
            crv: Option<String>,
            key_size: Option<u32>,
            key_ops: Option<Vec<String>>,
            attributes: Option<Attributes>,
            tags: Option<BTreeMap<String, String>>,
            public_exponent: Option<u64>,
        }
        let wire: Wire = parse(body)?;
        let is_ec = wire.kty == "EC";
        if !is_ec {
            check_kty(&wire.kty)?;
        } else if wire.crv.as_deref().is_some_and(|curve| curve != "P-256") {
            return Err(Refusal::BadParameter(
                "The only curve that this development vault offers is P-256".to_owned(),
            ));
        }
        let key_size = if is_ec { EC_BITS } else { wire.key_size.unwrap_or(2048) };
        if !is_ec && ![2048, 3072, 4096].contains(&key_size) {
            return Err(Refusal::BadParameter(format!(
                "Key size {key_size} is not supported: 2048, 3072 or 4096"
            )));
        }
        if wire.public_exponent.is_some_and(|e| e != 0 && e != 65_537) {
            return Err(Refusal::BadParameter("public_exponent is not supported: only 65537".to_owned()));
        }
        let attributes = wire.attributes.unwrap_or_default();
        check_times(attributes.nbf, attributes.exp)?;
        Ok(Self {
            kty: wire.kty,
            key_size,
            key_ops: match wire.key_ops {
                None if is_ec => ["sign", "verify"].map(str::to_owned).to_vec(),
                given => key_ops(given)?,
            },
            attributes,
            tags: wire.tags.unwrap_or_default(),
        })
    }

    pub(super) fn into_version(self, version: String, material: Material) -> NewVersion {
        NewVersion {
            version,
            kty: self.kty,
            key_ops: self.key_ops,
            enabled: self.attributes.enabled.unwrap_or(true),
            not_before: self.attributes.nbf,
            expires: self.attributes.exp,
            tags: self.tags,
            material,
        }
    }
}

#[derive(Deserialize)]
struct ImportedKey {
    kty: String,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    d: Option<String>,
    p: Option<String>,
    q: Option<String>,
    dp: Option<String>,
    dq: Option<String>,
    qi: Option<String>,
}

/// Body of import.
#[derive(Deserialize)]
pub(super) struct Import {
    key: ImportedKey,
    #[serde(rename = "Hsm", alias = "hsm")]
    hsm: Option<bool>,
    attributes: Option<Attributes>,
    tags: Option<BTreeMap<String, String>>,
}

impl Import {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        parse(body)
    }

    pub(super) fn into_version(self, version: String) -> Result<NewVersion, Refusal> {
        let key = self.key;
        check_kty(&key.kty)?;
        let part = |name: &str, text: Option<String>| -> Result<Vec<u8>, Refusal> {
            let text = text.ok_or_else(|| Refusal::BadParameter(format!("key.{name} is missing")))?;
            bytes(&text).ok_or_else(|| Refusal::BadParameter(format!("key.{name} is not base64url")))
        };
        // Some writers send a leading zero byte.
        let unsigned = |bytes: Vec<u8>| -> Vec<u8> { bytes.into_iter().skip_while(|b| *b == 0).collect() };
        let components = Components {
            n: unsigned(part("n", key.n)?),
            e: unsigned(part("e", key.e)?),
            d: part("d", key.d)?,
            p: part("p", key.p)?,
            q: part("q", key.q)?,
            dp: part("dp", key.dp)?,
            dq: part("dq", key.dq)?,
            qi: part("qi", key.qi)?,
        };
        let material = Material::import(&components).map_err(|e| Refusal::BadParameter(e.to_string()))?;
        let attributes = self.attributes.unwrap_or_default();
        check_times(attributes.nbf, attributes.exp)?;
        let kty = if self.hsm == Some(true) { "RSA-HSM".to_owned() } else { key.kty };
        Ok(NewVersion {
            version,
            kty,
            key_ops: key_ops(key.key_ops)?,
            enabled: attributes.enabled.unwrap_or(true),
            not_before: attributes.nbf,
            expires: attributes.exp,
            tags: self.tags.unwrap_or_default(),
            material,
        })
    }
}

/// Body of update.
pub(super) fn update(body: &[u8]) -> Result<KeyChange, Refusal> {
    #[derive(Deserialize)]
    struct Wire {
        key_ops: Option<Vec<String>>,
        attributes: Option<Attributes>,
        tags: Option<BTreeMap<String, String>>,
    }
    let wire: Wire = parse(body)?;
    let attributes = wire.attributes.unwrap_or_default();
    let key_ops = match wire.key_ops {
        Some(ops) if ops.is_empty() => Some(Vec::new()),
        Some(ops) => Some(key_ops(Some(ops))?),
        None => None,
    };
    Ok(KeyChange {
        key_ops,
        enabled: attributes.enabled,
        not_before: attributes.nbf.map(Some),
        expires: attributes.exp.map(Some),
        tags: wire.tags,
    })
}

/// Body of encrypt, decrypt, wrapkey and unwrapkey.
pub(super) struct Crypto {
    pub(super) alg: String,
    pub(super) value: Vec<u8>,
}

impl Crypto {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Wire {
            alg: String,
            value: String,
        }
        let wire: Wire = parse(body)?;
        let value = bytes(&wire.value).ok_or_else(|| {
            Refusal::BadParameter("Property has invalid value: value is not base64url".to_owned())
        })?;
        Ok(Self { alg: wire.alg, value })
    }
}

/// Body of restore: the blob.
pub(super) fn value(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    #[derive(Deserialize)]
    struct Wire {
        value: String,
    }
    let wire: Wire = parse(body)?;
    bytes(&wire.value)
        .ok_or_else(|| Refusal::BadParameter("Property has invalid value: value is not base64url".to_owned()))
}

/// Body of PUT rotationpolicy; its times are the caller's to fill in.
pub(super) fn policy(body: &[u8]) -> Result<RotationPolicy, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct WireTrigger {
        time_after_create: Option<String>,
        time_before_expiry: Option<String>,
    }
    #[derive(Deserialize)]
    struct WireAction {
        r#type: String,
    }
    #[derive(Deserialize)]
    struct WireLifetimeAction {
        trigger: WireTrigger,
        action: WireAction,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct WireAttributes {
        expiry_time: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        #[serde(default)]
        lifetime_actions: Vec<WireLifetimeAction>,
        attributes: Option<WireAttributes>,
    }
    let wire: Wire = parse(body)?;
    let duration = |text: String| match add_duration(0, &text) {
        Some(seconds) if seconds > 0 => Ok(text),
        _ => Err(Refusal::BadParameter(format!("{text:?} is not an ISO 8601 duration"))),
    };
    let expiry_time = wire.attributes.unwrap_or_default().expiry_time.map(duration).transpose()?;
    let lifetime_actions = wire
        .lifetime_actions
        .into_iter()
        .map(|wire| {
            let trigger = match (wire.trigger.time_after_create, wire.trigger.time_before_expiry) {
                (Some(after), None) => Trigger::TimeAfterCreate(duration(after)?),
                (None, Some(before)) => Trigger::TimeBeforeExpiry(duration(before)?),
                (Some(_), Some(_)) | (None, None) => {
                    return Err(Refusal::BadParameter(
                        "A trigger has either timeAfterCreate or timeBeforeExpiry".to_owned(),
                    ));
                }
            };
            let action = match wire.action.r#type.to_ascii_lowercase().as_str() {
                "rotate" => Action::Rotate,
                "notify" => Action::Notify,
                other => return Err(Refusal::BadParameter(format!("There is no action {other:?}"))),
            };
            Ok(LifetimeAction { trigger, action })
        })
        .collect::<Result<Vec<LifetimeAction>, Refusal>>()?;
    // Else each new version would be due at once.
    let life = expiry_time.as_deref().and_then(|text| add_duration(0, text));
    for action in &lifetime_actions {
        if let (Some(life), Trigger::TimeBeforeExpiry(before)) = (life, &action.trigger)
            && add_duration(0, before).is_some_and(|before| before >= life)
        {
            return Err(Refusal::BadParameter("timeBeforeExpiry must be shorter than expiryTime".to_owned()));
        }
    }
    Ok(RotationPolicy { lifetime_actions, expiry_time, created: 0, updated: 0 })
}

/// base64url, with or without padding.
fn bytes(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).or_else(|_| BASE64URL.decode(text.as_bytes())).ok()
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|e| Refusal::BadParameter(format!("The request body cannot be read: {e}")))
}

fn check_kty(kty: &str) -> Result<(), Refusal> {
    match kty {
        "RSA" | "RSA-HSM" => Ok(()),
        other => Err(Refusal::BadParameter(format!(
            "Key type {other:?} is not offered by this development vault: RSA, RSA-HSM or EC"
        ))),
    }
}

fn key_ops(given: Option<Vec<String>>) -> Result<Vec<String>, Refusal> {
    let given = given.unwrap_or_default();
    if given.is_empty() {
        return Ok(ALL_KEY_OPS.map(str::to_owned).to_vec());
    }
    match given.iter().find(|op| !ALL_KEY_OPS.contains(&op.as_str()) && *op != "import") {
        Some(unknown) => Err(Refusal::BadParameter(format!("There is no key operation {unknown:?}"))),
        None => Ok(given),
    }
}
