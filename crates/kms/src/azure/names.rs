//! Looking names up: the host's own resolver, and what it means when there is no address.
//!
//! Whether a name does not exist or nobody answered makes no difference to what a probe counts for: both are trouble
//! on the way. It matters where a person has just typed the name.

use std::{fmt, net::IpAddr};

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};

/// Finds the addresses of a name. May block.
pub trait Names: Send + Sync + fmt::Debug {
    /// The addresses, in the order in which they are to be tried.
    fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, NoAddress>;
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAddress {
    /// Who answers for the name says that there is none such.
    NoSuchName,
    /// Nobody answered, or what the answer means is not known; why.
    NotAnswered(String),
}

/// The host's own resolver: its hosts file, DNS, whatever it is set up to ask.
#[derive(Debug, Clone, Copy)]
pub struct HostNames;

impl Names for HostNames {
    fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, NoAddress> {
        // Else each address comes once per kind of socket.
        let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
        let found = getaddrinfo(Some(name), None, Some(hints)).map_err(|error| {
            let kind = error.kind();
            meaning(kind, std::io::Error::from(error).to_string())
        })?;
        Ok(found.filter_map(Result::ok).map(|found| found.sockaddr.ip()).collect())
    }
}

/// What a failure of `getaddrinfo` means. Only one says that the name does not exist: a name without an address
/// (`NoData`) exists, and all others say nothing about it.
fn meaning(kind: LookupErrorKind, why: String) -> NoAddress {
    match kind {
        LookupErrorKind::NoName => NoAddress::NoSuchName,
        LookupErrorKind::Again
        | LookupErrorKind::Badflags
        | LookupErrorKind::NoData
        | LookupErrorKind::Fail
        | LookupErrorKind::Family
        | LookupErrorKind::Socktype
        | LookupErrorKind::Service
        | LookupErrorKind::Memory
        | LookupErrorKind::System
        | LookupErrorKind::Unknown
        | LookupErrorKind::IO => NoAddress::NotAnswered(why),
    }
}

#[cfg(test)]
mod tests {
    use dns_lookup::LookupError;

    use super::*;

    /// The numbers are glibc's, as in its `netdb.h`.
    #[test]
    fn only_one_number_says_that_a_name_does_not_exist() {
        for (number, name) in [
            (-1, "EAI_BADFLAGS"),
            (-2, "EAI_NONAME"),
            (-3, "EAI_AGAIN"),
            (-4, "EAI_FAIL"),
            (-5, "EAI_NODATA"),
            (-6, "EAI_FAMILY"),
            (-7, "EAI_SOCKTYPE"),
            (-8, "EAI_SERVICE"),
            (-10, "EAI_MEMORY"),
            (-11, "EAI_SYSTEM"),
            (-12, "EAI_OVERFLOW"),
            (-105, "EAI_IDN_ENCODE"),
        ] {
            let meant = meaning(LookupError::new(number).kind(), "why".to_owned());
            assert_eq!(meant == NoAddress::NoSuchName, name == "EAI_NONAME", "{name}: {meant:?}");
        }
    }

    #[test]
    fn the_host_knows_itself() {
        let found = HostNames.look_up("localhost").unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}
