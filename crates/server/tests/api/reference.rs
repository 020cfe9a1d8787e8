//! What the documents list is what the code has: error codes, and the operations that are not built.

use std::{collections::BTreeSet, fmt::Write as _};

use keyward_model::Code;
use keyward_server::{
    api::{self, unbuilt::CONTRACT},
    http::error::status,
};

/// The names between back ticks in the list under `heading` of a document.
fn listed(document: &str, heading: &str) -> Vec<String> {
    let (_, after) = document.split_once(heading).unwrap();
    let section = after.split("\n## ").next().unwrap();
    let items = section.lines().filter(|line| line.starts_with("- "));
    items.flat_map(|line| line.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn the_operations_that_answer_501_are_those_that_the_document_names() {
    let built: BTreeSet<&str> = api::built().iter().map(|operation| operation.id).collect();
    let missing: BTreeSet<String> =
        CONTRACT.iter().map(|fact| fact.0).filter(|id| !built.contains(id)).map(str::to_owned).collect();
    let path = keyward_testkit::project_root().join("docs/concepts/atlas-compatibility.md");
    let named = listed(&std::fs::read_to_string(&path).unwrap(), "\n## Not there\n");
    let once: BTreeSet<String> = named.iter().cloned().collect();
    assert_eq!(once.len(), named.len(), "an operation is named twice: {named:?}");
    let (stale, forgotten): (Vec<_>, Vec<_>) =
        (once.difference(&missing).collect(), missing.difference(&once).collect());
    assert!(
        stale.is_empty() && forgotten.is_empty(),
        "{}: built, or no operation: {stale:?}; answer 501 and are not named: {forgotten:?}",
        path.display()
    );
    assert!(!missing.is_empty() && !built.is_empty());
}

#[test]
fn every_error_code_is_in_the_reference() {
    let mut rows: Vec<(&str, u16, &str, &str)> = Code::ALL
        .iter()
        .map(|code| (code.as_str(), status(*code).as_u16(), code.text(), code.advice()))
        .collect();
    rows.sort_unstable();
    let mut wanted = "# Error codes\n\nWhat an answer's `errorCode` and header `X-Error-Code` can be, with its status, what happened, and what to do. \
                      Names are the Atlas Administration API's where it has one. Made from the code: \
                      `KEYWARD_WRITE_DOCS=1 cargo nextest run -p keyward-server --test api -E 'test(reference)'`.\n\n| code | status | what happened | what to do |\n|---|---|---|---|\n"
        .to_owned();
    for (code, status, text, advice) in rows {
        writeln!(wanted, "| `{code}` | {status} | {text} | {advice} |").unwrap();
    }
    let path = keyward_testkit::project_root().join("docs/reference/errors.md");
    if std::env::var_os("KEYWARD_WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{} is stale: set KEYWARD_WRITE_DOCS=1 and run this test", path.display());
}
