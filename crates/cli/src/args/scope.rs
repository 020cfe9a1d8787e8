//! Which server, organization and project a command means: options that many commands have.

use clap::Args;

/// How to reach the server, and how to answer.
#[derive(Debug, Clone, Args)]
pub(crate) struct Access {
    /// Whose profile of `keyward login` to use; the default is `default`
    #[arg(long, value_name = "NAME", env = "KEYWARD_PROFILE")]
    pub(crate) profile: Option<String>,
    /// Only data on stdout, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A project.
#[derive(Debug, Clone, Args)]
pub(crate) struct InProject {
    /// The project, by name or id; the default is the profile's, or the only one there is
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    #[command(flatten)]
    pub(crate) access: Access,
}

/// An organization.
#[derive(Debug, Clone, Args)]
pub(crate) struct InOrg {
    /// The organization, by name or id; the default is the profile's, or the only one there is
    #[arg(long, value_name = "ORG")]
    pub(crate) org: Option<String>,
    #[command(flatten)]
    pub(crate) access: Access,
}
