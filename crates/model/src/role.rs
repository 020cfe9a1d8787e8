//! Roles, and who may do what.
//!
//! Follows the Atlas Administration API's role names. A missing right is an answer here; what HTTP says about it is
//! the server's.

use serde::{Deserialize, Serialize};

use crate::id::{OrgId, ProjectId};

/// A role in an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OrgRole {
    /// Everything in the organization; in its projects only reading and the management of users.
    OrgOwner,
    /// May create projects.
    OrgGroupCreator,
    /// May read billing.
    OrgBillingReadOnly,
    /// May administer billing.
    OrgBillingAdmin,
    /// May read everything.
    OrgReadOnly,
    /// Belongs to the organization.
    OrgMember,
}

/// A role in a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ProjectRole {
    /// Everything, the customer key included.
    GroupOwner,
    /// Changes clusters.
    GroupClusterManager,
    /// Creates clusters.
    GroupClusterCreator,
    /// Manages backups.
    GroupBackupManager,
    /// Manages alert configurations.
    GroupAlertsManager,
    /// Manages who has access.
    GroupAccessManager,
    /// Administers the databases' contents.
    GroupDataAccessAdmin,
    /// Reads and writes the databases' contents.
    GroupDataAccessReadWrite,
    /// Reads the databases' contents.
    GroupDataAccessReadOnly,
    /// Reads everything but contents.
    GroupReadOnly,
}

/// The roles of one principal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Roles in organizations.
    pub org: Vec<(OrgId, OrgRole)>,
    /// Roles in projects.
    pub project: Vec<(ProjectId, ProjectRole)>,
}

/// What an operation asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// To be known.
    Authenticated,
    /// Nothing at all.
    Nobody,
    /// Any of these roles, or one that includes it, in the organization of the path.
    Org(&'static [OrgRole]),
    /// Any of these roles, or one that includes it, in the project of the path.
    Project(&'static [ProjectRole]),
}

impl OrgRole {
    /// All of them.
    pub const ALL: [OrgRole; 6] = [
        OrgRole::OrgOwner,
        OrgRole::OrgGroupCreator,
        OrgRole::OrgBillingReadOnly,
        OrgRole::OrgBillingAdmin,
        OrgRole::OrgReadOnly,
        OrgRole::OrgMember,
    ];

    /// Whether who has `self` may do what `asked` allows.
    pub fn includes(self, asked: OrgRole) -> bool {
        match self {
            OrgRole::OrgOwner => true,
            OrgRole::OrgReadOnly => matches!(asked, OrgRole::OrgReadOnly | OrgRole::OrgMember),
            OrgRole::OrgBillingAdmin => {
                matches!(asked, OrgRole::OrgBillingAdmin | OrgRole::OrgBillingReadOnly | OrgRole::OrgMember)
            }
            OrgRole::OrgGroupCreator | OrgRole::OrgBillingReadOnly => {
                asked == self || asked == OrgRole::OrgMember
            }
            OrgRole::OrgMember => asked == OrgRole::OrgMember,
        }
    }
}

impl ProjectRole {
    /// All of them.
    pub const ALL: [ProjectRole; 10] = [
        ProjectRole::GroupOwner,
        ProjectRole::GroupClusterManager,
        ProjectRole::GroupClusterCreator,
        ProjectRole::GroupBackupManager,
        ProjectRole::GroupAlertsManager,
        ProjectRole::GroupAccessManager,
        ProjectRole::GroupDataAccessAdmin,
        ProjectRole::GroupDataAccessReadWrite,
        ProjectRole::GroupDataAccessReadOnly,
        ProjectRole::GroupReadOnly,
    ];

    /// Whether who has `self` may do what `asked` allows. Every role may read.
    pub fn includes(self, asked: ProjectRole) -> bool {
        match self {
            ProjectRole::GroupOwner => true,
            ProjectRole::GroupDataAccessAdmin => matches!(
                asked,
                ProjectRole::GroupDataAccessAdmin
                    | ProjectRole::GroupDataAccessReadWrite
                    | ProjectRole::GroupDataAccessReadOnly
                    | ProjectRole::GroupReadOnly
            ),
            ProjectRole::GroupDataAccessReadWrite => matches!(
                asked,
                ProjectRole::GroupDataAccessReadWrite
                    | ProjectRole::GroupDataAccessReadOnly
                    | ProjectRole::GroupReadOnly
            ),
            ProjectRole::GroupClusterManager
            | ProjectRole::GroupClusterCreator
            | ProjectRole::GroupBackupManager
            | ProjectRole::GroupAlertsManager
            | ProjectRole::GroupAccessManager
            | ProjectRole::GroupDataAccessReadOnly
            | ProjectRole::GroupReadOnly => asked == self || asked == ProjectRole::GroupReadOnly,
        }
    }
}

/// Why a caller may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not a member of the project: it is not even said whether it exists.
    NotInProject,
    /// Not a member of the organization.
    NotInOrg,
    /// A member without the role.
    MissingRole,
}

