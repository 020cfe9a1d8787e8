//! `keyward cluster …`.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::api::answer::{ago, is, items, lines, or_dash, rows, text};
use crate::api::{Api, atlas, own, project};
use crate::args::cluster::{ClusterCommand, ClusterSettings, ClusterTarget, Switch};
use crate::dev::now;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Spinner;
use crate::prompt::confirm;
use crate::render::{DIM, GREEN, RED, YELLOW, styled};
use crate::{render, watch};

/// Between two looks at a cluster that changes.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// Nodes of a cluster where the command line doesn't say.
const NODES: u16 = 3;

pub(crate) async fn run(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::List(scope) => {
            let (api, id) = project(&scope).await?;
            let clusters = api.list(atlas(["groups", &id, "clusters"])).await?;
            Output { json: scope.access.json }.data(&clusters, |clusters| clusters_text(clusters))
        }
        ClusterCommand::Show(target) => show(&target).await,
        ClusterCommand::Create { name, nodes, settings, watch, scope } => {
            let (api, id) = project(&scope).await?;
            let body = creation(&name, nodes, &settings)?;
            let made = api.post(atlas(["groups", &id, "clusters"]), &body).await?;
            let made = settle(&api, &id, &name, made, watch, scope.access.json).await?;
            let output = Output { json: scope.access.json };
            output.data(&made, |made| changed_text(made, "created", watch))
        }
        ClusterCommand::Update { name, settings, watch, scope } => {
            let (api, id) = project(&scope).await?;
            let body = Value::Object(change(&settings)?);
            if body.as_object().is_none_or(Map::is_empty) {
                return Err(Failure::usage("nothing to change", "see `keyward cluster update --help`"));
            }
            let made = api.patch(atlas(["groups", &id, "clusters", &name]), &body).await?;
            let made = settle(&api, &id, &name, made, watch, scope.access.json).await?;
            let output = Output { json: scope.access.json };
            output.data(&made, |made| changed_text(made, "changed", watch))
        }
        ClusterCommand::Delete { name, yes, watch, scope } => {
            let (api, id) = project(&scope).await?;
            confirm(&format!("Delete cluster {name}? Its nodes become free, their data stays."), yes)?;
            api.delete(atlas(["groups", &id, "clusters", &name])).await?;
            if watch {
                gone(&api, &id, &name, scope.access.json).await?;
            }
            let said = json!({ "name": name, "deleted": watch, "deletionRequested": true });
            Output { json: scope.access.json }.data(&said, |_| match watch {
                true => format!("cluster {name} is deleted\n"),
                false => format!("cluster {name} is being deleted; see keyward cluster list\n"),
            })
        }
        ClusterCommand::RotateMasterKeys { name, watch, scope } => {
            let (api, id) = project(&scope).await?;
            let body = own(["groups", &id, "clusters", &name, "rotateMasterKeys"]);
            let before = nodes(&api, &id, &name).await?;
            let asked = api.post(body, &json!({})).await?;
            if watch {
                rotated(&api, &id, &name, &before, scope.access.json).await?;
            }
            Output { json: scope.access.json }.data(&asked, |asked| {
                let count = items(asked, "/nodes").len();
                let (nodes, have) = (render::nodes(count), if count == 1 { "has" } else { "have" });
                match watch {
                    true => format!("{nodes} {have} new master keys\n"),
                    false => format!(
                        "{nodes} will get new master keys\nfollow it: keyward cluster nodes {name} --watch\n"
                    ),
                }
            })
        }
        ClusterCommand::Nodes { name, watch, scope } => {
            let (api, id) = project(&scope).await?;
            watch::show(watch, scope.access.json, || nodes(&api, &id, &name), |nodes| nodes_text(nodes)).await
        }
    }
}

async fn show(target: &ClusterTarget) -> Result<(), Failure> {
    let (api, id) = project(&target.scope).await?;
    let cluster = api.get(atlas(["groups", &id, "clusters", &target.name])).await?;
    if target.scope.access.json {
        return Output { json: true }.data(&cluster, |_| String::new());
    }
    let nodes = nodes(&api, &id, &target.name).await?;
    Output { json: false }.data(&cluster, |cluster| {
        let head = lines(&[
            ("cluster", text(cluster, "/name").into()),
            ("id", text(cluster, "/id").into()),
            ("state", cluster_state_text(text(cluster, "/stateName"))),
            ("encryption", encryption_text(text(cluster, "/encryptionAtRestProvider"))),
            ("mongodb", text(cluster, "/mongoDBVersion").into()),
            ("address", text(cluster, "/connectionStrings/standard").into()),
            ("made", ago(cluster, "/createDate", now()) + " ago"),
            (
                "deletion",
                if is(cluster, "/terminationProtectionEnabled") { "protected".into() } else { String::new() },
            ),
        ]);
        format!("{head}\n{}", nodes_text(&nodes))
    })
}

