//! `keyward dev`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(crate) const EXAMPLES: &str = "\
Examples:
  keyward dev                          three nodes under .keyward, a live board
  keyward dev --nodes 1 --dir /tmp/kw  one node, elsewhere
  keyward dev --check                  the tour: a line per step, exit code 0, 1
  keyward dev --json                   no board: events, a JSON object per line

While it runs, from another terminal:
  keyward vault key disable customer-key    take the key away: every node stops
  keyward vault key enable customer-key     give it back: every node starts
  keyward vault fault set refuse --for 60s  an outage: nothing stops
  keyward node status --node node-0
  keyward login --dir .keyward              the server's API, as its owner
  keyward cluster nodes demo
  keyward encryption status";

#[derive(Debug, Args)]
pub(crate) struct DevArguments {
    /// Where data, configuration and logs go
    #[arg(long, value_name = "DIR", default_value = ".keyward")]
    pub(crate) dir: PathBuf,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// The database: auto takes a mongod on PATH, else SecantusDB from PyPI
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    pub(crate) engine: EngineChoice,
    /// Take the tour instead: run every promise on real processes in a fresh folder under DIR
    #[arg(long)]
    pub(crate) check: bool,
    /// Events on stdout, one JSON object per line, instead of the board
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which database process the nodes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// mongod when there is one on PATH, else SecantusDB
    Auto,
    /// mongod from PATH, as a replica set
    Mongod,
    /// SecantusDB from PyPI, installed into DIR; nodes are independent
    Secantusdb,
}
