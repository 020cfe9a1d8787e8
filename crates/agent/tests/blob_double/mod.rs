//! As much of Azure Blob Storage as a snapshot uses, in memory: put, put block, put block list, get, delete (alone or
//! in a batch), list.
//! Follows the Blob service REST reference; signatures are not checked.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State},
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tokio::sync::watch;

pub(crate) struct BlobDouble {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    content: Mutex<Content>,
    /// Writes that may still go through before the rest waits; `None`: all.
    budget: watch::Sender<Option<usize>>,
    hanging: watch::Sender<bool>,
}

#[derive(Default)]
struct Content {
    /// In the order of completion.
    blobs: Vec<(String, Bytes)>,
    blocks: HashMap<(String, String), Bytes>,
}

impl BlobDouble {
    pub(crate) async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            content: Mutex::default(),
            budget: watch::Sender::new(None),
            hanging: watch::Sender::new(false),
        });
        let app =
            Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { address, shared })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Names of all blobs, in the order in which they were completed, without the container.
    pub(crate) fn names(&self) -> Vec<String> {
        let content = self.shared.content.lock().expect("no test panics with the lock");
        content.blobs.iter().map(|(name, _)| name.trim_start_matches("backups/").to_owned()).collect()
    }

    /// Lets `writes` more through, then none.
    pub(crate) fn hang_after(&self, writes: usize) {
        self.shared.budget.send_replace(Some(writes));
    }

    /// Waits until a write hangs.
    pub(crate) async fn hanging(&self) {
        self.shared.hanging.subscribe().wait_for(|hangs| *hangs).await.expect("the double lives");
    }

    pub(crate) fn go_on(&self) {
        self.shared.budget.send_replace(None);
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
        let mut budget = shared.budget.subscribe();
        let may_write = shared.budget.send_if_modified(|left| match left {
            Some(0) | None => false,
            Some(left) => {
                *left -= 1;
                true
            }
        });
        if !may_write {
            shared.hanging.send_if_modified(|hangs| {
                let now = shared.budget.borrow().is_some();
                std::mem::replace(hangs, now) != now
            });
            budget.wait_for(Option::is_none).await.expect("the double lives");
        }
    }
    let mut content = shared.content.lock().expect("no test panics with the lock");
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
                put(&mut content, name, whole.into());
            }
            _ => put(&mut content, name, body),
        }
        return (StatusCode::CREATED, [(header::ETAG, "\"1\"")]).into_response();
    }
    if ask("comp") == Some("batch") {
        return delete_all(&mut content, &String::from_utf8_lossy(&body));
    }
    if ask("comp") == Some("list") {
        let prefix = format!("{}/{}", name.trim_end_matches('/'), ask("prefix").unwrap_or_default());
        let blobs: String = content
            .blobs
            .iter()
            .filter(|(blob, _)| blob.starts_with(&prefix))
            .map(|(blob, bytes)| {
                let shown = blob.split_once('/').map_or("", |(_, rest)| rest);
                format!(
                    "<Blob><Name>{shown}</Name><Properties><Last-Modified>Wed, 09 Sep 2020 09:20:02 GMT</Last-Modified>\
                     <Etag>1</Etag><Content-Length>{}</Content-Length><Content-Type>x</Content-Type>\
                     <BlobType>BlockBlob</BlobType></Properties></Blob>",
                    bytes.len()
                )
            })
            .collect();
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker />\
             </EnumerationResults>"
        );
        return ([(header::CONTENT_TYPE, "application/xml")], xml).into_response();
    }
    let at = content.blobs.iter().position(|(blob, _)| *blob == name);
    match (method, at) {
        (_, None) => StatusCode::NOT_FOUND.into_response(),
        (Method::DELETE, Some(at)) => {
            content.blobs.remove(at);
            StatusCode::ACCEPTED.into_response()
        }
        (_, Some(at)) => {
            let bytes = content.blobs[at].1.clone();
            let headers = [
                (header::ETAG, "\"1\"".to_owned()),
                (header::LAST_MODIFIED, "Wed, 09 Sep 2020 09:20:02 GMT".to_owned()),
            ];
            (headers, bytes).into_response()
        }
    }
}

/// A batch: one `DELETE` per part, answered in the same order.
fn delete_all(content: &mut Content, batch: &str) -> Response {
    let mut parts = String::new();
    let paths = batch.lines().filter_map(|line| line.strip_prefix("DELETE /")?.split(' ').next());
    for (id, path) in paths.enumerate() {
        let before = content.blobs.len();
        content.blobs.retain(|(blob, _)| blob != path);
        let status = if content.blobs.len() < before { "202 Accepted" } else { "404 Not Found" };
        parts.push_str(&format!(
            "--answer\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {status}\r\n\
             x-ms-version: 2018-11-09\r\n\r\n\r\n"
        ));
    }
    parts.push_str("--answer--\r\n");
    (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "multipart/mixed; boundary=answer")], parts)
        .into_response()
}

fn put(content: &mut Content, name: String, bytes: Bytes) {
    content.blobs.retain(|(blob, _)| *blob != name);
    content.blobs.push((name, bytes));
}
