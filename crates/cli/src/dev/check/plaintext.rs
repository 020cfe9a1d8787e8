//! Nothing readable on disk: keyward's own proof, and a search of the tour's own that shares no code with it and is
//! tried on unencrypted files first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use keyward_agent::admin::Request;
use mongodb::bson::{Document, doc};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::documents::{DATABASES, connect, write_into};
use super::{Tour, broken, ensure};
use crate::dev::database::Database;
use crate::dev::site::{Node, free_port};
use crate::failure::Failure;
use crate::render;

impl Tour {
    /// `keyward node prove` on every node.
    pub(super) async fn prove(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("each node proves that no plaintext is on its disk");
        let work = async {
            let (mut files, mut bytes, mut blocks) = (0, 0, 0);
            for node in self.provable().await? {
                let proof = node.ask(&Request::Prove).await?;
                let number =
                    |pointer: &str| proof.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(0);
                ensure(proof["verdict"] == "noPlaintext", || {
                    format!("{}: {} ({})", node.name, proof["reason"], proof["verdict"])
                })?;
                files += number("/files");
                bytes += number("/bytes");
                blocks += number("/blocks/encrypted");
            }
            ensure(files > 0 && blocks > 0, || "the proof searched nothing".into())?;
            Ok(format!("{files} files, {} and {blocks} encrypted blocks searched", render::bytes(bytes)))
        };
        let done = work.await;
        self.report.end(begun, done)
    }

    /// A proof writes: every node by itself can make one, of a replica set only the primary.
    async fn provable(&self) -> Result<Vec<Node>, Failure> {
        let mut nodes = Vec::new();
        for node in self.site.members() {
            let writable = match self.site.database {
                Database::Mongod { .. } => is_primary(node).await?,
                Database::Secantusdb { .. } => true,
            };
            if writable {
                nodes.push(node.clone());
            }
        }
        Ok(nodes)
    }

    /// The same documents written without keyward are found; those of the nodes are not.
    pub(super) async fn search(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("a search finds none of the documents; without keyward all");
        let markers = self.ledger.markers();
        let control = self.work.join("control");
        let work = async {
            let without = write_unencrypted(&self.site.database, &control, &markers).await?;
            ensure(without.found.len() == markers.len(), || {
                format!(
                    "the search is blind: of {} markers written without keyward it found {}",
                    markers.len(),
                    without.found.len()
                )
            })?;
            let mut with = Searched::default();
            for node in self.site.members() {
                with.add(search(&node.data_path, &markers).await?);
            }
            ensure(with.found.is_empty(), || format!("plaintext on disk: {:?}", with.places))?;
            Ok(format!(
                "{} files, {}: none of {} markers; {} of {} in {} files without keyward",
                with.files,
                render::bytes(with.bytes),
                markers.len(),
                without.found.len(),
                markers.len(),
                without.files,
            ))
        };
        let done = work.await;
        self.report.end(begun, done)
    }
}

async fn is_primary(node: &Node) -> Result<bool, Failure> {
    let hello = connect(&node.uri()).await?.database("admin").run_command(doc! { "hello": 1 }).await;
    Ok(hello.is_ok_and(|said| said.get_bool("isWritablePrimary").unwrap_or(false)))
}

/// What a search saw.
#[derive(Debug, Default)]
pub(super) struct Searched {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Markers found, each once.
    pub(super) found: std::collections::BTreeSet<usize>,
    pub(super) places: Vec<PathBuf>,
}

impl Searched {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.found.extend(other.found);
        self.places.extend(other.places);
    }
}

/// Searches every byte of every file under `folder`.
pub(super) async fn search(folder: &Path, markers: &[String]) -> Result<Searched, Failure> {
    let (folder, markers) = (folder.to_owned(), markers.to_vec());
    let shown = folder.display().to_string();
    let searched = tokio::task::spawn_blocking(move || search_now(&folder, &markers)).await;
    searched
        .map_err(|e| broken("the search broke").because(&e))?
        .map_err(|e| Failure::new(format!("{shown} cannot be searched"), "check its permissions").because(&e))
}

fn search_now(folder: &Path, markers: &[String]) -> std::io::Result<Searched> {
    let patterns = AhoCorasick::new(markers).map_err(std::io::Error::other)?;
    let mut searched = Searched::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = match fs::read(entry.path()) {
                    Ok(bytes) => bytes,
                    // A database removes files while it runs.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                };
                let before = searched.found.len();
                searched.found.extend(patterns.find_iter(&bytes).map(|hit| hit.pattern().as_usize()));
                if searched.found.len() > before {
                    searched.places.push(entry.path());
                }
                searched.files += 1;
                searched.bytes += bytes.len() as u64;
            }
        }
    }
    Ok(searched)
}

/// Runs the same database without keyward in `folder`, writes documents with the same markers, and searches.
async fn write_unencrypted(
    database: &Database,
    folder: &Path,
    markers: &[String],
) -> Result<Searched, Failure> {
    crate::dev::home::make_dir(folder)?;
    let port = free_port()?;
    let mut command = Command::new(database.program());
    match database {
        Database::Mongod { .. } => {
            command.arg("--dbpath").arg(folder).args(["--bind_ip", "127.0.0.1", "--port", &port.to_string()]);
        }
        Database::Secantusdb { .. } => {
            // A configuration file of the user's must not have a say.
            let config = folder.with_extension("toml");
            crate::dev::home::write_file(&config, b"")?;
            command.args(["-m", "secantus", "--config"]).arg(config);
            command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--storage-path"]).arg(folder);
        }
    }
    let mut child = command
        .env_remove("WIREDTIGER_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            Failure::new("the database cannot be started without keyward", "install it anew").because(&e)
        })?;
    let written = fill(port, markers).await;
    let searched = match written {
        Ok(()) => search(folder, markers).await,
        Err(failure) => Err(failure),
    };
    let _ = child.kill().await;
    let _ = fs::remove_dir_all(folder);
    searched
}

async fn fill(port: u16, markers: &[String]) -> Result<(), Failure> {
    let client = connect(&format!("mongodb://127.0.0.1:{port}/?directConnection=true")).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while client.database("admin").run_command(doc! { "ping": 1 }).await.is_err() {
        if Instant::now() >= deadline {
            return Err(Failure::new("the database without keyward does not answer", "install it anew"));
        }
        sleep(Duration::from_millis(200)).await;
    }
    let unwritten = |e: mongodb::error::Error| {
        Failure::new("the database without keyward takes no documents", "install it anew").because(&e)
    };
    for database in DATABASES {
        let documents: Vec<Document> =
            (0_i32..).zip(markers).map(|(id, marker)| doc! { "_id": id, "marker": marker }).collect();
        write_into(&client, database, &documents).await.map_err(unwritten)?;
    }
    client.database("admin").run_command(doc! { "fsync": 1 }).await.map(|_| ()).map_err(unwritten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_sees_every_file_at_every_depth() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("x"), [&[0xff; 9000][..], b"needle-1", &[0; 10]].concat()).unwrap();
        fs::write(dir.path().join("y"), "nothing").unwrap();
        let markers = ["needle-0".to_owned(), "needle-1".to_owned()];
        let searched = search_now(dir.path(), &markers).unwrap();
        assert_eq!((searched.files, searched.bytes), (2, 9025));
        assert_eq!(searched.found.into_iter().collect::<Vec<_>>(), [1]);
        assert_eq!(searched.places, [deep.join("x")]);
        assert!(search_now(&dir.path().join("missing"), &markers).is_err());
    }
}
