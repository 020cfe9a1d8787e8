//! After its work is done and its keys are dropped, the process's memory holds none of them.
//!
//! One test in a process of its own, with the allocator that a program holding keys uses.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use jiff::Timestamp;
use keyward_keys::{
    DatabaseKey, MasterKey, NodeId,
    assignment::{Assignment, decode_assignments, encode_assignment},
    keystore::{CanaryWrap, MasterKeyWrap, OpenKeystore, Provider, Purpose, VerifiedWrap},
    page::{OVERHEAD, PageCipher},
    wire::{self, ToEncryptor, WireKey},
};

#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Keys are known here only in this disguise, so that the search does not find itself.
const MASK: u8 = 0x5c;

fn disguised(n: u8) -> [u8; 32] {
    std::array::from_fn(|at| (at as u8).wrapping_mul(37).wrapping_add(n) ^ 0x9b)
}

#[inline(never)]
fn master(n: u8) -> MasterKey {
    let mut bytes = disguised(n);
    bytes.iter_mut().for_each(|byte| *byte ^= MASK);
    MasterKey::take_from(&mut bytes).unwrap()
}

/// How often the key hidden in `disguise` is in writable memory of this process.
fn count(disguise: &[u8; 32]) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    let mut chunk = vec![0_u8; 1 << 20];
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut fields = line.split(' ');
        let (Some(range), Some(mode)) = (fields.next(), fields.next()) else { continue };
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        if !mode.starts_with("rw") {
            continue;
        }
        while at < end {
            let len = (chunk.len() as u64).min(end - at) as usize;
            let Ok(read) = memory.read_at(&mut chunk[..len], at) else { break };
            found += chunk[..read]
                .windows(32)
                .filter(|window| window.iter().zip(disguise).all(|(byte, hidden)| byte ^ MASK == *hidden))
                .count();
            chunk.fill(0);
            // Windows overlap, so that a key across two chunks is found.
            at += if at + (read as u64) < end { read as u64 - 31 } else { read as u64 };
        }
    }
    found
}

fn verified(of: &MasterKey) -> Vec<VerifiedWrap> {
    let wrap = MasterKeyWrap {
        provider: Provider::AzureKeyVault,
        key_identifier: "https://v.vault.azure.net/keys/cmk/1".to_owned(),
        public_key_sha256: "ab".repeat(32),
        algorithm: "RSA-OAEP-256".to_owned(),
        ciphertext: vec![1; 256],
        created_at: now(),
        canary: CanaryWrap { ciphertext: vec![2; 256], sha256: [3; 32] },
    };
    vec![wrap.verified(of, of.expose()).unwrap()]
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// Everything that is done with keys; gives the disguises of the database keys.
#[inline(never)]
fn work() -> Vec<[u8; 32]> {
    let (mut keystore, _) =
        OpenKeystore::create(NodeId::make(), master(1), verified(&master(1)), 4, now()).unwrap();
    let spare = keystore.sealed().entries().iter().find(|entry| entry.purpose == Purpose::Spare).unwrap().id;
    let assignment = Assignment { key_id: spare, database: "alpha".to_owned() };
    let key = keystore.database_key(&spare).unwrap();
    let journal = encode_assignment(&assignment, &key).unwrap();
    let journal = decode_assignments(&journal, |id| keystore.database_key(id).ok());
    let image = keystore.fold(&journal.assignments).unwrap().unwrap();
    keystore.commit(&image).unwrap();
    let image = keystore.rotate_master_key(&master(2), verified(&master(2)), now()).unwrap();
    keystore.commit_rotated(&image, master(2)).unwrap();
    let image = keystore.add_spares(1, now()).unwrap();
    keystore.commit(&image).unwrap();

    let cipher = PageCipher::new(spare, &key).unwrap();
    let (mut sealed, mut plain) = ([0; 100 + OVERHEAD], [0; 100]);
    cipher.seal(&plain, &mut sealed).unwrap();
    PageCipher::new(spare, &key).unwrap().open(&sealed, &mut plain).unwrap();

    let keys = keystore.database_keys().unwrap();
    let hide = |key: &DatabaseKey| -> [u8; 32] { std::array::from_fn(|at| key.expose()[at] ^ MASK) };
    let disguises = keys.iter().map(|(_, key)| hide(key)).collect();
    let keys =
        keys.into_iter().map(|(entry, key)| WireKey { id: entry.id, purpose: entry.purpose, key }).collect();
    let frame = wire::encode_to_encryptor(&ToEncryptor::Spares(keys)).unwrap();
    let ToEncryptor::Spares(got) = wire::read_to_encryptor(&mut frame.as_bytes()).unwrap() else {
        panic!("another message");
    };
    assert_eq!(got.len(), 6);
    disguises
}

#[test]
fn no_key_is_left_in_memory() {
    let held = master(1);
    assert!(count(&disguised(1)) >= 1, "the search finds a key that is held");
    drop(held);

    let database_keys = work();
    assert_eq!(database_keys.len(), 6);
    for n in [1, 2] {
        assert_eq!(count(&disguised(n)), 0, "master key {n}");
    }
    for key in &database_keys {
        assert_eq!(count(key), 0, "a database key");
    }

    let leaked: &mut [u8] = Box::leak(Box::new(disguised(1)));
    leaked.iter_mut().for_each(|byte| *byte ^= MASK);
    assert!(count(&disguised(1)) >= 1, "the search finds a key that was left on the heap");
}
