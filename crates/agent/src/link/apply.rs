//! Carrying out what the server wants, as far as the node's file and its host allow.
//!
//! One pass looks at the accepted desired state and at the node, each time anew: a restart, a repeated message and
//! the normal case are one path. Every step can be cut off and repeated.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use keyward_kms::{About, KeyService, Severity};
use keyward_model::{
    Class, NodeState, Weight,
    approval::{self, Action, Approval, Decision, Local, Resyncing},
    sync::{DesiredEncryption, DesiredRun, HeldBack, Validated, Validation, ValidationFinding},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Link, LinkError, azure_config, backoff, files::Applied, pins, waits_for_server};
use crate::{
    admin::progress::Progress,
    node::{KeyAccess, NextKey, NodeError, chain},
    operations, resync,
};

/// Between two looks at something that goes on.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 3_000 });

/// What came of a pass.
enum Passed {
    /// Nothing is left to do.
    Quiet,
    /// Something takes its time.
    GoesOn,
    /// Something could not be done.
    Stuck,
}

/// Passes until `shutdown`: when something is new, and later again while something could not be done.
pub(super) async fn run(link: Link, shutdown: CancellationToken) {
    let mut failures = 0;
    let mut changes = link.0.node.changes();
    loop {
        let stands = standing(&link);
        let passed = tokio::select! {
            passed = pass(&link) => passed,
            () = shutdown.cancelled() => return,
        };
        let again = match passed {
            Passed::Quiet => {
                failures = 0;
                None
            }
            Passed::GoesOn => {
                failures = 0;
                Some(LOOK)
            }
            Passed::Stuck => {
                failures += 1;
                Some(backoff::delay(failures, backoff::chance()))
            }
        };
        let again = async {
            match again {
                None => std::future::pending().await,
                Some(after) => tokio::time::sleep(after).await,
            }
        };
        tokio::select! {
            () = link.0.apply.notified() => failures = 0,
            () = again => {}
            () = moved(&link, &mut changes, stands) => failures = 0,
            () = shutdown.cancelled() => return,
        }
    }
}

/// What decides whether something that failed may go now.
type Standing = (NodeState, bool, Option<String>);

fn standing(link: &Link) -> Standing {
    let status = link.0.node.status();
    (status.state, status.master_key_held, link.0.node.replica_state())
}

