//! Projects: the scope in which a customer key is configured.

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    id::{OrgId, ProjectId},
};

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// The organization that owns it.
    pub org: OrgId,
    /// Its name, unique in the organization.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// Labels.
    pub tags: Vec<Tag>,
    /// Which regions it may use. Stored and echoed.
    pub region_usage_restrictions: RegionUsage,
    /// Whether it started with the usual alert configurations.
    pub with_default_alerts_settings: bool,
    /// Its settings.
    pub settings: ProjectSettings,
}

/// Which regions a project may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RegionUsage {
    /// Commercial ones.
    #[default]
    CommercialFedrampRegionsOnly,
    /// Government ones.
    GovRegionsOnly,
}

/// A label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
}

/// Settings of a project. Stored and echoed; keyward acts on none of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "Atlas' switches for parts that keyward does not have")]
pub struct ProjectSettings {
    pub is_cluster_ai_assistant_enabled: bool,
    pub is_collect_database_specifics_statistics_enabled: bool,
    pub is_data_explorer_enabled: bool,
    #[serde(rename = "isDataExplorerGenAIFeaturesEnabled")]
    pub is_data_explorer_gen_ai_features_enabled: bool,
    #[serde(rename = "isDataExplorerGenAISampleDocumentPassingEnabled")]
    pub is_data_explorer_gen_ai_sample_document_passing_enabled: bool,
    pub is_data_validation_enabled: bool,
    pub is_extended_storage_sizes_enabled: bool,
    pub is_native_reranking_enabled: bool,
    pub is_performance_advisor_enabled: bool,
    pub is_realtime_performance_panel_enabled: bool,
    pub is_schema_advisor_enabled: bool,
}

impl Default for ProjectSettings {
    fn default() -> Self {
        Self {
            is_cluster_ai_assistant_enabled: false,
            is_collect_database_specifics_statistics_enabled: true,
            is_data_explorer_enabled: true,
            is_data_explorer_gen_ai_features_enabled: true,
            is_data_explorer_gen_ai_sample_document_passing_enabled: false,
            is_data_validation_enabled: false,
            is_extended_storage_sizes_enabled: false,
            is_native_reranking_enabled: false,
            is_performance_advisor_enabled: true,
            is_realtime_performance_panel_enabled: true,
            is_schema_advisor_enabled: true,
        }
    }
}
