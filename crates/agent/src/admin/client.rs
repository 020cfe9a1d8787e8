//! Asks a running agent over its admin socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyward_model::{NodeStatus, sync::HeldBack};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{Failure, Line, ProgressLine, Request};

/// Why an agent did not answer, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {socket}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the agent's answer broke off")]
    Http(#[from] hyper::Error),
    /// The request could not be made.
    #[error("the request could not be made")]
    Request(#[from] http::Error),
    /// The answer has another shape.
    #[error("the agent's answer cannot be read")]
    Answer(#[from] serde_json::Error),
    /// The agent ended without saying how it went.
    #[error("the agent ended before it was done")]
    NoResult,
    /// What was asked was not done.
    #[error(transparent)]
    Failure(#[from] Failure),
}

impl ClientError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Connect { .. } => "start the agent of this node, or correct the socket's path".to_owned(),
            Self::Http(_) | Self::NoResult => {
                "see the agent's log; every operation can be repeated".to_owned()
            }
            Self::Request(_) | Self::Answer(_) => "use the keyward of the agent's version".to_owned(),
            Self::Failure(failure) => failure.hint.clone(),
        }
    }

    /// The command line's exit code.
    pub fn exit(&self) -> u8 {
        match self {
            Self::Failure(failure) => failure.exit,
            Self::Connect { .. } | Self::Http(_) | Self::Request(_) | Self::Answer(_) | Self::NoResult => 1,
        }
    }
}

/// A running agent.
#[derive(Debug, Clone)]
pub struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// The agent behind `socket`. Fails when nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let client = Self { socket: socket.to_owned() };
        client.stream().await?;
        Ok(client)
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.get("/v1/status").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let request = http::Request::get(path).header(http::header::HOST, "keyward");
        let answer = self.send(request.body(Full::new(Bytes::new()))?).await?;
        let ok = answer.status().is_success();
        let body = answer.into_body().collect().await?.to_bytes();
        if !ok {
            return Err(match serde_json::from_slice::<Line>(&body)? {
                Line::Error(failure) => failure.into(),
                Line::Progress(_) | Line::Result(_) => ClientError::NoResult,
            });
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// `GET /v1/approvals`: what waits for [`Request::Approve`].
    pub async fn approvals(&self) -> Result<Vec<HeldBack>, ClientError> {
        self.get("/v1/approvals").await
    }

    /// Asks for `request` and waits for its end; `on_progress` hears how far it is.
    pub async fn run(
        &self,
        request: &Request,
        mut on_progress: impl FnMut(ProgressLine),
    ) -> Result<serde_json::Value, ClientError> {
        let body = serde_json::to_vec(&request.body())?;
        let http_request = http::Request::post(request.path())
            .header(http::header::HOST, "keyward")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let mut answer = self.send(http_request).await?.into_body();
        let mut buffer = BytesMut::new();
        loop {
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end + 1);
                if let Some(outcome) = take(&line, &mut on_progress)? {
                    return outcome;
                }
            }
            match answer.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        buffer.extend_from_slice(&data);
                    }
                }
                None if buffer.is_empty() => return Err(ClientError::NoResult),
                None => return take(&buffer, &mut on_progress)?.unwrap_or(Err(ClientError::NoResult)),
            }
        }
    }

    async fn stream(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })
    }

    async fn send(
        &self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<hyper::body::Incoming>, ClientError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.stream().await?)).await?;
        // Ends by itself with the answer; its errors are the answer's.
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}

type Outcome = Result<serde_json::Value, ClientError>;

fn take(line: &[u8], on_progress: &mut impl FnMut(ProgressLine)) -> Result<Option<Outcome>, ClientError> {
    Ok(match serde_json::from_slice(line)? {
        Line::Progress(progress) => {
            on_progress(progress);
            None
        }
        Line::Result(value) => Some(Ok(value)),
        Line::Error(failure) => Some(Err(failure.into())),
    })
}
