//! What a node does on its server's word, and what it does only when its own host approves (DESIGN rule 13).
//!
//! Two pure functions: [`accept`] says whether a desired state may be looked at, [`decide`] what to do about it.
//! The contract has no word for writing data unencrypted, and one for deleting it: a resync, of data that was never
//! encrypted, which the host has to approve and which the node does only when its replica set has the data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{
    KeyIdentifier,
    encryption::AzureEnvironment,
    sync::{Desired, DesiredEncryption, DesiredRun, HeldBack, Validated, Validation, ValidationFinding},
};

/// What the node's own file allows a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    /// The only tenant that customer keys may come from.
    pub tenant_id: String,
    /// The only Azure that they may lie in.
    pub environment: AzureEnvironment,
    /// What a key identifier must begin with, any of these; none: every vault of the tenant.
    pub keys: Vec<String>,
}

/// Something that the node's host approved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Approval {
    /// Customer keys of this tenant.
    Tenant(String),
    /// Customer keys in this Azure.
    Environment(AzureEnvironment),
    /// This customer key, although it begins with nothing that the file allows.
    Key(KeyIdentifier),
    /// This desired state, although it is older than one seen before.
    State {
        /// Its revision.
        revision: u64,
        /// Its digest.
        digest: String,
    },
    /// That the server names no customer key any more.
    EncryptionOff,
    /// That the unencrypted data of this member of a replica set is deleted, to be filled again by the others.
    Resync,
}

/// A text that approves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` approves nothing: write tenant:GUID, environment:NAME, key:KEY_IDENTIFIER, state:REVISION:DIGEST, \
     encryption-off or resync, as `keyward node approve` shows it"
)]
pub struct ApprovalError(pub String);

impl fmt::Display for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Approval::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            Approval::Environment(environment) => write!(f, "environment:{}", environment_name(*environment)),
            Approval::Key(key) => write!(f, "key:{key}"),
            Approval::State { revision, digest } => write!(f, "state:{revision}:{digest}"),
            Approval::EncryptionOff => f.write_str("encryption-off"),
            Approval::Resync => f.write_str("resync"),
        }
    }
}

impl FromStr for Approval {
    type Err = ApprovalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ApprovalError(text.chars().take(200).collect());
        match text {
            "encryption-off" => return Ok(Approval::EncryptionOff),
            "resync" => return Ok(Approval::Resync),
            _ => {}
        }
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        Ok(match kind {
            "tenant" => Approval::Tenant(uuid::Uuid::try_parse(rest).map_err(|_| wrong())?.to_string()),
            "environment" => Approval::Environment(
                [AzureEnvironment::Azure, AzureEnvironment::AzureChina, AzureEnvironment::AzureUsGovernment]
                    .into_iter()
                    .find(|environment| environment_name(*environment) == rest)
                    .ok_or_else(wrong)?,
            ),
            "key" => Approval::Key(rest.parse().map_err(|_| wrong())?),
            "state" => {
                let (revision, digest) = rest.split_once(':').ok_or_else(wrong)?;
                let revision = revision.parse().map_err(|_| wrong())?;
                Approval::State { revision, digest: digest.to_owned() }
            }
            _ => return Err(wrong()),
        })
    }
}

impl TryFrom<String> for Approval {
    type Error = ApprovalError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Approval> for String {
    fn from(approval: Approval) -> Self {
        approval.to_string()
    }
}

/// Which desired state: its number and what names its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// [`Desired::revision`].
    pub revision: u64,
    /// [`crate::sync::SyncAnswer::digest`].
    pub digest: String,
}

/// What becomes of a desired state that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// It takes the place of the one before.
    Accept,
    /// It is the one accepted last: a repeated message.
    Known,
    /// It is older than one seen before, or another one under the same number.
    HeldBack(Box<HeldBack>),
}

