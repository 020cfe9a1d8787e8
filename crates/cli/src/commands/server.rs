//! `keyward server …`.

use std::path::Path;

use keyward_server::{Config, InitReport};
use secrecy::ExposeSecret;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::api::answer::lines;
use crate::args::server::ServerCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::{logs, signals};

pub(crate) async fn run(command: ServerCommand) -> Result<(), Failure> {
    match command {
        ServerCommand::Init { config, json } => init(&config.config, json).await,
        ServerCommand::Run { config } => serve(&config.config).await,
    }
}

/// Reads a configuration; the failure names every mistake in it.
fn load(path: &Path) -> Result<Config, Failure> {
    Config::read(path).map_err(|problems| {
        let mut failure = Failure::new(
            format!("the configuration {} cannot be used", path.display()),
            "correct what is named above; nothing was started",
        );
        failure.causes = vec![problems.to_string()];
        failure
    })
}

/// What `init` made, as it is shown this once.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    org_id: String,
    public_key: String,
    private_key: String,
    key_file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
    #[serde(skip)]
    config: String,
    #[serde(skip)]
    url: String,
}

async fn init(path: &Path, json: bool) -> Result<(), Failure> {
    let config = load(path)?;
    let report = keyward_server::init(&config)
        .await
        .map_err(|error| Failure::new("the server cannot be set up", error.hint()).because(&error))?;
    let url = config.public_url.as_ref().map_or_else(
        || format!("https://localhost:{}", config.api_listen.port()),
        |url| url.as_str().trim_end_matches('/').to_owned(),
    );
    let made = Made::of(report, path, url);
    Output { json }.data(&made, made_text)
}

impl Made {
    fn of(report: InitReport, config: &Path, url: String) -> Self {
        Self {
            org_id: report.org_id.to_string(),
            public_key: report.public_key,
            private_key: report.private_key.expose_secret().to_owned(),
            key_file: report.key_file.display().to_string(),
            ca_file: report.ca_file.map(|file| file.display().to_string()),
            config: config.display().to_string(),
            url,
        }
    }
}

fn made_text(made: &Made) -> String {
    let facts = lines(&[
        ("organization", made.org_id.clone()),
        ("public key", made.public_key.clone()),
        ("private key", made.private_key.clone()),
        ("server key", made.key_file.clone()),
        ("authority", made.ca_file.clone().unwrap_or_default()),
    ]);
    let ca_file = made.ca_file.as_ref().map(|file| format!(" --ca-file {file}")).unwrap_or_default();
    format!(
        "{facts}\nThe private key is shown this once. Back the server key up: without it, no stored secret can be \
         read again.\n\nNext:\n  keyward server run --config {}\n  keyward login --url {}{ca_file} --public-key {}\n  \
         keyward project create NAME\n",
        made.config, made.url, made.public_key
    )
}

async fn serve(path: &Path) -> Result<(), Failure> {
    logs::start("info");
    let config = load(path)?;
    let shutdown = CancellationToken::new();
    signals::cancel_on_end(&shutdown)?;
    let running = keyward_server::serve(config).await.map_err(|error| {
        let hint = error.hint();
        Failure::new("the server does not run", hint).because(&error)
    })?;
    tracing::info!(api = %running.api_addr, agents = %running.agent_addr, "the server runs");
    shutdown.cancelled().await;
    tracing::info!("stopping");
    running.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_made_is_shown_with_what_comes_next() {
        let report = InitReport {
            org_id: "5f3a0c9e8d7b6a5f4e3d2c1b".parse().unwrap(),
            public_key: "abcdefgh".into(),
            private_key: "00000000-0000-4000-8000-000000000000".to_owned().into(),
            key_file: "/var/lib/keyward/server.key".into(),
            ca_file: Some("/var/lib/keyward/api-ca.pem".into()),
        };
        let made = Made::of(report, Path::new("/etc/keyward/server.toml"), "https://localhost:7443".into());
        insta::assert_snapshot!(made_text(&made));
        insta::assert_json_snapshot!(made);
    }
}
