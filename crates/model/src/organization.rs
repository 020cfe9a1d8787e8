//! Organizations: what owns projects.

use serde::{Deserialize, Serialize};

use crate::{Timestamp, id::OrgId};

/// An organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Organization {
    /// Its id.
    pub id: OrgId,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// Whether new projects start without the usual alert configurations.
    pub skip_default_alerts_settings: bool,
    /// Its settings.
    pub settings: OrganizationSettings,
}

/// Settings of an organization. Stored and echoed; keyward acts on the access list and on secrets' lifetime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrganizationSettings {
    /// Whether API keys and service accounts need an access list.
    pub api_access_list_required: bool,
    /// How long people's sessions last.
    #[serde(default)]
    pub custom_session_timeouts: Option<SessionTimeouts>,
    /// Whether generative features are on.
    #[serde(rename = "genAIFeaturesEnabled")]
    pub gen_ai_features_enabled: bool,
    /// Longest lifetime of a service account's secret, hours.
    pub max_service_account_secret_validity_in_hours: u32,
    /// Whether people need a second factor.
    pub multi_factor_auth_required: bool,
    /// Whether the operator's people are kept out.
    pub restrict_employee_access: bool,
    /// Whom to write to about security.
    pub security_contact: Option<String>,
    /// Whom to write to about operations.
    pub operations_contact: Option<String>,
    /// Whether streams may cross projects.
    pub streams_cross_group_enabled: bool,
}

/// How long people's sessions last, seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionTimeouts {
    /// In all.
    pub absolute_session_timeout_in_seconds: Option<u32>,
    /// Without anything done.
    pub idle_session_timeout_in_seconds: Option<u32>,
}

/// Longest lifetime of a service account's secret that an organization can set, hours.
pub const LONGEST_SECRET_HOURS: u32 = 8760;

impl Default for OrganizationSettings {
    fn default() -> Self {
        Self {
            api_access_list_required: false,
            custom_session_timeouts: None,
            gen_ai_features_enabled: true,
            max_service_account_secret_validity_in_hours: LONGEST_SECRET_HOURS,
            multi_factor_auth_required: false,
            restrict_employee_access: false,
            security_contact: None,
            operations_contact: None,
            streams_cross_group_enabled: false,
        }
    }
}
