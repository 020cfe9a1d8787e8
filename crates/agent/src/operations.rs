//! Rotating the master key, and moving it under another customer key.
//!
//! Owns the order of their steps. Vault calls come first and outside the keystore's lock; a step that changes the
//! keystore is durable before the next one begins, and each can be repeated after a failure at any point. No page
//! is touched, no client notices, no process restarts.

use keyward_keys::MasterKey;
use keyward_kms::KeyService;
use keyward_model::{Class, KeyIdentifier};
use serde::{Deserialize, Serialize};

use crate::{
    admin::progress::Progress,
    keyring::KeyringError,
    node::{NodeError, NodeHandle},
    wrap,
};

/// What a rotation or a rewrap did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewrapped {
    /// The master key now.
    pub master_key_id: String,
    /// The one before; the same for a rewrap.
    pub previous_master_key_id: String,
    /// The customer key that wraps it now.
    pub key_identifier: String,
    /// The one before. Snapshots taken under it still need it.
    pub previous_key_identifier: String,
    /// The keystore's generation.
    pub generation: u64,
    /// Database keys, spares included, that stayed what they were.
    pub database_keys: usize,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// Makes a new master key and wraps every database key under it.
pub async fn rotate_master_key(node: &NodeHandle, progress: &Progress) -> Result<Rewrapped, NodeError> {
    let _operation = node.begin("a change of the master key")?;
    let before = held(node)?;
    let key = node.current_key()?;
    progress.report("wrapping a new master key with the customer key", 0, 3, "steps");
    let new = MasterKey::make()?;
    let now = node.clock().now();
    let (wrap, evidence) = wrap::wrap_and_verify(&*node.key_service(), &key, &new, now).await?;
    node.note_evidence(evidence);
    progress.report("wrapping the database keys under it", 2, 3, "steps");
    node.with_keyring(move |keyring| keyring.rotate(new, wrap, now)).await?;
    progress.report("done", 3, 3, "steps");
    tracing::info!(from = before.master_key_id, "the master key was rotated");
    report(node, &before, Vec::new())
}

/// Wraps the master key under another version of the customer key, or under a key in another vault, and lets go of
/// the wrap it had.
pub async fn rewrap(
    node: &NodeHandle,
    key: &KeyIdentifier,
    progress: &Progress,
) -> Result<Rewrapped, NodeError> {
    rewrap_through(node, &*node.key_service(), key, progress).await
}

/// The same where `key` is reached by another service than the key in use.
pub(crate) async fn rewrap_through(
    node: &NodeHandle,
    service: &dyn KeyService,
    key: &KeyIdentifier,
    progress: &Progress,
) -> Result<Rewrapped, NodeError> {
    let _operation = node.begin("a change of the master key")?;
    let before = held(node)?;
    if before.key_identifier == key.to_string() {
        return confirm(node, service, key, &before).await;
    }
    progress.report("checking the customer key", 0, 4, "steps");
    let warnings = wrap::check(service, key).await?;
    progress.report("wrapping the master key with it", 1, 4, "steps");
    let now = node.clock().now();
    let master = node.with_keyring(|keyring| keyring.master_key_to_wrap()).await?;
    let staged = wrap::wrap(service, key, &master, now).await?;
    drop(master);
    let ciphertext = staged.ciphertext.clone();
    node.with_keyring(move |keyring| keyring.stage(staged)).await?;
    progress.report("unwrapping it again", 2, 4, "steps");
    let verified = async {
        let (unwrapped, facts) = service.unwrap(key, &ciphertext).await?;
        let identifier = key.to_string();
        node.with_keyring(move |keyring| keyring.rely_on(&identifier, &unwrapped)).await?;
        Ok::<_, NodeError>(facts.into_evidence(Class::Success, key, node.clock().now()))
    };
    match verified.await {
        // Refusals of the key before say nothing about this one.
        Ok(evidence) => node.note_evidence(evidence),
        Err(error) => {
            // The old wrap is still the one that is relied on; what was staged would only be in the way.
            if let Err(undo) = node.with_keyring(|keyring| keyring.unstage()).await {
                tracing::warn!("the staged wrap stays until the next start: {}", crate::node::chain(&undo));
            }
            return Err(error);
        }
    }
    progress.report("done", 4, 4, "steps");
    tracing::info!(from = before.key_identifier, to = %key, "the master key was rewrapped");
    node.described().await;
    report(node, &before, warnings)
}

/// The master key is under that customer key already, perhaps by a rewrap whose answer was lost: says so once the
/// vault has unwrapped it.
async fn confirm(
    node: &NodeHandle,
    service: &dyn KeyService,
    key: &KeyIdentifier,
    before: &Before,
) -> Result<Rewrapped, NodeError> {
    let view = node.keyring().view().ok_or(NodeError::NoKeystore)?;
    let key_identifier = key.to_string();
    let wrap = view.wraps.iter().find(|wrap| wrap.key_identifier == key_identifier);
    let ciphertext = &wrap.ok_or(NodeError::NoKeystore)?.ciphertext;
    let (unwrapped, _) = service.unwrap(key, ciphertext).await?;
    node.with_keyring(move |keyring| keyring.rely_on(&key_identifier, &unwrapped)).await?;
    report(node, before, Vec::new())
}

struct Before {
    master_key_id: String,
    key_identifier: String,
}

fn held(node: &NodeHandle) -> Result<Before, NodeError> {
    let view = node.keyring().view().ok_or(NodeError::NoKeystore)?;
    if !view.held {
        return Err(node.not_held().unwrap_or(KeyringError::NotHeld.into()));
    }
    Ok(Before { master_key_id: view.master_key.id.clone(), key_identifier: node.current_key()?.to_string() })
}

fn report(node: &NodeHandle, before: &Before, warnings: Vec<String>) -> Result<Rewrapped, NodeError> {
    let view = node.keyring().view().ok_or(NodeError::NoKeystore)?;
    Ok(Rewrapped {
        master_key_id: view.master_key.id.clone(),
        previous_master_key_id: before.master_key_id.clone(),
        key_identifier: node.current_key()?.to_string(),
        previous_key_identifier: before.key_identifier.clone(),
        generation: view.generation,
        database_keys: view.database_keys.len() + view.spares,
        warnings,
    })
}
