//! The engine's own systemd scope.
//!
//! Under systemd a child belongs to the unit of the agent and goes down with it. `systemd-run --scope` moves
//! itself into a scope of its own and then becomes the engine, under the same process id.

use std::{ffi::OsString, path::Path};

use super::process::Invocation;

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

/// Wraps `invocation` in `systemd-run --scope` where the agent is a systemd service that may ask for it; else
/// leaves it as it is (the agent's unit has `KillMode=process`, so that even then the engine survives it).
pub(super) fn wrap(
    invocation: Invocation,
    node: &str,
    surroundings: Surroundings,
    swap_accepted: bool,
) -> Invocation {
    if !surroundings.gives_scope() {
        return invocation;
    }
    let scope = format!("--unit=keyward-engine-{}", unit_name(node));
    let mut arguments: Vec<OsString> =
        ["--scope", "--quiet", "--collect", &scope, "--property=TimeoutStopSec=150"]
            .map(OsString::from)
            .to_vec();
    if !swap_accepted {
        arguments.push("--property=MemorySwapMax=0".into());
    }
    // The identity is changed by systemd-run: before it, it still has to ask the manager as root.
    if let Some((uid, gid)) = invocation.identity {
        arguments.push(format!("--uid={uid}").into());
        arguments.push(format!("--gid={gid}").into());
    }
    arguments.push("--".into());
    arguments.push(invocation.program.into_os_string());
    arguments.extend(invocation.arguments);
    Invocation { program: "systemd-run".into(), arguments, identity: None, ..invocation }
}

/// A node's name with what systemd doesn't take in a unit's name replaced.
fn unit_name(node: &str) -> String {
    node.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Invocation {
        Invocation {
            program: "/usr/bin/mongod".into(),
            arguments: vec!["--port".into(), "1".into()],
            environment: vec![("PATH".into(), "/bin".into())],
            directory: "/".into(),
            log_file: "/log".into(),
            identity: Some((998, 997)),
        }
    }

    #[test]
    fn without_systemd_nothing_changes() {
        for (systemd, unit, root) in [(false, true, true), (true, false, true), (true, true, false)] {
            assert_eq!(wrap(engine(), "n", Surroundings { systemd, unit, root }, true), engine());
        }
    }

    #[test]
    fn under_systemd_the_engine_gets_a_scope_of_its_own() {
        let here = Surroundings { systemd: true, unit: true, root: true };
        let wrapped = wrap(engine(), "my node", here, false);
        let line: Vec<_> = wrapped.arguments.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(wrapped.program, Path::new("systemd-run"));
        assert_eq!(
            line.join(" "),
            "--scope --quiet --collect --unit=keyward-engine-my_node --property=TimeoutStopSec=150 \
             --property=MemorySwapMax=0 --uid=998 --gid=997 -- /usr/bin/mongod --port 1"
        );
        assert_eq!(wrapped.identity, None);
        assert_eq!(wrapped.environment, engine().environment);
    }
}
