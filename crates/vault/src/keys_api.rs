//! The data plane of Key Vault: paths, bodies and what they do to the state. Pure.

mod backup;
mod body;
mod bundle;
mod route;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

pub use bundle::Links;
pub use route::{Call, CryptoOperation, is_data_plane, route};

use crate::answer::{Answer, Refusal};
use crate::material::{Algorithm, Material, MaterialError};
use crate::state::{Key, KeyVersion, NewVersion, RotationPolicy, State, UnixSeconds};

/// A request after routing, authentication and authorization. No `Debug`: the body of an import is a private key.
pub struct Request {
    /// `https://HOST[:PORT]` as the caller wrote it: what key identifiers begin with.
    pub links: Links,
    /// Decoded query.
    pub query: Vec<(String, String)>,
    /// Body bytes.
    pub body: Vec<u8>,
    /// Seconds since the epoch, on the vault's clock.
    pub now: UnixSeconds,
}

/// What a step needs from outside: drawn before, so that the step itself is a function.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// A version id nobody has: 32 lower-case hex digits.
    pub version: String,
    /// A key pair, where [`material_wanted`] asked for one.
    pub material: Option<Material>,
}

impl Request {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// `api-version`s that are served; the shapes are equal in all.
const API_VERSIONS: [&str; 10] =
    ["2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01", "2026-04-01"];

/// Checks the mandatory `api-version`.
pub fn check_api_version(request: &Request) -> Result<(), Refusal> {
    match request.query("api-version") {
        None | Some("") => Err(Refusal::BadParameter("api-version must be specified".to_owned())),
        Some(known) if API_VERSIONS.contains(&known) || known.contains("-preview") => Ok(()),
        Some(other) => Err(Refusal::BadParameter(format!("Unsupported api-version: {other}"))),
    }
}

/// Bits of the key pair that this call needs made; `None` when it needs none.
pub fn material_wanted(state: &State, call: &Call, request: &Request) -> Result<Option<u32>, Refusal> {
    if let Call::Create { name } = call {
        let create = body::Create::read(&request.body)?;
        state.vault.check_name_free(name, request.now)?;
        Ok(Some(create.key_size))
    } else if let Call::Rotate { name } = call {
        Ok(Some(state.vault.find(name, None)?.1.material.bits()))
    } else {
        Ok(None)
    }
}

/// Answers a call that changes nothing.
pub fn read(state: &State, call: &Call, request: &Request) -> Result<Answer, Refusal> {
    let vault = &state.vault;
    let links = &request.links;
    match call {
        Call::List => {
            let names: Vec<&String> = vault.keys.keys().collect();
            page(request, "/keys", &names, |name| {
                let newest = vault.keys.get(*name).and_then(Key::newest)?;
                Some(links.item(vault, name, None, newest))
            })
        }
        Call::Versions { name } => {
            let (key, _) = vault.find(name, None)?;
            let versions: Vec<&KeyVersion> = key.versions.iter().collect();
            page(request, &format!("/keys/{name}/versions"), &versions, |version| {
                Some(links.item(vault, name, Some(&version.version), version))
            })
        }
        Call::Get { name, version } => {
            let (_, found) = vault.find(name, version.as_deref())?;
            Ok(Answer::ok(links.bundle(vault, name, found)))
        }
        Call::DeletedList => {
            let names: Vec<&String> = vault
                .deleted_keys
                .iter()
                .filter(|(_, deleted)| request.now >= deleted.settled)
                .map(|(name, _)| name)
                .collect();
            page(request, "/deletedkeys", &names, |name| {
                Some(links.deleted_item(vault, name, vault.deleted_keys.get(*name)?))
            })
        }
        Call::DeletedGet { name } => {
            let deleted = vault.find_deleted(name, request.now)?;
            Ok(Answer::ok(links.deleted_bundle(vault, name, deleted)))
        }
        Call::GetRotationPolicy { name } => {
            let (key, _) = vault.find(name, None)?;
            Ok(Answer::ok(links.rotation_policy(name, key.rotation_policy.as_ref())))
        }
        Call::Backup { name } => {
            let (key, _) = vault.find(name, None)?;
            Ok(Answer::ok(json!({ "value": backup::seal(vault, name, key)? })))
        }
        Call::Crypto { operation, name, version } => {
            let (_, found) = vault.find(name, version.as_deref())?;
            crypto(*operation, name, found, request)
        }
        Call::Create { .. }
        | Call::Import { .. }
        | Call::Update { .. }
        | Call::Delete { .. }
        | Call::Recover { .. }
        | Call::Purge { .. }
        | Call::Rotate { .. }
        | Call::SetRotationPolicy { .. }
        | Call::Restore => Err(Refusal::MethodNotAllowed),
    }
}

/// Does a call that changes the state, and answers it. `state` may be half-changed after an error: callers work
/// on a copy.
pub fn write(state: &mut State, call: &Call, request: &Request, fresh: Fresh) -> Result<Answer, Refusal> {
    let now = request.now;
    let deletion_delay_s = state.settings.deletion_delay_s;
    let vault = &mut state.vault;
    let links = &request.links;
    let no_material = || Refusal::InternalServerError;
    match call {
        Call::Create { name } => {
            let create = body::Create::read(&request.body)?;
            let material = fresh.material.ok_or_else(no_material)?;
            vault.add_version(name, create.into_version(fresh.version, material), now)?;
            newest(vault, links, name)
        }
        Call::Import { name } => {
            let new: NewVersion = body::Import::read(&request.body)?.into_version(fresh.version)?;
            vault.add_version(name, new, now)?;
            newest(vault, links, name)
        }
        Call::Update { name, version } => {
            let change = body::update(&request.body)?;
            vault.change_version(name, version.as_deref(), change, now)?;
            let (_, found) = vault.find(name, version.as_deref())?;
            Ok(Answer::ok(links.bundle(vault, name, found)))
        }
        Call::Delete { name } => {
            vault.delete_key(name, now, deletion_delay_s)?;
            let Some(deleted) = vault.deleted_keys.get(name) else {
                return Err(Refusal::InternalServerError);
            };
            Ok(Answer::ok(links.deleted_bundle(vault, name, deleted)))
        }
        Call::Recover { name } => {
            vault.recover_key(name, now)?;
            newest(vault, links, name)
        }
        Call::Purge { name } => {
            vault.purge_key(name, now)?;
            Ok(Answer::no_content())
        }
        Call::Rotate { name } => {
            let material = fresh.material.ok_or_else(no_material)?;
            let rotated = vault.rotated_version(name, fresh.version, material, now)?;
            vault.add_version(name, rotated, now)?;
            newest(vault, links, name)
        }
        Call::SetRotationPolicy { name } => {
            vault.find(name, None)?;
            let Some(key) = vault.keys.get_mut(name) else { return Err(Refusal::InternalServerError) };
            let created = key.rotation_policy.as_ref().map_or(now, |p| p.created);
            key.rotation_policy =
                Some(RotationPolicy { created, updated: now, ..body::policy(&request.body)? });
            Ok(Answer::ok(links.rotation_policy(name, key.rotation_policy.as_ref())))
        }
        Call::Restore => {
            let (name, key) = backup::open(vault, &body::value(&request.body)?)?;
            let name = vault.known_name(&name);
            vault.restore_key(&name, key, now)?;
            newest(vault, links, &name)
        }
        Call::List
        | Call::Versions { .. }
        | Call::Get { .. }
        | Call::DeletedList
        | Call::DeletedGet { .. }
        | Call::GetRotationPolicy { .. }
        | Call::Backup { .. }
        | Call::Crypto { .. } => read(state, call, request),
    }
}

fn newest(vault: &crate::state::Vault, links: &Links, name: &str) -> Result<Answer, Refusal> {
    let (_, found) = vault.find(name, None)?;
    Ok(Answer::ok(links.bundle(vault, name, found)))
}

/// One page of a list: `maxresults` 1..25, then a `nextLink`.
fn page<T>(
    request: &Request,
    path: &str,
    all: &[T],
    show: impl Fn(&T) -> Option<Value>,
) -> Result<Answer, Refusal> {
    const LARGEST: usize = 25;
    let size =
        match request.query("maxresults") {
            None => LARGEST,
            Some(text) => text.parse().ok().filter(|n| (1..=LARGEST).contains(n)).ok_or_else(|| {
                Refusal::BadParameter(format!("maxresults must be between 1 and {LARGEST}"))
            })?,
        };
    let start = match request.query("$skiptoken") {
        None => 0,
        Some(token) => BASE64URL_NOPAD
            .decode(token.as_bytes())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok()?.parse::<usize>().ok())
            .ok_or_else(|| Refusal::BadParameter("$skiptoken cannot be read".to_owned()))?,
    };
    let end = start.saturating_add(size).min(all.len());
    let value: Vec<Value> = all.get(start..end).unwrap_or(&[]).iter().filter_map(show).collect();
    let next_link = (end < all.len()).then(|| {
        let token = BASE64URL_NOPAD.encode(end.to_string().as_bytes());
        let version = request.query("api-version").unwrap_or_default();
        format!("{}{path}?api-version={version}&$skiptoken={token}&maxresults={size}", request.links.base())
    });
    Ok(Answer::ok(json!({ "value": value, "nextLink": next_link })))
}

