//! `keyward vault …`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use url::Url;

use super::duration::parse_duration;

pub(crate) const EXAMPLES: &str = "\
Examples:
  keyward vault serve --dir /tmp/vault            run one
  keyward vault key create cmk
  keyward vault key disable customer-key          say no, as Azure says it
  keyward vault fault set throttle --for 90s      be out of order, as Azure is
  keyward vault log --json

Without --dir or --url, it is the vault of `keyward dev` in .keyward.";

#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// Run the vault: keys, Entra ID and Azure Resource Manager, over TLS
    #[command(after_help = "\
Examples:
  keyward vault serve --dir /tmp/vault
  keyward vault serve --dir /tmp/vault --listen 127.0.0.1:9443

Address, certificate authority and credentials are written to DIR/vault.json.")]
    Serve {
        /// Where its state lives
        #[arg(long, value_name = "DIR", default_value = ".keyward/vault")]
        dir: PathBuf,
        /// Address; the port is remembered, since it is part of every key identifier
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
    },
    /// Keys: make, disable, enable, delete, recover, rotate
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward vault key list
  keyward vault key create cmk --size 3072
  keyward vault key disable cmk"
    )]
    Key(KeyCommand),
    /// Who may use the keys
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward vault access grant 11111111-2222-3333-4444-555555555555
  keyward vault access revoke 11111111-2222-3333-4444-555555555555"
    )]
    Access(AccessCommand),
    /// Applications in Entra ID
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward vault app disable 11111111-2222-3333-4444-555555555555
  keyward vault app expire-secret 11111111-2222-3333-4444-555555555555"
    )]
    App(AppCommand),
    /// Be out of order
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward vault fault set refuse --for 90s
  keyward vault fault clear"
    )]
    Fault(FaultCommand),
    /// Private endpoint connections
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward vault private-endpoint list
  keyward vault private-endpoint approve pe-1"
    )]
    PrivateEndpoint(PrivateEndpointCommand),
    /// Every request the vault has answered
    #[command(after_help = "\
Examples:
  keyward vault log
  keyward vault log --json | jq -r .operation | sort | uniq -c")]
    Log(VaultTarget),
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Every key and its versions
    #[command(after_help = "\
Examples:
  keyward vault key list --json")]
    List(VaultTarget),
    /// Make a key, or a new version of it
    #[command(after_help = "\
Examples:
  keyward vault key create cmk
  keyward vault key create cmk --size 4096")]
    Create {
        /// Its name
        name: String,
        /// Length in bits
        #[arg(long, value_name = "BITS", default_value = "2048",
              value_parser = clap::builder::PossibleValuesParser::new(["2048", "3072", "4096"]))]
        size: String,
        #[command(flatten)]
        target: VaultTarget,
    },
    /// Disable a key: every use of it is refused
    #[command(after_help = "\
Examples:
  keyward vault key disable customer-key
  keyward vault key disable customer-key \\
      --key-version 0123456789abcdef0123456789abcdef")]
    Disable(KeyTarget),
    /// Enable it again
    #[command(after_help = "\
Examples:
  keyward vault key enable customer-key")]
    Enable(KeyTarget),
    /// Delete a key; it can be recovered
    #[command(after_help = "\
Examples:
  keyward vault key delete customer-key")]
    Delete(NamedKey),
    /// Recover a deleted key
    #[command(after_help = "\
Examples:
  keyward vault key recover customer-key")]
    Recover(NamedKey),
    /// Make a new version of a key
    #[command(after_help = "\
Examples:
  keyward vault key rotate customer-key")]
    Rotate(NamedKey),
}

#[derive(Debug, Args)]
pub(crate) struct NamedKey {
    /// The key's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) target: VaultTarget,
}

