//! `keyward agent …`.

use std::path::PathBuf;

use clap::Subcommand;

pub(crate) const EXAMPLES: &str = "\
Examples:
  keyward agent run --config /etc/keyward/node-0.toml";

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Run one node: open its keystore, start its database, watch the customer key
    ///
    /// Ends at SIGTERM or Ctrl-C and leaves the database running; the next agent finds it again. To stop the
    /// database, use `keyward node stop`.
    #[command(after_help = "\
Examples:
  keyward agent run --config /etc/keyward/node-0.toml
  keyward agent run --config .keyward/nodes/node-0/agent.toml")]
    Run {
        /// The node's configuration (TOML)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}
