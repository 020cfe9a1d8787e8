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

async fn run_agent(path: &Path) -> Result<(), Failure> {
    logs::start("info");
    let config = Config::load(path).map_err(|problems| {
        let mut failure = Failure::new(
            format!("the configuration {} cannot be used", path.display()),
            "correct every line named above; nothing was started",
        );
        failure.causes = vec![problems.to_string()];
        failure
    })?;
    let shutdown = CancellationToken::new();
    signals::cancel_on_end(&shutdown)?;
    keyward_agent::run(config, shutdown).await.map_err(|error| {
        let hint = error.hint();
        let mut failure = Failure::new("the agent does not run", hint);
        failure = failure.because(&error);
        failure
    })
}
