//! `keyward server …`.

use std::path::Path;

use keyward_model::{Timestamp, count::counted};
use keyward_server::{
    Config, InitReport,
    authority::{self, AuthorityError, AuthorityStatus, FormerStatus},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::api::answer::{lines, or_dash};
use crate::args::server::{AuthorityArguments, AuthorityCommand, ServerCommand};
use crate::dev::now;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{age, table};
use crate::{logs, signals};

pub(crate) async fn run(command: ServerCommand) -> Result<(), Failure> {
    match command {
        ServerCommand::Init { config, json } => init(&config.config, json).await,
        ServerCommand::Run { config } => serve(&config.config).await,
        ServerCommand::Authority(command) => authority(command).await,
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

async fn authority(command: AuthorityCommand) -> Result<(), Failure> {
    let failed = |what: &str, error: &AuthorityError| Failure::new(what, error.hint()).because(error);
    let said = |arguments: &AuthorityArguments, status: &AuthorityStatus| {
        Output { json: arguments.json }.data(status, |status| authority_text(status, now()))
    };
    match command {
        AuthorityCommand::Show(arguments) => {
            let status = authority::show(&load(&arguments.config.config)?).await;
            said(&arguments, &status.map_err(|error| failed("the authority cannot be shown", &error))?)
        }
        AuthorityCommand::Rotate(arguments) => {
            let status = authority::replace(&load(&arguments.config.config)?).await;
            said(&arguments, &status.map_err(|error| failed("the authority was not replaced", &error))?)
        }
        AuthorityCommand::Retire { arguments, force } => {
            let former = authority::retire(&load(&arguments.config.config)?, force).await;
            let former = former.map_err(|error| failed("the former authority was not let go", &error))?;
            Output { json: arguments.json }.data(&former, |former| retired_text(former, now()))
        }
    }
}

fn authority_text(status: &AuthorityStatus, now: Timestamp) -> String {
    let ago = |at: Option<Timestamp>| at.map_or_else(|| "–".to_owned(), |at| format!("{} ago", age(at, now)));
    let mut facts = vec![
        ("authority", status.sha256.clone()),
        ("made", ago(status.made_at)),
        ("replaced from", status.replaced_from.map_or_else(|| "–".to_owned(), |at| at.to_string())),
    ];
    let Some(former) = &status.former else { return lines(&facts) };
    facts.push(("former", former.sha256.clone()));
    facts.push(("replaced", ago(Some(former.replaced_at))));
    facts.push(("needed by", needed_by(former)));
    format!("{}{}", lines(&facts), holders_text(former, now))
}

fn needed_by(former: &FormerStatus) -> String {
    if !former.is_needed() {
        return "nobody: it goes by itself".to_owned();
    }
    let nodes = counted(former.nodes.len(), "node", "nodes");
    format!("{nodes}, {}", counted(former.join_tokens, "join token", "join tokens"))
}

fn holders_text(former: &FormerStatus, now: Timestamp) -> String {
    if former.nodes.is_empty() {
        return String::new();
    }
    let head = ["NODE", "PROJECT", "ID", "HEARD OF"].map(str::to_owned).to_vec();
    let rows = former.nodes.iter().map(|node| {
        let heard = node.heard_at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at, now)));
        let project = or_dash(node.project_name.as_deref().unwrap_or_default());
        vec![node.name.clone(), project, node.id.to_string(), heard]
    });
    format!("\n{}", table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

fn retired_text(former: &FormerStatus, now: Timestamp) -> String {
    let gone = format!("the former authority {} is trusted no more\n", former.sha256);
    if former.nodes.is_empty() {
        return gone;
    }
    format!(
        "{gone}\nThese have to join again, each by a new token:\n  keyward project join-token create\n{}",
        holders_text(former, now)
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
    fn an_authority_is_shown_with_the_nodes_that_hold_the_former_one() {
        let at = |s: i64| Timestamp::from_epoch_ms(1_790_000_000_000 + s * 1000);
        let mut status = AuthorityStatus {
            sha256: "cd".repeat(32),
            made_at: Some(at(-7200)),
            replaced_from: Some(at(100_000_000)),
            former: None,
        };
        let alone = authority_text(&status, at(0));
        assert!(!alone.contains("former"), "{alone}");
        let holder = |n: u8, heard_at| authority::Holder {
            id: format!("00000000-0000-0000-0000-{n:012}").parse().unwrap(),
            name: format!("node-{n}"),
            project: "5f3a0c9e8d7b6a5f4e3d2c1b".parse().unwrap(),
            project_name: (n == 1).then(|| "shop".to_owned()),
            heard_at,
        };
        let former = FormerStatus {
            sha256: "ab".repeat(32),
            replaced_at: at(-7200),
            nodes: vec![holder(1, Some(at(-90_000))), holder(2, None)],
            join_tokens: 1,
        };
        status.former = Some(former.clone());
        insta::assert_snapshot!(format!(
            "{}---\n{}",
            authority_text(&status, at(0)),
            retired_text(&former, at(0))
        ));
    }

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
