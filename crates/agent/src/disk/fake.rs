//! A disk that loses power.
//!
//! It keeps what a real one may keep: contents up to the last `sync_file`, names up to the last `sync_dir`, and of
//! later name changes any number of the first, the last of them possibly torn.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{Disk, Entry, EntryKind};

/// What becomes of unsynced contents when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// The file is there, empty.
    Dropped,
    /// Half of it is there.
    Half,
    /// All of it is there, by luck.
    Kept,
}

/// What becomes of unsynced name changes: how many of the first are kept, and whether the next one is torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) kept: usize,
    pub(crate) torn: Torn,
}

/// How a rename can be torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Torn {
    /// It is not.
    No,
    /// Both names show the new file.
    BothNames,
    /// The old file of the target name is gone, the new one still has its first name only.
    TargetGone,
}

/// How one operation fails, while those before and after it work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hiccup {
    /// Nothing is done.
    Before,
    /// It is done, and an error is reported all the same.
    After,
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn name(&self) -> &Path {
        match self {
            NameChange::Set(name, _) | NameChange::Rename(_, name) | NameChange::Remove(name) => name,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct File {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct State {
    files: BTreeMap<u64, File>,
    names: BTreeMap<PathBuf, u64>,
    synced_names: BTreeMap<PathBuf, u64>,
    pending: Vec<NameChange>,
    next_file: u64,
    operations: usize,
    power_until: Option<usize>,
    power_lost: bool,
    hiccup: Option<(usize, Hiccup)>,
    space: Option<usize>,
    read_only: bool,
}

/// The disk. Cloning gives an independent copy.
#[derive(Debug, Default)]
pub(crate) struct FakeDisk(Mutex<State>);

impl Clone for FakeDisk {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.state().clone()))
    }
}

impl FakeDisk {
    /// Lets `operations` more writing operations through; all later ones fail and do nothing.
    pub(crate) fn lose_power_after(&self, operations: usize) {
        let mut state = self.state();
        state.power_until = Some(state.operations + operations);
    }

    /// Whether an operation failed because the power was gone.
    pub(crate) fn has_lost_power(&self) -> bool {
        self.state().power_lost
    }

    /// Lets `operations` more writing operations through; the next one fails, and later ones work again.
    pub(crate) fn hiccup_after(&self, operations: usize, how: Hiccup) {
        let mut state = self.state();
        state.hiccup = Some((state.operations + operations, how));
    }

    /// Whether the hiccup is still to come.
    pub(crate) fn hiccup_pending(&self) -> bool {
        self.state().hiccup.is_some()
    }

    /// Writing operations so far.
    pub(crate) fn operations(&self) -> usize {
        self.state().operations
    }

    /// Unsynced name changes.
    pub(crate) fn pending_names(&self) -> usize {
        self.state().pending.len()
    }

    /// Whether the unsynced name change of that number is a rename.
    pub(crate) fn renames_at(&self, index: usize) -> bool {
        matches!(self.state().pending.get(index), Some(NameChange::Rename(..)))
    }

    /// From now on files may take `bytes` in all.
    pub(crate) fn set_space(&self, bytes: Option<usize>) {
        self.state().space = bytes;
    }

    /// From now on nothing can be changed.
    pub(crate) fn set_read_only(&self, on: bool) {
        self.state().read_only = on;
    }

