//! `keyward org …`.

use serde_json::{Value, json};

use crate::api::answer::{ago, joined, lines, or_dash, rows, text};
use crate::api::{atlas, connect, organization};
use crate::args::project::OrgCommand;
use crate::args::scope::InOrg;
use crate::dev::now;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(command: OrgCommand) -> Result<(), Failure> {
    match command {
        OrgCommand::List(access) => {
            let (api, _) = connect(&access)?;
            let orgs = api.list(atlas(["orgs"])).await?;
            Output { json: access.json }.data(&orgs, |orgs| {
                rows(["ORGANIZATION", "ID"], "no organization", orgs, |org| {
                    [text(org, "/name").into(), text(org, "/id").into()]
                })
            })
        }
        OrgCommand::Show(scope) => show(&scope).await,
        OrgCommand::Create { name, access } => {
            let (api, _) = connect(&access)?;
            let key = json!({ "desc": format!("Owner of {name}"), "roles": ["ORG_OWNER"] });
            let made = api.post(atlas(["orgs"]), &json!({ "name": name, "apiKey": key })).await?;
            Output { json: access.json }.data(&made, created_text)
        }
    }
}

async fn show(scope: &InOrg) -> Result<(), Failure> {
    let (api, id) = organization(scope).await?;
    let org = api.get(atlas(["orgs", &id])).await?;
    let projects = api.list(atlas(["orgs", &id, "groups"])).await?;
    let keys = api.list(atlas(["orgs", &id, "apiKeys"])).await?;
    let all = json!({ "organization": org, "projects": projects, "apiKeys": keys });
    Output { json: scope.access.json }.data(&all, |all| {
        let org = &all["organization"];
        let head = lines(&[("organization", text(org, "/name").into()), ("id", text(org, "/id").into())]);
        format!("{head}\n{}\n{}", projects_text(&projects), keys_text(&keys))
    })
}

/// Projects as a table.
pub(super) fn projects_text(projects: &[Value]) -> String {
    let now = now();
    rows(["PROJECT", "ID", "CLUSTERS", "AGE"], "no project", projects, |project| {
        [
            text(project, "/name").into(),
            text(project, "/id").into(),
            project["clusterCount"].to_string(),
            ago(project, "/created", now),
        ]
    })
}

fn keys_text(keys: &[Value]) -> String {
    rows(["API KEY", "ROLES", "DESCRIPTION"], "no API key", keys, |key| {
        let roles: Vec<&str> = key["roles"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|role| text(role, "/roleName"))
            .filter(|role| !role.is_empty())
            .collect();
        [text(key, "/publicKey").into(), or_dash(&roles.join(", ")), text(key, "/desc").into()]
    })
}

fn created_text(made: &Value) -> String {
    lines(&[
        ("organization", text(made, "/organization/name").into()),
        ("id", text(made, "/organization/id").into()),
        ("public key", text(made, "/apiKey/publicKey").into()),
        ("private key", text(made, "/apiKey/privateKey").into()),
        ("roles", joined(made, "/apiKey/roles")),
    ]) + "The private key is shown this once.\n"
}