/// Encrypt, decrypt, wrap and unwrap, in the order of checks that Azure is seen to use: a disabled key still
/// encrypts and wraps, an expired or not yet valid one still decrypts and unwraps.
fn crypto(
    operation: CryptoOperation,
    name: &str,
    version: &KeyVersion,
    request: &Request,
) -> Result<Answer, Refusal> {
    let word = operation.word();
    let private = operation.needs_private_key();
    if private && !version.enabled {
        return Err(Refusal::KeyDisabled { operation: word });
    }
    if !version.key_ops.iter().any(|op| op == word) {
        return Err(Refusal::KeyOperationForbidden { operation: word });
    }
    if !private {
        if version.not_before.is_some_and(|nbf| request.now < nbf) {
            return Err(Refusal::KeyNotYetValid { operation: word });
        }
        if version.expires.is_some_and(|exp| request.now >= exp) {
            return Err(Refusal::KeyExpired { operation: word });
        }
    }
    let body = body::Crypto::read(&request.body)?;
    if version.material.point.is_some() {
        return Err(Refusal::BadParameter(format!("Operation {word} is not supported for keys of type EC")));
    }
    let Some(algorithm) = Algorithm::from_name(&body.alg) else {
        return Err(Refusal::BadParameter(format!(
            "Property has invalid value: alg {:?} is not an encryption algorithm of an RSA key",
            body.alg
        )));
    };
    let result = match operation {
        CryptoOperation::Encrypt | CryptoOperation::WrapKey => {
            version.material.encrypt(algorithm, &body.value)
        }
        CryptoOperation::Decrypt | CryptoOperation::UnwrapKey => {
            version.material.decrypt(algorithm, &body.value)
        }
    };
    match result {
        Ok(value) => Ok(Answer::ok(json!({
            "kid": request.links.key(name, Some(&version.version)),
            "value": BASE64URL_NOPAD.encode(&value),
        }))),
        Err(MaterialError::Unusable) => Err(Refusal::InternalServerError),
        Err(error) => Err(Refusal::BadParameter(error.to_string())),
    }
}
