//! HTTP Digest (RFC 7616 with MD5 and `qop=auth`), as the clients of the Atlas Administration API insist on it.
//!
//! A nonce carries its own time and a tag of ours, so that handing one out stores nothing. Once it was used with a
//! right signature, the store remembers how far its counter went: no counter is accepted twice.

use std::{fmt, time::Duration};

use aws_lc_rs::hmac;
use data_encoding::{BASE64, HEXLOWER};
use keyward_model::Timestamp;
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The realm of API keys.
pub const REALM: &str = "MMS Public API";
/// How long a nonce is good for.
pub const NONCE_LIFE: Duration = Duration::from_secs(300);

const TIME_BYTES: usize = 6;
const RANDOM_BYTES: usize = 6;
const TAG_BYTES: usize = 12;

/// Makes and recognises nonces. Several servers on one store share it.
pub struct NonceKey(hmac::Key);

impl NonceKey {
    /// From 32 secret bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A nonce of `now`: 32 characters of base64.
    pub fn make_nonce(&self, now: Timestamp, random: [u8; RANDOM_BYTES]) -> String {
        let time = u64::try_from(now.epoch_ms()).unwrap_or(0).to_be_bytes();
        let mut nonce = time[8 - TIME_BYTES..].to_vec();
        nonce.extend(random);
        let tag = hmac::sign(&self.0, &nonce);
        nonce.extend(&tag.as_ref()[..TAG_BYTES]);
        BASE64.encode(&nonce)
    }

    /// What a nonce is at `now`.
    pub fn judge(&self, nonce: &str, now: Timestamp) -> Nonce {
        let Ok(bytes) = BASE64.decode(nonce.as_bytes()) else { return Nonce::Foreign };
        if bytes.len() != TIME_BYTES + RANDOM_BYTES + TAG_BYTES {
            return Nonce::Foreign;
        }
        let (said, tag) = bytes.split_at(TIME_BYTES + RANDOM_BYTES);
        let right = hmac::sign(&self.0, said);
        if !bool::from(right.as_ref()[..TAG_BYTES].ct_eq(tag)) {
            return Nonce::Foreign;
        }
        let made_ms = said[..TIME_BYTES].iter().fold(0_i64, |ms, byte| ms << 8 | i64::from(*byte));
        let age_ms = now.epoch_ms() - made_ms;
        // A nonce of the future is of before the clock was set back: it would live too long.
        if (-1_000..=NONCE_LIFE.as_millis() as i64).contains(&age_ms) { Nonce::Fresh } else { Nonce::Stale }
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey(…)")
    }
}

/// What a nonce is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nonce {
    /// Ours, and young enough.
    Fresh,
    /// Ours, and too old.
    Stale,
    /// Not ours.
    Foreign,
}

/// The challenge. Its form is what the Go client can read: these parameters in this order, separated by comma and
/// space, no other.
pub fn challenge(nonce: &str, stale: bool) -> String {
    format!(
        "Digest realm=\"{REALM}\", domain=\"\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\", stale={stale}"
    )
}

/// What a signed request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The public key.
    pub username: String,
    /// The nonce of a challenge.
    pub nonce: String,
    /// The request's target: path with query.
    pub uri: String,
    /// The proof, 32 hexadecimal digits.
    pub response: String,
    /// The client's own nonce.
    pub cnonce: String,
    /// The nonce's counter.
    pub nc: u32,
    nc_text: String,
}

impl Signature {
    /// From the value of `Authorization` after `Digest `. `None`: it is none that we could have asked for.
    pub fn parse(parameters: &str) -> Option<Self> {
        let pairs = pairs(parameters)?;
        let get = |name: &str| {
            let mut found = pairs.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            let first = found.next();
            // A parameter given twice may be read in two ways.
            if found.next().is_some() { None } else { first.map(|(_, value)| value.clone()) }
        };
        if get("realm")? != REALM || get("qop")? != "auth" {
            return None;
        }
        if pairs
            .iter()
            .any(|(key, value)| key.eq_ignore_ascii_case("algorithm") && !value.eq_ignore_ascii_case("MD5"))
        {
            return None;
        }
        let nc_text = get("nc")?;
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let response = get("response")?;
        if !hex(&nc_text, 8) || !hex(&response, 32) {
            return None;
        }
        Some(Self {
            username: get("username")?,
            nonce: get("nonce")?,
            uri: get("uri")?,
            response: response.to_ascii_lowercase(),
            cnonce: get("cnonce")?,
            nc: u32::from_str_radix(&nc_text, 16).ok().filter(|nc| *nc > 0)?,
            nc_text,
        })
    }

    /// Whether it proves the private key behind `ha1` for this method.
    pub fn proves(&self, ha1: &str, method: &str) -> bool {
        let ha2 = md5_hex(&[method, ":", &self.uri]);
        let right = md5_hex(&[ha1, ":", &self.nonce, ":", &self.nc_text, ":", &self.cnonce, ":auth:", &ha2]);
        right.as_bytes().ct_eq(self.response.as_bytes()).into()
    }
}

/// HA1 of a key: all that is needed to sign as it.
pub fn ha1(public_key: &str, private_key: &str) -> Zeroizing<String> {
    md5_hex(&[public_key, ":", REALM, ":", private_key])
}

fn md5_hex(parts: &[&str]) -> Zeroizing<String> {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part.as_bytes());
    }
    Zeroizing::new(HEXLOWER.encode(&md5.finalize()))
}

