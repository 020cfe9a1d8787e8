//! Keeping the API's certificate good while the server runs: the own one is made anew before it ends, the
//! operator's is read again when its files change. Connections that are open stay as they are.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use keyward_model::Timestamp;
use rustls::ServerConfig;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{CertificateError, Identity, given, issue, make_authority, tls};
use crate::{Clock, Config};

/// How often clock and files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What the API's certificate is, and whether all is well with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Whether an authority of the server's own made it; else it is the operator's.
    pub own: bool,
    /// From when it holds.
    pub valid_from: Timestamp,
    /// Until when.
    pub valid_until: Timestamp,
    /// Since when this server shows it.
    pub since: Timestamp,
    /// Why a newer one is not shown in its place.
    pub problem: Option<String>,
}

/// The status, for whoever shows it.
#[derive(Debug, Clone)]
pub(crate) struct Shown(Arc<Mutex<CertificateStatus>>);

impl Shown {
    /// As it is now.
    pub(crate) fn status(&self) -> CertificateStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, status: CertificateStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// Whether the own certificate is to be made anew: at two thirds of its life, and when it does not hold yet because
/// the clock was set back.
fn renewal_due(now: Timestamp, from: Timestamp, until: Timestamp) -> bool {
    let (now, from, until) = (now.epoch_ms(), from.epoch_ms(), until.epoch_ms());
    now < from || now - from >= (until - from) / 3 * 2
}

/// Where the certificate comes from.
#[derive(Debug)]
enum Source {
    /// The operator's files, and what they were when they were read last.
    Files { certificate: PathBuf, key: PathBuf, read: Prints },
    /// An authority of the server's own, for these hosts.
    Own { hosts: Vec<String> },
}

/// What tells that files have other contents: SHA-256 of certificate and key; `None` for one that cannot be read.
/// Times would not do: what is written twice within a tick of the kernel's clock keeps its own.
type Prints = [Option<Vec<u8>>; 2];

fn prints(certificate: &Path, key: &Path) -> Prints {
    [certificate, key].map(|path| {
        let contents = Zeroizing::new(std::fs::read(path).ok()?);
        Some(digest(&SHA256, &contents).as_ref().to_vec())
    })
}

/// The certificate that the API shows, and what keeps it good.
pub(crate) struct Keeper {
    config: Config,
    source: Source,
    status: CertificateStatus,
    shown: Shown,
    tls: watch::Sender<Arc<ServerConfig>>,
}

impl Keeper {
    /// The first certificate: without one there is no server. `hosts` are what the own one names.
    pub(crate) fn open(
        config: &Config,
        hosts: Vec<String>,
        now: Timestamp,
    ) -> Result<Self, CertificateError> {
        let (source, identity) = match (&config.tls_certificate_file, &config.tls_key_file) {
            (Some(certificate), Some(key)) => {
                let read = prints(certificate, key);
                let identity = given(certificate, key)?;
                (Source::Files { certificate: certificate.clone(), key: key.clone(), read }, identity)
            }
            (Some(_), None) | (None, Some(_)) | (None, None) => {
                make_authority(config, now)?;
                let identity = issue(config, hosts.clone(), now)?;
                (Source::Own { hosts }, identity)
            }
        };
        let status = status_of(&source, &identity, now)?;
        let (tls, _) = watch::channel(tls(identity)?);
        let shown = Shown(Arc::new(Mutex::new(status.clone())));
        Ok(Self { config: config.clone(), source, status, shown, tls })
    }

    /// What the listener uses: the newest at each new connection.
    pub(crate) fn tls(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.tls.subscribe()
    }

    /// Where its status can be read.
    pub(crate) fn shown(&self) -> Shown {
        self.shown.clone()
    }

    /// Looks after it until `stop`.
    pub(crate) async fn run(mut self, clock: Clock, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            let now = clock();
            let looked = tokio::task::spawn_blocking(move || {
                self.look(now);
                self
            });
            match looked.await {
                Ok(keeper) => self = keeper,
                Err(error) => {
                    tracing::error!(%error, "nobody looks after the API's certificate any more");
                    return;
                }
            }
        }
    }

    /// One look. Blocks: reads files.
    fn look(&mut self, now: Timestamp) {
        let fetched = match &mut self.source {
            Source::Files { certificate, key, read } => {
                let there = prints(certificate, key);
                if there == *read {
                    return;
                }
                // One that is broken is tried once: what mends it changes it.
                *read = there;
                given(certificate, key)
            }
            Source::Own { hosts } => {
                if !renewal_due(now, self.status.valid_from, self.status.valid_until) {
                    return;
                }
                issue(&self.config, hosts.clone(), now)
            }
        };
        let made = fetched.and_then(|identity| {
            let status = status_of(&self.source, &identity, now)?;
            Ok((status, tls(identity)?))
        });
        match made {
            Ok((status, tls)) => {
                tracing::info!(until = %status.valid_until, "the API shows a new certificate");
                self.status = status;
                self.tls.send_replace(tls);
            }
            Err(error) => {
                let problem = format!("{}: {}", chain(&error), error.hint());
                if self.status.problem.as_ref() != Some(&problem) {
                    tracing::error!("the API keeps its former certificate: {problem}");
                }
                self.status.problem = Some(problem);
            }
        }
        self.shown.set(self.status.clone());
    }
}

