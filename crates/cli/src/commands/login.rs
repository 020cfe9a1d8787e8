//! `keyward login`: keeps a server's address and a key for it, once the server has accepted it.

use serde::Serialize;
use serde_json::json;

use crate::api::answer::text;
use crate::api::profile::{DEFAULT, Profile, Profiles};
use crate::api::{Api, Credential, atlas, id_of_org, id_of_project};
use crate::args::server::LoginArguments;
use crate::dev::home::DevFile;
use crate::failure::Failure;
use crate::output::{Output, print};
use crate::prompt;

/// How long the secret of the account for tokens is good for, in hours.
const TOKEN_ACCOUNT_H: u32 = 90 * 24;

pub(crate) async fn run(arguments: LoginArguments) -> Result<(), Failure> {
    let name = arguments.profile.clone().unwrap_or_else(|| DEFAULT.to_owned());
    let mut profiles = Profiles::open()?;
    let given = given(&arguments)?;
    let is_new = given.is_some();
    let mut profile = match given {
        Some(profile) => profile,
        None if arguments.print_token || arguments.org.is_some() || arguments.project.is_some() => {
            profiles.get(&name)?.ok_or_else(|| {
                Failure::usage(
                    format!("there is no profile {name} in {}", profiles.path().display()),
                    "add --dir DIR, or --url URL and --public-key KEY",
                )
            })?
        }
        None => {
            return Err(Failure::usage(
                "login to what?",
                "add --dir DIR of `keyward dev`, or --url URL and --public-key KEY or --client-id ID",
            ));
        }
    };
    let api = Api::new(&profile)?;
    let orgs = api.list(atlas(["orgs"])).await?;
    if let Some(org) = &arguments.org {
        profile.org = Some(id_of_org(&api, org).await?);
    }
    if let [only] = orgs.as_slice()
        && profile.org.is_none()
    {
        profile.org = Some(text(only, "/id").to_owned());
    }
    if let Some(project) = &arguments.project {
        profile.project = Some(id_of_project(&api, project).await?);
    }
    if arguments.print_token {
        let account = token_account(&api, &mut profile).await?;
        profiles.put(&name, &profile)?;
        let (client_id, client_secret) = account;
        let credential = Credential::ServiceAccount { client_id, client_secret };
        let token = Api::new(&Profile { credential, ..profile })?.token().await?;
        return print(&format!("{token}\n"));
    }
    profiles.put(&name, &profile)?;
    let said = LoggedIn {
        profile: name,
        url: profile.url.to_string(),
        who: profile.credential.name().to_owned(),
        organizations: orgs.iter().map(|org| text(org, "/name").to_owned()).collect(),
        file: profiles.path().display().to_string(),
    };
    let next = if is_new { "see what there is: keyward project list, keyward cluster list\n" } else { "" };
    Output { json: false }.data(&said, |said| {
        format!(
            "logged in to {} as {}, organization {}\nkept as profile {} in {}\n{next}",
            said.url,
            said.who,
            said.organizations.join(", "),
            said.profile,
            said.file
        )
    })
}

#[derive(Debug, Serialize)]
struct LoggedIn {
    profile: String,
    url: String,
    who: String,
    organizations: Vec<String>,
    file: String,
}

/// What the command line describes; `None` when it names no server.
fn given(arguments: &LoginArguments) -> Result<Option<Profile>, Failure> {
    if let Some(dir) = &arguments.dir {
        return from_dev(dir).map(Some);
    }
    let Some(url) = arguments.url.clone() else { return Ok(None) };
    let ca_file = arguments
        .ca_file
        .as_ref()
        .map(|file| {
            file.canonicalize().map_err(|e| {
                Failure::new(format!("{} cannot be read", file.display()), "check --ca-file").because(&e)
            })
        })
        .transpose()?;
    let file = arguments.secret_file.as_deref();
    let credential = match (&arguments.public_key, &arguments.client_id) {
        (Some(public_key), _) => Credential::ApiKey {
            public_key: public_key.clone(),
            private_key: prompt::secret("private key", file)?,
        },
        (None, Some(client_id)) => Credential::ServiceAccount {
            client_id: client_id.clone(),
            client_secret: prompt::secret("client secret", file)?,
        },
        (None, None) => {
            return Err(Failure::usage(
                "--url needs to know who you are",
                "add --public-key KEY of an API key, or --client-id ID of a service account",
            ));
        }
    };
    Ok(Some(Profile { url, ca_file, credential, token_account: None, org: None, project: None }))
}

/// The server of a `keyward dev`.
fn from_dev(dir: &std::path::Path) -> Result<Profile, Failure> {
    let file = dir.join("dev.json");
    let server = DevFile::read(&file)?.and_then(|dev| dev.server).ok_or_else(|| {
        Failure::usage(
            format!("there is no server in {}", file.display()),
            "start `keyward dev` there, or name its folder with --dir",
        )
    })?;
    let url = server.url.parse().map_err(|e| {
        Failure::new(format!("{} has no usable address", file.display()), "start `keyward dev` again")
            .because(&e)
    })?;
    Ok(Profile {
        url,
        ca_file: Some(server.ca_file),
        credential: Credential::ApiKey { public_key: server.public_key, private_key: server.private_key },
        token_account: None,
        org: Some(server.org_id),
        project: Some(server.project_id),
    })
}

/// The service account whose tokens are printed: the profile's own, or one made for its API key once.
async fn token_account(api: &Api, profile: &mut Profile) -> Result<(String, String), Failure> {
    if let Credential::ServiceAccount { client_id, client_secret } = &profile.credential {
        return Ok((client_id.clone(), client_secret.clone()));
    }
    if let Some((client_id, client_secret)) = profile.token_account.clone() {
        let credential =
            Credential::ServiceAccount { client_id: client_id.clone(), client_secret: client_secret.clone() };
        // One that was deleted or has expired is replaced.
        if Api::new(&Profile { credential, ..profile.clone() })?.token().await.is_ok() {
            return Ok((client_id, client_secret));
        }
    }
    let Some(org) = profile.org.clone() else {
        return Err(Failure::usage("which organization?", "name it with --org ORG"));
    };
    let made = api
        .post(
            atlas(["orgs", &org, "serviceAccounts"]),
            &json!({
                "name": "keyward login",
                "description": format!("Tokens for API key {}", profile.credential.name()),
                "roles": ["ORG_OWNER"],
                "secretExpiresAfterHours": TOKEN_ACCOUNT_H,
            }),
        )
        .await?;
    let (client_id, secret) = (text(&made, "/clientId"), text(&made, "/secrets/0/secret"));
    if client_id.is_empty() || secret.is_empty() {
        return Err(Failure::new("the server made a service account without a secret", "report it as a bug"));
    }
    if let Some(project) = &profile.project {
        api.post(
            atlas(["groups", project, "serviceAccounts", &format!("{client_id}:invite")]),
            &json!({ "roles": ["GROUP_OWNER"] }),
        )
        .await?;
    }
    let account = (client_id.to_owned(), secret.to_owned());
    profile.token_account = Some(account.clone());
    Ok(account)
}
