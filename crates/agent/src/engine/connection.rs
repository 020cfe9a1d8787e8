//! One connection to a database that speaks MongoDB's protocol: TCP, TLS where it is wanted, a first `hello`, a
//! log-in, and then commands, one after the other.
//!
//! It is not MongoDB's driver, because that one verifies no other name than the host it dials, and keeps to itself
//! which certificate it was shown (docs/decisions/0012-own-connection.md). It never sends a password, or anything
//! else than a `hello`, to whom it has not verified where TLS is wanted; and it never falls back to plain text.

mod login;
mod tls;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use bson::{Bson, Document, doc};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{AlertDescription, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) use login::Login;
pub use tls::{Distrust, Shown, TlsFileError};

use super::mongod_options::MongodTls;
use crate::config::EngineConfig;
use tls::{Handshake, Trust};

/// How long a database that begins to listen may take.
const REACH: Duration = Duration::from_secs(5);
/// Between two tries to reach it.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a handshake and a first answer may take.
const GREETING: Duration = Duration::from_secs(10);
/// How long it may take to find out that one spoke TLS, or did not, after all.
const OTHERWISE: Duration = Duration::from_secs(2);
/// No more of what a database says stands in an error, in characters: status shows it, and the server is told.
const WORDS: usize = 500;
/// OP_MSG, and the flag that a checksum follows its sections.
const OP_MSG: i32 = 2013;
const CHECKSUM_PRESENT: u32 = 1;
/// The longest message that MongoDB sends.
const LONGEST: usize = 48_000_000 + 16 * 1024;