/// Whether a desired state that arrived takes the place of the one accepted last.
pub fn accept(new: &Seen, last: Option<&Seen>, approvals: &BTreeSet<Approval>) -> Acceptance {
    let Some(last) = last else { return Acceptance::Accept };
    if new == last {
        return Acceptance::Known;
    }
    if new.revision > last.revision {
        return Acceptance::Accept;
    }
    let approval = Approval::State { revision: new.revision, digest: new.digest.clone() };
    if approvals.contains(&approval) {
        return Acceptance::Accept;
    }
    let reason = if new.revision == last.revision {
        format!("this node has seen another desired state of revision {}", last.revision)
    } else {
        format!("this node has seen revision {} already", last.revision)
    };
    Acceptance::HeldBack(Box::new(needs_approval(
        new.revision,
        format!("going back to revision {} of the desired state", new.revision),
        format!("{reason}: the server's store may have been put back from a backup"),
        &approval,
    )))
}

/// How the node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Whether there is a keystore.
    pub has_keystore: bool,
    /// Whether the node makes its keystore only when the server places it (`initial = "server"`).
    pub waits_for_server: bool,
    /// The customer key that the keystore is under.
    pub key_in_use: Option<KeyIdentifier>,
    /// The master key's id.
    pub master_key_id: Option<String>,
    /// The server's customer key settings that the node uses; `None`: its file's.
    pub encryption: Option<DesiredEncryption>,
    /// The last of the server's wishes about running that was carried out.
    pub run: DesiredRun,
    /// Validations that were answered.
    pub validated: BTreeSet<String>,
    /// Whether its data is not encrypted: the operator's own database, adopted as it is.
    pub unencrypted: bool,
    /// Where its resync stands.
    pub resyncing: Resyncing,
    /// Whether it is primary of its replica set, as the database said last.
    pub primary: bool,
}

/// How far a resync has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resyncing {
    /// There is none, or nothing has been done that the database would notice.
    No,
    /// The database was stopped for it; its data is being deleted, or is about to be.
    Emptying,
    /// The data is deleted; the others fill the member again.
    Filling,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Reach the customer key this way, and move the master key under it if it is another one.
    UseCustomerKey(Box<DesiredEncryption>),
    /// Make a new master key if it is still this one.
    RotateMasterKey(String),
    /// Start the database.
    Start,
    /// Stop the database; the data stays.
    Stop,
    /// Leave the database to the host's operator.
    LeaveToOperator,
    /// Hand over to another member.
    StepDown,
    /// Begin the resync, or go on with it. Without a customer key it goes on with the keystore that it made.
    Resync(Option<Box<DesiredEncryption>>),
    /// Try a customer key out.
    Validate(Box<Validation>),
}

/// What to do about a desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// What is not done without approval.
    pub held_back: Vec<HeldBack>,
    /// Validations that are answered without asking anybody.
    pub refused: Vec<Validated>,
}

