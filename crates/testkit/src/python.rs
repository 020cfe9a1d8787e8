//! Python environments of the project's own, every package pinned by hash in `python/*.txt`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::project_root;
use crate::provision::{provisioned, run};

/// The interpreter of an environment with SecantusDB (and its WiredTiger 11.2 as module `wiredtiger`), pymongo and bson.
///
/// `python -m secantus …` starts the database.
pub fn secantusdb() -> Result<PathBuf> {
    environment("python-secantusdb", "secantusdb.txt", "import secantus, wiredtiger, pymongo")
}

/// The interpreter of an environment with `azure-keyvault-keys` and `azure-identity`.
pub fn azure() -> Result<PathBuf> {
    environment("python-azure", "azure.txt", "import azure.keyvault.keys, azure.identity")
}

/// The interpreter of an environment with `pyatlassdk`, a client of the Atlas Administration API.
pub fn atlas() -> Result<PathBuf> {
    environment("python-atlas", "atlas.txt", "import pyatlassdk")
}

/// The interpreter of an environment with `schemathesis`, which holds answers against an OpenAPI document.
///
/// It needs Python 3.11; `Err` inside says so where the interpreter is older: tests pass it to
/// [`skip!`](crate::skip).
pub fn schemathesis() -> Result<Result<PathBuf, String>> {
    let base = base();
    let new_enough = Command::new(&base)
        .args(["-c", "import sys; sys.exit(sys.version_info < (3, 11))"])
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !new_enough {
        return Ok(Err(format!("needs Python 3.11 or newer; {} is older", base.to_string_lossy())));
    }
    environment("python-schemathesis", "schemathesis.txt", "import schemathesis").map(Ok)
}

/// The shared library inside SecantusDB's wheel that holds WiredTiger 11.2.0 (a Python extension module, with symbols).
pub fn secantusdb_wiredtiger_library() -> Result<PathBuf> {
    let python = secantusdb()?;
    let output = Command::new(&python)
        .args(["-c", "import wiredtiger, os; print(os.path.dirname(wiredtiger.__file__))"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", python.display()))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("_wiredtiger") && name.ends_with(".so")
        })
        .with_context(|| format!("no _wiredtiger*.so in {}", folder.display()))
}

/// The folder of an environment with cmake and ninja; both in its `bin`.
pub(crate) fn build_tools() -> Result<PathBuf> {
    let python = environment("python-build-tools", "build-tools.txt", "import cmake, ninja")?;
    Ok(python.ancestors().nth(2).context("an interpreter lies in bin of its environment")?.to_owned())
}

/// The text of a requirements file in `python/`.
pub(crate) fn requirements(file: &str) -> Result<String> {
    let path = requirements_path(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

pub(crate) fn requirements_path(file: &str) -> PathBuf {
    project_root().join("python").join(file)
}

fn environment(name: &str, file: &str, smoke: &str) -> Result<PathBuf> {
    let base = base();
    let stamp = format!("1\n{}\n{}", requirements(file)?, version_of(&base)?);
    let works = |dir: &Path| {
        Command::new(interpreter(dir))
            .args(["-c", smoke])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let dir = provisioned(name, &stamp, works, |dir| {
        run(dir, &base, ["-m", "venv", "--clear", &dir.join("env").to_string_lossy()])
            .context("hint: Python's venv module is needed (Debian: apt-get install python3-venv)")?;
        // Wheels only: nothing of a package runs while it is installed.
        let pip = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-deps"];
        let pinned = ["--require-hashes", "--only-binary", ":all:", "-r"];
        let list = requirements_path(file);
        let args = pip.iter().chain(&pinned).map(OsString::from).chain([list.into_os_string()]);
        run(dir, interpreter(dir), args)
    })?;
    Ok(interpreter(&dir))
}

fn base() -> OsString {
    std::env::var_os("KEYWARD_PYTHON").unwrap_or_else(|| OsString::from("python3"))
}

fn interpreter(dir: &Path) -> PathBuf {
    dir.join("env/bin/python")
}

fn version_of(python: &OsString) -> Result<String> {
    let output = Command::new(python)
        .args(["-c", "import sys; print(sys.version, sys.base_prefix)"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| {
            format!("cannot start {python:?}; hint: install Python 3.10 to 3.13, or set KEYWARD_PYTHON")
        })?;
    if !output.status.success() {
        bail!("{python:?} does not work: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
