//! Documents: what clients of the tour write, keep on writing, and must find again unchanged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{Acknowledgment, ClientOptions, CollectionOptions, WriteConcern};
use mongodb::{Client, Collection, IndexModel};
use tokio::task::JoinHandle;

use super::{broken, ensure};
use crate::failure::Failure;

/// Three databases, so that the tour meets more than one.
pub(super) const DATABASES: [&str; 3] = ["orders", "people", "payments"];
const COLLECTION: &str = "entries";
const DOCUMENTS_EACH: i32 = 100;
/// What the long-running writer writes to.
const LIVE: (&str, &str) = ("live", "ticks");

/// One thing clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) uri: String,
}

/// What was written, and how to know it again.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    target: String,
    database: &'static str,
    /// In every document; random, so that compression can't hide it.
    marker: String,
    documents: i32,
    /// SHA-256 over all documents in the order of `_id`.
    digest: Vec<u8>,
}

impl Ledger {
    /// Writes documents into every database of `target` and notes them.
    pub(super) async fn write(&mut self, target: &Target) -> Result<(), Failure> {
        let client = connect(&target.uri).await?;
        for database in DATABASES {
            let marker = random_text()?;
            let documents = (0..DOCUMENTS_EACH)
                .map(|id| {
                    Ok(doc! { "_id": id, "marker": &marker, "secret": random_text()?, "amount": id * 7 })
                })
                .collect::<Result<Vec<Document>, Failure>>()?;
            write_into(&client, database, &documents).await.map_err(|e| unwritten(&target.name, &e))?;
            self.entries.push(Entry {
                target: target.name.clone(),
                database,
                marker,
                documents: DOCUMENTS_EACH,
                digest: digest_of(documents.iter())?,
            });
        }
        // Everything on disk, so that a search finds what there is to find.
        let fsync = client.database("admin").run_command(doc! { "fsync": 1 }).await;
        fsync.map(|_| ()).map_err(|e| unwritten(&target.name, &e))
    }

    /// All documents of all databases.
    pub(super) fn documents(&self) -> i64 {
        self.entries.iter().map(|entry| i64::from(entry.documents)).sum()
    }

    /// What must not be on any disk.
    pub(super) fn markers(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.marker.clone()).collect()
    }

    /// Reads back everything that `target` was given, from `uri`.
    pub(super) async fn verify(&self, target: &Target) -> Result<i64, Failure> {
        let client = connect(&target.uri).await?;
        let mut count = 0;
        for entry in self.entries.iter().filter(|entry| entry.target == target.name) {
            let found = read(&client, entry.database).await.map_err(|e| {
                Failure::new(format!("{} cannot be read", target.name), "read its logs").because(&e)
            })?;
            let expected = usize::try_from(entry.documents).unwrap_or_default();
            ensure(found.len() == expected && digest_of(found.iter())? == entry.digest, || {
                format!(
                    "{} of {}: {} documents found, not the {expected} that were written",
                    entry.database,
                    target.name,
                    found.len()
                )
            })?;
            count += i64::from(entry.documents);
        }
        ensure(count > 0, || format!("nothing was written to {}", target.name))?;
        Ok(count)
    }
}

/// Writes `documents`, with an index on their marker.
pub(super) async fn write_into(
    client: &Client,
    database: &str,
    documents: &[Document],
) -> mongodb::error::Result<()> {
    let entries = durable(client, database, COLLECTION);
    entries.create_index(IndexModel::builder().keys(doc! { "marker": 1 }).build()).await?;
    entries.insert_many(documents).await?;
    Ok(())
}

async fn read(client: &Client, database: &str) -> mongodb::error::Result<Vec<Document>> {
    let entries = client.database(database).collection::<Document>(COLLECTION);
    entries.find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await
}

/// A collection whose writes are on disk when they return.
fn durable(client: &Client, database: &str, collection: &str) -> Collection<Document> {
    let concern = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let options = CollectionOptions::builder().write_concern(concern).build();
    client.database(database).collection_with_options(collection, options)
}

pub(super) async fn connect(uri: &str) -> Result<Client, Failure> {
    let connect = async {
        let mut options = ClientOptions::parse(uri).await?;
        options.server_selection_timeout = Some(Duration::from_secs(20));
        options.connect_timeout = Some(Duration::from_secs(5));
        Client::with_options(options)
    };
    connect
        .await
        .map_err(|e| Failure::new(format!("{uri} cannot be reached"), "read the node's logs").because(&e))
}

fn digest_of<'a>(documents: impl Iterator<Item = &'a Document>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    for document in documents {
        let written = document.to_vec().map_err(|e| broken("a document is no BSON").because(&e))?;
        bytes.extend(written);
    }
    Ok(digest(&SHA256, &bytes).as_ref().to_vec())
}

/// 48 random characters.
pub(super) fn random_text() -> Result<String, Failure> {
    let mut bytes = [0; 24];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| broken("no randomness"))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

fn unwritten(target: &str, error: &mongodb::error::Error) -> Failure {
    Failure::new(format!("{target} did not take the documents"), "read the node's logs").because(error)
}

/// A client that writes one document after the other until it is told to stop, and notices every failure.
pub(super) struct Writer {
    target: Target,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<(), mongodb::error::Error>>,
}

impl Writer {
    pub(super) async fn start(target: &Target) -> Result<Self, Failure> {
        let client = connect(&target.uri).await?;
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let ticks = durable(&client, LIVE.0, LIVE.1);
        let before = ticks.count_documents(doc! {}).await.map_err(|e| unwritten(&target.name, &e))?;
        acknowledged.store(before, Ordering::Relaxed);
        let task = tokio::spawn({
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let number = acknowledged.load(Ordering::Relaxed);
                    let id = i64::try_from(number).unwrap_or(i64::MAX);
                    ticks.insert_one(doc! { "_id": Bson::Int64(id), "tick": "tock" }).await?;
                    acknowledged.store(number + 1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            }
        });
        Ok(Self { target: target.clone(), acknowledged, stop, task })
    }

    /// Documents acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until more documents are acknowledged than now.
    pub(super) async fn goes_on(&self) -> Result<(), Failure> {
        let before = self.acknowledged();
        for _ in 0..100 {
            if self.task.is_finished() {
                return Err(broken(format!("the client of {} was refused", self.target.name)));
            }
            if self.acknowledged() > before + 3 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(broken(format!("the client of {} waits for ever", self.target.name)))
    }

    /// Stops; fails if any write failed, or one that was acknowledged is not there. Returns documents written.
    pub(super) async fn stop(self) -> Result<u64, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let name = &self.target.name;
        let ended = self.task.await.map_err(|e| broken(format!("the client of {name} broke")).because(&e))?;
        ended.map_err(|e| broken(format!("the client of {name} noticed: a write failed")).because(&e))?;
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        let client = connect(&self.target.uri).await?;
        let found = durable(&client, LIVE.0, LIVE.1)
            .count_documents(doc! {})
            .await
            .map_err(|e| Failure::new(format!("{name} cannot be read"), "read its logs").because(&e))?;
        ensure(found == acknowledged, || {
            format!("{name} acknowledged {acknowledged} documents and has {found}")
        })?;
        Ok(acknowledged)
    }
}

/// Stops all writers; the sum of what they wrote.
pub(super) async fn stop_all(writers: Vec<Writer>) -> Result<u64, Failure> {
    let mut sum = 0;
    for writer in writers {
        sum += writer.stop().await?;
    }
    Ok(sum)
}
