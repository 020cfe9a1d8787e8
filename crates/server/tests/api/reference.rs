//! The list of error codes in the reference is the code's.

use std::fmt::Write as _;

use keyward_model::Code;
use keyward_server::http::error::status;

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