/// What to do about an accepted desired state. Nothing at all once everything is as desired.
pub fn decide(desired: &Desired, local: &Local, approvals: &BTreeSet<Approval>, pins: &Pins) -> Decision {
    let mut decision = Decision::default();
    let placed = desired.cluster.is_some();
    // Of a database that is not encrypted, keyward starts, stops and changes nothing but by a resync.
    let untouched = local.unencrypted || local.resyncing == Resyncing::Emptying;
    match &desired.encryption {
        Some(encryption) => {
            let outside = outside(encryption, approvals, pins);
            if !outside.is_empty() {
                let what = format!("using the customer key {}", encryption.key_identifier);
                decision.held_back.extend(outside.into_iter().map(|(approval, reason)| {
                    needs_approval(desired.revision, what.clone(), reason, &approval)
                }));
            } else if !untouched {
                decide_key(encryption, placed, local, &mut decision);
            }
        }
        None if untouched => {}
        None if placed && local.encryption.is_some() && !approvals.contains(&Approval::EncryptionOff) => {
            decision.held_back.push(needs_approval(
                desired.revision,
                "switching encryption off".to_owned(),
                "the server names no customer key for this cluster any more; the data stays encrypted under the one \
                 in use"
                    .to_owned(),
                &Approval::EncryptionOff,
            ));
        }
        None => {}
    }
    if let Some(id) = &desired.rotate_master_key
        && local.master_key_id.as_ref() == Some(id)
    {
        decision.actions.push(Action::RotateMasterKey(id.clone()));
    }
    decide_step_down(desired, local, approvals, &mut decision);
    decide_resync(desired, local, approvals, pins, &mut decision);
    if untouched {
        decide_run_of_operators(desired, &mut decision);
    } else {
        decide_run(desired, local, &mut decision);
    }
    for validation in desired.validations.iter().filter(|asked| !local.validated.contains(&asked.id)) {
        let outside = outside(&validation.encryption, approvals, pins);
        if outside.is_empty() {
            decision.actions.push(Action::Validate(Box::new(validation.clone())));
        } else {
            let findings = outside.into_iter().map(|(approval, reason)| ValidationFinding {
                refuses: true,
                outage: false,
                text: reason,
                hint: hint(&approval),
                class: None,
                retry_after_s: None,
            });
            decision.refused.push(Validated { id: validation.id.clone(), findings: findings.collect() });
        }
    }
    decision
}

/// Whether a node may use these settings: they lie within its pins, or its host approved them.
pub fn allows(encryption: &DesiredEncryption, approvals: &BTreeSet<Approval>, pins: &Pins) -> bool {
    outside(encryption, approvals, pins).is_empty()
}

fn decide_key(encryption: &DesiredEncryption, placed: bool, local: &Local, decision: &mut Decision) {
    // A waiting node takes nothing from the server before it has a place.
    if !local.has_keystore && local.waits_for_server && !placed {
        return;
    }
    let settings_differ = local.encryption.as_ref() != Some(encryption);
    let key_differs = local.key_in_use.as_ref().is_some_and(|key| *key != encryption.key_identifier);
    if settings_differ || key_differs {
        decision.actions.push(Action::UseCustomerKey(Box::new(encryption.clone())));
    }
}

fn decide_run(desired: &Desired, local: &Local, decision: &mut Decision) {
    // Placing: the keystore is made by the first start.
    let waits = local.waits_for_server && !local.has_keystore;
    if waits {
        let can = desired.cluster.is_some() && desired.encryption.is_some() && decision.held_back.is_empty();
        if can && desired.run != DesiredRun::Stopped {
            decision.actions.push(Action::Start);
        }
        return;
    }
    let its_resync_starts_it = desired.run == DesiredRun::Running && local.resyncing == Resyncing::Filling;
    if desired.run != local.run && !its_resync_starts_it {
        decision.actions.push(match desired.run {
            DesiredRun::Running => Action::Start,
            DesiredRun::Stopped => Action::Stop,
            DesiredRun::Unmanaged => Action::LeaveToOperator,
        });
    }
}

/// The operator's own database runs and stops as the operator says.
fn decide_run_of_operators(desired: &Desired, decision: &mut Decision) {
    if desired.run == DesiredRun::Stopped {
        decision.held_back.push(HeldBack {
            revision: desired.revision,
            needs_approval: false,
            approval: None,
            what: "stopping the database".to_owned(),
            reason: "its data is not encrypted, so it is its operator who starts and stops it".to_owned(),
            hint: "stop it by the unit that started it, or resume the cluster".to_owned(),
        });
    }
}

/// A primary hands over. One whose data is to be deleted next does so only once that is approved: nobody is to lose
/// their primary for something that then waits for days.
fn decide_step_down(
    desired: &Desired,
    local: &Local,
    approvals: &BTreeSet<Approval>,
    decision: &mut Decision,
) {
    if !desired.step_down || !local.primary {
        return;
    }
    if local.unencrypted && !approvals.contains(&Approval::Resync) {
        decision.hold_back(resync_needs_approval(desired.revision));
    } else {
        decision.actions.push(Action::StepDown);
    }
}

