//! A database process that is not ours on the node's data path or port.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt, path::Path};

use procfs::{
    net::{TcpState, tcp, tcp6},
    process::{FDTarget, Process, all_processes},
};

use super::process::descends;

/// Looks at the files and sockets of every process that the agent may look at; blocking.
///
/// A process counts as ours when it is `own` or descends from it. The agent itself reads the data path in a proof
/// or a snapshot and is left out.
pub(super) fn find(data_path: &Path, port: Option<u16>, own: Option<u32>) -> Option<String> {
    let locks = locks(data_path);
    let listeners: HashSet<u64> = port.map(listening).unwrap_or_default();
    if locks.is_empty() && listeners.is_empty() {
        return None;
    }
    let ours = |pid: u32| pid == std::process::id() || own.is_some_and(|own| descends(pid, own));
    let mut listener_seen = false;
    for process in all_processes().ok()?.flatten() {
        let Ok(pid) = u32::try_from(process.pid) else { continue };
        let Some(what) = holds(&process, &locks, &listeners, data_path, port) else { continue };
        listener_seen |= what.socket;
        if !ours(pid) {
            let name = process.stat().map(|s| s.comm).unwrap_or_default();
            return Some(format!("process {pid} ({name}) {}", what.text));
        }
    }
    // The port is taken, by a process of another user that we may not look into.
    let port = port.filter(|_| !listeners.is_empty() && !listener_seen && own.is_none())?;
    Some(format!("a process that the agent may not look into listens on port {port}"))
}

/// The process that has the database of `data_path` open, and whether it is the one that listens on `port`; blocking.
/// `None` where there is none, or none that the agent may look into.
pub(super) fn opener(data_path: &Path, port: u16) -> Option<(u32, bool)> {
    let locks = locks(data_path);
    if locks.is_empty() {
        return None;
    }
    let own = std::process::id();
    let process = all_processes().ok()?.flatten().find(|process| {
        u32::try_from(process.pid).is_ok_and(|pid| pid != own)
            && holds(process, &locks, &HashSet::new(), data_path, None).is_some()
    })?;
    let pid = u32::try_from(process.pid).ok()?;
    let listeners = listening(port);
    let listens = process
        .fd()
        .ok()?
        .flatten()
        .any(|fd| matches!(fd.target, FDTarget::Socket(inode) if listeners.contains(&inode)));
    Some((pid, listens))
}

/// Whether anybody listens on `port`.
pub(super) fn is_listened_to(port: u16) -> bool {
    !listening(port).is_empty()
}

/// The files that a running database has open in its data path.
fn locks(data_path: &Path) -> HashSet<(u64, u64)> {
    ["WiredTiger.lock", "mongod.lock"]
        .iter()
        .filter_map(|name| fs::metadata(data_path.join(name)).ok())
        .map(|m| (m.dev(), m.ino()))
        .collect()
}

struct Held {
    text: String,
    socket: bool,
}

fn holds(
    process: &Process,
    locks: &HashSet<(u64, u64)>,
    listeners: &HashSet<u64>,
    data_path: &Path,
    port: Option<u16>,
) -> Option<Held> {
    for fd in process.fd().ok()?.flatten() {
        if let FDTarget::Socket(inode) = fd.target
            && listeners.contains(&inode)
        {
            let text = format!("listens on port {}", port.unwrap_or_default());
            return Some(Held { text, socket: true });
        }
        let FDTarget::Path(path) = fd.target else { continue };
        // Another mount of the same directory shows other paths, so the inode decides; the name only saves calls.
        if !path.ends_with("WiredTiger.lock") && !path.ends_with("mongod.lock") {
            continue;
        }
        let link = format!("/proc/{}/fd/{}", process.pid, fd.fd);
        if fs::metadata(link).is_ok_and(|m| locks.contains(&(m.dev(), m.ino()))) {
            let text = format!("has the data path {} open", data_path.display());
            return Some(Held { text, socket: false });
        }
    }
    None
}

/// Inodes of the sockets that listen on `port`, whatever the address.
fn listening(port: u16) -> HashSet<u64> {
    let four = tcp().unwrap_or_default();
    let six = tcp6().unwrap_or_default();
    four.into_iter()
        .chain(six)
        .filter(|entry| entry.state == TcpState::Listen && entry.local_address.port() == port)
        .map(|entry| entry.inode)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// A child that holds `path` open and listens on a port, which it prints.
    fn holder(path: &Path) -> (Child, u16) {
        let script = "import socket,sys,time\nf=open(sys.argv[1])\ns=socket.create_server(('127.0.0.1',0))\n\
                      print(s.getsockname()[1],flush=True)\ntime.sleep(600)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed for tests");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        (child, port)
    }

    #[test]
    fn a_stranger_on_data_path_or_port_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("WiredTiger.lock");
        fs::write(&lock, "").unwrap();
        let (mut child, port) = holder(&lock);
        assert_eq!(opener(dir.path(), port), Some((child.id(), true)));
        assert_eq!(opener(dir.path(), 1), Some((child.id(), false)));
        let by_path = find(dir.path(), None, None);
        let elsewhere = tempfile::tempdir().unwrap();
        let by_port = find(elsewhere.path(), Some(port), None);
        let own = find(dir.path(), Some(port), Some(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(by_path.unwrap().contains("has the data path"));
        assert!(by_port.unwrap().contains(&format!("listens on port {port}")));
        assert_eq!(own, None);
        assert_eq!(find(dir.path(), Some(port), None), None);
        assert_eq!(opener(dir.path(), port), None);
    }
}
