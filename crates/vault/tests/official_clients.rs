//! Azure's own Python and JavaScript clients, unchanged, against a served vault. What they do is in `clients/`.

#![allow(clippy::unwrap_used)]

mod served;

use std::path::Path;
use std::process::Stdio;

use served::Served;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python() {
    let interpreter = tokio::task::spawn_blocking(keyward_testkit::python::azure).await.unwrap().unwrap();
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/drive.py");
    let mut command = Command::new(interpreter);
    command.arg(script);
    run(command, &vault, "python: all done").await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_without_any_setting() {
    let interpreter = tokio::task::spawn_blocking(keyward_testkit::python::azure).await.unwrap().unwrap();
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/unchanged.py");
    let mut command = Command::new(interpreter);
    command.arg(script);
    run(command, &vault, "unchanged: all done").await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript() {
    let packages = tokio::task::spawn_blocking(keyward_testkit::node::azure).await.unwrap().unwrap();
    let folder = match packages {
        Ok(folder) => folder,
        Err(reason) => keyward_testkit::skip!("{reason}"),
    };
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    // Node looks for packages beside the script.
    let script = folder.join(format!("drive-{}.mjs", std::process::id()));
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/drive.mjs"), &script).unwrap();
    let mut command = Command::new("node");
    command.arg(&script);
    command.env("NODE_EXTRA_CA_CERTS", &vault.description().ca_file);
    run(command, &vault, "javascript: all done").await;
    std::fs::remove_file(script).unwrap();
    vault.stop().await;
}

async fn run(mut command: Command, vault: &Served, last_line: &str) {
    command.arg(vault.dir.as_ref().unwrap().path().join("vault.json"));
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim_end().ends_with(last_line), "{out}\n{err}");
}
