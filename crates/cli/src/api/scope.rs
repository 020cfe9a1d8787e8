//! Which server, organization and project a command means.

use super::answer::text;
use super::client::{Api, atlas};
use super::profile::{DEFAULT, Profile, Profiles};
use crate::args::scope::{Access, InOrg, InProject};
use crate::failure::Failure;

/// The server that the command line names by its profile.
pub(crate) fn connect(access: &Access) -> Result<(Api, Profile), Failure> {
    let profiles = Profiles::open()?;
    let name = access.profile.as_deref().unwrap_or(DEFAULT);
    let Some(profile) = profiles.get(name)? else {
        let known = profiles.names();
        let hint = if known.is_empty() {
            "use `keyward login --dir DIR` beside `keyward dev`, or `keyward login --url URL --public-key KEY`".to_owned()
        } else {
            format!("there is: {}; `keyward login --profile {name}` adds one", known.join(", "))
        };
        return Err(Failure::usage(
            format!("there is no profile {name} in {}", profiles.path().display()),
            hint,
        ));
    };
    Ok((Api::new(&profile)?, profile))
}

/// The server and the id of the project that the command line means: the one it names (by name or id), the
/// profile's, or the only one there is.
pub(crate) async fn project(scope: &InProject) -> Result<(Api, String), Failure> {
    let (api, profile) = connect(&scope.access)?;
    let id = match scope.project.as_deref().or(profile.project.as_deref()) {
        Some(named) => id_of_project(&api, named).await?,
        None => only(&api, "groups", "project", "--project").await?,
    };
    Ok((api, id))
}

/// The same for an organization.
pub(crate) async fn organization(scope: &InOrg) -> Result<(Api, String), Failure> {
    let (api, profile) = connect(&scope.access)?;
    let id = match scope.org.as_deref().or(profile.org.as_deref()) {
        Some(named) => id_of_org(&api, named).await?,
        None => only(&api, "orgs", "organization", "--org").await?,
    };
    Ok((api, id))
}

/// The id of the organization of that name or id.
pub(crate) async fn id_of_org(api: &Api, named: &str) -> Result<String, Failure> {
    if is_id(named) {
        return Ok(named.to_owned());
    }
    let orgs = api.list(atlas(["orgs"])).await?;
    orgs.iter().find(|org| text(org, "/name") == named).map(|org| text(org, "/id").to_owned()).ok_or_else(
        || Failure::new(format!("there is no organization {named}"), "see the names: keyward org list"),
    )
}

/// The id of the project of that name or id.
pub(crate) async fn id_of_project(api: &Api, named: &str) -> Result<String, Failure> {
    if is_id(named) {
        return Ok(named.to_owned());
    }
    let found = api.get(atlas(["groups", "byName", named])).await?;
    Ok(text(&found, "/id").to_owned())
}

async fn only(api: &Api, list: &str, what: &str, option: &str) -> Result<String, Failure> {
    let all = api.list(atlas([list])).await?;
    match all.as_slice() {
        [one] => Ok(text(one, "/id").to_owned()),
        [] => Err(Failure::new(
            format!("there is no {what} that this profile may see"),
            match what {
                "project" => "make one: keyward project create NAME",
                _ => "use the key that `keyward server init` printed: keyward login",
            },
        )),
        many => Err(Failure::usage(
            format!("which {what}?"),
            format!(
                "name it with {option}: {}",
                many.iter().map(|one| text(one, "/name")).collect::<Vec<_>>().join(", ")
            ),
        )),
    }
}

/// Atlas' ids: 24 lower-case hexadecimal characters.
fn is_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
