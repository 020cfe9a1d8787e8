//! What a client says at the token endpoint (RFC 6749, client credentials; RFC 7009, revocation).

use data_encoding::{BASE64, HEXLOWER};
use zeroize::Zeroizing;

/// How long a token is good for, seconds.
pub const TOKEN_LIFE_S: i64 = 3600;

/// A client id and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientPair {
    /// The client id.
    pub client_id: String,
    /// The secret.
    pub secret: Zeroizing<String>,
}

impl std::fmt::Debug for ClientPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientPair").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// The fields of a form. `None` when one comes twice.
pub fn form(body: &str) -> Option<Vec<(String, Zeroizing<String>)>> {
    let mut fields: Vec<(String, Zeroizing<String>)> = Vec::new();
    for (name, value) in url::form_urlencoded::parse(body.as_bytes()) {
        if fields.iter().any(|(known, _)| *known == name) {
            return None;
        }
        fields.push((name.into_owned(), Zeroizing::new(value.into_owned())));
    }
    Some(fields)
}

/// The value of a field.
pub fn field<'f>(form: &'f [(String, Zeroizing<String>)], name: &str) -> Option<&'f str> {
    form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The pair, from `Authorization: Basic` or else from the form. Both halves of a Basic pair may be URL-encoded, as
/// RFC 6749 asks; ids and secrets of ours look the same either way.
pub fn pair(authorization: Option<&str>, form: &[(String, Zeroizing<String>)]) -> Option<ClientPair> {
    if let Some(authorization) = authorization {
        let (scheme, encoded) = authorization.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = Zeroizing::new(BASE64.decode(encoded.trim().as_bytes()).ok()?);
        let (id, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
        };
        return Some(ClientPair { client_id: decode(id)?, secret: Zeroizing::new(decode(secret)?) });
    }
    Some(ClientPair {
        client_id: field(form, "client_id")?.to_owned(),
        secret: Zeroizing::new(field(form, "client_secret")?.to_owned()),
    })
}

/// SHA-256, hexadecimal: how secrets and tokens are kept. Both are random, so that nothing slower is needed.
pub fn sha256(text: &str) -> String {
    HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_comes_in_the_header_or_in_the_form() {
        let basic = |text: &str| format!("Basic {}", BASE64.encode(text.as_bytes()));
        let given = pair(Some(&basic("mdb_sa_id_1:mdb_sa_sk_x")), &[]).unwrap();
        assert_eq!((given.client_id.as_str(), given.secret.as_str()), ("mdb_sa_id_1", "mdb_sa_sk_x"));
        let escaped = pair(Some(&basic("mdb%5Fsa_id_1:mdb_sa_sk%5Fx")), &[]).unwrap();
        assert_eq!(escaped, given);
        let posted =
            form("grant_type=client_credentials&client_id=mdb_sa_id_1&client_secret=mdb_sa_sk_x").unwrap();
        assert_eq!(pair(None, &posted).unwrap(), given);
        for wrong in ["Basic", "Basic !", "Bearer eDp5", &basic("nocolon")] {
            assert!(pair(Some(wrong), &posted).is_none(), "{wrong}");
        }
        assert!(form("client_id=a&client_id=b").is_none());
        assert!(!format!("{given:?}").contains("sk_x"));
    }
}
