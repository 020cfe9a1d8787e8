//! Public failures: every code that an answer of the API can carry, with its text and what to do about it.
//!
//! The names are the Atlas Administration API's where it has one, ours elsewhere. What HTTP status a code has is the
//! server's business.

macro_rules! codes {
    ($($variant:ident, $code:literal, $text:literal, $advice:literal;)*) => {
        /// A public failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $text] $variant,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The name that clients look for.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }

            /// What happened, in a sentence.
            pub const fn text(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }

            /// What to do next, in a sentence.
            pub const fn advice(self) -> &'static str {
                match self { $(Code::$variant => $advice,)* }
            }
        }
    };
}

// Variant, name, text, advice. One line each, by subject.
codes! {
    // Who calls.
    Unauthenticated, "UNEXPECTED_ERROR", "You are not authorized for this resource.", "Sign the request with an API key, or send a service account's token.";
    UserUnauthorized, "USER_UNAUTHORIZED", "The caller has no role that allows this.", "Ask an owner of the project or organization for the role.";
    NotInGroup, "NOT_IN_GROUP", "The caller does not belong to the project.", "Ask an owner of the project for a role in it.";
    NotOrgGroupCreator, "NOT_ORG_GROUP_CREATOR", "The caller may not create projects in the organization.", "Ask an owner of the organization for the role ORG_GROUP_CREATOR.";
    AccessForbidden, "ACCESS_FORBIDDEN", "This is not allowed.", "Ask an owner of the organization.";
    IpAddressNotOnWhitelist, "IP_ADDRESS_NOT_ON_WHITELIST", "The request's address is not on the caller's access list.", "Add the address to the access list of the API key or service account.";
    OrgRequiresWhitelist, "ORG_REQUIRES_WHITELIST", "The organization asks for an access list, and the caller has none.", "Add the caller's address to its access list.";
    CannotDeleteLastOwner, "CANNOT_DELETE_LAST_OWNER", "The last owner cannot be removed.", "Make someone else an owner first.";
    CannotDemoteLastOwner, "CANNOT_DEMOTE_LAST_OWNER", "The last owner cannot lose the role.", "Make someone else an owner first.";
    RateLimited, "RATE_LIMITED", "There were too many requests, or too many refused ones.", "Wait as long as Retry-After says.";
    // The request itself.
    InvalidVersionDate, "INVALID_VERSION_DATE", "Invalid accept header or version date.", "Accept application/vnd.atlas.YYYY-MM-DD+json with a version that the operation has.";
    UnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", "The body is of a media type that this operation does not read.", "Send JSON, as application/json or application/vnd.atlas.YYYY-MM-DD+json.";
    MethodNotAllowed, "METHOD_NOT_ALLOWED", "This path does not answer this method.", "The header Allow names the methods it answers.";
    RequestTooLarge, "REQUEST_TOO_LARGE", "The request is larger than the server reads.", "Send at most 1 MiB of body and 16 KiB of header.";
    RequestTimeout, "REQUEST_TIMEOUT", "The request did not arrive in time.", "Send it again.";
    MalformedJson, "MALFORMED_JSON", "The body is no JSON.", "Correct the body.";
    InvalidJson, "INVALID_JSON", "The body is JSON, but not of the form that this operation reads.", "Correct the body.";
    InvalidAttribute, "INVALID_ATTRIBUTE", "An attribute has a value that it cannot have.", "Correct the attribute.";
    AttributeReadOnly, "ATTRIBUTE_READ_ONLY", "The attribute is set by the server.", "Leave it out.";
    MissingAttribute, "MISSING_ATTRIBUTE", "A required attribute is missing.", "Add it.";
    MissingAttributes, "MISSING_ATTRIBUTES", "Required attributes are missing.", "Add them.";
    InvalidEnumValue, "INVALID_ENUM_VALUE", "An attribute has none of its possible values.", "Choose one of them.";
    InvalidPathParameter, "INVALID_PATH_PARAMETER", "A part of the path has a value that it cannot have.", "Correct the path.";
    InvalidQueryParameter, "INVALID_QUERY_PARAMETER", "A query parameter has a value that it cannot have.", "Correct the query.";
    ValidationError, "VALIDATION_ERROR", "The request does not hold together.", "Correct what the answer names.";
    NotImplemented, "NOT_IMPLEMENTED", "keyward does not answer this operation yet.", "See the reference for what it answers.";
    // What the request is about.
    ResourceNotFound, "RESOURCE_NOT_FOUND", "There is no such resource.", "Correct the path.";
    OrgNotFound, "ORG_NOT_FOUND", "There is no such organization, or the caller does not belong to it.", "List the organizations you belong to.";
    GroupNotFound, "GROUP_NOT_FOUND", "There is no such project, or the caller does not belong to it.", "List the projects you belong to.";
    GroupNameNotFound, "GROUP_NAME_NOT_FOUND", "There is no project of that name, or the caller does not belong to it.", "List the projects you belong to.";
    GroupAlreadyExists, "GROUP_ALREADY_EXISTS", "The organization has a project of that name.", "Choose another name.";
    CannotCloseGroupActiveAtlasClusters, "CANNOT_CLOSE_GROUP_ACTIVE_ATLAS_CLUSTERS", "The project still has clusters.", "Delete them first.";
    CannotDeleteOrgActiveGroups, "CANNOT_DELETE_ORG_ACTIVE_GROUPS", "The organization still has projects.", "Delete them first.";
    UserNotFound, "USER_NOT_FOUND", "There is no such user here.", "List the users.";
    UserAlreadyExists, "USER_ALREADY_EXISTS", "The user belongs here already.", "Change the user's roles instead.";
    ApiKeyNotFound, "API_KEY_NOT_FOUND", "There is no such API key here.", "List the API keys.";
    ServiceAccountNotFound, "SERVICE_ACCOUNT_NOT_FOUND", "There is no such service account here.", "List the service accounts.";
    ServiceAccountSecretNotFound, "SERVICE_ACCOUNT_SECRET_NOT_FOUND", "The service account has no such secret.", "Read the service account.";
    TooManySecrets, "SERVICE_ACCOUNT_MAX_SECRETS", "A service account has at most two secrets.", "Delete one first.";
    AccessListEntryNotFound, "ACCESS_LIST_ENTRY_NOT_FOUND", "The access list has no such entry.", "List the entries.";
    ResourceChanged, "RESOURCE_CHANGED", "Someone else changed it in the same moment.", "Read it again, and repeat the change.";
    ResourceExists, "RESOURCE_EXISTS", "It exists already.", "Choose another name.";
    // Clusters.
    NodeNotFound, "KEYWARD_NODE_NOT_FOUND", "There is no such node in the project.", "List the project's nodes.";
    JoinTokenNotFound, "KEYWARD_JOIN_TOKEN_NOT_FOUND", "There is no such join token in the project.", "List the project's join tokens; used and expired ones go by themselves.";
    CannotUseEncryptionAtRestTenant, "CANNOT_USE_ENCRYPTION_AT_REST_TENANT", "M0, M2, M5, Flex and Serverless clusters cannot be encrypted with a customer key.", "Choose an instance size from M10.";
    TenantClusterNotSupported, "KEYWARD_TENANT_CLUSTER_NOT_SUPPORTED", "keyward has no M0, M2, M5, Flex or Serverless clusters.", "Choose an instance size from M10.";
    ClusterTypeNotSupported, "KEYWARD_CLUSTER_TYPE_NOT_SUPPORTED", "keyward's clusters are replica sets.", "Use clusterType REPLICASET with one entry in replicationSpecs.";
    ClusterAlreadyRequestedDeletion, "CLUSTER_ALREADY_REQUESTED_DELETION", "The cluster is being deleted.", "Wait until it is gone.";
    CannotTerminateProtectedCluster, "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED", "The cluster is protected from termination.", "Set terminationProtectionEnabled to false first.";
    CannotUpdatePausedCluster, "CANNOT_UPDATE_PAUSED_CLUSTER", "A paused cluster cannot be changed.", "Resume it with paused false first.";
    MongoDbVersionIsTheHosts, "KEYWARD_MONGODB_VERSION_IS_THE_HOSTS", "keyward does not install MongoDB: the release is what the nodes' hosts have.", "Upgrade mongod on the hosts, and leave mongoDBMajorVersion out.";
    CannotUseNonFlexClusterInFlexApi, "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API", "The cluster is no Flex cluster.", "Use the cluster API for it.";
    ProcessNotFound, "HOST_NOT_FOUND", "There is no such process in the project.", "List the project's processes.";
    ClusterNotFound, "CLUSTER_NOT_FOUND", "There is no such cluster in the project.", "List the project's clusters.";
    DuplicateClusterName, "DUPLICATE_CLUSTER_NAME", "The project has a cluster of that name.", "Choose another name.";
    EncryptionAtRestNotEnabled, "ENCRYPTION_AT_REST_NOT_ENABLED", "The project has no customer key of that provider.", "Configure encryptionAtRest on the project first.";
    // Customer keys.
    AzureKeyVaultKeyNotFound, "AZURE_KEY_VAULT_KEY_NOT_FOUND", "The customer key does not exist.", "Check keyIdentifier; a deleted key can be recovered in the vault.";
    AzureKeyVaultKeyNotEnabled, "AZURE_KEY_VAULT_KEY_NOT_ENABLED", "The customer key is disabled.", "Enable the key version in the vault, or name another one.";
    AzureKeyVaultKeyNotActive, "AZURE_KEY_VAULT_KEY_NOT_ACTIVE", "The customer key is not valid yet.", "Move the key's activation date, or name another version.";
    AzureKeyVaultKeyExpired, "AZURE_KEY_VAULT_KEY_EXPIRED", "The customer key has expired.", "Make a new key version, or move the key's expiration date.";
    AzureKeyVaultKeyExpiring, "AZURE_KEY_VAULT_KEY_EXPIRING", "The customer key expires within 48 hours.", "Make a new key version, or move the key's expiration date.";
    AzureKeyVaultKeyIdentifierInvalidFormat, "AZURE_KEY_VAULT_KEY_IDENTIFIER_INVALID_FORMAT", "The key identifier is malformed.", "Copy it from the vault, as https://VAULT.vault.azure.net/keys/NAME/VERSION.";
    AzureKeyVaultEnvironmentNotSupported, "AZURE_KEY_VAULT_ENVIRONMENT_NOT_SUPPORTED", "There is no such Azure environment.", "Use AZURE, AZURE_CHINA or AZURE_US_GOVERNMENT.";
    AzureKeyVaultKeyNotSuitable, "AZURE_KEY_VAULT_KEY_NOT_SUITABLE", "The key cannot serve as a customer key.", "Make an RSA key of 2048, 3072 or 4096 bits that permits wrapKey and unwrapKey.";
    AzureKeyVaultNetworkAccessDenied, "AZURE_KEY_VAULT_NETWORK_ACCESS_DENIED", "The vault's network rules do not let keyward in.", "Admit keyward's addresses in the vault's firewall, or use private endpoints with requirePrivateNetworking.";
    AzureKeyVaultUnavailable, "AZURE_KEY_VAULT_UNAVAILABLE", "The vault, or Entra ID, could not be asked; nothing was stored.", "Try again as Retry-After says.";
    AzureKeyVaultNotFound, "AZURE_KEY_VAULT_NOT_FOUND", "There is no vault of that name; nothing was stored.", "Is the name right? Correct keyVaultName and keyIdentifier; a vault made a minute ago may not have a name in DNS yet.";
    InvalidAzureApiRequest, "INVALID_AZURE_API_REQUEST", "Azure does not accept the configuration.", "Check tenant, subscription, resource group and vault.";
    InvalidAzureCredentials, "INVALID_AZURE_CREDENTIALS", "Azure refused the credential configured for this project.", "Check tenantID, clientID and secret; your keyward API key is fine.";
    NoPermissionToEncryptDecrypt, "NO_PERMISSION_TO_ENCRYPT_DECRYPT", "The credential is fine, but it may not use the key.", "Assign the role Key Vault Crypto Service Encryption User, or add the missing key permissions to the access policy.";
    EncryptionAtRestProviderNotSupported, "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED", "keyward does not support this key provider yet.", "Use azureKeyVault.";
    EncryptionAtRestSettingsInvalid, "ENCRYPTION_AT_REST_SETTINGS_INVALID", "The current customer key cannot be reached, so nodes cannot be moved to another one.", "Give access to the current key back, or name a copy of it that was made by vault backup and restore.";
    CannotDisableEncryptionAtRestUsedByClusters, "CANNOT_DISABLE_ENCRYPTION_AT_REST_USED_BY_CLUSTERS", "Clusters still use the customer key.", "Set their encryptionAtRestProvider to NONE, or delete them, and wait until that is done.";
    CannotDisableEncryptionAtRestDueToPrivateEndpoints, "CANNOT_DISABLE_ENCRYPTION_AT_REST_DUE_TO_PRIVATE_ENDPOINTS", "Private endpoints to the vault still exist.", "Delete them, and wait until they are gone.";
    CannotStopRequiringPrivateNetworking, "CANNOT_DISABLE_ENCRYPTION_AT_REST_REQUIRE_PRIVATE_NETWORKING_WHILE_PRIVATE_ENDPOINTS_EXIST", "Private networking cannot be given up while private endpoints exist.", "Delete them, and wait until they are gone.";
    EncryptionAtRestVaultIsFixed, "ENCRYPTION_AT_REST_VAULT_IMMUTABLE_WITH_PRIVATE_NETWORKING", "Vault, resource group and subscription cannot be changed once private networking is set up.", "Delete the private endpoints and switch requirePrivateNetworking off first.";
    PrivateEndpointNotFound, "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_NOT_FOUND", "There is no such private endpoint in the project.", "List the project's private endpoints.";
    PrivateEndpointExists, "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_ALREADY_EXISTS", "The project has a private endpoint in that region.", "Use it, or delete it first.";
    PrivateEndpointNotRequired, "ENCRYPTION_AT_REST_PRIVATE_NETWORKING_NOT_REQUIRED", "Private endpoints need requirePrivateNetworking.", "PATCH encryptionAtRest with azureKeyVault.requirePrivateNetworking true first.";
    PrivateEndpointRegionNotServed, "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_REGION_NOT_SERVED", "The server has no subnet for private endpoints in that region.", "Name one in the section [private_endpoints] of the server's file.";
    PrivateEndpointDeleteBlocked, "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_DELETE_BLOCKED_DURING_PROVISIONING", "The private endpoint is still being made.", "Wait until its status is another one.";
    CloudProviderAccessRoleNotFound, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND", "There is no such cloud provider access role in the project.", "List the project's cloud provider access roles.";
    CloudProviderAccessRoleInUse, "CLOUD_PROVIDER_ACCESS_ROLE_IN_USE", "The cloud provider access role is in use.", "Give encryptionAtRest another credential first.";
    CloudProviderAccessProviderNotSupported, "CLOUD_PROVIDER_ACCESS_PROVIDER_NOT_SUPPORTED", "keyward does not support access roles of this provider yet.", "Use AZURE.";
    // Maintenance.
    MaintenanceNotScheduled, "ATLAS_MAINTENANCE_NOT_SCHEDULED", "No maintenance is scheduled.", "Wait until maintenance is announced.";
    MaintenanceAlreadyScheduled, "ATLAS_MAINTENANCE_ALREADY_SCHEDULED", "Maintenance is scheduled, so its window cannot change.", "Defer it, or wait until it is done.";
    MaintenanceWindowNotDefined, "ATLAS_MAINTENANCE_WINDOW_NOT_DEFINED", "The project has no maintenance window.", "Set one with PATCH maintenanceWindow first.";
    MaintenanceDeferralsExceeded, "ATLAS_NUM_MAINTENANCE_DEFERRALS_EXCEEDED", "The maintenance was deferred twice already.", "Let it start.";
    NonCompliantMaintenanceWindow, "NON_COMPLIANT_ATLAS_MAINTENANCE_WINDOW", "The window first opens after maintenance has to start.", "Choose a window before the deadline that the answer names, or wait until the maintenance is done.";
    // Alerts and events.
    AlertNotFound, "ALERT_NOT_FOUND", "There is no such alert in the project.", "List the project's alerts.";
    AlertConfigNotFound, "ALERT_CONFIG_NOT_FOUND", "There is no such alert configuration in the project.", "List the project's alert configurations.";
    EventNotFound, "EVENT_NOT_FOUND", "There is no such event here.", "List the events.";
    InvalidEventTypeForAlert, "INVALID_EVENT_TYPE_FOR_ALERT", "No alert is raised of events of this type.", "See GET /api/atlas/v2/eventTypes for those that are alertable.";
    MissingNotifications, "MISSING_NOTIFICATIONS", "An alert configuration needs a notification.", "Add at least one to notifications.";
    MissingThreshold, "MISSING_THRESHOLD", "An alert of this type needs a threshold.", "Add threshold with operator, threshold and units.";
    ThresholdPresent, "THRESHOLD_PRESENT", "An alert of this type has no threshold.", "Leave threshold out.";
    UnitsMismatch, "UNITS_MISMATCH", "The threshold is not counted in these units.", "Use DAYS.";
    NotificationIntervalOutOfRange, "NOTIFICATION_INTERVAL_OUT_OF_RANGE", "A notification's intervalMin or delayMin is out of range.", "Use at least 5 minutes for intervalMin, and at least 0 for delayMin.";
    InvalidOperatorForEventType, "INVALID_OPERATOR_FOR_EVENT_TYPE", "The threshold of this type is compared otherwise.", "Use GREATER_THAN.";
    MaxAlertConfigsPerGroupExceeded, "MAX_ALERT_CONFIGS_PER_GROUP_EXCEEDED", "The project has as many alert configurations as it can have.", "Delete one first.";
    // The server.
    UnexpectedError, "UNEXPECTED_ERROR", "The server failed.", "Try again; the server's log names the request id.";
    StoreUnavailable, "STORE_UNAVAILABLE", "The server's database does not answer.", "Try again in a moment.";
    ServiceUnavailable, "SERVICE_UNAVAILABLE", "The server is stopping.", "Try again.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_says_what_happened_and_what_to_do() {
        for code in Code::ALL {
            let shape = |text: &str| {
                text.ends_with('.')
                    && text.starts_with(|c: char| c.is_ascii_uppercase() || text.starts_with("keyward"))
            };
            assert!(shape(code.text()), "{code:?}");
            assert!(shape(code.advice()), "{code:?}");
            assert!(code.as_str().chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{code:?}");
        }
    }

    #[test]
    fn only_the_unexpected_share_a_name() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        // Atlas calls an unsigned request's failure and its own by one name.
        assert_eq!(names.len(), Code::ALL.len() - 1);
    }
}
