//! Who may do what: every operation against every role.

use std::collections::BTreeMap;

use keyward_model::{
    id::{OrgId, ProjectId},
    role::{Grants, OrgRole, ProjectRole, Requirement},
};
use keyward_server::api::{self, unbuilt::CONTRACT};
use serde_json::Value;

const ORG: OrgId = OrgId::from_bytes([1; 12]);
const PROJECT: ProjectId = ProjectId::from_bytes([2; 12]);

/// Where keyward lets in more at the door than the document, and asks further in the handler, so that an
/// organization's owner can add themselves to a project; or asks for membership where the document says nothing.
const ASKED_IN_THE_HANDLER: &[&str] = &[
    "addGroupApiKey",
    "addGroupAccessUser",
    "updateGroupUserRoles",
    "createOrgApiKeyAccessListEntry",
    "deleteOrgApiKeyAccessListEntry",
];

#[test]
fn what_is_built_is_what_the_contract_says() {
    for (id, method, path, versions, requires) in CONTRACT {
        let operation =
            api::all().iter().find(|operation| operation.id == *id).unwrap_or_else(|| panic!("{id}"));
        assert_eq!((operation.method.as_str(), operation.path), (*method, *path), "{id}");
        assert_eq!(operation.versions, *versions, "{id}");
        if !ASKED_IN_THE_HANDLER.contains(id) {
            assert_eq!(operation.requires, *requires, "{id}");
        }
    }
    let mut ids: Vec<&str> = api::all().iter().map(|operation| operation.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an id comes twice");
}

#[test]
fn only_what_clients_need_before_signing_in_is_open() {
    let open: Vec<&str> = api::all()
        .iter()
        .filter(|operation| operation.requires == Requirement::Nobody)
        .map(|operation| operation.path)
        .collect();
    for path in &open {
        assert!(
            path.starts_with("/api/oauth/") || path.contains("/unauth/") || *path == "/api/private/ipinfo",
            "{path} is open to everyone"
        );
    }
    assert!(open.len() >= 5);
}

#[test]
fn who_has_no_role_is_let_into_no_project_and_no_organization() {
    let nobody = Grants::default();
    for operation in api::all() {
        let scoped = operation.path.contains("{groupId}") || operation.path.contains("{orgId}");
        let allowed = nobody.allow(operation.requires, Some(ORG), Some(PROJECT)).is_ok();
        assert!(!(scoped && allowed), "{operation:?} is open to who has no role");
    }
}

/// Each role against each operation, as the official document says. Skipped where the document is not at hand.
#[test]
fn each_role_may_do_what_the_official_document_says() {
    let Some(path) = std::env::var_os("KEYWARD_ATLAS_OPENAPI").filter(|path| !path.is_empty()) else {
        keyward_testkit::report_skip(
            "roles are not held against the official document: KEYWARD_ATLAS_OPENAPI names none",
        );
        return;
    };
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let official = official_roles(&document);
    let mut held = 0;
    for operation in api::all() {
        let Some(names) = official.get(operation.id) else { continue };
        if ASKED_IN_THE_HANDLER.contains(&operation.id) {
            continue;
        }
        for role in ProjectRole::ALL {
            let grants = Grants { org: vec![], project: vec![(PROJECT, role)] };
            let enough =
                names.iter().any(|name| project_role(name).is_some_and(|asked| role.includes(asked)));
            // Who has a role in a project is a member of its organization, by a grant of its own.
            let scoped = names.iter().any(|name| name.starts_with("Project"));
            let everyone = operation.requires == Requirement::Authenticated;
            let allowed = grants.allow(operation.requires, Some(ORG), Some(PROJECT)).is_ok();
            assert_eq!(allowed, enough || everyone, "{} for {role:?} ({names:?}, {scoped})", operation.id);
            held += 1;
        }
        for role in OrgRole::ALL {
            let grants = Grants { org: vec![(ORG, role)], project: vec![] };
            let of_org = names.iter().any(|name| org_role(name).is_some_and(|asked| role.includes(asked)));
            // What the organization's owner and reader are in each project: reading, and managing access.
            let in_projects: &[ProjectRole] = match role {
                OrgRole::OrgOwner => &[ProjectRole::GroupReadOnly, ProjectRole::GroupAccessManager],
                OrgRole::OrgReadOnly => &[ProjectRole::GroupReadOnly],
                OrgRole::OrgGroupCreator
                | OrgRole::OrgBillingReadOnly
                | OrgRole::OrgBillingAdmin
                | OrgRole::OrgMember => &[],
            };
            let of_project = names.iter().any(|name| {
                project_role(name).is_some_and(|asked| in_projects.iter().any(|role| role.includes(asked)))
            });
            let everyone = operation.requires == Requirement::Authenticated;
            let allowed = grants.allow(operation.requires, Some(ORG), Some(PROJECT)).is_ok();
            assert_eq!(
                allowed,
                of_org || of_project || everyone,
                "{} for {role:?} ({names:?})",
                operation.id
            );
            held += 1;
        }
    }
    assert!(held > 1000, "{held}");
}

/// The roles that the document asks for, by operation.
fn official_roles(document: &Value) -> BTreeMap<String, Vec<String>> {
    let paths = document["paths"].as_object().unwrap().values();
    paths
        .flat_map(|item| item.as_object().unwrap().values())
        .filter_map(|operation| {
            let roles = operation["x-rolesRequirements"].as_array()?;
            let names = roles.iter().map(|role| role.as_str().unwrap().to_owned()).collect();
            Some((operation["operationId"].as_str()?.to_owned(), names))
        })
        .collect()
}

/// The role of keyward that does what a role of the document does; some newer ones are folded into older ones.
fn project_role(name: &str) -> Option<ProjectRole> {
    Some(match name {
        "Project Owner" => ProjectRole::GroupOwner,
        "Project Read Only" => ProjectRole::GroupReadOnly,
        "Project Cluster Creator" => ProjectRole::GroupClusterCreator,
        "Project Cluster Manager" | "Project Cluster Resilience Tester" | "Project Replica Set Manager" => {
            ProjectRole::GroupClusterManager
        }
        "Project Backup Manager"
        | "Project Backup Creator"
        | "Project Backup Export Operator"
        | "Project Backup Recovery Operator" => ProjectRole::GroupBackupManager,
        "Project Alerts Manager" => ProjectRole::GroupAlertsManager,
        "Project Access Manager" => ProjectRole::GroupAccessManager,
        name if name.starts_with("Organization") => return None,
        other => panic!("the document has a role {other} that this test does not know"),
    })
}

fn org_role(name: &str) -> Option<OrgRole> {
    Some(match name {
        "Organization Owner" => OrgRole::OrgOwner,
        "Organization Read Only" => OrgRole::OrgReadOnly,
        "Organization Member" => OrgRole::OrgMember,
        name if name.starts_with("Project") => return None,
        other => panic!("the document has a role {other} that this test does not know"),
    })
}
