//! A test that cannot run here says so where people look.

use std::fs::OpenOptions;
use std::io::Write;

/// Records that the calling test did not run, and why. Use [`crate::skip!`], which also returns.
pub fn report_skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("{test}: {reason}\n");
    let _ = write!(std::io::stderr(), "skipped {line}");
    // One append of one short line: lines of parallel tests do not mix.
    if let Some(list) = std::env::var_os("KEYWARD_SKIP_LIST")
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(list)
    {
        let _ = file.write_all(line.as_bytes());
    }
}