#[derive(Debug, Args)]
pub(crate) struct KeyTarget {
    /// The key's name
    pub(crate) name: String,
    /// Only this version; without it, every version
    #[arg(long, value_name = "VERSION")]
    pub(crate) key_version: Option<String>,
    #[command(flatten)]
    pub(crate) target: VaultTarget,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// Let an application use the keys
    #[command(after_help = "\
Examples:
  keyward vault access grant CLIENT_ID
  keyward vault access grant CLIENT_ID --model policy \\
      --actions get,wrapKey,unwrapKey

Without --actions it is what keyward recommends: the role Key Vault Crypto
Service Encryption User (RBAC), or get, wrapKey and unwrapKey (access policy).")]
    Grant {
        /// The application's client id
        client_id: String,
        /// How access is granted
        #[arg(long, value_enum, default_value_t = AccessModelChoice::Rbac)]
        model: AccessModelChoice,
        /// What is granted, separated by commas
        #[arg(long, value_name = "LIST", value_delimiter = ',')]
        actions: Vec<String>,
        #[command(flatten)]
        target: VaultTarget,
    },
    /// Take it away again
    #[command(after_help = "\
Examples:
  keyward vault access revoke CLIENT_ID
  keyward vault access revoke CLIENT_ID --model policy --actions unwrapKey")]
    Revoke {
        /// The application's client id
        client_id: String,
        /// Which kind of grant; without it, both
        #[arg(long, value_enum)]
        model: Option<AccessModelChoice>,
        /// What is taken away, separated by commas; without it, everything
        #[arg(long, value_name = "LIST", value_delimiter = ',')]
        actions: Vec<String>,
        #[command(flatten)]
        target: VaultTarget,
    },
}

/// Azure's two permission models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccessModelChoice {
    /// Access policies of the vault
    Policy,
    /// Role assignments
    Rbac,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// Disable an application: it gets no token
    #[command(after_help = "\
Examples:
  keyward vault app disable CLIENT_ID")]
    Disable(Application),
    /// Enable it again
    #[command(after_help = "\
Examples:
  keyward vault app enable CLIENT_ID")]
    Enable(Application),
    /// Let its client secret expire now
    #[command(after_help = "\
Examples:
  keyward vault app expire-secret CLIENT_ID")]
    ExpireSecret(Application),
}

#[derive(Debug, Args)]
pub(crate) struct Application {
    /// The application's client id
    pub(crate) client_id: String,
    #[command(flatten)]
    pub(crate) target: VaultTarget,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FaultCommand {
    /// Switch a fault on
    #[command(after_help = "\
Examples:
  keyward vault fault set refuse --for 90s
  keyward vault fault set throttle")]
    Set {
        /// What happens instead of an answer
        #[arg(value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(FAULT_KINDS))]
        kind: String,
        /// For how long (90s, 5m, 1h); without it, until `fault clear`
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        duration: Option<Duration>,
        #[command(flatten)]
        target: VaultTarget,
    },
    /// Switch every fault off
    #[command(after_help = "\
Examples:
  keyward vault fault clear")]
    Clear(VaultTarget),
}

pub(crate) const FAULT_KINDS: [&str; 13] = [
    "refuse",
    "hang",
    "reset",
    "throttle",
    "error401",
    "error500",
    "error503",
    "read-only",
    "firewall",
    "private-link",
    "dns-gone",
    "token-down",
    "slow",
];

#[derive(Debug, Subcommand)]
pub(crate) enum PrivateEndpointCommand {
    /// Every connection and whether it is approved
    #[command(after_help = "\
Examples:
  keyward vault private-endpoint list --json")]
    List(VaultTarget),
    /// Approve a connection
    #[command(after_help = "\
Examples:
  keyward vault private-endpoint approve pe-1")]
    Approve(PrivateEndpoint),
    /// Reject a connection
    #[command(after_help = "\
Examples:
  keyward vault private-endpoint reject pe-1")]
    Reject(PrivateEndpoint),
}

#[derive(Debug, Args)]
pub(crate) struct PrivateEndpoint {
    /// The connection's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) target: VaultTarget,
}

/// Which vault, and how to answer.
#[derive(Debug, Clone, Args)]
pub(crate) struct VaultTarget {
    /// The vault's folder, or that of `keyward dev`
    #[arg(long, value_name = "DIR", default_value = ".keyward", conflicts_with = "url")]
    pub(crate) dir: PathBuf,
    /// The vault's address; its admin token is taken from KEYWARD_VAULT_TOKEN
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<Url>,
    /// The vault's certificate authority (PEM), with --url
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Only data on stdout, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
