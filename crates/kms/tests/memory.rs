//! What an unwrap leaves in memory, under an allocator that wipes on free: nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "azure/recorded.rs"]
#[allow(dead_code, reason = "another test binary uses the rest")]
mod recorded;

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    time::Duration,
};

use keyward_kms::KeyService;
use zeroize::{Zeroize, Zeroizing};

#[global_allocator]
static WIPING: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// The key under test, so masked that the searched pattern itself is nowhere in memory.
const MASK: u8 = 0x5a;

fn masked(seed: u8) -> [u8; 32] {
    std::array::from_fn(|n| (n as u8).wrapping_mul(73) ^ seed)
}

fn key(seed: u8) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(masked(seed).iter().map(|byte| byte ^ MASK).collect())
}

/// As it stands in JSON, masked. Of base64 text the ends depend on what is around it: the middle does not.
fn masked_base64(seed: u8) -> Vec<u8> {
    let mut text = data_encoding::BASE64URL_NOPAD.encode(&key(seed)).into_bytes();
    text.iter_mut().for_each(|byte| *byte ^= MASK);
    text.truncate(40);
    text
}

/// How often a pattern, given masked, stands in this process's writable memory.
fn occurrences(pattern: &[u8]) -> usize {
    let mut memory = File::open("/proc/self/mem").unwrap();
    let mut chunk = vec![0; 1 << 16];
    let mut found = 0;
    for line in BufReader::new(File::open("/proc/self/maps").unwrap()).lines() {
        let line = line.unwrap();
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with("rw") || rest.contains("[v") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut at = start;
        while at < end {
            let wanted = usize::try_from(end - at).unwrap().min(chunk.len());
            memory.seek(SeekFrom::Start(at)).unwrap();
            let Ok(read) = memory.read(&mut chunk[..wanted]) else { break };
            if read == 0 {
                break;
            }
            found += chunk[..read]
                .windows(pattern.len())
                .filter(|w| w.iter().zip(pattern).all(|(a, b)| a ^ MASK == *b))
                .count();
            // Patterns across two reads are met by going back a little.
            at += u64::try_from(if read > pattern.len() { read - pattern.len() + 1 } else { read }).unwrap();
        }
        chunk.zeroize();
        chunk.resize(1 << 16, 0);
    }
    found
}

#[tokio::test]
async fn an_unwrapped_key_leaves_no_trace() {
    let server =
        recorded::Server::start(|own, seen| own.usual(seen).unwrap_or_else(|| own.value(&key(1)))).await;
    let service = server.service();
    let (unwrapped, _) = service.unwrap(&server.key(), &[1; 256]).await.unwrap();
    assert!(occurrences(&masked(1)) >= 1, "the search finds a key that is held");
    drop(unwrapped);
    // Both ends of the connection go away by themselves, a moment later.
    for _ in 0..50 {
        if occurrences(&masked(1)) + occurrences(&masked_base64(1)) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((occurrences(&masked(1)), occurrences(&masked_base64(1))), (0, 0));
    drop(service);
}

#[tokio::test]
async fn a_wrapped_key_leaves_no_trace() {
    let server =
        recorded::Server::start(|own, seen| own.usual(seen).unwrap_or_else(|| own.value(&[9; 256]))).await;
    let service = server.service();
    let plaintext = key(2);
    service.wrap(&server.key(), &plaintext).await.unwrap();
    // The server remembers every request that it was asked.
    assert!(occurrences(&masked_base64(2)) >= 1, "the search finds what is kept");
    server.forget_calls();
    drop(plaintext);
    for _ in 0..50 {
        if occurrences(&masked(2)) + occurrences(&masked_base64(2)) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((occurrences(&masked(2)), occurrences(&masked_base64(2))), (0, 0));
    drop(service);
}
