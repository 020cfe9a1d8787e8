//! `keyward server …` and `keyward login`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use url::Url;

pub(crate) const EXAMPLES: &str = "\
Examples:
  keyward server init --config /etc/keyward/server.toml   once
  keyward server run --config /etc/keyward/server.toml
  keyward server authority show --config /etc/keyward/server.toml";

#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Make what a server needs, once: its key, its certificates, the first organization and an API key for it
    #[command(after_help = "\
Examples:
  keyward server init --config /etc/keyward/server.toml
  keyward server init --config server.toml --json > first-key.json

The private key is shown this once and kept nowhere in clear. A server that
exists is left as it is.")]
    Init {
        #[command(flatten)]
        config: ServerConfig,
        /// Only data on stdout, as JSON
        #[arg(long)]
        json: bool,
    },
    /// The authority that agents recognize the server by: look at it, replace it
    #[command(subcommand, after_help = AUTHORITY_EXAMPLES)]
    Authority(AuthorityCommand),
    /// Serve the API and the agents, until SIGTERM or Ctrl-C
    #[command(after_help = "\
Examples:
  keyward server run --config /etc/keyward/server.toml")]
    Run {
        #[command(flatten)]
        config: ServerConfig,
    },
}

pub(crate) const AUTHORITY_EXAMPLES: &str = "\
Examples:
  keyward server authority show --config /etc/keyward/server.toml
  keyward server authority rotate --config /etc/keyward/server.toml
  keyward server authority retire --config /etc/keyward/server.toml

Servers that run take over what these commands do within seconds. The server
replaces the authority by itself after five years.";

#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityCommand {
    /// Show it, and which nodes still need the one before it
    #[command(after_help = "\
Examples:
  keyward server authority show --config /etc/keyward/server.toml")]
    Show(AuthorityArguments),
    /// Put a new one in its place; nodes learn of it when they next call, and both are trusted meanwhile
    #[command(after_help = "\
Examples:
  keyward server authority rotate --config /etc/keyward/server.toml

The former authority issues nothing any more; it goes by itself when no node
needs it.")]
    Rotate(AuthorityArguments),
    /// Let the former one go now
    #[command(after_help = "\
Examples:
  keyward server authority retire --config /etc/keyward/server.toml
  keyward server authority retire --config /etc/keyward/server.toml --force

Refused while nodes need it, which are then named. With --force they have to
join again: keyward project join-token create, keyward node join.")]
    Retire {
        #[command(flatten)]
        arguments: AuthorityArguments,
        /// Although nodes need it
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AuthorityArguments {
    #[command(flatten)]
    pub(crate) config: ServerConfig,
    /// Only data on stdout, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServerConfig {
    /// The server's configuration (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

pub(crate) const LOGIN_EXAMPLES: &str = "\
Examples:
  keyward login --dir .keyward        the server of `keyward dev`
  keyward login --url https://keyward.example.com:7443 --ca-file ca.pem \\
      --public-key abcdefgh
  keyward login --url https://keyward.example.com:7443 \\
      --client-id mdb_sa_id_… --secret-file -
  curl -H \"Authorization: Bearer $(keyward login --print-token)\" …

The private key or client secret is asked for on the terminal, or read from
--secret-file. It is kept in ~/.config/keyward/credentials.toml (0600), or below
XDG_CONFIG_HOME.";

/// `keyward login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArguments {
    /// Take address, certificate authority, key and project from DIR/dev.json, which `keyward dev` writes
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "public_key", "client_id", "secret_file", "ca_file"])]
    pub(crate) dir: Option<PathBuf>,
    /// Print an access token of one hour; an API key gets a service account for it
    #[arg(long)]
    pub(crate) print_token: bool,
    /// The server's address
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<Url>,
    /// The certificate authority (PEM) of the server's certificate; default: those of this machine
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The public key of an API key
    #[arg(long, value_name = "KEY", requires = "url", conflicts_with = "client_id")]
    pub(crate) public_key: Option<String>,
    /// The client id of a service account
    #[arg(long, value_name = "ID", requires = "url")]
    pub(crate) client_id: Option<String>,
    /// Where the private key or client secret is read from; `-` is stdin
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) secret_file: Option<PathBuf>,
    /// The organization that commands mean when none is named, by name or id
    #[arg(long, value_name = "ORG")]
    pub(crate) org: Option<String>,
    /// The project that commands mean when none is named, by name or id
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// The name under which it is kept
    #[arg(long, value_name = "NAME", env = "KEYWARD_PROFILE")]
    pub(crate) profile: Option<String>,
}
