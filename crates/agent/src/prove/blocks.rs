//! Walks the blocks of a WiredTiger data file and the records of a WiredTiger log, without WiredTiger.
//!
//! Pure over `Read + Seek`. Follows WiredTiger's `btmem.h`, `block.h` and `log.h`: what is in clear around each
//! encrypted part.
//!
//! ```text
//! block   0        recno 8 │ write generation 8 │ memory size 4 │ entries 4 │ type 1 │ flags 1 │ - 1 │ version 1
//!         28       size on disk 4 │ crc32c 4 │ flags 1 │ - 3
//!         40       length 4 │ ciphertext …            (when flags has 0x08)
//! record  0        length 4 │ crc32c 4 │ flags 2 │ - 2 │ memory length 4 │ …
//! ```
//! The checksum covers the whole block (or its first 64 bytes when the block's flag 0x01 is not set), the
//! record's its length; both with the field itself as zero.

use std::io::{self, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};

/// What a walk saw of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocks {
    /// Blocks or log records that hold data and are encrypted.
    pub encrypted: u64,
    /// Their bytes on disk.
    pub encrypted_bytes: u64,
    /// Blocks or log records that hold data and are not.
    pub unencrypted: u64,
    /// Offset of the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_unencrypted: Option<u64>,
    /// Blocks of the block manager (offsets and sizes), and the log's own records: never encrypted, no user data.
    pub bookkeeping: u64,
    /// Bytes that belong to no block with a valid checksum: free space.
    pub free_bytes: u64,
}

/// The smallest unit in which WiredTiger allocates.
const UNIT: u64 = 512;
/// WiredTiger's largest page.
const LARGEST: u64 = 512 * 1024 * 1024;
const PAGE_HEADER: usize = 28;
const HEADERS: usize = 40;
/// How much of a block a checksum of the short kind covers.
const SHORT_CHECKSUM: usize = 64;

/// First four bytes of a data file.
pub(super) const DATA_FILE_MAGIC: u32 = 120_897;
/// Four bytes of a log file, after the record header of its first record.
const LOG_MAGIC: u32 = 0x0010_1064;

/// Walks a data file of `length` bytes.
///
/// # Errors
/// The file cannot be read. A file that changes meanwhile is no error: a torn block counts as free space.
pub(super) fn walk_data(file: &mut (impl Read + Seek), length: u64) -> io::Result<Blocks> {
    let mut blocks = Blocks::default();
    let mut head = [0; HEADERS];
    let mut block = Vec::new();
    let mut at = 0;
    // The description at the start takes one allocation unit, but its first unit here is enough to step over it.
    while at + UNIT <= length {
        file.seek(SeekFrom::Start(at))?;
        if !fill(file, &mut head)? {
            break;
        }
        let size = u64::from(u32_at(&head, PAGE_HEADER));
        if !plausible(&head, size, length - at) || !valid(file, &head, size, &mut block)? {
            blocks.free_bytes += UNIT;
            at += UNIT;
            continue;
        }
        let encrypted = head[25] & 0x08 != 0;
        match head[24] {
            BLOCK_MANAGER => blocks.bookkeeping += 1,
            _ if encrypted => {
                blocks.encrypted += 1;
                blocks.encrypted_bytes += size;
            }
            _ => {
                blocks.unencrypted += 1;
                blocks.first_unencrypted.get_or_insert(at);
            }
        }
        at += size;
    }
    blocks.free_bytes += length.saturating_sub(at);
    Ok(blocks)
}

const BLOCK_MANAGER: u8 = 1;
const LAST_PAGE_TYPE: u8 = 7;

/// What can be said before the checksum is computed.
fn plausible(head: &[u8; HEADERS], size: u64, left: u64) -> bool {
    let kind = head[24];
    (BLOCK_MANAGER..=LAST_PAGE_TYPE).contains(&kind)
        && head[26] == 0
        && head[37..40] == [0; 3]
        && size >= UNIT
        && size.is_multiple_of(UNIT)
        && size <= left.min(LARGEST)
}

fn valid(file: &mut impl Read, head: &[u8; HEADERS], size: u64, block: &mut Vec<u8>) -> io::Result<bool> {
    const DATA_CHECKSUM: u8 = 0x01;
    let covered = if head[36] & DATA_CHECKSUM != 0 {
        usize::try_from(size).unwrap_or(SHORT_CHECKSUM)
    } else {
        SHORT_CHECKSUM
    };
    block.resize(covered, 0);
    block[..HEADERS].copy_from_slice(head);
    if !fill(file, &mut block[HEADERS..])? {
        return Ok(false);
    }
    let stored = u32_at(block, 32);
    block[32..36].fill(0);
    Ok(crc32c::crc32c(block) == stored)
}

