//! `keyward encryption …`: the customer key of a project.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::duration::parse_duration;
use super::scope::InProject;

pub(crate) const EXAMPLES: &str = "\
Examples:
  keyward encryption set --tenant-id … --client-id … --subscription-id … \\
      --resource-group keys --key-vault contoso --secret-file - \\
      --key-identifier \\
      https://contoso.vault.azure.net/keys/cmk/0123456789abcdef0123456789abcdef
  keyward encryption set --watch --key-identifier \\
      https://contoso.vault.azure.net/keys/cmk/fedcba9876543210fedcba9876543210
  keyward encryption status
  keyward encryption disable

Only an owner of the project may set it; an organization's owner first adds
themselves:
  keyward project member add --me --role owner";

#[derive(Debug, Subcommand)]
pub(crate) enum EncryptionCommand {
    /// The customer key as it is configured
    #[command(after_help = "\
Examples:
  keyward encryption show
  keyward encryption show --json | jq .azureKeyVault")]
    Show(InProject),
    /// Set the customer key, or change what is named; checked against the vault before it is stored
    #[command(after_help = "\
Examples:
  keyward encryption set --tenant-id 33333333-… --client-id 11111111-… \\
      --subscription-id 22222222-… --resource-group keys --key-vault contoso \\
      --key-identifier \\
      https://contoso.vault.azure.net/keys/cmk/0123456789abcdef0123456789abcdef
  keyward encryption set --watch --key-identifier \\
      https://contoso.vault.azure.net/keys/cmk/fedcba9876543210fedcba9876543210
  az ad app credential reset … | jq -r .password |
      keyward encryption set --secret-file -

What is not named stays as it is. A first secret is asked for on the terminal
where --secret-file is missing.")]
    Set(Box<SetArguments>),
    /// Remove the customer key; refused while a cluster uses it
    #[command(after_help = "\
Examples:
  keyward encryption disable")]
    Disable {
        /// Don't ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        scope: InProject,
    },
    /// What is true: the last check, each node's key and progress, former keys that snapshots still need
    #[command(after_help = "\
Examples:
  keyward encryption status
  keyward encryption status --watch")]
    Status {
        /// Show it again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        scope: InProject,
    },
    /// When refusals of the vault become a revocation; shows it, or sets what is named
    #[command(after_help = "\
Examples:
  keyward encryption policy
  keyward encryption policy --strong-window 60s --denial-window 10m")]
    Policy {
        /// Key disabled or deleted, application disabled: how long until the nodes stop
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        strong_window: Option<Duration>,
        /// Permission denied: how long until the nodes stop
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        denial_window: Option<Duration>,
        /// How many refusals at least
        #[arg(long, value_name = "N")]
        refusals: Option<u32>,
        #[command(flatten)]
        scope: InProject,
    },
    /// Private endpoints to the vault
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward encryption endpoint create US_EAST_2 --watch
  keyward encryption endpoint list"
    )]
    Endpoint(EndpointCommand),
}

#[derive(Debug, Args)]
pub(crate) struct SetArguments {
    /// The customer key: https://VAULT.vault.azure.net/keys/NAME/VERSION
    #[arg(long, value_name = "ID")]
    pub(crate) key_identifier: Option<String>,
    /// The tenant of vault and application
    #[arg(long, value_name = "UUID")]
    pub(crate) tenant_id: Option<String>,
    /// The application's client id
    #[arg(long, value_name = "UUID")]
    pub(crate) client_id: Option<String>,
    /// The vault's subscription
    #[arg(long, value_name = "UUID")]
    pub(crate) subscription_id: Option<String>,
    /// The vault's resource group
    #[arg(long, value_name = "NAME")]
    pub(crate) resource_group: Option<String>,
    /// The vault's name
    #[arg(long, value_name = "NAME")]
    pub(crate) key_vault: Option<String>,
    /// Which Azure
    #[arg(long, value_enum)]
    pub(crate) environment: Option<EnvironmentChoice>,
    /// Where the application's client secret is read from; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "role_id")]
    pub(crate) secret_file: Option<PathBuf>,
    /// The cloud provider access role to use instead of a client secret
    #[arg(long, value_name = "ID")]
    pub(crate) role_id: Option<String>,
    /// Whether nodes may reach the vault over private addresses only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) require_private_networking: Option<bool>,
    /// Stay until every node reports the key, and show how far it is
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) scope: InProject,
}

/// Which Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvironmentChoice {
    /// The public one
    Azure,
    /// Operated by 21Vianet
    AzureChina,
    /// US government
    AzureUsGovernment,
}

impl EnvironmentChoice {
    /// `azureEnvironment`.
    pub(crate) fn api(self) -> &'static str {
        match self {
            EnvironmentChoice::Azure => "AZURE",
            EnvironmentChoice::AzureChina => "AZURE_CHINA",
            EnvironmentChoice::AzureUsGovernment => "AZURE_US_GOVERNMENT",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// The private endpoints and how far they are
    #[command(after_help = "\
Examples:
  keyward encryption endpoint list")]
    List(InProject),
    /// Ask for a private endpoint in a region; the vault's owner approves it in Azure
    #[command(after_help = "\
Examples:
  keyward encryption endpoint create US_EAST_2
  keyward encryption endpoint create EUROPE_NORTH --watch")]
    Create {
        /// The region, in Atlas' spelling
        region: String,
        /// Stay until it waits for approval, is active or has failed
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        scope: InProject,
    },
    /// Ask for a private endpoint to be deleted
    #[command(after_help = "\
Examples:
  keyward encryption endpoint delete 5f3a0c9e8d7b6a5f4e3d2c1b")]
    Delete {
        /// Its id, as `list` shows it
        id: String,
        #[command(flatten)]
        scope: InProject,
    },
}
