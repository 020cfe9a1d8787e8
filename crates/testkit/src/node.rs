//! npm packages of the project's own, every one pinned by hash in `node/*/package-lock.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::project_root;
use crate::provision::{provisioned, run};

/// A folder with `@azure/keyvault-keys` and `@azure/identity` in its `node_modules`; a script copied into it finds
/// them. `Err` says why this machine cannot have it (no Node.js): tests pass it to [`skip!`](crate::skip).
pub fn azure() -> Result<Result<PathBuf, String>> {
    packages("azure", "@azure/keyvault-keys")
}

/// A folder with `mongodb-mcp-server` and its `@mongodb-js/mcp-atlas-api-client` in its `node_modules`. `Err` as
/// for [`azure`].
pub fn atlas() -> Result<Result<PathBuf, String>> {
    packages("atlas", "@mongodb-js/mcp-atlas-api-client")
}

/// Installs what `node/<name>/package-lock.json` pins; `proof` is a package that must be there afterwards.
fn packages(name: &str, proof: &str) -> Result<Result<PathBuf, String>> {
    let version = |program: &str| -> Option<String> {
        let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (Some(node), Some(npm)) = (version("node"), version("npm")) else {
        return Ok(Err("needs Node.js and npm (Debian: apt-get install nodejs npm)".to_owned()));
    };
    let source = project_root().join("node").join(name);
    let read = |file: &str| -> Result<String> {
        let path = source.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (manifest, lock) = (read("package.json")?, read("package-lock.json")?);
    let stamp = format!("1\n{node} {npm}\n{manifest}\n{lock}");
    let works = |dir: &Path| dir.join("node_modules").join(proof).join("package.json").exists();
    let dir = provisioned(&format!("node-{name}"), &stamp, works, |dir| {
        fs::write(dir.join("package.json"), &manifest)?;
        fs::write(dir.join("package-lock.json"), &lock)?;
        // Nothing of a package runs while it is installed.
        let ci = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"];
        run(dir, "npm", ci.iter().map(Path::new).chain([dir]))
    })?;
    Ok(Ok(dir))
}