async fn moved(link: &Link, changes: &mut tokio::sync::watch::Receiver<u64>, before: Standing) {
    while standing(link) == before {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One look at everything.
async fn pass(link: &Link) -> Passed {
    let _turn = link.0.turn.lock().await;
    let Some(accepted) = link.state().accepted.clone() else { return Passed::Quiet };
    link.0.node.look_at_adopted().await;
    // Without having looked for the keystore nobody knows what there is to do.
    if let Err(error) = link.0.node.node_id().await {
        tracing::debug!("what the server wants has to wait: {}", chain(&error));
        return Passed::Stuck;
    }
    let decide = |link: &Link| {
        let local = local(link)?;
        let pins = pins(link.0.node.config());
        Ok::<_, NodeError>(approval::decide(&accepted.desired, &local, &link.approvals(), &pins))
    };
    let decided = decide(link).map_err(|error| tracing::warn!("{}", chain(&error)));
    let Ok(Decision { actions, mut held_back, refused }) = decided else { return Passed::Stuck };
    let asked: BTreeSet<&str> =
        accepted.desired.validations.iter().map(|validation| validation.id.as_str()).collect();
    {
        let mut state = link.state();
        state.validated.retain(|validated| asked.contains(validated.id.as_str()));
        state.validated.extend(refused);
        // What was approved no longer waits for it, however long it takes; what failed is told until it has been tried
        // again.
        let failed = state.held_back.drain(..).filter(|held| !held.needs_approval);
        state.held_back = held_back.iter().cloned().chain(failed.collect::<Vec<_>>()).collect();
    }
    let mut passed = Passed::Quiet;
    let mut goes_on = None;
    for action in actions {
        let what = words(&action);
        link.state().progress = Some(what.clone());
        link.publish();
        match carry_out(link, accepted.desired.run, action).await {
            Ok(None) => {}
            Ok(Some(progress)) => {
                goes_on = Some(progress);
                if matches!(passed, Passed::Quiet) {
                    passed = Passed::GoesOn;
                }
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!("{what} did not work: {reason} (hint: {})", error.hint());
                passed = Passed::Stuck;
                let revision = accepted.seen.revision;
                let hint = error.hint();
                held_back.push(HeldBack {
                    revision,
                    needs_approval: false,
                    approval: None,
                    what,
                    reason,
                    hint,
                });
            }
        }
    }
    let done = decide(link).is_ok_and(|after| after.actions.is_empty() && after.held_back.is_empty());
    let settled = held_back.is_empty() && done;
    {
        let mut state = link.state();
        state.progress = goes_on;
        state.held_back = held_back;
        if let Some(now) = &mut state.accepted
            && now.seen == accepted.seen
            && now.done != settled
        {
            now.done = settled;
            let now = now.clone();
            if let Err(error) = link.0.files.set_accepted(&now) {
                tracing::warn!("{}", chain(&error));
            }
            if settled {
                tracing::info!(revision = now.seen.revision, "the desired state is carried out");
            }
        }
    }
    link.publish();
    passed
}

fn local(link: &Link) -> Result<Local, NodeError> {
    let node = &link.0.node;
    let view = node.keyring().view();
    let resyncing = node.resyncing()?;
    let state = link.state();
    Ok(Local {
        has_keystore: view.is_some(),
        waits_for_server: waits_for_server(node.config()),
        key_in_use: view.as_ref().and_then(|_| node.current_key().ok()),
        master_key_id: view.as_ref().map(|view| view.master_key.id.clone()),
        encryption: state.applied.encryption.clone(),
        run: state.applied.run,
        validated: state.validated.iter().map(|validated| validated.id.clone()).collect(),
        unencrypted: node.unencrypted(),
        resyncing,
        primary: node.replica_state().as_deref() == Some("PRIMARY"),
    })
}

fn words(action: &Action) -> String {
    match action {
        Action::UseCustomerKey(encryption) => format!("using the customer key {}", encryption.key_identifier),
        Action::RotateMasterKey(id) => format!("rotating the master key {id}"),
        Action::Start => "starting the database".to_owned(),
        Action::Stop => "stopping the database".to_owned(),
        Action::LeaveToOperator => "leaving the database to the operator".to_owned(),
        Action::StepDown => "handing over to another primary".to_owned(),
        Action::Resync(_) => "filling this member again, encrypted".to_owned(),
        Action::Validate(validation) => {
            format!("trying out the customer key {}", validation.encryption.key_identifier)
        }
    }
}

/// Does it; gives what still goes on by itself. `run` is the wish about running that it was decided by.
async fn carry_out(link: &Link, run: DesiredRun, action: Action) -> Result<Option<String>, NodeError> {
    let node = &link.0.node;
    match action {
        Action::Resync(encryption) => return resync_member(link, run, encryption.as_deref()).await,
        Action::StepDown => node.step_down().await,
        Action::UseCustomerKey(encryption) => use_customer_key(link, &encryption).await,
        Action::RotateMasterKey(_) => operations::rotate_master_key(node, &progress(link)).await.map(drop),
        Action::Start => {
            node.start().await?;
            // A waiting node is started by being placed, whoever decides afterwards.
            ran(link, run)
        }
        Action::Stop => {
            node.stop().await?;
            ran(link, run)
        }
        Action::LeaveToOperator => ran(link, run),
        Action::Validate(validation) => {
            let validated = validate(link, &validation).await;
            link.state().validated.push(validated);
            Ok(())
        }
    }?;
    Ok(None)
}

/// Goes on with the resync of this member as far as it goes now.
async fn resync_member(
    link: &Link,
    run: DesiredRun,
    encryption: Option<&DesiredEncryption>,
) -> Result<Option<String>, NodeError> {
    let node = &link.0.node;
    // The keystore is made under this key; where it is there already, the master key moves once the data is written.
    if let Some(encryption) = encryption
        && node.keyring().view().is_none()
    {
        let service = reach(link, encryption)?;
        adopt(link, encryption, service)?;
    }
    if node.resyncing()? == Resyncing::Filling
        && !node.runs()
        && link.state().accepted.as_ref().is_some_and(|now| now.desired.run == DesiredRun::Stopped)
    {
        return Ok(Some("this member is filled again once it may run".to_owned()));
    }
    let say = {
        let link = link.clone();
        move |text: String| {
            tracing::info!("{text}");
            link.state().progress = Some(text);
            link.publish();
        }
    };
    let wanted = || {
        let state = link.state();
        state.accepted.as_ref().is_some_and(|now| now.desired.resync && now.desired.cluster.is_some())
    };
    match resync::advance(node, &wanted, &(Arc::new(say) as resync::Say)).await? {
        resync::Outcome::Filling(progress) => {
            filling(link, run)?;
            Ok(Some(progress))
        }
        resync::Outcome::Whole => {
            filling(link, run)?;
            link.use_up(&Approval::Resync)?;
            resync::forget(node)?;
            Ok(None)
        }
    }
}

/// Remembers which of the server's wishes about running was carried out. Not the wish that came meanwhile: that one's
/// turn is next.
fn ran(link: &Link, run: DesiredRun) -> Result<(), NodeError> {
    remember(link, |applied| applied.run = run)
}

/// The database was started to be filled. A wish to stop it is still to be carried out.
fn filling(link: &Link, run: DesiredRun) -> Result<(), NodeError> {
    match run {
        DesiredRun::Running | DesiredRun::Unmanaged => ran(link, run),
        DesiredRun::Stopped => Ok(()),
    }
}

fn remember(link: &Link, change: impl FnOnce(&mut Applied)) -> Result<(), NodeError> {
    let mut applied = link.state().applied.clone();
    change(&mut applied);
    link.0.files.set_applied(&applied).map_err(LinkError::from)?;
    link.state().applied = applied;
    Ok(())
}

/// Reaches the customer key as the server says, and moves the master key where it is under another one. What was in
/// use stays in use until the new way has unwrapped something.
async fn use_customer_key(link: &Link, encryption: &DesiredEncryption) -> Result<(), NodeError> {
    let node = &link.0.node;
    let service = reach(link, encryption)?;
    let Some(view) = node.keyring().view() else {
        // Nothing is under any key yet: the keystore will be made under this one.
        return adopt(link, encryption, service);
    };
    let key = &encryption.key_identifier;
    let current = node.current_key()?;
    if current == *key {
        if link.state().applied.encryption.as_ref().is_some_and(|applied| same_way(applied, encryption)) {
            return adopt(link, encryption, service);
        }
        let wrap = view.wraps.iter().find(|wrap| wrap.key_identifier == key.to_string());
        let wrap = wrap.ok_or(NodeError::NoKeystore)?;
        let seen = service.probe(key, &wrap.canary.ciphertext, &wrap.canary.sha256).await;
        if seen.class == Class::Success {
            adopt(link, encryption, service)?;
            node.note_evidence(seen);
            node.try_again();
            return Ok(());
        }
        let (class, host) = (seen.class, seen.host.clone().unwrap_or_default());
        // A refusal that only the new credential meets must not count against the key in use.
        return Err(NodeError::NewWayRefused { class, host, message: seen.message.unwrap_or_default() });
    }
    if view.held {
        operations::rewrap_through(node, &*service, key, &progress(link)).await?;
        adopt(link, encryption, service)?;
        node.probe().await;
        node.described().await;
        return Ok(());
    }
    // Not in memory: the new key may open the keystore by itself, where it is the same key pair.
    let next = Some(NextKey { key: key.clone(), service });
    node.set_access(KeyAccess { next, ..(*node.access()).clone() });
    let new = link.state().tried.replace(encryption.clone()).as_ref() != Some(encryption);
    node.probe().await;
    if new {
        node.try_again();
    }
    Err(node.not_held().unwrap_or(crate::keyring::KeyringError::NotHeld.into()))
}

/// From now on the customer key is reached this way, also after a restart.
fn adopt(link: &Link, encryption: &DesiredEncryption, service: Arc<dyn KeyService>) -> Result<(), NodeError> {
    remember(link, |applied| applied.encryption = Some(encryption.clone()))?;
    link.0.node.set_access(KeyAccess {
        service,
        key: Some(encryption.key_identifier.clone()),
        policy: encryption.policy,
        client_secret_expires: encryption.client_secret_expires,
        next: None,
    });
    let wanted = link.state().accepted.as_ref().and_then(|accepted| accepted.desired.encryption.clone());
    link.0.files.drop_secrets(&[Some(encryption), wanted.as_ref()]);
    Ok(())
}

/// Whether the vault is asked the same by both, so that nothing has to be tried out.
fn same_way(a: &DesiredEncryption, b: &DesiredEncryption) -> bool {
    let with_dates_of_b =
        DesiredEncryption { policy: b.policy, client_secret_expires: b.client_secret_expires, ..a.clone() };
    with_dates_of_b == *b
}

fn reach(link: &Link, encryption: &DesiredEncryption) -> Result<Arc<dyn KeyService>, NodeError> {
    let node = &link.0.node;
    let config = azure_config(node.config(), &link.0.files, encryption)?;
    Ok((node.make_service())(&config)?)
}

/// Tries a customer key out from here. Nothing of the node changes.
async fn validate(link: &Link, validation: &Validation) -> Validated {
    let service = match reach(link, &validation.encryption) {
        Ok(service) => service,
        Err(error) => {
            let finding = ValidationFinding {
                refuses: true,
                outage: false,
                text: chain(&error),
                hint: error.hint(),
                class: None,
                retry_after_s: None,
            };
            return Validated { id: validation.id.clone(), findings: vec![finding] };
        }
    };
    let findings = service.check(&validation.encryption.key_identifier).await;
    {
        let state = link.state();
        let wanted = state.accepted.as_ref().and_then(|accepted| accepted.desired.encryption.as_ref());
        link.0.files.drop_secrets(&[state.applied.encryption.as_ref(), wanted]);
    }
    let findings = findings.into_iter().map(|finding| ValidationFinding {
        refuses: finding.severity == Severity::Refuse,
        outage: finding.class.is_some_and(|class| class.weight() == Weight::Neutral),
        text: finding.text,
        hint: finding.hint,
        retry_after_s: finding.about.retry_after_s(),
        // What the key's own properties say has the word that a refusal of its use would have.
        class: finding
            .class
            .or_else(|| matches!(finding.about, About::KeyDisabled).then_some(Class::KeyDisabled)),
    });
    Validated { id: validation.id.clone(), findings: findings.collect() }
}

/// Shows each step of an operation in the link's status.
fn progress(link: &Link) -> Progress {
    let (lines, mut steps) = mpsc::channel::<crate::admin::ProgressLine>(16);
    let link = link.clone();
    tokio::spawn(async move {
        while let Some(line) = steps.recv().await {
            let mut state = link.state();
            // The pass is over: nothing is being done any more.
            if state.progress.is_some() {
                state.progress = Some(format!("{} ({} of {})", line.step, line.done, line.total));
            }
            drop(state);
            link.publish();
        }
    });
    Progress::new(lines)
}