fn status_of(
    source: &Source,
    identity: &Identity,
    now: Timestamp,
) -> Result<CertificateStatus, CertificateError> {
    let unreadable = || {
        let path = match source {
            Source::Files { certificate, .. } => certificate.clone(),
            Source::Own { .. } => PathBuf::new(),
        };
        CertificateError::Contents { path, what: "certificate" }
    };
    let first = identity.0.first().ok_or_else(unreadable)?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(|_| unreadable())?;
    let at = |seconds: i64| Timestamp::from_epoch_ms(seconds.saturating_mul(1000));
    Ok(CertificateStatus {
        own: matches!(source, Source::Own { .. }),
        valid_from: at(parsed.validity().not_before.timestamp()),
        valid_until: at(parsed.validity().not_after.timestamp()),
        since: now,
        problem: None,
    })
}

/// An error with what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let behind = std::iter::successors(error.source(), |error| error.source());
    behind.fold(error.to_string(), |text, error| format!("{text}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn the_own_certificate_is_renewed_at_two_thirds_of_its_life_and_when_the_clock_goes_back() {
        let day = |day: i64| Timestamp::from_epoch_ms(1_780_000_000_000 + day * DAY_MS);
        let due = |now| renewal_due(day(now), day(0), day(396));
        assert!(!due(0) && !due(263));
        assert!(due(264) && due(395), "with a third of its life left");
        assert!(due(397) && due(4_000), "after any absence");
        assert!(due(-1), "it does not hold yet");
        // What is then made is not due at once.
        let made = day(264);
        assert!(!renewal_due(made, day(263), day(264 + 397)));
    }

    fn pair(dir: &Path, days: i64) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        super::super::validity(&mut params, Timestamp::from_epoch_ms(1_780_000_000_000), days);
        let (certificate, key_file) = (dir.join("c.pem"), dir.join("k.pem"));
        std::fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (certificate, key_file)
    }

    #[test]
    fn a_broken_file_of_the_operators_keeps_the_certificate_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = pair(dir.path(), 10);
        let mut config = Config::new(dir.path());
        (config.tls_certificate_file, config.tls_key_file) = (Some(certificate.clone()), Some(key.clone()));
        let now = Timestamp::from_epoch_ms(1_780_000_000_000);
        let mut keeper = Keeper::open(&config, Vec::new(), now).unwrap();
        let mut shown = keeper.tls();
        let first = keeper.shown().status();
        assert!(!first.own && first.problem.is_none());
        keeper.look(now);
        assert!(!shown.has_changed().unwrap(), "nothing is new");

        let good = (std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap());
        let broken: [(&str, &dyn Fn()); 4] = [
            ("holds no certificate", &|| std::fs::write(&certificate, "nothing").unwrap()),
            ("cannot read", &|| std::fs::remove_file(&certificate).unwrap()),
            ("holds no private key", &|| {
                std::fs::write(&certificate, &good.0).unwrap();
                std::fs::write(&key, "nothing").unwrap();
            }),
            ("certificate and key belong together", &|| {
                std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
            }),
        ];
        for (problem, break_it) in broken {
            break_it();
            keeper.look(now);
            let status = keeper.shown().status();
            assert!(
                status.problem.as_ref().is_some_and(|told| told.contains(problem)),
                "{problem}: {status:?}"
            );
            assert_eq!(CertificateStatus { problem: None, ..status }, first);
            assert!(!shown.has_changed().unwrap(), "{problem}");
        }

        // What is put right is shown, by content as well as by another file under the name.
        std::fs::write(&key, &good.1).unwrap();
        keeper.look(now);
        assert!(shown.has_changed().unwrap());
        assert_eq!(keeper.shown().status(), first);
        shown.mark_unchanged();
        let (_, _) = pair(dir.path(), 20);
        keeper.look(now);
        assert!(shown.has_changed().unwrap());
        let second = keeper.shown().status();
        assert!(second.valid_until > first.valid_until && second.problem.is_none(), "{second:?}");
    }

    #[test]
    fn an_own_authority_that_is_gone_is_told_and_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path());
        let at = |day: i64| Timestamp::from_epoch_ms(1_780_000_000_000 + day * DAY_MS);
        let mut keeper = Keeper::open(&config, vec!["localhost".to_owned()], at(0)).unwrap();
        let shown = keeper.tls();
        let authority = std::fs::read(config.ca_file()).unwrap();
        std::fs::remove_file(config.ca_file()).unwrap();
        keeper.look(at(300));
        let status = keeper.shown().status();
        assert!(status.problem.is_some_and(|problem| problem.contains("cannot read")));
        assert!(!shown.has_changed().unwrap() && !config.ca_file().exists());
        // Put back, the next look renews.
        std::fs::write(config.ca_file(), authority).unwrap();
        keeper.look(at(300));
        let status = keeper.shown().status();
        assert!(status.problem.is_none() && status.own && status.since == at(300), "{status:?}");
        assert!(shown.has_changed().unwrap());
    }
}
