//! Truncation and flipped bits in every region of a file: detected, never wrong data.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::host::{Build, Ready, TABLE, files};
use crate::key_agent::KeyAgent;
use crate::on_every_build;

on_every_build!(
    a_flipped_bit_is_never_wrong_data,
    a_change_that_the_checksum_misses_is_found_by_the_tag,
    a_truncated_file_is_never_wrong_data,
    salvage_throws_nothing_away_that_cannot_be_decrypted,
);

const ROWS: u64 = 60;
/// The host's word for a row that differs, and WiredTiger's for one that isn't there.
const WRONG_DATA: [i32; 2] = [1000, -31803];

/// A closed, encrypted database with one table of a few blocks.
struct Subject {
    agent: KeyAgent,
    directory: tempfile::TempDir,
}

impl Subject {
    fn new(ready: &Ready) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let agent = KeyAgent::new(directory.path());
        let mut host = ready.open(&agent, directory.path());
        host.must(&format!("create table:alpha/t {TABLE},leaf_page_max=4KB,allocation_size=4KB"));
        host.must(&format!("put table:alpha/t 1 {ROWS} 1"));
        host.must("checkpoint");
        let (status, log) = host.finish();
        assert!(status.success(), "{log}");
        Self { agent, directory }
    }

    fn data_path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self) -> std::path::PathBuf {
        self.data_path().join("alpha/t.wt")
    }

    /// Opens a copy of the database with this content of one of its files, and reads everything.
    fn read_with(&self, ready: &Ready, file: &str, content: &[u8]) -> Outcome {
        let copy = tempfile::tempdir().unwrap();
        for file in files(self.data_path()) {
            let target = copy.path().join(file.strip_prefix(self.data_path()).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(&file, target).unwrap();
        }
        fs::write(copy.path().join(file), content).unwrap();
        let mut host = ready.start(Some(&ready.config(&self.agent, true)));
        let read = host.open(copy.path()).and_then(|()| host.ask(&format!("check table:alpha/t 1 {ROWS} 1")));
        match read {
            Ok(_) => Outcome::Whole,
            Err(error) => {
                assert!(!WRONG_DATA.contains(&error.code), "wrong data: {error}");
                assert!(!error.text.contains("signal: 11"), "{error}");
                Outcome::Refused(host.finish().1)
            }
        }
    }
}

enum Outcome {
    Whole,
    Refused(String),
}

/// The parts of a block file, as WiredTiger lays them out and the page format fills them.
fn regions(file: &[u8]) -> BTreeMap<&'static str, Vec<usize>> {
    let mut regions: BTreeMap<&'static str, Vec<usize>> = BTreeMap::new();
    regions.insert("file descriptor", (0..16).collect());
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let mut block = 4096;
    while block + 44 <= file.len() {
        let (size, is_encrypted) = (word(block + 28), file[block + 25] & 0x08 != 0);
        if size < 44 || block + size > file.len() {
            break;
        }
        let mut add = |name, range: std::ops::Range<usize>| {
            regions.entry(name).or_default().extend(range.start + block..range.end + block);
        };
        if is_encrypted {
            let sealed = word(block + 40);
            add("page header", 0..28);
            add("block header", 28..40);
            add("length", 40..44);
            add("format", 44..45);
            add("key id", 45..61);
            add("nonce prefix", 61..73);
            add("nonce counter", 73..85);
            add("ciphertext", 85..sealed - 16);
            add("tag", sealed - 16..sealed);
            if sealed < size {
                add("padding", sealed..size);
            }
        } else {
            add("extent list", 0..size.min(96));
        }
        block += size;
    }
    regions
}

/// About this many of the region's bytes, spread over it.
fn some_of(bytes: &[usize], number: usize) -> Vec<usize> {
    bytes.iter().copied().step_by(bytes.len().div_ceil(number).max(1)).collect()
}

