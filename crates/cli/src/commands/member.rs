//! `keyward project member …`: users, API keys and service accounts of a project.

use serde::Serialize;
use serde_json::{Value, json};

use crate::api::answer::{items, text};
use crate::api::{Api, atlas, connect, project};
use crate::args::project::{MemberCommand, RoleChoice};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::table;

pub(super) async fn run(command: MemberCommand) -> Result<(), Failure> {
    match command {
        MemberCommand::List(scope) => {
            let (api, id) = project(&scope).await?;
            let members = members(&api, &id).await?;
            Output { json: scope.access.json }.data(&members, |members| members_text(members))
        }
        MemberCommand::Add { member, me: _, role, scope } => {
            let (api, id) = project(&scope).await?;
            let member = match member {
                Some(member) => member,
                None => connect(&scope.access)?.1.credential.name().to_owned(),
            };
            let roles: Vec<&str> = role.iter().copied().map(RoleChoice::api).collect();
            add(&api, &id, &member, &roles).await?;
            let said = json!({ "member": member, "roles": roles });
            Output { json: scope.access.json }
                .data(&said, |_| format!("{member} is {} of the project\n", roles.join(", ")))
        }
        MemberCommand::Remove { member, scope } => {
            let (api, id) = project(&scope).await?;
            remove(&api, &id, &member).await?;
            Output { json: scope.access.json }.data(&json!({ "member": member, "removed": true }), |_| {
                format!("{member} has no role in the project any more\n")
            })
        }
    }
}

/// Who has roles in a project.
#[derive(Debug, Serialize)]
struct Member {
    kind: &'static str,
    name: String,
    id: String,
    roles: Vec<String>,
}

/// What a member's name says it is.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    User,
    ApiKey,
    ServiceAccount,
}

fn kind(member: &str) -> Kind {
    if member.starts_with("mdb_sa_id_") {
        Kind::ServiceAccount
    } else if member.contains('@') {
        Kind::User
    } else {
        Kind::ApiKey
    }
}

async fn members(api: &Api, project: &str) -> Result<Vec<Member>, Failure> {
    let users = api.list(atlas(["groups", project, "users"])).await?;
    let keys = api.list(atlas(["groups", project, "apiKeys"])).await?;
    let accounts = api.list(atlas(["groups", project, "serviceAccounts"])).await?;
    let texts = |value: &Value, pointer: &str| -> Vec<String> {
        items(value, pointer).iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    };
    let user = |user: &Value| Member {
        kind: "user",
        name: text(user, "/username").into(),
        id: text(user, "/id").into(),
        roles: texts(user, "/roles"),
    };
    let key = |key: &Value| Member {
        kind: "API key",
        name: text(key, "/publicKey").into(),
        id: text(key, "/id").into(),
        // A key's roles name their scope; those of the project are meant here.
        roles: items(key, "/roles")
            .iter()
            .filter(|role| text(role, "/groupId") == project)
            .map(|role| text(role, "/roleName").to_owned())
            .collect(),
    };
    let account = |account: &Value| Member {
        kind: "service account",
        name: text(account, "/clientId").into(),
        id: text(account, "/clientId").into(),
        roles: texts(account, "/roles"),
    };
    Ok(users.iter().map(user).chain(keys.iter().map(key)).chain(accounts.iter().map(account)).collect())
}

async fn add(api: &Api, project: &str, member: &str, roles: &[&str]) -> Result<(), Failure> {
    match kind(member) {
        Kind::User => {
            let body = json!({ "username": member, "roles": roles });
            api.post(atlas(["groups", project, "users"]), &body).await?;
        }
        Kind::ApiKey => {
            let id = api_key_id(api, project, member).await?;
            api.post(atlas(["groups", project, "apiKeys", &id]), &json!([{ "roles": roles }])).await?;
        }
        Kind::ServiceAccount => {
            let invite = format!("{member}:invite");
            let body = json!({ "roles": roles });
            api.post(atlas(["groups", project, "serviceAccounts", &invite]), &body).await?;
        }
    }
    Ok(())
}

async fn remove(api: &Api, project: &str, member: &str) -> Result<(), Failure> {
    let found = members(api, project).await?.into_iter().find(|one| one.name == member).ok_or_else(|| {
        Failure::new(format!("{member} has no role in the project"), "see keyward project member list")
    })?;
    let list = match kind(member) {
        Kind::User => "users",
        Kind::ApiKey => "apiKeys",
        Kind::ServiceAccount => "serviceAccounts",
    };
    api.delete(atlas(["groups", project, list, &found.id])).await
}

/// The id of an API key of the project's organization by its public key.
async fn api_key_id(api: &Api, project: &str, public_key: &str) -> Result<String, Failure> {
    let found = api.get(atlas(["groups", project])).await?;
    let keys = api.list(atlas(["orgs", text(&found, "/orgId"), "apiKeys"])).await?;
    let key = keys.iter().find(|key| text(key, "/publicKey") == public_key);
    key.map(|key| text(key, "/id").to_owned()).ok_or_else(|| {
        Failure::new(
            format!("the organization has no API key {public_key}"),
            "name a user by e-mail address, an API key by its public key, a service account by its client id",
        )
    })
}

fn members_text(members: &[Member]) -> String {
    let head = ["MEMBER", "KIND", "ROLES"].map(str::to_owned).to_vec();
    let rows = members.iter().map(|m| vec![m.name.clone(), m.kind.into(), m.roles.join(", ")]);
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_is() {
        assert_eq!(kind("alice@example.com"), Kind::User);
        assert_eq!(kind("abcdefgh"), Kind::ApiKey);
        assert_eq!(kind("mdb_sa_id_0123456789abcdef01234567"), Kind::ServiceAccount);
    }
}
