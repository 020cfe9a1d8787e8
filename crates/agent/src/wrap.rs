//! What the customer key does for the node: wrapping a master key, and giving it back.
//!
//! Every call here waits for a vault. Nothing here touches the disk.

use keyward_keys::{
    CanarySecret, MasterKey,
    keystore::{CanaryWrap, MasterKeyWrap, Provider, SealedKeystore, VerifiedWrap},
};
use keyward_kms::{Facts, KeyService, KmsError, Severity, highest_severity};
use keyward_model::{Class, Evidence, KeyIdentifier, Timestamp, Weight};
use zeroize::Zeroizing;

use crate::{
    canaries::Canary,
    node::{KeyAccess, NextKey, NodeError},
};

/// Refuses a customer key that will not do, with the vault's own reasons. Gives what is only worth a warning.
pub(crate) async fn check(service: &dyn KeyService, key: &KeyIdentifier) -> Result<Vec<String>, NodeError> {
    let findings = service.check(key).await;
    if highest_severity(&findings) == Some(Severity::Refuse) {
        return Err(NodeError::KeyRefused { key_identifier: key.to_string(), findings });
    }
    Ok(findings.into_iter().map(|finding| format!("{} ({})", finding.text, finding.hint)).collect())
}

/// Wraps a master key, and a new canary, under `key`. Nothing may rely on it before it was unwrapped once.
pub(crate) async fn wrap(
    service: &dyn KeyService,
    key: &KeyIdentifier,
    master: &[u8],
    now: Timestamp,
) -> Result<MasterKeyWrap, NodeError> {
    let description = service.describe(key).await?;
    let ciphertext = service.wrap(key, master).await?;
    let canary = CanarySecret::make()?;
    let canary_ciphertext = service.wrap(key, canary.expose()).await?;
    Ok(MasterKeyWrap {
        provider: Provider::AzureKeyVault,
        key_identifier: key.to_string(),
        public_key_sha256: description.public_key_sha256,
        algorithm: "RSA-OAEP-256".to_owned(),
        ciphertext,
        created_at: now.0,
        canary: CanaryWrap { ciphertext: canary_ciphertext, sha256: canary.sha256() },
    })
}

/// Wraps a new master key under `key` and unwraps it again: only then may a keystore rely on it.
pub(crate) async fn wrap_and_verify(
    service: &dyn KeyService,
    key: &KeyIdentifier,
    master: &MasterKey,
    now: Timestamp,
) -> Result<(VerifiedWrap, Evidence), NodeError> {
    let wrap = wrap(service, key, master.expose(), now).await?;
    let (unwrapped, facts) = service.unwrap(key, &wrap.ciphertext).await?;
    Ok((wrap.verified(master, &unwrapped)?, facts.into_evidence(Class::Success, key, now)))
}

/// A master key as the vault gave it back.
pub(crate) struct Unwrapped {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) key_identifier: KeyIdentifier,
    pub(crate) evidence: Evidence,
}

/// Unwraps the master key of `sealed` with the first of its wraps that works. When none does, the gentlest answer
/// counts: a key that could not be asked is no refusal.
pub(crate) async fn unwrap(
    service: &dyn KeyService,
    sealed: &[MasterKeyWrap],
    now: impl Fn() -> Timestamp,
) -> Result<Unwrapped, NodeError> {
    let mut gentlest: Option<KmsError> = None;
    for wrap in sealed {
        let key: KeyIdentifier = wrap.key_identifier.parse()?;
        match service.unwrap(&key, &wrap.ciphertext).await {
            Ok((bytes, facts)) => {
                let evidence = facts.into_evidence(Class::Success, &key, now());
                return Ok(Unwrapped { bytes, key_identifier: key, evidence });
            }
            Err(error) => gentlest = Some(gentler(gentlest, error)),
        }
    }
    Err(gentlest.map_or(NodeError::NoKeystore, NodeError::Kms))
}

