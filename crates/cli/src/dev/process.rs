//! Processes that `keyward dev` starts: recorded with pid and start time, so that a later start (after a kill -9
//! of this one) recognises what is still running, and stops nothing else.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::home::write_json;
use crate::failure::Failure;

/// A process that can't be mistaken for a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessRecord {
    /// `vault`, or a node's name.
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub(crate) start_time: u64,
    pub(crate) boot_id: String,
}

impl ProcessRecord {
    /// The process as it runs now; `None` when there is none.
    pub(crate) fn of(name: &str, pid: u32) -> Option<Self> {
        let start_time = start_time(pid)?;
        Some(Self { name: name.to_owned(), pid, start_time, boot_id: boot_id() })
    }

    /// Whether it still runs. A zombie does not.
    pub(crate) fn is_alive(&self) -> bool {
        self.boot_id == boot_id() && start_time(self.pid) == Some(self.start_time)
    }

    /// A handle that stays with this very process; `None` when it is gone.
    fn handle(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Checked after opening: the handle can't pass to another process from here on.
        self.is_alive().then_some(handle)
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&self) {
        if let Some(handle) = self.handle() {
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }

    /// Asks it to end (SIGTERM), waits up to `grace`, then kills it. Returns whether it had to be killed.
    pub(crate) async fn stop(&self, grace: Duration) -> bool {
        let Some(handle) = self.handle() else { return false };
        let _ = pidfd_send_signal(&handle, Signal::TERM);
        if self.wait(grace).await {
            return false;
        }
        let _ = pidfd_send_signal(&handle, Signal::KILL);
        self.wait(Duration::from_secs(10)).await;
        true
    }

    /// Waits until it is gone; `false` when it isn't after `limit`.
    pub(crate) async fn wait(&self, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        while self.is_alive() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

/// What runs in one folder.
#[derive(Debug)]
pub(crate) struct Processes {
    file: PathBuf,
    running: Vec<(ProcessRecord, Option<Child>)>,
}

impl Processes {
    /// Takes up the records of an earlier run; those that are gone are dropped.
    pub(crate) fn open(file: PathBuf) -> Self {
        let recorded: Vec<ProcessRecord> =
            fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let running =
            recorded.into_iter().filter(ProcessRecord::is_alive).map(|record| (record, None)).collect();
        Self { file, running }
    }

    /// The process of that name, when it runs.
    pub(crate) fn find(&mut self, name: &str) -> Option<ProcessRecord> {
        self.reap();
        self.running.iter().map(|(record, _)| record).find(|r| r.name == name && r.is_alive()).cloned()
    }

    /// Every running process, in the order of their start.
    pub(crate) fn all(&mut self) -> Vec<ProcessRecord> {
        self.reap();
        self.running.iter().map(|(record, _)| record.clone()).filter(ProcessRecord::is_alive).collect()
    }

    /// Starts a command in a process group of its own (a Ctrl-C on the terminal is this program's alone to
    /// handle), its output appended to `log`.
    pub(crate) fn start(&mut self, name: &str, mut command: Command, log: &Path) -> Result<(), Failure> {
        let shown = format!("{:?}", command.as_std().get_program());
        let failed = |e: &std::io::Error, what: String| {
            Failure::new(what, "check the folder's permissions and free space").because(e)
        };
        let out = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|e| failed(&e, format!("the log {} cannot be opened", log.display())))?;
        let err =
            out.try_clone().map_err(|e| failed(&e, format!("the log {} cannot be opened", log.display())))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|e| failed(&e, format!("{shown} cannot be started as {name}")))?;
        let record = child.id().and_then(|pid| ProcessRecord::of(name, pid)).ok_or_else(|| {
            Failure::new(format!("{name} ended at once"), format!("read {}", log.display()))
        })?;
        self.running.push((record, Some(child)));
        self.save()
    }

    /// Forgets what has ended.
    fn reap(&mut self) {
        self.running.retain_mut(|(record, child)| match child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => record.is_alive(),
        });
    }

    /// Writes the records down.
    pub(crate) fn save(&mut self) -> Result<(), Failure> {
        let records = self.all();
        write_json(&self.file, &records)
    }
}

impl Drop for Processes {
    /// Asks whatever this run started and did not stop to end: an interrupted start leaves nothing behind.
    fn drop(&mut self) {
        for (record, child) in &self.running {
            if child.is_some()
                && let Some(handle) = record.handle()
            {
                let _ = pidfd_send_signal(handle, Signal::TERM);
            }
        }
    }
}

/// Start time in clock ticks since boot; `None` when there is no such process or it is a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, is in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start_time)
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(ignore_term: bool) -> Command {
        let mut command = Command::new("sh");
        let trap = if ignore_term { "trap '' TERM; " } else { "" };
        command.args(["-c", &format!("{trap}while :; do sleep 0.05; done")]);
        command
    }

    #[tokio::test]
    async fn a_later_start_finds_what_still_runs_and_stops_only_that() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("processes.json"), dir.path().join("log"));
        let mut first = Processes::open(file.clone());
        first.start("vault", sleeper(false), &log).unwrap();
        let started = first.find("vault").unwrap();

        let mut second = Processes::open(file.clone());
        assert_eq!(second.find("vault"), Some(started.clone()));
        assert!(!started.stop(Duration::from_secs(10)).await, "SIGTERM was enough");
        assert_eq!((first.find("vault"), second.find("vault")), (None, None));

        // Dropped, it takes with it what it started itself and not what it found.
        first.start("vault", sleeper(false), &log).unwrap();
        let started = first.find("vault").unwrap();
        drop(Processes::open(file.clone()));
        assert!(started.is_alive());
        drop(first);
        assert!(started.wait(Duration::from_secs(10)).await);

        // The same pid at another time is another process.
        let other =
            ProcessRecord { start_time: 1, ..ProcessRecord::of("vault", std::process::id()).unwrap() };
        assert!(!other.is_alive());
        write_json(&file, &vec![other]).unwrap();
        assert_eq!(Processes::open(file).find("vault"), None);
    }

    #[tokio::test]
    async fn what_does_not_end_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut processes = Processes::open(dir.path().join("processes.json"));
        processes.start("node-0", sleeper(true), &dir.path().join("log")).unwrap();
        let record = processes.find("node-0").unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(record.stop(Duration::from_millis(300)).await);
        assert!(!record.is_alive());
    }
}
