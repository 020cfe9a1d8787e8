//! Who has which role where.

use std::{collections::BTreeMap, fmt, str::FromStr};

use keyward_model::{
    id::{ApiKeyId, OrgId, ProjectId, UserId},
    role::{Grants, OrgRole, ProjectRole},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Change, StoreError,
    tx::{Columns, Tx},
};

/// Who can have roles.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalId {
    /// A person.
    User(UserId),
    /// An API key.
    ApiKey(ApiKeyId),
    /// A service account, by its client id.
    ServiceAccount(String),
}

/// One role in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grant {
    /// In an organization.
    Org(OrgId, OrgRole),
    /// In a project.
    Project(ProjectId, ProjectRole),
}

impl Tx {
    /// The roles of a principal, ordered.
    pub async fn grants(&mut self, principal: &PrincipalId) -> Result<Grants, StoreError> {
        let rows =
            sqlx::query("SELECT scope, role FROM \"grants\" WHERE principal = $1 ORDER BY scope, role")
                .bind(principal.to_string());
        let mut grants = Grants::default();
        for row in self.rows(rows).await? {
            match Grant::read(&row.text("scope")?, &row.text("role")?)? {
                Grant::Org(org, role) => grants.org.push((org, role)),
                Grant::Project(project, role) => grants.project.push((project, role)),
            }
        }
        Ok(grants)
    }

    /// Who has roles in an organization itself, and which, by principal.
    pub async fn org_members(&mut self, org: OrgId) -> Result<Vec<(PrincipalId, Vec<OrgRole>)>, StoreError> {
        self.members(org_scope(org)).await
    }

    /// Who has roles in a project, and which, by principal.
    pub async fn project_members(
        &mut self,
        project: ProjectId,
    ) -> Result<Vec<(PrincipalId, Vec<ProjectRole>)>, StoreError> {
        self.members(project_scope(project)).await
    }

    async fn members<R: DeserializeOwned>(
        &mut self,
        scope: String,
    ) -> Result<Vec<(PrincipalId, Vec<R>)>, StoreError> {
        let rows =
            sqlx::query("SELECT principal, role FROM \"grants\" WHERE scope = $1 ORDER BY principal, role");
        let mut members = BTreeMap::<PrincipalId, Vec<R>>::new();
        for row in self.rows(rows.bind(scope)).await? {
            let role = read_role(&row.text("role")?)?;
            members.entry(row.text("principal")?.parse()?).or_default().push(role);
        }
        Ok(members.into_iter().collect())
    }
}

impl Change {
    /// Gives a role; one that is held already stays.
    pub async fn grant(&mut self, principal: &PrincipalId, grant: Grant) -> Result<(), StoreError> {
        let (scope, role) = grant.written();
        let insert =
            "INSERT INTO \"grants\" (principal, scope, role) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let principal = storable(principal)?;
        self.execute(sqlx::query(insert).bind(principal).bind(scope).bind(role)).await.map(drop)
    }

    /// Takes a role; whether it was held.
    pub async fn revoke(&mut self, principal: &PrincipalId, grant: Grant) -> Result<bool, StoreError> {
        let (scope, role) = grant.written();
        let delete = "DELETE FROM \"grants\" WHERE principal = $1 AND scope = $2 AND role = $3";
        let principal = storable(principal)?;
        Ok(self.execute(sqlx::query(delete).bind(principal).bind(scope).bind(role)).await? > 0)
    }

    /// Makes these the roles in an organization itself; none takes all.
    pub async fn set_org_roles(
        &mut self,
        principal: &PrincipalId,
        org: OrgId,
        roles: &[OrgRole],
    ) -> Result<(), StoreError> {
        self.revoke_all(principal, org_scope(org)).await?;
        for &role in roles {
            self.grant(principal, Grant::Org(org, role)).await?;
        }
        Ok(())
    }

    /// Makes these the roles in a project; none takes all.
    pub async fn set_project_roles(
        &mut self,
        principal: &PrincipalId,
        project: ProjectId,
        roles: &[ProjectRole],
    ) -> Result<(), StoreError> {
        self.revoke_all(principal, project_scope(project)).await?;
        for &role in roles {
            self.grant(principal, Grant::Project(project, role)).await?;
        }
        Ok(())
    }

