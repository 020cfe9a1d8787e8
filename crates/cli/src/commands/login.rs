//! `keyward login`: keeps a server's address and a key for it, once the server has accepted it.

use serde::Serialize;
use serde_json::json;

use crate::api::answer::text;
use crate::api::profile::{DEFAULT, Profile, Profiles};
use crate::api::{Api, Credential, TokenAnswer, atlas, id_of_org, id_of_project};
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
        return print_token(&api, &mut profiles, &name, profile).await;
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

/// Prints a token of the profile's own service account, or of one that is made for its API key once and kept.
async fn print_token(
    api: &Api,
    profiles: &mut Profiles,
    name: &str,
    mut profile: Profile,
) -> Result<(), Failure> {
    let account = match (&profile.credential, profile.token_account.clone()) {
        (Credential::ServiceAccount { client_id, client_secret }, _) => {
            profiles.put(name, &profile)?;
            (client_id.clone(), client_secret.clone())
        }
        (Credential::ApiKey { .. }, kept) => {
            if let Some(kept) = &kept
                && let TokenAnswer::Given(token) = ask_token(&profile, kept).await?
            {
                profiles.put(name, &profile)?;
                return print(&format!("{token}\n"));
            }
            let Some(org) = profile.org.clone() else {
                return Err(Failure::usage("which organization?", "name it with --org ORG"));
            };
            let made = make_account(api, &org, &profile).await?;
            profile.token_account = Some(made.clone());
            if let Err(failure) = profiles.put(name, &profile) {
                return Err(take_back(api, &org, &profile, &made.0, failure).await);
            }
            // Its secret has expired, or it is gone already: nothing to tell where it cannot be deleted.
            if let Some((old, _)) = kept {
                let _ = api.delete(atlas(["orgs", &org, "serviceAccounts", &old])).await;
            }
            made
        }
    };
    match ask_token(&profile, &account).await? {
        TokenAnswer::Given(token) => print(&format!("{token}\n")),
        TokenAnswer::Refused(failure) => Err(failure),
    }
}

async fn ask_token(profile: &Profile, account: &(String, String)) -> Result<TokenAnswer, Failure> {
    let (client_id, client_secret) = account.clone();
    let credential = Credential::ServiceAccount { client_id, client_secret };
    Api::new(&Profile { credential, ..profile.clone() })?.token().await
}

/// Makes a service account that may what its API key may: client id and secret. Leaves none behind when it fails.
async fn make_account(api: &Api, org: &str, profile: &Profile) -> Result<(String, String), Failure> {
    let made = api
        .post(
            atlas(["orgs", org, "serviceAccounts"]),
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
        let invite = atlas(["groups", project, "serviceAccounts", &format!("{client_id}:invite")]);
        if let Err(failure) = api.post(invite, &json!({ "roles": ["GROUP_OWNER"] })).await {
            return Err(take_back(api, org, profile, client_id, failure).await);
        }
    }
    Ok((client_id.to_owned(), secret.to_owned()))
}

/// Deletes an account that was made for nothing. Where that fails as well, `failure` says how it is deleted.
async fn take_back(api: &Api, org: &str, profile: &Profile, client_id: &str, failure: Failure) -> Failure {
    match api.delete(atlas(["orgs", org, "serviceAccounts", client_id])).await {
        Ok(()) => failure,
        Err(second) => left_behind(org, profile, client_id, failure, &second),
    }
}

fn left_behind(
    org: &str,
    profile: &Profile,
    client_id: &str,
    mut failure: Failure,
    second: &Failure,
) -> Failure {
    let ca_file = profile.ca_file.as_ref().map(|file| format!(" --cacert {}", file.display()));
    failure.causes.push(format!(
        "the service account {client_id} that was made for the token is left: {}",
        second.message
    ));
    failure.hint = format!(
        "{}; delete the account: curl{} --digest --user {} -X DELETE -H 'Accept: application/vnd.atlas.2024-08-05+json' \
         {}/api/atlas/v2/orgs/{org}/serviceAccounts/{client_id}",
        failure.hint,
        ca_file.unwrap_or_default(),
        profile.credential.name(),
        profile.url.as_str().trim_end_matches('/'),
    );
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_is_left_is_named_with_the_command_that_deletes_it() {
        let profile = Profile {
            url: "https://localhost:7443/".parse().unwrap(),
            ca_file: Some("/ca.pem".into()),
            credential: Credential::ApiKey { public_key: "abcdefgh".into(), private_key: "secret".into() },
            token_account: None,
            org: Some("o1".into()),
            project: Some("p1".into()),
        };
        let failure = Failure::new("the key abcdefgh is no owner", "ask an owner");
        let second = Failure::new("nobody listens", "start it");
        let told = left_behind("o1", &profile, "mdb_sa_id_1", failure, &second);
        assert_eq!(
            told.causes,
            ["the service account mdb_sa_id_1 that was made for the token is left: nobody listens"]
        );
        assert_eq!(
            told.hint,
            "ask an owner; delete the account: curl --cacert /ca.pem --digest --user abcdefgh -X DELETE -H 'Accept: \
             application/vnd.atlas.2024-08-05+json' https://localhost:7443/api/atlas/v2/orgs/o1/serviceAccounts/mdb_sa_id_1"
        );
    }
}
