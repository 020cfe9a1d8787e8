//! `keyward-vault DIR [ADDRESS:PORT]`: serves a development vault, and nothing else of keyward.
//!
//! Ends at SIGINT or SIGTERM; with `--while-stdin-open` also when its standard input is closed, so that a program
//! which starts it needn't stop it.

#![forbid(unsafe_code)]

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use keyward_vault::{ServeOptions, VaultError, serve};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

struct Arguments {
    options: ServeOptions,
    while_stdin_open: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(Arguments { options, while_stdin_open }) = arguments() else {
        say("usage: keyward-vault DIR [ADDRESS:PORT] [--while-stdin-open]");
        return ExitCode::from(2);
    };
    match run(options, while_stdin_open).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                say(&format!("  because: {cause}"));
                source = cause.source();
            }
            if let Some(hint) = error.hint() {
                say(&format!("hint: {hint}"));
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(options: ServeOptions, while_stdin_open: bool) -> Result<(), VaultError> {
    let address = options.listen;
    let signals = |source| VaultError::Listen { address, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let vault = serve(options).await?;
    say(&vault.banner());
    // One line for programs: the vault answers now.
    let _ = writeln!(std::io::stdout(), "{}", vault.description().url);
    let stdin_closed = async {
        if while_stdin_open {
            let mut stdin = tokio::io::stdin();
            while stdin.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        () = stdin_closed => {}
    }
    vault.shutdown().await;
    Ok(())
}

fn arguments() -> Option<Arguments> {
    let mut dir = None;
    let mut listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut while_stdin_open = false;
    for argument in std::env::args_os().skip(1) {
        let text = argument.to_string_lossy();
        if text == "--while-stdin-open" {
            while_stdin_open = true;
        } else if dir.is_none() && !text.starts_with('-') {
            dir = Some(PathBuf::from(&argument));
        } else {
            listen = text.parse().ok()?;
        }
    }
    Some(Arguments { options: ServeOptions { dir: dir?, listen }, while_stdin_open })
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