    /// Takes every role of a principal.
    pub async fn drop_grants(&mut self, principal: &PrincipalId) -> Result<(), StoreError> {
        let delete = sqlx::query("DELETE FROM \"grants\" WHERE principal = $1").bind(storable(principal)?);
        self.execute(delete).await.map(drop)
    }

    /// Takes everyone's roles in an organization itself.
    pub async fn drop_org_grants(&mut self, org: OrgId) -> Result<(), StoreError> {
        self.execute(sqlx::query("DELETE FROM \"grants\" WHERE scope = $1").bind(org_scope(org)))
            .await
            .map(drop)
    }

    /// Takes everyone's roles in a project.
    pub async fn drop_project_grants(&mut self, project: ProjectId) -> Result<(), StoreError> {
        self.execute(sqlx::query("DELETE FROM \"grants\" WHERE scope = $1").bind(project_scope(project)))
            .await
            .map(drop)
    }

    async fn revoke_all(&mut self, principal: &PrincipalId, scope: String) -> Result<(), StoreError> {
        let delete = "DELETE FROM \"grants\" WHERE principal = $1 AND scope = $2";
        self.execute(sqlx::query(delete).bind(storable(principal)?).bind(scope)).await.map(drop)
    }
}

const ORG: &str = "org:";
const PROJECT: &str = "project:";
const USER: &str = "user:";
const API_KEY: &str = "apiKey:";
const SERVICE_ACCOUNT: &str = "serviceAccount:";

impl fmt::Display for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrincipalId::User(id) => write!(f, "{USER}{id}"),
            PrincipalId::ApiKey(id) => write!(f, "{API_KEY}{id}"),
            PrincipalId::ServiceAccount(id) => write!(f, "{SERVICE_ACCOUNT}{id}"),
        }
    }
}

impl FromStr for PrincipalId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(id) = text.strip_prefix(USER) {
            id.parse().map(PrincipalId::User).map_err(unreadable)
        } else if let Some(id) = text.strip_prefix(API_KEY) {
            id.parse().map(PrincipalId::ApiKey).map_err(unreadable)
        } else if let Some(id) = text.strip_prefix(SERVICE_ACCOUNT) {
            Ok(PrincipalId::ServiceAccount(id.to_owned()))
        } else {
            Err(unreadable("its principal is of no known kind"))
        }
    }
}

impl Grant {
    fn written(self) -> (String, String) {
        match self {
            Grant::Org(org, role) => (org_scope(org), write_role(role)),
            Grant::Project(project, role) => (project_scope(project), write_role(role)),
        }
    }

    fn read(scope: &str, role: &str) -> Result<Self, StoreError> {
        if let Some(org) = scope.strip_prefix(ORG) {
            Ok(Grant::Org(org.parse().map_err(unreadable)?, read_role(role)?))
        } else if let Some(project) = scope.strip_prefix(PROJECT) {
            Ok(Grant::Project(project.parse().map_err(unreadable)?, read_role(role)?))
        } else {
            Err(unreadable("its scope is of no known kind"))
        }
    }
}

fn org_scope(org: OrgId) -> String {
    format!("{ORG}{org}")
}

fn project_scope(project: ProjectId) -> String {
    format!("{PROJECT}{project}")
}

/// A role's name as the API has it.
fn write_role<R: Serialize>(role: R) -> String {
    match serde_json::to_value(role) {
        Ok(serde_json::Value::String(name)) => name,
        _ => unreachable!("a role is written as its name"),
    }
}

fn read_role<R: DeserializeOwned>(name: &str) -> Result<R, StoreError> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(unreadable)
}

fn storable(principal: &PrincipalId) -> Result<String, StoreError> {
    let text = principal.to_string();
    if text.contains('\0') { Err(StoreError::Unstorable { what: "a client id" }) } else { Ok(text) }
}

fn unreadable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unreadable { what: "a role".to_owned(), source: source.into() }
}
