//! The assignment journal on disk: `DBPATH/.keyward/assignments`, one line for each spare given to a database.
//!
//! Written by the encryptor only, and durable before the database's first table exists; the agent folds it into the keystore.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The journal of one data path.
#[derive(Debug)]
pub struct AssignmentJournal {
    directory: PathBuf,
    path: PathBuf,
    /// Whether its name is known to outlast a power cut.
    name_is_durable: AtomicBool,
    sync_directory: fn(&Path) -> io::Result<()>,
}

/// Why the journal can't be written.
#[derive(Debug, thiserror::Error)]
#[error("the assignment journal {path} can't be {action}")]
pub struct JournalError {
    path: PathBuf,
    action: &'static str,
    source: io::Error,
}

impl JournalError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        "the database's user must be able to write there, and the disk must not be full"
    }

    /// The operating system's error number, where there is one.
    pub fn os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

const OPENED: &str = "opened";

impl AssignmentJournal {
    /// The journal of the data path `home`; `None` if there is no keystore directory, so that `home` isn't a node's data path
    /// (a second WiredTiger instance of the process, for spilled queries). An error if that can't be said: databases would go
    /// without keys of their own.
    pub fn of(home: &Path) -> Result<Option<Self>, JournalError> {
        let directory = home.join(".keyward");
        let journal = Self {
            path: directory.join("assignments"),
            directory,
            name_is_durable: AtomicBool::new(false),
            sync_directory: |directory| File::open(directory)?.sync_all(),
        };
        match journal.directory.metadata() {
            Ok(found) if found.is_dir() => Ok(Some(journal)),
            Ok(_) => Err(journal.error(OPENED, io::ErrorKind::NotADirectory.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(journal.error(OPENED, error)),
        }
    }

    /// Cuts off what a crash left of an append, so that the next line is a line of its own.
    pub fn repair(&self) -> Result<(), JournalError> {
        const ACTION: &str = "repaired";
        // Only read unless there is something to mend: a data path that can't be written to may be opened to be read.
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.error(ACTION, error)),
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        if whole == bytes.len() {
            return Ok(());
        }
        let mended = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.set_len(whole as u64).and_then(|()| file.sync_all()));
        mended.map_err(|error| self.error(ACTION, error))
    }

    /// Appends one record, a line; it is durable when this returns. After an error it may be there or not.
    pub fn append(&self, record: &[u8]) -> Result<(), JournalError> {
        let append = || -> io::Result<()> {
            let mut file = self.open()?;
            let before = file.seek(SeekFrom::End(0))?;
            let written = file.write_all(record).and_then(|()| file.sync_all());
            if let Err(error) = written {
                // What is left all the same is a torn line, or one that is written again: the reader takes both.
                let _ = file.set_len(before);
                return Err(error);
            }
            // Once in this process's life, whoever made the file, and until it works.
            if !self.name_is_durable.load(Ordering::Acquire) {
                (self.sync_directory)(&self.directory)?;
                self.name_is_durable.store(true, Ordering::Release);
            }
            Ok(())
        };
        append().map_err(|error| self.error("appended to", error))
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true);
        match options.open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The one that was known is gone.
                self.name_is_durable.store(false, Ordering::Release);
                options.create_new(true).mode(0o600).open(&self.path)
            }
            opened => opened,
        }
    }

    fn error(&self, action: &'static str, source: io::Error) -> JournalError {
        JournalError { path: self.path.clone(), action, source }
    }
}

impl JournalError {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(directory: &Path) -> AssignmentJournal {
        std::fs::create_dir(directory.join(".keyward")).unwrap();
        AssignmentJournal::of(directory).unwrap().unwrap()
    }

    #[test]
    fn a_data_path_without_keystore_directory_has_no_journal() {
        let directory = tempfile::tempdir().unwrap();
        assert!(AssignmentJournal::of(directory.path()).unwrap().is_none());
        assert!(AssignmentJournal::of(&directory.path().join("nowhere")).unwrap().is_none());
    }

    /// Without a journal every database would get the system key, and nobody would be told.
    #[test]
    fn a_keystore_directory_that_cannot_be_looked_at_is_not_a_missing_one() {
        let directory = tempfile::tempdir().unwrap();
        let keyward = directory.path().join(".keyward");
        std::os::unix::fs::symlink(&keyward, &keyward).unwrap();
        let error = AssignmentJournal::of(directory.path()).unwrap_err();
        assert_eq!(error.os_error(), Some(libc::ELOOP));
        assert!(error.to_string().contains(".keyward/assignments can't be opened"), "{error}");
        std::fs::remove_file(&keyward).unwrap();
        std::fs::write(&keyward, "").unwrap();
        assert!(AssignmentJournal::of(directory.path()).is_err());
    }

