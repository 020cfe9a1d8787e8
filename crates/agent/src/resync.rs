//! Encrypting a member of a replica set that was written without keyward: its data is deleted and the other
//! members fill it again, encrypted.
//!
//! ```text
//!             the operator's database runs                       it is stopped          keyward's runs
//!   ── Begun ── keystore made ── Stopping ──────────────▶ Emptying ── all deleted ──▶ Filling ── SECONDARY ──▶ whole
//!        safe?                     safe?                    safe?                       initial sync
//! ```
//!
//! Where it stands is in STATE_DIR/resync.json, written before each step, so that it goes on after a kill at
//! any moment. [`next`] chooses the step from what is found; the rest carries it out. It must never delete
//! anything while the database has not said that the others hold the data ([`safety`]), never before the
//! keystore is durable, never the keystore, and never without the host's approval, which
//! `keyward_model::approval` asks for before any of this runs. Until the data is gone nothing here starts a
//! database.

mod emptying;
mod safety;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyward_model::{Timestamp, count::counted};
use serde::{Deserialize, Serialize};

pub use emptying::EmptyingError;
pub use safety::Unsafe;

use crate::{
    config::Config,
    engine::{self, MongodTls, OperatorsProcess, database::ReplicaSet, mongod_options},
    node::{NodeError, NodeHandle, chain},
    preflight,
};

/// In `state_dir`.
const FILE: &str = "resync.json";
/// What would start the database again does so within this time.
const RESTART: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 2_000 });
/// Files deleted between two words about it.
const TELL_EVERY: usize = 50;

/// How far a resync has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Phase {
    /// The database serves on; the keystore is being made, or is there.
    Begun,
    /// The database was asked to end, or is about to be.
    Stopping,
    /// Its data is being deleted.
    Emptying,
    /// Nothing of it is left; the others fill the member again.
    Filling,
}

/// What is remembered of a resync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Resync {
    /// How far it has come.
    pub(crate) phase: Phase,
    /// The replica set.
    set: String,
    /// This member, as the set knows it.
    own: String,
    /// The other members.
    others: Vec<String>,
    /// The process that was asked to end.
    stopped: Option<u32>,
    /// When it began.
    begun_at: Timestamp,
}

/// What there is when a step is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    phase: Option<Phase>,
    /// Whether this node's keystore is there.
    keystore: bool,
    /// Whether anything of the data is left.
    data: bool,
    /// The operator's process.
    operators: Option<u32>,
    /// The one that was asked to end.
    stopped: Option<u32>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Ask the database whether this is safe; remember that it begins.
    Begin,
    /// Make the keystore: from here on the customer key is known to work.
    MakeKeystore,
    /// Ask again; remember that the database is being stopped; stop it.
    Stop,
    /// Ask the others; remember that deleting begins.
    BeginEmptying,
    /// Ask the others; delete what is left.
    Empty,
    /// Remember that nothing is left.
    BeginFilling,
    /// Start the database, encrypted, and wait until the others have filled it.
    Fill,
    /// Not now.
    Refuse(Refusal),
}

/// Why no step is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// A database that does not run cannot be asked.
    NotRunning,
    /// The database that was stopped runs again.
    StartedAgain,
    /// A keystore that was there is gone.
    KeystoreGone,
}

/// The step that follows from what is there.
fn next(found: Found) -> Step {
    let Found { phase, keystore, data, operators, stopped } = found;
    match (phase, operators) {
        (None, Some(_)) => Step::Begin,
        (None | Some(Phase::Begun), None) => Step::Refuse(Refusal::NotRunning),
        (Some(Phase::Begun), Some(_)) if !keystore => Step::MakeKeystore,
        (Some(_), _) if !keystore => Step::Refuse(Refusal::KeystoreGone),
        (Some(Phase::Begun), Some(_)) => Step::Stop,
        // Cut off before it was asked to end; another process than that one was started by somebody.
        (Some(Phase::Stopping), Some(_)) if operators == stopped => Step::Stop,
        (Some(Phase::Stopping | Phase::Emptying | Phase::Filling), Some(_)) => {
            Step::Refuse(Refusal::StartedAgain)
        }
        (Some(Phase::Stopping), None) => Step::BeginEmptying,
        (Some(Phase::Emptying), None) if data => Step::Empty,
        (Some(Phase::Emptying), None) => Step::BeginFilling,
        (Some(Phase::Filling), None) => Step::Fill,
    }
}

