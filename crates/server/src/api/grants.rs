//! Giving and taking roles: the rules that users, API keys and service accounts share.

use keyward_model::{
    Code,
    id::{OrgId, ProjectId},
    role::{Grants, OrgRole, ProjectRole, Requirement},
};
use keyward_store::{PrincipalId, Tx};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::Request;
use crate::http::error::ApiError;

/// What a project's owner may do.
pub(crate) const PROJECT_OWNER: Requirement = Requirement::Project(&[ProjectRole::GroupOwner]);
/// What everyone with a role in a project may do.
pub(crate) const PROJECT_READER: Requirement = Requirement::Project(&[ProjectRole::GroupReadOnly]);
/// What an organization's owner may do.
pub(crate) const ORG_OWNER: Requirement = Requirement::Org(&[OrgRole::OrgOwner]);

/// The roles of these names, each once, in order.
pub(crate) fn parse_roles<R>(field: &str, names: &[String]) -> Result<Vec<R>, ApiError>
where
    R: DeserializeOwned + Ord,
{
    let mut roles = names
        .iter()
        .map(|name| {
            serde_json::from_value(json!(name)).map_err(|_| {
                let shown: String = name.chars().take(64).collect();
                ApiError::new(Code::InvalidEnumValue)
                    .detail(format!("There is no role {shown} here."))
                    .param(field)
                    .field(field, format!("has no role {shown}"))
            })
        })
        .collect::<Result<Vec<R>, _>>()?;
    roles.sort();
    roles.dedup();
    if roles.is_empty() {
        return Err(ApiError::new(Code::InvalidAttribute)
            .detail(format!("The attribute {field} names no role."))
            .param(field)
            .field(field, "is empty"));
    }
    Ok(roles)
}

/// A role's name.
pub(crate) fn role_name(role: impl Serialize) -> Value {
    serde_json::to_value(role).unwrap_or_default()
}

/// The roles as API keys show them, of one organization and its projects or of one project alone.
pub(crate) fn assignments(grants: &Grants, org: OrgId, project: Option<ProjectId>) -> Value {
    let of_org = grants.org.iter().filter(|(id, _)| *id == org);
    let of_projects = grants.project.iter().filter(|(id, _)| project.is_none_or(|project| *id == project));
    let mut shown: Vec<Value> =
        of_org.map(|(id, role)| json!({"orgId": id, "roleName": role_name(role)})).collect();
    shown.extend(of_projects.map(|(id, role)| json!({"groupId": id, "roleName": role_name(role)})));
    Value::Array(shown)
}

/// Only an owner makes owners, and only an owner unmakes them: who manages access must not rise by it.
pub(crate) fn may_set_project_roles(
    request: &Request,
    before: &[ProjectRole],
    after: &[ProjectRole],
) -> Result<(), ApiError> {
    let owner = ProjectRole::GroupOwner;
    if before.contains(&owner) == after.contains(&owner) {
        return Ok(());
    }
    if owns(request) {
        return Ok(());
    }
    Err(ApiError::new(Code::AccessForbidden)
        .detail("Only an owner of the project or of its organization gives or takes the role GROUP_OWNER."))
}

/// Refuses who owns neither the project nor its organization, where managing access is not enough.
pub(crate) fn must_own(request: &Request) -> Result<(), ApiError> {
    if owns(request) {
        return Ok(());
    }
    Err(ApiError::new(Code::UserUnauthorized).detail(format!(
        "{} needs the role GROUP_OWNER in the project or ORG_OWNER in its organization.",
        request.operation.id
    )))
}

fn owns(request: &Request) -> bool {
    let grants = &request.principal.grants;
    grants.allow(PROJECT_OWNER, request.org, request.project).is_ok()
        || grants.allow(ORG_OWNER, request.org, None).is_ok()
}

/// What happens to an owner's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// They are removed.
    Removed,
    /// They lose the role.
    Demoted,
}

impl Loss {
    fn refused(self) -> ApiError {
        ApiError::new(match self {
            Self::Removed => Code::CannotDeleteLastOwner,
            Self::Demoted => Code::CannotDemoteLastOwner,
        })
    }
}

/// Refuses to take the role from the organization's last owner. Users cannot sign in: while there are only they,
/// nobody could administer the organization, so the last key or service account with the role stays too.
pub(crate) async fn keep_org_owner(
    tx: &mut Tx,
    org: OrgId,
    loser: &PrincipalId,
    loss: Loss,
) -> Result<(), ApiError> {
    let members = tx.org_members(org).await?;
    let mut owners =
        members.iter().filter(|(_, roles)| roles.contains(&OrgRole::OrgOwner)).map(|(who, _)| who);
    if !owners.clone().any(|who| who == loser) {
        return Ok(());
    }
    let signs = |who: &PrincipalId| !matches!(who, PrincipalId::User(_));
    let remains = owners.any(|who| who != loser && (signs(who) || !signs(loser)));
    if remains { Ok(()) } else { Err(loss.refused()) }
}

/// Refuses to take the role from the project's last owner.
pub(crate) async fn keep_project_owner(
    tx: &mut Tx,
    project: ProjectId,
    loser: &PrincipalId,
    loss: Loss,
) -> Result<(), ApiError> {
    let members = tx.project_members(project).await?;
    let mut owners =
        members.iter().filter(|(_, roles)| roles.contains(&ProjectRole::GroupOwner)).map(|(who, _)| who);
    let is_owner = owners.clone().any(|who| who == loser);
    if is_owner && !owners.any(|who| who != loser) { Err(loss.refused()) } else { Ok(()) }
}

/// The roles that a principal has in an organization.
pub(crate) fn org_roles(grants: &Grants, org: OrgId) -> Vec<OrgRole> {
    grants.org.iter().filter(|(id, _)| *id == org).map(|(_, role)| *role).collect()
}

/// The roles that a principal has in a project.
pub(crate) fn project_roles(grants: &Grants, project: ProjectId) -> Vec<ProjectRole> {
    grants.project.iter().filter(|(id, _)| *id == project).map(|(_, role)| *role).collect()
}

/// The name of an organization or project: 1 to 64 letters, digits, spaces and some signs.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), ApiError> {
    let fits = |c: char| c.is_alphanumeric() || " -_.(),:&@+'".contains(c);
    let length = name.chars().count();
    if (1..=64).contains(&length) && name.chars().all(fits) && name.trim() == name {
        return Ok(());
    }
    Err(invalid(field, "is not 1 to 64 letters, digits, spaces inside, and - _ . ( ) , : & @ + '"))
}

/// An attribute with a value that it cannot have; `what` completes "The attribute NAME …".
pub(crate) fn invalid(field: &str, what: &str) -> ApiError {
    ApiError::new(Code::InvalidAttribute)
        .detail(format!("The attribute {field} {what}."))
        .param(field)
        .field(field, what)
}

/// A text of 1 to `most` characters.
pub(crate) fn check_length(field: &str, text: &str, most: usize) -> Result<(), ApiError> {
    if (1..=most).contains(&text.chars().count()) {
        return Ok(());
    }
    Err(invalid(field, &format!("is not 1 to {most} characters")))
}
