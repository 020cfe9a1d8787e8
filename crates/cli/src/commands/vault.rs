//! `keyward vault …`: serves the development vault, or tells a running one what to do.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_vault::admin::{AccessResult, ApplicationView, KeySettings, KeyView, PrivateEndpointView};
use keyward_vault::client::{ClientError, VaultAdmin};
use keyward_vault::fault::{ActiveFault, FaultKind};
use keyward_vault::log::LogEntry;
use keyward_vault::state::AccessModel;
use keyward_vault::{DESCRIPTION_FILE, ServeOptions};
use tokio_util::sync::CancellationToken;

use crate::args::vault::{
    AccessCommand, AccessModelChoice, AppCommand, FaultCommand, KeyCommand, KeyTarget,
    PrivateEndpointCommand, VaultCommand, VaultTarget,
};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{GREEN, RED, styled, table};
use crate::{logs, signals};

/// The admin token of a vault that is named by `--url`.
const TOKEN_VARIABLE: &str = "KEYWARD_VAULT_TOKEN";

pub(crate) async fn run(command: VaultCommand) -> Result<(), Failure> {
    match command {
        VaultCommand::Serve { dir, listen } => serve(dir, listen).await,
        VaultCommand::Key(command) => key(command).await,
        VaultCommand::Access(command) => access(command).await,
        VaultCommand::App(command) => app(command).await,
        VaultCommand::Fault(command) => fault(command).await,
        VaultCommand::PrivateEndpoint(command) => private_endpoint(command).await,
        VaultCommand::Log(target) => log(&target).await,
    }
}

/// What a failed call means for a person.
pub(crate) fn failure(error: &ClientError) -> Failure {
    let hint = error.hint().unwrap_or("see the vault's log").to_owned();
    match error {
        ClientError::Refused { message, .. } => Failure::new(message.clone(), hint),
        ClientError::File { .. }
        | ClientError::Description { .. }
        | ClientError::Tls(_)
        | ClientError::Unreachable { .. }
        | ClientError::Unreadable(_) => Failure::new("the vault could not be asked", hint).because(error),
    }
}

async fn serve(dir: PathBuf, listen: Option<SocketAddr>) -> Result<(), Failure> {
    logs::start("info");
    let shutdown = CancellationToken::new();
    signals::cancel_on_end(&shutdown)?;
    let listen = listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let vault = keyward_vault::serve(ServeOptions { dir: dir.clone(), listen }).await.map_err(|e| {
        let hint = e.hint().unwrap_or("check the folder's owner, permissions and free space").to_owned();
        Failure::new(format!("the vault in {} cannot be served", dir.display()), hint).because(&e)
    })?;
    for line in vault.banner().lines() {
        tracing::info!("{}", line.trim());
    }
    tracing::info!(file = %dir.join(DESCRIPTION_FILE).display(), "how to reach it");
    shutdown.cancelled().await;
    vault.shutdown().await;
    Ok(())
}

async fn key(command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::List(target) => {
            let keys = open(&target)?.keys().await.map_err(|e| failure(&e))?;
            output(&target).data(&keys, |keys| keys_text(keys))
        }
        KeyCommand::Create { name, size, target } => {
            let bits = size.parse().unwrap_or(2048);
            let key = open(&target)?.create_key(&name, bits).await.map_err(|e| failure(&e))?;
            show_key(&target, &key)
        }
        KeyCommand::Disable(key) => set_enabled(&key, false).await,
        KeyCommand::Enable(key) => set_enabled(&key, true).await,
        KeyCommand::Delete(key) => {
            let view = open(&key.target)?.delete_key(&key.name).await.map_err(|e| failure(&e))?;
            show_key(&key.target, &view)
        }
        KeyCommand::Recover(key) => {
            let view = open(&key.target)?.recover_key(&key.name).await.map_err(|e| failure(&e))?;
            show_key(&key.target, &view)
        }
        KeyCommand::Rotate(key) => {
            let view = open(&key.target)?.rotate_key(&key.name).await.map_err(|e| failure(&e))?;
            show_key(&key.target, &view)
        }
    }
}

