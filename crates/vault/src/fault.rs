//! Faults on demand: what the vault does instead of answering, while a fault is on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::answer::Refusal;
use crate::state::{Settings, UnixSeconds, Vault};

/// A kind of fault. All but `TokenDown` hit the data plane; Entra and ARM go on answering, as in Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Connections are refused: nothing listens.
    Refuse,
    /// Requests are taken and never answered.
    Hang,
    /// Connections are reset.
    Reset,
    /// 429 with `Retry-After`.
    Throttle,
    /// 401 for a good token (AKV10046).
    Error401,
    /// 500.
    Error500,
    /// 503.
    Error503,
    /// Failed over to the paired region: reads and cryptography work, writes get 503.
    ReadOnly,
    /// 403 `ForbiddenByFirewall`.
    Firewall,
    /// 403 `ForbiddenByConnection`.
    PrivateLink,
    /// The vault's name is gone. A double on localhost can't take a name out of DNS: it ends every TLS handshake
    /// before a certificate is shown, as a host does that no longer serves the name.
    DnsGone,
    /// Entra's token endpoint answers 503 `temporarily_unavailable` (AADSTS90033).
    TokenDown,
    /// Every answer comes late (see [`Settings::slow_ms`]).
    Slow,
}

/// Names as on the command line.
const NAMES: [(FaultKind, &str); 13] = [
    (FaultKind::Refuse, "refuse"),
    (FaultKind::Hang, "hang"),
    (FaultKind::Reset, "reset"),
    (FaultKind::Throttle, "throttle"),
    (FaultKind::Error401, "error401"),
    (FaultKind::Error500, "error500"),
    (FaultKind::Error503, "error503"),
    (FaultKind::ReadOnly, "read-only"),
    (FaultKind::Firewall, "firewall"),
    (FaultKind::PrivateLink, "private-link"),
    (FaultKind::DnsGone, "dns-gone"),
    (FaultKind::TokenDown, "token-down"),
    (FaultKind::Slow, "slow"),
];

impl FaultKind {
    /// Every kind, in the order of the command line's help.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(kind, _)| *kind)
    }

    /// Name as on the command line.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        NAMES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(kind, _)| *kind)
            .ok_or_else(|| UnknownFault { given: text.to_owned() })
    }
}

/// Not the name of a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault called {given:?}: the kinds are {}", NAMES.map(|(_, name)| name).join(" "))]
pub struct UnknownFault {
    given: String,
}

/// A fault that was switched on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActiveFault {
    /// Which.
    pub kind: FaultKind,
    /// When it ends by itself, on the machine's own clock.
    pub until: Option<UnixSeconds>,
}

/// How connections to the data plane fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// As usual.
    Open,
    /// Nothing listens.
    Refused,
    /// Reset after the handshake.
    Reset,
    /// The handshake fails.
    NameGone,
}

/// The faults that are on at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(Vec<FaultKind>);

impl Faults {
    /// Those of `all` whose time isn't over.
    pub fn at(all: &[ActiveFault], now: UnixSeconds) -> Self {
        Self(all.iter().filter(|f| f.until.is_none_or(|until| now < until)).map(|f| f.kind).collect())
    }

    /// Whether this fault is on.
    pub fn has(&self, kind: FaultKind) -> bool {
        self.0.contains(&kind)
    }

    /// What happens to connections.
    pub fn reachability(&self) -> Reachability {
        if self.has(FaultKind::Refuse) {
            Reachability::Refused
        } else if self.has(FaultKind::DnsGone) {
            Reachability::NameGone
        } else if self.has(FaultKind::Reset) {
            Reachability::Reset
        } else {
            Reachability::Open
        }
    }

    /// What an authenticated request gets in place of an answer. `write`: it would change the vault.
    pub fn refusal(&self, vault: &Vault, settings: &Settings, write: bool, address: &str) -> Option<Refusal> {
        let (name, location) = (&vault.name, &vault.location);
        self.0.iter().find_map(|kind| match kind {
            FaultKind::Throttle => Some(Refusal::Throttled { retry_after_s: settings.retry_after_s }),
            FaultKind::Error401 => Some(Refusal::TokenNotResolved),
            FaultKind::Error500 => Some(Refusal::InternalServerError),
            FaultKind::Error503 => Some(Refusal::ServiceUnavailable),
            FaultKind::ReadOnly => write.then_some(Refusal::FailedOver),
            FaultKind::Firewall => Some(Refusal::Firewall {
                address: address.to_owned(),
                vault: name.clone(),
                location: location.clone(),
            }),
            FaultKind::PrivateLink => {
                Some(Refusal::NotPrivateLink { vault: name.clone(), location: location.clone() })
            }
            FaultKind::Refuse
            | FaultKind::Hang
            | FaultKind::Reset
            | FaultKind::DnsGone
            | FaultKind::TokenDown
            | FaultKind::Slow => None,
        })
    }

    /// Region that answers: the paired one while failed over.
    pub fn region<'a>(&self, home: &'a str) -> &'a str {
        if self.has(FaultKind::ReadOnly) { paired_region(home) } else { home }
    }
}

/// Azure's paired region.
fn paired_region(home: &str) -> &str {
    match home {
        "westeurope" => "northeurope",
        "northeurope" => "westeurope",
        "eastus" => "westus",
        "westus" => "eastus",
        "uksouth" => "ukwest",
        "ukwest" => "uksouth",
        _ => "pairedregion",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in FaultKind::all() {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        let unknown = "fire".parse::<FaultKind>().unwrap_err().to_string();
        assert!(unknown.contains("fire") && unknown.contains("token-down"), "{unknown}");
    }

    #[test]
    fn a_fault_ends_at_its_time() {
        let all = [
            ActiveFault { kind: FaultKind::Refuse, until: Some(100) },
            ActiveFault { kind: FaultKind::Slow, until: None },
        ];
        assert_eq!(Faults::at(&all, 99).reachability(), Reachability::Refused);
        assert_eq!(Faults::at(&all, 100).reachability(), Reachability::Open);
        assert!(Faults::at(&all, 100).has(FaultKind::Slow));
    }
}
