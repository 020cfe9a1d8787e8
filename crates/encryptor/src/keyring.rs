//! The database keys of one connection, in locked memory, and the giving of a spare to a database.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keyward_keys::assignment::{Assignment, AssignmentError, encode_assignment};
use keyward_keys::keystore::Purpose;
use keyward_keys::page::{PageCipher, PageError};
use keyward_keys::wire::WireKey;
use keyward_keys::{DatabaseKey, KeyId};

use crate::journal::{AssignmentJournal, JournalError};

/// How long the creation of a database waits for a spare when there is none left. Sixty-four spares make that a rare thing.
pub const SPARE_WAIT: Duration = Duration::from_secs(10);

/// Below this many spares the agent is asked for more, should it not have done so on its own.
pub const FEW_SPARES: usize = 16;

/// The keys of one connection.
#[derive(Debug)]
pub struct Keyring {
    state: Mutex<State>,
    more_spares: Condvar,
    // Held while an assignment becomes durable: one at a time, and nothing else waits for it.
    assigning: Mutex<()>,
}

#[derive(Debug)]
struct State {
    system: KeyId,
    keys: HashMap<KeyId, DatabaseKey>,
    databases: HashMap<String, KeyId>,
    spares: VecDeque<KeyId>,
    // Spares whose assignment could not be written for certain: no other database may get them.
    reserved: HashMap<String, KeyId>,
}

/// The agent's keystore says another key than this process already uses for a database.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Conflict {
    /// The database's directory name.
    pub database: String,
    /// The key in use, which stays.
    pub used: KeyId,
    /// What the agent says.
    pub offered: KeyId,
}

/// A key was given to a database.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Assigned {
    /// Earlier.
    Known(KeyId),
    /// Just now, and it is in the journal: tell the agent.
    Now {
        /// What happened.
        assignment: Assignment,
        /// Spares left.
        spares: usize,
    },
}

/// Why a database has no key.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// The spares are used up.
    #[error("there is no spare database key left for database {database}, and the agent sent none within {} s", SPARE_WAIT.as_secs())]
    NoSpare {
        /// The database's directory name.
        database: String,
    },
    /// The record can't be made.
    #[error("the record for the assignment journal can't be made")]
    Record(#[from] AssignmentError),
    /// The journal can't be written.
    #[error("the key of database {database} can't be assigned durably")]
    Journal {
        /// The database's directory name.
        database: String,
        /// Why.
        source: JournalError,
    },
}

impl AssignError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSpare { .. } => "start the agent of this node: it refills the spares",
            Self::Record(_) => "the database process needs more memory, or the database another name",
            Self::Journal { source, .. } => source.hint(),
        }
    }
}

/// Why there is no cipher for a key id.
#[derive(Debug, thiserror::Error)]
pub enum CipherError {
    /// The agent has not sent this key.
    #[error("the agent has sent no database key {0}")]
    Unknown(KeyId),
    /// The cipher can't be made.
    #[error("the cipher of database key {0} can't be made")]
    Page(KeyId, #[source] PageError),
}

impl Keyring {
    /// What the agent's welcome brought.
    pub fn new(system: KeyId, keys: Vec<WireKey>) -> Self {
        let state = State {
            system,
            keys: HashMap::new(),
            databases: HashMap::new(),
            spares: VecDeque::new(),
            reserved: HashMap::new(),
        };
        let keyring =
            Self { state: Mutex::new(state), more_spares: Condvar::new(), assigning: Mutex::new(()) };
        keyring.take_in(keys);
        keyring
    }

    /// The key of `.system`.
    pub fn system_key_id(&self) -> KeyId {
        self.state().system
    }

    /// Takes in keys sent later. Keys are never given up, and a database keeps the key it has.
    pub fn take_in(&self, keys: Vec<WireKey>) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let mut state = self.state();
        for WireKey { id, purpose, key } in keys {
            let is_new = !state.keys.contains_key(&id);
            if is_new {
                state.keys.insert(id, key);
            }
            match purpose {
                Purpose::System => {}
                Purpose::Spare => {
                    if is_new {
                        state.spares.push_back(id);
                    }
                }
                Purpose::Database(database) => {
                    state.spares.retain(|spare| *spare != id);
                    match state.databases.get(&database) {
                        Some(used) if *used != id => {
                            conflicts.push(Conflict { database, used: *used, offered: id });
                        }
                        Some(_) => {}
                        None => {
                            state.databases.insert(database, id);
                        }
                    }
                }
            }
        }
        drop(state);
        self.more_spares.notify_all();
        conflicts
    }

    /// Whether this is a key that something may be encrypted with: a system or a database key, not a spare.
    pub fn is_in_use(&self, id: &KeyId) -> bool {
        let state = self.state();
        state.keys.contains_key(id) && !state.spares.contains(id)
    }

    /// The key of a database, if it has one.
    pub fn key_of(&self, database: &str) -> Option<KeyId> {
        self.state().databases.get(database).copied()
    }

    /// A cipher with a nonce prefix of its own. A spare's, too: what is on disk must be readable.
    pub fn cipher(&self, id: KeyId) -> Result<PageCipher, CipherError> {
        let state = self.state();
        let key = state.keys.get(&id).ok_or(CipherError::Unknown(id))?;
        PageCipher::new(id, key).map_err(|error| CipherError::Page(id, error))
    }

    /// The key of a database; a spare becomes it, durably, if it has none yet.
    pub fn assign(&self, database: &str, journal: &AssignmentJournal) -> Result<Assigned, AssignError> {
        self.assign_within(database, journal, SPARE_WAIT)
    }

    fn assign_within(
        &self,
        database: &str,
        journal: &AssignmentJournal,
        wait: Duration,
    ) -> Result<Assigned, AssignError> {
        if let Some(known) = self.key_of(database) {
            return Ok(Assigned::Known(known));
        }
        // Counted from here: who waits behind others that wait for a spare doesn't wait that long once more.
        let deadline = Instant::now() + wait;
        let _one_at_a_time = self.assigning.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.spare_or_key(database, deadline);
        if let Some(known) = state.databases.get(database) {
            return Ok(Assigned::Known(*known));
        }
        let no_spare = || AssignError::NoSpare { database: database.to_owned() };
        let reserved = state.reserved.get(database).copied();
        let key_id = reserved.or_else(|| state.spares.front().copied()).ok_or_else(no_spare)?;
        let assignment = Assignment { key_id, database: database.to_owned() };
        let record = encode_assignment(&assignment, state.keys.get(&key_id).ok_or_else(no_spare)?)?;
        if reserved.is_none() {
            state.spares.pop_front();
            state.reserved.insert(database.to_owned(), key_id);
        }
        let spares = state.spares.len();
        drop(state);
        journal
            .append(&record)
            .map_err(|source| AssignError::Journal { database: database.to_owned(), source })?;
        let mut state = self.state();
        state.reserved.remove(database);
        state.databases.insert(database.to_owned(), key_id);
        Ok(Assigned::Now { assignment, spares })
    }

    /// Waits until there is a spare, or the agent has brought a key of this database.
    fn spare_or_key(&self, database: &str, deadline: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while state.spares.is_empty()
            && !state.databases.contains_key(database)
            && !state.reserved.contains_key(database)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.more_spares.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Spares left.
    pub fn spares(&self) -> usize {
        self.state().spares.len()
    }

    // A panic while the lock was held can't have left the maps half changed in a way that matters: each step is one insertion.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
