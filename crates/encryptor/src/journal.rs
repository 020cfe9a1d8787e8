//! The assignment journal on disk: `DBPATH/.keyward/assignments`, one line for each spare given to a database.
//!
//! Written by the encryptor only, and durable before the database's first table exists; the agent folds it into the keystore.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The journal of one data path.
#[derive(Debug)]
pub struct AssignmentJournal {
    directory: PathBuf,
    path: PathBuf,
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

impl AssignmentJournal {
    /// The journal of the data path `home`; `None` if there is no keystore directory, so that `home` isn't a node's data path
    /// (a second WiredTiger instance of the process, for spilled queries).
    pub fn of(home: &Path) -> Option<Self> {
        let directory = home.join(".keyward");
        let path = directory.join("assignments");
        directory.is_dir().then_some(Self { directory, path })
    }

    /// Cuts off what a crash left of an append, so that the next line is a line of its own.
    pub fn repair(&self) -> Result<(), JournalError> {
        const ACTION: &str = "repaired";
        let mut file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.error(ACTION, error)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| self.error(ACTION, error))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        if whole == bytes.len() {
            return Ok(());
        }
        file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(|error| self.error(ACTION, error))
    }

    /// Appends one record, a line; it is durable when this returns. A failed append leaves the journal as it was.
    pub fn append(&self, record: &[u8]) -> Result<(), JournalError> {
        let append = || -> io::Result<()> {
            let (mut file, is_new) = self.open()?;
            let before = file.seek(SeekFrom::End(0))?;
            let written = file.write_all(record).and_then(|()| file.sync_all());
            if let Err(error) = written {
                file.set_len(before)?;
                return Err(error);
            }
            if is_new {
                File::open(&self.directory)?.sync_all()?;
            }
            Ok(())
        };
        append().map_err(|error| self.error("appended to", error))
    }

    fn open(&self) -> io::Result<(File, bool)> {
        let mut options = OpenOptions::new();
        options.write(true);
        match options.open(&self.path) {
            Ok(file) => Ok((file, false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok((options.create_new(true).mode(0o600).open(&self.path)?, true))
            }
            Err(error) => Err(error),
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
        AssignmentJournal::of(directory).unwrap()
    }

    #[test]
    fn a_data_path_without_keystore_directory_has_no_journal() {
        let directory = tempfile::tempdir().unwrap();
        assert!(AssignmentJournal::of(directory.path()).is_none());
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
