//! [`KeyService`] for Azure Key Vault.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use aws_lc_rs::digest;
use keyward_model::{Class, Evidence, KeyIdentifier, Timestamp};
use zeroize::Zeroizing;

use super::{
    arm::Arm,
    classify::{SecondLook, Suspicion, after_failover, confirm, suspicion},
    config::{AzureConfig, ConfigError},
    findings,
    keys_api::{KeysApi, Pair},
    names::{HostNames, Names},
    regions::Regions,
    retry::RetryPolicy,
    token::Tokens,
    transport::{Failure, Transport},
};
use crate::{Facts, Finding, KeyDescription, KeyService, KmsError, Operation, Severity, highest_severity};

/// The customer keys of one tenant's vaults, as one application may use them.
#[derive(Debug)]
pub struct AzureKeyService {
    keys: KeysApi,
    tokens: Tokens,
    arm: Option<Arm>,
    tenant_id: String,
    work: RetryPolicy,
    regions: Regions,
    /// The pair of operations that worked last, by key name in its vault and direction.
    granted: Mutex<HashMap<(String, Operation), Pair>>,
}

impl AzureKeyService {
    /// Sets up the client. Nothing is sent, and no credential is read yet.
    pub fn new(config: AzureConfig) -> Result<Self, ConfigError> {
        Self::with_names(config, Arc::new(HostNames))
    }

    /// The same, with another way to look up the names of vaults, of Entra ID and of ARM.
    pub fn with_names(config: AzureConfig, names: Arc<dyn Names>) -> Result<Self, ConfigError> {
        if let Some(problem) = config.problems().into_iter().next() {
            return Err(problem);
        }
        let places = config.places();
        let transport = Transport::secure(&config, Arc::clone(&names))?;
        let to_vault = Transport::to_vault(&config, names)?;
        let tokens = Tokens::new(&config, places.authorities[0].clone(), transport.clone())?;
        let arm = match (config.subscription_id, config.resource_group) {
            (Some(subscription), Some(group)) => {
                Some(Arm::new(places.arm.clone(), subscription, group, transport.clone()))
            }
            (None, _) | (_, None) => None,
        };
        let keys = KeysApi::new(places, config.tenant_id.clone(), to_vault);
        Ok(Self {
            keys,
            tokens,
            arm,
            tenant_id: config.tenant_id,
            work: RetryPolicy::WORK,
            regions: Regions::default(),
            granted: Mutex::default(),
        })
    }

    /// With other bounds than [`RetryPolicy::WORK`] for all but probes: someone waits for the answer.
    pub fn with_retries(self, work: RetryPolicy) -> Self {
        Self { work, ..self }
    }

    /// With what is known of regions already; what this service learns is added to it.
    pub fn with_regions(self, regions: Regions) -> Self {
        Self { regions, ..self }
    }

    /// How often the vault makes a new version of the key by itself, in days; `None` when it does not. Needs the
    /// permission to read the key's rotation policy, which nothing else needs.
    pub async fn rotates_after_days(&self, key: &KeyIdentifier) -> Result<Option<u32>, KmsError> {
        let read = self.keys.rotates_after_days(&self.tokens, key, &self.work).await;
        read.map_err(|failure| error(Operation::Describe, key, failure))
    }

    /// Wraps or unwraps by whichever pair of operations is granted.
    ///
    /// The pair that worked last is tried first; a denial makes it try the other one. So a call costs one request
    /// in the steady state, and a changed grant is found out by itself.
    async fn crypt(
        &self,
        operation: Operation,
        key: &KeyIdentifier,
        input: &[u8],
        policy: &RetryPolicy,
    ) -> Result<(Zeroizing<Vec<u8>>, Facts), Failure> {
        let name = (format!("{}/keys/{}", key.vault_url(), key.name()), operation);
        let known = self.granted().get(&name).copied();
        let pair = known.unwrap_or(Pair::Wrap);
        let first = match self.keys.crypt(&self.tokens, operation, pair, key, input, policy).await {
            Ok(done) => {
                self.granted().insert(name, pair);
                return Ok(done);
            }
            Err(failure) if is_denial(failure.class) => failure,
            Err(failure) => return Err(failure),
        };
        match self.keys.crypt(&self.tokens, operation, pair.other(), key, input, policy).await {
            Ok(done) => {
                self.granted().insert(name, pair.other());
                Ok(done)
            }
            Err(second) => Err(if second_stands(first.class, second.class) { second } else { first }),
        }
    }

