//! The running process as a [`MemoryImage`]: its mappings, and the object (program or shared library) that contains WiredTiger.
//!
//! WiredTiger is linked into mongod itself, into a Python extension, or is a library of its own: the object is found from the first
//! pointer of the connection's table.
#![allow(unsafe_code, reason = "reads the process's own memory and the dynamic linker's list")]

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_int, c_void};
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object::{Object, ObjectSection, ObjectSymbol};
use procfs::process::{MMPermissions, Process};

use crate::ffi::guard;
use crate::layout::WiredTigerVersion;
use crate::probe::MemoryImage;

/// The code and the names of one loaded object.
#[derive(Debug)]
pub(crate) struct CodeObject {
    /// Its file.
    path: PathBuf,
    code: Vec<Range<usize>>,
    names: Option<Names>,
    version: Option<WiredTigerVersion>,
}

impl CodeObject {
    /// The object whose code contains `address`.
    pub(crate) fn containing(address: usize, memory: &Memory) -> Option<Self> {
        let loaded = loaded_objects().into_iter().find(|loaded| loaded.contains(address))?;
        let path =
            if loaded.path.as_os_str().is_empty() { PathBuf::from("/proc/self/exe") } else { loaded.path };
        let read = File::open(&path).ok().and_then(|file| read_object(&file, loaded.bias, address, memory));
        let version = version_in(loaded.constants.iter().filter_map(|range| memory.constant(range)));
        let (code, names) = match read {
            Some((text, names)) => (vec![text], names),
            None => (loaded.code, None),
        };
        Some(Self { path, code, names, version })
    }

    /// Its file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The readable mappings of this process, as they were when this was made.
#[derive(Debug)]
pub(crate) struct Memory {
    readable: Vec<Range<usize>>,
}

impl Memory {
    pub(crate) fn of_this_process() -> procfs::ProcResult<Self> {
        let maps = Process::myself()?.maps()?;
        let readable = maps
            .into_iter()
            .filter(|map| map.perms.contains(MMPermissions::READ))
            .filter_map(|map| {
                Some(usize::try_from(map.address.0).ok()?..usize::try_from(map.address.1).ok()?)
            })
            .collect();
        Ok(Self { readable })
    }

    fn mapping(&self, address: usize) -> Option<&Range<usize>> {
        let after = self.readable.partition_point(|range| range.start <= address);
        self.readable[..after].last().filter(|range| range.contains(&address))
    }

    /// The memory of a part of an object that is never written: its code or its constants.
    fn constant(&self, range: &Range<usize>) -> Option<&'static [u8]> {
        let mapped = self.mapping(range.start)?;
        if range.is_empty() || range.end > mapped.end {
            return None;
        }
        // SAFETY: within one readable mapping of an object that stays loaded, since it is WiredTiger's own.
        Some(unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(range.start), range.len())
        })
    }

    pub(crate) fn word(&self, address: usize) -> Option<usize> {
        let last = address.checked_add(size_of::<usize>() - 1)?;
        if !address.is_multiple_of(size_of::<usize>()) || !self.mapping(address)?.contains(&last) {
            return None;
        }
        // SAFETY: aligned, and within a readable mapping; the table read was handed to us by WiredTiger, which keeps it.
        Some(unsafe { std::ptr::with_exposed_provenance::<usize>(address).read_volatile() })
    }
}

/// Memory and object together.
#[derive(Debug)]
pub(crate) struct LiveImage {
    memory: Memory,
    object: Arc<CodeObject>,
}

impl LiveImage {
    pub(crate) fn new(memory: Memory, object: Arc<CodeObject>) -> Self {
        Self { memory, object }
    }
}

impl MemoryImage for LiveImage {
    fn word(&self, address: usize) -> Option<usize> {
        self.memory.word(address)
    }

    fn is_code(&self, address: usize) -> bool {
        self.object.code.iter().any(|range| range.contains(&address))
    }

    fn has_symbols(&self) -> bool {
        self.object.names.is_some()
    }

    fn version_text(&self) -> Option<WiredTigerVersion> {
        self.object.version
    }

    fn is_named(&self, address: usize, name: &str) -> bool {
        self.object
            .names
            .as_ref()
            .and_then(|names| names.get(&address))
            .is_some_and(|names| names.iter().any(|known| known == name))
    }
}