/// Why a resync does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ResyncError {
    /// It would not be safe.
    #[error("this member's data is not deleted")]
    Unsafe(#[source] Unsafe),
    /// Nobody says that it would be safe.
    #[error("no primary of the replica set `{set}` says that the others have the data: {why}")]
    NobodyAnswers {
        /// The set.
        set: String,
        /// What the members said.
        why: String,
    },
    /// The node's file would not bring the member back.
    #[error("once emptied, this node would not come back: {}", texts(.0))]
    Unfit(Vec<preflight::Finding>),
    /// The operator's database does not run.
    #[error("the database does not run, so it cannot say whether the others have its data{0}")]
    NotRunning(String),
    /// Somebody started it again.
    #[error("the database was started again: {0}")]
    StartedAgain(String),
    /// The keystore that was made for it is gone.
    #[error("the keystore that was made for this node is gone")]
    KeystoreGone,
    /// The server changed its mind.
    #[error("the server no longer asks for it")]
    Withdrawn,
    /// The deletion.
    #[error("the data could not be deleted")]
    Emptying(#[from] EmptyingError),
}

impl ResyncError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Unsafe(error) => error.hint().to_owned(),
            Self::NobodyAnswers { .. } => {
                "mend the replica set, or the way from this host to its other members".to_owned()
            }
            Self::Unfit(findings) => {
                findings.iter().map(|finding| finding.hint.as_str()).collect::<Vec<_>>().join("; ")
            }
            Self::NotRunning(_) => "start it by its own unit; keyward starts nothing unencrypted".to_owned(),
            Self::StartedAgain(_) => {
                "disable the unit that starts it, and stop it: systemctl disable --now mongod".to_owned()
            }
            Self::KeystoreGone => {
                "put it back from an export; nothing was deleted after it was gone".to_owned()
            }
            Self::Withdrawn => {
                "nothing was deleted; a database that was stopped starts by its own unit".to_owned()
            }
            Self::Emptying(error) => error.hint().to_owned(),
        }
    }
}

fn texts(findings: &[preflight::Finding]) -> String {
    findings.iter().map(|finding| finding.text.as_str()).collect::<Vec<_>>().join("; ")
}

/// What came of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The member is filled, encrypted. [`forget`] ends the resync.
    Whole,
    /// The others are filling it.
    Filling(String),
}

/// Hears what is being done.
pub(crate) type Say = Arc<dyn Fn(String) + Send + Sync>;

/// Where a resync stands; `None` when there is none.
pub(crate) fn remembered(node: &NodeHandle) -> Result<Option<Resync>, NodeError> {
    Ok(node.memory().read(FILE)?)
}

/// It is over.
pub(crate) fn forget(node: &NodeHandle) -> Result<(), NodeError> {
    tracing::info!("this member was filled again, encrypted");
    Ok(node.memory().remove(FILE)?)
}

/// Goes as far as it can now. The customer key's settings are in use already; the host has approved. `wanted`
/// says whether the server still asks for it: until anything is deleted it may change its mind.
pub(crate) async fn advance(
    node: &NodeHandle,
    wanted: &(dyn Fn() -> bool + Sync),
    say: &Say,
) -> Result<Outcome, NodeError> {
    loop {
        let at = remembered(node)?;
        let (found, process) = look(node, at.as_ref()).await?;
        let step = next(found);
        tracing::debug!(?found, ?step, "resync");
        if matches!(step, Step::Begin | Step::MakeKeystore | Step::Stop | Step::BeginEmptying) && !wanted() {
            return Err(ResyncError::Withdrawn.into());
        }
        match (step, at, process) {
            (Step::Begin, _, Some(process)) => begin(node, &*process, say).await?,
            (Step::MakeKeystore, Some(_), _) => {
                say("making the keystore under the customer key".to_owned());
                node.make_keystore().await?;
            }
            (Step::Stop, Some(at), Some(process)) => stop(node, at, &*process, say).await?,
            (Step::BeginEmptying, Some(at), _) => {
                others_have_it(node, &at).await?;
                remember(node, &Resync { phase: Phase::Emptying, ..at })?;
                tracing::warn!("deleting the data of this member, which the others have");
            }
            (Step::Empty, Some(at), _) => {
                others_have_it(node, &at).await?;
                delete(node, say).await?;
            }
            (Step::BeginFilling, Some(at), _) => remember(node, &Resync { phase: Phase::Filling, ..at })?,
            (Step::Fill, Some(_), _) => return fill(node, say).await,
            (Step::Refuse(refusal), ..) => return Err(refused(node, refusal).await.into()),
            // `next` names a step with the process or the note that it needs.
            (
                Step::Begin
                | Step::MakeKeystore
                | Step::Stop
                | Step::BeginEmptying
                | Step::Empty
                | Step::BeginFilling
                | Step::Fill,
                ..,
            ) => return Err(ResyncError::NotRunning(String::new()).into()),
        }
        node.look_at_adopted().await;
    }
}

