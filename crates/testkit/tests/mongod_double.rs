//! The double of mongod does what tests of keyward take for granted of a mongod.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use keyward_testkit::Alone;
use keyward_testkit::mongod_double::{MongodDouble, free_port, program};
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::{Client, Database};

const LIMIT: Duration = Duration::from_secs(60);
const SET: &str = "rs";

async fn connect(uri: &str) -> Client {
    Client::with_uri_str(uri).await.unwrap()
}

/// One member or a mongod by itself, whoever is primary.
async fn direct(port: u16) -> Client {
    connect(&format!("mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=20000"))
        .await
}

/// The code of a refusal.
fn code<T: std::fmt::Debug>(outcome: mongodb::error::Result<T>) -> i32 {
    let error = outcome.unwrap_err();
    let ErrorKind::Command(refusal) = &*error.kind else { panic!("no refusal: {error:?}") };
    refusal.code
}

async fn admin(client: &Client, command: Document) -> mongodb::error::Result<Document> {
    client.database("admin").run_command(command).await
}

async fn until(what: &str, mut wanted: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !wanted().await {
        assert!(Instant::now() < deadline, "never {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn documents(from: i32, to: i32) -> impl Iterator<Item = Document> {
    (from..to).map(|n| doc! { "_id": n, "group": n % 3, "text": format!("PLAINTEXT-{n}") })
}

async fn count(database: &Database) -> u64 {
    database.collection::<Document>("c").count_documents(doc! {}).await.unwrap()
}

/// Whether any file below `folder` holds `needle`.
fn holds(folder: &Path, needle: &str) -> bool {
    let found = Command::new("grep").args(["-rqaF", needle]).arg(folder).status().unwrap();
    match found.code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!("grep ended with {other:?}"),
    }
}

#[test]
fn it_says_what_it_is_and_refuses_what_mongod_would() {
    let run = |arguments: &[&str]| Command::new(program().unwrap()).args(arguments).output().unwrap();
    let version = run(&["--version"]);
    let text = String::from_utf8(version.stdout).unwrap();
    assert!(text.starts_with("db version v7.0.0-double\nBuild Info: {"), "{text}");
    for wrong in [
        &["--dbpaht", "/x"][..],
        &["--setParameter", "noSuchParameter=1"],
        &["--port", "1", "--port", "2"],
        &["--fork"],
        &["--dbpath"],
    ] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(run(&["--dbpath", "/nonexistent"]).status.code(), Some(100));
}

#[tokio::test]
async fn one_by_itself_keeps_its_documents_over_any_end() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("db");
    fs::create_dir(&data).unwrap();
    let port = free_port().unwrap();
    let start = || MongodDouble::start(&data, port, &[], &[]).unwrap();
    let mongod = start();
    let client = direct(port).await;
    let db = client.database("shop");
    let collection = db.collection::<Document>("c");
    collection.insert_many(documents(0, 300)).await.unwrap();
    let in_order = collection.find(doc! { "group": 1, "_id": { "$gte": 100 } }).sort(doc! { "_id": -1 });
    let found: Vec<Document> =
        in_order.projection(doc! { "group": 1 }).await.unwrap().try_collect().await.unwrap();
    assert_eq!((found.len(), &found[0]), (67, &doc! { "_id": 298, "group": 1 }));
    let everything: Vec<Document> =
        collection.find(doc! {}).batch_size(7).await.unwrap().try_collect().await.unwrap();
    assert_eq!(everything, documents(0, 300).collect::<Vec<_>>(), "unchanged, over many batches");
    let updated = collection.update_many(doc! { "group": 2 }, doc! { "$inc": { "times": 1 } }).await.unwrap();
    assert_eq!((updated.matched_count, updated.modified_count), (100, 100));
    assert_eq!(collection.delete_many(doc! { "group": 0 }).await.unwrap().deleted_count, 100);
    let double = collection.insert_one(doc! { "_id": 1_i64 }).await.unwrap_err();
    assert!(double.to_string().contains("E11000"), "{double}");
    let index = mongodb::IndexModel::builder().keys(doc! { "text": 1 }).build();
    collection.create_index(index).await.unwrap();
    let stats = db.run_command(doc! { "collStats": "c" }).await.unwrap();
    assert_eq!(stats.get_i32("nindexes").unwrap(), 2);
    let made = stats.get_document("wiredTiger").unwrap().get_str("creationString").unwrap();
    assert!(made.contains("key_format=q") && made.contains("log=(enabled=true)"), "{made}");
    assert_eq!(code(db.run_command(doc! { "mapReduce": "c" }).await), 59, "it refuses what it does not know");

    // Acknowledged with `j`, it is there after a kill.
    let journalled =
        doc! { "insert": "c", "documents": [{ "_id": 1000 }], "writeConcern": { "w": 1, "j": true } };
    db.run_command(journalled).await.unwrap();
    mongod.kill().unwrap();
    let mongod = start();
    assert!(mongod.log().contains("Detected unclean shutdown"));
    assert_eq!(count(&db).await, 201);
    assert_eq!(db.list_collection_names().await.unwrap(), ["c"]);

    // Locked, a write waits; it is done as soon as the lock ends.
    assert_eq!(code(admin(&client, doc! { "fsyncUnlock": 1 }).await), 20);
    admin(&client, doc! { "fsync": 1, "lock": true }).await.unwrap();
    let now = admin(&client, doc! { "currentOp": 1 }).await.unwrap();
    assert!(now.get_bool("fsyncLock").unwrap());
    let writing = tokio::spawn({
        let collection = collection.clone();
        async move { collection.insert_one(doc! { "_id": 2000 }).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!writing.is_finished());
    assert_eq!(count(&db).await, 201, "a reader is let in");
    admin(&client, doc! { "fsyncUnlock": 1 }).await.unwrap();
    writing.await.unwrap().unwrap();

    // A clean end.
    assert!(mongod.terminate().unwrap().success());
    assert_eq!(fs::read(data.join("mongod.lock")).unwrap(), b"");
    assert!(holds(&data, "PLAINTEXT-1"), "without an encryptor it is readable, which other tests rely on");
    let mongod = start();
    assert_eq!(count(&db).await, 202);
    db.drop().await.unwrap();
    assert_eq!(fs::read_dir(data.join("shop")).unwrap().count(), 0, "its files are gone");

    // Its own command ends it, too.
    let _ = admin(&client, doc! { "shutdown": 1 }).await;
    assert!(mongod.wait().unwrap().success());
}

/// Members of a replica set, each in a folder of its own.
struct Set {
    dir: tempfile::TempDir,
    ports: [u16; 3],
    running: Vec<Option<MongodDouble>>,
}

impl Set {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = [(); 3].map(|()| free_port().unwrap());
        let mut set = Self { dir, ports, running: vec![None, None, None] };
        for member in 0..3 {
            set.begin(member);
        }
        let first = direct(ports[0]).await;
        assert_eq!(code(admin(&first, doc! { "replSetGetStatus": 1 }).await), 94);
        let members: Vec<Document> = (0..3)
            .map(|n| doc! { "_id": n, "host": format!("127.0.0.1:{}", ports[usize::try_from(n).unwrap()]) })
            .collect();
        let config = doc! { "_id": SET, "members": members };
        admin(&first, doc! { "replSetInitiate": config.clone() }).await.unwrap();
        assert_eq!(code(admin(&first, doc! { "replSetInitiate": config }).await), 23);
        set
    }

    fn data(&self, member: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("m{member}"))
    }

    fn begin(&mut self, member: usize) {
        let data = self.data(member);
        fs::create_dir_all(&data).unwrap();
        let started = MongodDouble::start(&data, self.ports[member], &["--replSet", SET], &[]).unwrap();
        self.running[member] = Some(started);
    }

    async fn client(&self) -> Client {
        let hosts = self.ports.map(|port| format!("127.0.0.1:{port}")).join(",");
        connect(&format!("mongodb://{hosts}/?replicaSet={SET}&serverSelectionTimeoutMS=30000")).await
    }

    /// What each member that runs says of itself.
    async fn states(&self) -> Vec<Option<String>> {
        let mut states = Vec::new();
        for (member, port) in self.ports.iter().enumerate() {
            if self.running[member].is_none() {
                states.push(None);
                continue;
            }
            // A member that the configuration has not reached yet refuses.
            let asked = admin(&direct(*port).await, doc! { "replSetGetStatus": 1 }).await;
            let Ok(status) = asked else {
                states.push(None);
                continue;
            };
            let members = status.get_array("members").unwrap().iter().filter_map(Bson::as_document);
            let own =
                members.filter(|m| m.contains_key("self")).map(|m| m.get_str("stateStr").unwrap().to_owned());
            states.extend(own.map(Some));
        }
        states
    }

    /// Waits for one primary and `secondaries`; gives the primary.
    async fn settled(&self, secondaries: usize) -> usize {
        let mut primary = 0;
        until("a primary and its secondaries", async || {
            let states = self.states().await;
            let of = |name: &str| states.iter().flatten().filter(|state| *state == name).count();
            primary = states.iter().position(|state| state.as_deref() == Some("PRIMARY")).unwrap_or_default();
            of("PRIMARY") == 1 && of("SECONDARY") == secondaries
        })
        .await;
        primary
    }

    /// Waits until a member has exactly as many documents as `expected`, asked of itself.
    async fn has(&self, member: usize, expected: u64) {
        let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true", self.ports[member]);
        let client = connect(&uri).await;
        until("copied", async || {
            let found = client.database("shop").collection::<Document>("c").count_documents(doc! {}).await;
            found.is_ok_and(|n| n == expected)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_hands_over_heals_and_fills_an_emptied_member() {
    let _alone = Alone::wait().unwrap();
    let mut set = Set::start().await;
    let primary = set.settled(2).await;
    let client = set.client().await;
    let collection = client.database("shop").collection::<Document>("c");
    collection.insert_many(documents(0, 100)).await.unwrap();
    for member in 0..3 {
        set.has(member, 100).await;
    }

    // Only the primary writes, and a secondary is not read by accident.
    let secondary = (primary + 1) % 3;
    let other = direct(set.ports[secondary]).await;
    let write = doc! { "insert": "c", "documents": [{ "_id": -1 }] };
    assert_eq!(code(other.database("shop").run_command(write).await), 10107);
    assert_eq!(code(admin(&other, doc! { "replSetStepDown": 20 }).await), 10107);

    // A step-down under a client that writes: it notices nothing, and another one is primary.
    let writing = tokio::spawn({
        let collection = collection.clone();
        async move {
            for n in 100..300 {
                collection.insert_one(doc! { "_id": n }).await?;
            }
            mongodb::error::Result::Ok(())
        }
    });
    let hand_over = doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 10 };
    admin(&direct(set.ports[primary]).await, hand_over.clone()).await.unwrap();
    let next = set.settled(2).await;
    assert_ne!(next, primary);
    writing.await.unwrap().unwrap();
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 300);

    // A member that lost everything fills itself again: documents, indexes, and what is written meanwhile.
    let index = mongodb::IndexModel::builder().keys(doc! { "text": 1 }).build();
    collection.create_index(index).await.unwrap();
    let emptied = (next + 1) % 3;
    assert!(set.running[emptied].take().unwrap().terminate().unwrap().success());
    fs::remove_dir_all(set.data(emptied)).unwrap();
    set.begin(emptied);
    collection.insert_many(documents(300, 400)).await.unwrap();
    set.settled(2).await;
    set.has(emptied, 400).await;
    assert!(set.running[emptied].as_ref().unwrap().log().contains("Initial sync done"));
    let filled = direct(set.ports[emptied]).await.database("shop");
    let stats = filled.run_command(doc! { "collStats": "c" }).await.unwrap();
    assert_eq!(stats.get_i32("nindexes").unwrap(), 2);

    // A primary that is killed is replaced; what a majority had acknowledged is there, on it too when it is back.
    let primary = set.settled(2).await;
    set.running[primary].take().unwrap().kill().unwrap();
    collection.insert_one(doc! { "_id": 400 }).await.unwrap();
    assert_ne!(set.settled(1).await, primary);
    // Two of three: nobody could take over and a majority still follow.
    set.begin(primary);
    let now = set.settled(2).await;
    set.has(primary, 401).await;

    // Without an electable secondary the primary stays.
    for member in (0..3).filter(|member| *member != now) {
        admin(&direct(set.ports[member]).await, doc! { "replSetGetConfig": 1 }).await.unwrap();
    }
    let client = direct(set.ports[now]).await;
    let config = admin(&client, doc! { "replSetGetConfig": 1 }).await.unwrap();
    let mut config = config.get_document("config").unwrap().clone();
    config.insert("version", config.get_i32("version").unwrap() + 1);
    for (n, member) in config.get_array_mut("members").unwrap().iter_mut().enumerate() {
        let priority = if n == now { 1.0 } else { 0.0 };
        member.as_document_mut().unwrap().insert("priority", priority);
    }
    admin(&client, doc! { "replSetReconfig": config }).await.unwrap();
    let refused = doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 1 };
    assert_eq!(code(admin(&client, refused).await), 262);

    // A clean end of all three.
    for mongod in set.running.into_iter().flatten() {
        assert!(mongod.terminate().unwrap().success());
    }
}

#[tokio::test]
async fn with_access_control_only_privileges_open_doors() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("db");
    fs::create_dir(&data).unwrap();
    let port = free_port().unwrap();
    let mongod = MongodDouble::start(&data, port, &["--auth"], &[]).unwrap();
    let nobody = direct(port).await;
    assert_eq!(code(nobody.database("shop").run_command(doc! { "find": "c" }).await), 13);
    // Who is first, from this host, makes the first user.
    let root = doc! { "createUser": "root", "pwd": "first", "roles": ["root"] };
    admin(&nobody, root.clone()).await.unwrap();
    assert_eq!(code(admin(&nobody, root).await), 13);
    admin(&nobody, doc! { "buildInfo": 1 }).await.unwrap();
    let logged_in = async |user: &str, password: &str| {
        connect(&format!(
            "mongodb://{user}:{password}@127.0.0.1:{port}/?directConnection=true&authSource=admin"
        ))
        .await
    };
    let root = logged_in("root", "first").await;
    let privileges = [
        doc! { "resource": { "cluster": true }, "actions": ["fsync"] },
        doc! { "resource": { "db": "shop", "collection": "" }, "actions": ["insert"] },
    ];
    admin(&root, doc! { "createRole": "few", "privileges": privileges, "roles": [] }).await.unwrap();
    admin(&root, doc! { "createUser": "clerk", "pwd": "p,=", "roles": ["few"] }).await.unwrap();
    let clerk = logged_in("clerk", "p%2C%3D").await;
    admin(&clerk, doc! { "fsync": 1 }).await.unwrap();
    assert_eq!(code(admin(&clerk, doc! { "fsyncUnlock": 1 }).await), 13);
    clerk.database("shop").collection::<Document>("c").insert_one(doc! { "_id": 1 }).await.unwrap();
    assert_eq!(code(clerk.database("shop").run_command(doc! { "find": "c" }).await), 13);
    assert_eq!(code(clerk.database("bank").run_command(doc! { "insert": "c", "documents": [{}] }).await), 13);
    let wrong = admin(&logged_in("clerk", "guess").await, doc! { "fsync": 1 }).await.unwrap_err();
    assert!(matches!(*wrong.kind, ErrorKind::Authentication { .. }), "{wrong}");
    drop(mongod);
}
