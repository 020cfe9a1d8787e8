//! rustfmt, clippy, cargo-deny.

use crate::step::{Steps, cargo, has_subcommand, succeed};

pub(crate) fn run(steps: &mut Steps) {
    steps.run("format", || succeed(&mut cargo(&["fmt", "--all", "--check"])));
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--locked", "--", "-D", "warnings"];
    steps.run("clippy", || succeed(&mut cargo(&clippy)));
    if has_subcommand("deny") {
        steps.run("deny", || {
            succeed(&mut cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))
        });
    } else {
        steps.note(
            "cargo-deny is not installed: licences and bans of deny.toml were not checked by it".to_owned(),
        );
    }
}
