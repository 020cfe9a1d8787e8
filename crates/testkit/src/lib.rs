//! What tests need and no test owns: WiredTiger builds, Python environments, a PostgreSQL, a double of mongod, certificates,
//! the programs just built, and a word for skipping.
//!
//! Everything fetched lands in one folder of the project, [`tools_dir`], pinned by hash in `python/*.txt` and
//! `node/*/package-lock.json`. The first
//! caller provisions, under a file lock; every later one, in any process, finds it there. `cargo xtask test`
//! provisions everything up front, so that no test's time includes a build.

#![forbid(unsafe_code)]

mod alone;
pub mod built;
pub mod certificates;
pub mod mongod_double;
pub mod node;
pub mod postgres;
mod provision;
pub mod python;
pub mod reflinks;
mod skip;
pub mod wiredtiger;

use std::path::{Path, PathBuf};

pub use alone::Alone;
pub use skip::report_skip;

/// The folder of the workspace's `Cargo.toml`.
pub fn project_root() -> &'static Path {
    let testkit = Path::new(env!("CARGO_MANIFEST_DIR"));
    testkit.ancestors().nth(2).expect("the crate lies two folders below the workspace")
}

/// Where fetched and built tools are kept: `.tools` in the workspace, or what `KEYWARD_TOOLS_DIR` names.
pub fn tools_dir() -> PathBuf {
    match std::env::var_os("KEYWARD_TOOLS_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => project_root().join(".tools"),
    }
}

/// Where cargo puts what it builds: for large temporary files that should not lie on a small `/tmp`.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => project_root().join(dir),
        _ => project_root().join("target"),
    }
}

/// Ends the test at once and says why it did not run: on stderr, and in the list that `cargo xtask test` prints.
///
/// Only for what a machine may rightly lack (a `mongod`, a Debian package). The test's name is taken from its thread.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::report_skip(&::std::format!($($reason)*));
        return;
    }};
}
