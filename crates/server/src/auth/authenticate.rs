//! Finds out who makes a request.

use std::net::IpAddr;

use http::{HeaderMap, header};
use keyward_model::{
    Code, Timestamp,
    access_list::{AccessList, Network},
    api_key::ApiKey,
    id::OrgId,
    organization::Organization,
    service_account::ServiceAccount,
};
use keyward_store::{NonceUse, PrincipalId, StoreError, Tx};
use zeroize::Zeroizing;

use super::{
    Principal, Who,
    digest::{self, NONCE_LIFE, Nonce, Signature},
    usage,
};
use crate::{
    App,
    app::make_bytes,
    http::{Refused, error::ApiError},
};

/// Who makes a request, by its signature or token. An unsigned request gets the challenge; a wrong one too, and
/// counts as a guess.
pub(crate) async fn authenticate(
    app: &App,
    headers: &HeaderMap,
    method: &str,
    target: &str,
    remote: IpAddr,
) -> Result<Principal, Refused> {
    let now = app.now();
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = given.next() else { return Err(challenge(app, now, false)) };
    let authorization = first.to_str().ok().filter(|_| given.next().is_none());
    let (scheme, rest) = authorization.and_then(|text| text.split_once(' ')).unwrap_or(("", ""));
    if scheme.eq_ignore_ascii_case("digest") {
        signed(app, Signature::parse(rest), method, target, remote, now).await
    } else if scheme.eq_ignore_ascii_case("bearer") {
        bearer(app, rest.trim(), remote, now).await
    } else {
        may_try(app, remote, now)?;
        Err(refused(app, remote, None, now))
    }
}

async fn signed(
    app: &App,
    signature: Option<Signature>,
    method: &str,
    target: &str,
    remote: IpAddr,
    now: Timestamp,
) -> Result<Principal, Refused> {
    let name = signature.as_ref().map(|signature| signature.username.as_str());
    may_try(app, remote, now)?;
    let refused = || refused(app, remote, name, now);
    let Some(signature) = &signature else { return Err(refused()) };
    let mut tx = app.store().read().await?;
    let key = tx.named::<ApiKey>(&signature.username).await?.into_iter().next();
    let ha1 = match &key {
        Some(key) => tx.secret(&secret_of(key)).await?,
        None => None,
    };
    // An unknown key takes the same way as a wrong signature.
    let ha1 = ha1.unwrap_or_else(|| Zeroizing::new(b"no key has this".to_vec()));
    let proven = std::str::from_utf8(&ha1).is_ok_and(|ha1| signature.proves(ha1, method));
    let key = match key {
        Some(key) if proven && signature.uri == target => key,
        Some(_) | None => return Err(refused()),
    };
    match app.nonce_key().judge(&signature.nonce, now) {
        Nonce::Fresh => {}
        // Signed with the right key, so this is no guess: the client signs again with the new nonce.
        Nonce::Stale | Nonce::Foreign => return Err(challenge(app, now, true)),
    }
    let who = Who::ApiKey { id: key.id, public_key: key.public_key.clone() };
    let grants = tx.grants(&PrincipalId::ApiKey(key.id)).await?;
    let let_in = check_access_list(&mut tx, key.org, &key.access_list, remote).await?;
    drop(tx);
    let forget_at = Timestamp::from_epoch_ms(now.epoch_ms() + 2 * NONCE_LIFE.as_millis() as i64);
    match app.store().use_nonce(&signature.nonce, signature.nc, forget_at).await? {
        NonceUse::Fresh => {
            if let Some(network) = let_in {
                let entry = usage::network_entry(&network);
                usage::record(app, &PrincipalId::ApiKey(key.id), entry, remote).await;
            }
            Ok(Principal { who, grants })
        }
        NonceUse::Used => Err(challenge(app, now, true)),
    }
}

async fn bearer(app: &App, token: &str, remote: IpAddr, now: Timestamp) -> Result<Principal, Refused> {
    may_try(app, remote, now)?;
    let mut tx = app.store().read().await?;
    let account = match tx.access_token(token, now).await? {
        Some(client_id) => tx.get::<ServiceAccount>(client_id).await?,
        None => None,
    };
    let Some(account) = account else {
        return Err(refused(app, remote, None, now));
    };
    let let_in = check_access_list(&mut tx, account.org, &account.access_list, remote).await?;
    let principal = principal_of_service_account(&mut tx, &account).await?;
    drop(tx);
    if let Some(network) = let_in {
        let id = PrincipalId::ServiceAccount(account.client_id.clone());
        usage::record(app, &id, usage::network_entry(&network), remote).await;
    }
    Ok(principal)
}

/// The caller that a service account is.
pub(crate) async fn principal_of_service_account(
    tx: &mut Tx,
    account: &ServiceAccount,
) -> Result<Principal, StoreError> {
    let who = Who::ServiceAccount { client_id: account.client_id.clone(), name: account.name.clone() };
    let grants = tx.grants(&PrincipalId::ServiceAccount(account.client_id.clone())).await?;
    Ok(Principal { who, grants })
}

/// Refuses an address that is not on a caller's access list; the entry that lets it in, where there is a list.
pub(crate) async fn check_access_list(
    tx: &mut Tx,
    org: OrgId,
    list: &AccessList,
    remote: IpAddr,
) -> Result<Option<Network>, ApiError> {
    if list.entries.is_empty() {
        let org = tx.get::<Organization>(org).await?;
        return match org {
            Some(org) if org.settings.api_access_list_required => {
                Err(ApiError::new(Code::OrgRequiresWhitelist))
            }
            Some(_) | None => Ok(None),
        };
    }
    if let Some(entry) = list.entry(remote) {
        return Ok(Some(entry.network));
    }
    Err(ApiError::new(Code::IpAddressNotOnWhitelist)
        .detail(format!("The address {remote} is not on the caller's access list."))
        .param(remote))
}

/// The store's name of what an API key's signatures are checked with.
pub(crate) fn secret_of(key: &ApiKey) -> String {
    format!("api_key:{}", key.id)
}

/// Refuses an address that guessed too often.
pub(crate) fn may_try(app: &App, remote: IpAddr, now: Timestamp) -> Result<(), ApiError> {
    app.limits().may_try(remote, now).map_err(too_many)
}

/// The answer to too many guesses.
pub(crate) fn too_many(seconds: u64) -> ApiError {
    ApiError::new(Code::RateLimited)
        .detail("There were too many refused attempts to sign in.")
        .retry_after_s(seconds)
}

fn refused(app: &App, remote: IpAddr, name: Option<&str>, now: Timestamp) -> Refused {
    match app.limits().refused(remote, name, now) {
        Ok(()) => challenge(app, now, false),
        Err(seconds) => too_many(seconds).into(),
    }
}

fn challenge(app: &App, now: Timestamp, stale: bool) -> Refused {
    let nonce = app.nonce_key().make_nonce(now, make_bytes());
    let value = digest::challenge(&nonce, stale);
    Refused::with(ApiError::new(Code::Unauthenticated), header::WWW_AUTHENTICATE, &value)
}
