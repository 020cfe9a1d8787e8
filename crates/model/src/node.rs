//! Nodes as the server knows them, and the token by which one joins.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    Timestamp,
    id::{ClusterId, JoinTokenId, NodeId, ProjectId},
    plan::SILENT_AFTER_MS,
};

/// A node that has enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrolledNode {
    /// As its keystore has it.
    pub node_id: NodeId,
    /// Whose it is.
    pub project: ProjectId,
    /// Its name in its own file.
    pub name: String,
    /// The host's name.
    pub hostname: String,
    /// The cluster it belongs to; `None` while it is free.
    pub cluster: Option<ClusterId>,
    /// SHA-256 of the public key (DER `SubjectPublicKeyInfo`) of its certificates, hexadecimal. It stays the same
    /// when a certificate is renewed.
    pub public_key_sha256: String,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// When it was revoked: it may neither sync nor renew.
    pub revoked_at: Option<Timestamp>,
    /// When it was heard of last before it fell silent; `None` while it is heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Timestamp>,
    /// SHA-256 of the authority of the certificate that it was given when it joined or has shown since, hexadecimal:
    /// it trusts that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// Whether a node has fallen silent, or is heard of again; what [`EnrolledNode::silent_since`] becomes, where it
/// changes.
///
/// `heard` is when it was heard of last, `listening` since when somebody listens to it without a break: a server that
/// was away itself calls nobody silent for that.
pub fn silence(
    now: Timestamp,
    listening: Timestamp,
    heard: Option<Timestamp>,
    silent_since: Option<Timestamp>,
) -> Option<Option<Timestamp>> {
    let heard = heard?;
    match silent_since {
        Some(since) => (heard > since).then_some(None),
        None => {
            let from = heard.max(listening);
            (now.epoch_ms() - from.epoch_ms() > SILENT_AFTER_MS).then_some(Some(heard))
        }
    }
}

/// A join token as the server keeps it: without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinToken {
    /// Names it; part of its text.
    pub id: JoinTokenId,
    /// Where its node will belong.
    pub project: ProjectId,
    /// What its maker calls it.
    pub name: Option<String>,
    /// SHA-256 of its secret, hexadecimal.
    pub secret_sha256: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From then on it is refused.
    pub expires_at: Timestamp,
    /// Who used it.
    pub used: Option<JoinTokenUse>,
}

/// The one use of a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenUse {
    /// The node.
    pub node_id: NodeId,
    /// SHA-256 of its public key: the same node may repeat a call whose answer was lost.
    pub public_key_sha256: String,
    /// When.
    pub at: Timestamp,
}

/// Why a join token does not let a node in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinRefusal {
    /// Used by another node, or by the same one with another key.
    Used,
    /// Too old.
    Expired,
}

/// What a join token does for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinOutcome {
    /// It lets the node in and is used up.
    Admit,
    /// It let this very node in before; the answer was lost.
    Repeat,
}

impl JoinToken {
    /// Whether it lets in node `node_id` with the key `public_key_sha256` at `now`.
    pub fn admits(
        &self,
        node_id: NodeId,
        public_key_sha256: &str,
        now: Timestamp,
    ) -> Result<JoinOutcome, JoinRefusal> {
        if now >= self.expires_at {
            return Err(JoinRefusal::Expired);
        }
        match &self.used {
            None => Ok(JoinOutcome::Admit),
            Some(used) if used.node_id == node_id && used.public_key_sha256 == public_key_sha256 => {
                Ok(JoinOutcome::Repeat)
            }
            Some(_) => Err(JoinRefusal::Used),
        }
    }
}

/// A join token as a person carries it: `kwj1.` and base64url of JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinText {
    /// The server's address for agents.
    pub url: Url,
    /// SHA-256 of the server's certificate authority for agents (DER), hexadecimal.
    pub ca_sha256: String,
    /// Proves that the bearer was invited: `ID.RANDOM`.
    pub secret: String,
}

impl fmt::Debug for JoinText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinText")
            .field("url", &self.url.as_str())
            .field("ca_sha256", &self.ca_sha256)
            .finish_non_exhaustive()
    }
}

/// Why a text is no join token. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinTextError {
    /// It begins with something else, or is cut off.
    #[error("this is no join token: one begins with kwj1. and is one line")]
    Shape,
    /// It names something else than an `https://` address.
    #[error("the join token's address {0} is not https://HOST[:PORT]")]
    Address(String),
}

const PREFIX: &str = "kwj1.";

impl JoinText {
    /// The id of the token and the random part of its secret.
    pub fn id_and_random(secret: &str) -> Option<(JoinTokenId, &str)> {
        let (id, random) = secret.split_once('.')?;
        Some((id.parse().ok()?, random))
    }
}

