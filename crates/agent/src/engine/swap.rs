//! Whether the engine's memory can reach a disk through swap.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::{medium, scope};
use crate::preflight::Finding;

/// One line of `/proc/swaps`, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapArea {
    /// Device or file.
    pub path: String,
    /// Compressed memory or dm-crypt: no plaintext reaches a disk.
    pub safe: bool,
}

/// What the host offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swap {
    /// The areas in use.
    pub areas: Vec<SwapArea>,
    /// The control group that the engine will be in may not swap (`memory.swap.max` is 0 in it or above it).
    pub barred: bool,
    /// The engine gets a scope of its own, made with `MemorySwapMax=0`, on a host that heeds it.
    pub scope: bool,
}

impl Swap {
    /// As it is on this host.
    pub fn read(scope: bool) -> Self {
        let areas = fs::read_to_string("/proc/swaps").map(|text| parse(&text, is_safe)).unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let root = Path::new("/sys/fs/cgroup");
        Self { areas, barred: barred(&own, root), scope: scope && heeded(&own, root) }
    }

    /// What stands in the way, or is accepted by the operator's file.
    pub fn judge(&self, accepted: bool) -> Option<Finding> {
        let open: Vec<_> = self.areas.iter().filter(|a| !a.safe).map(|a| a.path.as_str()).collect();
        if open.is_empty() || self.barred || self.scope {
            return None;
        }
        let text = format!("memory of the database can reach unencrypted swap: {}", open.join(", "));
        Some(if accepted {
            Finding { refuse: false, text, hint: "accepted by engine.accept_plaintext_in_swap".to_owned() }
        } else {
            Finding {
                refuse: true,
                text,
                hint: "swapoff, encrypt the swap, or bar it (systemd: MemorySwapMax=0, which only a host with \
                       unified control groups heeds); or set engine.accept_plaintext_in_swap = true and accept it"
                    .to_owned(),
            }
        })
    }
}

/// Whether the agent starts the engine in a scope of its own, where swap is barred.
pub fn engine_gets_scope() -> bool {
    scope::Surroundings::here().gives_scope()
}

fn parse(swaps: &str, safe: impl Fn(&str) -> bool) -> Vec<SwapArea> {
    swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .map(|path| SwapArea { path: path.to_owned(), safe: safe(path) })
        .collect()
}

fn is_safe(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    if path.starts_with("/dev/zram") {
        // zram may be told to write back to a disk.
        let backing = format!("/sys/block/{name}/backing_dev");
        return fs::read_to_string(backing).map_or(true, |text| text.trim() == "none");
    }
    // A swap file is as safe as the device it lies on.
    fs::metadata(path).is_ok_and(|m| medium::is_encrypted(if m.rdev() != 0 { m.rdev() } else { m.dev() }))
}

/// Whether the control group of this process has a limit of swap at all: with control groups of version 1 for
/// memory, or without accounting of swap, systemd takes `MemorySwapMax=` and does nothing.
fn heeded(cgroup: &str, root: &Path) -> bool {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"));
    path.is_some_and(|path| root.join(path).join("memory.swap.max").exists())
}

/// Whether `memory.swap.max` is 0 in the version-2 control group of `cgroup`, or in one above it.
fn barred(cgroup: &str, root: &Path) -> bool {
    let Some(path) = cgroup.lines().find_map(|line| line.strip_prefix("0::/")) else { return false };
    root.join(path)
        .ancestors()
        .take_while(|p| p.starts_with(root))
        .any(|p| fs::read_to_string(p.join("memory.swap.max")).is_ok_and(|max| max.trim() == "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWAPS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                         /dev/zram0                              partition\t8388604\t\t0\t\t100\n\
                         /dev/sda2                               partition\t2097148\t\t0\t\t-2\n";

    fn areas(safe: &str) -> Swap {
        Swap { areas: parse(SWAPS, |path| path.contains(safe)), ..Swap::default() }
    }

    #[test]
    fn unencrypted_swap_is_refused_unless_accepted() {
        let finding = areas("zram").judge(false).unwrap();
        assert!(finding.refuse);
        assert_eq!(finding.text, "memory of the database can reach unencrypted swap: /dev/sda2");
        assert!(!areas("zram").judge(true).unwrap().refuse);
    }

    #[test]
    fn no_safe_or_barred_swap_is_no_finding() {
        assert_eq!(Swap::default().judge(false), None);
        assert_eq!(areas("/dev/").judge(false), None);
        assert_eq!(Swap { barred: true, ..areas("zram") }.judge(false), None);
        assert_eq!(Swap { scope: true, ..areas("zram") }.judge(false), None);
    }

    #[test]
    fn a_limit_of_an_ancestor_bars_swap() {
        let dir = tempfile::tempdir().unwrap();
        let unit = dir.path().join("system.slice/keyward.service");
        fs::create_dir_all(&unit).unwrap();
        fs::write(unit.join("memory.swap.max"), "max\n").unwrap();
        let cgroup = "1:name=systemd:/x\n0::/system.slice/keyward.service\n";
        assert!(!barred(cgroup, dir.path()) && heeded(cgroup, dir.path()));
        assert!(
            !heeded("0::/system.slice/other.service\n", dir.path()) && !heeded("1:memory:/x\n", dir.path())
        );
        fs::write(dir.path().join("system.slice/memory.swap.max"), "0\n").unwrap();
        assert!(barred(cgroup, dir.path()));
        assert!(!barred("1:memory:/x\n", dir.path()));
    }
}
