//! `docs/reference/cli.md`: every command's help, generated from the definition. The test below keeps it current.

use std::fmt::Write;

use clap::CommandFactory;

use super::Arguments;

const HEAD: &str = "\
# Command line

Every command with its options, as `--help` shows it. Generated from the definition: after a change, run
`KEYWARD_WRITE_DOCS=1 cargo test -p keyward-cli reference`.

Data goes to stdout, everything else to stderr. With `--json` only data is printed. Exit codes: 0 done, 1 failed, 2 wrong
usage, 3 refused because the customer key is revoked, 4 the customer key is unavailable.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut root = Arguments::command().term_width(100);
    root.build();
    section(&mut root, &mut page);
    page
}

fn section(command: &mut clap::Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let help: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.trim_end());
    for sub in command.get_subcommands_mut() {
        section(sub, page);
    }
}

#[test]
fn the_reference_is_current() {
    let path = keyward_testkit::project_root().join("docs/reference/cli.md");
    let page = page();
    if std::env::var_os("KEYWARD_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "{} is not current: run KEYWARD_WRITE_DOCS=1 cargo test -p keyward-cli reference",
        path.display()
    );
}
