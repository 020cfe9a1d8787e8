//! Conformance vectors: files in `tests/vectors`, named by what is wrong with them.
//!
//! `vectors.json` says for each file which master key belongs to it and what reading it must lead to. The files of
//! version 1 stay for ever. The first keystore and all that derive from it were made by `write_vectors` (ignored), which
//! follows `docs/keystore-format.md` with code of its own for the MAC.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use aws_lc_rs::{hkdf, hmac};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use jiff::Timestamp;
use keyward_keys::{
    DatabaseKey, KeyId, MasterKey, NodeId,
    assignment::Assignment,
    keystore::{CanaryWrap, KeystoreError, MasterKeyWrap, OpenKeystore, Provider, Purpose, SealedKeystore},
    page::{OVERHEAD, PageCipher},
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Vectors {
    keystores: BTreeMap<String, KeystoreVector>,
    pages: BTreeMap<String, PageVector>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeystoreVector {
    /// Hexadecimal.
    master_key: String,
    /// The node and the newest generation that the reader knows of, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen_generation: Option<u64>,
    /// The name of the error, or `ok`.
    expect: String,
    /// Database keys in hexadecimal by id, when it opens.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    database_keys: BTreeMap<KeyId, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PageVector {
    key_id: KeyId,
    database_key: String,
    plain: String,
    sealed: String,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn vectors() -> Vectors {
    serde_json::from_slice(&fs::read(folder().join("vectors.json")).unwrap()).unwrap()
}

fn master(hex: &str) -> MasterKey {
    MasterKey::take_from(&mut HEXLOWER.decode(hex.as_bytes()).unwrap()).unwrap()
}

fn read(file: &str, vector: &KeystoreVector) -> Result<OpenKeystore, KeystoreError> {
    let sealed = SealedKeystore::parse(&fs::read(folder().join(file)).unwrap())?;
    if let Some(node) = vector.node_id {
        sealed.check_node(node)?;
    }
    if let Some(seen) = vector.seen_generation {
        sealed.check_replay(seen)?;
    }
    sealed.open(master(&vector.master_key))
}

fn name_of(error: &KeystoreError) -> String {
    format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

#[test]
fn every_keystore_vector_reads_as_it_says() {
    let vectors = vectors().keystores;
    assert!(vectors.len() >= 30, "the vectors are incomplete");
    let files =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for file in files.filter(|file| file.ends_with(".keystore.json")) {
        assert!(vectors.contains_key(&file), "{file} is not in vectors.json");
    }
    for (file, vector) in &vectors {
        match read(file, vector) {
            Err(error) => {
                assert_eq!(name_of(&error), vector.expect, "{file}: {error}");
                assert!(!error.hint().is_empty());
            }
            Ok(keystore) => {
                assert_eq!("ok", vector.expect, "{file}");
                let keys = keystore.database_keys().unwrap();
                let keys: BTreeMap<_, _> =
                    keys.iter().map(|(entry, key)| (entry.id, HEXLOWER.encode(key.expose()))).collect();
                assert_eq!(keys, vector.database_keys, "{file}");
            }
        }
    }
}

#[test]
fn every_page_vector_opens() {
    for (name, vector) in vectors().pages {
        let mut key = HEXLOWER.decode(vector.database_key.as_bytes()).unwrap();
        let cipher = PageCipher::new(vector.key_id, &DatabaseKey::take_from(&mut key).unwrap()).unwrap();
        let sealed = HEXLOWER.decode(vector.sealed.as_bytes()).unwrap();
        let mut plain = vec![0; sealed.len() - OVERHEAD];
        cipher.open(&sealed, &mut plain).unwrap();
        assert_eq!(HEXLOWER.encode(&plain), vector.plain, "{name}");
    }
}

const KEY: &str = "0001020304050607080910111213141516171819202122232425262728293031";
const OTHER_KEY: &str = "f001020304050607080910111213141516171819202122232425262728293031";

/// The end of the file, from the MAC's name on.
const TAIL_BYTES: usize = 54;

/// The file that `text`, which is all before the MAC, makes with the right MAC under `KEY`.
fn with_mac(text: &str) -> Vec<u8> {
    struct Len;
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            32
        }
    }
    let mut key = [0; 32];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"").extract(master(KEY).expose());
    prk.expand(&[b"keyward keystore v1 mac"], Len).unwrap().fill(&mut key).unwrap();
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes());
    format!("{text},\"mac\":\"{}\"}}\n", BASE64URL_NOPAD.encode(mac.as_ref())).into_bytes()
}

/// The format as documented is what is written: the MAC of a fresh keystore is recomputed here.
#[test]
fn the_mac_is_as_documented() {
    let text = String::from_utf8(base().sealed().bytes().to_vec()).unwrap();
    assert_eq!(with_mac(&text[..text.len() - TAIL_BYTES]), text.as_bytes());
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00.123Z".parse().unwrap()
}