    fn granted(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Operation), Pair>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unwraps; a failure that may mean a deletion is looked into by a second call.
    async fn unwrap_confirmed(
        &self,
        key: &KeyIdentifier,
        ciphertext: &[u8],
        policy: &RetryPolicy,
    ) -> Result<(Zeroizing<Vec<u8>>, Facts), Failure> {
        let failure = match self.crypt(Operation::Unwrap, key, ciphertext, policy).await {
            Ok(done) => {
                if let Some(region) = &done.1.region {
                    self.regions.note(key, region);
                }
                return Ok(done);
            }
            Err(failure) => failure,
        };
        let Some(suspected) = suspicion(failure.class, &failure.facts) else { return Err(failure) };
        if failure.facts.host.as_deref() != Some(key.vault_host()) {
            // What keeps Entra ID or the metadata service from answering says nothing about the vault.
            return Err(failure);
        }
        let second = match suspected {
            Suspicion::KeyDeleted => self.keys.look_among_deleted(&self.tokens, key).await,
            Suspicion::VaultDeleted => match &self.arm {
                Some(arm) => {
                    let region = self.keys.region(key);
                    arm.look_among_deleted(&self.tokens, key.vault_name(), region.as_deref()).await
                }
                None => SecondLook::NotConfirmed,
            },
        };
        let confirmed = confirm(failure.class, suspected, second);
        let worked_in = self.regions.of(key);
        let class = after_failover(confirmed, worked_in.as_deref(), failure.facts.region.as_deref());
        if class == confirmed {
            return Err(Failure { class, ..failure });
        }
        let message = format!(
            "not found in the region that answers now; it worked in {}, and after a failover what was new may be missing",
            worked_in.unwrap_or_default()
        );
        Err(Failure { class, facts: Facts { message: Some(message), ..failure.facts } })
    }

    /// Wraps and unwraps random bytes; each direction that does not work is a finding of its own.
    async fn try_out(&self, key: &KeyIdentifier) -> Vec<Finding> {
        let mut sample = [0; 32];
        let of = |operation, failure: &Failure| {
            findings::of_failure(operation, key, failure.class, &failure.facts)
        };
        if aws_lc_rs::rand::fill(&mut sample).is_err() {
            let facts =
                Facts { message: Some("this host's random source failed".to_owned()), ..Facts::default() };
            return vec![findings::of_failure(Operation::Wrap, key, Class::Misconfigured, &facts)];
        }
        let wrapped = match self.crypt(Operation::Wrap, key, &sample, &self.work).await {
            Ok((wrapped, _)) => wrapped,
            Err(failure) if is_denial(failure.class) => {
                let mut found = vec![of(Operation::Wrap, &failure)];
                // Whether unwrapping is granted shows with any input: who may not is refused before it is read.
                if let Err(failure) = self.crypt(Operation::Unwrap, key, &sample, &self.work).await
                    && failure.class != Class::BadCiphertext
                {
                    found.push(of(Operation::Unwrap, &failure));
                }
                return found;
            }
            Err(failure) => return vec![of(Operation::Wrap, &failure)],
        };
        match self.crypt(Operation::Unwrap, key, &wrapped, &self.work).await {
            Ok((unwrapped, _)) if unwrapped[..] == sample => Vec::new(),
            Ok(_) => vec![findings::of_wrong_answer(key)],
            Err(failure) => vec![of(Operation::Unwrap, &failure)],
        }
    }
}

#[async_trait]
impl KeyService for AzureKeyService {
    async fn describe(&self, key: &KeyIdentifier) -> Result<KeyDescription, KmsError> {
        let described = self.keys.describe(&self.tokens, key, false, &self.work).await;
        described
            .map(|(description, _)| description)
            .map_err(|failure| error(Operation::Describe, key, failure))
    }