/// Unwraps the master key of `sealed` by whichever way works: the way in use, or the key that the node is to move to,
/// where the keystore is under it already or it is the same key pair under another name.
pub(crate) async fn unwrap_either(
    access: &KeyAccess,
    sealed: &[MasterKeyWrap],
    now: impl Fn() -> Timestamp,
) -> Result<Unwrapped, NodeError> {
    let Some(next) = &access.next else { return unwrap(&*access.service, sealed, now).await };
    let under_next = |wrap: &&MasterKeyWrap| wrap.key_identifier == next.key.to_string();
    // Under the new key already: only that key's answer says anything about it.
    let moved = match sealed.iter().find(under_next) {
        Some(wrap) => Some(unwrap(&*next.service, std::slice::from_ref(wrap), &now).await),
        None => None,
    };
    let refused = match moved {
        Some(Ok(unwrapped)) => return Ok(unwrapped),
        Some(Err(error)) if sealed.len() == 1 => Some(error),
        Some(Err(_)) | None => None,
    };
    let error = match unwrap(&*access.service, sealed, &now).await {
        Ok(unwrapped) => return Ok(unwrapped),
        Err(error) => error,
    };
    if let Some(wrap) = same_key_pair(next, sealed, |wrap| &wrap.public_key_sha256).await
        && let Ok((bytes, facts)) = next.service.unwrap(&next.key, &wrap.ciphertext).await
    {
        let evidence = facts.into_evidence(Class::Success, &next.key, now());
        // The keystore knows its wrap by the name that it was made under.
        return Ok(Unwrapped { bytes, key_identifier: wrap.key_identifier.parse()?, evidence });
    }
    Err(refused.unwrap_or(error))
}

/// Probes by the key that the node is to move to; `None` when that one does not open the keystore.
pub(crate) async fn probe_next(access: &KeyAccess, canaries: &[Canary]) -> Option<Evidence> {
    let next = access.next.as_ref()?;
    let canary = match canaries.iter().find(|canary| canary.key_identifier == next.key.to_string()) {
        Some(canary) => canary,
        None => same_key_pair(next, canaries, |canary| &canary.public_key_sha256).await?,
    };
    let seen = next.service.probe(&next.key, &canary.canary.ciphertext, &canary.canary.sha256).await;
    (seen.class == Class::Success).then_some(seen)
}

/// The one that was made with the same key pair as `next`, under whatever name.
async fn same_key_pair<'a, T>(
    next: &NextKey,
    all: &'a [T],
    public_key_of: impl Fn(&'a T) -> &'a str,
) -> Option<&'a T> {
    let public_key = next.service.describe(&next.key).await.ok()?.public_key_sha256;
    all.iter().find(|one| !public_key.is_empty() && public_key_of(one) == public_key)
}

/// The same for a keystore that is not this node's.
pub(crate) async fn unwrap_sealed(
    service: &dyn KeyService,
    sealed: &SealedKeystore,
    now: impl Fn() -> Timestamp,
) -> Result<Unwrapped, NodeError> {
    unwrap(service, sealed.wraps(), now).await
}

/// Probes the customer key with each of `canaries` in turn until one works. When none does, the gentlest
/// answer counts.
pub(crate) async fn probe(access: &KeyAccess, canaries: &[Canary]) -> Option<Evidence> {
    let mut gentlest: Option<Evidence> = None;
    for Canary { key_identifier, canary, .. } in canaries {
        let Ok(key) = key_identifier.parse::<KeyIdentifier>() else { continue };
        let evidence = way_to(access, &key).probe(&key, &canary.ciphertext, &canary.sha256).await;
        if evidence.class == Class::Success {
            return Some(evidence);
        }
        gentlest = Some(match gentlest {
            Some(before) if rank(before.class) <= rank(evidence.class) => before,
            Some(_) | None => evidence,
        });
    }
    gentlest
}

/// What reaches `key`: a refusal by the way to another key would say nothing about it.
fn way_to<'a>(access: &'a KeyAccess, key: &KeyIdentifier) -> &'a dyn KeyService {
    match &access.next {
        Some(next) if next.key == *key && access.key.as_ref() != Some(key) => &*next.service,
        Some(_) | None => &*access.service,
    }
}

/// Reads the customer key where there is nothing to unwrap yet: whether it is there and enabled.
pub(crate) async fn look(service: &dyn KeyService, key: &KeyIdentifier, now: Timestamp) -> Evidence {
    match service.describe(key).await {
        Ok(description) => {
            let class = if description.enabled { Class::Success } else { Class::KeyDisabled };
            Facts::default().into_evidence(class, key, now)
        }
        Err(error) => error.into_evidence(now),
    }
}

fn gentler(before: Option<KmsError>, error: KmsError) -> KmsError {
    match before {
        Some(before) if rank(before.class) <= rank(error.class) => before,
        Some(_) | None => error,
    }
}

fn rank(class: Class) -> u8 {
    match class.weight() {
        Weight::Success => 0,
        // Damaged data says nothing about the other wraps.
        Weight::Neutral if class == Class::BadCiphertext => 4,
        Weight::Neutral => 1,
        Weight::Denial => 2,
        Weight::Strong => 3,
    }
}
