//! A customer key in another tenant: the node moves there when its own host approves, and not before.

use std::{convert::Infallible, fs, net::Ipv4Addr, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request as HttpRequest, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use keyward_agent::admin::Request;
use keyward_model::{
    NodeState,
    sync::{DesiredCredential, DesiredEncryption},
};
use keyward_vault::client::VaultAdmin;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    server::{Server, desired, encryption, join, node_file, until_done, until_link},
    site::client,
    support::{Agent, Vault, World, count, database, insert, until_state},
};

/// One address for the token endpoints of several tenants, as Entra ID is: hands each call to the tenant's own.
struct Entra {
    url: String,
    certificate: String,
    task: tokio::task::JoinHandle<()>,
}

impl Entra {
    /// `tenants`: id, address, authority's certificate.
    async fn start(tenants: Vec<(String, String, Vec<u8>)>) -> Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        let tls =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
                )?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("https://localhost:{}", listener.local_addr()?.port());
        let tenants = tenants.into_iter().map(|(id, url, ca)| Ok((id, url, client(&ca)?)));
        let tenants: Arc<Vec<_>> = Arc::new(tenants.collect::<Result<_>>()?);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, tenants) = (acceptor.clone(), Arc::clone(&tenants));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let tenants = Arc::clone(&tenants);
                        async move { Ok::<_, Infallible>(forward(&tenants, request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { url, certificate: certificate.pem(), task })
    }
}