#[derive(Debug)]
struct Loaded {
    path: PathBuf,
    bias: usize,
    code: Vec<Range<usize>>,
    /// What is loaded and not writable, code included.
    constants: Vec<Range<usize>>,
}

impl Loaded {
    fn contains(&self, address: usize) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }
}

/// Every loaded object with its executable segments.
fn loaded_objects() -> Vec<Loaded> {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, list: *mut c_void) -> c_int {
        guard(|| {
            // SAFETY: the linker passes a valid record, and `list` is the vector below.
            let (info, list) = unsafe { (&*info, &mut *list.cast::<Vec<Loaded>>()) };
            let path = if info.dlpi_name.is_null() {
                PathBuf::new()
            } else {
                // SAFETY: a NUL-terminated name.
                PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes()))
            };
            let headers = if info.dlpi_phdr.is_null() {
                &[]
            } else {
                // SAFETY: the linker keeps `dlpi_phnum` headers there while it calls us.
                unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
            };
            let bias = info.dlpi_addr as usize;
            let segments = |wanted: fn(u32) -> bool| {
                let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
                loaded
                    .filter(|header| wanted(header.p_flags))
                    .map(|header| {
                        let start = bias.wrapping_add(header.p_vaddr as usize);
                        start..start.wrapping_add(header.p_memsz as usize)
                    })
                    .collect()
            };
            let code = segments(|flags| flags & libc::PF_X != 0);
            let constants = segments(|flags| flags & libc::PF_R != 0 && flags & libc::PF_W == 0);
            list.push(Loaded { path, bias, code, constants });
            0
        })
    }
    let mut list: Vec<Loaded> = Vec::new();
    // SAFETY: `visit` has the right type and gets the vector that outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut list).cast()) };
    list
}

type Names = BTreeMap<usize, Vec<String>>;

/// The bounds of `.text`, and the names of WiredTiger's functions if there is a symbol table that has them.
///
/// `None` if the file isn't what was loaded: its code around `address` must be what lies in memory there (a file may have been
/// replaced since, and inode numbers don't tell on every file system).
fn read_object(
    file: &File,
    bias: usize,
    address: usize,
    memory: &Memory,
) -> Option<(Range<usize>, Option<Names>)> {
    const COMPARED_BYTES: usize = 4096;
    let mapped = MappedFile::new(file)?;
    let object = object::File::parse(mapped.bytes()).ok()?;
    let place = |address: u64| Some(bias.wrapping_add(usize::try_from(address).ok()?));
    let section = object.section_by_name(".text")?;
    let text = place(section.address())?..place(section.address() + section.size())?;
    let code = section.data().ok()?.get(address.checked_sub(text.start)?..)?;
    let code = &code[..code.len().min(COMPARED_BYTES)];
    if memory.constant(&(address..address + code.len()))? != code {
        return None;
    }
    let mut names = Names::new();
    for symbol in object.symbols() {
        let Ok(name) = symbol.name() else { continue };
        let name = name.split('.').next().unwrap_or(name);
        if symbol.is_definition() && is_of_interest(name) {
            let Some(address) = place(symbol.address()) else { continue };
            names.entry(address).or_default().push(name.to_owned());
        }
    }
    let complete = names.values().flatten().any(|name| name == "__conn_open_session");
    Some((text, complete.then_some(names)))
}

/// The version in WiredTiger's own text, `WiredTiger 11.2.0: (November 30, 2022)`; `None` if there is none or more than one.
fn version_in<'a>(constants: impl Iterator<Item = &'a [u8]>) -> Option<WiredTigerVersion> {
    const NAME: &[u8] = b"WiredTiger ";
    const LONGEST_NUMBERS: usize = 24;
    let mut found = None;
    for bytes in constants {
        for at in memchr::memmem::find_iter(bytes, NAME) {
            let rest = &bytes[at + NAME.len()..];
            let rest = &rest[..rest.len().min(LONGEST_NUMBERS)];
            let Some(end) = memchr::memmem::find(rest, b": (") else { continue };
            let numbers = std::str::from_utf8(&rest[..end]).unwrap_or_default();
            let mut numbers = numbers.split('.').map(|number| number.parse::<u32>().ok());
            let (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) =
                (numbers.next(), numbers.next(), numbers.next(), numbers.next())
            else {
                continue;
            };
            let version = (major, minor, patch);
            if found.is_some_and(|found| found != version) {
                return None;
            }
            found = Some(version);
        }
    }
    found
}

