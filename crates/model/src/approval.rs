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
    if desired.run != local.run {
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{RevocationPolicy, sync::DesiredCluster, sync::DesiredCredential};

    const TENANT: &str = "00000000-0000-0000-0000-000000000001";
    const OTHER: &str = "00000000-0000-0000-0000-000000000002";

    fn key(n: u8) -> KeyIdentifier {
        format!("https://v{}.vault.azure.net/keys/k/{}", n / 2, format!("{n:02x}").repeat(16))
            .parse()
            .unwrap()
    }

    fn encryption(n: u8, tenant: &str, environment: AzureEnvironment) -> DesiredEncryption {
        DesiredEncryption {
            key_identifier: key(n),
            azure_environment: environment,
            tenant_id: tenant.to_owned(),
            client_id: OTHER.to_owned(),
            subscription_id: None,
            resource_group_name: None,
            credential: DesiredCredential::ClientSecret { secret: format!("s{n}") },
            require_private_networking: false,
            policy: RevocationPolicy::default(),
            client_secret_expires: None,
        }
    }

    fn pins(keys: &[&str]) -> Pins {
        Pins {
            tenant_id: TENANT.to_owned(),
            environment: AzureEnvironment::Azure,
            keys: keys.iter().map(ToString::to_string).collect(),
        }
    }

    fn desired(encryption: Option<DesiredEncryption>) -> Desired {
        Desired {
            revision: 5,
            cluster: Some(DesiredCluster { name: "c".into(), replica_set: "c".into(), members: vec![] }),
            encryption,
            rotate_master_key: None,
            run: DesiredRun::Unmanaged,
            step_down: false,
            resync: false,
            validations: vec![],
        }
    }

    fn local() -> Local {
        Local {
            has_keystore: true,
            waits_for_server: false,
            key_in_use: Some(key(0)),
            master_key_id: Some("m".into()),
            encryption: None,
            run: DesiredRun::Unmanaged,
            validated: BTreeSet::new(),
            unencrypted: false,
            resyncing: Resyncing::No,
            primary: false,
        }
    }

    /// What a shell that succeeds makes of the node.
    fn carry_out(mut local: Local, decision: &Decision, desired: &Desired) -> Local {
        for action in &decision.actions {
            match action {
                Action::UseCustomerKey(encryption) => {
                    local.encryption = Some((**encryption).clone());
                    if local.has_keystore {
                        local.key_in_use = Some(encryption.key_identifier.clone());
                    }
                }
                Action::RotateMasterKey(_) => local.master_key_id = Some("another".into()),
                Action::Start => {
                    if !local.has_keystore {
                        local.has_keystore = true;
                        local.key_in_use = local.encryption.as_ref().map(|e| e.key_identifier.clone());
                    }
                    local.run = desired.run;
                }
                Action::Stop | Action::LeaveToOperator => local.run = desired.run,
                Action::StepDown => local.primary = false,
                Action::Resync(encryption) => {
                    if let Some(encryption) = encryption.as_deref().filter(|_| !local.has_keystore) {
                        local.key_in_use = Some(encryption.key_identifier.clone());
                        local.encryption = Some(encryption.clone());
                        local.has_keystore = true;
                    }
                    (local.unencrypted, local.resyncing) = (false, Resyncing::No);
                    (local.waits_for_server, local.run) = (false, desired.run);
                }
                Action::Validate(validation) => {
                    local.validated.insert(validation.id.clone());
                }
            }
        }
        local.validated.extend(decision.refused.iter().map(|refused| refused.id.clone()));
        local
    }

    fn some_approval() -> impl Strategy<Value = Approval> {
        prop_oneof![
            Just(Approval::Tenant(OTHER.into())),
            Just(Approval::Environment(AzureEnvironment::AzureChina)),
            (0u8..6).prop_map(|n| Approval::Key(key(n))),
            (0u64..9, "[ab]").prop_map(|(revision, digest)| Approval::State { revision, digest }),
            Just(Approval::EncryptionOff),
            Just(Approval::Resync),
        ]
    }

    fn some_encryption() -> impl Strategy<Value = DesiredEncryption> {
        let environments = prop_oneof![Just(AzureEnvironment::Azure), Just(AzureEnvironment::AzureChina)];
        (0u8..6, prop_oneof![Just(TENANT), Just(OTHER)], environments)
            .prop_map(|(n, tenant, environment)| encryption(n, tenant, environment))
    }

    fn some_desired() -> impl Strategy<Value = Desired> {
        let runs =
            prop_oneof![Just(DesiredRun::Unmanaged), Just(DesiredRun::Running), Just(DesiredRun::Stopped)];
        let validations = proptest::collection::vec(("[a-c]", some_encryption()), 0..3).prop_map(|all| {
            all.into_iter().map(|(id, encryption)| Validation { id, encryption }).collect::<Vec<_>>()
        });
        let encryption = proptest::option::of(some_encryption());
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        (flags, encryption, proptest::option::of("[mn]"), runs, validations).prop_map(
            |((placed, step_down, resync), encryption, rotate_master_key, run, validations)| Desired {
                cluster: desired(None).cluster.filter(|_| placed),
                rotate_master_key,
                run,
                step_down,
                resync,
                validations,
                ..desired(encryption)
            },
        )
    }

    fn some_local() -> impl Strategy<Value = Local> {
        let resync = prop_oneof![
            4 => Just((false, Resyncing::No)),
            2 => Just((true, Resyncing::No)),
            1 => Just((true, Resyncing::Emptying)),
            1 => Just((false, Resyncing::Filling)),
        ];
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        (flags, 0u8..6, proptest::option::of(some_encryption()), resync).prop_map(
            |((has_keystore, waits_for_server, primary), n, encryption, (unencrypted, resyncing))| {
                // The keystore is made before anything is stopped or deleted.
                let has_keystore = has_keystore || resyncing != Resyncing::No;
                Local {
                    has_keystore,
                    waits_for_server,
                    key_in_use: has_keystore.then(|| key(n)),
                    master_key_id: has_keystore.then(|| "m".to_owned()),
                    encryption,
                    unencrypted,
                    resyncing,
                    primary,
                    ..local()
                }
            },
        )
    }

    fn some_pins() -> impl Strategy<Value = Pins> {
        prop_oneof![Just(pins(&[])), Just(pins(&["https://v0.vault.azure.net/"]))]
    }

    proptest! {
        /// Whatever a server says: no customer key outside the pins is used or even tried without approval.
        #[test]
        fn nothing_outside_the_pins_is_touched(
            desired in some_desired(),
            local in some_local(),
            approvals in proptest::collection::btree_set(some_approval(), 0..4),
            pins in some_pins(),
        ) {
            let decision = decide(&desired, &local, &approvals, &pins);
            let allowed = |e: &DesiredEncryption| {
                (e.tenant_id == pins.tenant_id || approvals.contains(&Approval::Tenant(e.tenant_id.clone())))
                    && (e.azure_environment == pins.environment
                        || approvals.contains(&Approval::Environment(e.azure_environment)))
                    && (pins.keys.is_empty()
                        || pins.keys.iter().any(|prefix| e.key_identifier.to_string().starts_with(prefix))
                        || approvals.contains(&Approval::Key(e.key_identifier.clone())))
            };
            for action in &decision.actions {
                match action {
                    Action::UseCustomerKey(encryption) => prop_assert!(allowed(encryption)),
                    Action::Validate(validation) => prop_assert!(allowed(&validation.encryption)),
                    Action::RotateMasterKey(id) => prop_assert_eq!(local.master_key_id.as_ref(), Some(id)),
                    Action::Resync(Some(encryption)) => prop_assert!(allowed(encryption)),
                    Action::Start
                    | Action::Stop
                    | Action::LeaveToOperator
                    | Action::StepDown
                    | Action::Resync(None) => {}
                }
            }
            if let Some(encryption) = &desired.encryption && !allowed(encryption) {
                prop_assert!(decision.held_back.iter().any(|held| held.needs_approval));
            }
        }

        /// Nothing is deleted without the host's approval, nothing that is encrypted is deleted at all, and a database
        /// that is not encrypted is neither started nor stopped nor given keys.
        #[test]
        fn data_is_deleted_only_with_approval_and_only_what_is_not_encrypted(
            desired in some_desired(),
            local in some_local(),
            approvals in proptest::collection::btree_set(some_approval(), 0..4),
            pins in some_pins(),
        ) {
            let decision = decide(&desired, &local, &approvals, &pins);
            let untouched = local.unencrypted || local.resyncing == Resyncing::Emptying;
            for action in &decision.actions {
                match action {
                    Action::Resync(_) if local.resyncing == Resyncing::Filling => {}
                    Action::Resync(encryption) => {
                        prop_assert!(local.unencrypted && approvals.contains(&Approval::Resync));
                        prop_assert!(desired.resync || local.resyncing == Resyncing::Emptying);
                        prop_assert!(local.has_keystore || encryption.is_some());
                    }
                    Action::StepDown => {
                        prop_assert!(desired.step_down && local.primary);
                        prop_assert!(!local.unencrypted || approvals.contains(&Approval::Resync));
                    }
                    Action::UseCustomerKey(_)
                    | Action::Start
                    | Action::Stop
                    | Action::LeaveToOperator => prop_assert!(!untouched),
                    Action::RotateMasterKey(_) => {}
                    Action::Validate(_) => {}
                }
            }
        }

        /// What was carried out is not asked for again, and everything held back names a line that lets it through.
        #[test]
        fn carrying_out_and_approving_ends(
            desired in some_desired(),
            local in some_local(),
            pins in some_pins(),
        ) {
            // The operator's own database is stopped by its operator: no approval ends that.
            prop_assume!(!(local.unencrypted && desired.run == DesiredRun::Stopped));
            // What was filled again follows the customer key and the wish to run only then.
            let twice = |mut local: Local, approvals: &BTreeSet<Approval>| {
                for _ in 0..2 {
                    let decision = decide(&desired, &local, approvals, &pins);
                    local = carry_out(local, &decision, &desired);
                }
                local
            };
            let mut local = twice(local, &BTreeSet::new());
            let second = decide(&desired, &local, &BTreeSet::new(), &pins);
            prop_assert_eq!(&second.actions, &Vec::new());
            prop_assert!(second.refused.is_empty());
            // A resync first, and what becomes of the key of what was filled again after it.
            let mut approvals = BTreeSet::new();
            for _ in 0..2 {
                let held = decide(&desired, &local, &approvals, &pins).held_back;
                let lines = held.iter().map(|held| held.approval.as_ref().unwrap().parse::<Approval>());
                approvals.extend(lines.map(Result::unwrap));
                let approved = decide(&desired, &local, &approvals, &pins);
                prop_assert!(approved.held_back.is_empty(), "{:?}", approved.held_back);
                local = twice(local, &approvals);
            }
            prop_assert_eq!(decide(&desired, &local, &approvals, &pins), Decision::default());
        }

        /// In whatever order messages come, repeated or not, a node never goes back by itself.
        #[test]
        fn revisions_never_go_back(messages in proptest::collection::vec((0u64..6, "[ab]"), 0..12)) {
            let mut last: Option<Seen> = None;
            for (revision, digest) in messages {
                let new = Seen { revision, digest };
                match accept(&new, last.as_ref(), &BTreeSet::new()) {
                    Acceptance::Accept => {
                        prop_assert!(last.as_ref().is_none_or(|last| new.revision > last.revision));
                        last = Some(new);
                    }
                    Acceptance::Known => prop_assert_eq!(last.as_ref(), Some(&new)),
                    Acceptance::HeldBack(held) => {
                        let approval: Approval = held.approval.unwrap().parse().unwrap();
                        let approvals = BTreeSet::from([approval]);
                        prop_assert_eq!(accept(&new, last.as_ref(), &approvals), Acceptance::Accept);
                    }
                }
            }
        }

        #[test]
        fn an_approval_comes_back_from_its_text(approval in some_approval()) {
            prop_assert_eq!(approval.to_string().parse::<Approval>().unwrap(), approval);
        }
    }

    #[test]
    fn a_waiting_node_takes_nothing_before_it_is_placed() {
        let waiting = Local {
            has_keystore: false,
            waits_for_server: true,
            key_in_use: None,
            master_key_id: None,
            ..local()
        };
        let wanted = encryption(0, TENANT, AzureEnvironment::Azure);
        let free = Desired { cluster: None, ..desired(Some(wanted.clone())) };
        assert_eq!(decide(&free, &waiting, &BTreeSet::new(), &pins(&[])), Decision::default());
        let placed = desired(Some(wanted.clone()));
        let decision = decide(&placed, &waiting, &BTreeSet::new(), &pins(&[]));
        assert_eq!(decision.actions, [Action::UseCustomerKey(Box::new(wanted)), Action::Start]);
        // Without a customer key there is no keystore, so nothing is started.
        assert_eq!(decide(&desired(None), &waiting, &BTreeSet::new(), &pins(&[])), Decision::default());
    }

    #[test]
    fn a_new_secret_alone_is_used_and_a_rotation_runs_once() {
        let now = encryption(0, TENANT, AzureEnvironment::Azure);
        let new = DesiredEncryption {
            credential: DesiredCredential::ClientSecret { secret: "new".into() },
            ..now.clone()
        };
        let local = Local { encryption: Some(now), ..local() };
        let wanted = Desired { rotate_master_key: Some("m".into()), ..desired(Some(new.clone())) };
        let decision = decide(&wanted, &local, &BTreeSet::new(), &pins(&[]));
        let expected = [Action::UseCustomerKey(Box::new(new)), Action::RotateMasterKey("m".into())];
        assert_eq!(decision.actions, expected);
        let after = carry_out(local, &decision, &wanted);
        assert_eq!(decide(&wanted, &after, &BTreeSet::new(), &pins(&[])), Decision::default());
    }

    #[test]
    fn a_member_is_emptied_only_where_its_host_approves_and_hands_over_first() {
        let wanted = encryption(0, TENANT, AzureEnvironment::Azure);
        let adopted = Local {
            has_keystore: false,
            waits_for_server: true,
            key_in_use: None,
            master_key_id: None,
            unencrypted: true,
            primary: true,
            ..local()
        };
        // A customer key alone means nothing to it.
        let key_only = Desired { run: DesiredRun::Running, ..desired(Some(wanted.clone())) };
        assert_eq!(decide(&key_only, &adopted, &BTreeSet::new(), &pins(&[])), Decision::default());
        let hand_over = Desired { step_down: true, ..key_only.clone() };
        let held = decide(&hand_over, &adopted, &BTreeSet::new(), &pins(&[])).held_back;
        assert_eq!(held[0].approval.as_deref(), Some("resync"));
        let approved = BTreeSet::from([Approval::Resync]);
        assert_eq!(decide(&hand_over, &adopted, &approved, &pins(&[])).actions, [Action::StepDown]);
        let secondary = Local { primary: false, ..adopted };
        let resync = Desired { resync: true, ..key_only };
        let held = decide(&resync, &secondary, &BTreeSet::new(), &pins(&[]));
        assert_eq!((held.actions.len(), held.held_back.len()), (0, 1));
        let done = decide(&resync, &secondary, &approved, &pins(&[]));
        assert_eq!(done.actions, [Action::Resync(Some(Box::new(wanted)))]);
        // An encrypted member has nothing to be emptied of, whatever the server says.
        let encrypted = Local { encryption: resync.encryption.clone(), run: DesiredRun::Running, ..local() };
        assert_eq!(decide(&resync, &encrypted, &approved, &pins(&[])), Decision::default());
    }

    #[test]
    fn switching_encryption_off_needs_the_host() {
        let local = Local { encryption: Some(encryption(0, TENANT, AzureEnvironment::Azure)), ..local() };
        let held = decide(&desired(None), &local, &BTreeSet::new(), &pins(&[])).held_back;
        assert_eq!(held[0].approval.as_deref(), Some("encryption-off"));
        assert!(held[0].hint.contains("keyward node approve"));
        // A node that is taken out of its cluster keeps what it has, and nobody is alarmed.
        let free = Desired { cluster: None, ..desired(None) };
        assert_eq!(decide(&free, &local, &BTreeSet::new(), &pins(&[])), Decision::default());
    }
}
