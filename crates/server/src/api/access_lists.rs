//! Access lists, as API keys and service accounts have them.

use std::{collections::BTreeMap, net::IpAddr};

use keyward_model::{
    Code, Timestamp,
    access_list::{AccessEntry, AccessList, Network},
    api_key::ApiKey,
    service_account::ServiceAccount,
};
use keyward_store::Used;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Request, grants::invalid, time};
use crate::{auth::usage::network_entry, http::error::ApiError};

/// Most entries of one list.
const MOST_ENTRIES: usize = 200;

/// An entry as it is asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewEntry {
    cidr_block: Option<String>,
    ip_address: Option<String>,
    #[serde(rename = "createdAt", default)]
    _created_at: serde::de::IgnoredAny,
    #[serde(rename = "lastUsedAt", default)]
    _last_used_at: serde::de::IgnoredAny,
    #[serde(rename = "lastUsedAddress", default)]
    _last_used_address: serde::de::IgnoredAny,
    #[serde(rename = "requestCount", default)]
    _request_count: serde::de::IgnoredAny,
}

impl NewEntry {
    fn network(&self) -> Result<Network, ApiError> {
        match (&self.ip_address, &self.cidr_block) {
            (Some(address), None) => address
                .parse::<IpAddr>()
                .map(Network::single)
                .map_err(|_| invalid("ipAddress", "is no address such as 192.0.2.1")),
            (None, Some(network)) => network
                .replace("%2F", "/")
                .replace("%2f", "/")
                .parse()
                .map_err(|_| invalid("cidrBlock", "is no network such as 192.0.2.0/24")),
            (Some(_), Some(_)) | (None, None) => Err(ApiError::new(Code::ValidationError)
                .detail("An entry has either ipAddress or cidrBlock.")
                .field("ipAddress", "is given together with cidrBlock, or neither is given")),
        }
    }
}

/// Adds entries that are not there yet; which.
pub(crate) fn add(
    list: &mut AccessList,
    asked: Vec<NewEntry>,
    now: Timestamp,
) -> Result<Vec<String>, ApiError> {
    let mut added = Vec::new();
    if asked.is_empty() {
        return Err(ApiError::new(Code::ValidationError).detail("The list of new entries is empty."));
    }
    for entry in asked {
        let network = entry.network()?;
        if !list.entries.iter().any(|entry| entry.network == network) {
            list.entries.push(AccessEntry { network, created: now });
            added.push(network.to_string());
        }
    }
    if list.entries.len() > MOST_ENTRIES {
        return Err(ApiError::new(Code::ValidationError)
            .detail(format!("An access list has at most {MOST_ENTRIES} entries.")));
    }
    Ok(added)
}

/// Where the entry of this address or network stands.
pub(crate) fn position(list: &AccessList, text: &str) -> Result<usize, ApiError> {
    let missing = || ApiError::new(Code::AccessListEntryNotFound).param(text);
    let network: Network = text.replace("%2F", "/").parse().map_err(|_| missing())?;
    list.entries.iter().position(|entry| entry.network == network).ok_or_else(missing)
}

/// What is known of a caller's entries, by the store's names.
pub(crate) type Uses = BTreeMap<String, Used>;

/// The entries of an API key.
pub(crate) fn key_views(request: &Request, key: &ApiKey, uses: &Uses) -> Vec<Value> {
    let base = format!("/api/atlas/v2/orgs/{}/apiKeys/{}/accessList", key.org, key.id);
    let of_entry = |entry: &AccessEntry| {
        let mut shown = address(entry);
        let text = entry.network.to_string().replace('/', "%2F");
        shown["created"] = json!(time(entry.created));
        shown["links"] = json!([{"href": request.href(&format!("{base}/{text}")), "rel": "self"}]);
        if let Some(used) = uses.get(&network_entry(&entry.network)) {
            shown["count"] = json!(number(used.requests));
            shown["lastUsed"] = json!(time(used.last_at));
            shown["lastUsedAddress"] = json!(used.last_address);
        }
        shown
    };
    key.access_list.entries.iter().map(of_entry).collect()
}

/// The entries of a service account.
pub(crate) fn account_views(account: &ServiceAccount, uses: &Uses) -> Vec<Value> {
    let of_entry = |entry: &AccessEntry| {
        let mut shown = address(entry);
        shown["createdAt"] = json!(time(entry.created));
        let used = uses.get(&network_entry(&entry.network));
        shown["requestCount"] = json!(used.map_or(0, |used| number(used.requests)));
        if let Some(used) = used {
            shown["lastUsedAt"] = json!(time(used.last_at));
            shown["lastUsedAddress"] = json!(used.last_address);
        }
        shown
    };
    account.access_list.entries.iter().map(of_entry).collect()
}

/// As the document has numbers of requests: 32 bits.
fn number(requests: u64) -> i32 {
    i32::try_from(requests).unwrap_or(i32::MAX)
}

fn address(entry: &AccessEntry) -> Value {
    let mut shown = json!({"cidrBlock": entry.network});
    if entry.network.is_single() {
        shown["ipAddress"] = json!(entry.network.address());
    }
    shown
}