/// Why there is no connection, or no more.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Nobody listens, or the name is not known.
    #[error("{address} cannot be reached")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It takes connections and says nothing.
    #[error("{address} did not answer within {} s", GREETING.as_secs())]
    Silent {
        /// Where.
        address: String,
    },
    /// It was closed in the middle.
    #[error("the connection to {address} broke")]
    Broken {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Its answer is not MongoDB's protocol.
    #[error("the answer of {address} is not understood")]
    NotUnderstood {
        /// Where.
        address: String,
    },
    /// It takes TLS alone.
    #[error("{address} requires TLS, and the agent's file does not speak of it")]
    RequiresTls {
        /// Where.
        address: String,
    },
    /// It takes no TLS.
    #[error("{address} does not speak TLS, and the agent's file or engine.args say that it does")]
    NoTls {
        /// Where.
        address: String,
    },
    /// Its certificate is not good.
    #[error("{address} shows the certificate {shown}, which {}", of(.why, .shown))]
    Untrusted {
        /// Where.
        address: String,
        /// What it showed.
        shown: Box<Shown>,
        /// What is wrong with it.
        why: Distrust,
    },
    /// It wants a certificate of the agent.
    #[error("{address} asks for a client certificate, and the agent has none")]
    WantsCertificate {
        /// Where.
        address: String,
    },
    /// It does not take the agent's certificate.
    #[error("{address} does not take the agent's certificate {}: {alert}", name(.own))]
    CertificateRefused {
        /// Where.
        address: String,
        /// The agent's certificate.
        own: Option<Box<Shown>>,
        /// What it said.
        alert: String,
    },
    /// The handshake failed otherwise.
    #[error("no TLS connection to {address} comes about")]
    Handshake {
        /// Where.
        address: String,
        /// Why.
        source: rustls::Error,
    },
    /// The agent's own side.
    #[error(transparent)]
    Files(#[from] TlsFileError),
    /// A user, a password, or a certificate that it does not know.
    #[error("{address} does not let the agent log in: {message}")]
    LogIn {
        /// Where.
        address: String,
        /// What it said.
        message: String,
    },
    /// It let the agent in without knowing its password.
    #[error("what listens at {address} does not know the agent's password: it is not the database")]
    NotTheDatabase {
        /// Where.
        address: String,
    },
    /// The system's random source failed.
    #[error("the system gives no random bytes")]
    NoRandomBytes,
}

fn of(why: &Distrust, shown: &Shown) -> String {
    match why {
        Distrust::Authority { ca_file } => format!("is not of the authority in {}", ca_file.display()),
        Distrust::Expired => format!("ended at {}", shown.not_after),
        Distrust::NotYet => format!("holds only from {}", shown.not_before),
        Distrust::Name { wanted } if shown.names.is_empty() => {
            format!("names no host (subjectAltName), not {}", wanted.join(" or "))
        }
        Distrust::Name { wanted } => {
            format!("is for {}, not for {}", shown.names.join(", "), wanted.join(" or "))
        }
        Distrust::Other(text) => format!("cannot be used: {text}"),
    }
}

fn name(own: &Option<Box<Shown>>) -> String {
    own.as_ref().map_or_else(String::new, |own| format!("({own})"))
}

impl ConnectionError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Broken { .. } | Self::NotUnderstood { .. } => {
                "check that the engine runs and listens on engine.host and engine.port".to_owned()
            }
            Self::RequiresTls { .. } => tls::lines_to_add(),
            Self::NoTls { .. } => "remove [engine.tls] from the agent's file and the tls options from engine.args, \
                                   or start mongod with --tlsMode requireTLS"
                .to_owned(),
            Self::Untrusted { why: Distrust::Authority { .. }, .. } => {
                "set ca_file under [engine.tls] to the authority that signed the members' certificates: their \
                 net.tls.CAFile"
                    .to_owned()
            }
            Self::Untrusted { why: Distrust::Expired | Distrust::NotYet, .. } => {
                "give mongod a certificate that holds (net.tls.certificateKeyFile, then rotateCertificates or a \
                 restart); check this host's clock"
                    .to_owned()
            }
            Self::Untrusted { why: Distrust::Name { .. }, shown, .. } => match shown.names.first() {
                Some(first) => format!(
                    "set server_name = \"{first}\" under [engine.tls], if that is this host's mongod; or give mongod \
                     a certificate with that name"
                ),
                None => "give mongod a certificate with its host name as subjectAltName".to_owned(),
            },
            Self::Untrusted { why: Distrust::Other(_), .. } | Self::Handshake { .. } => {
                "look at mongod's certificate: openssl x509 -noout -text -in FILE".to_owned()
            }
            Self::WantsCertificate { .. } => {
                "set certificate_file under [engine.tls] to a PEM file with a certificate of the agent's own, signed \
                 by the authority of net.tls.CAFile, and its key"
                    .to_owned()
            }
            Self::CertificateRefused { .. } => {
                "give certificate_file under [engine.tls] a certificate that holds and that an authority of mongod's \
                 net.tls.CAFile signed; mongod's log says why it was refused"
                    .to_owned()
            }
            Self::Files(error) => error.hint(),
            Self::LogIn { .. } => "check engine.database_user and engine.database_password_file, or the user of \
                                   the certificate's subject in $external: docs/guides/mongod-user.md"
                .to_owned(),
            Self::NotTheDatabase { .. } => {
                "find out what listens there; check engine.host and engine.port".to_owned()
            }
            Self::NoRandomBytes => "see the agent's log".to_owned(),
        }
    }
}

/// What a command comes to when it does not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The database said no.
    #[error("{message} ({name}, {code})")]
    Refused {
        /// Its number for the refusal.
        code: i32,
        /// Its name for it.
        name: String,
        /// What it says.
        message: String,
    },
    /// It said nothing.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// Why the agent could not speak TLS with a mongod that `engine` starts, whoever listens; `None` where it need not, or
/// can. Blocks.
pub(super) fn unusable(engine: &EngineConfig) -> Option<TlsFileError> {
    let read = |files: Option<tls::Files>| files.map(Trust::read).transpose();
    tls::files(engine, &MongodTls::default()).and_then(read).err()
}

/// Where a database is, and how it is spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether it is this host's own: then it may be known to its set by another name than it is dialled by.
    pub(crate) own: bool,
    /// What the agent's file says.
    pub(crate) engine: Arc<EngineConfig>,
    /// What the options of the running process say.
    pub(crate) running: Arc<MongodTls>,
}

