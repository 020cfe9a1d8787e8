//! `node prove`: shows that what is written to the database does not lie in the clear on a disk.
//!
//! Writes markers into a database of its own, forces them to disk, searches every byte of the data path and of the
//! files that the engine has open elsewhere, looks at the encrypted flag of every block, and removes its markers.
//! It reports what it searched, so that "nothing found" can be weighed; it must never call a search that saw too
//! little a success.

mod blocks;
mod markers;
mod search;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use keyward_model::count::counted;
use serde::{Deserialize, Serialize};

pub use blocks::Blocks;
pub use search::{FileKind, FileResult, Hit, Skipped};

use self::{markers::Markers, search::Search};
use crate::{
    admin::{Failure, progress::Progress},
    config::{Config, EngineKind},
    engine::{
        EngineError,
        database::{Database, DatabaseError},
        exposure::{self, How, Kept},
        swap,
    },
    folder::Trust,
    node::{NodeHandle, chain},
};

/// What a proof comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProofVerdict {
    /// No marker and no unencrypted block, and enough was seen to say so.
    NoPlaintext,
    /// A marker or an unencrypted block.
    PlaintextFound,
    /// Nothing was found, but not everything could be searched.
    Incomplete,
}

/// What was searched and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// What it comes to.
    pub verdict: ProofVerdict,
    /// Why, in a sentence.
    pub reason: String,
    /// Different markers written.
    pub markers: usize,
    /// The forms of each that were searched for.
    pub forms: Vec<String>,
    /// Bytes of markers and random data written into the database.
    pub written_bytes: u64,
    /// How mongod had the markers' table made; it names the encryptor and the database's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_string: Option<String>,
    /// Files searched.
    pub files: usize,
    /// Bytes searched.
    pub bytes: u64,
    /// Blocks of all data files.
    pub blocks: Blocks,
    /// Records of all log files.
    pub journal: Blocks,
    /// Each file.
    pub file_results: Vec<FileResult>,
    /// What could not be searched.
    pub skipped: Vec<Skipped>,
    /// What the engine has open besides, and why it was not searched: it is no file on a disk, and no reason to
    /// doubt the verdict.
    #[serde(default)]
    pub passed_over: Vec<Skipped>,
    /// What is kept off the disk, and how.
    pub kept: Vec<Kept>,
}

/// Why a proof was not made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The engine is not running.
    #[error("the engine does not run: there is nothing to write the markers into")]
    NotRunning,
    /// The engine has no protocol to write through.
    #[error("an engine of kind `wiredtiger` has no protocol to write markers through")]
    NoProtocol,
    /// The system's random source failed.
    #[error("the system gives no random bytes")]
    Random,
    /// The markers cannot be searched for.
    #[error("the search cannot be built")]
    Search(#[source] aho_corasick::BuildError),
    /// The engine's settings.
    #[error("the engine's user is not known")]
    Engine(#[source] EngineError),
    /// The engine did not take the markers.
    #[error("the markers could not be written to the database")]
    Database(#[from] DatabaseError),
    /// The search ended without a result.
    #[error("the search was ended")]
    Ended,
}

impl ProveError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::NotRunning => "start the node: keyward node start".to_owned(),
            Self::NoProtocol => "use kind = \"mongod\" or \"secantusdb\"".to_owned(),
            Self::Random | Self::Search(_) | Self::Ended => "try again".to_owned(),
            Self::Engine(error) => error.hint(),
            Self::Database(error) => error.hint(),
        }
    }
}

impl From<ProveError> for Failure {
    fn from(error: ProveError) -> Self {
        let code = match error {
            ProveError::NotRunning => "ENGINE_NOT_RUNNING",
            ProveError::NoProtocol => "ENGINE_HAS_NO_PROTOCOL",
            ProveError::Random | ProveError::Search(_) | ProveError::Ended => "PROOF_FAILED",
            ProveError::Engine(_) => "ENGINE",
            ProveError::Database(_) => "DATABASE_DID_NOT_ANSWER",
        };
        Self { code: code.to_owned(), message: chain(&error), hint: error.hint(), exit: 1 }
    }
}

/// Proves it for the running engine of `node`.
///
/// # Errors
/// The markers could not be written. What the search finds is in the [`Proof`], not an error.
pub async fn prove(node: &NodeHandle, progress: &Progress) -> Result<Proof, ProveError> {
    let process = node.engine().ok_or(ProveError::NotRunning)?;
    let config = node.config();
    let database = Database::new(&config.engine);
    let pid = process.record().pid;
    // It tells what it found, and nothing of what it read: whose the files are does not matter.
    let trust = Trust::data_path(&config.engine).map_err(ProveError::Engine)?.any_file();
    let mut proof = prove_of(&database, (&config.data_path, trust), Some(pid), progress).await?;
    proof.kept = kept(config);
    Ok(proof)
}

