//! One process: started in a session of its own, found again, watched and stopped through its pidfd.
//!
//! Owns everything that touches a process id. It never signals by number: a pidfd names one process for good, so
//! a reused process id can never be hit.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use procfs::process::Process;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal,
    setrlimit, setsid, waitid,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::OnceCell,
};

use super::{EngineError, EngineRecord, Exit, identity::Identity, log_tail};
use crate::folder::Folder;

/// What to run, complete: nothing of the agent's own environment is passed on beyond `environment`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invocation {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) directory: PathBuf,
    pub(super) log_file: PathBuf,
    /// Whom to run under; the agent's own user when `None`.
    pub(super) identity: Option<Identity>,
}

/// A process that the agent started or found again.
#[derive(Debug)]
pub(super) struct Handle {
    record: EngineRecord,
    pidfd: AsyncFd<OwnedFd>,
    log_file: PathBuf,
    /// Length of the log when the process began: what is before it was said by another one.
    log_start: u64,
    /// `None` inside: the status is not ours to learn.
    status: OnceCell<Option<ExitStatus>>,
}

impl Handle {
    /// Starts `invocation` in a session of its own, without core files. It outlives the agent.
    pub(super) fn spawn(invocation: &Invocation, version: &str) -> Result<Self, EngineError> {
        let log = open_log(&invocation.log_file)?;
        let log_start = log.metadata().map(|m| m.len()).unwrap_or(0);
        let second = log
            .try_clone()
            .map_err(|source| EngineError::Log { path: invocation.log_file.clone(), source })?;
        let mut command = Command::new(&invocation.program);
        command
            .args(&invocation.arguments)
            .env_clear()
            .envs(invocation.environment.iter().map(|(k, v)| (k, v)))
            .current_dir(&invocation.directory)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second);
        if let Some(Identity { uid, gid, .. }) = invocation.identity {
            command.uid(uid).gid(gid);
        }
        detach(&mut command);
        let child = command
            .spawn()
            .map_err(|source| EngineError::Spawn { program: invocation.program.clone(), source })?;
        // Dropping the `Child` neither kills nor reaps it: the pidfd does both from here on.
        let pid = child.id();
        Self::open(pid, None, version, &invocation.log_file, log_start)?
            .ok_or_else(|| EngineError::VanishedAtStart { log: log_tail(&invocation.log_file, log_start) })
    }

    /// The process of `record`, when it still runs: same process id, same start time, same boot.
    pub(super) fn adopt(record: &EngineRecord, log_file: &Path) -> Result<Option<Self>, EngineError> {
        if record.boot_id != boot_id()? {
            return Ok(None);
        }
        let log_start = fs::metadata(log_file).map(|m| m.len()).unwrap_or(0);
        Self::open(record.pid, Some(record.start_ticks), &record.version, log_file, log_start)
    }

    /// The process `pid` whatever its start time: for one that was found by what it is, not by a record.
    pub(super) fn take(pid: u32, version: &str, log_file: &Path) -> Result<Option<Self>, EngineError> {
        let log_start = fs::metadata(log_file).map(|m| m.len()).unwrap_or(0);
        Self::open(pid, None, version, log_file, log_start)
    }

    fn open(
        pid: u32,
        start_ticks: Option<u64>,
        version: &str,
        log_file: &Path,
        log_start: u64,
    ) -> Result<Option<Self>, EngineError> {
        let failed = |source| EngineError::Process { pid, source };
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(number, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        };
        // Read after the pidfd is open: whatever this says is said of the process that the pidfd names.
        let Some(stat) = stat_of(pid) else { return Ok(None) };
        if start_ticks.is_some_and(|expected| expected != stat.starttime) {
            return Ok(None);
        }
        // A zombie of ours still has an exit status to give; one of somebody else's is gone for us.
        if stat.state == 'Z' && stat.ppid != own_pid() {
            return Ok(None);
        }
        let record = EngineRecord {
            pid,
            start_ticks: stat.starttime,
            boot_id: boot_id()?,
            version: version.to_owned(),
        };
        let pidfd = watch(pidfd).map_err(failed)?;
        Ok(Some(Self { record, pidfd, log_file: log_file.to_owned(), log_start, status: OnceCell::new() }))
    }

    pub(super) fn record(&self) -> &EngineRecord {
        &self.record
    }

    /// Whether `pid` is this process or descends from it.
    pub(super) fn owns(&self, pid: u32) -> bool {
        let same = stat_of(self.record.pid).is_some_and(|s| s.starttime == self.record.start_ticks);
        same && descends(pid, self.record.pid)
    }

    /// Waits for the end. Cancel-safe; any number of tasks may wait.
    pub(super) async fn wait(&self) -> Exit {
        self.describe(self.status().await, false)
    }

    async fn status(&self) -> Option<ExitStatus> {
        *self
            .status
            .get_or_init(|| async {
                // An error here means that the pidfd cannot be polled; the exit status then says the same.
                let _ = self.pidfd.readable().await;
                reap(self.pidfd.get_ref())
            })
            .await
    }

    /// SIGTERM, then SIGKILL after `grace`; returns when the process is gone.
    pub(super) async fn stop(&self, grace: Duration) -> Result<Exit, EngineError> {
        self.signal(Signal::TERM)?;
        if let Ok(status) = tokio::time::timeout(grace, self.status()).await {
            return Ok(self.describe(status, true));
        }
        self.signal(Signal::KILL)?;
        self.wait().await;
        let text = format!("did not end within {} s and was killed", grace.as_secs());
        Ok(Exit { text, clean: false })
    }

    /// SIGTERM, and waits for the end for `patience`; never more. Whether it ended.
    pub(super) async fn terminate(&self, patience: Duration) -> Result<bool, EngineError> {
        self.signal(Signal::TERM)?;
        Ok(self.ended_within(patience).await)
    }

    /// Whether the process ends within `patience`.
    pub(super) async fn ended_within(&self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.status()).await.is_ok()
    }

    fn signal(&self, signal: Signal) -> Result<(), EngineError> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(EngineError::Process { pid: self.record.pid, source: errno.into() }),
        }
    }

    fn describe(&self, status: Option<ExitStatus>, asked: bool) -> Exit {
        let (what, clean) = match status {
            Some(status) => match (status.code(), status.signal()) {
                (Some(0), _) => ("ended with status 0".to_owned(), true),
                (Some(code), _) => (format!("ended with status {code}"), false),
                (None, Some(signal)) => (format!("was ended by signal {signal}"), signal == libc::SIGTERM),
                (None, None) => ("ended".to_owned(), false),
            },
            None => ("ended (an earlier agent started it: its exit status is not known)".to_owned(), asked),
        };
        let tail = if clean { String::new() } else { log_tail(&self.log_file, self.log_start) };
        let text = if tail.is_empty() { what } else { format!("{what}; its log ends with: {tail}") };
        Exit { text, clean }
    }
}

