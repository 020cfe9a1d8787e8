//! The engine's own systemd scope.
//!
//! Under systemd a child belongs to the unit of the agent and goes down with it. `systemd-run --scope` moves
//! itself into a scope of its own and then becomes the engine, under the same process id.
//!
//! Only the control group is another one: limits, capabilities, system call filters and mounts of the agent's unit
//! are its process' and so the engine's too.

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::{identity, process::Invocation};

/// What decides whether a scope can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// systemd is the host's init.
    pub(super) systemd: bool,
    /// The agent was started by systemd.
    pub(super) unit: bool,
    /// The agent may ask the system manager: it is root.
    pub(super) root: bool,
}

impl Surroundings {
    /// Whether a scope can be made.
    pub(super) fn gives_scope(self) -> bool {
        self.systemd && self.unit && self.root
    }

    /// As they are here.
    pub(super) fn here() -> Self {
        Self {
            systemd: Path::new("/run/systemd/system").is_dir(),
            unit: std::env::var_os("INVOCATION_ID").is_some(),
            root: rustix::process::geteuid().is_root(),
        }
    }
}

/// What the scope is told.
#[derive(Debug, Clone)]
pub(super) struct Terms<'a> {
    /// The node's name.
    pub(super) node: &'a str,
    /// The operator accepts that memory of the database reaches swap.
    pub(super) swap_accepted: bool,
    /// How long the agent itself would wait for a clean stop.
    pub(super) stop_grace: Duration,
    /// What lies on file systems that the engine needs to its end.
    pub(super) paths: Vec<PathBuf>,
    /// The unit that the agent belongs to.
    pub(super) agent_unit: Option<String>,
}

/// How much longer than the agent the host's shutdown waits before it kills.
const LONGER: Duration = Duration::from_secs(30);

/// Wraps `invocation` in `systemd-run --scope` where the agent is a systemd service that may ask for it; else
/// leaves it as it is (the agent's unit has `KillMode=process`, so that even then the engine survives it).
pub(super) fn wrap(invocation: Invocation, terms: &Terms<'_>, surroundings: Surroundings) -> Invocation {
    if !surroundings.gives_scope() {
        return invocation;
    }
    let stop = terms.stop_grace.saturating_add(LONGER).as_secs();
    let mut arguments: Vec<OsString> = ["--scope", "--quiet", "--collect"].map(OsString::from).to_vec();
    arguments.push(format!("--unit=keyward-engine-{}", unit_name(terms.node)).into());
    arguments.push(format!("--description=database of keyward node {}", terms.node).into());
    let mut property = |text: String| arguments.push(format!("--property={text}").into());
    property(format!("TimeoutStopSec={stop}"));
    // systemd's default is too few for a mongod with a thread for each connection.
    property("TasksMax=infinity".to_owned());
    if !terms.swap_accepted {
        property("MemorySwapMax=0".to_owned());
    }
    // At shutdown: first the agent, which would start the engine again, then the engine, then network and file
    // systems. A `_tmp` unmounted too early would let mongod write plaintext to the disk below.
    property("After=network.target".to_owned());
    if let Some(unit) = &terms.agent_unit {
        property(format!("Before={}", quoted(unit)));
    }
    let paths: Vec<_> = terms.paths.iter().filter_map(|path| needed_mount(path)).collect();
    if !paths.is_empty() {
        property(format!("RequiresMountsFor={}", paths.join(" ")));
    }
    // systemd-run must ask the manager as root, and its own change of user knows no supplementary groups and no
    // number without a name.
    let Invocation { program, arguments: rest, .. } = identity::by_setpriv(&invocation);
    arguments.push("--".into());
    arguments.push(program.into_os_string());
    arguments.extend(rest);
    Invocation { program: "systemd-run".into(), arguments, identity: None, ..invocation }
}

/// The service of `/proc/self/cgroup` that this process belongs to.
pub(super) fn service_of(cgroup: &str) -> Option<String> {
    cgroup
        .lines()
        .filter_map(|line| {
            line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|l| l.1))
        })
        .flat_map(|path| path.rsplit('/').next())
        .find(|unit| unit.ends_with(".service"))
        .map(str::to_owned)
}

/// A node's name with what systemd doesn't take in a unit's name replaced.
fn unit_name(node: &str) -> String {
    node.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// A path as systemd takes it; `None` for one that would make it refuse the whole scope.
fn needed_mount(path: &Path) -> Option<String> {
    let plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    path.to_str().filter(|_| plain).map(quoted)
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::identity::Identity;

    fn engine() -> Invocation {
        Invocation {
            program: "/usr/bin/mongod".into(),
            arguments: vec!["--port".into(), "1".into()],
            environment: vec![("PATH".into(), "/bin".into())],
            directory: "/".into(),
            log_file: "/log".into(),
            identity: Some(Identity { uid: 998, gid: 997, groups: vec![44] }),
        }
    }

    fn terms() -> Terms<'static> {
        Terms {
            node: "my node",
            swap_accepted: false,
            stop_grace: Duration::from_secs(120),
            paths: vec!["/var/lib/my mongo".into(), "/var/../log".into(), "relative".into()],
            agent_unit: Some("keyward-agent@my\\x20node.service".to_owned()),
        }
    }

    #[test]
    fn without_systemd_nothing_changes() {
        for (systemd, unit, root) in [(false, true, true), (true, false, true), (true, true, false)] {
            assert_eq!(wrap(engine(), &terms(), Surroundings { systemd, unit, root }), engine());
        }
    }

    #[test]
    fn under_systemd_the_engine_gets_a_scope_of_its_own() {
        let here = Surroundings { systemd: true, unit: true, root: true };
        let wrapped = wrap(engine(), &terms(), here);
        let line: Vec<_> = wrapped.arguments.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(wrapped.program, Path::new("systemd-run"));
        assert_eq!(
            line,
            [
                "--scope",
                "--quiet",
                "--collect",
                "--unit=keyward-engine-my_node",
                "--description=database of keyward node my node",
                "--property=TimeoutStopSec=150",
                "--property=TasksMax=infinity",
                "--property=MemorySwapMax=0",
                "--property=After=network.target",
                "--property=Before=\"keyward-agent@my\\\\x20node.service\"",
                "--property=RequiresMountsFor=\"/var/lib/my mongo\"",
                "--",
                "setpriv",
                "--reuid=998",
                "--regid=997",
                "--groups=44",
                "--",
                "/usr/bin/mongod",
                "--port",
                "1",
            ]
        );
        assert_eq!(wrapped.identity, None);
        assert_eq!(wrapped.environment, engine().environment);
    }

    #[test]
    fn the_agents_own_unit_is_read_from_its_control_group() {
        let unified = "0::/system.slice/system-keyward\\x2dagent.slice/keyward-agent@db1.service\n";
        assert_eq!(service_of(unified).as_deref(), Some("keyward-agent@db1.service"));
        let legacy = "5:memory:/x.service\n1:name=systemd:/system.slice/k.service\n";
        assert_eq!(service_of(legacy).as_deref(), Some("k.service"));
        assert_eq!(service_of("0::/user.slice/user-0.slice/session-1.scope\n"), None);
    }
}
