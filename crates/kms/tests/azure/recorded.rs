//! A server with a certificate authority of its own that answers from a script and remembers what it was asked.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::HeaderMap,
    response::Response,
};
use keyward_kms::azure::{AzureConfig, AzureKeyService, Cloud, Credential, Endpoints};
use keyward_model::KeyIdentifier;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub(crate) const TENANT: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const CLIENT: &str = "66666666-7777-8888-9999-aaaaaaaaaaaa";
pub(crate) const VERSION: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const SUBSCRIPTION: &str = "bbbbbbbb-0000-0000-0000-000000000000";

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn token(&self) -> Option<&str> {
        self.headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn form(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.body.as_bytes())
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.into_owned())
    }
}

/// What the server answers: status, headers, body.
pub(crate) struct Reply(pub(crate) u16, pub(crate) Vec<(&'static str, String)>, pub(crate) String);

pub(crate) fn json(status: u16, body: serde_json::Value) -> Reply {
    Reply(status, vec![("content-type", "application/json".into())], body.to_string())
}

pub(crate) fn vault_error(status: u16, code: &str, inner: Option<&str>) -> Reply {
    let mut error = serde_json::json!({ "error": { "code": code, "message": format!("message of {code}") } });
    if let Some(inner) = inner {
        error["error"]["innererror"] = serde_json::json!({ "code": inner });
    }
    let mut reply = json(status, error);
    reply.1.push(("x-ms-keyvault-region", "westeurope".into()));
    reply.1.push(("x-ms-request-id", "request-1".into()));
    reply
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Serves `script` over TLS as `localhost` until the runtime ends.
    pub(crate) async fn start(script: impl Fn(&Own, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let acceptor = authority(folder.path().join("ca.pem"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        std::fs::write(folder.path().join("secret"), "the-client-secret\n").unwrap();
        let (own, remembered) = (Own { url: format!("https://localhost:{}", address.port()) }, seen.clone());
        let script = Arc::new(move |request: Seen| {
            remembered.lock().unwrap().push(request.clone());
            script(&own, &request)
        });
        let router = Router::new().fallback(move |request: Request| {
            let script = script.clone();
            async move { answer(request, script.as_ref()).await }
        });
        tokio::spawn(axum::serve(TlsListener { listener, acceptor }, router).into_future());
        Self { address, folder, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn key(&self) -> KeyIdentifier {
        KeyIdentifier::new(&self.url(), "k1", VERSION).unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD path` of every request, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    pub(crate) fn forget_calls(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// A configuration that takes this server for vault, Entra ID and ARM.
    pub(crate) fn config(&self) -> AzureConfig {
        AzureConfig {
            tenant_id: TENANT.into(),
            client_id: CLIENT.into(),
            credential: Credential::ClientSecretFile(self.folder.path().join("secret")),
            cloud: Cloud::Custom(Endpoints {
                authority: self.url().parse().unwrap(),
                arm_url: self.url().parse().unwrap(),
                vault_hosts: vec![format!("localhost:{}", self.address.port())],
                vault_resource: "https://vault.azure.net".into(),
            }),
            ca_file: Some(self.ca_file()),
            subscription_id: None,
            resource_group: None,
            call_timeout: Duration::from_secs(5),
            require_private_networking: false,
        }
    }

    pub(crate) fn service(&self) -> AzureKeyService {
        AzureKeyService::new(self.config()).unwrap()
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

/// What a script knows of its server.
pub(crate) struct Own {
    pub(crate) url: String,
}

impl Own {
    /// The challenge of a vault of `TENANT` whose authority is this server.
    pub(crate) fn challenge(&self) -> Reply {
        let header =
            format!(r#"Bearer authorization="{}/{TENANT}", resource="https://vault.azure.net""#, self.url);
        let mut reply = vault_error(401, "Unauthorized", None);
        reply.1.push(("www-authenticate", header));
        reply
    }

    /// Challenge and token as a healthy Azure gives them; `None` is for the script to answer.
    pub(crate) fn usual(&self, seen: &Seen) -> Option<Reply> {
        if seen.path == format!("/{TENANT}/oauth2/v2.0/token") {
            return Some(token("token-1"));
        }
        seen.token().is_none().then(|| self.challenge())
    }

    /// The answer of wrap and unwrap.
    pub(crate) fn value(&self, bytes: &[u8]) -> Reply {
        let value = data_encoding::BASE64URL_NOPAD.encode(bytes);
        json(200, serde_json::json!({ "kid": format!("{}/keys/k1/{VERSION}", self.url), "value": value }))
    }
}

pub(crate) fn token(text: &str) -> Reply {
    json(
        200,
        serde_json::json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": text }),
    )
}

async fn answer(request: Request, script: &(impl Fn(Seen) -> Reply + ?Sized)) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let Reply(status, headers, body) = script(Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().into(),
        query: parts.uri.query().unwrap_or_default().into(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap()
}

/// Makes an authority, writes its certificate to `ca_file`, and a TLS server for `localhost` under it.
pub(crate) fn authority(ca_file: PathBuf) -> TlsAcceptor {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(ca_file, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
