//! No spelling, no method and no tool makes a table that isn't encrypted under a key of the node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::{Build, Host, OPEN, Ready, TABLE, hits_in, marker, plaintext_hits, stored_key_id};
use crate::key_agent::KeyAgent;
use crate::on_every_build;

on_every_build!(
    no_spelling_of_a_users_wish_wins,
    no_kind_of_object_is_in_clear,
    a_bloom_filter_cannot_be_in_clear,
    a_file_in_clear_cannot_be_imported,
    a_table_cannot_be_altered_into_the_clear,
    databases_with_odd_names_have_keys_of_their_own,
    the_history_of_old_versions_is_encrypted,
    wiredtigers_own_tool_encrypts_and_reads,
    the_engines_own_settings_do_not_take_the_encryptor_away,
);

const ROWS: u64 = 400;

fn markers(seed: u64) -> impl Iterator<Item = [u8; 16]> {
    (1..=ROWS).map(move |key| marker(seed, key))
}

/// Everything that WiredTiger reads as one configuration, with the wish in it somewhere: what is accepted is overridden.
fn no_spelling_of_a_users_wish_wins(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    let system = agent.system_key_id().to_string();
    let mut accepted = 0;
    for (number, wish) in [
        "encryption=(name=none)",
        "encryption=(name=\"none\")",
        "encryption:(name:none)",
        "encryption=[name=none]",
        "encryption={name=none}",
        "\"encryption\"=(\"name\"=none)",
        "encryption = ( name = none , keyid = \"\" )",
        "encryption.name=none",
        "\"encryption.name\"=none",
        "Encryption=(name=none)",
        "ENCRYPTION=(NAME=none)",
        "encryption=(name=None)",
        "encryption=(name=keyward),encryption=(name=none)",
        "encryption=(name=none),encryption=(keyid=\"\")",
        "encryption=(name=none),encryption=()",
        "encryption=()",
        "encryption=",
        "encryption",
        "encryption=(name=)",
        "encryption=((name=none))",
        "encryption=(name=(none))",
        "encryption=(name=none,name=none)",
        "app_metadata=(encryption=(name=none))",
        "source=\"file:alpha/elsewhere.wt\",encryption=(name=none)",
        "columns=(a,b),colgroups=(),encryption=(name=none)",
        "type=file,encryption=(name=none)",
        "encryption=(name=none),",
        ",,encryption=(name=none),,",
        "(encryption=(name=none))",
    ]
    .into_iter()
    .enumerate()
    {
        for (table, own) in [("alpha/t", true), ("t", false)] {
            let table = format!("{table}{number}");
            if host.ask(&format!("create table:{table} {TABLE},{wish}")).is_err() {
                continue;
            }
            accepted += 1;
            host.must(&format!("put table:{table} 1 {ROWS} 8"));
            let elsewhere = wish.contains("elsewhere");
            let file = if elsewhere { "alpha/elsewhere.wt".to_owned() } else { format!("{table}.wt") };
            let id = stored_key_id(&host.must("metadata"), &file).unwrap_or_default();
            assert_eq!(id.len(), 32, "{table} {wish}");
            assert!(elsewhere || (id != system) == own, "{table} {wish}");
        }
    }
    assert!(accepted > 20, "{accepted}");
    // Column groups are files of their own.
    host.must("create table:alpha/groups key_format=Q,value_format=u,columns=(id,doc),colgroups=(main),encryption=(name=none)");
    host.must("create colgroup:alpha/groups:main columns=(doc),encryption=(name=none)");
    host.must(&format!("put table:alpha/groups 1 {ROWS} 8"));
    host.must("checkpoint");
    host.kill();
    assert_eq!(plaintext_hits(data_path, markers(8)), 0);
}

/// Whatever kind of object is made, by whatever URI: each file is under a key of the node, or inherits the node's own.
fn no_kind_of_object_is_in_clear(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    let mut made = Vec::new();
    for (uri, more) in [
        ("table:alpha/t", ""),
        ("table:t", ""),
        ("table:alpha/deep/er", ""),
        ("file:f.wt", ""),
        ("file:alpha/f.wt", ""),
        ("table:alpha/tree", ",type=lsm"),
        ("lsm:tree", ""),
        // Not `tiered:`: without a storage source WiredTiger itself crashes on one.
        ("table:alpha/tiered", ",tiered_storage=(name=none)"),
        ("backup:", ""),
        ("log:", ""),
        ("metadata:", ""),
        ("statistics:", ""),
        ("join:x", ""),
        ("colgroup:alpha/t", ""),
        ("index:alpha/t:i", ""),
        ("nonsense:x", ""),
        ("alpha/t5", ""),
        ("", ""),
    ] {
        if host.ask(&format!("create {uri} {TABLE}{more},encryption=(name=none)")).is_ok() {
            host.must(&format!("put {uri} 1 {ROWS} 9"));
            made.push(uri);
        }
    }
    assert!(["table:alpha/t", "table:t", "file:f.wt"].iter().all(|uri| made.contains(uri)), "{made:?}");
    host.must("checkpoint");
    for line in host.must("metadata") {
        for (at, _) in line.match_indices("encryption=") {
            let clause = line[at..].split(')').next().unwrap();
            assert!(!clause.contains("name=none"), "{line}");
        }
        if line.starts_with("file:") {
            let clause = line.rsplit_once("encryption=(").unwrap().1.split(')').next().unwrap();
            assert!(clause.contains("name=keyward") || clause.ends_with("name="), "{line}");
        }
    }
    for uri in &made {
        host.must(&format!("check {uri} 1 {ROWS} 9"));
    }
    host.kill();
    assert_eq!(plaintext_hits(data_path, markers(9)), 0);
}