async fn look(
    node: &NodeHandle,
    at: Option<&Resync>,
) -> Result<(Found, Option<Arc<dyn OperatorsProcess>>), NodeError> {
    let phase = at.map(|at| at.phase);
    // From then on what runs there is keyward's.
    let process = match phase {
        Some(Phase::Filling) => None,
        None | Some(Phase::Begun | Phase::Stopping | Phase::Emptying) => node.operators().await?,
    };
    let keystore = node.keyring().view().is_some();
    let (disk, data_path) = (node.disk(), node.config().data_path.clone());
    let data = blocking(move || emptying::anything_left(&*disk, &data_path)).await?;
    let (operators, stopped) = (process.as_ref().map(|process| process.pid()), at.and_then(|at| at.stopped));
    Ok((Found { phase, keystore, data, operators, stopped }, process))
}

fn remember(node: &NodeHandle, resync: &Resync) -> Result<(), NodeError> {
    Ok(node.memory().write(FILE, resync)?)
}

async fn begin(node: &NodeHandle, process: &dyn OperatorsProcess, say: &Say) -> Result<(), NodeError> {
    say("asking the replica set whether the others have this member's data".to_owned());
    let set = process.replica_set().await?;
    let (own, others) = judge(&set)?;
    let (config, name, tls) = (node.config().clone(), set.name.clone(), process.tls());
    let looked = tokio::task::spawn_blocking(move || unfit(&config, &name, &tls)).await;
    let unfit = looked.map_err(|_| NodeError::TaskDied)?;
    if !unfit.is_empty() {
        return Err(ResyncError::Unfit(unfit).into());
    }
    let (disk, data_path) = (node.disk(), node.config().data_path.clone());
    blocking(move || emptying::refuse_links(&*disk, &data_path)).await?;
    let begun_at = node.clock().now();
    remember(node, &Resync { phase: Phase::Begun, set: set.name, own, others, stopped: None, begun_at })
}

/// This member's address and the others', when it may be emptied.
fn judge(set: &ReplicaSet) -> Result<(String, Vec<String>), ResyncError> {
    safety::by_own_answer(set).map_err(ResyncError::Unsafe)?;
    let (own, others): (Vec<_>, Vec<_>) = set.members.iter().partition(|member| member.own);
    let own = own.first().map(|member| member.address.clone()).unwrap_or_default();
    Ok((own, others.into_iter().map(|member| member.address.clone()).collect()))
}

/// Why the node's file would not bring back the member that now runs with `running`. Blocks.
fn unfit(config: &Config, set: &str, running: &MongodTls) -> Vec<preflight::Finding> {
    let mut findings: Vec<_> =
        preflight::at_start(config).into_iter().filter(|finding| finding.refuse).collect();
    if !joins(&config.engine.args, set) {
        findings.push(preflight::Finding {
            refuse: true,
            text: format!("engine.args in its file does not name the replica set `{set}`"),
            hint: format!(
                "give engine.args every option that this mongod is started with now, \"--replSet\", \
                 \"{set}\" among them, and start the agent again"
            ),
        });
    }
    findings.extend(mongod_options::loses_tls(&mongod_options::of_engine(&config.engine), running));
    // Once it is stopped, the agent has its own file alone to ask the others by.
    findings.extend(engine::unusable_tls(&config.engine));
    findings
}