fn wrap(version: char) -> MasterKeyWrap {
    MasterKeyWrap {
        provider: Provider::AzureKeyVault,
        key_identifier: format!(
            "https://contoso.vault.azure.net/keys/cmk/{}",
            version.to_string().repeat(32)
        ),
        public_key_sha256: "ab".repeat(32),
        algorithm: "RSA-OAEP-256".to_owned(),
        ciphertext: vec![0x11; 256],
        created_at: now(),
        canary: CanaryWrap { ciphertext: vec![0x22; 256], sha256: [0x33; 32] },
    }
}

/// A keystore with a system key, two databases and a spare, at generation 3.
fn base() -> OpenKeystore {
    let key = master(KEY);
    let wraps = vec![wrap('a').verified(&key, key.expose()).unwrap()];
    let (mut keystore, _) = OpenKeystore::create(NodeId::make(), key, wraps, 2, now()).unwrap();
    for database in ["alpha", "b%2eeta ü"] {
        let spare =
            keystore.sealed().entries().iter().find(|entry| entry.purpose == Purpose::Spare).unwrap().id;
        let assignment = Assignment { key_id: spare, database: database.to_owned() };
        let image = keystore.fold(&[assignment]).unwrap().unwrap();
        keystore.commit(&image).unwrap();
    }
    let image = keystore.add_spares(1, now()).unwrap();
    keystore.commit(&image).unwrap();
    keystore
}