fn is_of_interest(name: &str) -> bool {
    name == "wiredtiger_version"
        || ["__conn_", "__session_", "__wt_ext_"].iter().any(|prefix| name.starts_with(prefix))
}

/// A file mapped for reading.
struct MappedFile {
    address: *mut c_void,
    length: usize,
}

impl MappedFile {
    fn new(file: &File) -> Option<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let length = usize::try_from(file.metadata().ok()?.len()).ok().filter(|length| *length > 0)?;
        // SAFETY: a fresh private mapping that nothing else refers to.
        let address =
            unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }
                .ok()?;
        Some(Self { address, length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as self; a program or library in use isn't rewritten in place.
        unsafe { std::slice::from_raw_parts(self.address.cast::<u8>(), self.length) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: our mapping; `bytes` borrows self, so no slice is left.
        let _ = unsafe { rustix::mm::munmap(self.address, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_found_from_one_of_its_functions() {
        let memory = Memory::of_this_process().unwrap();
        let here = this_program_is_found_from_one_of_its_functions as fn() as usize;
        let object = CodeObject::containing(here, &memory).unwrap();
        assert_eq!(object.path, Path::new("/proc/self/exe"));
        assert!(object.names.is_none(), "this program has no WiredTiger in it");
        let libc = libc::getpid as unsafe extern "C" fn() -> libc::pid_t as usize;
        let image = LiveImage::new(memory, Arc::new(object));
        assert!(image.is_code(here) && !image.is_code(libc));
        assert!(!image.is_code((&raw const image) as usize));
    }

    /// A file that was replaced while the program ran would give names for other addresses: it is not believed.
    #[test]
    fn a_file_that_is_not_what_runs_is_not_believed() {
        let memory = Memory::of_this_process().unwrap();
        let here = a_file_that_is_not_what_runs_is_not_believed as fn() as usize;
        let bias = loaded_objects().into_iter().find(|loaded| loaded.contains(here)).unwrap().bias;
        let original = std::fs::read("/proc/self/exe").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let read = |bytes: &[u8]| {
            let path = directory.path().join("program");
            std::fs::write(&path, bytes).unwrap();
            read_object(&File::open(path).unwrap(), bias, here, &memory)
        };
        let (text, _) = read(&original).expect("its own file");
        assert!(text.contains(&here));
        // One byte of the function, as it lies in the file.
        let object = object::File::parse(&*original).unwrap();
        let (offset, _) = object.section_by_name(".text").unwrap().file_range().unwrap();
        let mut changed = original.clone();
        changed[usize::try_from(offset).unwrap() + here - text.start] ^= 1;
        assert!(read(&changed).is_none());
        // Cut off, empty, or no program at all.
        assert!(read(&original[..here - text.start]).is_none());
        assert!(read(&[]).is_none());
        assert!(read(b"#!/bin/sh\n").is_none());
    }

    #[test]
    fn the_version_is_read_from_wiredtigers_own_text() {
        let of = |texts: &[&'static str]| version_in(texts.iter().map(|text| text.as_bytes()));
        assert_eq!(of(&["\0WiredTiger 11.2.0: (November 30, 2022)\0", "x"]), Some((11, 2, 0)));
        assert_eq!(of(&["WiredTiger 3.2.1: (August 27, 2019)", "WiredTiger 3.2.1: (x"]), Some((3, 2, 1)));
        assert_eq!(of(&["WiredTiger 3.2.1: (August", "WiredTiger 10.0.0: ("]), None);
        for text in [
            "",
            "WiredTiger ",
            "WiredTiger version: (x",
            "WiredTiger 1.2: (x",
            "WiredTiger 1.2.3.4: (",
            "WiredTiger 1.2.x: (",
        ] {
            assert_eq!(of(&[text]), None, "{text}");
        }
    }

    #[test]
    fn only_aligned_readable_words_are_read() {
        let memory = Memory::of_this_process().unwrap();
        let words = Box::new([7usize, 8]);
        let memory_after = Memory::of_this_process().unwrap();
        let address = words.as_ptr() as usize;
        assert_eq!(memory_after.word(address), Some(7));
        assert_eq!(memory_after.word(address + 1), None);
        assert_eq!(memory.word(8), None);
        assert_eq!(memory.word(usize::MAX - 7), None);
    }
}