async fn set_enabled(key: &KeyTarget, enabled: bool) -> Result<(), Failure> {
    let settings =
        KeySettings { version: key.key_version.clone(), enabled: Some(enabled), ..KeySettings::default() };
    let view = open(&key.target)?.change_key(&key.name, &settings).await.map_err(|e| failure(&e))?;
    show_key(&key.target, &view)
}

async fn access(command: AccessCommand) -> Result<(), Failure> {
    match command {
        AccessCommand::Grant { client_id, model, actions, target } => {
            let vault = open(&target)?;
            let result = vault.grant(&client_id, Some(model_of(model)), &actions).await;
            output(&target).data(&result.map_err(|e| failure(&e))?, access_text)
        }
        AccessCommand::Revoke { client_id, model, actions, target } => {
            let vault = open(&target)?;
            let result = vault.revoke(&client_id, model.map(model_of), &actions).await;
            output(&target).data(&result.map_err(|e| failure(&e))?, access_text)
        }
    }
}

fn model_of(choice: AccessModelChoice) -> AccessModel {
    match choice {
        AccessModelChoice::Policy => AccessModel::Policy,
        AccessModelChoice::Rbac => AccessModel::Rbac,
    }
}

async fn app(command: AppCommand) -> Result<(), Failure> {
    let (target, result) = match command {
        AppCommand::Disable(app) => {
            let result = open(&app.target)?.disable_application(&app.client_id).await;
            (app.target, result)
        }
        AppCommand::Enable(app) => {
            let result = open(&app.target)?.enable_application(&app.client_id).await;
            (app.target, result)
        }
        AppCommand::ExpireSecret(app) => {
            let result = open(&app.target)?.expire_secret(&app.client_id).await;
            (app.target, result)
        }
    };
    output(&target).data(&result.map_err(|e| failure(&e))?, application_text)
}

async fn fault(command: FaultCommand) -> Result<(), Failure> {
    let (target, faults) = match command {
        FaultCommand::Set { kind, duration, target } => {
            let kind: FaultKind =
                kind.parse().map_err(|e| Failure::usage("this is no fault", "see --help").because(&e))?;
            let faults = open(&target)?.set_fault(kind, duration.map(whole_seconds).transpose()?).await;
            (target, faults)
        }
        FaultCommand::Clear(target) => {
            let faults = open(&target)?.clear_faults().await;
            (target, faults)
        }
    };
    output(&target).data(&faults.map_err(|e| failure(&e))?, |faults| faults_text(faults))
}

/// The vault counts whole seconds, from one on.
fn whole_seconds(duration: Duration) -> Result<u32, Failure> {
    let s = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(s)
        .ok()
        .filter(|s| *s > 0)
        .ok_or_else(|| Failure::usage("--for is out of range", "give at least 1s and at most some years"))
}

async fn private_endpoint(command: PrivateEndpointCommand) -> Result<(), Failure> {
    let (target, result) = match command {
        PrivateEndpointCommand::List(target) => {
            let result = open(&target)?.private_endpoints().await;
            (target, result)
        }
        PrivateEndpointCommand::Approve(endpoint) => {
            let result = open(&endpoint.target)?.approve_private_endpoint(&endpoint.name).await;
            (endpoint.target, result)
        }
        PrivateEndpointCommand::Reject(endpoint) => {
            let result = open(&endpoint.target)?.reject_private_endpoint(&endpoint.name).await;
            (endpoint.target, result)
        }
    };
    output(&target).data(&result.map_err(|e| failure(&e))?, |list| endpoints_text(list))
}

/// One line or one JSON object per request.
async fn log(target: &VaultTarget) -> Result<(), Failure> {
    let entries = open(target)?.log(0).await.map_err(|e| failure(&e))?;
    for entry in &entries {
        output(target).line(entry, log_text)?;
    }
    Ok(())
}

fn output(target: &VaultTarget) -> Output {
    Output { json: target.json }
}

