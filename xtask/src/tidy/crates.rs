//! The direction of crates, and what may be in whose build.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;

/// Crate, and the crates of ours that its own targets may use. Its tests may use any but xtask.
const DIRECTION: [(&str, &[&str]); 13] = [
    ("keyward-model", &[]),
    ("keyward-keys", &[]),
    ("keyward-config-file", &[]),
    ("keyward-kms", &["keyward-keys", "keyward-model"]),
    ("keyward-store", &["keyward-model"]),
    ("keyward-vault", &["keyward-keys"]),
    ("keyward-server", &["keyward-model", "keyward-config-file", "keyward-kms", "keyward-store"]),
    ("keyward-encryptor", &["keyward-keys"]),
    // The encryptor's table of layouts is read by the agent, which tells the encryptor what to expect.
    (
        "keyward-agent",
        &["keyward-model", "keyward-keys", "keyward-config-file", "keyward-kms", "keyward-encryptor"],
    ),
    (
        "keyward-cli",
        &[
            "keyward-model",
            "keyward-keys",
            "keyward-kms",
            "keyward-vault",
            "keyward-agent",
            "keyward-server",
            "keyward-encryptor",
        ],
    ),
    ("keyward-testkit", &[]),
    ("keyward-bench", &["keyward-keys", "keyward-testkit"]),
    ("xtask", &["keyward-testkit"]),
];
/// Never in the build of a program of ours.
const BANNED: [(&str, &str); 4] = [
    ("openssl", "aws-lc is the one provider"),
    ("openssl-sys", "aws-lc is the one provider"),
    ("native-tls", "rustls is the one TLS"),
    ("rsa", "timing side channel; aws-lc does RSA"),
];
/// Never in the encryptor, which lives in the database's process, nor in what it stands on.
const BANNED_IN_ENCRYPTOR: [&str; 6] = ["tokio", "hyper", "reqwest", "tracing", "rustls", "ring"];
/// Who may bring ring: the MongoDB driver names it itself, and by its feature rustls gets it.
const RING_BENEATH: [&str; 3] = ["mongodb", "rustls", "rustls-webpki"];

/// Findings about the direction of crates, from `cargo metadata --format-version 1`.
pub(super) fn direction(metadata: &Value) -> Result<Vec<Finding>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let members: BTreeSet<&str> = metadata["workspace_members"]
        .as_array()
        .context("cargo metadata lists no members")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let ours: BTreeMap<&str, &Value> = packages
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| members.contains(id)))
        .filter_map(|package| Some((package["name"].as_str()?, package)))
        .collect();
    let mut findings = Vec::new();
    for (name, package) in &ours {
        let Some((_, allowed)) = DIRECTION.iter().find(|(member, _)| member == name) else {
            findings.push(about(
                name,
                "is in no ring: give it its place in xtask's table of directions".to_owned(),
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(used) = dependency["name"].as_str().filter(|used| ours.contains_key(used)) else {
                continue;
            };
            let by_tests = dependency["kind"] == "dev";
            if if by_tests { used == "xtask" } else { !allowed.contains(&used) } {
                findings.push(about(name, format!("must not depend on {used}")));
            }
        }
    }
    Ok(findings)
}

/// Names of our crates, from `cargo metadata`.
pub(super) fn members() -> impl Iterator<Item = &'static str> {
    DIRECTION.iter().map(|(name, _)| *name)
}

/// Findings about what is in one crate's build: `build` has one package name a line (`cargo tree --prefix none`).
pub(super) fn build(name: &str, build: &str) -> Vec<Finding> {
    let beneath = names(build);
    let banned = BANNED.iter().filter(|(banned, _)| beneath.contains(banned));
    let mut findings: Vec<Finding> =
        banned.map(|(banned, why)| about(name, format!("has {banned} in its build: {why}"))).collect();
    if ["keyward-encryptor", "keyward-keys", "keyward-model"].contains(&name) {
        let banned = BANNED_IN_ENCRYPTOR.iter().filter(|banned| beneath.contains(*banned));
        findings.extend(banned.map(|banned| about(name, format!("has {banned} in its build"))));
    }
    findings
}

/// Findings about ring's users: `tree` is `cargo tree --invert ring --depth 1 --prefix none`.
pub(super) fn ring(tree: &str) -> Vec<Finding> {
    let users = names(tree);
    let unexpected = users.iter().filter(|user| **user != "ring" && !RING_BENEATH.contains(user));
    unexpected
        .map(|user| about(user, "brings ring into the build: aws-lc is the one provider".to_owned()))
        .collect()
}

fn names(tree: &str) -> BTreeSet<&str> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

fn about(package: &str, what: String) -> Finding {
    Finding { file: package.to_owned(), line: 0, what }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Findings for packages named by their id, with edges (from, to, kind).
    fn found(members: &[&str], edges: &[(&str, &str, Option<&str>)]) -> usize {
        let packages: Vec<Value> = members
            .iter()
            .map(|name| {
                let used = edges.iter().filter(|(from, ..)| from == name);
                let used: Vec<Value> =
                    used.map(|(_, to, kind)| json!({ "name": to, "kind": kind })).collect();
                json!({ "id": name, "name": name, "dependencies": used })
            })
            .collect();
        direction(&json!({ "packages": packages, "workspace_members": members })).unwrap().len()
    }

    #[test]
    fn direction_is_program_to_port_to_pure() {
        let members = ["keyward-model", "keyward-kms", "keyward-vault"];
        assert_eq!(found(&members, &[("keyward-kms", "keyward-model", None)]), 0);
        assert_eq!(found(&members, &[("keyward-kms", "keyward-vault", Some("dev"))]), 0, "tests may");
        assert_eq!(found(&members, &[("keyward-model", "keyward-kms", None)]), 1);
        assert_eq!(found(&members, &[("keyward-kms", "keyward-vault", None)]), 1);
        assert_eq!(found(&members, &[("keyward-kms", "keyward-vault", Some("build"))]), 1);
        assert_eq!(found(&["keyward-news"], &[]), 1, "a new crate has to be given its place");
    }

    #[test]
    fn what_is_banned_is_found() {
        assert_eq!(build("keyward-kms", "keyward-kms v0.1.0\nreqwest v0.13.5\nnative-tls v0.2.0").len(), 1);
        assert!(build("keyward-kms", "tokio v1.0.0\nrsa-oaep-notes v1.0.0").is_empty());
        assert_eq!(build("keyward-encryptor", "tokio v1.0.0").len(), 1);
    }

    #[test]
    fn ring_comes_with_the_mongodb_driver_only() {
        assert!(ring("ring v0.17.14\nrustls v0.23.46\nrustls-webpki v0.103.17").is_empty());
        assert_eq!(ring("ring v0.17.14\nrcgen v0.14.10").len(), 1);
    }
}
