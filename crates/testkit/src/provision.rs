//! Provisioning: one folder per tool, made once, by whoever needs it first.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::tools_dir;

/// Makes sure that `<tools_dir>/<name>` holds what `build` makes, and returns that folder.
///
/// `stamp` is everything the result depends on (requirement files, options, the recipe's own version). It is written
/// last: a folder whose stamp differs, or has none because a build was killed, is deleted and made anew.
/// `usable` is asked about a folder with the right stamp (a Python environment breaks when its interpreter goes).
pub(crate) fn provisioned(
    name: &str,
    stamp: &str,
    usable: impl Fn(&Path) -> bool,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let tools = tools_dir();
    fs::create_dir_all(&tools)
        .with_context(|| format!("cannot make the tools folder {}", tools.display()))?;
    let dir = tools.join(name);
    let stamp_file = dir.join("stamp");
    let ready = || fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) && usable(&dir);

    let lock_path = tools.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).with_context(|| format!("cannot open {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if ready() {
        return Ok(dir);
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    let begun = Instant::now();
    say(&format!("{name}: making it (once)"));
    build(&dir).with_context(|| format!("{name} could not be made in {}", dir.display()))?;
    fs::write(&stamp_file, stamp)?;
    if !ready() {
        bail!("{name} was made in {}, but cannot be used", dir.display());
    }
    say(&format!("{name}: ready after {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(dir)
}

/// Runs a command to its end with its output in `<dir>/log`; an error carries the command and the log's last lines.
pub(crate) fn run<I, S>(dir: &Path, program: impl AsRef<OsStr>, args: I) -> Result<()>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let log_path = dir.join("log");
    let mut log = File::options().create(true).append(true).open(&log_path)?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    writeln!(log, "$ {command:?}")?;
    command.stdout(log.try_clone()?).stderr(log);
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        let text = fs::read_to_string(&log_path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n");
        bail!("{command:?} ended with {status}; its last lines:\n{tail}");
    }
    Ok(())
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "tools: {line}");
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_tool_is_made_once_and_again_when_its_stamp_changes() {
        let name = format!("self-test-{}", std::process::id());
        let made = Cell::new(0);
        let make = |stamp: &str| {
            provisioned(
                &name,
                stamp,
                |dir| dir.join("thing").exists(),
                |dir| {
                    made.set(made.get() + 1);
                    fs::write(dir.join("thing"), "x").map_err(Into::into)
                },
            )
        };
        let dir = make("one").unwrap();
        make("one").unwrap();
        assert_eq!(made.get(), 1);
        fs::remove_file(dir.join("thing")).unwrap();
        make("one").unwrap();
        assert_eq!(made.get(), 2, "an unusable tool is made anew");
        make("two").unwrap();
        assert_eq!(made.get(), 3, "another stamp makes it anew");
        // A build that was killed leaves no stamp.
        fs::remove_file(dir.join("stamp")).unwrap();
        make("two").unwrap();
        assert_eq!(made.get(), 4);
        fs::remove_dir_all(&dir).unwrap();
        fs::remove_file(tools_dir().join(format!("{name}.lock"))).unwrap();
    }

    #[test]
    fn a_failing_command_is_an_error_with_its_last_words() {
        let dir = std::env::temp_dir().join(format!("keyward-run-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let error = run(&dir, "sh", ["-c", "echo no space on the moon; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("no space on the moon") && error.contains("exit status: 3"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