    /// A database opened to be read, from a disk that can't be written to.
    #[test]
    fn a_whole_journal_need_not_be_writable() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        // Not even root may write to a program that runs; a newline at its end does it no harm.
        let sleep = ["/usr/bin/sleep", "/bin/sleep"].into_iter().find(|path| Path::new(path).exists());
        let Some(sleep) = sleep else { return eprintln!("skipped: there is no sleep(1)") };
        std::fs::copy(sleep, &journal.path).unwrap();
        OpenOptions::new().append(true).open(&journal.path).unwrap().write_all(b"\n").unwrap();
        let mut running = std::process::Command::new(&journal.path);
        let mut running =
            std::os::unix::process::CommandExt::arg0(&mut running, "sleep").arg("60").spawn().unwrap();
        let busy = OpenOptions::new().write(true).open(&journal.path).map(drop);
        let repaired = journal.repair();
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(busy.unwrap_err().raw_os_error(), Some(libc::ETXTBSY));
        repaired.unwrap();
    }

    fn device(journal: &AssignmentJournal, device: &str) {
        std::os::unix::fs::symlink(device, &journal.path).unwrap();
    }

    #[test]
    fn a_full_disk_and_a_failing_sync_are_said_as_such() {
        // A device that is full, and one that takes bytes and can't be synced.
        for (path, number) in [("/dev/full", libc::ENOSPC), ("/dev/null", libc::EINVAL)] {
            let directory = tempfile::tempdir().unwrap();
            let journal = journal(directory.path());
            device(&journal, path);
            let error = journal.append(b"x\n").unwrap_err();
            assert_eq!(error.os_error(), Some(number), "{path}");
            std::fs::remove_file(&journal.path).unwrap();
            journal.append(b"y\n").unwrap();
            assert_eq!(std::fs::read(&journal.path).unwrap(), b"y\n");
        }
    }

    /// A file limit cuts an append in the middle: nothing of it stays.
    #[test]
    fn a_partial_append_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        journal.append(b"first\n").unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::append_within_a_limit", "--ignored", "--nocapture"])
            .env("JOURNAL_OF", directory.path())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(std::fs::read(&journal.path).unwrap(), b"first\nthird\n");
    }

    /// Not a test: what the other runs in a process of its own, since the limit is the process's.
    #[test]
    #[ignore = "a process for the other test"]
    fn append_within_a_limit() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Some(home) = std::env::var_os("JOURNAL_OF") else { return };
        let journal = AssignmentJournal::of(Path::new(&home)).unwrap().unwrap();
        let maximum = getrlimit(Resource::Fsize).maximum;
        let limit = |current| setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
        limit(Some(10));
        // The signal that comes with the limit would end the process.
        #[allow(unsafe_code, reason = "sets what becomes of a signal")]
        // SAFETY: no handler, the signal is ignored.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
        let error = journal.append(b"second\n").unwrap_err();
        assert_eq!(error.os_error(), Some(libc::EFBIG));
        limit(maximum);
        journal.append(b"third\n").unwrap();
    }

    /// A journal whose name was never synced would go with a power cut, records and all.
    #[test]
    fn the_journals_name_is_synced_until_that_has_worked() {
        use std::cell::Cell;
        thread_local! {
            static SYNCS: Cell<(u32, bool)> = const { Cell::new((0, true)) };
        }
        fn sync(_: &Path) -> io::Result<()> {
            let (syncs, fails) = SYNCS.get();
            SYNCS.set((syncs + 1, fails));
            if fails { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
        }
        let directory = tempfile::tempdir().unwrap();
        let journal = AssignmentJournal { sync_directory: sync, ..journal(directory.path()) };
        assert_eq!(journal.append(b"1\n").unwrap_err().os_error(), Some(libc::EIO));
        assert_eq!(journal.append(b"2\n").unwrap_err().os_error(), Some(libc::EIO));
        SYNCS.set((2, false));
        journal.append(b"3\n").unwrap();
        journal.append(b"4\n").unwrap();
        assert_eq!(SYNCS.get().0, 3, "once it has worked it isn't done again");
        // The agent takes a folded journal away while no engine runs; a file made anew has a new name.
        std::fs::remove_file(&journal.path).unwrap();
        journal.append(b"5\n").unwrap();
        assert_eq!(SYNCS.get().0, 4);
        // A file that was there already may have been made by a process that died before it synced.
        let journal = AssignmentJournal {
            sync_directory: sync,
            ..AssignmentJournal::of(directory.path()).unwrap().unwrap()
        };
        journal.append(b"6\n").unwrap();
        assert_eq!(SYNCS.get().0, 5);
    }

    #[test]
    fn a_torn_line_is_cut_off_and_whole_lines_stay() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        journal.repair().unwrap();
        assert!(!journal.path.exists());
        journal.append(b"first\n").unwrap();
        journal.append(b"second\n").unwrap();
        for torn in 0..b"first\nsecond\n".len() {
            std::fs::write(&journal.path, &b"first\nsecond\n"[..torn]).unwrap();
            journal.repair().unwrap();
            journal.append(b"third\n").unwrap();
            let expected: &[u8] = if torn < 6 { b"third\n" } else { b"first\nthird\n" };
            assert_eq!(std::fs::read(&journal.path).unwrap(), expected, "torn at {torn}");
        }
    }

    #[test]
    fn a_journal_that_cannot_be_written_says_which() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        std::fs::create_dir(&journal.path).unwrap();
        let error = journal.append(b"x\n").unwrap_err();
        assert!(error.to_string().contains(".keyward/assignments can't be appended to"), "{error}");
        assert_eq!(error.os_error(), Some(libc::EISDIR));
    }
}
