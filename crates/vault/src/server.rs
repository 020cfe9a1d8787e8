//! Sockets: two TLS listeners, and what faults do to connections.
//!
//! The data plane has a listener of its own, so that it can be down while Entra, ARM and the admin API answer, as
//! in Azure. Both serve every path: with a hosts file, vault and Entra may be reached at one address.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{Shutdown, listen, shutdown, sockopt::set_socket_linger};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Answer;
use crate::fault::Reachability;
use crate::service::{HttpRequest, Outcome, Service};

/// Largest request body, bytes: a backup blob with 500 versions fits.
const LARGEST_BODY: usize = 8 << 20;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 256;
/// How often a fault that ends by itself is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Which listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    /// Key Vault; faults hit it.
    Vault,
    /// Entra, ARM and the admin API.
    Directory,
}

/// Binds a listener. With port 0 a free port is picked, below the range that Linux hands out by itself: a vault
/// keeps its port, and while it is stopped no outgoing connection shall sit on it. Binding by number also lets the
/// kernel keep the port while the fault `refuse` makes the socket stop listening.
pub(crate) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    const LOWEST: u16 = 20_000;
    const PORTS: u16 = 12_000;
    const ATTEMPTS: usize = 100;
    if address.port() != 0 {
        return bind_to(address);
    }
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..ATTEMPTS {
        let [low, high, ..] = uuid::Uuid::new_v4().into_bytes();
        let port = LOWEST + u16::from_le_bytes([low, high]) % PORTS;
        match bind_to(SocketAddr::new(address.ip(), port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            other => return other,
        }
    }
    Err(last)
}

fn bind_to(address: SocketAddr) -> io::Result<StdListener> {
    // The standard library sets SO_REUSEADDR, so that a restart need not wait for old connections to time out.
    let listener = StdListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves one listener until `stop`.
pub(crate) async fn run(
    listener: StdListener,
    plane: Plane,
    service: Arc<Service>,
    tls: Arc<ServerConfig>,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let mut changes = service.changes();
    let mut connections = stop.child_token();
    let mut acceptor: Option<TcpListener> = None;
    // As `bind` left it.
    let mut listening = true;
    let mut before = Reachability::Open;
    loop {
        let reachability = if plane == Plane::Vault { service.reachability() } else { Reachability::Open };
        if reachability != before {
            // Connections of before don't outlive the change.
            connections.cancel();
            connections = stop.child_token();
            before = reachability;
        }
        if reachability == Reachability::Refused {
            acceptor = None;
            if std::mem::take(&mut listening) {
                stop_listening(&listener);
            }
        } else if acceptor.is_none() {
            match start_listening(&listener) {
                Ok(opened) => (acceptor, listening) = (Some(opened), true),
                Err(error) => tracing::error!(%error, "could not listen"),
            }
        }
        let accepted = async {
            match &acceptor {
                Some(open) => open.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            _ = changes.changed() => {}
            () = tokio::time::sleep(TICK) => {}
            accepted = accepted => match accepted {
                Ok((stream, peer)) => {
                    let connection = Connection {
                        plane,
                        reachability,
                        peer,
                        service: Arc::clone(&service),
                        tls: TlsAcceptor::from(Arc::clone(&tls)),
                        cancel: connections.clone(),
                        tasks: tasks.clone(),
                    };
                    tasks.spawn(connection.serve(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(TICK).await;
                }
            },
        }
    }
    tasks.close();
    tasks.wait().await;
}

fn start_listening(listener: &StdListener) -> io::Result<TcpListener> {
    listen(listener, BACKLOG)?;
    TcpListener::from_std(listener.try_clone()?)
}

/// Linux: shutting down a listening socket ends listening and keeps the port.
fn stop_listening(listener: &StdListener) {
    if let Err(error) = shutdown(listener.as_fd(), Shutdown::Read) {
        tracing::error!(%error, "could not stop listening");
    }
}

struct Connection {
    plane: Plane,
    reachability: Reachability,
    peer: SocketAddr,
    service: Arc<Service>,
    tls: TlsAcceptor,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        // The same socket once more, to make its end a reset where that is wanted.
        let socket = stream.as_fd().try_clone_to_owned();
        let cancel = self.cancel.clone();
        tokio::select! {
            () = cancel.cancelled() => {
                if self.plane == Plane::Vault && self.service.reachability() == Reachability::Reset {
                    reset_on_close(socket);
                }
            }
            () = self.run(stream) => {}
        }
    }

    async fn run(&self, mut stream: TcpStream) {
        match self.reachability {
            Reachability::Open => {}
            Reachability::Refused => return,
            Reachability::Reset => {
                let _ = tokio::time::timeout(HANDSHAKE, stream.read(&mut [0; 1024])).await;
                reset_on_close(stream.as_fd().try_clone_to_owned());
                return;
            }
            Reachability::NameGone => {
                // A fatal TLS alert `unrecognized_name` (RFC 6066), in place of a ServerHello.
                const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
                let _ = tokio::time::timeout(HANDSHAKE, stream.read(&mut [0; 4096])).await;
                let _ = stream.write_all(&UNRECOGNIZED_NAME).await;
                let _ = stream.shutdown().await;
                return;
            }
        }
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, self.tls.accept(stream)).await else { return };
        let serve = service_fn(|request| self.request(request));
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new());
        // Errors here are the peer's: a broken request, a connection given up.
        let _ = http.serve_connection(TokioIo::new(stream), serve).await;
    }

    async fn request(&self, request: hyper::Request<Incoming>) -> Result<Response<Full<Bytes>>, Unanswered> {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
            return Ok(response(crate::service::admin_error(
                413,
                "RequestTooLarge",
                "the body is too large",
                None,
            )));
        };
        let query = parts.uri.query().unwrap_or_default();
        let request = HttpRequest {
            method: parts.method.as_str().to_owned(),
            path: parts.uri.path().to_owned(),
            query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            headers: parts.headers,
            body: body.to_bytes().to_vec(),
            address: self.peer.ip(),
        };
        // In a task of its own: a caller that gives up must not stop a change half-way.
        let service = Arc::clone(&self.service);
        let handled = self.tasks.spawn(async move { service.handle(request).await }).await;
        match handled {
            Ok(Outcome::Answer(answer)) => Ok(response(*answer)),
            Err(failed) => {
                tracing::error!(error = %failed, "a request could not be handled");
                Err(Unanswered)
            }
            Ok(Outcome::Hang) => {
                let mut changes = self.service.changes();
                while self.service.faults().has(crate::fault::FaultKind::Hang) {
                    let _ = tokio::time::timeout(TICK, changes.changed()).await;
                }
                // The fault is over: hyper closes the connection without an answer.
                Err(Unanswered)
            }
        }
    }
}

/// A request that gets no answer: the connection is closed instead.
#[derive(Debug, thiserror::Error)]
#[error("left unanswered by a fault")]
struct Unanswered;

fn reset_on_close(socket: io::Result<OwnedFd>) {
    if let Ok(socket) = socket {
        let _ = set_socket_linger(&socket, Some(Duration::ZERO));
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let body = match &answer.body {
        Value::Null => Bytes::new(),
        Value::String(text) => Bytes::from(text.clone()),
        json @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Bytes::from(json.to_string())
        }
    };
    let has_body = !body.is_empty();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if has_body {
        headers.insert("content-type", HeaderValue::from_static("application/json; charset=utf-8"));
    }
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value))
        {
            headers.insert(name, value);
        }
    }
    response
}
