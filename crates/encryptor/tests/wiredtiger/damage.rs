//! Truncation and flipped bits in every region of a data file and of the journal: detected, or recovered to a prefix of
//! what was written, never wrong data.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::host::{Host, Ready, TABLE, files};
use crate::key_agent::KeyAgent;
use crate::on_every_build;

on_every_build!(
    a_flipped_bit_is_never_wrong_data,
    a_change_that_the_checksum_misses_is_found_by_the_tag,
    a_truncated_file_is_never_wrong_data,
    a_damaged_journal_is_found_or_ends_at_a_prefix,
    a_change_of_the_journal_that_the_checksum_misses_is_found_by_the_tag,
    a_journal_record_in_clear_is_not_ours_to_refuse,
    salvage_throws_nothing_away_that_cannot_be_decrypted,
);

const ROWS: u64 = 60;
/// The host's word for a row that differs, and WiredTiger's for one that isn't there.
const WRONG_DATA: [i32; 2] = [1000, -31803];
/// Databases that are read at the same time.
const READERS: usize = 2;

/// A folder whose contents need not outlast a power cut: in memory, where the machine has such a place.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A closed, encrypted database with one table of a few blocks.
struct Subject {
    agent: KeyAgent,
    directory: tempfile::TempDir,
}

impl Subject {
    fn new(ready: &Ready) -> Self {
        let (subject, mut host) = Self::open(ready);
        host.must(&format!("put table:alpha/t 1 {ROWS} 1"));
        host.must("checkpoint");
        let (status, log) = host.finish();
        assert!(status.success(), "{log}");
        subject
    }

    /// With rows that stand in the journal alone: the database is killed.
    fn with_journal(ready: &Ready) -> Self {
        let (subject, mut host) = Self::open(ready);
        host.must(&format!("put table:alpha/t 1 {CHECKPOINTED} 1"));
        host.must("checkpoint");
        host.must(&format!("put table:alpha/t {} {} 1", CHECKPOINTED + 1, ROWS - CHECKPOINTED));
        host.must("flush");
        host.kill();
        subject
    }

    fn open(ready: &Ready) -> (Self, Host) {
        let directory = folder();
        let agent = KeyAgent::new(directory.path());
        let mut host = ready.open(&agent, directory.path());
        host.must(&format!("create table:alpha/t {TABLE},leaf_page_max=4KB,allocation_size=4KB"));
        (Self { agent, directory }, host)
    }

    fn data_path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self) -> std::path::PathBuf {
        self.data_path().join("alpha/t.wt")
    }

    /// What reading everything gives, for each of these contents of one of the files.
    fn read_each(&self, ready: &Ready, file: &str, contents: &[Vec<u8>]) -> Vec<Outcome> {
        let next = AtomicUsize::new(0);
        let outcomes: Mutex<Vec<Option<Outcome>>> = Mutex::new(contents.iter().map(|_| None).collect());
        std::thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    let mut reader = Reader { ready, subject: self, host: None };
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        let Some(content) = contents.get(number) else { return };
                        let outcome = reader.read(file, content);
                        outcomes.lock().unwrap()[number] = Some(outcome);
                    }
                });
            }
        });
        outcomes.into_inner().unwrap().into_iter().map(Option::unwrap).collect()
    }
}

/// One process that opens copies of a database, one after the other: starting it anew for each would take most of
/// the time.
struct Reader<'a> {
    ready: &'a Ready,
    subject: &'a Subject,
    host: Option<Host>,
}

