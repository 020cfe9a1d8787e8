//! Tokens of service accounts: handed out for a client's secret, and given back.

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use keyward_model::{Timestamp, role::Requirement, service_account::ServiceAccount};
use keyward_store::PrincipalId;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Content, Operation, Reply, Request};
use crate::{
    app::make_bytes,
    auth::{
        check_access_list, may_try,
        oauth::{TOKEN_LIFE_S, field, form, pair, sha256},
        too_many, usage,
    },
    handler,
    http::error::ApiError,
};

/// Their operations.
pub fn operations() -> Vec<Operation> {
    let operation = |id, path, handler| Operation {
        id,
        method: Method::POST,
        path,
        versions: &[],
        requires: Requirement::Nobody,
        handler,
    };
    vec![
        operation("createOauthToken", "/api/oauth/token", handler!(token)),
        operation("revokeOauthToken", "/api/oauth/revoke", handler!(revoke)),
    ]
}

type Form = Vec<(String, Zeroizing<String>)>;

async fn token(mut request: Request) -> Result<Reply, ApiError> {
    let Some(form) = posted(&mut request) else {
        return Ok(refused(StatusCode::BAD_REQUEST, "invalid_request"));
    };
    let account = match client(&request, &form).await? {
        Ok(account) => account,
        Err(refused) => return Ok(refused),
    };
    if field(&form, "grant_type") != Some("client_credentials") {
        return Ok(refused(StatusCode::BAD_REQUEST, "unsupported_grant_type"));
    }
    let token = Zeroizing::new(format!("kwt_{}", data_encoding::BASE64URL_NOPAD.encode(&make_bytes::<32>())));
    let expires = Timestamp::from_epoch_ms(request.now().epoch_ms() + TOKEN_LIFE_S * 1000);
    let mut observation = request.app.store().observe().await?;
    observation.put_access_token(&token, &account.client_id, expires).await?;
    observation.commit().await?;
    Ok(Reply::ok(json!({"access_token": *token, "token_type": "Bearer", "expires_in": TOKEN_LIFE_S})))
}

async fn revoke(mut request: Request) -> Result<Reply, ApiError> {
    let Some(form) = posted(&mut request) else {
        return Ok(refused(StatusCode::BAD_REQUEST, "invalid_request"));
    };
    let account = match client(&request, &form).await? {
        Ok(account) => account,
        Err(refused) => return Ok(refused),
    };
    let Some(token) = field(&form, "token") else {
        return Ok(refused(StatusCode::BAD_REQUEST, "invalid_request"));
    };
    let mut observation = request.app.store().observe().await?;
    observation.revoke_access_token(token, &account.client_id).await?;
    observation.commit().await?;
    // RFC 7009: an unknown token is as good as revoked.
    Ok(Reply::empty(StatusCode::OK))
}

fn posted(request: &mut Request) -> Option<Form> {
    match request.body.take() {
        Some(Value::String(text)) => form(&text),
        Some(_) => None,
        None => Some(Vec::new()),
    }
}

/// The service account whose secret the request shows.
async fn client(request: &Request, form: &Form) -> Result<Result<ServiceAccount, Reply>, ApiError> {
    let (app, now, remote) = (&request.app, request.now(), request.remote);
    let authorization =
        request.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let given = pair(authorization, form);
    let name = given.as_ref().map(|pair| pair.client_id.as_str());
    may_try(app, remote, now)?;
    let mut tx = app.store().read().await?;
    let account = match &given {
        Some(pair) => tx.get::<ServiceAccount>(&pair.client_id).await?,
        None => None,
    };
    let shown = given.as_ref().map(|pair| sha256(&pair.secret)).unwrap_or_default();
    let right = account.and_then(|account| {
        let mut secrets = account.secrets.iter();
        let secret = secrets.find(|secret| {
            bool::from(secret.sha256.as_bytes().ct_eq(shown.as_bytes())) && secret.expires > now
        });
        secret.map(|secret| secret.id).map(|secret| (account, secret))
    });
    match right {
        Some((account, secret)) => {
            let let_in = check_access_list(&mut tx, account.org, &account.access_list, remote).await?;
            drop(tx);
            let id = PrincipalId::ServiceAccount(account.client_id.clone());
            usage::record(app, &id, usage::secret_entry(secret), remote).await;
            if let Some(network) = let_in {
                usage::record(app, &id, usage::network_entry(&network), remote).await;
            }
            Ok(Ok(account.document))
        }
        None => {
            app.limits().refused(remote, name, now).map_err(too_many)?;
            Ok(Err(refused(StatusCode::UNAUTHORIZED, "invalid_client")))
        }
    }
}

/// A refusal in the form of RFC 6749 §5.2, which is what OAuth clients read.
fn refused(status: StatusCode, error: &'static str) -> Reply {
    let what = match error {
        "invalid_client" => "The client id or secret is wrong, or the secret has expired.",
        "unsupported_grant_type" => "The grant type is client_credentials.",
        _ => "The form is incomplete, or names a field twice.",
    };
    let mut reply = Reply::with(status, Content::Json(json!({"error": error, "error_description": what})));
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"keyward\"");
        reply.headers.push((header::WWW_AUTHENTICATE, challenge));
    }
    reply.headers.push((HeaderName::from_static("pragma"), HeaderValue::from_static("no-cache")));
    reply
}
