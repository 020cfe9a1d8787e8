//! Getting the master key: from the keystore there is, or for a keystore that is made now.

use keyward_keys::{MasterKey, NodeId};
use keyward_kms::{Facts, Finding};
use keyward_model::{Class, Evidence, Timestamp, Weight, lifecycle::UnlockFailure};

use super::{NodeError, NodeHandle, chain, error::refusing};
use crate::{config::Initial, keyring::KeyringError, wrap};

/// As long as a service's own message may be in evidence.
const MESSAGE_CHARS: usize = 500;

/// Has the customer key unwrap the master key and verifies the keystore with it. Exactly one unwrap, except for a
/// new node.
pub(super) async fn unlock(node: &NodeHandle) -> Result<(), UnlockFailure> {
    let outcome = match node.refuse_unencrypted() {
        Ok(()) => match load(node).await {
            Ok(Loaded::Keystore) => open(node).await,
            Ok(Loaded::New(node_id)) => create(node, node_id).await,
            Ok(Loaded::Unencrypted(_)) => Err(NodeError::Unencrypted(node.config().data_path.clone())),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    note_keystore(node, outcome.as_ref().err());
    // Read while the disk still answers.
    node.copied_canaries().await;
    outcome.map_err(|error| {
        if let Some(evidence) = evidence(&error, node.0.clock.now()) {
            node.note_evidence(evidence);
        }
        let failure = failure(&error);
        tracing::warn!(?failure, "no master key: {}", chain(&error));
        failure
    })
}

/// Notes whether the keystore is why nothing could be opened.
pub(super) fn note_keystore(node: &NodeHandle, error: Option<&NodeError>) {
    let unusable = match error {
        Some(NodeError::Keystore(_) | NodeError::KeyIdentifier(_)) => true,
        Some(NodeError::Keyring(error)) => {
            matches!(error, KeyringError::File(_) | KeyringError::Keystore(_) | KeyringError::Secret(_))
        }
        // The wrap is damaged, and with it perhaps the canary beside it.
        Some(NodeError::Kms(error)) => error.class == Class::BadCiphertext,
        Some(_) | None => false,
    };
    node.shared().keystore_unusable = unusable;
}

/// What there is.
pub(super) enum Loaded {
    /// The keystore, loaded.
    Keystore,
    /// Nothing: a new node, of this id.
    New(NodeId),
    /// Data without a keystore, on a node that never had one and waits for its server: it is not encrypted.
    Unencrypted(NodeId),
}

/// Looks for the keystore.
pub(super) async fn load(node: &NodeHandle) -> Result<Loaded, NodeError> {
    let engine = node.0.engine.clone();
    let has_data = tokio::task::spawn_blocking(move || engine.has_data()).await;
    let has_data = has_data.map_err(|_| NodeError::TaskDied)??;
    let may_adopt = has_data && node.config().initial == Initial::Server && node.0.engine.can_refill();
    node.with_keyring(move |keyring| {
        let adopted = may_adopt && keyring.never_had_one()?;
        Ok::<_, crate::keyring::KeyringError>(match keyring.load(has_data && !adopted)? {
            None => Loaded::Keystore,
            Some(node_id) if adopted => Loaded::Unencrypted(node_id),
            Some(node_id) => Loaded::New(node_id),
        })
    })
    .await
}

/// Makes the keystore of a node whose unencrypted data is to be deleted; nothing to do where it is there.
pub(super) async fn create_beside_data(node: &NodeHandle) -> Result<(), NodeError> {
    match load(node).await? {
        Loaded::Keystore => Ok(()),
        Loaded::Unencrypted(node_id) => create(node, node_id).await,
        Loaded::New(_) => Err(NodeError::NoKeystore),
    }
}

async fn open(node: &NodeHandle) -> Result<(), NodeError> {
    let view = node.0.keyring.view().ok_or(NodeError::NoKeystore)?;
    let access = node.access();
    let unwrapping = wrap::unwrap_either(&access, &view.wraps, || node.0.clock.now());
    let mut unwrapped = asking(node, unwrapping).await?;
    node.note_evidence(unwrapped.evidence);
    let now = node.0.clock.now();
    node.with_keyring(move |keyring| {
        keyring.open(&mut unwrapped.bytes, &unwrapped.key_identifier.to_string(), now)
    })
    .await
}

/// Asks the vault. It is not probed meanwhile.
async fn asking<T>(node: &NodeHandle, vault: impl Future<Output = T>) -> T {
    struct Asked<'a>(&'a NodeHandle);
    impl Drop for Asked<'_> {
        fn drop(&mut self) {
            self.0.shared().asking_vault = false;
        }
    }
    node.shared().asking_vault = true;
    let _asked = Asked(node);
    vault.await
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

/// The first finding that refuses and rests on an answer, or on the lack of one.
fn answered(findings: &[Finding]) -> Option<(Class, &Finding)> {
    refusing(findings).find_map(|finding| Some((finding.class?, finding)))
}

/// What a failed unlock shows of the customer key. Of a check that a new node makes only what is an outage: what
/// refuses there is told as it is, and no run of refusals begins before there is anything to be taken away.
fn evidence(error: &NodeError, now: Timestamp) -> Option<Evidence> {
    if let NodeError::Kms(error) = error {
        return Some(error.clone().into_evidence(now));
    }
    let NodeError::KeyRefused { key_identifier, findings } = error else { return None };
    let (class, finding) = answered(findings).filter(|(class, _)| class.weight() == Weight::Neutral)?;
    let message = finding.text.chars().take(MESSAGE_CHARS).collect();
    let facts = Facts { message: Some(message), ..Facts::default() };
    Some(facts.into_evidence(class, &key_identifier.parse().ok()?, now))
}

fn failure(error: &NodeError) -> UnlockFailure {
    let told = || format!("{} (hint: {})", chain(error), error.hint());
    match error {
        NodeError::Kms(kms) => match (kms.class.weight(), kms.class) {
            (_, Class::BadCiphertext) => UnlockFailure::Broken(told()),
            (Weight::Strong | Weight::Denial, class) => UnlockFailure::Refused(class),
            (Weight::Neutral | Weight::Success, _) => UnlockFailure::Unavailable(kms.to_string()),
        },
        // A new node: what the owner of the key did on purpose is obeyed and heals, an outage is waited out, and
        // everything else is a mistake in the configuration or the grant that a person must mend.
        NodeError::KeyRefused { findings, .. } => {
            match answered(findings).map(|(class, finding)| (class, class.weight(), finding)) {
                Some((class, Weight::Strong, _)) => UnlockFailure::Refused(class),
                Some((Class::Misconfigured | Class::BadCiphertext | Class::KeyNotCurrent, ..)) => {
                    UnlockFailure::Broken(told())
                }
                Some((_, Weight::Neutral, finding)) => UnlockFailure::Unavailable(finding.text.clone()),
                Some((_, Weight::Denial | Weight::Success, _)) | None => UnlockFailure::Broken(told()),
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
        | NodeError::Overtaken
        | NodeError::NoKeystore
        | NodeError::NoCustomerKey
        | NodeError::NewWayRefused { .. }
        | NodeError::Settings(_)
        | NodeError::ManagedByServer { .. }
        | NodeError::Unencrypted(_)
        | NodeError::Resync(_)
        | NodeError::Link(_)
        | NodeError::ShuttingDown
        | NodeError::TaskDied => UnlockFailure::Broken(told()),
    }
}