impl Reader<'_> {
    /// Opens a copy of the database with this content of one of its files, and reads everything.
    fn read(&mut self, file: &str, content: &[u8]) -> Outcome {
        let copy = folder();
        let original = self.subject.data_path();
        for file in files(original) {
            let target = copy.path().join(file.strip_prefix(original).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(&file, target).unwrap();
        }
        fs::write(copy.path().join(file), content).unwrap();
        let mut host = self
            .host
            .take()
            .unwrap_or_else(|| self.ready.start(Some(&self.ready.config(&self.subject.agent, true))));
        let from = host.log().len();
        let opened = host.open(copy.path());
        let read = match &opened {
            Ok(()) => host.ask(&format!("prefix table:alpha/t 1 {ROWS} 1")),
            Err(_) => Ok(Vec::new()),
        };
        let error = opened.err().or_else(|| read.as_ref().err().cloned());
        let outcome = match error {
            None => Outcome::Read(read.unwrap()[0].parse().unwrap()),
            Some(error) => {
                assert!(!WRONG_DATA.contains(&error.code), "wrong data: {error}");
                assert!(!error.text.contains("signal: 11"), "{error}");
                Outcome::Refused(host.said_since(from))
            }
        };
        // A database that has seen damage may not close; then the next one gets a process of its own.
        if host.ask("close").is_ok() {
            self.host = Some(host);
        }
        outcome
    }
}

#[derive(Debug)]
enum Outcome {
    /// So many rows from the first on, each as it was written.
    Read(u64),
    /// What the database said.
    Refused(String),
}

impl Outcome {
    /// Whether the damage was found; the rows of a table are all there, or none is given.
    fn is_refused(&self) -> bool {
        match self {
            Self::Read(rows) => {
                assert_eq!(*rows, ROWS, "rows are missing in silence");
                false
            }
            Self::Refused(_) => true,
        }
    }
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
    let (mut names, mut contents) = (vec!["nothing"], vec![original.clone()]);
    for (region, bytes) in &regions {
        for (number, at) in some_of(bytes, 5).into_iter().enumerate() {
            let mut changed = original.clone();
            changed[at] ^= 1 << (number % 8);
            names.push(region);
            contents.push(changed);
        }
    }
    let outcomes = subject.read_each(ready, "alpha/t.wt", &contents);
    let refused = refusals(&names, &outcomes);
    assert!(!refused.contains_key("nothing"), "{:?}", outcomes[0]);
    // Blocks that nothing refers to any more may be changed; those that are read may not.
    for region in ["file descriptor", "page header", "key id", "nonce prefix", "ciphertext", "tag"] {
        assert!(refused.contains_key(region), "{region}: {refused:?}");
    }
    // The metadata, which names every table and its key.
    let metadata = fs::read(subject.data_path().join("WiredTiger.wt")).unwrap();
    let contents: Vec<_> = some_of(&(4096..metadata.len()).collect::<Vec<_>>(), 20)
        .into_iter()
        .map(|at| {
            let mut changed = metadata.clone();
            changed[at] ^= 0x40;
            changed
        })
        .collect();
    let outcomes = subject.read_each(ready, "WiredTiger.wt", &contents);
    assert!(outcomes.iter().any(Outcome::is_refused));
}

/// How often the change of each region was found.
fn refusals<'a>(names: &[&'a str], outcomes: &[Outcome]) -> BTreeMap<&'a str, usize> {
    let mut refused = BTreeMap::new();
    for (name, outcome) in names.iter().zip(outcomes) {
        if outcome.is_refused() {
            *refused.entry(*name).or_insert(0) += 1;
        }
    }
    refused
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
    let (mut names, mut contents) = (Vec::new(), Vec::new());
    for (region, word) in SEALED {
        let bytes = &regions[region];
        // The five bytes must lie in the region.
        for at in some_of(bytes, 6).into_iter().filter(|at| (*at..*at + 5).all(|at| bytes.contains(&at))) {
            names.push((region, word));
            contents.push(unseen_change(&original, at));
        }
    }
    let outcomes = subject.read_each(ready, "alpha/t.wt", &contents);
    found_by_the_tag(&names, &outcomes);
}

/// What is authenticated in a sealed page, and what the encryptor says of a change there.
const SEALED: [(&str, &str); 5] = [
    ("key id", "is sealed under key"),
    ("nonce prefix", "does not verify"),
    ("nonce counter", "does not verify"),
    ("ciphertext", "does not verify"),
    ("tag", "does not verify"),
];

fn found_by_the_tag(names: &[(&str, &str)], outcomes: &[Outcome]) {
    let mut found = BTreeMap::new();
    for ((region, word), outcome) in names.iter().zip(outcomes) {
        if let Outcome::Refused(log) = outcome {
            assert!(log.contains("can't be decrypted") && log.contains(word), "{region}: {log}");
            *found.entry(*region).or_insert(0) += 1;
        }
    }
    for (region, _) in SEALED {
        assert!(found.contains_key(region), "{region}: no change was ever read");
    }
}

