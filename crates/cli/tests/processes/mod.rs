//! Which processes of a test still run.

use std::path::Path;
use std::process::Command;

/// Process ids and command lines of every process that names `dir` in its arguments.
fn running_in(dir: &Path) -> Vec<(String, String)> {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let needle = dir.display().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .filter(|(_, line)| line.contains(&needle))
        .collect()
}

/// Command lines of every process that names `dir` in its arguments.
pub(crate) fn mentioning(dir: &Path) -> Vec<String> {
    running_in(dir).into_iter().map(|(_, line)| line).collect()
}

/// Ends what a failed test left running in its own folder: databases outlive their agents on purpose.
pub(crate) struct Cleaner<'a>(pub(crate) &'a Path);

impl Drop for Cleaner<'_> {
    fn drop(&mut self) {
        for (pid, _) in running_in(self.0) {
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        }
    }
}
