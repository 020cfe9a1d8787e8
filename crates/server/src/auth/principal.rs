//! Who makes a request.

use keyward_model::{
    event::Actor,
    id::{ApiKeyId, UserId},
    role::Grants,
};
use keyward_store::PrincipalId;

/// The caller of an operation, and what they may do.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Who.
    pub who: Who,
    /// Their roles.
    pub grants: Grants,
}

/// A kind of caller, and which one of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A person. Has no password: a name that roles are given to.
    User {
        /// The id.
        id: UserId,
        /// The name.
        username: String,
    },
    /// An API key.
    ApiKey {
        /// The id.
        id: ApiKeyId,
        /// The public key.
        public_key: String,
    },
    /// A service account.
    ServiceAccount {
        /// The id.
        client_id: String,
        /// The name.
        name: String,
    },
    /// Nobody: the operation asks for no one.
    Nobody,
}

impl Principal {
    /// Nobody.
    pub fn nobody() -> Self {
        Self { who: Who::Nobody, grants: Grants::default() }
    }

    /// The caller as roles are given to; `None` for nobody.
    pub fn principal_id(&self) -> Option<PrincipalId> {
        match &self.who {
            Who::User { id, .. } => Some(PrincipalId::User(*id)),
            Who::ApiKey { id, .. } => Some(PrincipalId::ApiKey(*id)),
            Who::ServiceAccount { client_id, .. } => Some(PrincipalId::ServiceAccount(client_id.clone())),
            Who::Nobody => None,
        }
    }

    /// The caller as events name them. An operation open to everyone changes nothing, so nobody is the operator.
    pub fn actor(&self) -> Actor {
        match &self.who {
            Who::User { id, username } => Actor::User { id: *id, username: username.clone() },
            Who::ApiKey { id, public_key } => Actor::ApiKey { id: *id, public_key: public_key.clone() },
            Who::ServiceAccount { client_id, name } => {
                Actor::ServiceAccount { client_id: client_id.clone(), name: name.clone() }
            }
            Who::Nobody => Actor::Operator,
        }
    }
}