/// What each node of a cluster reports.
pub(super) async fn nodes(api: &Api, project: &str, cluster: &str) -> Result<Vec<Value>, Failure> {
    api.list(own(["groups", project, "clusters", cluster, "nodes"])).await
}

/// The body that makes a cluster.
fn creation(name: &str, nodes: Option<u16>, settings: &ClusterSettings) -> Result<Value, Failure> {
    let mut body = change(settings)?;
    body.insert("name".to_owned(), json!(name));
    body.entry("clusterType").or_insert_with(|| json!("REPLICASET"));
    if nodes.is_some() || !body.contains_key("replicationSpecs") {
        // Hosts are the operator's own: provider, region and size only have to be there.
        body.insert(
            "replicationSpecs".to_owned(),
            json!([{ "regionConfigs": [{
                "providerName": "AZURE",
                "regionName": "US_EAST_2",
                "priority": 7,
                "electableSpecs": { "instanceSize": "M10", "nodeCount": nodes.unwrap_or(NODES) },
            }] }]),
        );
    }
    Ok(Value::Object(body))
}

/// The body that changes a cluster: the file's, with the options laid over it.
fn change(settings: &ClusterSettings) -> Result<Map<String, Value>, Failure> {
    let mut body = match &settings.file {
        Some(path) => read_body(path)?,
        None => Map::new(),
    };
    if let Some(provider) = settings.encryption {
        body.insert("encryptionAtRestProvider".to_owned(), json!(provider.api()));
    }
    if let Some(switch) = settings.termination_protection {
        body.insert("terminationProtectionEnabled".to_owned(), json!(switch == Switch::On));
    }
    if let Some(version) = &settings.mongodb_version {
        body.insert("mongoDBMajorVersion".to_owned(), json!(version));
    }
    Ok(body)
}

fn read_body(path: &Path) -> Result<Map<String, Value>, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|e| Failure::new(format!("{} cannot be read", path.display()), "check --file").because(&e))?;
    serde_json::from_str(&text).map_err(|e| {
        Failure::usage(
            format!("{} is no JSON object", path.display()),
            "see the Atlas Administration API's clusters",
        )
        .because(&e)
    })
}

/// Waits until the cluster is idle where that is wanted; returns what it is then.
async fn settle(
    api: &Api,
    project: &str,
    name: &str,
    made: Value,
    wait: bool,
    json: bool,
) -> Result<Value, Failure> {
    if !wait {
        return Ok(made);
    }
    let spinner = Spinner::about(!json, &format!("cluster {name}"));
    loop {
        let cluster = api.get(atlas(["groups", project, "clusters", name])).await?;
        if text(&cluster, "/stateName") == "IDLE" {
            spinner.done();
            return Ok(cluster);
        }
        let nodes = nodes(api, project, name).await?;
        spinner.say(&progress(&cluster, &nodes));
        sleep(LOOK).await;
    }
}

/// Waits until no node has the master key any more that it had in `before`.
async fn rotated(api: &Api, project: &str, name: &str, before: &[Value], json: bool) -> Result<(), Failure> {
    let spinner = Spinner::about(!json, &format!("master keys of {name}"));
    loop {
        let now = nodes(api, project, name).await?;
        let same = |node: &&Value| {
            before.iter().any(|old| old["id"] == node["id"] && old["masterKeyId"] == node["masterKeyId"])
        };
        let left = now.iter().filter(same).count();
        if left == 0 {
            spinner.done();
            return Ok(());
        }
        spinner.say(&format!("{} of {} nodes done", now.len() - left, now.len()));
        sleep(LOOK).await;
    }
}

