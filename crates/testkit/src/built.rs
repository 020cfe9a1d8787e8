//! The programs and libraries of this workspace that cargo built along with the running test.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

/// `libkeyward_encryptor.so` of the running test's own profile: the newest of those beside it.
///
/// The calling package needs `keyward-encryptor` among its (dev-)dependencies, so that cargo builds it along.
pub fn encryptor_library() -> Result<PathBuf> {
    newest("libkeyward_encryptor.so").context("hint: add keyward-encryptor to the package's dev-dependencies")
}

/// The `keyward` binary of the running test's profile.
///
/// Cargo builds it along only for tests of `keyward-cli` itself and for runs over the whole workspace.
pub fn keyward() -> Result<PathBuf> {
    newest("keyward").context("hint: cargo build -p keyward-cli first, or run the whole workspace's tests")
}

/// The file of an example that was built in the running program's profile, like `libraw_cipher.so`.
pub fn example(file: &str) -> Result<PathBuf> {
    newest(&format!("examples/{file}")).context("hint: cargo build --release -p keyward-encryptor --examples")
}

fn newest(file: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("cannot tell the running test's path")?;
    let folders = test.ancestors().skip(1).take(2);
    let modified =
        |path: &Path| path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    folders
        .map(|folder| folder.join(file))
        .filter(|path| path.is_file())
        .max_by_key(|path| modified(path))
        .with_context(|| format!("{file} is not beside {}", test.display()))
}