    /// Every file by name, as it is now.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[file].now.clone())).collect()
    }

    /// The disk after the power came back.
    pub(crate) fn after_power_cut(&self, contents: Contents, names: Names) -> Self {
        let old = self.state().clone();
        let mut now = old.synced_names.clone();
        for (index, change) in old.pending.iter().enumerate() {
            let torn = index == names.kept && names.torn != Torn::No;
            if index >= names.kept && !torn {
                break;
            }
            match change {
                NameChange::Set(name, file) => {
                    now.insert(name.clone(), *file);
                }
                NameChange::Remove(name) => {
                    now.remove(name);
                }
                NameChange::Rename(from, to) => {
                    if let Some(file) = now.get(from).copied() {
                        match (torn, names.torn) {
                            (true, Torn::TargetGone) => {
                                now.remove(to);
                            }
                            (true, Torn::BothNames | Torn::No) => {
                                now.insert(to.clone(), file);
                            }
                            (false, _) => {
                                now.insert(to.clone(), file);
                                now.remove(from);
                            }
                        }
                    }
                }
            }
            if torn {
                break;
            }
        }
        let files = old
            .files
            .iter()
            .map(|(id, file)| {
                let content = match contents {
                    _ if file.now == file.synced => file.now.clone(),
                    Contents::Dropped => file.synced.clone(),
                    Contents::Half => file.now[..file.now.len() / 2].to_vec(),
                    Contents::Kept => file.now.clone(),
                };
                (*id, File { now: content.clone(), synced: content })
            })
            .collect();
        Self(Mutex::new(State {
            files,
            names: now.clone(),
            synced_names: now,
            next_file: old.next_file,
            ..State::default()
        }))
    }

    /// Every disk that a power cut at this moment can leave behind, each with what it did.
    pub(crate) fn after_power_cuts(&self) -> Vec<(String, Self)> {
        let mut out = Vec::new();
        for contents in [Contents::Dropped, Contents::Half, Contents::Kept] {
            for kept in 0..=self.pending_names() {
                let torn: &[Torn] = if self.renames_at(kept) {
                    &[Torn::No, Torn::BothNames, Torn::TargetGone]
                } else {
                    &[Torn::No]
                };
                for torn in torn.iter().copied() {
                    let names = Names { kept, torn };
                    out.push((format!("{contents:?} {names:?}"), self.after_power_cut(contents, names)));
                }
            }
        }
        out
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, operation: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        if state.power_until.is_some_and(|limit| state.operations >= limit) {
            state.power_lost = true;
            return Err(io::Error::other("the power is gone"));
        }
        if state.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        state.operations += 1;
        let due = state.hiccup.filter(|(at, _)| state.operations > *at);
        if due.is_some() {
            state.hiccup = None;
        }
        let hiccup = Err(io::Error::other("a hiccup"));
        match due {
            None => operation(&mut state),
            Some((_, Hiccup::Before)) => hiccup,
            Some((_, Hiccup::After)) => operation(&mut state).and(hiccup),
        }
    }
}

impl State {
    fn file(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for FakeDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        let file = state.file(path)?;
        Ok(state.files[&file].now.clone())
    }

    fn read_back(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.read(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.change(|state| {
            state.next_file += 1;
            let file = state.next_file;
            state.names.insert(path.to_owned(), file);
            state.pending.push(NameChange::Set(path.to_owned(), file));
            let named: BTreeSet<u64> = state.names.values().copied().filter(|id| *id != file).collect();
            let used: usize = named.iter().map(|id| state.files[id].now.len()).sum();
            let room = state.space.map_or(usize::MAX, |space| space.saturating_sub(used));
            state.files.entry(file).or_default().now = bytes[..bytes.len().min(room)].to_vec();
            if bytes.len() > room { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let file = state.file(path)?;
            if let Some(file) = state.files.get_mut(&file) {
                file.synced = file.now.clone();
            }
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let file = state.file(from)?;
            if state.names.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.names.insert(to.to_owned(), file);
            state.pending.push(NameChange::Set(to.to_owned(), file));
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let file = state.file(from)?;
            state.names.remove(from);
            state.names.insert(to.to_owned(), file);
            state.pending.push(NameChange::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            state.file(path)?;
            state.names.remove(path);
            state.pending.push(NameChange::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let within = |name: &Path| name.parent() == Some(path);
            state.synced_names.retain(|name, _| !within(name));
            let now = state.names.iter().filter(|(name, _)| within(name));
            state.synced_names.extend(now.map(|(name, file)| (name.clone(), *file)));
            state.pending.retain(|change| !within(change.name()));
            Ok(())
        })
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state().names.contains_key(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = std::collections::BTreeSet::new();
        for name in self.state().names.keys() {
            let Ok(below) = name.strip_prefix(path) else { continue };
            let mut parts = below.iter();
            let Some(first) = parts.next() else { continue };
            let kind = if parts.next().is_some() { EntryKind::Folder } else { EntryKind::File };
            entries.insert(Entry { name: first.to_owned(), kind });
        }
        Ok(entries.into_iter().collect())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|state| match state.names.keys().any(|name| name.starts_with(path)) {
            true => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            false => Ok(()),
        })
    }
}