/// What a first look at a database shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The certificate that it showed, and the name that this is verified for; `None` without TLS.
    pub certificate: Option<(Shown, String)>,
    /// The certificate that the agent would show, where it has one, and whether it was asked for.
    pub own: Option<(Shown, bool)>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    address: String,
    requests: i32,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Connects, and says hello. Logs in nowhere.
    pub(crate) async fn open(place: &Place) -> Result<(Self, Seen), ConnectionError> {
        let Place { engine, running, .. } = place.clone();
        let trust =
            tokio::task::spawn_blocking(move || tls::files(&engine, &running)?.map(Trust::read).transpose());
        let trust = trust.await.map_err(|_| ConnectionError::Silent { address: place.address() })??;
        let socket = place.reach(REACH).await?;
        let opened = async {
            match &trust {
                None => place.open_plain(socket).await,
                Some(trust) => place.open_tls(socket, trust).await,
            }
        };
        let silent = || ConnectionError::Silent { address: place.address() };
        tokio::time::timeout(GREETING, opened).await.unwrap_or_else(|_| Err(silent()))
    }

    fn new(stream: Stream, address: String) -> Self {
        Self { stream, address, requests: 0 }
    }

    /// Whether it is as it was left: not closed, and nothing came that nobody asked for.
    pub(crate) fn is_idle(&self) -> bool {
        let socket = match &self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        // The system is asked itself: the runtime may not have heard of the end yet.
        let mut watched = [PollFd::new(socket, PollFlags::IN)];
        poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0)
    }

    /// Runs one command. After a [`Failure::Connection`] it is of no more use.
    pub(crate) async fn run(&mut self, database: &str, mut command: Document) -> Result<Document, Failure> {
        command.insert("$db", database);
        let answer = self.exchange(&command).await.map_err(|error| self.broken(error))?;
        let Some(answer) = answer else {
            return Err(ConnectionError::NotUnderstood { address: self.address.clone() }.into());
        };
        let succeeded = match answer.get("ok") {
            Some(Bson::Double(ok)) => *ok == 1.0,
            Some(Bson::Int32(ok)) => *ok == 1,
            Some(Bson::Int64(ok)) => *ok == 1,
            Some(Bson::Boolean(ok)) => *ok,
            _ => false,
        };
        if succeeded {
            return Ok(answer);
        }
        let text = |name| short(answer.get_str(name).unwrap_or_default(), WORDS);
        Err(Failure::Refused {
            code: answer.get_i32("code").unwrap_or_default(),
            name: text("codeName"),
            message: text("errmsg"),
        })
    }

    /// The answer; `None` when it is not one.
    async fn exchange(&mut self, command: &Document) -> io::Result<Option<Document>> {
        self.requests = self.requests.wrapping_add(1);
        let message = message(self.requests, command)?;
        let (head, body) = match &mut self.stream {
            Stream::Plain(stream) => ask(stream, &message).await?,
            Stream::Tls(stream) => ask(stream, &message).await?,
        };
        Ok(if word(&head, 8) == self.requests && word(&head, 12) == OP_MSG { document(&body) } else { None })
    }

    fn broken(&self, source: io::Error) -> ConnectionError {
        ConnectionError::Broken { address: self.address.clone(), source }
    }

    /// Who asks; what it is answered is a claim until the other side was verified.
    async fn hello(&mut self) -> Result<Document, ConnectionError> {
        let driver = doc! { "name": "keyward", "version": env!("CARGO_PKG_VERSION") };
        let client =
            doc! { "application": { "name": "keyward" }, "driver": driver, "os": { "type": "Linux" } };
        match self.run("admin", doc! { "hello": 1, "client": client }).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Connection(error)) => Err(error),
            Err(Failure::Refused { .. }) => {
                Err(ConnectionError::NotUnderstood { address: self.address.clone() })
            }
        }
    }
}

