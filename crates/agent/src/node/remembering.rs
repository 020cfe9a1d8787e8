//! Writes down what the node remembers of its customer key, apart from who decides: a disk that hangs keeps no
//! revocation from being seen or obeyed.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyward_model::KeyIdentifier;
use tokio_util::task::TaskTracker;

use super::{NodeHandle, chain};
use crate::memory::Judged;

/// How long an agent that ends waits for its disk.
const AT_THE_END: Duration = Duration::from_secs(5);

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) judged: Judged,
    /// Where the customer keys of the keystore last worked.
    pub(super) regions: BTreeMap<KeyIdentifier, String>,
}

/// Writes in the order in which they were asked for, one at a time. What is [`Remembered`] waits at most once: it is
/// written as it is when its turn comes.
pub(super) struct Remembering {
    /// As it is on disk.
    written: Mutex<Remembered>,
    /// Whether it waits for its turn.
    waits: AtomicBool,
    queue: Mutex<Queue>,
    /// What the agent waits for at its end.
    pub(super) tasks: TaskTracker,
}

#[derive(Default)]
struct Queue {
    writes: VecDeque<Write>,
    /// Whether a task takes them from here.
    taken: bool,
}

type Write = Box<dyn FnOnce(&NodeHandle) + Send>;

impl Remembering {
    pub(super) fn new(written: Remembered) -> Self {
        Self {
            written: Mutex::new(written),
            waits: AtomicBool::new(false),
            queue: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeHandle {
    /// Has what changed written down. Returns at once.
    pub(super) fn remember(&self) {
        if !self.0.remembering.waits.swap(true, Ordering::SeqCst) {
            self.write_apart(Self::write_down);
        }
    }

    /// Has something written after what was asked for before, by a task that the agent waits for at its end. Returns
    /// at once.
    pub(super) fn write_apart(&self, write: impl FnOnce(&Self) + Send + 'static) {
        let remembering = &self.0.remembering;
        let mut queue = remembering.queue();
        queue.writes.push_back(Box::new(write));
        if !std::mem::replace(&mut queue.taken, true) {
            let node = self.clone();
            remembering.tasks.spawn_blocking(move || node.write_all());
        }
    }

    fn write_all(&self) {
        loop {
            let write = {
                let mut queue = self.0.remembering.queue();
                let Some(write) = queue.writes.pop_front() else {
                    queue.taken = false;
                    return;
                };
                write
            };
            // Those behind it have their turn all the same.
            if catch_unwind(AssertUnwindSafe(|| write(self))).is_err() {
                tracing::error!(
                    "a task of the agent ended while it wrote to state_dir: see the log, and report it"
                );
            }
        }
    }

    /// Waits until everything is written down, or the disk has had its time.
    pub(super) async fn remembered(&self) {
        let tasks = &self.0.remembering.tasks;
        tasks.close();
        if tokio::time::timeout(AT_THE_END, tasks.wait()).await.is_err() {
            tracing::error!("the disk of {} does not answer", self.config().state_dir.display());
        }
    }

    fn write_down(&self) {
        let remembering = &self.0.remembering;
        let mut written = remembering.written.lock().unwrap_or_else(PoisonError::into_inner);
        // What changes from now on is the next one's.
        remembering.waits.store(false, Ordering::SeqCst);
        let now = {
            let shared = self.shared();
            Remembered { judged: shared.judged.clone(), regions: shared.regions.clone() }
        };
        let mut failed = None;
        if written.judged != now.judged {
            match self.0.memory.set_judged(&now.judged) {
                Ok(()) => written.judged = now.judged,
                Err(error) => {
                    tracing::error!("the judgement could not be remembered: {}", chain(&error));
                    failed = Some(format!("the judgement is not remembered: {}", chain(&error)));
                }
            }
        }
        self.set_note("judgement", failed);
        if written.regions != now.regions {
            match self.0.memory.set_regions(&now.regions) {
                Ok(()) => written.regions = now.regions,
                // Tried again with the next change; of use only after a failover.
                Err(error) => {
                    tracing::warn!("where the key works could not be remembered: {}", chain(&error))
                }
            }
        }
    }
}
