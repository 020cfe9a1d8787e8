//! The life of a node: when its engine is started and stopped, when its keys are asked for and wiped.
//!
//! Owns every decision about it as one total function, [`Lifecycle::on`]. It does nothing itself: it returns
//! [`Effect`]s, and the shell reports each outcome back as an [`Event`]. Times are milliseconds of the boot
//! clock.
//!
//! ```text
//!   keys     Absent ──Unlock──▶ Unlocking ──ok──▶ Held ──(engine gone, not wanted)──▶ Absent
//!                                │    ▲
//!                     unavailable▼    │due, or the key answers
//!                               Retrying
//!
//!   engine   Down ──Spawn──▶ Spawning ──▶ AwaitingHello ──hello──▶ Up
//!             ▲ ▲                              │ │                 │ │
//!             │ └──CoolingDown ◀───crash───────┘─│─────────────────┘ │
//!             └───────────────── Stopping ◀──────┴────StopEngine─────┘
//! ```

use crate::{Class, NodeState, count::counted};

/// How long a started engine may take until its encryptor says hello, unless the shell says otherwise.
pub const HELLO_TIMEOUT_MS: u64 = 120_000;
/// Crashes in a row after which the node gives up.
pub const MAX_CRASHES: u32 = 5;
/// An engine that ran this long was no part of a row of crashes.
pub const STABLE_MS: u64 = 600_000;

const FIRST_RETRY_MS: u64 = 1_000;
const LONGEST_RETRY_MS: u64 = 60_000;

/// What the operator wants of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The engine should run whenever the customer key allows it.
    Running,
    /// The engine should not run.
    Stopped,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An engine of this node was found running at the start of the agent.
    EngineFound {
        /// Whether its encryptor had said hello to an earlier agent.
        hello_seen: bool,
    },
    /// The operator wants the node running; also clears a failure.
    StartAsked,
    /// The operator wants the node stopped.
    StopAsked,
    /// Work on the files needs the engine stopped for a while.
    HoldAsked {
        /// For `reason`.
        why: String,
    },
    /// That work is over.
    HoldReleased,
    /// [`Effect::Unlock`] ended.
    Unlocked(Result<(), UnlockFailure>),
    /// [`Effect::Spawn`] ended.
    Spawned(Result<(), SpawnFailure>),
    /// The engine's encryptor said hello.
    HelloSeen,
    /// The engine is gone.
    EngineEnded {
        /// How it ended.
        text: String,
    },
    /// The verdict was decided anew.
    Judged {
        /// The evidence that says the key was taken away, when the verdict is `Revoked`.
        revoked: Option<Class>,
        /// Whether the customer key answered just now.
        answers: bool,
    },
    /// Time passed.
    Tick,
}

/// Why the master key could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnlockFailure {
    /// The customer's side said no.
    Refused(Class),
    /// Nobody said anything definite: try again. All that is known of it is in the sentence: who was asked, what came
    /// back, what stood in the way.
    Unavailable(String),
    /// Trying again is of no use (keystore missing, damaged, replayed): what to do is in the sentence.
    Broken(String),
}

/// Why there is no process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnFailure {
    /// What happened and what to do.
    pub text: String,
    /// Whether trying again may help.
    pub again: bool,
}

/// Something to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Open the keystore with the customer key; report [`Event::Unlocked`].
    Unlock,
    /// Start the engine; report [`Event::Spawned`], later [`Event::EngineEnded`].
    Spawn,
    /// Stop the engine cleanly, kill it after the grace time; report [`Event::EngineEnded`].
    StopEngine,
    /// Wipe master and database keys from memory.
    WipeKeys,
}

/// What the agent has of the node's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// None in memory.
    Absent,
    /// Being asked for; `attempt` counts from 0.
    Unlocking {
        /// Failed attempts before this one.
        attempt: u32,
    },
    /// Not to be had now.
    Retrying {
        /// When to ask again.
        at_ms: u64,
        /// Failed attempts.
        attempt: u32,
        /// What the last one saw.
        text: String,
    },
    /// The engine runs, but the keystore cannot be opened at all.
    Broken(String),
    /// In memory.
    Held,
}

/// Where the database process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnginePhase {
    /// There is none.
    Down,
    /// It is being started.
    Spawning {
        /// The encryptor can be faster than the report that its process exists.
        hello_seen: bool,
    },
    /// It exists; its encryptor has not said hello.
    AwaitingHello {
        /// When it is stopped for that.
        deadline_ms: u64,
    },
    /// It runs.
    Up {
        /// Since when.
        since_ms: u64,
    },
    /// It is being stopped.
    Stopping,
    /// It ended by itself and is started again.
    CoolingDown {
        /// When.
        at_ms: u64,
        /// How it ended.
        text: String,
    },
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    wanted: Wanted,
    hold: Option<String>,
    revoked: Option<Class>,
    failed: Option<String>,
    keys: Keys,
    engine: EnginePhase,
    crashes: u32,
    hello_timeout_ms: u64,
    stopped_reason: String,
}

