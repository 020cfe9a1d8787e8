//! The agents' endpoint: joining, renewing, syncing, over TLS under an authority of the server's own.
//!
//! Owns who an agent is and what it is given; what is desired of a node is decided elsewhere and read here. A call
//! that is lost, repeated or late changes nothing.

mod answer;
mod authority;
mod enrol;
mod leave;
mod notices;
mod replacing;
mod seen;
mod sync;
mod waiting;

use std::sync::Arc;

use keyward_model::{
    Timestamp,
    event::NewEvent,
    id::ProjectId,
    node::{JoinText, JoinToken},
};
use keyward_store::{Change, StoreError};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::task::TaskTracker;

pub use replacing::{
    AuthorityError, AuthorityStatus, FormerStatus, Holder, authority_status, replace_authority,
    retire_authority,
};
pub(crate) use replacing::{Looked, look_after};
pub use waiting::Waiting;

use crate::{App, app::make_bytes, http::listener};
use authority::Authority;

/// How long a join token lets in.
const TOKEN_LIFE_MS: i64 = 24 * 3_600_000;
/// Join tokens of a project at once.
const MOST_TOKENS: usize = 1000;

/// Why agents cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The store or the server key.
    #[error("the store could not be used")]
    Store(#[from] StoreError),
    /// A certificate could not be made.
    #[error("a certificate for agents could not be made")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused it.
    #[error("the TLS library refused the certificate")]
    Tls(#[from] rustls::Error),
    /// `keyward server init` did not run.
    #[error("the store has no authority for agents")]
    NoAuthority,
    /// What was stored is not what the server writes.
    #[error("the authority for agents is damaged")]
    Damaged,
    /// The configured address for agents.
    #[error("`{0}` is no address for agents")]
    Address(String),
    /// A project has as many join tokens as it may.
    #[error("the project has {MOST_TOKENS} join tokens that have not expired")]
    TooManyTokens,
}

/// What the endpoint works with.
#[derive(Clone)]
struct Endpoint {
    app: App,
    authority: watch::Receiver<Arc<Authority>>,
    seen: Arc<seen::Seen>,
}

impl Endpoint {
    /// The authority as this server knows it now.
    fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority.borrow())
    }
}

/// Makes what agents will trust this server by.
pub(crate) async fn set_up(change: &mut Change, now: Timestamp) -> Result<(), LinkError> {
    Authority::make(change, now).await
}

/// Makes a join token for a project and records it by `event`. The text is nowhere else.
pub async fn invite(
    app: &App,
    project: ProjectId,
    name: Option<String>,
    event: NewEvent,
) -> Result<(JoinToken, JoinText), LinkError> {
    let now = app.now();
    let url = app.agent_url().parse().map_err(|_| LinkError::Address(app.agent_url().to_owned()))?;
    let ca_sha256 = Authority::open(&mut app.store().read().await?).await?.sha256().to_owned();
    let id = app.make_id();
    let random = data_encoding::BASE64URL_NOPAD.encode(&zeroize::Zeroizing::new(make_bytes::<32>())[..]);
    let text = JoinText { url, ca_sha256, secret: format!("{id}.{random}") };
    let token = JoinToken {
        id,
        project,
        name,
        secret_sha256: authority::sha256(text.secret.as_bytes()),
        created_at: now,
        expires_at: Timestamp::from_epoch_ms(now.epoch_ms() + TOKEN_LIFE_MS),
        used: None,
    };
    let mut change = app.store().change().await?;
    let there = change.list::<JoinToken>(project).await?;
    let (over, open): (Vec<_>, Vec<_>) = there.into_iter().partition(|token| now >= token.expires_at);
    if open.len() >= MOST_TOKENS {
        return Err(LinkError::TooManyTokens);
    }
    for token in over {
        change.delete::<JoinToken>(token.id).await?;
    }
    change.insert(&token).await?;
    change.commit(event.detail("joinTokenId", id.to_string()), now).await?;
    Ok((token, text))
}

/// Serves agents on `listener` until the server stops.
pub(crate) async fn start(app: App, listener: TcpListener, tasks: &TaskTracker) -> Result<(), LinkError> {
    let authority = Authority::open(&mut app.store().read().await?).await?;
    let (tls_sender, tls) = watch::channel(replacing::tls(&app, &authority)?);
    let (authority_sender, authority) = watch::channel(Arc::new(authority));
    let endpoint = Endpoint { app: app.clone(), authority, seen: Arc::default() };
    tasks.spawn(replacing::follow(app.clone(), authority_sender, tls_sender));
    tasks.spawn(seen::run(app.clone(), Arc::clone(&endpoint.seen)));
    tasks.spawn(notices::run(app.clone()));
    let handler = move |peer, request| answer::answer(endpoint.clone(), peer, request);
    tasks.spawn(listener::run(listener, tls, listener::Limits::AGENTS, app.stop().clone(), handler));
    Ok(())
}