/// Whether `pid` is `ancestor` or one of its descendants.
pub(super) fn descends(pid: u32, ancestor: u32) -> bool {
    // A bound on the walk: process ids can be reused while it goes on.
    let mut at = pid;
    for _ in 0..64 {
        if at == ancestor {
            return true;
        }
        match stat_of(at).and_then(|s| u32::try_from(s.ppid).ok()) {
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
}

/// A process of user `uid` (or root) whose environment variable `name` contains `mark`: the one whose parent is not
/// such a process too. Anybody may give a process of their own any environment, so the user has to fit as well.
pub(super) fn with_environment(name: &str, mark: &str, uid: u32) -> Option<u32> {
    let marked = |pid: i32| {
        let process = Process::new(pid).ok()?;
        if ![uid, 0].contains(&process.status().ok()?.euid) {
            return None;
        }
        let environment = process.environ().ok()?;
        let value = environment.get(std::ffi::OsStr::new(name))?;
        value.to_string_lossy().contains(mark).then_some(())
    };
    let found: Vec<_> = procfs::process::all_processes()
        .ok()?
        .flatten()
        .filter(|p| marked(p.pid).is_some())
        .filter_map(|p| p.stat().ok())
        .filter(|stat| stat.state != 'Z')
        .collect();
    let top = found.iter().find(|stat| !found.iter().any(|other| other.pid == stat.ppid))?;
    u32::try_from(top.pid).ok()
}

/// Whether the process of `record` still runs.
pub(super) fn is_alive(record: &EngineRecord) -> bool {
    boot_id().is_ok_and(|boot| boot == record.boot_id)
        && stat_of(record.pid).is_some_and(|stat| stat.starttime == record.start_ticks && stat.state != 'Z')
}

/// `/proc/sys/kernel/random/boot_id`.
pub(super) fn boot_id() -> Result<String, EngineError> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .map_err(EngineError::BootId)
}

fn stat_of(pid: u32) -> Option<procfs::process::Stat> {
    Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// The exit status, when the process is a child of ours.
fn reap(pidfd: &OwnedFd) -> Option<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), options).ok().flatten()?;
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal & 0x7f,
        (None, None) => return None,
    };
    Some(ExitStatus::from_raw(raw))
}