#[test]
#[ignore = "writes the vectors anew, with new random keys"]
fn write_vectors() {
    let keystore = base();
    let bytes = keystore.sealed().bytes().to_vec();
    let text = std::str::from_utf8(&bytes[..bytes.len() - TAIL_BYTES]).unwrap();
    let keys: BTreeMap<KeyId, String> = keystore
        .database_keys()
        .unwrap()
        .iter()
        .map(|(entry, key)| (entry.id, HEXLOWER.encode(key.expose())))
        .collect();
    let mut written = Vectors { keystores: BTreeMap::new(), pages: BTreeMap::new() };
    let vector = |expect: &str| KeystoreVector {
        master_key: KEY.to_owned(),
        node_id: None,
        seen_generation: None,
        expect: expect.to_owned(),
        database_keys: if expect == "ok" { keys.clone() } else { BTreeMap::new() },
    };
    let mut add_as = |name: &str, bytes: &[u8], vector: KeystoreVector| {
        let file = format!("{name}.keystore.json");
        fs::write(folder().join(&file), bytes).unwrap();
        written.keystores.insert(file, vector);
    };
    add_as(
        "wrong_node",
        &bytes,
        KeystoreVector { node_id: Some(NodeId::from_bytes([7; 16])), ..vector("WrongNode") },
    );
    add_as(
        "older_generation",
        &bytes,
        KeystoreVector { seen_generation: Some(5), ..vector("OlderGeneration") },
    );
    let other_key = OTHER_KEY.to_owned();
    add_as("wrong_master_key", &bytes, KeystoreVector { master_key: other_key, ..vector("WrongMasterKey") });
    let mut add = |name: &str, bytes: &[u8], expect: &str| add_as(name, bytes, vector(expect));
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        with_mac(&text.replacen(from, to, 1))
    };
    let flip = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        bytes
    };

    add("ok_v1", &bytes, "ok");
    let two_wraps = keystore.stage_wrap(wrap('b')).unwrap();
    add("ok_v1_two_wraps", &two_wraps.bytes, "ok");
    add("ok_v1_spaces", &changed(",\"generation\"", ", \n \"generation\""), "ok");

    add("empty", b"", "Empty");
    add("cut_in_a_key", &bytes[..bytes.len() / 2], "Truncated");
    add("cut_before_the_mac", &bytes[..bytes.len() - TAIL_BYTES], "Truncated");
    add("cut_before_the_last_newline", &bytes[..bytes.len() - 1], "Truncated");
    add("zeroes", &[0; 4096], "Malformed");
    add("a_newline_too_many", &[&bytes[..], b"\n"].concat(), "Malformed");
    add("two_files_in_one", &[&bytes[..], &bytes[..]].concat(), "Malformed");
    add("not_utf8", &[&bytes[..30], b"\xff", &bytes[31..]].concat(), "Malformed");
    add("no_mac", &[text.as_bytes(), b"}\n"].concat(), "Malformed");
    add("mac_not_last", &with_mac(&format!("{text},\"mac\":\"x\"")), "Malformed");
    add("other_format", &changed("keyward-keystore", "keyward-keyring"), "Malformed");
    add("unknown_member", &changed(",\"generation\"", ",\"colour\":1,\"generation\""), "Malformed");
    add("missing_member", &changed("\"generation\":4,", ""), "Malformed");
    add("negative_generation", &changed("\"generation\":4", "\"generation\":-4"), "Malformed");
    add(
        "upper_case_key_id",
        &changed("databaseKeys\":[{\"id\":\"", "databaseKeys\":[{\"id\":\"A"),
        "Malformed",
    );
    add("short_nonce", &changed("\"nonce\":\"", "\"nonce\":\"AAAA\",\"nonce_\":\""), "Malformed");
    add("database_without_name", &changed(",\"database\":\"alpha\"", ""), "Malformed");
    add(
        "spare_with_name",
        &changed("\"purpose\":\"spare\"", "\"purpose\":\"spare\",\"database\":\"x\""),
        "Malformed",
    );
    add("version_0", &changed("\"version\":1", "\"version\":0"), "Malformed");
    add("newer_version", &changed("\"version\":1", "\"version\":2"), "NewerVersion");
    add("newer_version_of_another_shape", b"{\"version\":7,\"vault\":{}}\n", "NewerVersion");

    let at = |what: &str| text.find(what).unwrap() + what.len();
    add("mac_flipped_bit", &flip(bytes.len() - 20), "MacMismatch");
    add("generation_flipped_bit", &flip(at("\"generation\":")), "MacMismatch");
    add("key_ciphertext_flipped_bit", &flip(at("\"ciphertext\":\"") + 900), "MacMismatch");
    add("wrap_ciphertext_flipped_bit", &flip(at("\"ciphertext\":\"") + 10), "MacMismatch");
    let raised = text.replace("\"generation\":4", "\"generation\":9");
    add("generation_raised", &[raised.as_bytes(), &bytes[text.len()..]].concat(), "MacMismatch");

    // From here on the MAC fits: whoever wrote these held the master key.
    add("database_renamed", &changed("\"alpha\"", "\"gamma\""), "KeyDoesNotUnwrap");
    add(
        "spare_made_a_database",
        &changed("\"spare\"", "\"database\",\"database\":\"x\""),
        "KeyDoesNotUnwrap",
    );
    let node = keystore.sealed().node_id().to_string();
    let other_node = NodeId::from_bytes([7; 16]).to_string();
    add("moved_to_another_node", &changed(&node, &other_node), "KeyDoesNotUnwrap");
    let ids: Vec<String> = keystore.sealed().entries().iter().map(|entry| entry.id.to_string()).collect();
    let swapped = text.replace(&ids[1], "@").replace(&ids[2], &ids[1]).replace('@', &ids[2]);
    add("two_ids_swapped", &with_mac(&swapped), "KeyDoesNotUnwrap");
    add("key_id_twice", &changed(&ids[3], &ids[2]), "DuplicateKeyId");
    let master_id = keystore.sealed().master_key_id().to_string();
    add("key_id_of_the_master_key", &changed(&ids[3], &master_id), "DuplicateKeyId");
    add("no_system_key", &changed("\"system\"", "\"spare\""), "SystemKeyCount");
    add("two_system_keys", &changed("\"spare\"", "\"system\""), "SystemKeyCount");
    add("database_name_with_slash", &changed("\"alpha\"", "\"../alpha\""), "DatabaseName");
    let (from, to) = (at("\"wraps\":["), text.find("]},\"databaseKeys\"").unwrap());
    add("no_wrap", &with_mac(&format!("{}{}", &text[..from], &text[to..])), "WrapCount");
    let twice = format!("{},{}", &text[..to], &text[from..]);
    add("wrap_twice", &with_mac(&twice), "DuplicateWrap");
    add("wrap_with_pkcs1_padding", &changed("RSA-OAEP-256", "RSA1_5"), "MalformedWrap");
    add("wrap_without_key_identifier", &changed(&wrap('a').key_identifier, ""), "MalformedWrap");

    for (name, plain) in [("empty", &b""[..]), ("short", b"XAES-256-GCM"), ("page", &[0x77; 512])] {
        let key = DatabaseKey::make().unwrap();
        let cipher = PageCipher::new(KeyId::make(), &key).unwrap();
        let mut sealed = vec![0; plain.len() + OVERHEAD];
        cipher.seal(b"the first page", &mut [0; 100]).unwrap();
        cipher.seal(plain, &mut sealed).unwrap();
        let vector = PageVector {
            key_id: cipher.key_id(),
            database_key: HEXLOWER.encode(key.expose()),
            plain: HEXLOWER.encode(plain),
            sealed: HEXLOWER.encode(&sealed),
        };
        written.pages.insert(format!("v1_{name}"), vector);
    }
    let json = serde_json::to_string_pretty(&written).unwrap();
    fs::write(folder().join("vectors.json"), json + "\n").unwrap();
}
