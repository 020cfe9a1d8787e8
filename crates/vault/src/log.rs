//! The access log: one JSON line per request, written before its answer goes out, so that a kill of the process
//! loses no line of an answered request.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A log grows to this size, then becomes `access.1.ndjson` (the one before goes).
const LARGEST_BYTES: u64 = 64 << 20;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// When it was answered, on the vault's clock; RFC 3339.
    pub time: String,
    /// Client id of the caller, once known.
    pub client: Option<String>,
    /// Address of the caller.
    pub address: String,
    /// Name as in Azure's logs: `KeyUnwrap`, `KeyGet`, …; `Token` for the token endpoint, `Arm…` for ARM.
    pub operation: String,
    /// Key name.
    pub key: Option<String>,
    /// Key version that was asked for.
    pub version: Option<String>,
    /// HTTP status; 0 when a fault let no answer out.
    pub status: u16,
    /// Error code; for a request that got no answer, the fault.
    pub code: Option<String>,
    /// Inner error code, or AADSTS number.
    pub inner_code: Option<String>,
    /// `x-ms-request-id` of the answer.
    pub request_id: String,
    /// `x-ms-client-request-id` of the request.
    pub client_request_id: Option<String>,
}

/// The open log.
#[derive(Debug)]
pub struct AccessLog {
    path: PathBuf,
    file: Mutex<File>,
}

impl AccessLog {
    /// Opens `path` for appending. A line that a crash cut short is ended first.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let mut file = append(&path)?;
        if fs::read(&path)?.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n")?;
        }
        Ok(Self { path, file: Mutex::new(file) })
    }

    /// Adds one line.
    pub fn add(&self, entry: &LogEntry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.metadata()?.len() > LARGEST_BYTES {
            fs::rename(&self.path, self.path.with_file_name("access.1.ndjson"))?;
            *file = append(&self.path)?;
        }
        file.write_all(&line)
    }

    /// The lines of the current file from line `skip` on, as NDJSON. Lines that a crash cut short are left out.
    pub fn read(&self, skip: usize) -> io::Result<String> {
        let text = String::from_utf8_lossy(&fs::read(&self.path)?).into_owned();
        let mut out = String::new();
        for line in text.lines().filter(|l| serde_json::from_str::<LogEntry>(l).is_ok()).skip(skip) {
            out.push_str(line);
            out.push('\n');
        }
        Ok(out)
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