impl Place {
    fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Tries for `patience`, as one that was just started does not listen yet.
    async fn reach(&self, patience: Duration) -> Result<TcpStream, ConnectionError> {
        let deadline = Instant::now() + patience;
        loop {
            let tried =
                tokio::time::timeout_at(deadline, TcpStream::connect((self.host.as_str(), self.port)));
            let error = match tried.await {
                Ok(Ok(socket)) => {
                    // Small requests and answers.
                    let _ = socket.set_nodelay(true);
                    return Ok(socket);
                }
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            if Instant::now() + AGAIN >= deadline {
                return Err(ConnectionError::Unreachable { address: self.address(), source: error });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn open_plain(&self, socket: TcpStream) -> Result<(Connection, Seen), ConnectionError> {
        let mut connection = Connection::new(Stream::Plain(socket), self.address());
        match connection.hello().await {
            Ok(_) => Ok((connection, Seen { certificate: None, own: None })),
            Err(ConnectionError::Broken { .. }) if self.answers_tls().await => {
                Err(ConnectionError::RequiresTls { address: self.address() })
            }
            Err(error) => Err(error),
        }
    }

    async fn open_tls(
        &self,
        socket: TcpStream,
        trust: &Trust,
    ) -> Result<(Connection, Seen), ConnectionError> {
        let configured = trust.server_name().filter(|_| self.own);
        let dialled = configured.unwrap_or(&self.host);
        let name =
            ServerName::try_from(dialled.to_owned()).map_err(|_| TlsFileError::Name(dialled.to_owned()))?;
        let late = self.own && configured.is_none() && dialled.parse::<IpAddr>().is_ok();
        let (config, handshake) = trust.client(late)?;
        let stream = match TlsConnector::from(Arc::new(config)).connect(name, socket).await {
            Ok(stream) => stream,
            Err(error) => return Err(self.explain(error, trust, &handshake, dialled).await),
        };
        let mut connection = Connection::new(Stream::Tls(Box::new(stream)), self.address());
        let hello = match connection.hello().await {
            Ok(hello) => hello,
            // With TLS 1.3 the other side judges our certificate only now.
            Err(ConnectionError::Broken { source, .. }) => {
                return Err(self.explain(source, trust, &handshake, dialled).await);
            }
            Err(error) => return Err(error),
        };
        let name = if late {
            let names = names_of_own(dialled, &hello);
            Trust::verify_late(&handshake, &names).map_err(|why| self.untrusted(&handshake, why))?
        } else {
            dialled.to_owned()
        };
        let certificate = handshake.shown().map(|shown| (shown, name));
        let own = trust.own().map(|own| (own, handshake.asked()));
        Ok((connection, Seen { certificate, own }))
    }

    fn untrusted(&self, handshake: &Handshake, why: Distrust) -> ConnectionError {
        match handshake.shown() {
            Some(shown) => {
                ConnectionError::Untrusted { address: self.address(), shown: Box::new(shown), why }
            }
            None => ConnectionError::NotUnderstood { address: self.address() },
        }
    }

    /// Why a handshake failed, or the first answer after it.
    async fn explain(
        &self,
        error: io::Error,
        trust: &Trust,
        handshake: &Handshake,
        expected: &str,
    ) -> ConnectionError {
        let address = self.address();
        let refused = |alert: String| match handshake.asked_in_vain() {
            true => ConnectionError::WantsCertificate { address: address.clone() },
            false => ConnectionError::CertificateRefused {
                address: address.clone(),
                own: trust.own().map(Box::new),
                alert,
            },
        };
        let told = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
        match told {
            Some(rustls::Error::InvalidCertificate(why)) => {
                self.untrusted(handshake, trust.distrust(&why, expected))
            }
            Some(rustls::Error::AlertReceived(alert)) if handshake.asked() && is_about_certificate(alert) => {
                refused(format!("{alert:?}"))
            }
            // mongod says in its log what it has against a certificate, or that there is none, and hangs up.
            None if handshake.shown().is_some() && handshake.asked() => {
                refused("it closed the connection".to_owned())
            }
            told => {
                let other_protocol = matches!(told, None | Some(rustls::Error::InvalidMessage(_)));
                if other_protocol && self.answers_plain().await {
                    return ConnectionError::NoTls { address };
                }
                match told {
                    Some(source) => ConnectionError::Handshake { address, source },
                    None => ConnectionError::Broken { address, source: error },
                }
            }
        }
    }

    /// Whether it would take TLS. Nothing is said to it but the beginning of a handshake.
    async fn answers_tls(&self) -> bool {
        let Ok(socket) = self.reach(REACH).await else { return false };
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // Trusts nobody: its certificate is refused, and with that it has answered.
        let config = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .map(|builder| {
                builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
            });
        let name = ServerName::try_from(self.host.clone());
        let (Ok(config), Ok(name)) = (config, name) else { return false };
        let Err(error) = TlsConnector::from(Arc::new(config)).connect(name, socket).await else {
            return true;
        };
        let told = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(told, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)))
    }

    /// Whether it would take plain text. Nothing is said to it but a hello.
    async fn answers_plain(&self) -> bool {
        let Ok(socket) = self.reach(REACH).await else { return false };
        let mut connection = Connection::new(Stream::Plain(socket), self.address());
        tokio::time::timeout(OTHERWISE, connection.hello()).await.is_ok_and(|answer| answer.is_ok())
    }
}

/// Alerts about the certificate that was shown, or not.
fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    [
        A::HandshakeFailure,
        A::NoCertificate,
        A::BadCertificate,
        A::UnsupportedCertificate,
        A::CertificateRevoked,
        A::CertificateExpired,
        A::CertificateUnknown,
        A::UnknownCA,
        A::AccessDenied,
        A::DecryptError,
        A::CertificateRequired,
    ]
    .contains(&alert)
}

/// The names, any of which the certificate of this host's own mongod may be for: where it was dialled, and how its
/// set knows it, or, in none, the host's own.
fn names_of_own(dialled: &str, hello: &Document) -> Vec<String> {
    let mut names = vec![dialled.to_owned()];
    if dialled.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        names.push("localhost".to_owned());
    }
    let known = hello.get_str("me").ok().and_then(|me| me.rsplit_once(':')).map(|(host, _)| host);
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let known = known.map_or_else(host, |host| host.trim_matches(['[', ']']).to_owned());
    if !names.contains(&known) {
        names.push(known);
    }
    names
}

