//! Why a server did not answer, told apart so that the advice fits.

use std::error::Error;
use std::io;

use reqwest::Url;
use rustls::CertificateError;

use crate::failure::Failure;

/// What stood in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// Nobody listens at the address.
    NobodyListens,
    /// The host's name leads nowhere.
    NoSuchHost,
    /// No answer in time, or no way to the host.
    NoAnswer,
    /// The certificate is under an authority that is not trusted.
    Authority,
    /// The certificate has ended, or does not hold yet.
    Dates,
    /// The certificate is for another name.
    Name,
    /// What answers speaks no TLS that is known here.
    NoTls,
    /// Anything else.
    Other,
}

impl Obstacle {
    fn of(error: &reqwest::Error) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(found) = Self::in_one(error) {
                return found;
            }
            next = error.source();
        }
        if error.is_timeout() { Self::NoAnswer } else { Self::Other }
    }

    /// What this error alone says, without its sources.
    fn in_one(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(Self::in_tls(tls));
        }
        let Some(io) = error.downcast_ref::<io::Error>() else { return Self::in_text(error) };
        // An I/O error names what is inside it nowhere else: its source is the source of that.
        if let Some(inner) = io.get_ref() {
            let inner: &(dyn Error + 'static) = inner;
            return Self::in_one(inner);
        }
        use io::ErrorKind as Kind;
        let kind = io.kind();
        if kind == Kind::ConnectionRefused {
            return Some(Self::NobodyListens);
        }
        if matches!(
            kind,
            Kind::TimedOut | Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown
        ) {
            return Some(Self::NoAnswer);
        }
        // A name that cannot be resolved has no kind of its own.
        Self::in_text(io)
    }

    fn in_text(error: &dyn Error) -> Option<Self> {
        let text = error.to_string();
        ["failed to lookup address", "invalid dns name"]
            .into_iter()
            .any(|said| text.contains(said))
            .then_some(Self::NoSuchHost)
    }

    fn in_tls(error: &rustls::Error) -> Self {
        use CertificateError as Certificate;
        let rustls::Error::InvalidCertificate(why) = error else {
            let odd = matches!(error, rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_));
            return if odd { Self::NoTls } else { Self::Other };
        };
        let dates = matches!(
            why,
            Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. }
        );
        let name = matches!(why, Certificate::NotValidForName | Certificate::NotValidForNameContext { .. });
        match (dates, name) {
            (true, _) => Self::Dates,
            (false, true) => Self::Name,
            // Another authority of the same name shows as a bad signature.
            (false, false) => Self::Authority,
        }
    }

    /// What happened, and what to do.
    fn told(self, base: &Url) -> (String, String) {
        let host = base.host_str().unwrap_or_default();
        let (what, hint) = match self {
            Self::NobodyListens => (
                "nobody listens there",
                "start the server (keyward server run), or log in to its address (keyward login --url URL)".into(),
            ),
            Self::NoSuchHost => (
                "its name leads nowhere",
                format!("check the name {host} (keyward login --url URL), and that this host resolves it"),
            ),
            Self::NoAnswer => (
                "it does not answer",
                "check the address, the network and firewalls between, and that the server runs".into(),
            ),
            Self::Authority => (
                "its certificate is under an authority that is not trusted",
                "name the server's own with `keyward login --ca-file FILE`: api-ca.pem in its data_dir".into(),
            ),
            Self::Dates => (
                "its certificate does not hold now",
                "check this host's clock; else the server needs a new certificate: one that was given \
                 (tls_certificate_file) is replaced, its own is renewed in time while it runs"
                    .into(),
            ),
            Self::Name => (
                "its certificate is for another name",
                format!(
                    "log in under the name that is in it (keyward login --url URL), or give the server public_url with {host}"
                ),
            ),
            Self::NoTls => (
                "what answers there speaks no TLS",
                "check host and port: it may be another program's, or a proxy's".into(),
            ),
            Self::Other => (
                "the call broke off",
                "check that it runs and that the profile's address and certificate authority are right (keyward login)"
                    .into(),
            ),
        };
        (format!("the server at {base} could not be asked: {what}"), hint)
    }
}

/// The failure of a call that the server did not answer.
pub(super) fn unreachable(base: &Url, error: &reqwest::Error) -> Failure {
    let (message, hint) = Obstacle::of(error).told(base);
    let failure = Failure::new(message, hint).because(error);
    // The library's first words repeat the address, with a path that nobody asked for by name.
    let causes = failure.causes.iter().filter(|cause| !cause.starts_with("error sending request for url"));
    Failure { causes: causes.cloned().collect(), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_says_what_is_wrong_with_a_certificate() {
        let of = |why| Obstacle::in_tls(&rustls::Error::InvalidCertificate(why));
        assert_eq!(of(CertificateError::UnknownIssuer), Obstacle::Authority);
        assert_eq!(of(CertificateError::BadSignature), Obstacle::Authority);
        assert_eq!(of(CertificateError::Expired), Obstacle::Dates);
        assert_eq!(of(CertificateError::NotValidYet), Obstacle::Dates);
        assert_eq!(of(CertificateError::NotValidForName), Obstacle::Name);
        assert_eq!(Obstacle::in_tls(&rustls::Error::DecryptError), Obstacle::Other);
    }

    #[test]
    fn an_error_within_an_error_is_found() {
        let tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, tls);
        assert_eq!(Obstacle::in_one(&wrapped), Some(Obstacle::Authority));
        let unresolved = io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(Obstacle::in_one(&unresolved), Some(Obstacle::NoSuchHost));
        assert_eq!(
            Obstacle::in_one(&io::Error::from(io::ErrorKind::ConnectionRefused)),
            Some(Obstacle::NobodyListens)
        );
        assert_eq!(Obstacle::in_one(&io::Error::other("odd")), None);
        assert_eq!(Obstacle::in_one(&std::fmt::Error), None);
    }
}