impl Grants {
    /// Whether the caller may do what `requirement` asks in project `project` of organization `org`.
    ///
    /// An organization's owner reads its projects and manages who has access to them, as in Atlas; for anything
    /// else they first add themselves to the project.
    pub fn allow(
        &self,
        requirement: Requirement,
        org: Option<OrgId>,
        project: Option<ProjectId>,
    ) -> Result<(), Refusal> {
        let org_roles = || self.org.iter().filter(move |(id, _)| Some(*id) == org).map(|(_, role)| *role);
        match requirement {
            Requirement::Nobody | Requirement::Authenticated => Ok(()),
            Requirement::Org(any) => {
                let mut roles = org_roles().peekable();
                if roles.peek().is_none() {
                    return Err(Refusal::NotInOrg);
                }
                let enough = roles.any(|role| any.iter().any(|asked| role.includes(*asked)));
                if enough { Ok(()) } else { Err(Refusal::MissingRole) }
            }
            Requirement::Project(any) => {
                let roles: Vec<ProjectRole> = self
                    .project
                    .iter()
                    .filter(|(id, _)| Some(*id) == project)
                    .map(|(_, role)| *role)
                    .chain(org_roles().flat_map(in_every_project).copied())
                    .collect();
                if roles.is_empty() {
                    return Err(Refusal::NotInProject);
                }
                let enough = roles.iter().any(|role| any.iter().any(|asked| role.includes(*asked)));
                if enough { Ok(()) } else { Err(Refusal::MissingRole) }
            }
        }
    }
}

/// What a role in an organization is worth in each of its projects.
fn in_every_project(role: OrgRole) -> &'static [ProjectRole] {
    match role {
        OrgRole::OrgOwner => &[ProjectRole::GroupReadOnly, ProjectRole::GroupAccessManager],
        OrgRole::OrgReadOnly => &[ProjectRole::GroupReadOnly],
        OrgRole::OrgGroupCreator
        | OrgRole::OrgBillingReadOnly
        | OrgRole::OrgBillingAdmin
        | OrgRole::OrgMember => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: OrgId = OrgId::from_bytes([1; 12]);
    const OTHER_ORG: OrgId = OrgId::from_bytes([2; 12]);
    const PROJECT: ProjectId = ProjectId::from_bytes([3; 12]);
    const OTHER: ProjectId = ProjectId::from_bytes([4; 12]);
    const OWNER_ONLY: Requirement = Requirement::Project(&[ProjectRole::GroupOwner]);
    const READERS: Requirement = Requirement::Project(&[ProjectRole::GroupReadOnly]);

    #[test]
    fn an_organization_owner_reads_a_project_but_does_not_configure_it() {
        let owner = Grants { org: vec![(ORG, OrgRole::OrgOwner)], project: vec![] };
        assert_eq!(owner.allow(READERS, Some(ORG), Some(PROJECT)), Ok(()));
        assert_eq!(owner.allow(OWNER_ONLY, Some(ORG), Some(PROJECT)), Err(Refusal::MissingRole));
        let access = Requirement::Project(&[ProjectRole::GroupAccessManager]);
        assert_eq!(owner.allow(access, Some(ORG), Some(PROJECT)), Ok(()));
        assert_eq!(owner.allow(READERS, Some(OTHER_ORG), Some(OTHER)), Err(Refusal::NotInProject));
    }

    #[test]
    fn a_project_role_counts_in_its_project_alone() {
        let owner = Grants { org: vec![], project: vec![(PROJECT, ProjectRole::GroupOwner)] };
        assert_eq!(owner.allow(OWNER_ONLY, Some(ORG), Some(PROJECT)), Ok(()));
        assert_eq!(owner.allow(OWNER_ONLY, Some(ORG), Some(OTHER)), Err(Refusal::NotInProject));
    }

    #[test]
    fn every_project_role_reads_and_only_the_owner_owns() {
        for role in ProjectRole::ALL {
            assert!(role.includes(ProjectRole::GroupReadOnly), "{role:?}");
            assert!(role.includes(role), "{role:?}");
            assert_eq!(role.includes(ProjectRole::GroupOwner), role == ProjectRole::GroupOwner, "{role:?}");
        }
    }

    #[test]
    fn every_organization_role_is_a_member_and_only_the_owner_owns() {
        for role in OrgRole::ALL {
            assert!(role.includes(OrgRole::OrgMember), "{role:?}");
            assert_eq!(role.includes(OrgRole::OrgOwner), role == OrgRole::OrgOwner, "{role:?}");
        }
    }
}
