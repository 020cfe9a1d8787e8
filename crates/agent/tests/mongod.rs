//! A node on a mongod: on the one that `KEYWARD_MONGOD` names, else on the double of one, which shows what the agent
//! does and nothing about mongod.

mod object_store_double;
mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use keyward_agent::{
    admin::Request,
    config::Config,
    prove::{Proof, ProofVerdict},
    snapshot::{Method, Restored, Taken},
};
use keyward_model::NodeState;
use keyward_testkit::{mongod_double, reflinks::Reflinks};
use mongodb::{
    Client,
    bson::{Document, doc},
    error::ErrorKind,
};
use object_store_double::s3::S3Double;
use support::{
    Agent, AgentProcess, LONG, World, agent_main, connect, count, database, failure_of, free_port, insert,
    until, until_state,
};
use tokio::task::JoinHandle;
use url::Url;

/// The program under test.
fn program() -> Result<PathBuf> {
    match std::env::var_os("KEYWARD_MONGOD").filter(|name| !name.is_empty()) {
        Some(named) => {
            eprintln!("on {}, which KEYWARD_MONGOD names", named.display());
            Ok(named.into())
        }
        None => {
            eprintln!("on the double of mongod: KEYWARD_MONGOD names none");
            mongod_double::program()
        }
    }
}

/// What a node's file says beside its vault and its folders.
struct Wanted<'a> {
    name: &'a str,
    port: u16,
    initial: &'a str,
    args: &'a str,
    /// More lines of `[engine]`.
    engine: &'a str,
    /// More sections.
    more: &'a str,
}

impl<'a> Wanted<'a> {
    fn node(name: &'a str, port: u16) -> Self {
        Self { name, port, initial: "new", args: "", engine: "", more: "" }
    }

    /// Writes the file; gives it and what it says.
    fn write(&self, world: &World) -> Result<(PathBuf, Config)> {
        let Self { name, port, initial, args, engine, more } = self;
        let text = world.config_text(name, *port)?;
        let python = keyward_testkit::python::secantusdb()?;
        let text = text
            .replace("kind = \"secantusdb\"", &format!("kind = \"mongod\"\n{engine}"))
            .replace("args = [\"--sync-on-commit\"]", &format!("args = [{args}]"))
            .replace(
                &format!("program = \"{}\"", python.display()),
                &format!("program = \"{}\"", program()?.display()),
            )
            .replacen(
                "spare_database_keys = 8",
                &format!("spare_database_keys = 8\ninitial = \"{initial}\""),
                1,
            );
        let path = world.path(&format!("{name}.toml"));
        fs::create_dir_all(world.path(name))?;
        fs::write(&path, format!("{text}\n{more}"))?;
        let config = Config::load(&path)?;
        Ok((path, config))
    }
}

async fn run<T: serde::de::DeserializeOwned>(agent: &Agent, request: Request) -> Result<T> {
    Ok(serde_json::from_value(agent.client.run(&request, |_| {}).await?)?)
}

async fn admin(client: &Client, command: Document) -> mongodb::error::Result<Document> {
    client.database("admin").run_command(command).await
}

async fn is_locked(client: &Client) -> Result<bool> {
    Ok(admin(client, doc! { "currentOp": 1 }).await?.get_bool("fsyncLock").unwrap_or(false))
}

/// A node that is restored from `place`; its documents are then those of the snapshot.
async fn restored(world: &World, name: &str, from: Url, more: &str) -> Result<(Agent, u16)> {
    let port = free_port()?;
    let wanted = Wanted { initial: "restore", more, ..Wanted::node(name, port) };
    let agent = Agent::start(wanted.write(world)?.1).await?;
    until_state(&agent.client, NodeState::Stopped).await?;
    let _: Restored = run(&agent, Request::Restore { from }).await?;
    until_state(&agent.client, NodeState::Running).await?;
    Ok((agent, port))
}

fn url_of(path: &Path) -> Url {
    Url::from_file_path(path).expect("an absolute path")
}

