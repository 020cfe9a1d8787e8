use proptest::prelude::*;

use super::*;
use crate::{RevocationPolicy, sync::DesiredCluster, sync::DesiredCredential};

const TENANT: &str = "00000000-0000-0000-0000-000000000001";
const OTHER: &str = "00000000-0000-0000-0000-000000000002";

fn key(n: u8) -> KeyIdentifier {
    format!("https://v{}.vault.azure.net/keys/k/{}", n / 2, format!("{n:02x}").repeat(16)).parse().unwrap()
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
                local.waits_for_server = false;
                if desired.run != DesiredRun::Stopped {
                    local.run = desired.run;
                }
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
    let runs = prop_oneof![Just(DesiredRun::Unmanaged), Just(DesiredRun::Running), Just(DesiredRun::Stopped)];
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
                // What is filled is started by its resync alone: who stops it right after that is not overruled.
                Action::Start => prop_assert!(!untouched && local.resyncing == Resyncing::No),
                Action::UseCustomerKey(_) | Action::Stop | Action::LeaveToOperator => prop_assert!(!untouched),
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