/// Waits until the cluster is not there any more.
async fn gone(api: &Api, project: &str, name: &str, json: bool) -> Result<(), Failure> {
    let spinner = Spinner::about(!json, &format!("cluster {name}"));
    spinner.say("deleting");
    loop {
        let clusters = api.list(atlas(["groups", project, "clusters"])).await?;
        if !clusters.iter().any(|cluster| text(cluster, "/name") == name) {
            spinner.done();
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// How far a cluster is, in a line: `UPDATING, 1 of 3 nodes done; node-1: moving the master key`.
fn progress(cluster: &Value, nodes: &[Value]) -> String {
    if nodes.is_empty() {
        return format!("{}, waits for free nodes: keyward project node list", text(cluster, "/stateName"));
    }
    let done = nodes.iter().filter(|node| is(node, "/done")).count();
    let doing = nodes
        .iter()
        .find(|node| !text(node, "/progress").is_empty())
        .map(|node| format!("; {}: {}", text(node, "/name"), text(node, "/progress")))
        .unwrap_or_default();
    format!("{}, {done} of {} nodes done{doing}", text(cluster, "/stateName"), nodes.len())
}

fn changed_text(cluster: &Value, verb: &str, watched: bool) -> String {
    let (name, state) = (text(cluster, "/name"), text(cluster, "/stateName"));
    match (watched, text(cluster, "/connectionStrings/standard")) {
        (false, _) => {
            format!("cluster {name} is {verb}: {state}\nfollow it: keyward cluster nodes {name} --watch\n")
        }
        (true, "") => format!("cluster {name} is {verb}: {}\n", cluster_state_text(state)),
        (true, address) => format!("cluster {name} is {verb}: {}\n{address}\n", cluster_state_text(state)),
    }
}

/// Clusters as a table.
pub(super) fn clusters_text(clusters: &[Value]) -> String {
    let now = now();
    rows(
        ["CLUSTER", "STATE", "ENCRYPTION", "NODES", "MONGODB", "AGE"],
        "no cluster; make one: keyward cluster create NAME",
        clusters,
        |cluster| {
            let nodes: u64 = items(cluster, "/replicationSpecs")
                .iter()
                .flat_map(|spec| items(spec, "/regionConfigs"))
                .map(|region| crate::api::answer::number(region, "/electableSpecs/nodeCount"))
                .sum();
            [
                text(cluster, "/name").into(),
                cluster_state_text(text(cluster, "/stateName")),
                encryption_text(text(cluster, "/encryptionAtRestProvider")),
                nodes.to_string(),
                or_dash(text(cluster, "/mongoDBVersion")),
                ago(cluster, "/createDate", now),
            ]
        },
    )
}

/// Nodes of a cluster as a table, with what holds each back beneath.
pub(super) fn nodes_text(nodes: &[Value]) -> String {
    let now = now();
    let nodes = &by_name(nodes);
    let mut told = rows(
        ["NODE", "STATE", "VERDICT", "MEMBER", "KEY VERSION", "REPORT", "PROGRESS"],
        "no node yet",
        nodes,
        |node| {
            let key = text(node, "/customerKey");
            [
                text(node, "/name").into(),
                state_text(text(node, "/state")),
                verdict_text(text(node, "/verdict")),
                or_dash(text(node, "/replicaState")),
                or_dash(crate::render::short(key.rsplit('/').next().unwrap_or_default())),
                ago(node, "/reportedAt", now),
                or_dash(text(node, "/progress")),
            ]
        },
    );
    for node in nodes {
        for waiting in items(node, "/waiting") {
            let (name, why) = (text(node, "/name"), text(waiting, "/text"));
            told.push_str(&format!("\n{} {name}: {why}\n", styled("○", DIM)));
        }
    }
    told.push_str(&held_back_text(nodes));
    told
}

/// As people look for them.
pub(super) fn by_name(nodes: &[Value]) -> Vec<Value> {
    let mut nodes = nodes.to_vec();
    nodes.sort_by(|a, b| text(a, "/name").cmp(text(b, "/name")));
    nodes
}

/// What nodes hold back, why, and what to do.
pub(super) fn held_back_text(nodes: &[Value]) -> String {
    let mut told = String::new();
    for node in nodes {
        for held in items(node, "/heldBack") {
            told.push_str(&format!(
                "\n{} {} does not {}: {}\n  {}\n",
                styled("●", YELLOW),
                text(node, "/name"),
                text(held, "/what"),
                text(held, "/reason"),
                text(held, "/hint")
            ));
        }
    }
    told
}

fn encryption_text(provider: &str) -> String {
    match provider {
        "NONE" | "" => styled("none", DIM),
        other => other.to_lowercase(),
    }
}

fn cluster_state_text(state: &str) -> String {
    let style = match state {
        "IDLE" => GREEN,
        "REPAIRING" => RED,
        _ => YELLOW,
    };
    styled(&format!("● {state}"), style)
}

/// A node's state in its colour.
pub(super) fn state_text(state: &str) -> String {
    let style = match state {
        "running" => GREEN,
        "stoppedRevoked" | "failed" => RED,
        "stopped" => DIM,
        "" => return "–".to_owned(),
        _ => YELLOW,
    };
    styled(&format!("● {state}"), style)
}

/// A node's verdict in its colour.
pub(super) fn verdict_text(verdict: &str) -> String {
    let style = match verdict {
        "Valid" => GREEN,
        "Revoked" => RED,
        "" => return "–".to_owned(),
        _ => YELLOW,
    };
    styled(verdict, style)
}
