//! Searches files for the markers and walks WiredTiger's blocks in them.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use aho_corasick::AhoCorasick;
use procfs::process::{FDTarget, Process};
use serde::{Deserialize, Serialize};

use super::{
    blocks::{self, Blocks, DATA_FILE_MAGIC},
    markers::Form,
};
use crate::{
    folder::{Folder, Seen, Trust},
    node::chain,
};

/// What a file is, by its content and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FileKind {
    /// A WiredTiger data file.
    Data,
    /// A WiredTiger log file.
    Journal,
    /// Anything else: WiredTiger's text files, the keystore, logs.
    Other,
}

/// What was seen of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileResult {
    /// Where it is, or what the process' descriptor says.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Bytes searched.
    pub bytes: u64,
    /// Markers found.
    pub hits: Vec<Hit>,
    /// Its blocks, or its log records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
    /// Whether it was written since the proof began.
    pub written_since: bool,
}

/// A marker in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hit {
    /// Where it begins.
    pub offset: u64,
    /// In which form it lay there.
    pub encoding: String,
}

/// Something that could not be searched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// Where it is.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// What a search of many files saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) files: Vec<FileResult>,
    pub(super) skipped: Vec<Skipped>,
}

/// What to search for, and since when.
pub(super) struct Search<'a> {
    pub(super) automaton: &'a AhoCorasick,
    pub(super) forms: &'a [Form],
    pub(super) since: SystemTime,
    /// What is followed in the data path.
    pub(super) trust: Trust,
    /// Called with the bytes searched so far and the bytes to search.
    pub(super) progress: &'a dyn Fn(u64, u64),
}

/// A file to search.
struct ToSearch<'a> {
    at: At<'a>,
    shown: PathBuf,
    size: u64,
}

/// How a file is opened.
enum At<'a> {
    /// In the data path.
    Below(&'a Folder, PathBuf),
    /// As a descriptor of a process.
    Descriptor(PathBuf),
}

impl At<'_> {
    fn open(&self, trust: Trust) -> io::Result<File> {
        match self {
            Self::Below(folder, relative) => folder.file_at(relative, trust).map_err(Into::into),
            Self::Descriptor(path) => File::open(path),
        }
    }
}

/// Hits listed per file; more are not worth listing.
const HITS_LISTED: usize = 20;