    async fn wrap(&self, key: &KeyIdentifier, plaintext: &[u8]) -> Result<Vec<u8>, KmsError> {
        let wrapped = self.crypt(Operation::Wrap, key, plaintext, &self.work).await;
        wrapped
            .map(|(ciphertext, _)| ciphertext.to_vec())
            .map_err(|failure| error(Operation::Wrap, key, failure))
    }

    async fn unwrap(
        &self,
        key: &KeyIdentifier,
        ciphertext: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Facts), KmsError> {
        let unwrapped = self.unwrap_confirmed(key, ciphertext, &self.work).await;
        unwrapped.map_err(|failure| error(Operation::Unwrap, key, failure))
    }

    async fn probe(
        &self,
        key: &KeyIdentifier,
        canary_ciphertext: &[u8],
        canary_sha256: &[u8; 32],
    ) -> Evidence {
        let (class, facts) = match self.unwrap_confirmed(key, canary_ciphertext, &RetryPolicy::PROBE).await {
            Ok((canary, facts)) if digest::digest(&digest::SHA256, &canary).as_ref() == canary_sha256 => {
                (Class::Success, facts)
            }
            Ok((_, facts)) => {
                let message = Some("the vault unwrapped something, but not the canary".to_owned());
                (Class::BadCiphertext, Facts { message, ..facts })
            }
            Err(failure) => (failure.class, failure.facts),
        };
        facts.into_evidence(class, key, Timestamp(jiff::Timestamp::now()))
    }

    async fn latest_version(&self, key: &KeyIdentifier) -> Result<KeyIdentifier, KmsError> {
        let described = self.keys.describe(&self.tokens, key, true, &self.work).await;
        described
            .map(|(description, _)| description.key_identifier)
            .map_err(|failure| error(Operation::Describe, key, failure))
    }

    async fn check(&self, key: &KeyIdentifier) -> Vec<Finding> {
        let now = Timestamp(jiff::Timestamp::now());
        let mut found = Vec::new();
        if let Some(ends) = self.tokens.certificate_end().await {
            found.extend(findings::of_certificate_end(ends, now));
        }
        let described = match self.keys.describe(&self.tokens, key, false, &self.work).await {
            Ok((description, _)) => {
                found.extend(findings::of_description(&description, now));
                Some(description)
            }
            Err(failure) => {
                found.push(findings::of_failure(Operation::Describe, key, failure.class, &failure.facts));
                if !is_denial(failure.class) {
                    return found;
                }
                None
            }
        };
        // A key that will not do is not tried out.
        if described.is_none() || highest_severity(&found) != Some(Severity::Refuse) {
            found.extend(self.try_out(key).await);
        }
        let seen_through_arm = match &self.arm {
            None => vec![findings::of_unseen_vault(key, None)],
            Some(arm) => match arm.read_vault(&self.tokens, key.vault_name()).await {
                Ok(setup) => findings::of_vault(key, &setup, &self.tenant_id),
                Err(failure) => vec![findings::of_unseen_vault(key, Some(&failure))],
            },
        };
        // The key's recovery level and the vault's set-up may say the same.
        let new: Vec<_> = seen_through_arm.into_iter().filter(|finding| !found.contains(finding)).collect();
        found.extend(new);
        found
    }
}

fn error(operation: Operation, key: &KeyIdentifier, failure: Failure) -> KmsError {
    KmsError { class: failure.class, operation, key_identifier: key.clone(), facts: Box::new(failure.facts) }
}

/// A refusal that another pair of operations may not meet.
fn is_denial(class: Class) -> bool {
    matches!(class, Class::DeniedByPolicy | Class::DeniedByRbac | Class::OperationTakenOff)
}

/// Which of two answers counts, when the pair that is granted (as far as we know) was denied and the other one
/// failed too.
///
/// A denial stands only when both pairs were denied: anything else that the second call met, an outage too, says
/// more. `OperationTakenOff` is told only to who holds the grant, so that one was the granted pair.
fn second_stands(first: Class, second: Class) -> bool {
    !is_denial(second) || (second == Class::OperationTakenOff && first != Class::OperationTakenOff)
}