fn a_flipped_bit_is_never_wrong_data(ready: &Ready) {
    let subject = Subject::new(ready);
    let original = fs::read(subject.file()).unwrap();
    let regions = regions(&original);
    for needed in ["format", "key id", "ciphertext", "tag", "extent list"] {
        assert!(regions.contains_key(needed), "{:?}", regions.keys());
    }
    assert!(matches!(subject.read_with(ready, "alpha/t.wt", &original), Outcome::Whole));
    let each = if ready.build == Build::SecantusDb { 2 } else { 5 };
    let mut refused = BTreeMap::new();
    for (region, bytes) in &regions {
        for (number, at) in some_of(bytes, each).into_iter().enumerate() {
            let mut changed = original.clone();
            changed[at] ^= 1 << (number % 8);
            if let Outcome::Refused(_) = subject.read_with(ready, "alpha/t.wt", &changed) {
                *refused.entry(*region).or_insert(0) += 1;
            }
        }
    }
    // Blocks that nothing refers to any more may be changed; those that are read may not.
    for region in ["file descriptor", "page header", "key id", "nonce prefix", "ciphertext", "tag"] {
        assert!(refused.get(region).is_some_and(|number| *number > 0), "{region}: {refused:?}");
    }
    // The metadata, which names every table and its key.
    let metadata = fs::read(subject.data_path().join("WiredTiger.wt")).unwrap();
    let mut refused = 0;
    for at in some_of(&(4096..metadata.len()).collect::<Vec<_>>(), each * 4) {
        let mut changed = metadata.clone();
        changed[at] ^= 0x40;
        if let Outcome::Refused(_) = subject.read_with(ready, "WiredTiger.wt", &changed) {
            refused += 1;
        }
    }
    assert!(refused > 0);
}

/// Adding the generator polynomial to a message leaves its CRC-32C as it was: WiredTiger's checksums see nothing.
const UNSEEN_BY_CRC32C: u64 = 1 | 0x82F6_3B78 << 1;

fn unseen_change(file: &[u8], at: usize) -> Vec<u8> {
    let mut changed = file.to_vec();
    for (byte, delta) in changed[at..].iter_mut().zip(&UNSEEN_BY_CRC32C.to_le_bytes()[..5]) {
        *byte ^= delta;
    }
    changed
}

fn a_change_that_the_checksum_misses_is_found_by_the_tag(ready: &Ready) {
    let subject = Subject::new(ready);
    let original = fs::read(subject.file()).unwrap();
    let regions = regions(&original);
    let each = if ready.build == Build::SecantusDb { 2 } else { 6 };
    for (region, word) in [
        ("key id", "is sealed under key"),
        ("nonce prefix", "does not verify"),
        ("nonce counter", "does not verify"),
        ("ciphertext", "does not verify"),
        ("tag", "does not verify"),
    ] {
        let mut found = 0;
        let bytes = &regions[region];
        for at in some_of(bytes, each) {
            // The five bytes must lie in the region.
            if !(at..at + 5).all(|at| bytes.contains(&at)) {
                continue;
            }
            if let Outcome::Refused(log) =
                subject.read_with(ready, "alpha/t.wt", &unseen_change(&original, at))
            {
                assert!(log.contains("can't be decrypted") && log.contains(word), "{region} at {at}: {log}");
                found += 1;
            }
        }
        assert!(found > 0, "{region}: no change was ever read");
    }
}

fn a_truncated_file_is_never_wrong_data(ready: &Ready) {
    let subject = Subject::new(ready);
    let original = fs::read(subject.file()).unwrap();
    let each = if ready.build == Build::SecantusDb { 8 } else { 20 };
    let mut refused = 0;
    let mut cuts = some_of(&(0..original.len()).collect::<Vec<_>>(), each);
    cuts.extend((0..original.len()).step_by(4096));
    cuts.push(original.len() - 1);
    for cut in cuts {
        if let Outcome::Refused(_) = subject.read_with(ready, "alpha/t.wt", &original[..cut]) {
            refused += 1;
        }
    }
    assert!(refused > each / 2, "{refused}");
}

fn salvage_throws_nothing_away_that_cannot_be_decrypted(ready: &Ready) {
    let subject = Subject::new(ready);
    let original = fs::read(subject.file()).unwrap();
    let tags = &regions(&original)["ciphertext"];
    let mut damaged = original.clone();
    // Every encrypted block: a key that is not its key would look the same.
    for at in tags.iter().copied().filter(|at| at % 4096 == 1000) {
        damaged = unseen_change(&damaged, at);
    }
    assert_ne!(damaged, original);
    for command in ["verify", "salvage"] {
        fs::write(subject.file(), &damaged).unwrap();
        let mut host = ready.start(Some(&ready.config(&subject.agent, true)));
        host.open(subject.data_path()).unwrap();
        host.must_not(&format!("{command} table:alpha/t"));
        host.must_say("does not verify");
        host.kill();
        // What the file held is still there, byte for byte.
        let after = fs::read(subject.file()).unwrap();
        let lost = damaged.iter().zip(&after).skip(4096).filter(|(before, after)| before != after).count();
        assert_eq!((lost, after.len() >= damaged.len()), (0, true), "{command} changed the file");
    }
    fs::write(subject.file(), &original).unwrap();
    let mut host = ready.open(&subject.agent, subject.data_path());
    host.must(&format!("check table:alpha/t 1 {ROWS} 1"));
    assert!(host.finish().0.success());
}