/// As [`prove`], for any database that answers and any data path.
async fn prove_of(
    database: &Database,
    (data_path, trust): (&Path, Trust),
    pid: Option<u32>,
    progress: &Progress,
) -> Result<Proof, ProveError> {
    if database.kind() == EngineKind::Wiredtiger {
        return Err(ProveError::NoProtocol);
    }
    let markers = Markers::make().map_err(|_| ProveError::Random)?;
    // File systems keep times to some milliseconds.
    let since = SystemTime::now() - Duration::from_secs(2);
    progress.report("write markers", 0, 1, "steps");
    let written = write(database, &markers).await;
    let searched = match &written {
        Ok(_) => search(&markers, (data_path.to_owned(), trust), pid, since, progress.clone()).await,
        Err(_) => Err(ProveError::Ended),
    };
    // Whatever happened, the markers go. What hinders that is told by the next proof, which starts with it.
    if let Err(error) = database.drop_markers().await {
        tracing::warn!("the markers of a proof stay in the database: {}", chain(&error));
    }
    Ok(sum_up(&markers, written?, searched?))
}

/// What was written.
struct Written {
    bytes: u64,
    /// mongod only.
    creation_string: Option<String>,
}

/// Writes the markers and forces them to disk.
async fn write(database: &Database, markers: &Markers) -> Result<Written, ProveError> {
    const COLLECTION: &str = "markers";
    // Left over by a proof that was killed.
    database.drop_markers().await?;
    let documents = markers.documents().map_err(|_| ProveError::Random)?;
    let bytes = documents.iter().filter_map(|d| d.to_vec().ok()).map(|d| d.len() as u64).sum();
    database.insert_markers(COLLECTION, documents).await?;
    database.index_markers(COLLECTION, markers::INDEXED_FIELD).await?;
    database.flush().await?;
    let creation_string = match database.kind() {
        EngineKind::Mongod => Some(database.creation_string(COLLECTION).await?),
        EngineKind::Secantusdb | EngineKind::Wiredtiger => None,
    };
    Ok(Written { bytes, creation_string })
}

async fn search(
    markers: &Markers,
    (data_path, trust): (PathBuf, Trust),
    pid: Option<u32>,
    since: SystemTime,
    progress: Progress,
) -> Result<search::Found, ProveError> {
    let automaton = markers.automaton().map_err(ProveError::Search)?;
    let forms = markers.forms();
    let run = move || {
        let report = |done, total| progress.report("search every byte", done, total, "bytes");
        let search = Search { automaton: &automaton, forms: &forms, since, trust, progress: &report };
        search.run(&data_path, pid.as_slice())
    };
    tokio::task::spawn_blocking(run).await.map_err(|_| ProveError::Ended)
}

/// Decides what the search comes to.
fn sum_up(markers: &Markers, written: Written, found: search::Found) -> Proof {
    let Written { bytes: written_bytes, creation_string } = written;
    let of = |kind| found.files.iter().filter(move |f: &&FileResult| f.kind == kind);
    let blocks = total(of(FileKind::Data));
    let journal = total(of(FileKind::Journal));
    let arrived = total(of(FileKind::Data).filter(|f| f.written_since)).encrypted_bytes;
    let with_hits: Vec<_> = found.files.iter().filter(|f| !f.hits.is_empty()).collect();
    let unencrypted = blocks.unencrypted + journal.unencrypted;

    let (verdict, reason) = if let Some(first) = with_hits.first() {
        let text = format!(
            "markers lie in the clear in {}, first in {}",
            counted(with_hits.len(), "file", "files"),
            first.path.display()
        );
        (ProofVerdict::PlaintextFound, text)
    } else if unencrypted > 0 {
        (ProofVerdict::PlaintextFound, format!("{unencrypted} blocks or log records are not encrypted"))
    } else if creation_string.as_deref().is_some_and(|made| !names_encryptor(made)) {
        let text = "mongod did not make the markers' table with keyward's encryptor".to_owned();
        (ProofVerdict::PlaintextFound, text)
    } else if let Some(first) = found.skipped.first() {
        let text = format!(
            "{} could not be searched, first {}: {}",
            found.skipped.len(),
            first.path.display(),
            first.why
        );
        (ProofVerdict::Incomplete, text)
    } else if arrived < written_bytes {
        let text = format!(
            "{written_bytes} bytes were written, but only {arrived} bytes of encrypted blocks are in files written \
             since: the markers may not be on the disk yet"
        );
        (ProofVerdict::Incomplete, text)
    } else {
        let text = "no marker in any form, and every block and log record with data is encrypted".to_owned();
        (ProofVerdict::NoPlaintext, text)
    };
    let mut forms: Vec<String> = Vec::new();
    for form in markers.forms() {
        if !forms.iter().any(|known| known == form.encoding) {
            forms.push(form.encoding.to_owned());
        }
    }
    Proof {
        verdict,
        reason,
        markers: markers.count(),
        forms,
        written_bytes,
        creation_string,
        files: found.files.len(),
        bytes: found.files.iter().map(|f| f.bytes).sum(),
        blocks,
        journal,
        file_results: found.files,
        skipped: found.skipped,
        passed_over: found.passed_over,
        kept: Vec::new(),
    }
}

