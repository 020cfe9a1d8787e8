//! A packaged unit against what systemd and the kernel make of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::booted::Host;

/// A unit file: directives and their values, in its order. A directive may stand in it more than once.
pub(crate) struct Unit(Vec<(String, String)>);

impl Unit {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let install = text.find("[Install]").unwrap();
        let directives =
            text[..install].lines().filter(|line| !line.starts_with(['#', '['])).filter_map(|line| {
                let (name, value) = line.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            });
        let unit = Self(directives.collect());
        assert!(unit.0.len() > 20, "{}", path.display());
        unit
    }

    fn value(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(directive, _)| directive == name);
        &found.unwrap_or_else(|| panic!("no {name}")).1
    }

    /// systemd has understood every directive: it shows the same value.
    pub(crate) fn is_shown_by(&self, host: &Host, unit: &str, instance: &str) {
        for (name, value) in &self.0 {
            let value = value.replace("%i", instance);
            let property = property(name);
            let shown = host.show(unit, &property).unwrap();
            let words = |text: &str| text.split_whitespace().map(str::to_lowercase).collect::<BTreeSet<_>>();
            let fits = match name.as_str() {
                "After" | "Wants" => words(&value).is_subset(&words(&shown)),
                "CapabilityBoundingSet" | "RestrictAddressFamilies" => words(&value) == words(&shown),
                "ExecStart" => shown.contains(&format!("argv[]={value} ;")),
                // A list of hundreds of calls; what is not in it is tried from within.
                "SystemCallFilter" => words(&shown).contains("read") && !words(&shown).contains("mount"),
                "SystemCallErrorNumber" => shown == "1" && value == "EPERM",
                "WatchdogSignal" => shown == "9" && value == "SIGKILL",
                _ if property.ends_with("USec") => shown == duration(&value),
                _ if name.starts_with("Limit") => shown == bytes(&value).to_string(),
                _ => shown == value,
            };
            assert!(fits, "{unit}: {name}={value} is shown as {shown:?}");
        }
    }

    /// The kernel holds a process to the limits, or to this machine's own where they are lower.
    pub(crate) fn limits_hold(&self, host: &Host, pid: u32) {
        let limits = host.read(&format!("/proc/{pid}/limits")).unwrap();
        let highest = host.read("/proc/1/limits").unwrap();
        for (name, kernel) in [
            ("LimitCORE", "Max core file size"),
            ("LimitMEMLOCK", "Max locked memory"),
            ("LimitNOFILE", "Max open files"),
            ("LimitNPROC", "Max processes"),
        ] {
            let Some((_, value)) = self.0.iter().find(|(directive, _)| directive == name) else { continue };
            let wanted = bytes(value).min(hard(&highest, kernel));
            assert_eq!(hard(&limits, kernel), wanted, "{name} of {pid}: {limits}");
        }
    }

    /// `CapabilityBoundingSet=` as `/proc/PID/status` writes it.
    pub(crate) fn capabilities(&self) -> String {
        let set: u64 = self
            .value("CapabilityBoundingSet")
            .split_whitespace()
            .map(|name| match name {
                "CAP_CHOWN" => 1 << 0,
                "CAP_DAC_OVERRIDE" => 1 << 1,
                "CAP_DAC_READ_SEARCH" => 1 << 2,
                "CAP_FOWNER" => 1 << 3,
                "CAP_KILL" => 1 << 5,
                "CAP_SETGID" => 1 << 6,
                "CAP_SETUID" => 1 << 7,
                "CAP_IPC_LOCK" => 1 << 14,
                "CAP_SYS_PTRACE" => 1 << 19,
                other => panic!("which bit is {other}?"),
            })
            .sum();
        format!("{set:016x}")
    }
}

/// The property that shows a directive.
fn property(directive: &str) -> String {
    match directive.strip_suffix("Sec") {
        Some(name) => format!("{name}USec"),
        None => directive.to_owned(),
    }
}

/// Seconds as systemd shows them.
fn duration(seconds: &str) -> String {
    let seconds: u64 = seconds.trim_end_matches('s').parse().unwrap();
    match (seconds / 60, seconds % 60) {
        (0, 0) => "0".to_owned(),
        (0, seconds) => format!("{seconds}s"),
        (minutes, 0) => format!("{minutes}min"),
        (minutes, seconds) => format!("{minutes}min {seconds}s"),
    }
}

fn bytes(value: &str) -> u64 {
    match value.strip_suffix('M') {
        Some(mebibytes) => mebibytes.parse::<u64>().unwrap() << 20,
        None => value.parse().unwrap(),
    }
}

/// A hard limit of `/proc/PID/limits`.
fn hard(limits: &str, name: &str) -> u64 {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap_or(u64::MAX)
}

/// What came of the attempts of `probe.py`, by name.
pub(crate) fn probed(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(n, o)| (n.to_owned(), o.to_owned()))
        .collect()
}

/// What comes of each attempt within the agent's unit.
pub(crate) const AGENT: [(&str, &str); 22] = [
    ("write /etc", "EROFS"),
    ("write /boot", "EROFS"),
    ("write /var", "done"),
    ("write own folder", "done"),
    ("make a control group", "EROFS"),
    ("read kernel symbols", "ENODATA"),
    ("list /home", "done"),
    ("find in /tmp", "done"),
    ("see process 1", "done"),
    ("find a device", "done"),
    ("packet socket", "EAFNOSUPPORT"),
    ("netlink socket", "done"),
    ("internet socket", "done"),
    ("user namespace", "EPERM"),
    ("real-time", "EPERM"),
    ("setuid file", "EPERM"),
    ("personality", "EPERM"),
    ("writable code", "done"),
    ("foreign architecture", "SIGSYS"),
    ("core limit", "EPERM"),
    ("mount", "EPERM"),
    ("chown", "done"),
];

/// The same within the server's.
pub(crate) const SERVER: [(&str, &str); 22] = [
    ("write /etc", "EROFS"),
    ("write /boot", "EROFS"),
    ("write /var", "EROFS"),
    ("write own folder", "done"),
    ("make a control group", "EROFS"),
    ("read kernel symbols", "EACCES"),
    ("list /home", "EACCES"),
    ("find in /tmp", "ENOENT"),
    ("see process 1", "ENOENT"),
    ("find a device", "ENOENT"),
    ("packet socket", "EAFNOSUPPORT"),
    ("netlink socket", "EAFNOSUPPORT"),
    ("internet socket", "done"),
    ("user namespace", "EPERM"),
    ("real-time", "EPERM"),
    ("setuid file", "EPERM"),
    ("personality", "EPERM"),
    ("writable code", "EPERM"),
    ("foreign architecture", "SIGSYS"),
    ("core limit", "EPERM"),
    ("mount", "EPERM"),
    ("chown", "EPERM"),
];

/// Each attempt came out as wanted, and would have succeeded without the unit.
pub(crate) fn compare(
    control: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
    wanted: &[(&str, &str)],
) {
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for (attempt, outcome) in wanted {
        // A kernel need not know programs of another architecture.
        if *attempt == "foreign architecture" && control[*attempt] != "done" {
            eprintln!("{attempt} is not looked at: {}", control[*attempt]);
            continue;
        }
        assert_eq!(control[*attempt], "done", "{attempt} without a unit");
        assert_eq!(found[*attempt], *outcome, "{attempt}");
    }
}
