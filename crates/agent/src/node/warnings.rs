//! What a person should look at, although the node works.

use std::sync::{Arc, PoisonError};

use keyward_keys::{MemoryLock, memory_lock};
use keyward_model::{NodeState, Verdict, count::counted};

use super::{Inner, Shared, View, in_use};

/// Days before the end of a customer key or a client secret at which the words change.
const STEPS_DAYS: [i64; 5] = [1, 7, 14, 30, 60];
/// Master keys rotate at least this often.
const MASTER_KEY_DAYS: i64 = 90;
/// A token older than this says little about the application now.
const OLD_TOKEN_S: u64 = 3_600;

pub(super) fn all(node: &Inner, shared: &Shared, view: Option<&View>) -> Vec<String> {
    let mut out = Vec::new();
    if let MemoryLock::NotLocked { reason } = memory_lock() {
        out.push(format!("keys are on memory that is not locked: {reason}"));
    }
    let now = node.clock.now();
    let access = Arc::clone(&node.access.read().unwrap_or_else(PoisonError::into_inner));
    if let Some(expires) = access.client_secret_expires {
        let days = (expires.0.as_second() - now.0.as_second()).div_euclid(86_400);
        if let Some(text) = ends_soon("the client secret", days, "put a new one in client_secret_file") {
            out.push(text);
        }
    }
    if let Some(expires) = shared.description.as_ref().and_then(|key| key.expires) {
        let days = (expires.0.as_second() - now.0.as_second()).div_euclid(86_400);
        let todo = "make a new version, then keyward node rewrap; an expired key still unwraps";
        if let Some(text) = ends_soon("the customer key", days, todo) {
            out.push(text);
        }
    }
    if let Some(newest) = shared.evidence.front() {
        if newest.token_age_s.is_some_and(|age| age > OLD_TOKEN_S) {
            let hours = newest.token_age_s.unwrap_or_default() / 3600;
            out.push(format!(
                "the access token is {hours} h old: an application disabled since then is not seen yet"
            ));
        }
        if shared.judged.judgement.verdict != Verdict::Valid && shared.state == NodeState::Running {
            out.push(format!("last probe: {}; {}", newest.class.text(), newest.class.hint()));
        }
    }
    if let Some(view) = view {
        let days = (now.0.as_second() - view.master_key.created_at.0.as_second()).div_euclid(86_400);
        if days >= MASTER_KEY_DAYS {
            let days = counted(days, "day", "days");
            out.push(format!("the master key is {days} old: keyward node rotate-master-key"));
        }
        if view.wraps.len() > 1 {
            out.push("a rewrap has not been finished: repeat it".to_owned());
        }
        if let (Some(configured), Some(wrap)) = (&access.key, in_use(view))
            && wrap.key_identifier != configured.to_string()
            && access.next.is_none()
        {
            out.push(format!(
                "the file names the customer key {configured}, but the keystore is under {}: rewrap, or correct \
                 the file",
                wrap.key_identifier
            ));
        }
    }
    if shared.state == NodeState::Running && shared.encryptors == 0 {
        out.push(
            "the engine's encryptor is not connected: new databases live on the spares it has".to_owned(),
        );
    }
    out.extend(node.keyring.rejected().into_iter().map(|text| format!("assignment journal: {text}")));
    out.extend(shared.notes.values().cloned());
    out
}

fn ends_soon(what: &str, days: i64, todo: &str) -> Option<String> {
    if days < 0 {
        return Some(format!("{what} has expired: {todo}"));
    }
    let step = STEPS_DAYS.into_iter().find(|step| days < *step)?;
    Some(format!("{what} expires in less than {}: {todo}", counted(step, "day", "days")))
}

#[cfg(test)]
mod tests {
    use super::ends_soon;

    #[test]
    fn the_words_change_at_60_30_14_7_and_1_days() {
        let said = |days| ends_soon("it", days, "act").unwrap_or_default();
        assert_eq!(said(60), "");
        assert_eq!(said(59), "it expires in less than 60 days: act");
        assert_eq!(said(29), "it expires in less than 30 days: act");
        assert_eq!(said(13), "it expires in less than 14 days: act");
        assert_eq!(said(6), "it expires in less than 7 days: act");
        assert_eq!(said(0), "it expires in less than 1 day: act");
        assert_eq!(said(-1), "it has expired: act");
    }
}