fn a_truncated_file_is_never_wrong_data(ready: &Ready) {
    let subject = Subject::new(ready);
    let original = fs::read(subject.file()).unwrap();
    let mut cuts = some_of(&(0..original.len()).collect::<Vec<_>>(), 20);
    cuts.extend((0..original.len()).step_by(4096));
    cuts.push(original.len() - 1);
    let contents: Vec<_> = cuts.into_iter().map(|cut| original[..cut].to_vec()).collect();
    let outcomes = subject.read_each(ready, "alpha/t.wt", &contents);
    let refused = outcomes.iter().filter(|outcome| outcome.is_refused()).count();
    assert!(refused > 10, "{refused}");
}

/// Rows that stand in the table's file; the others are in the journal alone.
const CHECKPOINTED: u64 = 20;
const JOURNAL: &str = "journal/WiredTigerLog.0000000001";

/// The parts of a journal file: records on 128-byte boundaries, each a header of 16 bytes and a sealed page. What a
/// recovery does not read, since a checkpoint came after it, is one part of its own.
fn journal_regions(file: &[u8]) -> BTreeMap<&'static str, Vec<usize>> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let mut records = Vec::new();
    let mut end = 0;
    while end + 16 <= file.len() && word(end) >= 16 && end + word(end) <= file.len() {
        records.push(end);
        end += word(end).next_multiple_of(128);
    }
    // Each row was a transaction of its own, and nothing was logged after them.
    let read = records.len() - usize::try_from(ROWS - CHECKPOINTED).unwrap();
    let mut regions = BTreeMap::from([
        ("before the checkpoint", (0..records[read]).collect::<Vec<_>>()),
        ("unused", (end..file.len().min(end + 4096)).collect()),
    ]);
    for record in records.into_iter().skip(read) {
        assert!(file[record + 8] & 0x02 != 0, "the record at {record} is in clear");
        let (size, sealed) = (word(record), word(record + 16));
        for (name, range) in [
            ("record size", 0..4),
            ("checksum", 4..8),
            ("flags", 8..12),
            ("memory size", 12..16),
            ("length", 16..20),
            ("format", 20..21),
            ("key id", 21..37),
            ("nonce prefix", 37..49),
            ("nonce counter", 49..61),
            ("ciphertext", 61..sealed - 16),
            ("tag", sealed - 16..sealed),
            ("padding", sealed..size.next_multiple_of(128)),
        ] {
            regions.entry(name).or_default().extend(range.start + record..range.end + record);
        }
    }
    regions
}

/// Every outcome is a refusal, or a prefix of what was written that has all that was checkpointed.
fn prefixes(outcomes: &[Outcome]) -> Vec<Option<u64>> {
    let rows = |outcome: &Outcome| match outcome {
        Outcome::Read(rows) => {
            assert!((CHECKPOINTED..=ROWS).contains(rows), "{rows} rows");
            Some(*rows)
        }
        Outcome::Refused(_) => None,
    };
    outcomes.iter().map(rows).collect()
}

