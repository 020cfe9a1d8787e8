//! A listener that keeps few connections.
//!
//! Every user of the host may connect, and the agent needs its descriptors to ask the vault: who opens thousands must
//! not be able to keep a revocation from being seen.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Connections kept at a time; more are closed at once.
const KEPT: usize = 16;

/// The listener.
pub(super) struct FewConnections {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl FewConnections {
    pub(super) fn of(listener: TcpListener) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(KEPT)) }
    }
}

impl Listener for FewConnections {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.listener).await;
            if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                return (Counted { stream, _permit: permit }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that counts until it is closed.
pub(super) struct Counted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn who_opens_many_gets_a_few_and_room_comes_back() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
        let serving = tokio::spawn(axum::serve(FewConnections::of(listener), app).into_future());
        let mut kept = Vec::new();
        for _ in 0..KEPT {
            kept.push(TcpStream::connect(address).await.unwrap());
        }
        for _ in 0..50 {
            let mut more = TcpStream::connect(address).await.unwrap();
            assert_eq!(more.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed at once");
        }
        kept.clear();
        let mut answer = String::new();
        while !answer.starts_with("HTTP/1.1 200 ") {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            answer.clear();
            let _ = stream.read_to_string(&mut answer).await;
        }
        serving.abort();
    }
}