/// Whether the last `encryption` clause (the one that counts) of a table's creation string is the encryptor's.
fn names_encryptor(creation_string: &str) -> bool {
    let name = format!("name={}", keyward_encryptor::layout::ENCRYPTOR_NAME);
    creation_string.rsplit_once("encryption=(").is_some_and(|(_, clause)| {
        let clause = clause.split(')').next().unwrap_or_default();
        clause.split(',').any(|part| part.trim() == name) && clause.contains("keyid=")
    })
}

fn total<'a>(files: impl Iterator<Item = &'a FileResult>) -> Blocks {
    files.filter_map(|f| f.blocks.as_ref()).fold(Blocks::default(), |mut sum, blocks| {
        sum.encrypted += blocks.encrypted;
        sum.encrypted_bytes += blocks.encrypted_bytes;
        sum.unencrypted += blocks.unencrypted;
        sum.bookkeeping += blocks.bookkeeping;
        sum.free_bytes += blocks.free_bytes;
        sum
    })
}

/// Everything of the engine's that is kept off the disk, or not.
fn kept(config: &Config) -> Vec<Kept> {
    let kept = |place: &str, holds: &str, how| Kept { place: place.to_owned(), holds: holds.to_owned(), how };
    let mut all = vec![
        kept("WiredTiger's data files and journal", "all documents, indexes and the catalog", How::Encrypted),
        kept("core files", "the memory of the process", How::SwitchedOff),
    ];
    match exposure::Media::read(&config.data_path, &config.engine.log_file) {
        Ok(media) => all.extend(exposure::plan(&config.engine, &media).kept),
        Err(error) => all.push(kept(&chain(&error), "unknown", How::Readable)),
    }
    let swap = swap::Swap::read(swap::engine_gets_scope());
    let how = match swap.judge(config.engine.accept_plaintext_in_swap) {
        Some(_) => How::Readable,
        None if swap.areas.is_empty() || swap.barred || swap.scope => How::SwitchedOff,
        None => How::EncryptedDevice,
    };
    all.push(kept("swap", "the memory of the process", how));
    all
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        net::TcpListener,
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::config::EngineConfig;

    /// A SecantusDB without an encryptor.
    struct Plain {
        child: Child,
        database: Database,
        data_path: tempfile::TempDir,
    }

    impl Plain {
        async fn start() -> Self {
            let python = keyward_testkit::python::secantusdb().unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let data_path = tempfile::tempdir().unwrap();
            let log = File::create(data_path.path().join("log")).unwrap();
            let child = Command::new(&python)
                .args([
                    "-m",
                    "secantus",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    &port.to_string(),
                    "--storage-path",
                ])
                .arg(data_path.path().join("db"))
                .env_remove("WIREDTIGER_CONFIG")
                .current_dir(data_path.path())
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let config = EngineConfig { port, ..EngineConfig::for_test(EngineKind::Secantusdb) };
            let database = Database::new(&config);
            while database.version().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Self { child, database, data_path }
        }
    }

    impl Drop for Plain {
        fn drop(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    #[test]
    fn only_a_table_under_our_encryptor_counts() {
        for (made, ours) in [
            ("access_pattern_hint=none,encryption=(keyid=\"00ff\",name=keyward),exclusive=false", true),
            ("encryption=(name=none),x=1,encryption=(name=keyward,keyid=\"00ff\")", true),
            ("encryption=(name=keyward,keyid=\"00ff\"),encryption=(name=none)", false),
            ("encryption=(keyid=,name=),exclusive=false", false),
            ("access_pattern_hint=none", false),
            ("encryption=(keyid=\"1\",name=keyward2)", false),
        ] {
            assert_eq!(names_encryptor(made), ours, "{made}");
        }
    }

    /// The positive control: without an encryptor the same search finds the markers and the same walk finds
    /// unencrypted blocks and log records.
    #[tokio::test(flavor = "multi_thread")]
    async fn without_encryption_markers_and_blocks_are_found() {
        let plain = Plain::start().await;
        let data_path = plain.data_path.path().join("db");
        let pid = Some(plain.child.id());
        let proof =
            prove_of(&plain.database, (&data_path, Trust::own()), pid, &Progress::silent()).await.unwrap();
        assert_eq!(proof.verdict, ProofVerdict::PlaintextFound);
        assert!(proof.blocks.unencrypted > 0 && proof.blocks.encrypted == 0, "{:?}", proof.blocks);
        assert!(proof.journal.unencrypted > 0 && proof.journal.encrypted == 0, "{:?}", proof.journal);
        let hit = |kind| {
            proof.file_results.iter().any(|f| f.kind == kind && f.hits.iter().any(|h| h.encoding == "raw"))
        };
        assert!(hit(FileKind::Data) && hit(FileKind::Journal));
        assert!(proof.skipped.is_empty(), "{:?}", proof.skipped);
        // The log lies outside the data path and was searched through the process' descriptors.
        assert!(proof.file_results.iter().any(|f| f.path == plain.data_path.path().join("log")));
    }
}