/// Never through a link: the folder may be the engine's user's, and what the engine says would be added to any file.
fn open_log(path: &Path) -> Result<fs::File, EngineError> {
    let failed = |source| EngineError::Log { path: path.to_owned(), source };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidFilename.into()));
    };
    fs::create_dir_all(parent).map_err(failed)?;
    let opened = Folder::open(parent).and_then(|folder| folder.append_to(name));
    opened.map_err(|error| failed(error.into()))
}

#[expect(unsafe_code, reason = "tokio has no safe constructor")]
fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same descriptor until it is dropped, which the `AsyncFd` that owns
    // it does last; nothing here takes it out or replaces it.
    let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}

/// A session of its own, so that no terminal's signal reaches it, and no core file.
#[expect(unsafe_code, reason = "there is no safe way to make a session for a child")]
fn detach(command: &mut Command) {
    let no_core = || Rlimit { current: Some(0), maximum: Some(0) };
    // SAFETY: between fork and exec the closure makes two system calls, setsid(2) and setrlimit(2), through
    // rustix, which allocates nothing, takes no lock and keeps no state for them.
    unsafe {
        command.pre_exec(move || {
            setsid().map_err(io::Error::from)?;
            setrlimit(Resource::Core, no_core()).map_err(io::Error::from)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_neither_written_nor_shown_through_a_link() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let (log, other) = (dir.path().join("new/engine.log"), dir.path().join("other"));
        open_log(&log).unwrap().write_all(b"one\n").unwrap();
        open_log(&log).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(log_tail(&log, 0), "one | two");
        assert_eq!(log_tail(&log, 4), "two");
        fs::write(&other, "secret").unwrap();
        fs::remove_file(&log).unwrap();
        std::os::unix::fs::symlink(&other, &log).unwrap();
        let error = open_log(&log).unwrap_err();
        assert!(crate::node::chain(&error).contains("is a link that the agent does not follow"), "{error:?}");
        assert_eq!(log_tail(&log, 0), "");
        assert_eq!(fs::read_to_string(&other).unwrap(), "secret");
        // Nobody reads from the pipe: whoever opened it as a log would wait for ever.
        fs::remove_file(&log).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &log, rustix::fs::Mode::RUSR).unwrap();
        assert!(open_log(&log).is_err());
        assert_eq!(log_tail(&log, 0), "");
    }

    fn shell(dir: &Path, script: &str) -> Invocation {
        Invocation {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            directory: dir.to_owned(),
            log_file: dir.join("log"),
            identity: None,
        }
    }

    #[tokio::test]
    async fn an_end_is_told_with_the_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let handle = Handle::spawn(&shell(dir.path(), "echo last words; exit 7"), "1").unwrap();
        let exit = handle.wait().await;
        assert!(!exit.clean);
        assert_eq!(exit.text, "ended with status 7; its log ends with: last words");
        assert_eq!(handle.wait().await, exit);
    }

    #[tokio::test]
    async fn it_has_its_own_session_and_no_core_file() {
        let dir = tempfile::tempdir().unwrap();
        let handle = Handle::spawn(&shell(dir.path(), "ulimit -c; ulimit -Hc; exec sleep 60"), "1").unwrap();
        let stat = stat_of(handle.record().pid).unwrap();
        assert_eq!(stat.session, stat.pid);
        while fs::read_to_string(dir.path().join("log")).unwrap().lines().count() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "0\n0\n");
        let exit = handle.stop(Duration::from_secs(60)).await.unwrap();
        assert!(exit.clean, "{}", exit.text);
    }

    #[tokio::test]
    async fn a_deaf_process_is_killed_after_the_grace() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
        let handle = Handle::spawn(&shell(dir.path(), script), "1").unwrap();
        while fs::read_to_string(dir.path().join("log")).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let exit = handle.stop(Duration::from_millis(200)).await.unwrap();
        assert!(!exit.clean && exit.text.contains("was killed"), "{}", exit.text);
        assert!(stat_of(handle.record().pid).is_none());
    }

    /// Who writes the mark into the environment of a process of their own is not taken for the engine, and given no
    /// keys.
    #[test]
    fn a_process_of_another_user_is_not_taken_for_the_engine() {
        let own = rustix::process::geteuid().as_raw();
        let mark = format!("keyward-test-{}", std::process::id());
        let start = |uid: u32| {
            let mut command = Command::new("/bin/sleep");
            command.arg("60").env_clear().env("KEYWARD_TEST_MARK", format!("socket=\"{mark}\""));
            if uid != own {
                command.uid(uid).gid(uid);
            }
            command.spawn().unwrap()
        };
        let found = |uid| with_environment("KEYWARD_TEST_MARK", &mark, uid);
        let (mut children, engine_uid) = if own == 0 {
            let stranger = start(65_534);
            assert_eq!(found(65_534), Some(stranger.id()), "the control: its environment can be read");
            (vec![stranger], 0)
        } else {
            (vec![start(own)], own + 1)
        };
        assert_eq!(found(engine_uid), None);
        children.push(start(own));
        let expected = if own == 0 { Some(children[1].id()) } else { None };
        assert_eq!(found(engine_uid), expected);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn only_the_very_same_process_is_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let handle = Handle::spawn(&shell(dir.path(), "exec sleep 60"), "1").unwrap();
        let record = handle.record().clone();
        let log = dir.path().join("log");
        assert!(Handle::adopt(&record, &log).unwrap().is_some());
        let other_start = EngineRecord { start_ticks: record.start_ticks + 1, ..record.clone() };
        assert!(Handle::adopt(&other_start, &log).unwrap().is_none());
        let other_boot = EngineRecord { boot_id: "another".into(), ..record.clone() };
        assert!(Handle::adopt(&other_boot, &log).unwrap().is_none());
        let adopted = Handle::adopt(&record, &log).unwrap().unwrap();
        adopted.stop(Duration::from_secs(10)).await.unwrap();
        handle.wait().await;
        assert!(Handle::adopt(&record, &log).unwrap().is_none());
    }

    #[tokio::test]
    async fn descendants_are_owned_and_strangers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let script = "sleep 60 & echo $!; wait";
        let handle = Handle::spawn(&shell(dir.path(), script), "1").unwrap();
        let log = dir.path().join("log");
        let child: u32 = loop {
            if let Ok(pid) = fs::read_to_string(&log).unwrap().trim().parse() {
                break pid;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(handle.owns(handle.record().pid));
        assert!(handle.owns(child));
        assert!(!handle.owns(std::process::id()));
        handle.stop(Duration::from_secs(10)).await.unwrap();
        assert!(!handle.owns(handle.record().pid));
        let stray = Handle::take(child, "1", &log).unwrap();
        if let Some(stray) = stray {
            stray.stop(Duration::from_secs(10)).await.unwrap();
        }
    }
}