impl Lifecycle {
    /// A node of which nothing runs yet. `revoked` is what an earlier agent remembered; `stopped_reason` is what
    /// status says while the operator wants it stopped. Send [`Event::EngineFound`] or [`Event::Tick`] next.
    pub fn new(wanted: Wanted, revoked: Option<Class>, hello_timeout_ms: u64, stopped_reason: &str) -> Self {
        Self {
            wanted,
            hold: None,
            revoked,
            failed: None,
            keys: Keys::Absent,
            engine: EnginePhase::Down,
            crashes: 0,
            hello_timeout_ms,
            stopped_reason: stopped_reason.to_owned(),
        }
    }

    /// Takes in what happened at `now_ms` and says what to do, in order.
    pub fn on(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        self.take_in(event, now_ms);
        let mut effects = Vec::new();
        while let Some(effect) = self.next_step(now_ms) {
            effects.extend(effect);
        }
        effects
    }

    /// When to send [`Event::Tick`] at the latest.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let keys = match &self.keys {
            Keys::Retrying { at_ms, .. } => Some(*at_ms),
            Keys::Absent | Keys::Unlocking { .. } | Keys::Broken(_) | Keys::Held => None,
        };
        let engine = match &self.engine {
            EnginePhase::AwaitingHello { deadline_ms } => Some(*deadline_ms),
            EnginePhase::CoolingDown { at_ms, .. } => Some(*at_ms),
            EnginePhase::Down
            | EnginePhase::Spawning { .. }
            | EnginePhase::Up { .. }
            | EnginePhase::Stopping => None,
        };
        keys.into_iter().chain(engine).min()
    }

    /// The state as status shows it.
    pub fn state(&self) -> NodeState {
        match &self.engine {
            EnginePhase::Up { .. } | EnginePhase::Stopping => return NodeState::Running,
            EnginePhase::Spawning { .. } | EnginePhase::AwaitingHello { .. } => return NodeState::Starting,
            EnginePhase::Down | EnginePhase::CoolingDown { .. } => {}
        }
        if self.wanted == Wanted::Stopped {
            NodeState::Stopped
        } else if self.revoked.is_some() {
            NodeState::StoppedRevoked
        } else if self.failed.is_some() {
            NodeState::Failed
        } else if self.hold.is_some() {
            NodeState::Stopped
        } else {
            match &self.keys {
                Keys::Retrying { .. } => NodeState::WaitingForCustomerKey,
                Keys::Unlocking { attempt } if *attempt > 0 => NodeState::WaitingForCustomerKey,
                Keys::Unlocking { .. } | Keys::Absent | Keys::Held | Keys::Broken(_) => NodeState::Starting,
            }
        }
    }

    /// Why the state is what it is, for a person.
    pub fn reason(&self) -> String {
        match &self.engine {
            EnginePhase::Stopping => {
                return match (&self.revoked, &self.failed, &self.hold) {
                    (Some(class), _, _) => format!("stopping: {}", class.text()),
                    (None, Some(text), _) => format!("stopping: {text}"),
                    (None, None, Some(why)) => format!("stopping: {why}"),
                    (None, None, None) => "stopping: the operator asked for it".to_owned(),
                };
            }
            EnginePhase::Up { .. } => {
                return match &self.keys {
                    Keys::Held => "the engine runs".to_owned(),
                    Keys::Absent | Keys::Unlocking { .. } => {
                        "the engine runs; the master key is being asked for".to_owned()
                    }
                    Keys::Retrying { text, .. } | Keys::Broken(text) => {
                        format!("the engine runs; the agent has no master key: {text}")
                    }
                };
            }
            EnginePhase::Spawning { .. } => return "the engine is being started".to_owned(),
            EnginePhase::AwaitingHello { .. } => return "waiting for the engine's encryptor".to_owned(),
            EnginePhase::Down | EnginePhase::CoolingDown { .. } => {}
        }
        if self.wanted == Wanted::Stopped {
            return self.stopped_reason.clone();
        }
        if let Some(class) = self.revoked {
            return class.text().to_owned();
        }
        if let Some(text) = &self.failed {
            return text.clone();
        }
        if let Some(why) = &self.hold {
            return why.clone();
        }
        if let EnginePhase::CoolingDown { text, .. } = &self.engine {
            return format!("{text}; start {} of {MAX_CRASHES} follows", self.crashes + 1);
        }
        match &self.keys {
            Keys::Retrying { text, attempt, .. } => {
                format!("{text} ({} so far)", counted(*attempt, "attempt", "attempts"))
            }
            Keys::Unlocking { .. } => "asking for the master key".to_owned(),
            Keys::Broken(text) => text.clone(),
            Keys::Absent | Keys::Held => "starting".to_owned(),
        }
    }

    /// What the operator wants.
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Why the customer key counts as taken away, if it does.
    pub fn revoked(&self) -> Option<Class> {
        self.revoked
    }

    /// What the agent has of the keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Where the process is.
    pub fn engine(&self) -> &EnginePhase {
        &self.engine
    }

    /// Whether the engine is to run now, as far as operator and customer are concerned.
    pub fn may_run(&self) -> bool {
        self.wanted == Wanted::Running
            && self.hold.is_none()
            && self.revoked.is_none()
            && self.failed.is_none()
    }

    fn take_in(&mut self, event: Event, now_ms: u64) {
        match event {
            Event::EngineFound { hello_seen } => {
                if matches!(self.engine, EnginePhase::Down) {
                    self.engine = if hello_seen {
                        EnginePhase::Up { since_ms: now_ms }
                    } else {
                        EnginePhase::AwaitingHello {
                            deadline_ms: now_ms.saturating_add(self.hello_timeout_ms),
                        }
                    };
                }
            }
            Event::StartAsked => {
                self.wanted = Wanted::Running;
                self.failed = None;
                self.crashes = 0;
                if let Keys::Retrying { at_ms, .. } = &mut self.keys {
                    *at_ms = now_ms;
                }
                if matches!(self.keys, Keys::Broken(_)) {
                    self.keys = Keys::Absent;
                }
            }
            Event::StopAsked => {
                self.wanted = Wanted::Stopped;
                self.failed = None;
                self.stopped_reason = "the operator stopped it".to_owned();
            }
            Event::HoldAsked { why } => self.hold = Some(why),
            Event::HoldReleased => self.hold = None,
            Event::Unlocked(outcome) => self.unlocked(outcome, now_ms),
            Event::Spawned(outcome) => self.spawned(outcome, now_ms),
            Event::HelloSeen => match &mut self.engine {
                EnginePhase::Spawning { hello_seen } => *hello_seen = true,
                EnginePhase::AwaitingHello { .. } => self.engine = EnginePhase::Up { since_ms: now_ms },
                EnginePhase::Down
                | EnginePhase::Up { .. }
                | EnginePhase::Stopping
                | EnginePhase::CoolingDown { .. } => {}
            },
            Event::EngineEnded { text } => self.ended(text, now_ms),
            Event::Judged { revoked, answers } => {
                self.revoked = revoked;
                if answers && let Keys::Retrying { at_ms, .. } = &mut self.keys {
                    *at_ms = now_ms;
                }
            }
            Event::Tick => {}
        }
    }

    fn unlocked(&mut self, outcome: Result<(), UnlockFailure>, now_ms: u64) {
        let Keys::Unlocking { attempt } = self.keys else { return };
        let engine_is_down = matches!(self.engine, EnginePhase::Down | EnginePhase::CoolingDown { .. });
        let later = |text| Keys::Retrying {
            at_ms: now_ms.saturating_add(retry_delay_ms(attempt)),
            attempt: attempt.saturating_add(1),
            text,
        };
        match outcome {
            Ok(()) => self.keys = Keys::Held,
            // No key is in memory: one refusal is enough. With a running engine the windows of the verdict hold.
            Err(UnlockFailure::Refused(class)) if engine_is_down => {
                self.keys = Keys::Absent;
                self.revoked = Some(class);
            }
            Err(UnlockFailure::Refused(class)) => self.keys = later(class.text().to_owned()),
            Err(UnlockFailure::Unavailable(text)) => self.keys = later(text),
            Err(UnlockFailure::Broken(text)) if engine_is_down => {
                self.keys = Keys::Absent;
                self.failed = Some(text);
            }
            Err(UnlockFailure::Broken(text)) => self.keys = Keys::Broken(text),
        }
    }

    fn ended(&mut self, text: String, now_ms: u64) {
        match &self.engine {
            EnginePhase::Stopping => self.engine = EnginePhase::Down,
            EnginePhase::AwaitingHello { .. } | EnginePhase::Up { .. } => {
                if let EnginePhase::Up { since_ms } = self.engine
                    && now_ms.saturating_sub(since_ms) >= STABLE_MS
                {
                    self.crashes = 0;
                }
                self.cool_down(format!("the engine ended by itself ({text})"), now_ms);
            }
            EnginePhase::Down | EnginePhase::Spawning { .. } | EnginePhase::CoolingDown { .. } => {}
        }
    }

    fn spawned(&mut self, outcome: Result<(), SpawnFailure>, now_ms: u64) {
        let EnginePhase::Spawning { hello_seen } = self.engine else { return };
        match outcome {
            Ok(()) if hello_seen => self.engine = EnginePhase::Up { since_ms: now_ms },
            Ok(()) => {
                let deadline_ms = now_ms.saturating_add(self.hello_timeout_ms);
                self.engine = EnginePhase::AwaitingHello { deadline_ms };
            }
            Err(SpawnFailure { text, again: true }) => self.cool_down(text, now_ms),
            Err(SpawnFailure { text, again: false }) => {
                self.engine = EnginePhase::Down;
                self.failed = Some(text);
            }
        }
    }

    /// Another start follows after a while, but not for ever.
    fn cool_down(&mut self, text: String, now_ms: u64) {
        self.crashes = self.crashes.saturating_add(1);
        if self.crashes >= MAX_CRASHES {
            self.engine = EnginePhase::Down;
            self.failed = Some(format!("{MAX_CRASHES} starts in a row failed: {text}"));
        } else {
            let at_ms = now_ms.saturating_add(retry_delay_ms(self.crashes - 1));
            self.engine = EnginePhase::CoolingDown { at_ms, text };
        }
    }

    /// One step towards what is wanted; `None` when there is nothing to do now. `Some(None)` is a step without an
    /// effect. At most four steps follow one event, as each moves `engine` or `keys` on.
    fn next_step(&mut self, now_ms: u64) -> Option<Option<Effect>> {
        if !self.may_run() {
            return match (&self.engine, &self.keys) {
                (EnginePhase::AwaitingHello { .. } | EnginePhase::Up { .. }, _) => {
                    self.engine = EnginePhase::Stopping;
                    Some(Some(Effect::StopEngine))
                }
                (EnginePhase::CoolingDown { .. }, _) => {
                    self.engine = EnginePhase::Down;
                    Some(None)
                }
                (EnginePhase::Down, Keys::Retrying { .. } | Keys::Broken(_)) => {
                    self.keys = Keys::Absent;
                    Some(None)
                }
                // During a hold the keys stay: the engine must come back even if the vault is down by then.
                (EnginePhase::Down, Keys::Held) if !self.only_held_back() => {
                    self.keys = Keys::Absent;
                    Some(Some(Effect::WipeKeys))
                }
                (EnginePhase::Down, Keys::Held | Keys::Absent | Keys::Unlocking { .. })
                | (EnginePhase::Spawning { .. } | EnginePhase::Stopping, _) => None,
            };
        }
        match &self.engine {
            EnginePhase::AwaitingHello { deadline_ms } if *deadline_ms <= now_ms => {
                let seconds = self.hello_timeout_ms / 1000;
                self.failed = Some(format!("the engine's encryptor did not say hello within {seconds} s"));
                return Some(None);
            }
            EnginePhase::CoolingDown { at_ms, .. } if *at_ms <= now_ms => {
                self.engine = EnginePhase::Down;
                return Some(None);
            }
            EnginePhase::Down if self.keys == Keys::Held => {
                self.engine = EnginePhase::Spawning { hello_seen: false };
                return Some(Some(Effect::Spawn));
            }
            EnginePhase::Down
            | EnginePhase::Spawning { .. }
            | EnginePhase::AwaitingHello { .. }
            | EnginePhase::Up { .. }
            | EnginePhase::CoolingDown { .. } => {}
            EnginePhase::Stopping => return None,
        }
        match &self.keys {
            Keys::Absent => {
                self.keys = Keys::Unlocking { attempt: 0 };
                Some(Some(Effect::Unlock))
            }
            Keys::Retrying { at_ms, attempt, .. } if *at_ms <= now_ms => {
                self.keys = Keys::Unlocking { attempt: *attempt };
                Some(Some(Effect::Unlock))
            }
            // The engine that ran on without its keystore is gone: the keystore may have been mended meanwhile, and
            // what still cannot be opened is a failure now.
            Keys::Broken(_) if matches!(self.engine, EnginePhase::Down | EnginePhase::CoolingDown { .. }) => {
                self.keys = Keys::Absent;
                Some(None)
            }
            Keys::Retrying { .. } | Keys::Unlocking { .. } | Keys::Broken(_) | Keys::Held => None,
        }
    }

    fn only_held_back(&self) -> bool {
        self.hold.is_some()
            && self.wanted == Wanted::Running
            && self.revoked.is_none()
            && self.failed.is_none()
    }
}

/// 1, 2, 4 … 60 seconds.
fn retry_delay_ms(failures: u32) -> u64 {
    FIRST_RETRY_MS.saturating_mul(1 << failures.min(10)).min(LONGEST_RETRY_MS)
}

#[cfg(test)]
mod tests;
