//! Rules of this tree that no compiler checks. Each rule is a function from text to findings; this file walks.

mod crates;
mod links;
mod tokens;
mod words;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use keyward_testkit::project_root;
use walkdir::WalkDir;

use crate::step::{Steps, cargo};

/// Something to mend: where and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Path within the project, `/`-separated.
    file: String,
    /// 0 when it concerns the file as a whole.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{}:{line}: {}", self.file, self.what),
        }
    }
}

pub(crate) fn run(steps: &mut Steps) {
    steps.run("tidy: source and documents", || report(source_findings(project_root())?));
    steps.run("tidy: crates", || report(crate_findings()?));
}

fn report(findings: Vec<Finding>) -> Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(|finding| format!("   {finding}")).collect();
    bail!("{}\n   {} to mend", lines.join("\n"), findings.len());
}

fn source_findings(root: &Path) -> Result<Vec<Finding>> {
    let files = text_files(root)?;
    let names: BTreeSet<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let mut findings = Vec::new();
    let here = root.to_string_lossy();
    for (name, text) in &files {
        findings.extend(words::check(name, text, &here));
        if name.ends_with(".rs") {
            findings.extend(tokens::check(name, text));
        }
        if name.ends_with(".md") {
            let read =
                |other: &str| files.iter().find(|(name, _)| name == other).map(|(_, text)| text.as_str());
            findings.extend(links::check(name, text, |path| exists(root, &names, path), read));
        }
    }
    Ok(findings)
}

fn crate_findings() -> Result<Vec<Finding>> {
    let metadata = output(&["metadata", "--format-version", "1", "--no-deps", "--locked"])?;
    let mut findings =
        crates::direction(&serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?)?;
    let tree = ["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    for member in crates::members() {
        findings.extend(crates::build(member, &output(&[&tree[..], &["--package", member]].concat())?));
    }
    let users = [&tree[..], &["--workspace", "--depth", "1", "--invert", "ring"]].concat();
    findings.extend(crates::ring(&output(&users)?));
    Ok(findings)
}

fn output(args: &[&str]) -> Result<String> {
    let output = cargo(args).output().with_context(|| format!("cannot run cargo {}", args[0]))?;
    if !output.status.success() {
        bail!("cargo {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn exists(root: &Path, names: &BTreeSet<&str>, path: &str) -> bool {
    names.contains(path) || root.join(path).exists()
}

/// Every text file of the project with its path within it.
fn text_files(root: &Path) -> Result<Vec<(String, String)>> {
    let folders = ["target", ".git", ".tools", ".keyward", "node_modules", "__pycache__"];
    let kinds = [
        "rs", "toml", "md", "py", "sh", "json", "js", "mjs", "txt", "in", "service", "c", "h", "yml", "snap",
    ];
    let walk = WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(|entry| {
        let name = entry.file_name().to_string_lossy();
        !(entry.file_type().is_dir() && folders.contains(&name.as_ref()))
    });
    let mut files = Vec::new();
    for entry in walk {
        let entry = entry?;
        let path = entry.path();
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let script = path.parent().is_some_and(|folder| folder == root.join(".ci"));
        if !entry.file_type().is_file() || !(script || kinds.contains(&extension.as_str())) {
            continue;
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        // A test vector may be broken UTF-8 on purpose.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        files.push((within(root, path), text));
    }
    Ok(files)
}

fn within(root: &Path, path: &Path) -> String {
    let relative: PathBuf = path.strip_prefix(root).unwrap_or(path).to_owned();
    relative.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules hold in this tree: `cargo xtask test` cannot pass without them.
    #[test]
    fn the_tree_is_tidy() {
        let mut findings = source_findings(project_root()).unwrap();
        findings.extend(crate_findings().unwrap());
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }
}