/// Whether a mongod with these arguments belongs to `set`. What a configuration file of its own says is its
/// operator's.
fn joins(arguments: &[String], set: &str) -> bool {
    let given = |name: &str| {
        arguments.iter().enumerate().find_map(|(at, argument)| match argument.strip_prefix(name) {
            Some("") => arguments.get(at + 1).cloned(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        })
    };
    match given("--replSet") {
        // `NAME/SEED,…` is an old way to write it.
        Some(name) => name.split('/').next() == Some(set),
        None => given("--config").or_else(|| given("-f")).is_some(),
    }
}

async fn stop(
    node: &NodeHandle,
    at: Resync,
    process: &dyn OperatorsProcess,
    say: &Say,
) -> Result<(), NodeError> {
    let set = process.replica_set().await?;
    let (own, others) = judge(&set)?;
    let stopped = Some(process.pid());
    remember(node, &Resync { phase: Phase::Stopping, set: set.name, own, others, stopped, ..at })?;
    say(format!("stopping the database, process {}", process.pid()));
    process.shut_down(node.config().engine.stop_grace).await?;
    tokio::time::sleep(RESTART).await;
    Ok(())
}

/// Asks the other members, and believes the primary among them.
async fn others_have_it(node: &NodeHandle, at: &Resync) -> Result<(), NodeError> {
    if let Some(text) = node.foreign().await {
        return Err(ResyncError::StartedAgain(text).into());
    }
    let mut said = Vec::new();
    for address in &at.others {
        match node.ask_member(address).await {
            Ok(set) => match safety::by_another_answer(&set, &at.set, &at.own) {
                Some(judged) => return Ok(judged.map_err(ResyncError::Unsafe)?),
                None => said.push(format!("{address} is not primary")),
            },
            Err(error) => said.push(format!("{address}: {}", chain(&error))),
        }
    }
    Err(ResyncError::NobodyAnswers { set: at.set.clone(), why: said.join("; ") }.into())
}

async fn delete(node: &NodeHandle, say: &Say) -> Result<(), NodeError> {
    /// Nothing is deleted any more once nobody waits for it.
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let stop = Stop(Arc::default());
    let (stopped, say) = (Arc::clone(&stop.0), Arc::clone(say));
    let (disk, data_path) = (node.disk(), node.config().data_path.clone());
    let deleted = blocking(move || {
        let mut count = 0;
        emptying::empty(&*disk, &data_path, &|| !stopped.load(Ordering::SeqCst), &mut || {
            count += 1;
            if count % TELL_EVERY == 1 {
                let files = counted(count, "file", "files");
                say(format!("deleting this member's unencrypted data: {files} so far"));
            }
        })?;
        Ok::<_, EmptyingError>(count)
    })
    .await?;
    tracing::warn!("deleted this member's unencrypted data: {}", counted(deleted, "file", "files"));
    drop(stop);
    Ok(())
}

/// Starts the database on the empty data path, with the encryptor, and says how far the others have filled
/// it.
async fn fill(node: &NodeHandle, say: &Say) -> Result<Outcome, NodeError> {
    if !node.runs() {
        say("starting the database, encrypted, on the emptied data path".to_owned());
        node.start().await?;
    }
    node.look_at_adopted().await;
    Ok(match node.replica_state().as_deref() {
        Some("SECONDARY" | "PRIMARY") => Outcome::Whole,
        state => {
            let state = state.map(|state| format!("; it is {state}")).unwrap_or_default();
            Outcome::Filling(format!("the other members fill this one again, encrypted{state}"))
        }
    })
}

async fn refused(node: &NodeHandle, refusal: Refusal) -> ResyncError {
    let process = node.foreign().await;
    match refusal {
        Refusal::NotRunning => {
            ResyncError::NotRunning(process.map(|text| format!("; {text}")).unwrap_or_default())
        }
        Refusal::StartedAgain => ResyncError::StartedAgain(process.unwrap_or_default()),
        Refusal::KeystoreGone => ResyncError::KeystoreGone,
    }
}

async fn blocking<T: Send + 'static, E: Into<ResyncError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, NodeError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| NodeError::TaskDied)?;
    Ok(done.map_err(Into::into)?)
}

/// Whether `phase` is one in which the data is still there, or part of it.
pub(crate) fn before_filling(phase: Phase) -> bool {
    match phase {
        Phase::Begun | Phase::Stopping | Phase::Emptying => true,
        Phase::Filling => false,
    }
}

