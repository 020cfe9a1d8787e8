//! `keyward cluster …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::scope::InProject;

pub(crate) const EXAMPLES: &str = "\
Examples:
  keyward cluster create orders --nodes 3 --encryption azure --watch
  keyward cluster list
  keyward cluster nodes orders --watch
  keyward cluster update orders --encryption azure --watch
  keyward cluster delete orders --yes

A cluster takes free nodes of its project (keyward project node list): running
ones are adopted as they are.";

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// The clusters of a project
    #[command(after_help = "\
Examples:
  keyward cluster list
  keyward cluster list --project payments --json")]
    List(InProject),
    /// One cluster: state, encryption, connection string, nodes
    #[command(after_help = "\
Examples:
  keyward cluster show orders
  keyward cluster show orders --json | jq -r .connectionStrings.standard")]
    Show(ClusterTarget),
    /// Make a cluster of free nodes
    #[command(after_help = "\
Examples:
  keyward cluster create orders --encryption azure --watch
  keyward cluster create orders --nodes 5
  keyward cluster create orders --file cluster.json

With --file, the body of the Atlas Administration API is sent as it is, name and
options aside.")]
    Create {
        /// Its name
        name: String,
        /// How many nodes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=50))]
        nodes: Option<u16>,
        #[command(flatten)]
        settings: ClusterSettings,
        /// Stay until it is done, and show how far it is
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        scope: InProject,
    },
    /// Change a cluster
    #[command(after_help = "\
Examples:
  keyward cluster update orders --encryption azure --watch   one node at a time
  keyward cluster update orders --encryption none
  keyward cluster update orders --termination-protection on")]
    Update {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: ClusterSettings,
        /// Stay until it is done, and show how far it is
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        scope: InProject,
    },
    /// Delete a cluster; its nodes become free
    #[command(after_help = "\
Examples:
  keyward cluster delete orders
  keyward cluster delete orders --yes --watch")]
    Delete {
        /// Its name
        name: String,
        /// Don't ask
        #[arg(long)]
        yes: bool,
        /// Stay until it is gone
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        scope: InProject,
    },
    /// Rotate the master keys of a cluster's nodes now, one node at a time; no data is rewritten
    #[command(after_help = "\
Examples:
  keyward cluster rotate-master-keys orders
  keyward cluster rotate-master-keys orders --watch")]
    RotateMasterKeys {
        /// The cluster's name
        name: String,
        /// Stay until it is done, and show how far it is
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        scope: InProject,
    },
    /// What each node of a cluster reports
    #[command(after_help = "\
Examples:
  keyward cluster nodes orders
  keyward cluster nodes orders --watch
  keyward cluster nodes orders --json")]
    Nodes {
        /// The cluster's name
        name: String,
        /// Show it again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        scope: InProject,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ClusterTarget {
    /// The cluster's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) scope: InProject,
}

/// What can be set.
#[derive(Debug, Args)]
pub(crate) struct ClusterSettings {
    /// Whether the project's customer key encrypts it
    #[arg(long, value_enum, value_name = "PROVIDER")]
    pub(crate) encryption: Option<EncryptionChoice>,
    /// Whether deleting it is refused
    #[arg(long, value_enum, value_name = "ON|OFF")]
    pub(crate) termination_protection: Option<Switch>,
    /// Major version of MongoDB
    #[arg(long, value_name = "VERSION")]
    pub(crate) mongodb_version: Option<String>,
    /// A body of the Atlas Administration API (JSON); `-` is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Where the key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EncryptionChoice {
    /// The project's key in Azure Key Vault
    Azure,
    /// No customer key
    None,
}

impl EncryptionChoice {
    /// `encryptionAtRestProvider`.
    pub(crate) fn api(self) -> &'static str {
        match self {
            EncryptionChoice::Azure => "AZURE",
            EncryptionChoice::None => "NONE",
        }
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Yes
    On,
    /// No
    Off,
}