/// A file system with reflinks; `None`, and a word about it, where none can be mounted.
fn reflinks() -> Result<Option<Reflinks>> {
    Ok(match Reflinks::mount()? {
        Ok(reflinks) => Some(reflinks),
        Err(reason) => {
            keyward_testkit::report_skip(&reason);
            None
        }
    })
}

#[test]
#[ignore = "started by other tests"]
fn agent_process() {
    agent_main();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mongod_has_a_key_per_database_and_restores_from_a_snapshot() -> Result<()> {
    let world = World::new().await?;
    let agent = Agent::start(Wanted::node("n", world.port).write(&world)?.1).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let db = database(world.port).await?;
    for name in ["alpha", "beta", "gamma"] {
        insert(&db, name, 0..500).await?;
    }
    let status = until(&agent.client, "three databases known", |s| {
        ["alpha", "beta", "gamma"].iter().all(|name| s.database_keys.iter().any(|k| k.database == *name))
    })
    .await?;
    let mut ids = std::collections::BTreeSet::new();
    for name in ["alpha", "beta", "gamma"] {
        let id = &status.database_keys.iter().find(|k| k.database == name).context("a key")?.id;
        let stats: Document = db.database(name).run_command(doc! { "collStats": "c" }).await?;
        let made = stats.get_document("wiredTiger")?.get_str("creationString")?;
        assert!(made.contains(&format!("keyid=\"{id}\"")) && made.contains("name=keyward"), "{made}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 3, "each has a key of its own");
    let proof: Proof = run(&agent, Request::Prove).await?;
    assert_eq!(proof.verdict, ProofVerdict::NoPlaintext, "{}", proof.reason);
    assert!(proof.creation_string.context("it asked for it")?.contains("name=keyward"));
    // A search of the test's own: nothing that the client wrote is anywhere in the data path.
    assert_eq!(files_with(&world.path("n/db"), b"PLAINTEXT-")?, Vec::<PathBuf>::new());

    let place = url_of(&world.path("snapshot"));
    let taken: Taken = run(&agent, Request::Snapshot { to: place.clone() }).await?;
    assert!(matches!(taken.method, Method::FsyncLockReflink | Method::StopCopyStart));
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "alpha", 500..510).await?;
    let (second, port) = restored(&world, "other", place, "").await?;
    assert_eq!(count(&database(port).await?, "alpha").await?, 500);
    second.stop_all().await?;
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mongod_that_is_killed_or_stopped_has_its_documents_again() -> Result<()> {
    let world = World::new().await?;
    let agent = Agent::start(Wanted::node("n", world.port).write(&world)?.1).await?;
    until_state(&agent.client, NodeState::Running).await?;
    for (round, expected) in (0..).zip([100, 200]) {
        insert(&database(world.port).await?, "shop", round * 100..(round + 1) * 100).await?;
        let pid = agent.client.status().await?.engine.context("an engine")?.pid;
        support::kill(i32::try_from(pid)?)?;
        until(&agent.client, "another process", |s| {
            s.state == NodeState::Running && s.engine.as_ref().is_some_and(|e| e.pid != pid)
        })
        .await?;
        assert_eq!(count(&database(world.port).await?, "shop").await?, expected);
    }
    agent.client.run(&Request::Stop, |_| {}).await?;
    assert_eq!(fs::read(world.path("n/db/mongod.lock"))?, b"", "a clean end");
    agent.client.run(&Request::Start, |_| {}).await?;
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 200);
    agent.stop_all().await
}

/// Without an encryptor the double's files are readable: what the searches here do not find, they could.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_search_finds_what_a_mongod_without_keyward_writes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("db");
    fs::create_dir(&data)?;
    let plain = mongod_double::MongodDouble::start(&data, free_port()?, &[], &[])?;
    insert(&database(plain.port).await?, "shop", 0..100).await?;
    admin(&database(plain.port).await?, doc! { "fsync": 1 }).await?;
    assert!(files_with(&data, b"PLAINTEXT-")?.iter().any(|file| file.starts_with(data.join("shop"))));
    Ok(())
}

/// Files below `folder` that hold `needle`.
fn files_with(folder: &Path, needle: &[u8]) -> Result<Vec<PathBuf>> {
    let search = aho_corasick::AhoCorasick::new([needle])?;
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry?;
        if entry.file_type().is_file() && search.is_match(&fs::read(entry.path())?) {
            found.push(entry.into_path());
        }
    }
    Ok(found)
}

