//! `keyward node …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyward_model::KeyIdentifier;
use url::Url;

pub(crate) const EXAMPLES: &str = "\
Examples:
  keyward node status --node node-0
  keyward node prove --node node-0
  keyward node rotate-master-key --socket /run/keyward/node-0/admin.sock

Without --socket, the node is looked up by its name in DIR/dev.json, which
`keyward dev` writes.";

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// What the node says of itself: state, verdict, keys, database process
    #[command(after_help = "\
Examples:
  keyward node status --node node-0
  keyward node status --node node-0 --json | jq -r .state")]
    Status(Target),
    /// Show that nothing readable is on disk: write markers, force them out, search every byte
    #[command(after_help = "\
Examples:
  keyward node prove --node node-0
  keyward node prove --node node-0 --json > proof.json")]
    Prove(Target),
    /// Say whether this host and its database will do, before anything is touched
    #[command(after_help = "\
Examples:
  keyward node preflight
  keyward node preflight --mongod /usr/bin/mongod --json
  keyward node preflight --config /etc/keyward/node-0.toml")]
    Preflight {
        /// The mongod to examine; without it, the one on PATH
        #[arg(long, value_name = "PATH")]
        mongod: Option<PathBuf>,
        /// The agent's configuration, to judge its folders and settings too
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Only the findings, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a new master key and wrap every database key with it; no data is rewritten
    #[command(after_help = "\
Examples:
  keyward node rotate-master-key --node node-0")]
    RotateMasterKey(Target),
    /// Wrap the master key with another customer key, or another version of it
    #[command(after_help = "\
Examples:
  keyward node rewrap --node node-0 --key-identifier \\
      https://contoso.vault.azure.net/keys/cmk/0123456789abcdef0123456789abcdef")]
    Rewrap {
        /// The customer key, with its version: https://VAULT.vault.azure.net/keys/NAME/VERSION
        #[arg(long, value_name = "ID")]
        key_identifier: KeyIdentifier,
        #[command(flatten)]
        target: Target,
    },
    /// Copy the node's ciphertext and its keystore to a URL
    #[command(after_help = "\
Examples:
  keyward node snapshot --node node-0 --to file:///var/backups/node-0
  keyward node snapshot --node node-0 --to az://backups/node-0/2026-11-24")]
    Snapshot {
        /// Where to: file:///DIR, az://CONTAINER/PREFIX or s3://BUCKET/PREFIX
        #[arg(long, value_name = "URL")]
        to: Url,
        #[command(flatten)]
        target: Target,
    },
    /// Fill an empty node from a snapshot; it gets a master key of its own
    #[command(after_help = "\
Examples:
  keyward node restore --node node-1 --from file:///var/backups/node-0")]
    Restore {
        /// Where from: file:///DIR, az://CONTAINER/PREFIX or s3://BUCKET/PREFIX
        #[arg(long, value_name = "URL")]
        from: Url,
        #[command(flatten)]
        target: Target,
    },
    /// Start the database process
    #[command(after_help = "\
Examples:
  keyward node start --node node-0")]
    Start(Target),
    /// Stop the database process and wipe the keys; stays stopped until `start`
    #[command(after_help = "\
Examples:
  keyward node stop --node node-0")]
    Stop(Target),
    /// Join a server with the token it made: from then on it says which customer key the node uses
    #[command(after_help = "\
Examples:
  keyward node join --node node-0 --token kwj1.eyJ1cmwiOi…
  keyward node join --socket /run/keyward/node-0/admin.sock --token - < token")]
    Join {
        /// The join token, good for one node within a day; `-` reads it from standard input, out of sight of `ps`
        #[arg(long, value_name = "T")]
        token: String,
        #[command(flatten)]
        target: Target,
    },
    /// Leave the server: the node goes on as it is, and from then on its host alone decides
    #[command(after_help = "\
Examples:
  keyward node leave --node node-0
  keyward node leave --socket /run/keyward/node-0/admin.sock --yes
  keyward node leave --node node-0 --force

The database runs on under the customer key in use, which is reached as the
server said last.")]
    Leave {
        /// Leave although the node is a member of a cluster, or the server does not answer
        #[arg(long)]
        force: bool,
        /// Leave without being asked
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Approve on this host what a change from elsewhere must not do alone; shows it and asks
    #[command(after_help = "\
Examples:
  keyward node approve --node node-0
  keyward node approve --node node-0 --yes
  keyward node approve --node node-0 --list --json")]
    Approve {
        /// Approve what waits without being asked
        #[arg(long, conflicts_with = "list")]
        yes: bool,
        /// Only show what waits
        #[arg(long)]
        list: bool,
        #[command(flatten)]
        target: Target,
    },
    /// The node's keystore
    #[command(
        subcommand,
        after_help = "\
Examples:
  keyward node keystore export --node node-0 --out node-0.keystore.json"
    )]
    Keystore(KeystoreCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeystoreCommand {
    /// Print the keystore: ciphertext, worth keeping beside the backups
    #[command(after_help = "\
Examples:
  keyward node keystore export --node node-0 --out node-0.keystore.json
  keyward node keystore export --node node-0 > node-0.keystore.json")]
    Export {
        /// A new file for it, readable by its owner alone; without it, stdout
        #[arg(long, value_name = "FILE", conflicts_with = "json")]
        out: Option<PathBuf>,
        #[command(flatten)]
        target: Target,
    },
}

/// Which node, and how to answer.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// The node's name in DIR/dev.json; may be left out when there is only one
    #[arg(long, value_name = "NAME", conflicts_with = "socket")]
    pub(crate) node: Option<String>,
    /// The folder of `keyward dev`
    #[arg(long, value_name = "DIR", default_value = ".keyward", conflicts_with = "socket")]
    pub(crate) dir: PathBuf,
    /// The agent's admin socket
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Only data on stdout, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
