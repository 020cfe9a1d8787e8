//! Named, timed steps and their summary.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use keyward_testkit::project_root;

/// What happened so far. A failed step does not stop the later ones.
pub(crate) struct Steps {
    done: Vec<Done>,
    notes: Vec<String>,
}

struct Done {
    name: String,
    took: Duration,
    passed: bool,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { done: Vec::new(), notes: Vec::new() }
    }

    /// Runs one step, prints its outcome and its time, and tells whether it passed.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> bool {
        println!("── {name}");
        let begun = Instant::now();
        let outcome = step();
        let took = begun.elapsed();
        let passed = outcome.is_ok();
        match outcome {
            Ok(()) => println!("   {name}: ok, {}", seconds(took)),
            Err(error) => println!("   {name}: FAILED after {}\n{error:#}", seconds(took)),
        }
        self.done.push(Done { name: name.to_owned(), took, passed });
        passed
    }

    /// Runs the steps of `beside` in a thread of their own while those of `here` run.
    pub(crate) fn both<T>(
        &mut self,
        beside: impl FnOnce(&mut Steps) + Send,
        here: impl FnOnce(&mut Steps) -> T,
    ) -> T {
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let mut steps = Steps::new();
                beside(&mut steps);
                steps
            });
            let outcome = here(self);
            match beside.join() {
                Ok(other) => {
                    self.done.extend(other.done);
                    self.notes.extend(other.notes);
                }
                Err(panicked) => std::panic::resume_unwind(panicked),
            }
            outcome
        })
    }

    /// Something to repeat in the summary: a step left out, a test that could not run here.
    pub(crate) fn note(&mut self, note: String) {
        println!("   {note}");
        self.notes.push(note);
    }

    pub(crate) fn finish(self) -> ExitCode {
        println!("── summary");
        for Done { name, took, passed } in &self.done {
            println!("   {} {:>9}  {name}", if *passed { "ok    " } else { "FAILED" }, seconds(*took));
        }
        for note in &self.notes {
            println!("   note: {note}");
        }
        if self.done.iter().all(|step| step.passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// `cargo` in the workspace, without input.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(args).current_dir(project_root()).stdin(Stdio::null());
    // What cargo said to this program about itself is an input of some build scripts: handed on, this build and one
    // that a developer starts would each undo what the other built.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command with its output on this terminal; an error when it does not end with success.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Whether this cargo subcommand is installed.
pub(crate) fn has_subcommand(name: &str) -> bool {
    cargo(&[name, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_whole_and_the_others_still_run() {
        let mut steps = Steps::new();
        assert!(!steps.run("breaks", || bail!("on purpose")));
        assert!(steps.run("works", || Ok(())));
        assert_eq!(format!("{:?}", steps.finish()), format!("{:?}", ExitCode::FAILURE));
        let mut steps = Steps::new();
        steps.run("works", || Ok(()));
        assert_eq!(format!("{:?}", steps.finish()), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn a_failure_beside_fails_the_whole() {
        let mut steps = Steps::new();
        let fails = |beside: &mut Steps| {
            beside.run("breaks", || bail!("on purpose"));
        };
        assert!(steps.both(fails, |here| here.run("works", || Ok(()))));
        assert_eq!(format!("{:?}", steps.finish()), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn a_command_that_fails_is_an_error() {
        assert!(succeed(&mut Command::new("true")).is_ok());
        assert!(succeed(&mut Command::new("false")).is_err());
        assert!(succeed(&mut Command::new("keyward-no-such-program")).is_err());
    }
}
