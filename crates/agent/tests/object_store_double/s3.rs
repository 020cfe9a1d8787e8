//! As much of Amazon S3 as a snapshot uses, in memory: put, multipart upload (create, part, complete, abort), get,
//! list (version 2), delete (alone or several at once). A double: requests must be signed, signatures are not checked.
//! Follows the S3 API reference.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::{Budget, Objects, serve};

pub(crate) struct S3Double {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    content: Mutex<Content>,
    /// In bytes.
    budget: Budget,
}

#[derive(Default)]
struct Content {
    objects: Objects,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    completed_uploads: usize,
    next_upload: usize,
}

impl S3Double {
    pub(crate) async fn start() -> Result<Self> {
        let shared = Arc::new(Shared { content: Mutex::default(), budget: Budget::unlimited() });
        let address = serve(Router::new().fallback(answer).with_state(Arc::clone(&shared))).await?;
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
        self.shared.content().objects.keys()
    }

    /// How many objects came in several parts.
    pub(crate) fn completed_uploads(&self) -> usize {
        self.shared.content().completed_uploads
    }

    /// Uploads that were begun and neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        self.shared.content().uploads.len()
    }

    /// How many bytes may still be written.
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
        shared.budget.spend(body.len()).await;
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
                content.objects.remove(&format!("{bucket}/{key}"));
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
            content.objects.put(name, whole.into());
            content.completed_uploads += 1;
            xml("CompleteMultipartUploadResult", "<ETag>\"whole\"</ETag>")
        }
        (&Method::DELETE, Some(id)) => {
            content.uploads.remove(id);
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::PUT, None) => {
            content.objects.put(name, body);
            ([(header::ETAG, "\"one\"")], "").into_response()
        }
        (&Method::DELETE, None) => {
            content.objects.remove(&name);
            StatusCode::NO_CONTENT.into_response()
        }
        (&Method::GET, None) if ask("list-type") == Some("2") => {
            let shown: String = content
                .objects
                .list(name.trim_end_matches('/'), ask("prefix").unwrap_or_default())
                .map(|(key, size)| {
                    format!(
                        "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                         <ETag>\"one\"</ETag><Size>{size}</Size></Contents>"
                    )
                })
                .collect();
            xml("ListBucketResult", &format!("<IsTruncated>false</IsTruncated>{shown}"))
        }
        (&Method::GET | &Method::HEAD, None) => match content.objects.get(&name) {
            Some(bytes) => {
                let headers =
                    [(header::ETAG, "\"one\""), (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT")];
                (headers, bytes).into_response()
            }
            None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    }
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