/// A client of the vault that the command line names.
fn open(target: &VaultTarget) -> Result<VaultAdmin, Failure> {
    if let Some(url) = &target.url {
        let token = std::env::var(TOKEN_VARIABLE).map_err(|_| {
            Failure::usage(
                "--url needs the vault's admin token",
                format!("set {TOKEN_VARIABLE} to adminToken of its vault.json"),
            )
        })?;
        let Some(ca_file) = &target.ca_file else {
            return Err(Failure::usage(
                "--url needs the vault's certificate authority",
                "name it with --ca-file: caFile of its vault.json",
            ));
        };
        let pem = std::fs::read(ca_file).map_err(|e| {
            Failure::new(format!("{} cannot be read", ca_file.display()), "check --ca-file").because(&e)
        })?;
        return VaultAdmin::connect(url.as_str(), &pem, &token).map_err(|e| failure(&e));
    }
    let dir = vault_dir(&target.dir).ok_or_else(|| {
        Failure::new(
            format!("there is no vault in {}", target.dir.display()),
            "start one (keyward dev, or keyward vault serve --dir DIR), or name its folder with --dir",
        )
    })?;
    VaultAdmin::open(&dir).map_err(|e| failure(&e))
}

/// The vault's own folder: the one named, or the one in a folder of `keyward dev`.
fn vault_dir(named: &Path) -> Option<PathBuf> {
    [named.to_owned(), named.join("vault")].into_iter().find(|dir| dir.join(DESCRIPTION_FILE).exists())
}

fn show_key(target: &VaultTarget, key: &KeyView) -> Result<(), Failure> {
    output(target).data(key, |key| keys_text(std::slice::from_ref(key)))
}

fn keys_text(keys: &[KeyView]) -> String {
    let head = ["KEY", "STATE", "SIZE", "KEY IDENTIFIER"].map(str::to_owned).to_vec();
    let rows = keys.iter().flat_map(|key| {
        key.versions.iter().map(|version| {
            let state = match (key.deleted.is_some(), version.enabled) {
                (true, _) => "deleted",
                (false, true) => "enabled",
                (false, false) => "disabled",
            };
            vec![key.name.clone(), state.into(), version.key_size.to_string(), version.key_identifier.clone()]
        })
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn access_text(access: &AccessResult) -> String {
    let model = match access.model {
        AccessModel::Policy => "access policy",
        AccessModel::Rbac => "role assignments",
    };
    let may = if access.permissions.is_empty() {
        styled("nothing", RED)
    } else {
        styled(&access.permissions.join(", "), GREEN)
    };
    let switched = if access.switched { "; the vault now uses that model" } else { "" };
    let read = if access.vault_read { ", and may read the vault resource" } else { "" };
    format!("{} may use keys for {may} by {model}{read}{switched}\n", access.client_id)
}

fn application_text(app: &ApplicationView) -> String {
    let state = if app.disabled { styled("disabled", RED) } else { styled("enabled", GREEN) };
    let mut text = format!("{} ({}) is {state}\n", app.client_id, app.name);
    for secret in &app.secrets {
        text.push_str(&format!("  secret {} expires {}\n", secret.key_id, day(secret.expires)));
    }
    text
}

/// Seconds since the epoch as a date and time in UTC.
fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

fn faults_text(faults: &[ActiveFault]) -> String {
    if faults.is_empty() {
        return "no fault is on\n".into();
    }
    faults
        .iter()
        .map(|fault| match fault.until {
            Some(until) => format!("{} until {}\n", fault.kind, day(until)),
            None => format!("{} until `keyward vault fault clear`\n", fault.kind),
        })
        .collect()
}

fn endpoints_text(endpoints: &[PrivateEndpointView]) -> String {
    let head = vec!["CONNECTION".to_owned(), "STATUS".to_owned()];
    let rows = endpoints.iter().map(|e| vec![e.name.clone(), format!("{:?}", e.status)]);
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn log_text(entry: &LogEntry) -> String {
    let style = if (200..300).contains(&entry.status) { GREEN } else { RED };
    let code = [entry.code.as_deref(), entry.inner_code.as_deref()];
    let code: Vec<&str> = code.into_iter().flatten().collect();
    let line = format!(
        "{}  {}  {:<22} {:<16} {}  {}",
        entry.time,
        styled(&format!("{:3}", entry.status), style),
        entry.operation,
        entry.key.as_deref().unwrap_or("–"),
        entry.client.as_deref().unwrap_or("–"),
        code.join("/")
    );
    format!("{}\n", line.trim_end())
}
