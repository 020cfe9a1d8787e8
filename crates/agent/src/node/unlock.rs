//! Getting the master key: from the keystore there is, or for a keystore that is made now.

use keyward_keys::{MasterKey, NodeId};
use keyward_model::{Class, Weight, lifecycle::UnlockFailure};

use super::{NodeError, NodeHandle, chain, error::refusing};
use crate::{config::Initial, wrap};

/// Has the customer key unwrap the master key and verifies the keystore with it. Exactly one unwrap, except for a
/// new node.
pub(super) async fn unlock(node: &NodeHandle) -> Result<(), UnlockFailure> {
    let outcome = match load(node).await {
        Ok(None) => open(node).await,
        Ok(Some(node_id)) => create(node, node_id).await,
        Err(error) => Err(error),
    };
    outcome.map_err(|error| {
        if let NodeError::Kms(error) = &error {
            node.note_evidence(error.clone().into_evidence(node.0.clock.now()));
        }
        let failure = failure(&error);
        tracing::warn!(?failure, "no master key: {}", chain(&error));
        failure
    })
}

/// The id of a node that has no keystore yet; `None` when the keystore was loaded.
pub(super) async fn load(node: &NodeHandle) -> Result<Option<NodeId>, NodeError> {
    let engine = node.0.engine.clone();
    let has_data = tokio::task::spawn_blocking(move || engine.has_data()).await;
    let has_data = has_data.map_err(|_| NodeError::TaskDied)??;
    node.with_keyring(move |keyring| keyring.load(has_data)).await
}

async fn open(node: &NodeHandle) -> Result<(), NodeError> {
    let view = node.0.keyring.view().ok_or(NodeError::NoKeystore)?;
    let mut unwrapped = wrap::unwrap_either(&node.access(), &view.wraps, || node.0.clock.now()).await?;
    node.note_evidence(unwrapped.evidence);
    let now = node.0.clock.now();
    node.with_keyring(move |keyring| {
        keyring.open(&mut unwrapped.bytes, &unwrapped.key_identifier.to_string(), now)
    })
    .await
}

async fn create(node: &NodeHandle, node_id: NodeId) -> Result<(), NodeError> {
    if node.config().initial == Initial::Restore {
        return Err(NodeError::NoKeystore);
    }
    let access = node.access();
    let key = access.key.clone().ok_or(NodeError::NoCustomerKey)?;
    let warnings = wrap::check(&*access.service, &key).await?;
    node.set_note("customer key", (!warnings.is_empty()).then(|| warnings.join("; ")));
    let now = node.0.clock.now();
    let master = MasterKey::make()?;
    let (wrap, evidence) = wrap::wrap_and_verify(&*access.service, &key, &master, now).await?;
    node.note_evidence(evidence);
    node.with_keyring(move |keyring| keyring.create(node_id, master, wrap, now)).await?;
    tracing::info!(%node_id, %key, "made the keystore of a new node");
    Ok(())
}

fn failure(error: &NodeError) -> UnlockFailure {
    let told = || format!("{} (hint: {})", chain(error), error.hint());
    match error {
        NodeError::Kms(kms) => match (kms.class.weight(), kms.class) {
            (_, Class::BadCiphertext) => UnlockFailure::Broken(told()),
            (Weight::Strong | Weight::Denial, class) => UnlockFailure::Refused(class),
            (Weight::Neutral | Weight::Success, class) => UnlockFailure::Unavailable(class),
        },
        // A new node: what the owner of the key did on purpose is obeyed and heals, an outage is waited out, and
        // everything else is a mistake in the configuration or the grant that a person must mend.
        NodeError::KeyRefused { findings, .. } => {
            let class = refusing(findings).find_map(|finding| finding.class);
            match class.map(|class| (class, class.weight())) {
                Some((class, Weight::Strong)) => UnlockFailure::Refused(class),
                Some((Class::Misconfigured | Class::BadCiphertext | Class::KeyNotCurrent, _)) => {
                    UnlockFailure::Broken(told())
                }
                Some((class, Weight::Neutral)) => UnlockFailure::Unavailable(class),
                Some((_, Weight::Denial | Weight::Success)) | None => UnlockFailure::Broken(told()),
            }
        }
        NodeError::Keyring(_)
        | NodeError::Keystore(_)
        | NodeError::Secret(_)
        | NodeError::Memory(_)
        | NodeError::Engine(_)
        | NodeError::KeyIdentifier(_)
        | NodeError::WrongAnswer { .. }
        | NodeError::Busy(_)
        | NodeError::State { .. }
        | NodeError::NoKeystore
        | NodeError::NoCustomerKey
        | NodeError::NewWayRefused { .. }
        | NodeError::Settings(_)
        | NodeError::ManagedByServer { .. }
        | NodeError::Link(_)
        | NodeError::ShuttingDown
        | NodeError::TaskDied => UnlockFailure::Broken(told()),
    }
}
