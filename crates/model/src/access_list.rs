//! Access lists: the addresses from which an API key or service account may be used.

use core::net::IpAddr;
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Addresses and networks. An empty list lets every address in, unless the organization asks for a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccessList {
    /// In the order in which they were added.
    pub entries: Vec<AccessEntry>,
}

/// One entry of an access list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessEntry {
    /// Which addresses.
    pub network: Network,
    /// When it was added.
    pub created: Timestamp,
}

impl AccessList {
    /// The entry that lets `address` in: of several the closest.
    pub fn entry(&self, address: IpAddr) -> Option<&AccessEntry> {
        let fitting = self.entries.iter().filter(|entry| entry.network.contains(address));
        fitting.max_by_key(|entry| entry.network.prefix)
    }
}

/// The addresses that share their first bits: `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// A single address.
    pub fn single(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: bits(address) }
    }

    /// Whether it has one address only.
    pub fn is_single(&self) -> bool {
        self.prefix == bits(self.address)
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same_prefix(own.to_bits().into(), other.to_bits().into(), 32 - u32::from(self.prefix))
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                same_prefix(own.to_bits(), other.to_bits(), 128 - u32::from(self.prefix))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn same_prefix(a: u128, b: u128, ignored: u32) -> bool {
    (a ^ b).checked_shr(ignored).unwrap_or(0) == 0
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address or network such as 192.0.2.1 or 192.0.2.0/24")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || NetworkError(text.chars().take(64).collect());
        let Some((address, prefix)) = text.split_once('/') else {
            return text.parse().map(Self::single).map_err(|_| refused());
        };
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let prefix: u8 = prefix.parse().map_err(|_| refused())?;
        if prefix > bits(address) { Err(refused()) } else { Ok(Self { address, prefix }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_what_shares_its_first_bits() {
        assert!(network("10.1.2.3").contains(address("10.1.2.3")));
        assert!(network("10.1.2.3").contains(address("::ffff:10.1.2.3")));
        assert!(!network("10.1.2.3").contains(address("10.1.2.4")));
        assert!(network("10.1.0.0/16").contains(address("10.1.255.255")));
        assert!(!network("10.1.0.0/16").contains(address("10.2.0.0")));
        assert!(network("0.0.0.0/0").contains(address("203.0.113.7")));
        assert!(!network("0.0.0.0/0").contains(address("2001:db8::1")));
        assert!(network("2001:db8::/32").contains(address("2001:db8:ffff::1")));
        assert!(network("::/0").contains(address("2001:db8::1")));
    }

    #[test]
    fn the_closest_entry_lets_in() {
        let entries = ["10.0.0.0/8", "10.1.2.3", "10.1.0.0/16", "::/0"];
        let entries =
            entries.map(|text| AccessEntry { network: network(text), created: Timestamp::from_epoch_ms(0) });
        let list = AccessList { entries: entries.into() };
        let entry = |text| list.entry(address(text)).map(|entry| entry.network.to_string());
        assert_eq!(entry("10.1.2.3").as_deref(), Some("10.1.2.3/32"));
        assert_eq!(entry("10.1.2.4").as_deref(), Some("10.1.0.0/16"));
        assert_eq!(entry("10.2.0.1").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(entry("192.0.2.1"), None);
        assert_eq!(entry("2001:db8::1").as_deref(), Some("::/0"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "host", "10.0.0.0/8/8"]
        {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