impl Drop for Entra {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    tenants: &[(String, String, reqwest::Client)],
    request: HttpRequest<Incoming>,
) -> Response<Full<Bytes>> {
    let answer = |status: u16, body: Bytes| {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        response
    };
    let asked = request.uri().path().split('/').nth(1).unwrap_or_default();
    let Some((_, url, http)) = tenants.iter().find(|(id, ..)| id == asked) else {
        return answer(400, Bytes::from_static(b"{}"));
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut call = http.request(method, format!("{url}{path}")).body(body);
    if let Some(kind) = headers.get("content-type") {
        call = call.header("content-type", kind);
    }
    match call.send().await {
        Ok(said) => answer(said.status().as_u16(), said.bytes().await.unwrap_or_default()),
        Err(_) => answer(502, Bytes::from_static(b"{}")),
    }
}

/// From its next start the vault sends its callers to this token endpoint.
pub(crate) fn send_callers_to(dir: &Path, authority: &str) -> Result<()> {
    let file = dir.join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&file)?)?;
    state["authority"] = authority.into();
    Ok(fs::write(&file, serde_json::to_vec(&state)?)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_moves_to_another_tenant_and_back_when_its_host_approves() -> Result<()> {
    let mut world = World::new().await?;
    let mut other = Vault::start(&world.path("other")).await?;
    let there = other.key("theirs").await?;
    // Both tenants behind one token endpoint.
    let mut tenants = Vec::new();
    for vault in [&world.vault, &other] {
        let found = vault.running.as_ref().context("it runs")?.description();
        let own = found.authority.trim_end_matches('/').to_owned();
        tenants.push((found.tenant_id.clone(), own, fs::read(&found.ca_file)?));
    }
    let entra = Entra::start(tenants).await?;
    for vault in [&mut world.vault, &mut other] {
        vault.go_down().await;
        send_callers_to(&vault.dir, &entra.url)?;
        vault.come_back().await?;
    }
    let (first, second) = (
        world.vault.running.as_ref().context("it runs")?.description().clone(),
        other.running.as_ref().context("it runs")?.description().clone(),
    );
    assert_ne!(first.tenant_id, second.tenant_id);
    let ca_file = world.path("all.pem");
    let authorities =
        [fs::read(&first.ca_file)?, fs::read(&second.ca_file)?, entra.certificate.clone().into_bytes()];
    fs::write(&ca_file, authorities.concat())?;
    let hosts: Vec<&str> = [&first.url, &second.url].map(|url| url.trim_start_matches("https://")).to_vec();
    let text = world
        .config_text("n", world.port)?
        .replace(&first.ca_file.display().to_string(), &ca_file.display().to_string())
        .replace("cloud = \"CUSTOM\"", &format!("cloud = \"CUSTOM\"\nvault_hosts = {hosts:?}"));
    let (_, config) = node_file(&world, "n", &text)?;

    let mut server = Server::start(&world.path("server")).await?;
    let agent = Agent::start(config.clone()).await?;
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..30).await?;
    let node = join(&agent.client, &server.token().await?).await?;
    let old = server.desire(node, &desired(Some(encryption(&world, &world.key_identifier)?))).await?;
    until_done(&agent.client, old).await?;
    server.go_away().await;
    let backup = fs::read(server.database())?;
    server.come_back().await?;

    // The other tenant's key, with a credential that works there: held back, and nothing moves.
    let elsewhere = DesiredEncryption {
        tenant_id: second.tenant_id.clone(),
        client_id: second.client_id.clone(),
        credential: DesiredCredential::ClientSecret { secret: second.client_secret.clone() },
        ..encryption(&world, &there)?
    };
    let new = server.desire(node, &desired(Some(elsewhere))).await?;
    let line = format!("tenant:{}", second.tenant_id);
    until_link(&agent.client, "held back", |link| {
        link.held_back.iter().any(|held| held.approval.as_ref() == Some(&line))
    })
    .await?;
    let report = server.until_report(node, "held back", |report| !report.held_back.is_empty()).await?;
    assert_eq!(
        report.wraps.iter().map(|wrap| &wrap.key_identifier).collect::<Vec<_>>(),
        [&world.key_identifier]
    );
    let asked = VaultAdmin::of(&second)?.log(0).await?;
    assert!(asked.iter().all(|entry| !serde_json::to_string(entry).unwrap_or_default().contains("theirs/")));
    let waiting = agent.client.approvals().await?;
    assert_eq!(waiting.iter().filter_map(|held| held.approval.as_ref()).collect::<Vec<_>>(), [&line]);

    // Approved on the host: the node moves, and from then on needs nothing of the first vault.
    let engine = agent.client.status().await?.engine.context("it runs")?.pid;
    agent.client.run(&Request::Approve { approvals: Some(vec![line]) }, |_| {}).await?;
    let status = until_done(&agent.client, new).await?;
    assert_eq!(status.customer_key.context("a customer key")?.key_identifier.to_string(), there);
    assert_eq!(status.engine.context("it runs")?.pid, engine, "nobody noticed");
    world.vault.go_down().await;
    agent.stop_all().await?;
    let agent = Agent::start(config).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 30);
    world.vault.come_back().await?;

    // The server's store is put back to before: an older state, which names the first tenant's key again.
    server.go_away().await;
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(server.database().with_extension(format!("db{suffix}")));
    }
    fs::write(server.database(), backup)?;
    server.come_back().await?;
    let older = format!("state:{old}:");
    until_link(&agent.client, "held back", |link| {
        link.held_back.iter().any(|held| held.approval.as_ref().is_some_and(|line| line.starts_with(&older)))
    })
    .await?;
    let status = agent.client.status().await?;
    assert_eq!(status.customer_key.context("a customer key")?.key_identifier.to_string(), there);
    let waiting = agent.client.approvals().await?;
    let names: Vec<String> = waiting.iter().filter_map(|held| held.approval.clone()).collect();
    assert!(names.len() == 1 && names[0].starts_with(&older), "{waiting:#?}");
    agent.client.run(&Request::Approve { approvals: Some(names) }, |_| {}).await?;
    let status = until_done(&agent.client, old).await?;
    let key = status.customer_key.context("a customer key")?.key_identifier.to_string();
    assert_eq!(key, world.key_identifier);
    assert_eq!(count(&database(world.port).await?, "shop").await?, 30);
    agent.stop_all().await?;
    other.go_down().await;
    Ok(())
}
