//! The command line: every command, option and example. Parsing only; nothing here acts.

pub(crate) mod agent;
pub(crate) mod cluster;
pub(crate) mod dev;
#[cfg(test)]
mod documents;
mod duration;
pub(crate) mod encryption;
pub(crate) mod event;
pub(crate) mod node;
pub(crate) mod project;
#[cfg(test)]
mod reference;
pub(crate) mod scope;
pub(crate) mod server;
pub(crate) mod vault;

use clap::{Parser, Subcommand};

/// Customer-managed keys for MongoDB: a cluster encrypted under a key in Azure Key Vault.
///
/// Take the key away and the cluster stops; give it back and the cluster starts with all its data; a vault that
/// is merely down stops nothing.
#[derive(Debug, Parser)]
#[command(
    name = "keyward",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "\
Examples:
  keyward dev                             a vault, a server and three nodes
  keyward dev --check                     the tour: shows what keyward does
  keyward vault key disable customer-key  take the key away
  keyward vault key enable customer-key   give it back
  keyward node status --node node-0       what one node says of itself
  keyward login --dir .keyward            then, over the server's API:
  keyward cluster list
  keyward encryption status

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused because the customer key
is revoked, 4 the customer key is unavailable.
NO_COLOR switches colours off."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A vault, a server and an encrypted cluster on this machine, or the tour
    #[command(after_help = dev::EXAMPLES)]
    Dev(dev::DevArguments),
    /// The control plane: the Atlas Administration API, and the agents' server
    #[command(subcommand, after_help = server::EXAMPLES)]
    Server(server::ServerCommand),
    /// Keep a server's address and a key for it, for the commands below
    #[command(after_help = server::LOGIN_EXAMPLES)]
    Login(server::LoginArguments),
    /// Organizations
    #[command(subcommand, after_help = project::ORG_EXAMPLES)]
    Org(project::OrgCommand),
    /// Projects: who may do what in them, and the hosts that have joined
    #[command(subcommand, after_help = project::EXAMPLES)]
    Project(project::ProjectCommand),
    /// Clusters and their nodes
    #[command(subcommand, after_help = cluster::EXAMPLES)]
    Cluster(cluster::ClusterCommand),
    /// The customer key of a project
    #[command(subcommand, after_help = encryption::EXAMPLES)]
    Encryption(encryption::EncryptionCommand),
    /// The audit log
    #[command(subcommand, after_help = event::EXAMPLES)]
    Event(event::EventCommand),
    /// Alerts
    #[command(subcommand, after_help = event::ALERT_EXAMPLES)]
    Alert(event::AlertCommand),
    /// The development vault: an Azure Key Vault that can be told to say no
    #[command(subcommand, after_help = vault::EXAMPLES)]
    Vault(vault::VaultCommand),
    /// The program that owns one node
    #[command(subcommand, after_help = agent::EXAMPLES)]
    Agent(agent::AgentCommand),
    /// The node on this host: its status, its keys, its snapshots
    #[command(subcommand, after_help = node::EXAMPLES)]
    Node(node::NodeCommand),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  keyward completions bash > ~/.local/share/bash-completion/completions/keyward
  keyward completions zsh > \"${fpath[1]}/_keyward\"
  keyward completions fish > ~/.config/fish/completions/keyward.fish")]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn visit(command: &clap::Command, path: &str, bare: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let shown = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let full = path.trim();
            if !shown.contains("Examples:") || !shown.contains(full) {
                bare.push(full.to_owned());
            }
            command.get_subcommands().for_each(|sub| visit(sub, &path, bare));
        }
        let mut bare = Vec::new();
        visit(&Arguments::command(), "", &mut bare);
        assert!(bare.is_empty(), "no example of their own in: {bare:?}");
    }

    /// A line that wraps can no longer be pasted.
    #[test]
    fn examples_fit_a_terminal_of_80_columns() {
        fn visit(command: &clap::Command, wide: &mut Vec<String>) {
            let shown = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            wide.extend(shown.lines().filter(|line| line.chars().count() > 80).map(str::to_owned));
            command.get_subcommands().for_each(|sub| visit(sub, wide));
        }
        let mut wide = Vec::new();
        visit(&Arguments::command(), &mut wide);
        assert!(wide.is_empty(), "wider than 80 columns:\n{}", wide.join("\n"));
    }
}
