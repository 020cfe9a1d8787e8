//! `keyward encryption …`.

use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::cluster::{LOOK, by_name, held_back_text, state_text, verdict_text};
use crate::api::answer::{ago, is, items, lines, number, or_dash, rows, text};
use crate::api::{Api, atlas, own, project};
use crate::args::encryption::{EncryptionCommand, EndpointCommand, EnvironmentChoice, SetArguments};
use crate::dev::now;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Spinner;
use crate::prompt::{self, confirm};
use crate::render::{DIM, GREEN, RED, YELLOW, short, styled};
use crate::watch;

pub(crate) async fn run(command: EncryptionCommand) -> Result<(), Failure> {
    match command {
        EncryptionCommand::Show(scope) => {
            let (api, id) = project(&scope).await?;
            let found = api.get(atlas(["groups", &id, "encryptionAtRest"])).await?;
            Output { json: scope.access.json }.data(&found, configuration_text)
        }
        EncryptionCommand::Set(arguments) => set(&arguments).await,
        EncryptionCommand::Disable { yes, scope } => {
            let (api, id) = project(&scope).await?;
            confirm("Remove the project's customer key?", yes)?;
            let body = json!({ "azureKeyVault": { "enabled": false } });
            let done = api.patch(atlas(["groups", &id, "encryptionAtRest"]), &body).await?;
            Output { json: scope.access.json }
                .data(&done, |_| "the project has no customer key any more\n".into())
        }
        EncryptionCommand::Status { watch, scope } => {
            let (api, id) = project(&scope).await?;
            watch::show(watch, scope.access.json, || status(&api, &id), status_text).await
        }
        EncryptionCommand::Policy { strong_window, denial_window, refusals, scope } => {
            let (api, id) = project(&scope).await?;
            let mut body = Map::new();
            let ms =
                |window: std::time::Duration| json!(u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
            if let Some(window) = strong_window {
                body.insert("strongWindowMs".into(), ms(window));
            }
            if let Some(window) = denial_window {
                body.insert("denialWindowMs".into(), ms(window));
            }
            if let Some(refusals) = refusals {
                body.insert("refusals".into(), json!(refusals));
            }
            let endpoint = own(["groups", &id, "encryption", "policy"]);
            let policy = match body.is_empty() {
                true => api.get(endpoint).await?,
                false => api.patch(endpoint, &body).await?,
            };
            Output { json: scope.access.json }.data(&policy, policy_text)
        }
        EncryptionCommand::Endpoint(command) => endpoint(command).await,
    }
}

async fn set(arguments: &SetArguments) -> Result<(), Failure> {
    let (api, id) = project(&arguments.scope).await?;
    let endpoint = || atlas(["groups", &id, "encryptionAtRest"]);
    let mut azure = change(arguments);
    let file = arguments.secret_file.as_deref();
    if file.is_some() {
        azure.insert("secret".into(), json!(prompt::secret("client secret", file)?));
    } else if azure.contains_key("clientID") && arguments.role_id.is_none() {
        // Another application has another secret; the first one has none yet.
        let stored = api.get(endpoint()).await?;
        if text(&stored, "/azureKeyVault/clientID") != arguments.client_id.as_deref().unwrap_or_default() {
            azure.insert("secret".into(), json!(prompt::secret("client secret", None)?));
        }
    }
    if azure.is_empty() {
        return Err(Failure::usage("nothing to set", "see `keyward encryption set --help`"));
    }
    azure.insert("enabled".into(), json!(true));
    let json = arguments.scope.access.json;
    let spinner = Spinner::start(!json, "checking the customer key against its vault");
    let stored = api.patch(endpoint(), &json!({ "azureKeyVault": azure })).await?;
    spinner.done();
    if arguments.watch {
        moved(&api, &id, json).await?;
    }
    Output { json }.data(&stored, |stored| {
        let next = match arguments.watch {
            true => "every node has it\n",
            false => "nodes follow: keyward encryption status --watch\n",
        };
        configuration_text(stored) + next
    })
}

/// What the command line names, in the API's words.
fn change(arguments: &SetArguments) -> Map<String, Value> {
    let texts = [
        ("keyIdentifier", arguments.key_identifier.as_deref()),
        ("tenantID", arguments.tenant_id.as_deref()),
        ("clientID", arguments.client_id.as_deref()),
        ("subscriptionID", arguments.subscription_id.as_deref()),
        ("resourceGroupName", arguments.resource_group.as_deref()),
        ("keyVaultName", arguments.key_vault.as_deref()),
        ("azureEnvironment", arguments.environment.map(EnvironmentChoice::api)),
        ("roleId", arguments.role_id.as_deref()),
    ];
    let mut azure: Map<String, Value> =
        texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect();
    if let Some(required) = arguments.require_private_networking {
        azure.insert("requirePrivateNetworking".into(), json!(required));
    }
    azure
}

/// Waits until every node reports the project's key.
async fn moved(api: &Api, project: &str, json: bool) -> Result<(), Failure> {
    let spinner = Spinner::about(!json, "customer key");
    loop {
        let status = status(api, project).await?;
        let (moved, asked) = (number(&status, "/progress/moved"), number(&status, "/progress/nodes"));
        if moved == asked {
            spinner.done();
            return Ok(());
        }
        let doing = items(&status, "/nodes").iter().find(|node| !text(node, "/progress").is_empty());
        let doing = doing.map(|node| format!("; {}: {}", text(node, "/name"), text(node, "/progress")));
        spinner.say(&format!("{moved} of {asked} nodes have it{}", doing.unwrap_or_default()));
        sleep(LOOK).await;
    }
}

async fn status(api: &Api, project: &str) -> Result<Value, Failure> {
    api.get(own(["groups", project, "encryption"])).await
}

fn configuration_text(found: &Value) -> String {
    let azure = &found["azureKeyVault"];
    if !is(azure, "/enabled") {
        return "no customer key; set one: keyward encryption set --help\n".into();
    }
    let valid = match azure.get("valid").and_then(Value::as_bool) {
        Some(true) => styled("● valid", GREEN),
        Some(false) => styled("● not valid: see keyward encryption status", RED),
        None => styled("● not checked yet", YELLOW),
    };
    lines(&[
        ("customer key", text(azure, "/keyIdentifier").into()),
        ("last check", valid),
        ("azure", text(azure, "/azureEnvironment").into()),
        ("vault", text(azure, "/keyVaultName").into()),
        ("resource group", text(azure, "/resourceGroupName").into()),
        ("subscription", text(azure, "/subscriptionID").into()),
        ("tenant", text(azure, "/tenantID").into()),
        ("client id", text(azure, "/clientID").into()),
        ("role id", text(azure, "/roleId").into()),
        (
            "networking",
            if is(azure, "/requirePrivateNetworking") { "private only".into() } else { String::new() },
        ),
    ])
}

fn status_text(status: &Value) -> String {
    let now = now();
    let checked = || format!("{} ago", ago(status, "/validity/checkedAt", now));
    let check = match status.pointer("/validity/valid").and_then(Value::as_bool) {
        _ if status.pointer("/validity/checkedAt").is_none_or(Value::is_null) => {
            styled("● not checked yet", DIM)
        }
        Some(true) => format!("{}  {}", styled("● valid", GREEN), checked()),
        _ => format!("{}  {}", styled("● not valid", RED), checked()),
    };
    let mut told = lines(&[
        ("customer key", or_dash(text(status, "/azureKeyVault/keyIdentifier"))),
        ("last check", check),
        ("findings", sentences(status, "/validity/findings")),
        ("warnings", sentences(status, "/validity/warnings")),
        ("secret expires", text(status, "/clientSecretExpires").into()),
        (
            "nodes",
            format!("{} of {} have it", number(status, "/progress/moved"), number(status, "/progress/nodes")),
        ),
    ]);
    told.push('\n');
    told.push_str(&members_text(items(status, "/nodes")));
    let former = items(status, "/formerKeys");
    if !former.is_empty() {
        told.push('\n');
        told.push_str(&rows(["FORMER KEY", "UNTIL", "STILL NEEDED BY"], "", former, |key| {
            let nodes = items(key, "/neededByNodes").iter().filter_map(Value::as_str);
            let snapshots = items(key, "/neededBySnapshots").iter().map(|snapshot| text(snapshot, "/url"));
            let needed: Vec<&str> = nodes.chain(snapshots).collect();
            let needed = if needed.is_empty() { styled("nothing", DIM) } else { needed.join(", ") };
            [text(key, "/keyIdentifier").into(), ago(key, "/until", now) + " ago", needed]
        }));
    }
    told
}

fn members_text(nodes: &[Value]) -> String {
    let nodes = &by_name(nodes);
    let version = |key: &str| short(key.rsplit('/').next().unwrap_or_default()).to_owned();
    let now = now();
    let table = rows(
        ["NODE", "CLUSTER", "STATE", "VERDICT", "KEY VERSION", "WANTED", "REPORT", "PROGRESS"],
        "no node yet",
        nodes,
        |node| {
            let (has, wanted) = (text(node, "/keyIdentifier"), text(node, "/wantedKeyIdentifier"));
            let style = if is(node, "/moved") { GREEN } else { YELLOW };
            let wanted = if wanted.is_empty() { "–".to_owned() } else { styled(&version(wanted), style) };
            [
                text(node, "/name").into(),
                or_dash(text(node, "/cluster")),
                state_text(text(node, "/state")),
                verdict_text(text(node, "/verdict")),
                or_dash(&version(has)),
                wanted,
                ago(node, "/reportedAt", now),
                or_dash(text(node, "/progress")),
            ]
        },
    );
    table + &held_back_text(nodes)
}

fn sentences(status: &Value, pointer: &str) -> String {
    items(status, pointer).iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

fn policy_text(policy: &Value) -> String {
    let window = |pointer| format!("{} s", number(policy, pointer) / 1000);
    format!(
        "{}A refusal counts as strong when the key is disabled or deleted or the application is disabled; a denial is \
         any other\nrefusal of permission. Nodes stop when {} refusals span the window, and no sooner.\n",
        lines(&[
            ("refusals", number(policy, "/refusals").to_string()),
            ("strong window", window("/strongWindowMs")),
            ("denial window", window("/denialWindowMs")),
            ("gap", window("/gapMs")),
        ]),
        number(policy, "/refusals")
    )
}

async fn endpoint(command: EndpointCommand) -> Result<(), Failure> {
    match command {
        EndpointCommand::List(scope) => {
            let (api, id) = project(&scope).await?;
            let list =
                api.list(atlas(["groups", &id, "encryptionAtRest", "AZURE", "privateEndpoints"])).await?;
            Output { json: scope.access.json }.data(&list, |list| endpoints_text(list))
        }
        EndpointCommand::Create { region, watch, scope } => {
            let (api, id) = project(&scope).await?;
            let path = ["groups", &id, "encryptionAtRest", "AZURE", "privateEndpoints"];
            let mut made = api.post(atlas(path), &json!({ "regionName": region })).await?;
            if watch {
                let spinner = Spinner::about(!scope.access.json, &format!("private endpoint in {region}"));
                spinner.say(text(&made, "/status"));
                let [groups, group, encryption, provider, endpoints] = path;
                let endpoint = text(&made, "/id").to_owned();
                while text(&made, "/status") == "INITIATING" {
                    sleep(LOOK).await;
                    made =
                        api.get(atlas([groups, group, encryption, provider, endpoints, &endpoint])).await?;
                    spinner.say(text(&made, "/status"));
                }
            }
            if text(&made, "/status") == "FAILED" {
                return Err(Failure::new(
                    format!("the private endpoint in {region} failed: {}", text(&made, "/errorMessage")),
                    "mend what it names, delete it (keyward encryption endpoint delete ID), and make it again",
                ));
            }
            Output { json: scope.access.json }.data(&made, |made| {
                let next = match text(made, "/status") {
                    "PENDING_ACCEPTANCE" => "approve the connection in the vault's networking settings\n",
                    _ => "",
                };
                format!("{}{next}", endpoints_text(std::slice::from_ref(made)))
            })
        }
        EndpointCommand::Delete { id: endpoint, scope } => {
            let (api, id) = project(&scope).await?;
            let path = ["groups", &id, "encryptionAtRest", "AZURE", "privateEndpoints", &endpoint];
            api.delete(atlas(path)).await?;
            Output { json: scope.access.json }
                .data(&json!({ "id": endpoint, "deletionRequested": true }), |_| {
                    format!("private endpoint {endpoint} is being deleted\n")
                })
        }
    }
}

fn endpoints_text(endpoints: &[Value]) -> String {
    rows(["REGION", "STATUS", "CONNECTION", "ID", "ERROR"], "no private endpoint", endpoints, |endpoint| {
        let status = text(endpoint, "/status");
        let style = match status {
            "ACTIVE" => GREEN,
            "FAILED" => RED,
            _ => YELLOW,
        };
        [
            text(endpoint, "/regionName").into(),
            styled(&format!("● {status}"), style),
            or_dash(text(endpoint, "/privateEndpointConnectionName")),
            text(endpoint, "/id").into(),
            text(endpoint, "/errorMessage").into(),
        ]
    })
}
