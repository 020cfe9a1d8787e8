//! TLS listeners: accept, shake hands, serve HTTP/1.1, all within limits, until told to stop.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a listener puts up with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections. Further ones wait in the kernel's queue.
    pub connections: usize,
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Longest time until a request's header is there; also how long a connection may be idle.
    pub header: Duration,
    /// Largest header, bytes.
    pub header_bytes: usize,
    /// Most header fields.
    pub header_fields: usize,
    /// How long answers that are under way may take when the listener stops.
    pub stopping: Duration,
}

impl Limits {
    /// For clients of the API.
    pub const API: Self = Self {
        connections: 2_000,
        handshake: Duration::from_secs(10),
        header: Duration::from_secs(60),
        header_bytes: 16 << 10,
        header_fields: 64,
        stopping: Duration::from_secs(10),
    };
    /// For agents: each keeps one connection.
    pub const AGENTS: Self = Self { connections: 20_000, header: Duration::from_secs(180), ..Self::API };
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The certificate that it showed, where the listener asks for one.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Serves `listener` until `stop`, then waits for answers under way. Each request goes to `handler`. A connection is
/// under the TLS settings that are the newest when it is made.
pub async fn run<H, F>(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    limits: Limits,
    stop: CancellationToken,
    handler: H,
) where
    H: Fn(Arc<Peer>, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let abandon = CancellationToken::new();
    let connections = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = stop.cancelled() => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most of these are about one connection; out of file descriptors is not, and needs a pause.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        let serve = connection(stream, address, acceptor, limits, stop.clone(), handler.clone());
        let abandon = abandon.clone();
        connections.spawn(async move {
            let _permit = permit;
            let served = tokio::select! {
                served = serve => served,
                () = abandon.cancelled() => Ok(()),
            };
            if let Err(error) = served {
                tracing::debug!(%error, %address, "a connection ended early");
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.stopping, connections.wait()).await.is_err() {
        tracing::warn!("some answers were still under way when the listener stopped");
        abandon.cancel();
        connections.wait().await;
    }
}

async fn connection<H, F>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    limits: Limits,
    stop: CancellationToken,
    handler: H,
) -> Result<(), ConnectionError>
where
    H: Fn(Arc<Peer>, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    stream.set_nodelay(true)?;
    let stream = tokio::select! {
        stream = tokio::time::timeout(limits.handshake, acceptor.accept(stream)) => {
            stream.map_err(|_| ConnectionError::SlowHandshake)??
        }
        () = stop.cancelled() => return Ok(()),
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|certificate| certificate.clone().into_owned());
    let peer = Arc::new(Peer { address, certificate });
    let service = service_fn(move |request| {
        let answer = handler(Arc::clone(&peer), request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(limits.header_bytes.max(8 << 10))
        .max_headers(limits.header_fields)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        served = connection.as_mut() => served?,
        () = stop.cancelled() => {
            // An idle connection ends now, a busy one after its answer.
            connection.as_mut().graceful_shutdown();
            connection.await?;
        }
    }
    Ok(())
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("the TLS handshake took too long")]
    SlowHandshake,
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use rustls::{RootCertStore, pki_types::ServerName};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Notify,
        task::JoinHandle,
    };
    use tokio_rustls::{TlsConnector, client::TlsStream};

    use super::*;

    /// A listener whose handler answers the length of the body; `/wait` waits for `release`.
    struct Served {
        address: SocketAddr,
        connector: TlsConnector,
        stop: CancellationToken,
        entered: Arc<Notify>,
        release: Arc<Notify>,
        task: JoinHandle<()>,
    }

    async fn served(limits: Limits) -> Served {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, entered, release) =
            (CancellationToken::new(), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
            move |_: Arc<Peer>, request: Request<Incoming>| {
                let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
                async move {
                    if request.uri().path() == "/wait" {
                        entered.notify_one();
                        release.notified().await;
                    }
                    let length =
                        request.into_body().collect().await.map(|body| body.to_bytes().len()).unwrap_or(0);
                    Response::new(Full::new(Bytes::from(format!("read {length}"))))
                }
            }
        };
        let (_, tls) = watch::channel(Arc::new(server));
        let task = tokio::spawn(run(listener, tls, limits, stop.clone(), handler));
        Served { address, connector: TlsConnector::from(Arc::new(client)), stop, entered, release, task }
    }

    impl Served {
        async fn connect(&self) -> TlsStream<TcpStream> {
            let stream = TcpStream::connect(self.address).await.unwrap();
            self.connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
        }
    }

    /// What arrives until the other side closes.
    async fn rest(stream: &mut TlsStream<TcpStream>) -> String {
        let mut bytes = Vec::new();
        // An abrupt end is an end.
        let _ = stream.read_to_end(&mut bytes).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[tokio::test]
    async fn who_says_nothing_or_half_a_header_is_hung_up_on() {
        let short = Duration::from_millis(200);
        let served = served(Limits { handshake: short, header: short, ..Limits::API }).await;
        let mut silent = TcpStream::connect(served.address).await.unwrap();
        assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0, "no handshake");
        let mut half = served.connect().await;
        half.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let said = rest(&mut half).await;
        assert!(!said.contains("read"), "{said}");
        let mut whole = served.connect().await;
        whole.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut whole).await.ends_with("read 0"));
    }

    #[tokio::test]
    async fn a_header_too_large_or_with_too_many_fields_is_refused() {
        let served = served(Limits::API).await;
        for header in [
            format!("x: {}\r\n", "a".repeat(64 << 10)),
            (0..200).map(|index| format!("x{index}: a\r\n")).collect::<String>(),
        ] {
            let mut stream = served.connect().await;
            let request = format!("GET / HTTP/1.1\r\nhost: x\r\n{header}\r\n");
            // The server may hang up before all is sent.
            let _ = stream.write_all(request.as_bytes()).await;
            let said = rest(&mut stream).await;
            assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
        }
    }

    #[tokio::test]
    async fn further_connections_wait_for_a_free_place() {
        let served = served(Limits { connections: 1, ..Limits::API }).await;
        let mut first = served.connect().await;
        first.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        served.entered.notified().await;
        let second = async {
            let mut second = served.connect().await;
            second.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            rest(&mut second).await
        };
        let mut second = std::pin::pin!(second);
        tokio::select! {
            answer = second.as_mut() => panic!("answered beside the first: {answer}"),
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
        served.release.notify_one();
        assert!(rest(&mut first).await.ends_with("read 0"));
        assert!(second.await.ends_with("read 0"));
    }

    #[tokio::test]
    async fn stopping_ends_idle_connections_and_waits_for_answers() {
        let served = served(Limits::API).await;
        let mut idle = served.connect().await;
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut some = [0; 512];
        assert!(idle.read(&mut some).await.unwrap() > 0);
        let mut busy = served.connect().await;
        busy.write_all(b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc").await.unwrap();
        served.entered.notified().await;
        served.stop.cancel();
        rest(&mut idle).await;
        assert!(!served.task.is_finished());
        served.release.notify_one();
        assert!(rest(&mut busy).await.ends_with("read 3"));
        served.task.await.unwrap();
        assert!(TcpStream::connect(served.address).await.is_err());
    }

    #[tokio::test]
    async fn answers_that_take_for_ever_do_not_keep_the_listener() {
        let served = served(Limits { stopping: Duration::from_millis(200), ..Limits::API }).await;
        let mut busy = served.connect().await;
        busy.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        served.entered.notified().await;
        served.stop.cancel();
        served.task.await.unwrap();
        assert_eq!(rest(&mut busy).await, "");
    }
}
