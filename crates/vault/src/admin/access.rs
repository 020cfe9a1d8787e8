//! Who may use the keys: access policies and role assignments.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{AdminRefusal, read, to_json};
use crate::answer::Answer;
use crate::authorize::{RECOMMENDED_ROLE, read_grant};
use crate::service::{HttpRequest, Service};
use crate::state::{AccessModel, PolicyEntry, RoleAssignment, State, UnixSeconds};

/// A grant or its removal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessChange {
    /// Whom it is for.
    pub client_id: String,
    /// Without it, the model that the vault uses. A *grant* in the other model switches the vault to it, which
    /// voids all that the first one granted, as in Azure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<AccessModel>,
    /// Policy words, data actions or role names; see [`read_grant`]. Empty: for a grant the role that keyward
    /// recommends, for a removal everything.
    #[serde(default)]
    pub actions: Vec<String>,
    /// The one key that it is about: a role assignment at that key's scope. Without it, a grant is one at the vault's
    /// scope, and a removal is about both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What a grant or its removal came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessResult {
    /// Whom it is for.
    pub client_id: String,
    /// The model it was written in.
    pub model: AccessModel,
    /// Whether the vault was switched to that model by it.
    pub switched: bool,
    /// Policy words that the application holds in this model now.
    pub permissions: Vec<String>,
    /// Whether it may read the vault resource through ARM.
    pub vault_read: bool,
}

pub(super) async fn answer(
    service: &Service,
    http: &HttpRequest,
    rest: &[&str],
) -> Result<Answer, AdminRefusal> {
    match (http.method.as_str(), rest) {
        ("GET", []) => {
            let state = service.state();
            let all: Vec<AccessResult> = [AccessModel::Policy, AccessModel::Rbac]
                .into_iter()
                .flat_map(|model| {
                    state.directory.applications.keys().map(move |id| (model, id.clone())).collect::<Vec<_>>()
                })
                .map(|(model, client_id)| held(&state, &client_id, model, false))
                .filter(|held| !held.permissions.is_empty() || held.vault_read)
                .collect();
            Ok(to_json(&all))
        }
        ("POST", ["grant"]) => {
            let change: AccessChange = read(http)?;
            let now = service.now();
            let id = Uuid::new_v4().to_string();
            Ok(to_json(&service.change(|state| grant(state, &change, now, id)).await?))
        }
        ("POST", ["revoke"]) => {
            let change: AccessChange = read(http)?;
            let now = service.now();
            Ok(to_json(&service.change(|state| revoke(state, &change, now)).await?))
        }
        _ => Err(AdminRefusal::NoSuchPath),
    }
}

fn grant(
    state: &mut State,
    change: &AccessChange,
    now: UnixSeconds,
    assignment_id: String,
) -> Result<AccessResult, AdminRefusal> {
    let object_id = object_id(state, &change.client_id)?;
    let model = change.model.unwrap_or(state.vault.access_model);
    let recommended = [RECOMMENDED_ROLE.to_owned()];
    let words = if change.actions.is_empty() { &recommended[..] } else { &change.actions[..] };
    let granted = read_grant(words).map_err(unknown_action)?;
    check_scope(change, model, granted.vault_read || granted.vault_write)?;
    let from = now + i64::from(state.settings.grant_delay_s);
    let vault = &mut state.vault;
    vault.drop_ended_grants(now);
    let switched = vault.access_model != model;
    vault.access_model = model;
    if model == AccessModel::Policy && !granted.permissions.is_empty() {
        vault.policies.push(PolicyEntry {
            object_id: object_id.clone(),
            permissions: granted.permissions.clone(),
            from,
            until: None,
        });
    }
    if model == AccessModel::Rbac || granted.vault_read {
        let permissions = if model == AccessModel::Rbac { granted.permissions } else { Default::default() };
        vault.roles.push(RoleAssignment {
            id: assignment_id,
            object_id,
            key: change.key.clone(),
            role: words.join(", "),
            permissions,
            vault_read: granted.vault_read,
            vault_write: granted.vault_write,
            from,
            until: None,
        });
    }
    Ok(held(state, &change.client_id, model, switched))
}