fn a_damaged_journal_is_found_or_ends_at_a_prefix(ready: &Ready) {
    let subject = Subject::with_journal(ready);
    let original = fs::read(subject.data_path().join(JOURNAL)).unwrap();
    let regions = journal_regions(&original);
    let (mut names, mut contents) = (vec!["nothing"], vec![original.clone()]);
    for (region, bytes) in &regions {
        for (number, at) in some_of(bytes, 6).into_iter().enumerate() {
            let mut changed = original.clone();
            changed[at] ^= 1 << (number % 8);
            names.push(region);
            contents.push(changed);
        }
    }
    let rows = prefixes(&subject.read_each(ready, JOURNAL, &contents));
    assert_eq!(rows[0], Some(ROWS), "undamaged, the journal has everything");
    // What is sealed is never read over: the rows from the damage on are gone, or nothing opens at all.
    for region in ["record size", "checksum", "key id", "nonce prefix", "nonce counter", "ciphertext", "tag"]
    {
        let of_region = names.iter().zip(&rows).filter(|(name, _)| **name == region);
        for (_, rows) in of_region {
            assert_ne!(*rows, Some(ROWS), "{region}: a change was not noticed");
        }
    }
    assert!(rows.iter().flatten().any(|rows| *rows < ROWS) || rows.iter().any(Option::is_none));

    // Cut off anywhere.
    let end = regions["unused"].first().copied().unwrap_or(original.len());
    let mut cuts = some_of(&(0..end).collect::<Vec<_>>(), 20);
    cuts.extend(some_of(&(0..end).step_by(128).collect::<Vec<_>>(), 10));
    let contents: Vec<_> = cuts.iter().map(|cut| original[..*cut].to_vec()).collect();
    let rows = prefixes(&subject.read_each(ready, JOURNAL, &contents));
    for (cut, rows) in cuts.iter().zip(&rows) {
        assert!(cut + 128 > end || *rows != Some(ROWS), "all rows from {cut} of {end} bytes");
    }
    assert!(rows.iter().flatten().any(|rows| *rows > CHECKPOINTED), "{rows:?}");
}

fn a_change_of_the_journal_that_the_checksum_misses_is_found_by_the_tag(ready: &Ready) {
    let subject = Subject::with_journal(ready);
    let original = fs::read(subject.data_path().join(JOURNAL)).unwrap();
    let regions = journal_regions(&original);
    let (mut names, mut contents) = (Vec::new(), Vec::new());
    for (region, word) in SEALED {
        let bytes = &regions[region];
        for at in some_of(bytes, 6).into_iter().filter(|at| (*at..*at + 5).all(|at| bytes.contains(&at))) {
            names.push((region, word));
            contents.push(unseen_change(&original, at));
        }
    }
    let outcomes = subject.read_each(ready, JOURNAL, &contents);
    assert!(prefixes(&outcomes).iter().all(|rows| *rows != Some(ROWS)), "a change was not noticed");
    found_by_the_tag(&names, &outcomes);
}

/// A limit that `docs/concepts/security.md` names: a record of the journal says itself whether it is encrypted, and WiredTiger
/// asks the encryptor only then. Should a release refuse records in clear, this test says so.
fn a_journal_record_in_clear_is_not_ours_to_refuse(ready: &Ready) {
    const FORGED: u64 = 5;
    let subject = Subject::with_journal(ready);
    // The same table in a database in clear; what its journal holds after the checkpoint are records in clear.
    let clear = folder();
    let mut host = ready.start(None);
    host.open(clear.path()).unwrap();
    host.must(&format!("create table:alpha/t {TABLE},leaf_page_max=4KB,allocation_size=4KB"));
    host.must(&format!("put table:alpha/t 1 {CHECKPOINTED} 1"));
    host.must("checkpoint");
    host.must(&format!("put table:alpha/t {} {} {FORGED}", CHECKPOINTED + 1, ROWS - CHECKPOINTED));
    host.must("flush");
    host.kill();
    let records = |file: &[u8]| {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        let mut starts = vec![0];
        let mut end = 0;
        while end + 16 <= file.len() && word(end) >= 16 {
            end += word(end).next_multiple_of(128);
            starts.push(end);
        }
        starts[starts.len() - 1 - usize::try_from(ROWS - CHECKPOINTED).unwrap()]..end
    };
    let clear = fs::read(clear.path().join(JOURNAL)).unwrap();
    let path = subject.data_path().join(JOURNAL);
    let mut journal = fs::read(&path).unwrap();
    let length = journal.len();
    journal.truncate(records(&journal).start);
    journal.extend_from_slice(&clear[records(&clear)]);
    journal.resize(length, 0);
    fs::write(&path, &journal).unwrap();
    let mut host = ready.open(&subject.agent, subject.data_path());
    host.must(&format!("check table:alpha/t 1 {CHECKPOINTED} 1"));
    host.must(&format!("check table:alpha/t {} {} {FORGED}", CHECKPOINTED + 1, ROWS - CHECKPOINTED));
    host.kill();
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