/// Privileges of the agent's role as the guide writes them.
fn privileges_of_the_guide() -> Result<Vec<Document>> {
    let guide = keyward_testkit::project_root().join("docs/guides/mongod-user.md");
    let text = fs::read_to_string(&guide)?;
    let (_, after) = text.split_once("privileges: [").context("the guide makes a role")?;
    let (list, _) = after.split_once("\n  ],").context("the list ends")?;
    // mongosh takes names without quotes; JSON does not.
    let mut json = format!("[{}]", list.trim().trim_end_matches(','));
    for name in ["resource", "actions", "cluster", "collection", "db"] {
        json = json.replace(&format!("{name}: "), &format!("\"{name}\": "));
    }
    let parsed: Vec<serde_json::Value> = serde_json::from_str(&json).with_context(|| json.clone())?;
    parsed.iter().map(|value| Ok(mongodb::bson::serialize_to_document(value)?)).collect()
}

/// Makes the first user, and the agent's own as the guide says; gives a client that may do everything.
async fn make_users(port: u16) -> Result<Client> {
    let nobody = database(port).await?;
    admin(&nobody, doc! { "createUser": "root", "pwd": "root", "roles": ["root"] }).await?;
    let root = Client::with_uri_str(format!(
        "mongodb://root:root@127.0.0.1:{port}/?directConnection=true&authSource=admin&w=1&journal=true"
    ))
    .await?;
    let privileges = privileges_of_the_guide()?;
    admin(&root, doc! { "createRole": "keywardAgent", "privileges": privileges, "roles": [] }).await?;
    let user = doc! { "createUser": "keyward", "pwd": "agent's own", "roles": ["keywardAgent"] };
    admin(&root, user).await?;
    Ok(root)
}