fn revoke(state: &mut State, change: &AccessChange, now: UnixSeconds) -> Result<AccessResult, AdminRefusal> {
    let object_id = object_id(state, &change.client_id)?;
    let model = change.model.unwrap_or(state.vault.access_model);
    let everything = change.actions.is_empty();
    let taken = read_grant(&change.actions).map_err(unknown_action)?;
    check_scope(change, model, taken.vault_read || taken.vault_write)?;
    let until = now + i64::from(state.settings.grant_delay_s);
    let vault = &mut state.vault;
    vault.drop_ended_grants(now);
    // A removal that is felt later leaves the old entry with an end, and adds what stays of it from then on.
    let mut policies = Vec::new();
    let mut roles = Vec::new();
    match model {
        AccessModel::Policy => {
            for entry in vault.policies.iter_mut().filter(|p| p.object_id == object_id && p.until.is_none()) {
                entry.until = Some(until);
                let mut left = PolicyEntry { from: until, until: None, ..entry.clone() };
                left.permissions.retain(|p| !everything && !taken.permissions.contains(p));
                if !left.permissions.is_empty() {
                    policies.push(left);
                }
            }
        }
        AccessModel::Rbac => {
            let meant = |role: &&mut RoleAssignment| {
                let in_scope =
                    change.key.is_none() || (role.key.is_some() && role.covers(change.key.as_deref()));
                role.object_id == object_id && role.until.is_none() && in_scope
            };
            for role in vault.roles.iter_mut().filter(meant) {
                role.until = Some(until);
                let mut left = RoleAssignment { from: until, until: None, ..role.clone() };
                left.permissions.retain(|p| !everything && !taken.permissions.contains(p));
                left.vault_read &= !everything && !taken.vault_read;
                left.vault_write &= !everything && !taken.vault_write;
                if !left.permissions.is_empty() || left.vault_read || left.vault_write {
                    roles.push(left);
                }
            }
        }
    }
    vault.policies.extend(policies);
    vault.roles.extend(roles);
    vault.drop_ended_grants(now);
    Ok(held(state, &change.client_id, model, false))
}

fn held(state: &State, client_id: &str, model: AccessModel, switched: bool) -> AccessResult {
    let object_id = state.directory.applications.get(client_id).map_or("", |a| a.object_id.as_str());
    let vault = &state.vault;
    let roles = || vault.roles.iter().filter(|r| r.object_id == object_id && r.until.is_none());
    let mut permissions: std::collections::BTreeSet<_> = match model {
        AccessModel::Policy => vault
            .policies
            .iter()
            .filter(|p| p.object_id == object_id && p.until.is_none())
            .flat_map(|p| p.permissions.iter().copied())
            .collect(),
        AccessModel::Rbac => roles().flat_map(|r| r.permissions.iter().copied()).collect(),
    };
    let words = std::mem::take(&mut permissions).into_iter().map(|p| p.policy_word().to_owned()).collect();
    AccessResult {
        client_id: client_id.to_owned(),
        model,
        switched,
        permissions: words,
        vault_read: roles().any(|r| r.vault_read),
    }
}

/// Only data actions of role assignments go by key.
fn check_scope(change: &AccessChange, model: AccessModel, on_the_vault: bool) -> Result<(), AdminRefusal> {
    match (&change.key, model) {
        (Some(_), AccessModel::Policy) => {
            Err(AdminRefusal::Bad("an access policy holds for the whole vault, not for one key".to_owned()))
        }
        (Some(_), AccessModel::Rbac) if on_the_vault => Err(AdminRefusal::Bad(
            "vaults/read and vaults/write are about the vault, not about one key".to_owned(),
        )),
        (Some(_) | None, _) => Ok(()),
    }
}

fn object_id(state: &State, client_id: &str) -> Result<String, AdminRefusal> {
    state
        .directory
        .applications
        .get(client_id)
        .map(|a| a.object_id.clone())
        .ok_or_else(|| AdminRefusal::NoSuchApplication(client_id.to_owned()))
}

fn unknown_action(word: String) -> AdminRefusal {
    AdminRefusal::Bad(format!(
        "{word:?} is not an action: use policy words (wrapKey), data actions (Microsoft.KeyVault/vaults/keys/wrap/action), role names, vaults/read or all"
    ))
}
