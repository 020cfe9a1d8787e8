//! Searches files for the markers and walks WiredTiger's blocks in them.
//!
//! Which files the engine has open is its own choice, and it may be hostile. Owns that only what is a plain file, and
//! lies on a disk, is opened to read: looked at first, through a descriptor that opens nothing, and then that same
//! file, whatever the engine's descriptor becomes meanwhile. What is passed over is listed.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use aho_corasick::AhoCorasick;
use keyward_model::count::counted;
use procfs::process::{FDTarget, Process};
use rustix::fs::{Mode, OFlags, fstatfs};
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
    /// What the engine has open and is no file on a disk.
    pub(super) passed_over: Vec<Skipped>,
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
    /// As a descriptor of a process, which may stand for something else by now.
    Descriptor(PathBuf),
}

impl At<'_> {
    fn open(&self, trust: Trust) -> io::Result<File> {
        match self {
            Self::Below(folder, relative) => folder.file_at(relative, trust).map_err(Into::into),
            Self::Descriptor(path) => match examine(path)? {
                (file, Kind::File(_)) => open_examined(&file),
                (_, Kind::BlockDevice | Kind::NotOnDisk(_)) => {
                    Err(io::Error::other("the process has put something else in the place of this file"))
                }
            },
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
            match held_open(*pid) {
                Ok(held) => {
                    list.extend(held.files);
                    found.skipped.extend(held.skipped);
                    found.passed_over.extend(held.passed_over);
                }
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
        // As long as it is now: one that grows while it is read would have no end.
        let mut counted = Counted { inner: (&mut file).take(metadata.len()), bytes: 0 };
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
    inner: io::Take<&'a mut File>,
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

/// What a process has open.
#[derive(Default)]
struct Held {
    /// Plain files on disks.
    files: Vec<ToSearch<'static>>,
    /// What may keep something on a disk and is not searched.
    skipped: Vec<Skipped>,
    /// What keeps nothing on a disk.
    passed_over: Vec<Skipped>,
}

/// What `pid` has open. Nothing of it is opened to read: that of a pipe or a device may wait for ever, or do
/// something.
fn held_open(pid: u32) -> Result<Held, String> {
    let told = |error: procfs::ProcError| error.to_string();
    let number = i32::try_from(pid).map_err(|_| "no such process".to_owned())?;
    let process = Process::new(number).map_err(told)?;
    let mut held = Held::default();
    let mut nameless: BTreeMap<&str, usize> = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut pass_over = |path: PathBuf, why: &str| {
        if seen.insert(path.clone()) {
            held.passed_over.push(Skipped { path, why: why.to_owned() });
        }
    };
    for fd in process.fd().map_err(told)? {
        // A descriptor that was closed meanwhile.
        let Ok(fd) = fd else { continue };
        let target = match fd.target {
            FDTarget::Path(target) => target,
            FDTarget::MemFD(name) => {
                pass_over(PathBuf::from(format!("/memfd:{name}")), "a file in memory, on no disk");
                continue;
            }
            FDTarget::Socket(_) | FDTarget::Net(_) => {
                *nameless.entry("socket").or_default() += 1;
                continue;
            }
            FDTarget::Pipe(_) => {
                *nameless.entry("pipe").or_default() += 1;
                continue;
            }
            FDTarget::AnonInode(_) | FDTarget::Other(..) | FDTarget::Unknown(..) => {
                *nameless.entry("object of the kernel").or_default() += 1;
                continue;
            }
        };
        // Nothing is kept open: an engine may have more files than the agent may.
        let link = PathBuf::from(format!("/proc/{pid}/fd/{}", fd.fd));
        match examine(&link) {
            Ok((_, Kind::File(size))) => {
                held.files.push(ToSearch { at: At::Descriptor(link), shown: target, size });
            }
            Ok((_, Kind::BlockDevice)) => {
                let why = "a block device, which is not searched".to_owned();
                held.skipped.push(Skipped { path: target, why });
            }
            Ok((_, Kind::NotOnDisk(why))) => pass_over(target, why),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => held.skipped.push(Skipped { path: target, why: error.to_string() }),
        }
    }
    if !nameless.is_empty() {
        let each = nameless.into_iter().map(|(what, number)| counted(number, what, &format!("{what}s")));
        let why = format!("{}, which keep nothing on a disk", each.collect::<Vec<_>>().join(", "));
        held.passed_over.push(Skipped { path: PathBuf::from(format!("/proc/{pid}/fd")), why });
    }
    Ok(held)
}

/// What a descriptor stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A plain file on a disk, of so many bytes.
    File(u64),
    BlockDevice,
    /// Nothing that is on a disk, in words.
    NotOnDisk(&'static str),
}

/// Looks at what is behind `path`, a name in `/proc/PID/fd`, without opening it for anything.
fn examine(path: &Path) -> io::Result<(File, Kind)> {
    // Linux's numbers of file systems that only look like files; reading one may wait, or do something.
    const PROC: u64 = 0x9fa0;
    const SYS: u64 = 0x6265_6572;
    const CGROUP: u64 = 0x0027_e0eb;
    const CGROUP_2: u64 = 0x6367_7270;
    const DEBUG: u64 = 0x6462_6720;
    const TRACE: u64 = 0x7472_6163;
    const SECURITY: u64 = 0x7363_6673;
    let file: File = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?.into();
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    let kind = if kind.is_file() {
        match fstatfs(&file)?.f_type as u64 {
            PROC | SYS | CGROUP | CGROUP_2 | DEBUG | TRACE | SECURITY => {
                Kind::NotOnDisk("a file of the kernel's, on no disk")
            }
            _ => Kind::File(metadata.len()),
        }
    } else if kind.is_block_device() {
        Kind::BlockDevice
    } else if kind.is_char_device() {
        Kind::NotOnDisk("a character device, which is not searched")
    } else if kind.is_fifo() {
        Kind::NotOnDisk("a named pipe, which keeps nothing on a disk")
    } else if kind.is_dir() {
        Kind::NotOnDisk("a folder: its files are searched where they are in the data path, or open")
    } else {
        Kind::NotOnDisk("neither a file nor a device")
    };
    Ok((file, kind))
}

/// Opens what [`examine`] saw to be a plain file: that one, whatever the process does with its descriptor.
fn open_examined(file: &File) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::open(own, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::{AsFd as _, OwnedFd},
        process::Command,
        sync::mpsc,
        time::Duration,
    };

    use rustix::fs::{CWD, FileType, MemfdFlags, memfd_create, mknodat};

    use super::*;
    use crate::prove::markers::Markers;

    /// Whatever hangs is no answer.
    fn within_seconds<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, answer) = mpsc::channel();
        std::thread::spawn(move || done.send(work()));
        answer.recv_timeout(Duration::from_secs(20)).expect("it came to an end")
    }

    fn fifo(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn only_plain_files_on_a_disk_are_opened_and_the_rest_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("db")).unwrap();
        fifo(&at("pipe"));
        let markers = Markers::make().unwrap();
        let marker = markers.forms()[0].bytes.clone();
        fs::write(at("deleted"), &marker).unwrap();
        fs::write(at("elsewhere"), b"nothing").unwrap();
        let memory = memfd_create("keyward-test", MemfdFlags::CLOEXEC).unwrap();
        File::from(memory.try_clone().unwrap()).set_len(4096).unwrap();
        // Opened for both, a named pipe waits for nobody.
        let both = fs::OpenOptions::new().read(true).write(true).open(at("pipe")).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "exec 7</dev/zero 8<elsewhere 9</proc/self/status && exec sleep 600"])
            .current_dir(dir.path())
            .stdin(both)
            .stdout(OwnedFd::from(File::open(at("deleted")).unwrap()))
            .stderr(memory.as_fd().try_clone_to_owned().unwrap())
            .spawn()
            .unwrap();
        fs::remove_file(at("deleted")).unwrap();
        let pid = child.id();
        while !Path::new(&format!("/proc/{pid}/fd/9")).exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let data_path = at("db");
        let found = within_seconds(move || {
            let (automaton, forms) = (markers.automaton().unwrap(), markers.forms());
            let since = SystemTime::UNIX_EPOCH;
            let search = Search {
                automaton: &automaton,
                forms: &forms,
                since,
                trust: Trust::own(),
                progress: &|_, _| {},
            };
            search.run(&data_path, &[pid])
        });
        child.kill().unwrap();
        child.wait().unwrap();

        let searched = |name: &str| found.files.iter().find(|f| f.path.to_string_lossy().contains(name));
        assert_eq!(searched("deleted").expect("a deleted file is on the disk").hits.len(), 1, "{found:#?}");
        assert!(searched("elsewhere").is_some_and(|f| f.hits.is_empty()), "{found:#?}");
        let passed = |name: &str, why: &str| {
            let named = found.passed_over.iter().filter(|p| p.path.to_string_lossy().contains(name));
            assert_eq!(named.filter(|p| p.why.contains(why)).count(), 1, "{name}: {found:#?}");
            assert!(searched(name).is_none(), "{name}: {found:#?}");
        };
        passed("pipe", "a named pipe");
        passed("/dev/zero", "a character device");
        passed("/memfd:keyward-test", "a file in memory");
        passed("status", "a file of the kernel's");
        // None of it makes the proof doubtful.
        assert!(found.skipped.is_empty(), "{found:#?}");
    }

    /// Between the look and the reading the process may put anything in the place of its descriptor.
    #[test]
    fn what_was_examined_is_what_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"data").unwrap();
        fifo(&dir.path().join("pipe"));
        let open = File::open(dir.path().join("file")).unwrap();
        let descriptor = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        let (examined, kind) = examine(&descriptor).unwrap();
        assert_eq!(kind, Kind::File(4));
        let pipe = fs::OpenOptions::new().read(true).write(true).open(dir.path().join("pipe")).unwrap();
        let mut target = OwnedFd::from(open);
        rustix::io::dup2(&pipe, &mut target).unwrap();
        assert!(fs::metadata(&descriptor).unwrap().file_type().is_fifo(), "it was replaced");
        let later = At::Descriptor(descriptor).open(Trust::own()).unwrap_err();
        assert!(later.to_string().contains("something else"), "{later}");
        let text = within_seconds(move || {
            let mut text = String::new();
            open_examined(&examined).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(text, "data");
    }

    /// No descriptor of a pipe that nobody writes into is waited for, nor one of a device.
    #[test]
    fn examining_waits_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        fifo(&pipe);
        let kinds = within_seconds(move || {
            ["/dev/zero".into(), pipe, "/".into(), "/proc/self/status".into()]
                .map(|path: PathBuf| examine(&path).unwrap().1)
        });
        assert!(kinds.iter().all(|kind| matches!(kind, Kind::NotOnDisk(_))), "{kinds:?}");
    }
}
