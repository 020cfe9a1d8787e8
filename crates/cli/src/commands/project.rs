//! `keyward project …`.

use serde_json::{Value, json};

use super::member;
use super::org::projects_text;
use crate::api::answer::{ago, is, lines, or_dash, rows, text};
use crate::api::{Api, atlas, connect, id_of_project, organization, own, project};
use crate::args::project::{JoinTokenCommand, ProjectCommand, ProjectNodeCommand};
use crate::args::scope::InProject;
use crate::dev::now;
use crate::failure::Failure;
use crate::output::Output;
use crate::prompt::confirm;
use crate::render::{DIM, GREEN, RED, styled};

pub(crate) async fn run(command: ProjectCommand) -> Result<(), Failure> {
    match command {
        ProjectCommand::List(access) => {
            let (api, _) = connect(&access)?;
            let projects = api.list(atlas(["groups"])).await?;
            Output { json: access.json }.data(&projects, |projects| projects_text(projects))
        }
        ProjectCommand::Show(scope) => show(&scope).await,
        ProjectCommand::Create { name, org } => {
            let (api, org_id) = organization(&org).await?;
            let made = api.post(atlas(["groups"]), &json!({ "name": name, "orgId": org_id })).await?;
            Output { json: org.access.json }.data(&made, |made| {
                format!(
                    "project {} ({}) is made\nnext: keyward project join-token create --project {}\n",
                    text(made, "/name"),
                    text(made, "/id"),
                    text(made, "/name")
                )
            })
        }
        ProjectCommand::Delete { project, yes, access } => {
            let (api, _) = connect(&access)?;
            confirm(&format!("Delete project {project}?"), yes)?;
            let id = id_of_project(&api, &project).await?;
            api.delete(atlas(["groups", &id])).await?;
            Output { json: access.json }
                .data(&json!({ "id": id, "deleted": true }), |_| format!("project {project} is deleted\n"))
        }
        ProjectCommand::Member(command) => member::run(command).await,
        ProjectCommand::JoinToken(command) => join_token(command).await,
        ProjectCommand::Node(command) => node(command).await,
    }
}

async fn show(scope: &InProject) -> Result<(), Failure> {
    let (api, id) = project(scope).await?;
    let found = api.get(atlas(["groups", &id])).await?;
    let encryption = api.get(atlas(["groups", &id, "encryptionAtRest"])).await?;
    let clusters = api.list(atlas(["groups", &id, "clusters"])).await?;
    let nodes = api.list(own(["groups", &id, "nodes"])).await?;
    let all =
        json!({ "project": found, "encryptionAtRest": encryption, "clusters": clusters, "nodes": nodes });
    Output { json: scope.access.json }.data(&all, |_| {
        let key = match text(&encryption, "/azureKeyVault/keyIdentifier") {
            "" => "none".to_owned(),
            key => key.to_owned(),
        };
        let head = lines(&[
            ("project", text(&found, "/name").into()),
            ("id", id.clone()),
            ("organization", text(&found, "/orgId").into()),
            ("made", ago(&found, "/created", now()) + " ago"),
            ("customer key", key),
        ]);
        format!("{head}\n{}\n{}", super::cluster::clusters_text(&clusters), nodes_text(&nodes))
    })
}

async fn join_token(command: JoinTokenCommand) -> Result<(), Failure> {
    match command {
        JoinTokenCommand::Create { name, scope } => {
            let (api, id) = project(&scope).await?;
            let body = name.map_or_else(|| json!({}), |name| json!({ "name": name }));
            let made = api.post(own(["groups", &id, "joinTokens"]), &body).await?;
            Output { json: scope.access.json }.data(&made, |made| {
                format!(
                    "{}\n\nGood for one host until {}; shown this once. On the host:\n  \
                     keyward node join --token - --socket /run/keyward/NODE/admin.sock\n",
                    text(made, "/token"),
                    text(made, "/expiresAt")
                )
            })
        }
        JoinTokenCommand::List(scope) => {
            let (api, id) = project(&scope).await?;
            let tokens = api.list(own(["groups", &id, "joinTokens"])).await?;
            Output { json: scope.access.json }.data(&tokens, |tokens| {
                rows(["ID", "NAME", "STATE", "EXPIRES"], "no token", tokens, |token| {
                    let state = match (is(token, "/usable"), text(token, "/usedBy")) {
                        (true, _) => styled("● waits for its host", GREEN),
                        (false, "") => styled("● expired", DIM),
                        (false, _) => styled("● used", DIM),
                    };
                    [
                        text(token, "/id").into(),
                        or_dash(text(token, "/name")),
                        state,
                        text(token, "/expiresAt").into(),
                    ]
                })
            })
        }
        JoinTokenCommand::Delete(target) => {
            let (api, id) = project(&target.scope).await?;
            api.delete(own(["groups", &id, "joinTokens", &target.id])).await?;
            Output { json: target.scope.access.json }
                .data(&json!({ "id": target.id, "deleted": true }), |_| {
                    format!("token {} is worthless now\n", target.id)
                })
        }
    }
}

async fn node(command: ProjectNodeCommand) -> Result<(), Failure> {
    match command {
        ProjectNodeCommand::List(scope) => {
            let (api, id) = project(&scope).await?;
            let nodes = api.list(own(["groups", &id, "nodes"])).await?;
            Output { json: scope.access.json }.data(&nodes, |nodes| nodes_text(nodes))
        }
        ProjectNodeCommand::Revoke { node, yes, scope } => {
            let (api, id) = project(&scope).await?;
            let node_id = node_id(&api, &id, &node).await?;
            confirm(&format!("Refuse node {node} from now on?"), yes)?;
            api.delete(own(["groups", &id, "nodes", &node_id])).await?;
            Output { json: scope.access.json }.data(&json!({ "nodeId": node_id, "revoked": true }), |_| {
                format!("node {node} is refused from now on; its database runs on\n")
            })
        }
    }
}

/// The id of a node that is named by name or id.
async fn node_id(api: &Api, project: &str, named: &str) -> Result<String, Failure> {
    let nodes = api.list(own(["groups", project, "nodes"])).await?;
    let found = nodes.iter().find(|node| text(node, "/name") == named || text(node, "/id") == named);
    found.map(|node| text(node, "/id").to_owned()).ok_or_else(|| {
        Failure::new(format!("there is no node {named} in this project"), "see keyward project node list")
    })
}

/// Nodes of a project as a table.
fn nodes_text(nodes: &[Value]) -> String {
    let now = now();
    rows(
        ["NODE", "CLUSTER", "HOST", "STATE", "VERDICT", "REPORT", "VERSION"],
        "no node has joined; make a token: keyward project join-token create",
        &super::cluster::by_name(nodes),
        |node| {
            [
                text(node, "/name").into(),
                or_dash(text(node, "/clusterName")),
                text(node, "/hostname").into(),
                node_state(node),
                super::cluster::verdict_text(text(node, "/verdict")),
                ago(node, "/reportedAt", now),
                or_dash(text(node, "/agentVersion")),
            ]
        },
    )
}

fn node_state(node: &Value) -> String {
    match node.get("revokedAt").and_then(Value::as_str) {
        Some(_) => styled("● revoked", RED),
        None => super::cluster::state_text(text(node, "/state")),
    }
}
