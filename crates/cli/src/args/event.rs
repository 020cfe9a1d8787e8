//! `keyward event …` and `keyward alert …`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::duration::parse_duration;
use super::scope::InProject;

pub(crate) const EXAMPLES: &str = "\
Examples:
  keyward event list
  keyward event list --follow
  keyward event list --type ENCRYPTION_AT_REST_CONFIGURATION_UPDATED --json";

#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// The audit log of a project, or of an organization with --org; newest last
    #[command(after_help = "\
Examples:
  keyward event list
  keyward event list --limit 500 --json
  keyward event list --follow
  keyward event list --org Contoso")]
    List(EventList),
}

#[derive(Debug, Args)]
pub(crate) struct EventList {
    /// Only events of this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: u32,
    /// Stay, and show new ones as they come, until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
    /// Events of this organization instead, by name or id
    #[arg(long, value_name = "ORG", conflicts_with = "project")]
    pub(crate) org: Option<String>,
    #[command(flatten)]
    pub(crate) scope: InProject,
}

pub(crate) const ALERT_EXAMPLES: &str = "\
Examples:
  keyward alert list
  keyward alert show 5f3a0c9e8d7b6a5f4e3d2c1b
  keyward alert acknowledge 5f3a0c9e8d7b6a5f4e3d2c1b --for 8h \\
      --comment \"key rotates tonight\"";

#[derive(Debug, Subcommand)]
pub(crate) enum AlertCommand {
    /// Alerts, open ones unless told otherwise
    #[command(after_help = "\
Examples:
  keyward alert list
  keyward alert list --status closed
  keyward alert list --status all --json")]
    List {
        /// Which ones
        #[arg(long, value_enum, default_value_t = AlertStatus::Open)]
        status: AlertStatus,
        #[command(flatten)]
        scope: InProject,
    },
    /// One alert: what was found, since when, and who looks after it
    #[command(after_help = "\
Examples:
  keyward alert show 5f3a0c9e8d7b6a5f4e3d2c1b
  keyward alert show 5f3a0c9e8d7b6a5f4e3d2c1b --json | jq -r .text")]
    Show {
        /// The alert's id
        id: String,
        #[command(flatten)]
        scope: InProject,
    },
    /// Say that somebody looks after an alert; `--for 0s` takes it back
    #[command(after_help = "\
Examples:
  keyward alert acknowledge 5f3a0c9e8d7b6a5f4e3d2c1b
  keyward alert acknowledge 5f3a0c9e8d7b6a5f4e3d2c1b --for 8h \\
      --comment \"key rotates tonight\"
  keyward alert acknowledge 5f3a0c9e8d7b6a5f4e3d2c1b --for 0s")]
    Acknowledge {
        /// The alert's id
        id: String,
        /// For how long
        #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
        duration: Duration,
        /// What others should know
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
        #[command(flatten)]
        scope: InProject,
    },
}

/// Which alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlertStatus {
    /// Those that ask for attention
    Open,
    /// Those whose delay has not passed yet
    Tracking,
    /// Those that are over
    Closed,
    /// All of them
    All,
}

impl AlertStatus {
    /// Its name in the API; `None` for all.
    pub(crate) fn api(self) -> Option<&'static str> {
        match self {
            AlertStatus::Open => Some("OPEN"),
            AlertStatus::Tracking => Some("TRACKING"),
            AlertStatus::Closed => Some("CLOSED"),
            AlertStatus::All => None,
        }
    }
}