/// Walks a log file of `length` bytes.
///
/// # Errors
/// The file cannot be read.
pub(super) fn walk_log(file: &mut (impl Read + Seek), length: u64) -> io::Result<Blocks> {
    const ALIGNMENT: u64 = 128;
    const HEADER: usize = 16;
    const ENCRYPTED: u16 = 0x02;
    let mut blocks = Blocks::default();
    let mut head = [0; HEADER + 4];
    let mut record = Vec::new();
    let mut at = 0;
    while at + ALIGNMENT <= length {
        file.seek(SeekFrom::Start(at))?;
        if !fill(file, &mut head)? {
            break;
        }
        let size = u64::from(u32_at(&head, 0));
        if size <= HEADER as u64 || size > (length - at).min(LARGEST) {
            blocks.free_bytes += ALIGNMENT;
            at += ALIGNMENT;
            continue;
        }
        record.resize(usize::try_from(size).unwrap_or(HEADER).max(HEADER + 4), 0);
        record[..HEADER + 4].copy_from_slice(&head);
        let readable = fill(file, &mut record[HEADER + 4..])?;
        record.truncate(usize::try_from(size).unwrap_or(HEADER));
        let stored = u32_at(&record, 4);
        record[4..8].fill(0);
        if !readable || crc32c::crc32c(&record) != stored {
            blocks.free_bytes += ALIGNMENT;
            at += ALIGNMENT;
            continue;
        }
        let flags = u16::from_le_bytes([record[8], record[9]]);
        if flags & ENCRYPTED != 0 {
            blocks.encrypted += 1;
            blocks.encrypted_bytes += size;
        } else if is_log_bookkeeping(at, &record[HEADER..]) {
            blocks.bookkeeping += 1;
        } else {
            blocks.unencrypted += 1;
            blocks.first_unencrypted.get_or_insert(at);
        }
        at += size.next_multiple_of(ALIGNMENT);
    }
    blocks.free_bytes += length.saturating_sub(at);
    Ok(blocks)
}

/// The description at the start of a log, and WiredTiger's own records (the previous log's end, the system's
/// checkpoint): positions only.
fn is_log_bookkeeping(at: u64, content: &[u8]) -> bool {
    // A record's type is a packed unsigned number: below 64 it is one byte with the top bit set.
    const SYSTEM: u8 = 0x80 | 4;
    (at == 0 && content.len() >= 4 && u32_at(content, 0) == LOG_MAGIC) || content.first() == Some(&SYSTEM)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// Fills `buffer`; `false` when the file ends before.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn block(kind: u8, flags: u8, units: u32) -> Vec<u8> {
        let size = units * 4096;
        let mut block: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        block[..HEADERS].fill(0);
        block[24] = kind;
        block[25] = flags;
        block[28..32].copy_from_slice(&size.to_le_bytes());
        block[36] = 1;
        let checksum = crc32c::crc32c(&block);
        block[32..36].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    fn walk(parts: &[Vec<u8>]) -> Blocks {
        let mut file = vec![0; 4096];
        file[..4].copy_from_slice(&DATA_FILE_MAGIC.to_le_bytes());
        file.extend(parts.iter().flatten());
        walk_data(&mut Cursor::new(&file), file.len() as u64).unwrap()
    }

    #[test]
    fn blocks_are_told_apart_by_flag_and_type() {
        let seen = walk(&[block(7, 0x08, 2), block(7, 0x01, 1), block(1, 0, 1), block(6, 0x09, 1)]);
        assert_eq!(
            seen,
            Blocks {
                encrypted: 2,
                encrypted_bytes: 3 * 4096,
                unencrypted: 1,
                first_unencrypted: Some(3 * 4096),
                bookkeeping: 1,
                free_bytes: 4096,
            }
        );
    }

    #[test]
    fn a_torn_block_is_free_space_and_the_next_one_is_found() {
        let mut torn = block(7, 0x08, 2);
        torn[5000] ^= 1;
        let seen = walk(&[torn, block(7, 0, 1)]);
        assert_eq!((seen.encrypted, seen.unencrypted, seen.free_bytes), (0, 1, 3 * 4096));
    }

    #[test]
    fn a_short_checksum_covers_sixty_four_bytes() {
        let mut block = block(7, 0x08, 2);
        block[36] = 0;
        block[32..36].fill(0);
        let checksum = crc32c::crc32c(&block[..64]);
        block[32..36].copy_from_slice(&checksum.to_le_bytes());
        block[6000] ^= 1;
        assert_eq!(walk(&[block]).encrypted, 1);
    }

    #[test]
    fn any_bytes_can_be_walked() {
        use proptest::prelude::*;
        proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..5000))| {
            let length = bytes.len() as u64;
            walk_data(&mut Cursor::new(&bytes), length).unwrap();
            walk_log(&mut Cursor::new(&bytes), length).unwrap();
        });
    }
}
