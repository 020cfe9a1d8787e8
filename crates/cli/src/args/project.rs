//! `keyward org …` and `keyward project …`.

use clap::{Args, Subcommand, ValueEnum};

use super::scope::{Access, InOrg, InProject};

pub(crate) const ORG_EXAMPLES: &str = "\
Examples:
  keyward org list
  keyward org show
  keyward org create \"Contoso\"";

#[derive(Debug, Subcommand)]
pub(crate) enum OrgCommand {
    /// The organizations that you belong to
    #[command(after_help = "\
Examples:
  keyward org list
  keyward org list --json | jq -r '.[].name'")]
    List(Access),
    /// One organization: its projects and keys
    #[command(after_help = "\
Examples:
  keyward org show
  keyward org show --org Contoso --json")]
    Show(InOrg),
    /// Make an organization, and an API key that owns it
    #[command(after_help = "\
Examples:
  keyward org create Contoso
  keyward org create Contoso --json > owner-key.json")]
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        access: Access,
    },
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  keyward project create payments
  keyward project member add --me --role owner
  keyward project member add alice@example.com --role owner
  keyward project join-token create  then, there: keyward node join --token -
  keyward project node list

An organization's owner who is none of the project adds themselves (--me) before
setting its customer key.";

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// The projects that you may see
    #[command(after_help = "\
Examples:
  keyward project list")]
    List(Access),
    /// One project: its clusters, its customer key, its members
    #[command(after_help = "\
Examples:
  keyward project show
  keyward project show --project payments --json")]
    Show(InProject),
    /// Make a project; you become its owner
    #[command(after_help = "\
Examples:
  keyward project create payments
  keyward project create payments --org Contoso --json")]
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        org: InOrg,
    },
    /// Delete a project; refused while it has clusters
    #[command(after_help = "\
Examples:
  keyward project delete payments --yes")]
    Delete {
        /// Its name or id
        project: String,
        /// Don't ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        access: Access,
    },
    /// Who may do what in a project
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward project member list
  keyward project member add alice@example.com --role owner
  keyward project member remove abcdefgh"
    )]
    Member(MemberCommand),
    /// Tokens with which hosts join a project, once each
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward project join-token create --name db1
  keyward project join-token list"
    )]
    JoinToken(JoinTokenCommand),
    /// The nodes that have joined a project, in a cluster or free
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward project node list
  keyward project node revoke db1"
    )]
    Node(ProjectNodeCommand),
}

/// Roles in a project that people give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleChoice {
    /// Everything, the customer key included
    Owner,
    /// Changes clusters
    ClusterManager,
    /// Creates clusters
    ClusterCreator,
    /// Manages alert configurations
    AlertsManager,
    /// Manages who has access
    AccessManager,
    /// Reads
    ReadOnly,
}

impl RoleChoice {
    /// Its name in the API.
    pub(crate) fn api(self) -> &'static str {
        match self {
            RoleChoice::Owner => "GROUP_OWNER",
            RoleChoice::ClusterManager => "GROUP_CLUSTER_MANAGER",
            RoleChoice::ClusterCreator => "GROUP_CLUSTER_CREATOR",
            RoleChoice::AlertsManager => "GROUP_ALERTS_MANAGER",
            RoleChoice::AccessManager => "GROUP_ACCESS_MANAGER",
            RoleChoice::ReadOnly => "GROUP_READ_ONLY",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Users, API keys and service accounts of the project, with their roles
    #[command(after_help = "\
Examples:
  keyward project member list
  keyward project member list --json")]
    List(InProject),
    /// Give roles in the project to a user, an API key or a service account
    #[command(after_help = "\
Examples:
  keyward project member add --me --role owner
  keyward project member add alice@example.com --role read-only
  keyward project member add abcdefgh --role cluster-manager
  keyward project member add mdb_sa_id_0123456789abcdef01234567 --role owner")]
    Add {
        /// A user's name, an API key's public key, or a service account's client id
        #[arg(required_unless_present = "me")]
        member: Option<String>,
        /// The key or account of this profile
        #[arg(long, conflicts_with = "member")]
        me: bool,
        /// The roles, separated by commas
        #[arg(long, value_enum, required = true, value_delimiter = ',', value_name = "ROLE")]
        role: Vec<RoleChoice>,
        #[command(flatten)]
        scope: InProject,
    },
    /// Take every role in the project from a member; the last owner stays
    #[command(after_help = "\
Examples:
  keyward project member remove alice@example.com")]
    Remove {
        /// A user's name, an API key's public key, or a service account's client id
        member: String,
        #[command(flatten)]
        scope: InProject,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JoinTokenCommand {
    /// Make a token: good for one host, for a day; shown this once
    #[command(after_help = "\
Examples:
  keyward project join-token create
  keyward project join-token create --name db1 --json | jq -r .token")]
    Create {
        /// What it is for, for people
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        scope: InProject,
    },
    /// The tokens of the last day, used or not
    #[command(after_help = "\
Examples:
  keyward project join-token list")]
    List(InProject),
    /// Make a token worthless
    #[command(after_help = "\
Examples:
  keyward project join-token delete 5f3a0c9e8d7b6a5f4e3d2c1b")]
    Delete(JoinTokenTarget),
}

#[derive(Debug, Args)]
pub(crate) struct JoinTokenTarget {
    /// The token's id, as `list` shows it
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) scope: InProject,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectNodeCommand {
    /// Every node of the project: state, cluster, last report
    #[command(after_help = "\
Examples:
  keyward project node list
  keyward project node list --json")]
    List(InProject),
    /// Refuse a node's certificate from now on; its database runs on
    #[command(after_help = "\
Examples:
  keyward project node revoke db1 --yes")]
    Revoke {
        /// The node's name or id
        node: String,
        /// Don't ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        scope: InProject,
    },
}