/// Lines of `[engine]` that name the agent's user.
fn as_user(world: &World) -> Result<String> {
    let file = world.path("password");
    fs::write(&file, "agent's own\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(format!("database_user = \"keyward\"\ndatabase_password_file = \"{}\"", file.display()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_of_the_guide_is_enough_and_may_do_nothing_else() -> Result<()> {
    let world = World::new().await?;
    let engine = as_user(&world)?;
    let wanted = Wanted { args: "\"--auth\"", engine: &engine, ..Wanted::node("n", world.port) };
    let (_, config) = wanted.write(&world)?;
    let agent = Agent::start(config).await?;
    // Its user is not there yet: the node runs, and says what it lacks.
    until(&agent.client, "a warning about the engine", |s| {
        s.state == NodeState::Running && s.warnings.iter().any(|w| w.contains("the engine does not answer"))
    })
    .await?;
    let root = make_users(world.port).await?;
    let db = root.database("shop");
    db.collection("c").insert_many((0..100).map(|n| doc! { "_id": n, "secret": "PLAINTEXT-" })).await?;
    until(&agent.client, "content", |s| !s.warnings.iter().any(|w| w.contains("the engine"))).await?;
    let proof: Proof = run(&agent, Request::Prove).await?;
    assert_eq!(proof.verdict, ProofVerdict::NoPlaintext, "{}", proof.reason);

    // The same user reads nothing of what others wrote, and gives nobody a right.
    let own = Client::with_uri_str(format!(
        "mongodb://keyward:agent's%20own@127.0.0.1:{}/?directConnection=true&authSource=admin",
        world.port
    ))
    .await?;
    let refused =
        async |database: &str, command: Document| match own.database(database).run_command(command).await {
            Err(error) => matches!(&*error.kind, ErrorKind::Command(refusal) if refusal.code == 13),
            Ok(_) => false,
        };
    for (database, command) in [
        ("shop", doc! { "find": "c" }),
        ("shop", doc! { "insert": "c", "documents": [{ "_id": -1 }] }),
        ("keyward_proof", doc! { "find": "markers" }),
        ("admin", doc! { "find": "system.users" }),
        ("admin", doc! { "createUser": "x", "pwd": "x", "roles": ["root"] }),
    ] {
        assert!(refused(database, command.clone()).await, "{command}");
    }

    // Without any user a command is refused, and with a wrong password the proof is.
    let nobody = database(world.port).await?;
    let refusal = nobody.database("shop").run_command(doc! { "find": "c" }).await.unwrap_err();
    assert!(matches!(&*refusal.kind, ErrorKind::Command(error) if error.code == 13), "{refusal}");
    fs::write(world.path("password"), "another")?;
    agent.end().await?;
    let agent = Agent::start(wanted.write(&world)?.1).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let failure = failure_of(agent.client.run(&Request::Prove, |_| {}).await);
    assert_eq!(failure.code, "DATABASE_DID_NOT_ANSWER");
    assert!(failure.hint.contains("engine.database_password_file"), "{}", failure.hint);
    agent.stop_all().await
}

/// A client that writes one document after the other, until it is told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    /// Acknowledged documents: all below this number.
    acknowledged: Arc<AtomicI32>,
    task: JoinHandle<mongodb::error::Result<()>>,
}

impl Writer {
    fn start(client: Client) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
        let task = tokio::spawn({
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            async move {
                let ticks = client.database("live").collection("c");
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    ticks.insert_one(doc! { "_id": n, "secret": format!("PLAINTEXT-{n}") }).await?;
                    acknowledged.store(n + 1, Ordering::SeqCst);
                }
                Ok(())
            }
        });
        Self { stop, acknowledged, task }
    }

    fn acknowledged(&self) -> i32 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until `more` documents were acknowledged.
    async fn gets_on(&self, more: i32) {
        let (before, deadline) = (self.acknowledged(), Instant::now() + LONG);
        while self.acknowledged() < before + more {
            assert!(Instant::now() < deadline && !self.task.is_finished(), "writes stand still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many documents were written; no write failed.
    async fn stop(self) -> Result<i32> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await??;
        Ok(self.acknowledged.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_reflinks_writes_wait_for_the_copy_and_not_for_the_upload() -> Result<()> {
    let Some(reflinks) = reflinks()? else { return Ok(()) };
    let world = World::new_in(&reflinks.path()).await?;
    let s3 = S3Double::start().await?;
    let options = world.path("s3.toml");
    fs::write(&options, s3.options())?;
    let more = format!("[snapshots]\ncredentials_file = \"{}\"\n", options.display());
    let engine = as_user(&world)?;
    let wanted = Wanted { args: "\"--auth\"", engine: &engine, more: &more, ..Wanted::node("n", world.port) };
    let agent = Agent::start(wanted.write(&world)?.1).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let root = make_users(world.port).await?;
    insert(&root, "shop", 0..2000).await?;
    let writer = Writer::start(root.clone());
    writer.gets_on(20).await;

    // The upload begins and hangs; all that time the node serves.
    s3.budget().hang_after(0);
    let (before, begun) = (writer.acknowledged(), Instant::now());
    let request = Request::Snapshot { to: Url::parse("s3://backups/one")? };
    let staging = world.path("n/db/.keyward/snapshot");
    let snapshot = agent.client.run(&request, |_| {});
    let meanwhile = async {
        s3.budget().hanging().await;
        let until_upload = begun.elapsed();
        assert!(!is_locked(&root).await?, "the lock outlives the copy");
        assert!(!world.path("n/state/fsync-lock").exists());
        let at_upload = writer.acknowledged();
        writer.gets_on(20).await;
        // What waits for the upload takes no space of its own.
        let copies = files_below(&staging)?;
        assert!(copies.iter().any(|copy| copy.starts_with(staging.join("shop"))), "{copies:?}");
        let large =
            copies.iter().max_by_key(|copy| copy.metadata().map_or(0, |m| m.len())).context("a copy")?;
        match reflinks.is_shared(large) {
            Some(shared) => assert!(shared, "{} is a copy byte by byte", large.display()),
            None => keyward_testkit::report_skip("filefrag does not say which blocks are shared"),
        }
        eprintln!("{} files copied {until_upload:?} after the request", copies.len());
        s3.budget().go_on();
        Ok::<_, anyhow::Error>(at_upload)
    };
    let (taken, at_upload) = tokio::join!(snapshot, meanwhile);
    let (taken, at_upload): (Taken, _) = (serde_json::from_value(taken?)?, at_upload?);
    assert_eq!(taken.method, Method::FsyncLockReflink);
    assert!(!staging.exists(), "the copies stay");
    assert_eq!(world.path("n/db").read_dir()?.flatten().filter(|e| is_left_over(&e.path())).count(), 0);
    let written = writer.stop().await?;
    assert!(written > at_upload);

    // A user that may lock and not unlock gets no lock: nobody could end it.
    let half = [doc! { "resource": { "cluster": true }, "actions": ["fsync"] }];
    admin(&root, doc! { "createRole": "half", "privileges": half, "roles": [] }).await?;
    admin(&root, doc! { "createUser": "half", "pwd": "agent's own", "roles": ["half"] }).await?;
    agent.end().await?;
    let engine = engine.replace("\"keyward\"", "\"half\"");
    let agent = Agent::start(Wanted { engine: &engine, ..wanted }.write(&world)?.1).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let taken: Taken = run(&agent, Request::Snapshot { to: Url::parse("s3://backups/two")? }).await?;
    assert_eq!(taken.method, Method::StopCopyStart);
    until_state(&agent.client, NodeState::Running).await?;
    assert!(!is_locked(&root).await?);
    agent.stop_all().await?;

    // Every document that was acknowledged before is in it, none is missing between, and it ends before the upload.
    let (second, port) = restored(&world, "other", Url::parse("s3://backups/one")?, &more).await?;
    let db = database(port).await?;
    assert_eq!(count(&db, "shop").await?, 2000);
    let live = i32::try_from(count(&db, "live").await?)?;
    // The write that waited for the lock's end may have been acknowledged by then, and the next one be on its way.
    assert!((before..=at_upload + 1).contains(&live), "{before} ≤ {live} ≤ {at_upload}");
    let last = db.database("live").collection::<Document>("c").find_one(doc! { "_id": live - 1 }).await?;
    assert!(last.is_some(), "documents are missing in the middle");
    second.stop_all().await
}

/// The operator put the journal on another disk, as mongod's manual has it: no reflink leads from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_on_another_disk_is_in_a_snapshot_by_reflinks() -> Result<()> {
    let Some(reflinks) = reflinks()? else { return Ok(()) };
    let other_disk = tempfile::tempdir()?;
    let world = World::new_in(&reflinks.path()).await?;
    let agent = Agent::start(Wanted::node("n", world.port).write(&world)?.1).await?;
    until_state(&agent.client, NodeState::Running).await?;
    agent.client.run(&Request::Stop, |_| {}).await?;
    let (journal, elsewhere) = (world.path("n/db/journal"), other_disk.path().join("journal"));
    fs::create_dir(&elsewhere)?;
    for file in files_below(&journal)? {
        fs::copy(&file, elsewhere.join(file.file_name().context("a name")?))?;
    }
    fs::remove_dir_all(&journal)?;
    std::os::unix::fs::symlink(&elsewhere, &journal)?;
    agent.client.run(&Request::Start, |_| {}).await?;
    let running = until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..500).await?;

    let place = world.path("snapshot");
    let taken: Taken = run(&agent, Request::Snapshot { to: url_of(&place) }).await?;
    assert_eq!(taken.method, Method::FsyncLockReflink, "the database need not stop for it");
    assert_eq!(agent.client.status().await?.engine, running.engine);
    let logs = files_below(&place.join("data/journal"))?;
    assert!(logs.iter().any(|log| log.metadata().is_ok_and(|m| m.len() > 0)), "{logs:?}");
    let (second, port) = restored(&world, "other", url_of(&place), "").await?;
    assert_eq!(count(&database(port).await?, "shop").await?, 500);
    second.stop_all().await?;

    // A proof searches there as well.
    let proof: Proof = run(&agent, Request::Prove).await?;
    assert_eq!(proof.verdict, ProofVerdict::NoPlaintext, "{}", proof.reason);
    assert!(
        proof.file_results.iter().any(|file| file.path.starts_with(&journal)),
        "the journal was searched"
    );
    agent.stop_all().await
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let all = walkdir::WalkDir::new(folder).into_iter();
    let files = all.filter(|entry| entry.as_ref().map_or(true, |e| e.file_type().is_file()));
    files.map(|entry| Ok(entry?.into_path())).collect()
}

fn is_left_over(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".keyward-reflink"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_in_the_lock_is_followed_by_one_that_unlocks() -> Result<()> {
    let Some(reflinks) = reflinks()? else { return Ok(()) };
    let world = World::new_in(&reflinks.path()).await?;
    let (path, config) = Wanted::node("n", world.port).write(&world)?;
    let mut agent = AgentProcess::start(&path)?;
    let mut client = connect(&config.admin_socket).await?;
    let running = until_state(&client, NodeState::Running).await?;
    let db = database(world.port).await?;
    insert(&db, "shop", 0..100).await?;
    // So many files that the copy takes a moment.
    let many = world.path("n/db/many");
    fs::create_dir(&many)?;
    for n in 0..3000 {
        fs::write(many.join(format!("{n}.wt")), [0; 4096])?;
    }
    let mut caught = false;
    for attempt in 0..10 {
        let place = url_of(&world.path(&format!("snapshot-{attempt}")));
        let snapshot = tokio::spawn({
            let client = client.clone();
            async move { client.run(&Request::Snapshot { to: place }, |_| {}).await }
        });
        while !snapshot.is_finished() && !is_locked(&db).await? {}
        agent.kill()?;
        assert!(snapshot.await?.is_err() || attempt < 9, "the copy is always faster");
        // The database is as the dead agent left it.
        caught = is_locked(&db).await?;
        assert!(!caught || world.path("n/state/fsync-lock").exists());
        let writing = tokio::spawn({
            let db = db.clone();
            async move { insert(&db, "shop", 100 + attempt..101 + attempt).await }
        });
        if caught {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!writing.is_finished(), "a locked database took a write");
        }
        agent = AgentProcess::start(&path)?;
        client = connect(&config.admin_socket).await?;
        tokio::time::timeout(LONG, writing).await.context("the lock stays")???;
        until_state(&client, NodeState::Running).await?;
        if caught {
            break;
        }
    }
    assert!(caught, "no kill fell into the lock");
    assert!(!is_locked(&db).await?);
    let deadline = Instant::now() + LONG;
    while world.path("n/state/fsync-lock").exists() {
        assert!(Instant::now() < deadline, "the mark stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let now = client.status().await?;
    assert_eq!(now.engine.map(|e| e.pid), running.engine.map(|e| e.pid), "the database was restarted");
    // The next snapshot clears away what the dead one left.
    fs::remove_dir_all(many)?;
    let taken = client.run(&Request::Snapshot { to: url_of(&world.path("last")) }, |_| {}).await?;
    let taken: Taken = serde_json::from_value(taken)?;
    assert_eq!(taken.method, Method::FsyncLockReflink);
    assert!(!world.path("n/db/.keyward/snapshot").exists());
    client.run(&Request::Stop, |_| {}).await?;
    agent.terminate()
}