/// The Bloom filters of an LSM tree are files with a configuration of their own, which nothing overrides.
fn a_bloom_filter_cannot_be_in_clear(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    for (number, wish) in [
        "lsm=(bloom_config=(encryption=(name=none)))",
        "lsm=(bloom_config=\"encryption=(name=none)\")",
        "lsm=(bloom_config=(\"encryption\"=(name=none)))",
        "lsm=(bloom_config=()),lsm=(bloom_config=(encryption=(name=none)))",
    ]
    .into_iter()
    .enumerate()
    {
        for uri in ["table:alpha/t", "lsm:t"] {
            host.must_not(&format!("create {uri}{number} {TABLE},type=lsm,{wish}"));
        }
    }
    host.must_say("its `lsm.bloom_config` has an encryption clause of its own");
    assert!(!host.must("metadata").iter().any(|line| line.contains("bloom_config=(encryption")));
    host.must(&format!("create table:alpha/plain {TABLE}"));
    assert!(host.finish().0.success());
}

/// A table in clear, made without the encryptor: its file and the metadata of that.
fn table_in_clear(ready: &Ready, directory: &Path) -> (PathBuf, String) {
    let mut host = ready.start(None);
    host.open(directory).unwrap();
    host.must(&format!("create table:alpha/t {TABLE}"));
    host.must(&format!("put table:alpha/t 1 {ROWS} 5"));
    host.must("checkpoint");
    let metadata = metadata_of(&mut host, "alpha/t.wt");
    assert!(host.finish().0.success());
    (directory.join("alpha/t.wt"), metadata)
}

fn metadata_of(host: &mut Host, file: &str) -> String {
    let start = format!("file:{file} ");
    let lines = host.must("metadata");
    lines.iter().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
}

