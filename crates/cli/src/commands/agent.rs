//! `keyward agent …`.

use std::path::Path;

use keyward_agent::config::Config;
use tokio_util::sync::CancellationToken;

use crate::args::agent::AgentCommand;
use crate::failure::Failure;
use crate::{logs, signals};

pub(crate) async fn run(command: AgentCommand) -> Result<(), Failure> {
    match command {
        AgentCommand::Run { config } => run_agent(&config).await,
    }
}

/// Reads a configuration; the failure names every mistake in it.
pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(|problems| {
        let mut failure = Failure::new(
            format!("the configuration {} cannot be used", path.display()),
            "correct what is named above; nothing was started",
        );
        failure.causes = vec![problems.to_string()];
        failure
    })
}

async fn run_agent(path: &Path) -> Result<(), Failure> {
    logs::start("info");
    let config = load(path)?;
    let shutdown = CancellationToken::new();
    signals::cancel_on_end(&shutdown)?;
    keyward_agent::run(config, shutdown).await.map_err(|error| {
        let hint = error.hint();
        Failure::new("the agent does not run", hint).because(&error)
    })
}
