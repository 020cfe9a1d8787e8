//! One call of an agent: who makes it, what it may be, and how it is answered.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use keyward_model::{
    node::EnrolledNode,
    sync::{AgentRefusal, AgentRefusalCode, VERSION},
};
use keyward_store::{StoreError, Stored, Tx};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Endpoint,
    authority::{Shown, read_shown},
};
use crate::http::listener::Peer;

/// No call of an agent is longer than this, bytes: a report names each database.
const LONGEST: usize = 4 << 20;
/// The longest a call may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// Why a call is not answered as asked.
pub(super) struct Refused(pub(super) AgentRefusal);

impl Refused {
    pub(super) fn new(code: AgentRefusalCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self(AgentRefusal { code, message: message.into(), hint: hint.into() })
    }

    fn bad(message: impl Into<String>) -> Self {
        let hint = "use a keyward of the server's version";
        Self::new(AgentRefusalCode::BadRequest, message, hint)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        // Two calls at once, or a store that is away: the agent comes again by itself.
        tracing::warn!(%error, "an agent's call could not be answered");
        Self::new(
            AgentRefusalCode::Unavailable,
            "the server cannot answer now",
            "nothing has to be done; the agent tries again",
        )
    }
}

/// Answers one call.
pub(super) async fn answer(
    endpoint: Endpoint,
    peer: Arc<Peer>,
    request: http::Request<Incoming>,
) -> Response<Full<Bytes>> {
    let outcome = match (request.method(), request.uri().path()) {
        (&Method::POST, "/agent/v1/enrol") => super::enrol::enrol(&endpoint, &peer, request).await,
        (&Method::POST, "/agent/v1/renew") => super::enrol::renew(&endpoint, &peer, request).await,
        (&Method::POST, "/agent/v1/sync") => super::sync::sync(&endpoint, &peer, request).await,
        (&Method::POST, "/agent/v1/leave") => super::leave::leave(&endpoint, &peer, request).await,
        _ => Err(Refused::bad("this address answers agents only")),
    };
    match outcome {
        Ok(body) => with(StatusCode::OK, body),
        Err(Refused(refusal)) => {
            let status = match refusal.code {
                AgentRefusalCode::TokenRefused
                | AgentRefusalCode::CertificateMissing
                | AgentRefusalCode::CertificateExpired
                | AgentRefusalCode::CertificateUnknown => StatusCode::UNAUTHORIZED,
                AgentRefusalCode::NodeRevoked => StatusCode::FORBIDDEN,
                AgentRefusalCode::NodeTaken | AgentRefusalCode::NodeInCluster => StatusCode::CONFLICT,
                AgentRefusalCode::Version | AgentRefusalCode::BadRequest => StatusCode::BAD_REQUEST,
                AgentRefusalCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                AgentRefusalCode::TooMany => StatusCode::TOO_MANY_REQUESTS,
                AgentRefusalCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            };
            with(status, json(&refusal).unwrap_or_default())
        }
    }
}

/// Reads the body of a call.
pub(super) async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Refused> {
    let collected = tokio::time::timeout(ARRIVAL, Limited::new(body, LONGEST).collect()).await;
    let bytes = match collected {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(Refused::new(
                AgentRefusalCode::TooLarge,
                format!("the call is longer than {LONGEST} bytes"),
                "report it",
            ));
        }
        Ok(Err(_)) | Err(_) => return Err(Refused::bad("the call did not arrive whole")),
    };
    serde_json::from_slice(&bytes).map_err(|error| Refused::bad(format!("the call cannot be read: {error}")))
}

/// Writes the body of an answer.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, Refused> {
    serde_json::to_vec(value).map_err(|_| Refused::bad("the answer cannot be written"))
}

/// Refuses what speaks another version of the contract.
pub(super) fn check_version(version: u16) -> Result<(), Refused> {
    if version == VERSION {
        return Ok(());
    }
    Err(Refused::new(
        AgentRefusalCode::Version,
        format!("the agent speaks version {version} of the contract, the server version {VERSION}"),
        "use the same keyward on both",
    ))
}

/// What the peer's certificate says. Whether it holds now is the caller's to ask.
pub(super) fn shown(endpoint: &Endpoint, peer: &Peer) -> Result<Shown, Refused> {
    let shown = peer.certificate.as_ref().and_then(read_shown).ok_or_else(|| {
        Refused::new(
            AgentRefusalCode::CertificateMissing,
            "the call carries no certificate of a node",
            "join first: make a token on the server, then keyward node join --token T",
        )
    })?;
    // The connection may be older than the end of the authority's overlap.
    if endpoint.authority().above(&shown).is_none() {
        return Err(Refused::new(
            AgentRefusalCode::CertificateUnknown,
            "the certificate is under an authority that the server has let go",
            "join again: make a token on the server, then keyward node join --token T",
        ));
    }
    Ok(shown)
}

/// The node that the certificate names, if it may call.
pub(super) async fn known(tx: &mut Tx, shown: &Shown) -> Result<Stored<EnrolledNode>, Refused> {
    let revoked = |message: String| {
        let hint = "to let it in again: make a join token on the server, then keyward node join --token T";
        Refused::new(AgentRefusalCode::NodeRevoked, message, hint)
    };
    let Some(node) = tx.get::<EnrolledNode>(shown.node_id).await? else {
        return Err(revoked(format!("node {} is not known to this server", shown.node_id)));
    };
    if let Some(at) = node.revoked_at {
        return Err(revoked(format!("node {} was revoked at {at}", shown.node_id)));
    }
    if node.public_key_sha256 != shown.public_key_sha256 {
        return Err(Refused::new(
            AgentRefusalCode::CertificateUnknown,
            format!("node {} has joined with another key since", shown.node_id),
            "two agents call themselves this node: a copied state_dir must not be used twice",
        ));
    }
    Ok(node)
}

fn with(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