/// `name=value` and `name="value"`, separated by commas. `None` when it is something else.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    const MOST: usize = 20;
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if pairs.len() == MOST {
            return None;
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim();
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'*')
        {
            return None;
        }
        let after = after.trim_start();
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        pairs.push((name.to_owned(), value));
        rest = left.trim_start();
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix(',')?.trim_start();
    }
    Some(pairs)
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> NonceKey {
        NonceKey::new(&[7; 32])
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_epoch_ms(1_700_000_000_000 + ms)
    }

    #[test]
    fn the_challenge_is_exactly_what_clients_expect() {
        let nonce = key().make_nonce(at(0), [1; 6]);
        assert_eq!(nonce.len(), 32);
        assert_eq!(
            challenge(&nonce, false),
            format!(
                "Digest realm=\"MMS Public API\", domain=\"\", nonce=\"{nonce}\", algorithm=MD5, qop=\"auth\", stale=false"
            )
        );
    }

    #[test]
    fn a_nonce_lives_for_minutes_and_cannot_be_made_up() {
        let nonce = key().make_nonce(at(0), [1; 6]);
        let life = NONCE_LIFE.as_millis() as i64;
        assert_eq!(key().judge(&nonce, at(0)), Nonce::Fresh);
        assert_eq!(key().judge(&nonce, at(life)), Nonce::Fresh);
        assert_eq!(key().judge(&nonce, at(life + 1)), Nonce::Stale);
        assert_eq!(key().judge(&nonce, at(-60_000)), Nonce::Stale);
        assert_eq!(NonceKey::new(&[8; 32]).judge(&nonce, at(0)), Nonce::Foreign);
        let mut other = nonce.clone().into_bytes();
        other[0] ^= 1;
        assert_eq!(key().judge(&String::from_utf8(other).unwrap(), at(0)), Nonce::Foreign);
        for text in ["", "x", &nonce[..28], "=", "äöü"] {
            assert_eq!(key().judge(text, at(0)), Nonce::Foreign, "{text}");
        }
    }

    #[test]
    fn rfc_2617_is_followed() {
        // The example of RFC 2617 §3.5, with its realm in place of ours.
        let ha1 = md5_hex(&["Mufasa", ":", "testrealm@host.com", ":", "Circle Of Life"]);
        let signature = Signature {
            username: "Mufasa".into(),
            nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093".into(),
            uri: "/dir/index.html".into(),
            response: "6629fae49393a05397450978507c4ef1".into(),
            cnonce: "0a4f113b".into(),
            nc: 1,
            nc_text: "00000001".into(),
        };
        assert!(signature.proves(&ha1, "GET"));
        assert!(!signature.proves(&ha1, "POST"));
    }

    #[test]
    fn what_go_python_and_curl_send_is_read() {
        let go = "username=\"abcdefgh\", realm=\"MMS Public API\", nonce=\"n\", uri=\"/api/atlas/v2/groups?a=b,c\", \
                  response=\"0123456789abcdef0123456789abcdef\", algorithm=\"MD5\", cnonce=\"c\", qop=auth, nc=00000001";
        let signature = Signature::parse(go).unwrap();
        assert_eq!((signature.username.as_str(), signature.nc), ("abcdefgh", 1));
        assert_eq!(signature.uri, "/api/atlas/v2/groups?a=b,c");
        let httpx = "username=\"abc\\\"d\", realm=\"MMS Public API\", nonce=\"n\", uri=\"/\", response=\"0123456789ABCDEF0123456789abcdef\", \
                     algorithm=MD5, qop=\"auth\", nc=0000000a, cnonce=\"c\"";
        let signature = Signature::parse(httpx).unwrap();
        assert_eq!((signature.username.as_str(), signature.nc), ("abc\"d", 10));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let whole = "username=\"a\", realm=\"MMS Public API\", nonce=\"n\", uri=\"/\", response=\"0123456789abcdef0123456789abcdef\", \
                     algorithm=MD5, qop=auth, nc=00000001, cnonce=\"c\"";
        assert!(Signature::parse(whole).is_some());
        for (part, other) in [
            ("realm=\"MMS Public API\"", "realm=\"other\""),
            ("algorithm=MD5", "algorithm=SHA-256"),
            ("qop=auth", "qop=auth-int"),
            (", qop=auth", ""),
            ("nc=00000001", "nc=1"),
            ("nc=00000001", "nc=00000000"),
            ("nc=00000001", "nc=0000000g"),
            ("username=\"a\"", "username=\"a\", username=\"b\""),
            ("cnonce=\"c\"", "cnonce=\"c"),
            ("response=\"0123456789abcdef0123456789abcdef\"", "response=\"0123\""),
        ] {
            assert!(whole.contains(part));
            assert!(Signature::parse(&whole.replace(part, other)).is_none(), "{part} -> {other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,300}") {
            let _ = Signature::parse(&text);
        }

        #[test]
        fn what_is_quoted_comes_back(username in "\\PC{1,20}", uri in "/[!-~]{0,40}", nc in 1_u32..) {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!(
                "username=\"{}\",realm=\"{REALM}\",nonce=\"n\",uri=\"{}\",response=\"{}\",qop=auth,nc={nc:08x},cnonce=\"c\"",
                quote(&username), quote(&uri), "0".repeat(32),
            );
            let signature = Signature::parse(&text).unwrap();
            assert_eq!((signature.username, signature.uri, signature.nc), (username, uri, nc));
        }

        #[test]
        fn any_text_as_a_nonce_is_foreign(text in "[A-Za-z0-9+/]{32}") {
            assert_eq!(key().judge(&text, at(0)), Nonce::Foreign);
        }
    }
}
