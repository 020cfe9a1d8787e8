//! As much of Amazon S3 as a snapshot uses, in memory: put, multipart upload (create, part, complete, abort), get,
//! list (version 2), delete (alone or several at once). A double: requests must be signed, signatures are not checked.
//! Follows the S3 API reference.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tokio::sync::watch;

pub(crate) struct S3Double {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    content: Mutex<Content>,
    /// Bytes that may still be written before the rest waits; `None`: all.
    budget: watch::Sender<Option<usize>>,
    hanging: watch::Sender<bool>,
}

#[derive(Default)]
struct Content {
    /// `BUCKET/KEY`, in the order of completion.
    objects: Vec<(String, Bytes)>,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    completed_uploads: usize,
    next_upload: usize,
}

impl S3Double {
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

    /// Lines of a credentials file that lead here.
    pub(crate) fn options(&self) -> String {
        format!(
            "aws_access_key_id = \"AKIADOUBLE\"\naws_secret_access_key = \"secret\"\naws_region = \"eu-west-1\"\n\
             aws_endpoint = \"http://{}\"\naws_allow_http = \"true\"\n",
            self.address
        )
    }

    /// Keys of all objects, in the order in which they were completed, without the bucket.
    pub(crate) fn keys(&self) -> Vec<String> {
        let content = self.shared.content();
        content.objects.iter().map(|(name, _)| name.trim_start_matches("backups/").to_owned()).collect()
    }

    /// How many objects came in several parts.
    pub(crate) fn completed_uploads(&self) -> usize {
        self.shared.content().completed_uploads
    }

    /// Uploads that were begun and neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        self.shared.content().uploads.len()
    }

    /// Lets `bytes` more through, then none.
    pub(crate) fn hang_after(&self, bytes: usize) {
        self.shared.budget.send_replace(Some(bytes));
    }

    /// Waits until a write hangs.
    pub(crate) async fn hanging(&self) {
        self.shared.hanging.subscribe().wait_for(|hangs| *hangs).await.expect("the double lives");
    }

    pub(crate) fn go_on(&self) {
        self.shared.budget.send_replace(None);
    }
}

impl Shared {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no test panics with the lock")
    }

    async fn wait_for_budget(&self, bytes: usize) {
        let may_write = self.budget.borrow().is_none_or(|left| left >= bytes);
        if may_write {
            self.budget.send_if_modified(|left| {
                *left = left.map(|left| left.saturating_sub(bytes));
                false
            });
            return;
        }
        self.hanging.send_replace(true);
        self.budget.subscribe().wait_for(Option::is_none).await.expect("the double lives");
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    let signed = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if !signed.is_some_and(|value| value.starts_with("AWS4-HMAC-SHA256 Credential=AKIADOUBLE/")) {
        return error(StatusCode::FORBIDDEN, "AccessDenied");
    }
    let name = decoded(uri.path().trim_start_matches('/'));
    let ask = |key: &str| query.get(key).map(String::as_str);
    if method == Method::PUT {
        shared.wait_for_budget(body.len()).await;
    }
    let mut content = shared.content();
    match (&method, ask("uploadId")) {
        (&Method::POST, None) if ask("uploads").is_some() => {
            content.next_upload += 1;
            let id = format!("upload-{}", content.next_upload);
            content.uploads.insert(id.clone(), BTreeMap::new());
            let text = format!("<Bucket>backups</Bucket><Key>{name}</Key><UploadId>{id}</UploadId>");
            xml("InitiateMultipartUploadResult", &text)
        }
        (&Method::POST, None) if ask("delete").is_some() => {
            let bucket = name.trim_end_matches('/');
            let mut deleted = String::new();
            for part in String::from_utf8_lossy(&body).split("<Key>").skip(1) {
                let key = part.split("</Key>").next().unwrap_or_default();
                content.objects.retain(|(object, _)| *object != format!("{bucket}/{key}"));
                deleted.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
            }
            xml("DeleteResult", &deleted)
        }
        (&Method::PUT, Some(id)) => {
            let number = ask("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
            match content.uploads.get_mut(id) {
                Some(parts) if number > 0 => {
                    parts.insert(number, body);
                    ([(header::ETAG, format!("\"{id}-{number}\""))], "").into_response()
                }
                Some(_) | None => error(StatusCode::NOT_FOUND, "NoSuchUpload"),
            }
        }
        (&Method::POST, Some(id)) => {
            let Some(parts) = content.uploads.remove(id) else {
                return error(StatusCode::NOT_FOUND, "NoSuchUpload");
            };
            // In the order and with the tags that the client lists.
            let list = String::from_utf8_lossy(&body).into_owned();
            let listed = list.matches("<PartNumber>").count();
            let known = parts.keys().all(|number| list.contains(&format!("{id}-{number}")));
            if listed != parts.len() || !known {
                return error(StatusCode::BAD_REQUEST, "InvalidPart");
            }
            let whole: Vec<u8> = parts.into_values().flatten().collect();
            put(&mut content, name, whole.into());
            content.completed_uploads += 1;
            xml("CompleteMultipartUploadResult", "<ETag>\"whole\"</ETag>")
        }
        (&Method::DELETE, Some(id)) => {
            content.uploads.remove(id);
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::PUT, None) => {
            put(&mut content, name, body);
            ([(header::ETAG, "\"one\"")], "").into_response()
        }
        (&Method::DELETE, None) => {
            content.objects.retain(|(object, _)| *object != name);
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::GET, None) if ask("list-type") == Some("2") => {
            let bucket = name.trim_end_matches('/');
            let prefix = format!("{bucket}/{}", ask("prefix").unwrap_or_default());
            let shown: String = content
                .objects
                .iter()
                .filter(|(object, _)| object.starts_with(&prefix))
                .map(|(object, bytes)| {
                    let key = &object[bucket.len() + 1..];
                    format!(
                        "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                         <ETag>\"one\"</ETag><Size>{}</Size></Contents>",
                        bytes.len()
                    )
                })
                .collect();
            xml("ListBucketResult", &format!("<IsTruncated>false</IsTruncated>{shown}"))
        }
        (&Method::GET | &Method::HEAD, None) => {
            match content.objects.iter().find(|(object, _)| *object == name) {
                Some((_, bytes)) => {
                    let headers =
                        [(header::ETAG, "\"one\""), (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT")];
                    (headers, bytes.clone()).into_response()
                }
                None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
            }
        }
        _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    }
}

fn put(content: &mut Content, name: String, bytes: Bytes) {
    content.objects.retain(|(object, _)| *object != name);
    content.objects.push((name, bytes));
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match (*first, after.get(..2).and_then(|hex| data_encoding::HEXUPPER_PERMISSIVE.decode(hex).ok())) {
            (b'%', Some(byte)) => {
                bytes.extend(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn xml(root: &str, inner: &str) -> Response {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><{root}>{inner}</{root}>");
    ([(header::CONTENT_TYPE, "application/xml")], text).into_response()
}

fn error(status: StatusCode, code: &str) -> Response {
    let text = format!("<Error><Code>{code}</Code><Message>said the double</Message></Error>");
    (status, [(header::CONTENT_TYPE, "application/xml")], text).into_response()
}