/// Sends a message and reads one: its head, and the rest.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<([u8; 16], Vec<u8>)> {
    stream.write_all(message).await?;
    stream.flush().await?;
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let mut body = room(&head);
    stream.read_exact(&mut body).await?;
    Ok((head, body))
}

/// A message with one section: length, number, what it answers, kind; flags, section's kind, document.
fn message(number: i32, command: &Document) -> io::Result<Vec<u8>> {
    let body = command.to_vec().map_err(io::Error::other)?;
    let length = i32::try_from(16 + 5 + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(16 + 5 + body.len());
    for word in [length, number, 0, OP_MSG] {
        message.extend_from_slice(&word.to_le_bytes());
    }
    message.extend_from_slice(&[0; 5]);
    message.extend_from_slice(&body);
    Ok(message)
}

/// The beginning of what another program said.
pub(super) fn short(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

fn word(bytes: &[u8], at: usize) -> i32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, i32::from_le_bytes)
}

/// Room for the rest of a message; none for one that is too long to be one.
fn room(head: &[u8; 16]) -> Vec<u8> {
    let length = usize::try_from(word(head, 0)).unwrap_or(0).saturating_sub(16);
    vec![0; if length > LONGEST { 0 } else { length }]
}

/// The document of a message's first section.
fn document(body: &[u8]) -> Option<Document> {
    let (flags, sections) = body.split_at_checked(4)?;
    let (kind, mut rest) = sections.split_first()?;
    if word(flags, 0) as u32 & CHECKSUM_PRESENT != 0 {
        rest = rest.get(..rest.len().checked_sub(4)?)?;
    }
    if *kind != 0 {
        return None;
    }
    Document::from_reader(rest).ok()
}

#[cfg(test)]
mod tests;
