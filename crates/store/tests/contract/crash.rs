//! A server that is killed at any moment.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use keyward_model::event::{Actor, EventType, NewEvent};
use keyward_store::{EventFilter, ServerKey, Store};

use crate::site::{Site, Thing, at, on_both_databases};

on_both_databases!(after_a_kill_state_and_audit_log_agree);

const URL: &str = "KEYWARD_CRASH_URL";
const KEY_FILE: &str = "KEYWARD_CRASH_KEY_FILE";
const ROUND: &str = "KEYWARD_CRASH_ROUND";
const ROUNDS: u64 = 8;

async fn after_a_kill_state_and_audit_log_agree(site: Site) {
    site.open().await.close().await;
    let mut acknowledged = BTreeMap::<String, i64>::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(URL, &site.url)
            .env(KEY_FILE, &site.key_file)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        let mut killed = false;
        for line in lines.map_while(Result::ok) {
            let Some(told) = line.strip_prefix("committed ") else { continue };
            let (id, revision) = told.split_once(' ').unwrap();
            acknowledged.insert(id.to_owned(), revision.parse().unwrap());
            seen += 1;
            if seen == 5 + 3 * round && !killed {
                // Somewhere within the next changes.
                std::thread::sleep(Duration::from_micros(700 * round));
                child.kill().unwrap();
                killed = true;
            }
        }
        let status = child.wait().unwrap();
        assert!(killed && status.code().is_none(), "killed by a signal, not ended: {status}");
        check(&site, &acknowledged).await;
    }
    assert!(acknowledged.len() > 10, "{acknowledged:?}");
}

/// Each document's revision is the number of its events, each has the secret of its last change, and no commit that
/// was acknowledged is missing.
async fn check(site: &Site, acknowledged: &BTreeMap<String, i64>) {
    let store = site.open().await;
    let mut tx = store.read().await.unwrap();
    let (events, total) = tx.events(&EventFilter::default(), 0, u64::MAX).await.unwrap();
    assert_eq!(events.len() as u64, total);
    let mut events_of = BTreeMap::<String, i64>::new();
    for event in events {
        *events_of.entry(event.detail["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let things = tx.list_all::<Thing>().await.unwrap();
    assert_eq!(things.len(), events_of.len(), "each document has events and each event a document");
    for thing in things {
        assert_eq!(events_of[&thing.id], thing.revision, "{}", thing.id);
        assert_eq!(thing.count, thing.revision.unsigned_abs(), "{}", thing.id);
        let secret = tx.secret(&format!("thing:{}", thing.id)).await.unwrap().unwrap();
        assert_eq!(*secret, thing.revision.to_string().into_bytes(), "{}", thing.id);
    }
    for (id, revision) in acknowledged {
        assert!(
            events_of.get(id).is_some_and(|events| events >= revision),
            "{id} {revision} was acknowledged"
        );
    }
    drop(tx);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process of its own, which the test above starts and kills"]
async fn writes_until_it_is_killed() {
    let (Ok(url), Ok(key_file), Ok(round)) =
        (std::env::var(URL), std::env::var(KEY_FILE), std::env::var(ROUND))
    else {
        return;
    };
    let key = ServerKey::read_file(key_file.as_ref()).unwrap();
    let store = Store::open(&url, key).await.unwrap();
    let (told, tell) = mpsc::channel::<String>();
    std::thread::spawn(move || {
        let mut out = std::io::stdout();
        tell.into_iter().for_each(|line| writeln!(out, "{line}").unwrap());
    });
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..3 {
        let (store, round, told) = (store.clone(), round.clone(), told.clone());
        tasks.spawn(async move {
            for number in 0.. {
                let id = format!("{round}-{task}-{}", number / 3);
                write(&store, &id, &told).await;
            }
        });
    }
    tasks.join_next().await;
}

async fn write(store: &Store, id: &str, told: &mpsc::Sender<String>) {
    let mut change = store.change().await.unwrap();
    let revision = match change.get::<Thing>(id).await.unwrap() {
        Some(mut thing) => {
            thing.count += 1;
            change.update(&thing.document, thing.revision).await.unwrap()
        }
        None => {
            change.insert(&Thing { count: 1, ..Thing::new(id, "p1", id) }).await.unwrap();
            1
        }
    };
    change.put_secret(&format!("thing:{id}"), revision.to_string().as_bytes()).await.unwrap();
    let event = NewEvent::new(EventType::ClusterUpdateSubmitted, Actor::Operator).detail("id", id);
    change.commit(event, at(0)).await.unwrap();
    told.send(format!("committed {id} {revision}")).unwrap();
}
