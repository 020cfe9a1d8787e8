//! A systemd of a test's own: process 1 of namespaces that end with the test.
//!
//! It must never touch a control group, a mount or a process of this machine that the test did not make.

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// How long anything may take on a busy machine. Nothing is measured with it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The host on which the packaged units run.
pub(crate) struct Host {
    root: PathBuf,
    namespaces: Child,
    /// Its process 1, as this machine numbers it.
    init: u32,
    cgroup: PathBuf,
}

impl Host {
    /// Boots the folder `root`; `programs` are pairs of a path here and the path there. `Err` inside says why this
    /// machine cannot.
    pub(crate) fn boot(root: &Path, programs: &[(PathBuf, PathBuf)]) -> Result<Result<Self, String>> {
        let Some(parent) = own_cgroup() else {
            return Ok(Err("needs a control group of version 2 to make others in".to_owned()));
        };
        if let Err(why) = able() {
            return Ok(Err(why));
        }
        let cgroup = parent.join(format!("keyward-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&cgroup) {
            return Ok(Err(format!("cannot make the control group {}: {error}", cgroup.display())));
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/boot.sh");
        // Joins the group first: the new namespace's root is the group that its maker is in.
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec setpriv --pdeathsig KILL unshare \"$@\""])
            .arg(&cgroup)
            .args(NAMESPACES)
            .arg("sh")
            .arg(script)
            .arg(root);
        for (here, there) in programs {
            command.arg(here).arg(there);
        }
        let namespaces = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut host = Self { root: root.to_owned(), namespaces, init: 0, cgroup };
        let deadline = Instant::now() + LONG;
        loop {
            if host.namespaces.try_wait()?.is_some() {
                let mut said = String::new();
                host.namespaces.stderr.take().context("a pipe")?.read_to_string(&mut said)?;
                let last = said.lines().last().unwrap_or("the folder's root could not be made").to_owned();
                return Ok(Err(last));
            }
            if let Some(init) = child_of(host.namespaces.id()) {
                host.init = init;
                let state = host.run(&["systemctl", "is-system-running"])?;
                if String::from_utf8_lossy(&state.stdout).trim() == "running" {
                    return Ok(Ok(host));
                }
            }
            if Instant::now() > deadline {
                bail!("systemd does not come up: {}", host.journal());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a program there, as root.
    pub(crate) fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--cgroup", "--ipc", "--uts", "--"]);
        command.args(["env", "-i", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "NO_COLOR=1"]);
        Ok(command.args(words).stdin(Stdio::null()).output()?)
    }

    /// What a program that must succeed prints.
    pub(crate) fn says(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(output.status.success(), "{words:?}: {}{}", text(&output.stderr), text(&output.stdout));
        Ok(text(&output.stdout))
    }

    /// One property of a unit.
    pub(crate) fn show(&self, unit: &str, property: &str) -> Result<String> {
        self.says(&["systemctl", "show", "--property", property, "--value", unit])
    }

    /// Waits until a unit's property is as wanted.
    pub(crate) fn until(&self, unit: &str, property: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + LONG;
        loop {
            let value = self.show(unit, property)?;
            if wanted(&value) {
                return Ok(value);
            }
            ensure!(Instant::now() < deadline, "{property} of {unit} stays {value:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A file as processes there see it, at a path of this machine.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init)).join(path.trim_start_matches('/'))
    }

    /// The content of such a file.
    pub(crate) fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.path(path)).with_context(|| format!("{path} on the host"))
    }

    /// A field of `/proc/PID/status`.
    pub(crate) fn status_of(&self, pid: u32, field: &str) -> Result<String> {
        let status = self.read(&format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("{field} in {status}"))?.trim().to_owned())
    }

    /// The control group of a process, of version 2.
    pub(crate) fn cgroup_of(&self, pid: u32) -> Result<String> {
        // Read there: the path is told as the reader's own namespace has it.
        let text = self.says(&["cat", &format!("/proc/{pid}/cgroup")])?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::")).with_context(|| text.clone())?;
        Ok(own.to_owned())
    }

    /// Shuts it down as an operator does, and waits until it is off.
    pub(crate) fn power_off(mut self) -> Result<()> {
        // Its exit status is about telling users, of whom there are none.
        self.run(&["systemctl", "--no-wall", "poweroff"])?;
        let deadline = Instant::now() + LONG;
        while self.namespaces.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "it does not shut down: {}", self.journal());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What the units said.
    fn journal(&self) -> String {
        let words = ["journalctl", "--no-pager", "--output=short-precise", "--lines=200"];
        let mut text = self.run(&words).map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        for log in glob(&self.root.join("var/lib/keyward")) {
            let said = fs::read_to_string(log.join("engine.log")).unwrap_or_default();
            let _ = write!(text, "\n{}: {said}", log.display());
        }
        text
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.journal());
        }
        // Process 1 goes with it, and with that every process and mount of the namespaces.
        let _ = self.namespaces.kill();
        let _ = self.namespaces.wait();
        let deadline = Instant::now() + LONG;
        while self.cgroup.exists() && Instant::now() < deadline {
            remove_groups(&self.cgroup);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

const NAMESPACES: [&str; 7] =
    ["--pid", "--mount", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child=KILL"];

/// Whether namespaces can be made here.
fn able() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    if !Path::new("/lib/systemd/systemd").exists() {
        return Err("needs systemd's programs (Debian: apt-get install systemd)".to_owned());
    }
    let tried =
        Command::new("unshare").args(NAMESPACES).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("no namespaces: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("needs unshare of util-linux: {error}")),
    }
}

/// The folder of this process' own control group of version 2.
fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    })?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount.join(path))
}

/// The only child of a process.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Removes a control group and those below it, as far as they are empty.
fn remove_groups(group: &Path) {
    for below in glob(group) {
        remove_groups(&below);
    }
    let _ = fs::remove_dir(group);
}

/// The folders in a folder.
fn glob(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
