//! As much of Azure Blob Storage as a snapshot uses, in memory: put, put block, put block list, get, delete (alone or
//! in a batch), list.
//! Follows the Blob service REST reference; signatures are not checked.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::{Budget, Objects, serve};

pub(crate) struct BlobDouble {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    content: Mutex<Content>,
    /// In writes.
    budget: Budget,
}

#[derive(Default)]
struct Content {
    blobs: Objects,
    blocks: HashMap<(String, String), Bytes>,
}

impl BlobDouble {
    pub(crate) async fn start() -> Result<Self> {
        let shared = Arc::new(Shared { content: Mutex::default(), budget: Budget::unlimited() });
        let address = serve(Router::new().fallback(answer).with_state(Arc::clone(&shared))).await?;
        Ok(Self { address, shared })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Names of all blobs, in the order in which they were completed, without the container.
    pub(crate) fn names(&self) -> Vec<String> {
        self.shared.content().blobs.keys()
    }

    /// How many writes may go through.
    pub(crate) fn budget(&self) -> &Budget {
        &self.shared.budget
    }
}

impl Shared {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no test panics with the lock")
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    let name = uri.path().trim_start_matches('/').to_owned();
    let ask = |key: &str| query.get(key).map(String::as_str);
    if method == Method::PUT {
        shared.budget.spend(1).await;
    }
    let mut content = shared.content();
    if method == Method::PUT {
        match ask("comp") {
            Some("block") => {
                let id = ask("blockid").unwrap_or_default().to_owned();
                content.blocks.insert((name, id), body);
            }
            Some("blocklist") => {
                let list = String::from_utf8_lossy(&body).into_owned();
                let ids = list.split("<Uncommitted>").skip(1).filter_map(|part| part.split('<').next());
                let mut whole = Vec::new();
                for id in ids {
                    let key = (name.clone(), id.to_owned());
                    whole.extend_from_slice(&content.blocks[&key]);
                }
                content.blobs.put(name, whole.into());
            }
            _ => content.blobs.put(name, body),
        }
        return (StatusCode::CREATED, [(header::ETAG, "\"1\"")]).into_response();
    }
    if ask("comp") == Some("batch") {
        return delete_all(&mut content, &String::from_utf8_lossy(&body));
    }
    if ask("comp") == Some("list") {
        let blobs: String = content
            .blobs
            .list(name.trim_end_matches('/'), ask("prefix").unwrap_or_default())
            .map(|(key, size)| {
                format!(
                    "<Blob><Name>{key}</Name><Properties><Last-Modified>Wed, 09 Sep 2020 09:20:02 GMT</Last-Modified>\
                     <Etag>1</Etag><Content-Length>{size}</Content-Length><Content-Type>x</Content-Type>\
                     <BlobType>BlockBlob</BlobType></Properties></Blob>"
                )
            })
            .collect();
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker />\
             </EnumerationResults>"
        );
        return ([(header::CONTENT_TYPE, "application/xml")], xml).into_response();
    }
    if method == Method::DELETE {
        let was = content.blobs.remove(&name);
        return if was { StatusCode::ACCEPTED } else { StatusCode::NOT_FOUND }.into_response();
    }
    match content.blobs.get(&name) {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(bytes) => {
            let headers = [(header::ETAG, "\"1\""), (header::LAST_MODIFIED, "Wed, 09 Sep 2020 09:20:02 GMT")];
            (headers, bytes).into_response()
        }
    }
}

/// A batch: one `DELETE` per part, answered in the same order.
fn delete_all(content: &mut Content, batch: &str) -> Response {
    let mut parts = String::new();
    let paths = batch.lines().filter_map(|line| line.strip_prefix("DELETE /")?.split(' ').next());
    for (id, path) in paths.enumerate() {
        let status = if content.blobs.remove(path) { "202 Accepted" } else { "404 Not Found" };
        parts.push_str(&format!(
            "--answer\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {status}\r\n\
             x-ms-version: 2018-11-09\r\n\r\n\r\n"
        ));
    }
    parts.push_str("--answer--\r\n");
    (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "multipart/mixed; boundary=answer")], parts)
        .into_response()
}
