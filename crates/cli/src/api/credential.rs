//! How a client proves itself: an API key by Digest, or a service account by OAuth 2.

use std::fmt;

use digest_auth::{AuthContext, HttpMethod, WwwAuthenticateHeader};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::unreachable::unreachable;
use crate::failure::Failure;

/// Who a client is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// Signs every call; the private key itself is never sent.
    ApiKey { public_key: String, private_key: String },
    /// Exchanged for an access token of an hour.
    ServiceAccount { client_id: String, client_secret: String },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credential").field(&self.name()).finish()
    }
}

impl Credential {
    /// What may be shown: the public key or the client id.
    pub(crate) fn name(&self) -> &str {
        match self {
            Credential::ApiKey { public_key, .. } => public_key,
            Credential::ServiceAccount { client_id, .. } => client_id,
        }
    }
}

/// What the credential has led to so far.
#[derive(Debug, Default)]
pub(crate) struct Signer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The server's challenge; the library counts how often it was used.
    challenge: Option<WwwAuthenticateHeader>,
    token: Option<String>,
}

impl Signer {
    /// The `Authorization` header of a call; `None` when the server has to be asked for a challenge first.
    pub(super) async fn authorize(
        &self,
        http: &reqwest::Client,
        base: &Url,
        credential: &Credential,
        method: &Method,
        url: &Url,
    ) -> Result<Option<String>, Failure> {
        let mut state = self.state.lock().await;
        match credential {
            Credential::ApiKey { public_key, private_key } => {
                let Some(challenge) = &mut state.challenge else { return Ok(None) };
                let path = match url.query() {
                    Some(query) => format!("{}?{query}", url.path()),
                    None => url.path().to_owned(),
                };
                let method = HttpMethod::from(method.as_str().to_owned());
                let context =
                    AuthContext::new_with_method(public_key, private_key, path, None::<&[u8]>, method);
                let answer = challenge.respond(&context).map_err(|e| unsignable().because(&e))?;
                Ok(Some(answer.to_header_string()))
            }
            Credential::ServiceAccount { client_id, client_secret } => {
                if state.token.is_none() {
                    match token(http, base, client_id, client_secret).await? {
                        TokenAnswer::Given(token) => state.token = Some(token),
                        TokenAnswer::Refused(failure) => return Err(failure),
                    }
                }
                Ok(state.token.as_ref().map(|token| format!("Bearer {token}")))
            }
        }
    }

    /// Takes up what a 401 said: its challenge, or that the token is no longer good.
    pub(super) async fn refused(&self, challenge: Option<&str>) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        state.token = None;
        state.challenge = match challenge {
            Some(text) => Some(digest_auth::parse(text).map_err(|e| unsignable().because(&e))?),
            None => None,
        };
        Ok(())
    }
}

fn unsignable() -> Failure {
    Failure::new(
        "the server asks for a signature in an unknown way",
        "check that the address is that of a keyward server",
    )
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

#[derive(Deserialize)]
struct TokenRefusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// What came of asking for an access token.
pub(crate) enum TokenAnswer {
    /// The token.
    Given(String),
    /// The account is not there, or its secret is wrong or has expired.
    Refused(Failure),
}

/// Exchanges a service account's secret for an access token.
pub(crate) async fn token(
    http: &reqwest::Client,
    base: &Url,
    client_id: &str,
    client_secret: &str,
) -> Result<TokenAnswer, Failure> {
    let url = base.join("api/oauth/token").map_err(|e| unsignable().because(&e))?;
    let answer = http
        .post(url)
        .basic_auth(client_id, Some(client_secret))
        .form(&[("grant_type", "client_credentials")])
        .send()
        .await
        .map_err(|e| unreachable(base, &e))?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(|e| unreachable(base, &e))?;
    if status.is_success() {
        return serde_json::from_slice::<Token>(&body)
            .map(|token| TokenAnswer::Given(token.access_token))
            .map_err(|e| unsignable().because(&e));
    }
    let said = serde_json::from_slice::<TokenRefusal>(&body)
        .map(|said| [said.error, said.error_description].join(" ").trim().to_owned())
        .unwrap_or_else(|_| status.to_string());
    let hint = match status {
        StatusCode::TOO_MANY_REQUESTS => "wait a minute, then repeat the command",
        _ if status.is_server_error() => "read the server's log, then repeat the command",
        _ => "check its secret and whether it has expired; `keyward login` stores another one",
    };
    let mut failure = Failure::new(format!("the service account {client_id} gets no token"), hint);
    failure.causes = vec![said];
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Ok(TokenAnswer::Refused(failure))
        }
        _ => Err(failure),
    }
}