#[cfg(test)]
mod crash;

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Option<Phase>; 5] =
        [None, Some(Phase::Begun), Some(Phase::Stopping), Some(Phase::Emptying), Some(Phase::Filling)];

    fn everything() -> impl Iterator<Item = Found> {
        let each = |n: u32| n & 1 == 1;
        PHASES.into_iter().flat_map(move |phase| {
            (0..16u32).map(move |bits| Found {
                phase,
                keystore: each(bits),
                data: each(bits >> 1),
                operators: each(bits >> 2).then_some(7),
                stopped: each(bits >> 3).then_some(7),
            })
        })
    }

    #[test]
    fn nothing_is_deleted_or_stopped_before_its_time() {
        for found in everything() {
            let step = next(found);
            let stopped = found.operators.is_none();
            match step {
                Step::Empty => {
                    assert!(found.keystore && stopped && found.phase == Some(Phase::Emptying), "{found:?}");
                }
                Step::BeginEmptying => {
                    assert!(found.keystore && stopped && found.phase == Some(Phase::Stopping), "{found:?}");
                }
                Step::Stop => assert!(found.keystore && !stopped, "{found:?}"),
                Step::Fill => assert_eq!(found.phase, Some(Phase::Filling), "{found:?}"),
                Step::BeginFilling => assert!(found.keystore && !found.data && stopped, "{found:?}"),
                Step::MakeKeystore => assert!(!found.keystore && !stopped, "{found:?}"),
                Step::Begin => assert!(found.phase.is_none() && !stopped, "{found:?}"),
                Step::Refuse(_) => {}
            }
        }
    }

    #[test]
    fn one_that_was_started_again_is_neither_stopped_again_nor_emptied() {
        let found = Found {
            phase: Some(Phase::Stopping),
            keystore: true,
            data: true,
            operators: Some(8),
            stopped: Some(7),
        };
        assert_eq!(next(found), Step::Refuse(Refusal::StartedAgain));
        assert_eq!(next(Found { operators: Some(7), ..found }), Step::Stop, "it was never asked");
        let emptying = Found { phase: Some(Phase::Emptying), operators: Some(7), ..found };
        assert_eq!(next(emptying), Step::Refuse(Refusal::StartedAgain));
    }

    #[test]
    fn a_database_that_does_not_run_is_not_begun_with() {
        let found = Found { phase: None, keystore: false, data: true, operators: None, stopped: None };
        assert_eq!(next(found), Step::Refuse(Refusal::NotRunning));
        let begun = Found { phase: Some(Phase::Begun), keystore: true, ..found };
        assert_eq!(next(begun), Step::Refuse(Refusal::NotRunning));
        let lost = Found { phase: Some(Phase::Emptying), ..found };
        assert_eq!(next(lost), Step::Refuse(Refusal::KeystoreGone));
    }

    #[test]
    fn the_arguments_must_bring_the_member_back_into_its_set() {
        let joins =
            |arguments: &[&str]| joins(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>(), "rs");
        assert!(joins(&["--replSet", "rs"]) && joins(&["--replSet=rs"]) && joins(&["--replSet", "rs/a:1"]));
        assert!(joins(&["--config", "/etc/mongod.conf"]));
        assert!(!joins(&[]) && !joins(&["--replSet", "other"]) && !joins(&["--replSet"]));
        assert!(!joins(&["--replSet", "other", "--config", "/etc/mongod.conf"]));
        assert!(!joins(&["--replSetName", "rs"]));
    }

    #[test]
    fn a_member_that_would_come_back_without_its_tls_is_not_begun_with() {
        let config = |engine: &str| {
            let text = format!(
                "name = \"n\"\ndata_path = \"/srv/db\"\nstate_dir = \"/srv/state\"\nencryptor = \"/k.so\"\n\
                 initial = \"server\"\n[engine]\nkind = \"mongod\"\nprogram = \"/m\"\nport = 27017\n{engine}\n\
                 [customer_key]\ntenant_id = \"00000000-0000-0000-0000-000000000001\"\n[admin]\nsocket = \"/s\"\n"
            );
            Config::parse(&text, std::path::Path::new("a.toml"))
                .unwrap_or_else(|problems| panic!("{problems}"))
        };
        let running = MongodTls { mode: engine::TlsMode::Required, ..MongodTls::default() };
        let told = |engine: &str, running: &MongodTls| texts(&unfit(&config(engine), "rs", running));
        let without = "args = [\"--replSet\", \"rs\"]";
        assert!(told(without, &running).contains("engine.args would start it without"));
        assert!(!told(without, &MongodTls::default()).contains("TLS"), "the control");
        // With it, but with files that the agent could not ask the others by.
        let with = "args = [\"--replSet\", \"rs\", \"--tlsMode\", \"requireTLS\", \"--tlsCAFile\", \"/nowhere/ca.pem\"]";
        let told = told(with, &running);
        assert!(!told.contains("would start it without") && told.contains("/nowhere/ca.pem"), "{told}");
    }
}
