//! keyward: the command line.
//!
//! Owns arguments, what people read, exit codes, and the supervision of `keyward dev`. Everything else is the
//! vault's and the agent's.

mod api;
mod args;
mod commands;
mod dev;
mod failure;
mod logs;
mod output;
mod progress;
mod prompt;
mod render;
mod signals;
mod watch;

use std::{process::ExitCode, time::Duration};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use args::{Arguments, Command};
use failure::Failure;

/// Wipes all memory on free: vault answers and key material pass through buffers of libraries.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse_arguments(&error),
    };
    match run(arguments) {
        Ok(()) => ExitCode::from(failure::DONE),
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit)
        }
    }
}

/// At least so many threads do the work, however few cores there are.
const THREADS: usize = 4;

/// How long a command that is done waits for work of its own that is not.
const AT_THE_END: Duration = Duration::from_secs(5);

fn run(arguments: Arguments) -> Result<(), Failure> {
    // One provider for every library in this process; a second call is no error that matters.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // An agent's disk may hang: a thread or two that wait for it must not be all there are.
    let threads = std::thread::available_parallelism().map_or(THREADS, |cores| cores.get().max(THREADS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|e| {
        Failure::new("the program cannot start its threads", "check the limits of this process").because(&e)
    })?;
    let done = runtime.block_on(async {
        match arguments.command {
            Command::Dev(arguments) => dev::run(arguments).await,
            Command::Vault(command) => commands::vault::run(command).await,
            Command::Agent(command) => commands::agent::run(command).await,
            Command::Node(command) => commands::node::run(command).await,
            Command::Server(command) => commands::server::run(command).await,
            Command::Login(arguments) => commands::login::run(arguments).await,
            Command::Org(command) => commands::org::run(command).await,
            Command::Project(command) => commands::project::run(command).await,
            Command::Cluster(command) => commands::cluster::run(command).await,
            Command::Encryption(command) => commands::encryption::run(command).await,
            Command::Event(command) => commands::event::run(command).await,
            Command::Alert(command) => commands::alert::run(command).await,
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Arguments::command(), "keyward", &mut script);
                output::print(&String::from_utf8_lossy(&script))
            }
        }
    });
    // What still waits for a disk that hangs would keep an agent from ending.
    runtime.shutdown_timeout(AT_THE_END);
    done
}

/// Help and version go to stdout; mistakes to stderr, with a hint like every other error.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    let kind = error.kind();
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(failure::USAGE);
    }
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::from(failure::DONE);
    }
    let text = error.render().ansi().to_string();
    // Our own hint says it better.
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains("For more information")).collect();
    let hint = format!("see `{} --help`", mistaken_command());
    let style = render::CYAN_BOLD;
    anstream::eprintln!("{}\n{style}hint:{style:#} {hint}", kept.join("\n").trim_end());
    ExitCode::from(failure::USAGE)
}

/// The longest known command at the start of the arguments.
fn mistaken_command() -> String {
    let mut command = Arguments::command();
    let mut path = command.get_name().to_owned();
    for word in std::env::args().skip(1) {
        let Some(sub) = command.find_subcommand(&word).cloned() else { break };
        path = format!("{path} {word}");
        command = sub;
    }
    path
}