/// The token itself: whoever has it may join.
impl fmt::Display for JoinText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&json))
    }
}

impl FromStr for JoinText {
    type Err = JoinTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(JoinTextError::Shape)?;
        let json = data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes());
        let json = json.map_err(|_| JoinTextError::Shape)?;
        let token: Self = serde_json::from_slice(&json).map_err(|_| JoinTextError::Shape)?;
        let url = &token.url;
        if url.scheme() != "https"
            || url.host_str().is_none()
            || !matches!(url.path(), "" | "/")
            || url.query().is_some()
            || !url.username().is_empty()
        {
            return Err(JoinTextError::Address(url.origin().ascii_serialization()));
        }
        let digest = data_encoding::HEXLOWER.decode(token.ca_sha256.as_bytes());
        if digest.map_or(0, |digest| digest.len()) != 32 || Self::id_and_random(&token.secret).is_none() {
            return Err(JoinTextError::Shape);
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> JoinText {
        JoinText {
            url: "https://keyward.example:8443".parse().unwrap(),
            ca_sha256: "ab".repeat(32),
            secret: format!("{}.{}", JoinTokenId::from_bytes([7; 12]), "r".repeat(43)),
        }
    }

    #[test]
    fn a_node_falls_silent_once_and_is_heard_again_once() {
        let at = |minutes: i64| Timestamp::from_epoch_ms(1_790_000_000_000 + minutes * 60_000);
        assert_eq!(silence(at(9), at(0), None, None), None, "one that never spoke is not silent");
        assert_eq!(silence(at(5), at(0), Some(at(0)), None), None);
        assert_eq!(silence(at(6), at(0), Some(at(0)), None), Some(Some(at(0))));
        assert_eq!(silence(at(60), at(0), Some(at(0)), Some(at(0))), None, "said already");
        assert_eq!(silence(at(60), at(0), Some(at(59)), Some(at(0))), Some(None));
        // Nobody listened meanwhile.
        assert_eq!(silence(at(60), at(58), Some(at(0)), None), None);
        assert_eq!(silence(at(64), at(58), Some(at(0)), None), Some(Some(at(0))));
        assert_eq!(silence(at(60), at(58), Some(at(0)), Some(at(0))), None, "and it was not heard of since");
        // A clock that went back.
        assert_eq!(silence(at(0), at(0), Some(at(60)), None), None);
    }

    #[test]
    fn a_token_is_one_line_and_comes_back() {
        let token = text();
        let line = token.to_string();
        assert!(line.starts_with("kwj1.") && !line.contains(char::is_whitespace), "{line}");
        assert_eq!(format!("  {line}\n").parse::<JoinText>().unwrap(), token);
        assert!(!format!("{token:?}").contains("rrrr"), "the secret is not shown");
    }

    #[test]
    fn anything_else_is_refused_without_being_quoted() {
        for wrong in ["", "kwj1.", "kwj1.AAAA", "kwj2.e30", &text().to_string()[..40]] {
            assert_eq!(wrong.parse::<JoinText>(), Err(JoinTextError::Shape), "{wrong}");
        }
        for url in ["http://a", "https://a/path", "https://u@a", "https://a/?q"] {
            let token = JoinText { url: url.parse().unwrap(), ..text() };
            assert!(matches!(token.to_string().parse::<JoinText>(), Err(JoinTextError::Address(_))), "{url}");
        }
        let token = JoinText { ca_sha256: "ab".into(), ..text() };
        assert_eq!(token.to_string().parse::<JoinText>(), Err(JoinTextError::Shape));
    }

    #[test]
    fn a_token_admits_once_and_repeats_for_the_same_node() {
        let at = Timestamp::from_epoch_ms;
        let node = NodeId(uuid::Uuid::from_bytes([1; 16]));
        let other = NodeId(uuid::Uuid::from_bytes([2; 16]));
        let mut token = JoinToken {
            id: JoinTokenId::from_bytes([7; 12]),
            project: ProjectId::from_bytes([1; 12]),
            name: None,
            secret_sha256: String::new(),
            created_at: at(0),
            expires_at: at(100),
            used: None,
        };
        assert_eq!(token.admits(node, "k", at(99)), Ok(JoinOutcome::Admit));
        assert_eq!(token.admits(node, "k", at(100)), Err(JoinRefusal::Expired));
        token.used = Some(JoinTokenUse { node_id: node, public_key_sha256: "k".into(), at: at(1) });
        assert_eq!(token.admits(node, "k", at(50)), Ok(JoinOutcome::Repeat));
        assert_eq!(token.admits(node, "other", at(50)), Err(JoinRefusal::Used));
        assert_eq!(token.admits(other, "k", at(50)), Err(JoinRefusal::Used));
        assert_eq!(token.admits(node, "k", at(100)), Err(JoinRefusal::Expired));
    }
}