/// WiredTiger takes an imported file's clause from its metadata, whatever else is said. What isn't ours stays out; what is
/// ours comes back.
fn a_file_in_clear_cannot_be_imported(ready: &Ready) {
    let (clear, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let data_path = directory.path();
    let (file, metadata) = table_in_clear(ready, clear.path());
    let none = metadata.replace("encryption=(keyid=,name=)", "encryption=(keyid=,name=none)");
    assert_ne!(none, metadata, "{metadata}");
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    host.must(&format!("create table:alpha/own {TABLE}"));
    host.must(&format!("put table:alpha/own 1 {ROWS} 6"));
    host.must("checkpoint");
    let own = metadata_of(&mut host, "alpha/own.wt");
    fs::copy(&file, data_path.join("alpha/t.wt")).unwrap();
    let own_clause =
        format!("encryption={}", own.split("encryption=").nth(1).unwrap().split(')').next().unwrap());
    for import in [
        format!("enabled=true,repair=false,file_metadata=({none})"),
        format!("enabled=true,file_metadata=({metadata})"),
        format!("enabled,file_metadata=({none})"),
        format!("file_metadata=({none}),enabled=1"),
        format!("enabled=true,repair=true,file_metadata=({none})"),
        format!("enabled=true,repair=true,file_metadata=({own})"),
        format!("enabled=true,file_metadata=({own_clause}),{none})"),
        "enabled=true,repair=true".to_owned(),
        "enabled=true,metadata_file=\"export\"".to_owned(),
        format!("enabled=true,metadata_file=\"export\",file_metadata=({own})"),
        "enabled=true".to_owned(),
    ] {
        host.must_not(&format!("create table:alpha/t {TABLE},import=({import})"));
        host.must_not(&format!("create file:alpha/t.wt {TABLE},import=({import})"));
    }
    assert_eq!(stored_key_id(&host.must("metadata"), "alpha/t.wt"), None);
    if ready.build == Build::V3_2_1 {
        // It imports nothing, whoever asks.
        return host.kill();
    }
    host.must_say("it imports a file that nothing says is encrypted under a key of this node");
    // A file of the node's own, as a table that was taken out and comes back.
    let kept = data_path.join("kept");
    fs::copy(data_path.join("alpha/own.wt"), &kept).unwrap();
    host.must("drop table:alpha/own");
    fs::rename(&kept, data_path.join("alpha/own.wt")).unwrap();
    host.must(&format!(
        "create table:alpha/own {TABLE},import=(enabled=true,repair=false,file_metadata=({own}))"
    ));
    host.must(&format!("check table:alpha/own 1 {ROWS} 6"));
    host.must(&format!("put table:alpha/own {} {ROWS} 6", ROWS + 1));
    host.must("checkpoint");
    // What isn't enabled isn't an import.
    host.must(&format!("create table:alpha/new {TABLE},import=(enabled=false,file_metadata=({none}))"));
    host.must(&format!("put table:alpha/new 1 {ROWS} 6"));
    host.must("checkpoint");
    host.kill();
    fs::remove_file(data_path.join("alpha/t.wt")).unwrap();
    assert_eq!(plaintext_hits(data_path, (1..=2 * ROWS).map(|key| marker(6, key))), 0);
}

fn a_table_cannot_be_altered_into_the_clear(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    host.must(&format!("create table:alpha/t {TABLE}"));
    host.must(&format!("put table:alpha/t 1 {} 1", ROWS / 2));
    host.must("checkpoint");
    let before = stored_key_id(&host.must("metadata"), "alpha/t.wt").unwrap();
    for wish in
        ["encryption=(name=none)", "app_metadata=x,encryption=(name=none)", "\"encryption\"=(name=none)"]
    {
        host.must_not(&format!("alter table:alpha/t {wish}"));
        host.must_not(&format!("alter file:alpha/t.wt {wish}"));
    }
    host.must(&format!("put table:alpha/t {} {} 1", ROWS / 2 + 1, ROWS / 2));
    host.must("checkpoint");
    assert_eq!(stored_key_id(&host.must("metadata"), "alpha/t.wt"), Some(before));
    host.must(&format!("check table:alpha/t 1 {ROWS} 1"));
    host.kill();
    assert_eq!(plaintext_hits(data_path, markers(1)), 0);
}

fn databases_with_odd_names_have_keys_of_their_own(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    let system = agent.system_key_id().to_string();
    let mut keys = std::collections::HashMap::new();
    // As mongod escapes them, the longest a directory may have, and what it never makes.
    let (escaped, long) = (".046".repeat(63), "x".repeat(255));
    for name in [
        "my.32db", &escaped, &long, "ALPHA", "alpha", "a-b_c", "..x", "a=b", "a,b", "(a)", "\"a\"", "ä",
        "%41",
    ] {
        if host.ask(&format!("create table:{name}/t {TABLE}")).is_err() {
            continue;
        }
        // WiredTiger makes a table of some names that it can't open afterwards.
        if host.ask(&format!("put table:{name}/t 1 50 3")).is_err() {
            continue;
        }
        if let Some(id) = stored_key_id(&host.must("metadata"), &format!("{name}/t.wt")) {
            assert!(id.len() == 32 && id != system, "{name}");
            assert_eq!(keys.insert(id, name.to_owned()), None, "{name} has another's key");
        }
    }
    for name in ["my.32db", &escaped, &long, "ALPHA", "alpha"] {
        assert!(keys.values().any(|known| known == name), "{name}: {keys:?}");
    }
    host.must("checkpoint");
    host.kill();
    assert_eq!(plaintext_hits(data_path, (1..=50).map(|key| marker(3, key))), 0);
    agent.fold();
    let known = agent.databases();
    for (id, name) in keys {
        assert!(known.iter().any(|(database, key)| *database == name && key.to_string() == id), "{name}");
    }
    let mut host = ready.open(&agent, data_path);
    host.must(&format!("check table:{long}/t 1 50 3"));
    assert!(host.finish().0.success());
}

fn history_file(data_path: &Path) -> Vec<PathBuf> {
    let files = ["WiredTigerHS.wt", "WiredTigerLAS.wt"].map(|name| data_path.join(name));
    files.into_iter().filter(|file| file.exists()).collect()
}

/// Old versions, which a reader still needs, lie in a file of WiredTiger's own, beside those of all databases.
fn the_history_of_old_versions_is_encrypted(ready: &Ready) {
    let fill = |host: &mut Host| {
        host.must(&format!("create table:alpha/t {TABLE}"));
        host.must(&format!("put table:alpha/t 1 {ROWS} 1"));
        host.must("checkpoint");
        host.must(&format!("history table:alpha/t {ROWS} 1 2"));
    };
    let both = || markers(1).chain(markers(2));
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    fill(&mut host);
    let written =
        history_file(directory.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
    assert_eq!(plaintext_hits(directory.path(), both()), 0);
    host.kill();
    assert_eq!(plaintext_hits(directory.path(), both()), 0);
    // The control: without the encryptor the old versions are in that very file.
    let clear = tempfile::tempdir().unwrap();
    let mut host = ready.start(None);
    host.open(clear.path()).unwrap();
    fill(&mut host);
    host.kill();
    assert!(plaintext_hits(clear.path(), both()) as u64 >= 2 * ROWS);
    if ready.build != Build::V3_2_1 {
        assert!(written > ROWS * 256, "{written} bytes of history");
        assert!(hits_in(&history_file(clear.path()), markers(1)) as u64 >= ROWS);
    }
}

/// `wt` under the same environment: what it makes is encrypted, what it reads is there; without, it opens nothing.
fn wiredtigers_own_tool_encrypts_and_reads(ready: &Ready) {
    let tool = match ready.build {
        Build::V11_3_1 => keyward_testkit::wiredtiger::v11_3_1().unwrap().wt,
        Build::V3_2_1 => keyward_testkit::wiredtiger::v3_2_1().unwrap().wt,
        Build::SecantusDb => None,
    };
    let Some(tool) = tool else { keyward_testkit::skip!("this build has no wt") };
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    host.must(&format!("create table:alpha/t {TABLE}"));
    host.must(&format!("put table:alpha/t 1 {ROWS} 1"));
    assert!(host.finish().0.success());
    let config = ready.config(&agent, true);
    let run = |config: Option<&str>, args: &[&str]| {
        let mut command = Command::new(&tool);
        command.env_remove("WIREDTIGER_CONFIG").arg("-h").arg(directory.path()).args(args);
        if let Some(config) = config {
            command.env("WIREDTIGER_CONFIG", config);
        }
        command.output().unwrap()
    };
    let text = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for args in [&["verify", "table:alpha/t"][..], &["salvage", "table:alpha/t"], &["list"]] {
        let output = run(Some(&config), args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
    }
    let made =
        run(Some(&config), &["create", "-c", &format!("{TABLE},encryption=(name=none)"), "table:alpha/bare"]);
    assert!(made.status.success(), "{}", text(&made));
    let dumped = run(Some(&config), &["dump", "-x", "table:alpha/t"]);
    let first: String = marker(1, 1).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(String::from_utf8_lossy(&dumped.stdout).contains(&first), "{}", text(&dumped));
    let without = run(None, &["dump", "-x", "table:alpha/t"]);
    assert!(!without.status.success() && !String::from_utf8_lossy(&without.stdout).contains(&first));
    let mut host = ready.open(&agent, directory.path());
    let metadata = host.must("metadata");
    let key = stored_key_id(&metadata, "alpha/bare.wt").unwrap();
    assert_eq!(Some(key), stored_key_id(&metadata, "alpha/t.wt"));
    host.must(&format!("check table:alpha/t 1 {ROWS} 1"));
    assert!(host.finish().0.success());
    assert_eq!(plaintext_hits(directory.path(), markers(1)), 0);
}

/// What an operator gives mongod as `--wiredTigerEngineConfigString`, or puts beside the data, is read before the environment.
fn the_engines_own_settings_do_not_take_the_encryptor_away(ready: &Ready) {
    let fill = |host: &mut Host, directory: &Path| {
        host.must(&format!("create table:alpha/t {TABLE}"));
        host.must(&format!("put table:alpha/t 1 {ROWS} 4"));
        host.must("checkpoint");
        plaintext_hits(directory, markers(4))
    };
    let mut opened = 0;
    for (setting, in_a_file) in [
        ("encryption=(name=none)", false),
        ("encryption=(name=,keyid=)", false),
        ("encryption=()", false),
        ("extensions=[]", false),
        ("extensions=(),encryption=(name=none)", false),
        ("encryption=(name=none),extensions=[]", true),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let agent = KeyAgent::new(directory.path());
        let mut host = ready.start(Some(&ready.config(&agent, true)));
        let open = if in_a_file {
            fs::write(directory.path().join("WiredTiger.config"), setting).unwrap();
            OPEN.to_owned()
        } else {
            format!("{OPEN},{setting}")
        };
        // What WiredTiger refuses is as good.
        if host.open_with(directory.path(), &open).is_ok() {
            opened += 1;
            assert_eq!(fill(&mut host, directory.path()), 0, "{setting}");
            assert!(!agent.hellos().is_empty());
        }
        host.kill();
        assert_eq!(plaintext_hits(directory.path(), markers(4)), 0, "{setting}");
    }
    assert!(opened >= 3, "{opened}");
    // The control, and why the agent refuses this one setting.
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.start(Some(&ready.config(&agent, true)));
    host.open_with(directory.path(), &format!("{OPEN},use_environment=false")).unwrap();
    assert!(fill(&mut host, directory.path()) as u64 >= ROWS);
    assert!(agent.hellos().is_empty());
    host.kill();
}