impl Search<'_> {
    /// Searches every file below `data_path`, then every file that a process of `processes` has open elsewhere or
    /// has unlinked; blocking.
    pub(super) fn run(&self, data_path: &Path, processes: &[u32]) -> Found {
        let mut found = Found::default();
        let mut list = Vec::new();
        let mut links = Vec::new();
        let root = Folder::open(data_path);
        let walked = match &root {
            Ok(root) => root.walk(self.trust, &|_| true, &mut |seen| {
                match seen {
                    Seen::File { path, size } => {
                        let shown = data_path.join(&path);
                        list.push(ToSearch { at: At::Below(root, path), shown, size });
                    }
                    Seen::FileLink(path) => links.push(data_path.join(path)),
                    Seen::Refused(error) => {
                        found.skipped.push(Skipped { path: data_path.to_owned(), why: chain(&error) });
                    }
                }
                Ok(())
            }),
            Err(_) => Ok(()),
        };
        for error in root.as_ref().err().into_iter().chain(walked.as_ref().err()) {
            found.skipped.push(Skipped { path: data_path.to_owned(), why: chain(error) });
        }
        for pid in processes {
            match open_files(*pid) {
                Ok(files) => list.extend(files.into_iter().map(|(open, shown)| {
                    let size = fs::metadata(&open).map_or(0, |m| m.len());
                    ToSearch { at: At::Descriptor(open), shown, size }
                })),
                Err(why) => {
                    let path = PathBuf::from(format!("/proc/{pid}/fd"));
                    found.skipped.push(Skipped { path, why });
                }
            }
        }
        let total = list.iter().map(|file| file.size).sum();
        let mut done = 0;
        let mut seen = HashSet::new();
        for ToSearch { at, shown, .. } in list {
            (self.progress)(done, total);
            match at.open(self.trust).and_then(|file| self.file(file, &shown, &mut seen)) {
                Ok(Some(result)) => {
                    done += result.bytes;
                    found.files.push(result);
                }
                Ok(None) => {}
                // The engine removes files as it goes; what is gone is not on the disk.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => found.skipped.push(Skipped { path: shown, why: error.to_string() }),
            }
        }
        // What a link leads to may be anything. What the engine itself has open behind it was searched.
        for link in links {
            let searched = |m: &fs::Metadata| !m.is_file() || seen.contains(&(m.dev(), m.ino()));
            if fs::metadata(&link).is_ok_and(|metadata| !searched(&metadata)) {
                let why = "a link to a file, which is not followed".to_owned();
                found.skipped.push(Skipped { path: link, why });
            }
        }
        (self.progress)(total, total);
        found
    }

    fn file(
        &self,
        mut file: File,
        shown: &Path,
        seen: &mut HashSet<(u64, u64)>,
    ) -> io::Result<Option<FileResult>> {
        let metadata = file.metadata()?;
        if !metadata.is_file() || !seen.insert((metadata.dev(), metadata.ino())) {
            return Ok(None);
        }
        let mut counted = Counted { inner: &mut file, bytes: 0 };
        let mut hits = Vec::new();
        for hit in self.automaton.stream_find_iter(&mut counted) {
            let hit = hit?;
            if hits.len() < HITS_LISTED {
                let encoding = self.forms[hit.pattern().as_usize()].encoding.to_owned();
                hits.push(Hit { offset: hit.start() as u64, encoding });
            }
        }
        let bytes = counted.bytes;
        let kind = kind_of(&mut file, shown)?;
        let mut reader = BufReader::with_capacity(256 * 1024, &mut file);
        let blocks = match kind {
            FileKind::Data => Some(blocks::walk_data(&mut reader, bytes)?),
            FileKind::Journal => Some(blocks::walk_log(&mut reader, bytes)?),
            FileKind::Other => None,
        };
        let written_since = metadata.modified().is_ok_and(|at| at >= self.since);
        Ok(Some(FileResult { path: shown.to_owned(), kind, bytes, hits, blocks, written_since }))
    }
}

struct Counted<'a> {
    inner: &'a mut File,
    bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

fn kind_of(file: &mut File, path: &Path) -> io::Result<FileKind> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if name.starts_with("WiredTigerLog.")
        || name.starts_with("WiredTigerPreplog.")
        || name.starts_with("WiredTigerTmplog.")
    {
        return Ok(FileKind::Journal);
    }
    let mut magic = [0; 4];
    file.seek(SeekFrom::Start(0))?;
    Ok(match file.read_exact(&mut magic) {
        Ok(()) if u32::from_le_bytes(magic) == DATA_FILE_MAGIC => FileKind::Data,
        Ok(()) | Err(_) => FileKind::Other,
    })
}

/// The regular files that `pid` has open: how to open each, and what to call it.
fn open_files(pid: u32) -> Result<Vec<(PathBuf, PathBuf)>, String> {
    let told = |error: procfs::ProcError| error.to_string();
    let number = i32::try_from(pid).map_err(|_| "no such process".to_owned())?;
    let process = Process::new(number).map_err(told)?;
    let mut files = Vec::new();
    for fd in process.fd().map_err(told)? {
        // A descriptor that was closed meanwhile.
        let Ok(fd) = fd else { continue };
        if let FDTarget::Path(target) = fd.target {
            files.push((PathBuf::from(format!("/proc/{pid}/fd/{}", fd.fd)), target));
        }
    }
    Ok(files.into_iter().filter(|(open, _)| fs::metadata(open).is_ok_and(|m| m.is_file())).collect())
}
