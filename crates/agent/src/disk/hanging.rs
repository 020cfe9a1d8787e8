//! A disk that stops answering: what is asked of it waits, reads as well as changes.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Disk, Entry};

/// The disk.
pub(crate) struct HangingDisk {
    disk: Arc<dyn Disk>,
    hang: Arc<Hang>,
}

#[derive(Default)]
struct Hang {
    /// What is asked of a path that begins so waits; `None`: nothing does.
    begins: Mutex<Option<PathBuf>>,
    waiting: AtomicUsize,
}

/// Has it hang and answer. It answers again when this is dropped, so that a test's runtime ends, however the test ends.
pub(crate) struct Switch(Arc<Hang>);

impl HangingDisk {
    /// `disk`, answering so far.
    pub(crate) fn of(disk: Arc<dyn Disk>) -> (Arc<Self>, Switch) {
        let hang = Arc::new(Hang::default());
        (Arc::new(Self { disk, hang: Arc::clone(&hang) }), Switch(hang))
    }

    fn ask<T>(&self, path: &Path, answer: impl FnOnce(&dyn Disk) -> io::Result<T>) -> io::Result<T> {
        if self.hang.is_on(path) {
            self.hang.waiting.fetch_add(1, Ordering::SeqCst);
            while self.hang.is_on(path) {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.hang.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        answer(&*self.disk)
    }
}

impl Hang {
    fn set(&self, begins: Option<PathBuf>) {
        *self.begins.lock().unwrap_or_else(PoisonError::into_inner) = begins;
    }

    fn is_on(&self, path: &Path) -> bool {
        let begins = self.begins.lock().unwrap_or_else(PoisonError::into_inner);
        begins.as_ref().is_some_and(|begins| {
            path.as_os_str().as_encoded_bytes().starts_with(begins.as_os_str().as_encoded_bytes())
        })
    }
}

impl Switch {
    /// From now on nothing whose path begins so answers.
    pub(crate) fn hang(&self, begins: &Path) {
        self.0.set(Some(begins.to_owned()));
    }

    /// Everything answers again.
    pub(crate) fn answer(&self) {
        self.0.set(None);
    }

    /// How many calls wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.answer();
    }
}

impl Disk for HangingDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.ask(path, |disk| disk.read(path))
    }

    fn read_back(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.ask(path, |disk| disk.read_back(path))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.ask(path, |disk| disk.write(path, bytes))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.ask(path, |disk| disk.sync_file(path))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(to, |disk| disk.link(from, to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(to, |disk| disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.ask(path, |disk| disk.remove(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(path, |disk| disk.sync_dir(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(path, |disk| disk.create_dir(path))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.ask(path, |disk| disk.exists(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.ask(path, |disk| disk.list(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(path, |disk| disk.remove_dir(path))
    }
}