fn decide_resync(
    desired: &Desired,
    local: &Local,
    approvals: &BTreeSet<Approval>,
    pins: &Pins,
    decision: &mut Decision,
) {
    let asked = desired.resync && desired.cluster.is_some() && local.unencrypted;
    let wanted = desired.encryption.as_ref().filter(|_| asked);
    match local.resyncing {
        Resyncing::No if wanted.is_none() => {}
        Resyncing::No | Resyncing::Emptying if !approvals.contains(&Approval::Resync) => {
            decision.hold_back(resync_needs_approval(desired.revision));
        }
        Resyncing::No => {
            let allowed = wanted.filter(|encryption| allows(encryption, approvals, pins));
            decision.actions.extend(allowed.map(|key| Action::Resync(Some(Box::new(key.clone())))));
        }
        // The keystore is there already. Of what is filled, nothing is deleted any more.
        Resyncing::Emptying | Resyncing::Filling => decision.actions.push(Action::Resync(None)),
    }
}

impl Decision {
    /// Once for each approval.
    fn hold_back(&mut self, held: HeldBack) {
        if self.held_back.iter().all(|other| other.approval != held.approval) {
            self.held_back.push(held);
        }
    }
}

fn resync_needs_approval(revision: u64) -> HeldBack {
    needs_approval(
        revision,
        "deleting this member's data, which is not encrypted, to have it filled again, encrypted".to_owned(),
        "the server wants this cluster encrypted; the other members of the replica set have the data"
            .to_owned(),
        &Approval::Resync,
    )
}

/// What of `encryption` lies outside the pins, each with the approval that would let it through and the reason.
fn outside(
    encryption: &DesiredEncryption,
    approvals: &BTreeSet<Approval>,
    pins: &Pins,
) -> Vec<(Approval, String)> {
    let mut found = BTreeMap::new();
    if !encryption.tenant_id.eq_ignore_ascii_case(&pins.tenant_id) {
        found.insert(
            Approval::Tenant(encryption.tenant_id.to_ascii_lowercase()),
            format!(
                "it is of tenant {}; this node's file allows {} only",
                encryption.tenant_id, pins.tenant_id
            ),
        );
    }
    if encryption.azure_environment != pins.environment {
        let (asked, own) =
            (environment_name(encryption.azure_environment), environment_name(pins.environment));
        found.insert(
            Approval::Environment(encryption.azure_environment),
            format!("it lies in {asked}; this node's file allows {own} only"),
        );
    }
    let key = encryption.key_identifier.to_string();
    if !pins.keys.is_empty() && !pins.keys.iter().any(|prefix| key.starts_with(prefix)) {
        found.insert(
            Approval::Key(encryption.key_identifier.clone()),
            format!("this node's file allows customer keys under {} only", pins.keys.join(", ")),
        );
    }
    found.into_iter().filter(|(approval, _)| !approvals.contains(approval)).collect()
}

fn needs_approval(revision: u64, what: String, reason: String, approval: &Approval) -> HeldBack {
    HeldBack {
        revision,
        needs_approval: true,
        approval: Some(approval.to_string()),
        what,
        reason,
        hint: hint(approval),
    }
}

fn hint(approval: &Approval) -> String {
    format!(
        "if it is meant: keyward node approve, on that host, or `approve = [\"{approval}\"]` under [server] in its file"
    )
}

fn environment_name(environment: AzureEnvironment) -> &'static str {
    match environment {
        AzureEnvironment::Azure => "AZURE",
        AzureEnvironment::AzureChina => "AZURE_CHINA",
        AzureEnvironment::AzureUsGovernment => "AZURE_US_GOVERNMENT",
    }
}

#[cfg(test)]
mod tests;
