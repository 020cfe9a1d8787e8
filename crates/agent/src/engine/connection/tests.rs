//! A connection to the double of mongod, over TLS and without.

use std::path::{Path, PathBuf};

use keyward_testkit::{
    certificates::Authority,
    mongod_double::{MongodDouble, free_port},
};

use super::*;
use crate::{
    config::{EngineKind, TlsConfig},
    engine::database::{Database, DatabaseError},
    node::chain,
};

/// A mongod that requires TLS, and whose certificates are good for it.
struct Site {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "members").unwrap();
        Self { dir, authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, name: &str, arguments: &[&str]) -> MongodDouble {
        self.start_at(name, free_port().unwrap(), arguments)
    }

    fn start_at(&self, name: &str, port: u16, arguments: &[&str]) -> MongodDouble {
        std::fs::create_dir_all(self.path(name)).unwrap();
        MongodDouble::start(&self.path(name), port, arguments, &[]).unwrap()
    }

    /// The arguments of a mongod with the certificate in `own`.
    fn arguments<'a>(&'a self, own: &'a Path) -> [&'a str; 6] {
        let text = |path: &'a Path| path.to_str().unwrap();
        [
            "--tlsMode",
            "requireTLS",
            "--tlsCertificateKeyFile",
            text(own),
            "--tlsCAFile",
            text(self.authority.ca_file()),
        ]
    }

    /// `[engine.tls]` with the members' authority.
    fn tls(&self) -> TlsConfig {
        TlsConfig { ca_file: Some(self.authority.ca_file().to_owned()), ..TlsConfig::default() }
    }
}

const WEAK: &str = "--tlsAllowConnectionsWithoutCertificates";

fn engine(port: u16, tls: Option<TlsConfig>) -> EngineConfig {
    EngineConfig { port, tls, ..EngineConfig::for_test(EngineKind::Mongod) }
}

fn database(port: u16, tls: TlsConfig) -> Database {
    Database::new(&engine(port, Some(tls)))
}

/// Why there is no connection.
async fn refusal(database: &Database) -> ConnectionError {
    match database.version().await {
        Err(DatabaseError::Command { source, .. }) => match *source {
            Failure::Connection(error) => error,
            refused @ Failure::Refused { .. } => panic!("a refusal: {refused}"),
        },
        other => panic!("no refusal: {other:?}"),
    }
}

fn distrust(error: &ConnectionError) -> &Distrust {
    let ConnectionError::Untrusted { why, .. } = error else { panic!("{error:?}") };
    why
}

#[tokio::test]
async fn a_mongod_is_believed_only_with_the_right_certificate() {
    let site = Site::new();
    let own = site.authority.sign("db1", &["db1.test"]).unwrap();
    let mongod = site.start("db", &[&site.arguments(&own)[..], &[WEAK]].concat());
    let with = |tls| database(mongod.port, tls);
    let named = |name: &str| TlsConfig { server_name: Some(name.into()), ..site.tls() };

    // Told its name, it is asked, and what it showed is told.
    assert_eq!(with(named("db1.test")).version().await.unwrap(), "7.0.0-double");
    let seen = with(named("db1.test")).look().await.unwrap();
    let (shown, verified) = seen.certificate.unwrap();
    assert_eq!((verified.as_str(), seen.own), ("db1.test", None));
    assert_eq!(shown.not_after.to_string(), "2100-01-01T00:00:00Z");
    assert_eq!(shown.names, ["db1.test"]);
    assert!(shown.to_string().contains("CN=db1"), "{shown}");

    // Another name, and none: it is in no set that would know one.
    let error = refusal(&with(named("db2.test"))).await;
    assert!(error.to_string().ends_with("is for db1.test, not for db2.test"), "{error}");
    let error = refusal(&with(site.tls())).await;
    let Distrust::Name { wanted } = distrust(&error) else { panic!("{error:?}") };
    assert_eq!(wanted[..2], ["127.0.0.1", "localhost"]);
    assert!(error.hint().contains("server_name = \"db1.test\""), "{}", error.hint());
    // The name of this host's own is no other member's.
    let member = with(named("db1.test")).of_member(&format!("127.0.0.1:{}", mongod.port)).unwrap();
    let error = refusal(&member).await;
    assert!(error.to_string().ends_with("is for db1.test, not for 127.0.0.1"), "{error}");

    // Another authority.
    let others = Authority::new(site.dir.path(), "others").unwrap();
    let of_others = TlsConfig { ca_file: Some(others.ca_file().to_owned()), ..named("db1.test") };
    let error = refusal(&with(of_others)).await;
    assert!(matches!(distrust(&error), Distrust::Authority { ca_file } if ca_file == others.ca_file()));
    assert!(error.hint().starts_with("set ca_file under [engine.tls]"), "{}", error.hint());

    // Without TLS: told what is missing.
    let error = refusal(&Database::new(&engine(mongod.port, None))).await;
    assert!(matches!(error, ConnectionError::RequiresTls { .. }), "{error:?}");
    assert!(error.hint().contains("[engine.tls] with ca_file = "), "{}", error.hint());

    // Files that are not there, or not what they should be.
    let broken = TlsConfig { ca_file: Some(site.path("nowhere.pem")), ..named("db1.test") };
    let error = refusal(&with(broken)).await;
    assert!(matches!(&error, ConnectionError::Files(TlsFileError::File { .. })), "{error:?}");
    assert!(chain(&error).contains("nowhere.pem"), "{error}");
    let empty = site.path("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let error = refusal(&with(TlsConfig { ca_file: Some(empty), ..named("db1.test") })).await;
    assert!(chain(&error).contains("there is no certificate in it"), "{}", chain(&error));
    let no_key =
        TlsConfig { certificate_file: Some(site.authority.ca_file().to_owned()), ..named("db1.test") };
    let error = refusal(&with(no_key)).await;
    assert!(error.to_string().contains("a private key"), "{error}");
}

#[tokio::test]
async fn one_whose_days_are_over_or_to_come_is_refused() {
    let site = Site::new();
    for (name, days, expected) in [
        ("old", ((2020, 1, 1), (2021, 1, 1)), "which ended at 2021-01-01T00:00:00Z"),
        ("new", ((2099, 1, 1), (2100, 1, 1)), "which holds only from 2099-01-01T00:00:00Z"),
    ] {
        let own = site.authority.sign_for(name, &["127.0.0.1"], days).unwrap();
        let mongod = site.start(name, &[&site.arguments(&own)[..], &[WEAK]].concat());
        let error = refusal(&database(mongod.port, site.tls())).await;
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(error.hint().contains("this host's clock"), "{}", error.hint());
    }
}

#[tokio::test]
async fn the_agent_shows_its_certificate_where_one_is_wanted() {
    let site = Site::new();
    let own = site.authority.sign("db1", &["127.0.0.1"]).unwrap();
    let mongod = site.start("db", &site.arguments(&own));
    let showing =
        |file: Option<PathBuf>| database(mongod.port, TlsConfig { certificate_file: file, ..site.tls() });
    let error = refusal(&showing(None)).await;
    assert!(matches!(error, ConnectionError::WantsCertificate { .. }), "{error:?}");
    assert!(error.hint().starts_with("set certificate_file under [engine.tls]"), "{}", error.hint());
    let others = Authority::new(site.dir.path(), "others").unwrap();
    let error = refusal(&showing(Some(others.sign("stranger", &[]).unwrap()))).await;
    let ConnectionError::CertificateRefused { own: Some(shown), .. } = &error else { panic!("{error:?}") };
    assert!(shown.subject.contains("CN=stranger"), "{shown}");

    let agents = showing(Some(site.authority.sign("agent", &[]).unwrap()));
    assert_eq!(agents.version().await.unwrap(), "7.0.0-double");
    let seen = agents.look().await.unwrap();
    let (shown, asked) = seen.own.unwrap();
    assert!(asked && shown.subject.contains("CN=agent"), "{shown}");
    assert_eq!(seen.certificate.unwrap().1, "127.0.0.1");

    // Where the agent's file says nothing, mongod's own options do.
    let args = site.arguments(&own).map(str::to_owned).to_vec();
    let derived = EngineConfig { args, ..engine(mongod.port, None) };
    assert_eq!(Database::new(&derived).version().await.unwrap(), "7.0.0-double");
}

#[tokio::test]
async fn a_mongod_without_tls_is_not_spoken_to_in_the_clear() {
    let site = Site::new();
    let mongod = site.start("db", &[]);
    let error = refusal(&database(mongod.port, site.tls())).await;
    assert!(matches!(error, ConnectionError::NoTls { .. }), "{error:?}");
    assert!(error.hint().contains("remove [engine.tls]"), "{}", error.hint());
    // The control: it is there, and its agent asks it in the clear where the file says so.
    let plain = Database::new(&engine(mongod.port, None));
    assert_eq!(plain.version().await.unwrap(), "7.0.0-double");
    assert_eq!(plain.look().await.unwrap(), Seen { certificate: None, own: None });
    // Nobody at all.
    let error = refusal(&database(free_port().unwrap(), site.tls())).await;
    assert!(matches!(error, ConnectionError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn the_agent_logs_in_with_its_certificate_or_its_password() {
    let site = Site::new();
    let own = site.authority.sign("db1", &["127.0.0.1"]).unwrap();
    let mongod = site.start("db", &[&site.arguments(&own)[..], &["--auth"]].concat());
    let agent = site.authority.sign("agent", &[]).unwrap();
    let tls = TlsConfig { certificate_file: Some(agent), ..site.tls() };

    // The first user, made from this host, makes the others.
    let place = Place {
        host: "127.0.0.1".into(),
        port: mongod.port,
        own: true,
        engine: Arc::new(engine(mongod.port, Some(tls.clone()))),
        running: Arc::default(),
    };
    let (mut first, _) = Connection::open(&place).await.unwrap();
    first.run("admin", doc! { "createUser": "root", "pwd": "süß", "roles": ["root"] }).await.unwrap();
    let root = |password: &str| Login::Password { user: "root".into(), password: password.to_owned().into() };
    first.log_in(&root("süß")).await.unwrap();
    let roles = vec![doc! { "role": "hostManager", "db": "admin" }];
    let user = doc! { "createUser": "CN=agent,O=tests of keyward", "roles": roles };
    first.run("$external", user).await.unwrap();
    let (mut second, _) = Connection::open(&place).await.unwrap();
    let failed = second.log_in(&root("suess")).await.unwrap_err();
    assert!(matches!(failed, Failure::Connection(ConnectionError::LogIn { .. })), "{failed:?}");

    let by_certificate = TlsConfig { log_in_with_certificate: true, ..tls.clone() };
    database(mongod.port, by_certificate.clone()).flush().await.unwrap();
    let without = database(mongod.port, tls.clone()).flush().await.unwrap_err();
    assert!(without.is_answer(), "{without:?}");
    // One that the database does not know is no user.
    let other = site.authority.sign("other", &[]).unwrap();
    let other = TlsConfig { certificate_file: Some(other), ..by_certificate };
    let error = database(mongod.port, other).flush().await.unwrap_err();
    assert!(!error.is_answer() && chain(&error).contains("does not let the agent log in"), "{error:?}");

    let file = site.path("password");
    std::fs::write(&file, "süß\n").unwrap();
    let engine = EngineConfig {
        database_user: Some("root".into()),
        database_password_file: Some(file),
        ..engine(mongod.port, Some(tls))
    };
    Database::new(&engine).flush().await.unwrap();
}

#[tokio::test]
async fn a_database_that_was_started_anew_is_asked_over_a_new_connection() {
    let site = Site::new();
    let own = site.authority.sign("db1", &["127.0.0.1"]).unwrap();
    for arguments in [Vec::new(), [&site.arguments(&own)[..], &[WEAK]].concat()] {
        let mongod = site.start("db", &arguments);
        let port = mongod.port;
        let tls = (!arguments.is_empty()).then(|| site.tls());
        let database = Database::new(&engine(port, tls));
        database.version().await.unwrap();
        database.version().await.unwrap();
        mongod.terminate().unwrap();
        let _again = site.start_at("db", port, &arguments);
        database.version().await.unwrap();
    }
}

#[test]
fn the_names_of_this_hosts_mongod_are_where_it_is_dialled_and_how_its_set_knows_it() {
    let of = |dialled: &str, me: &str| names_of_own(dialled, &doc! { "me": me });
    assert_eq!(of("127.0.0.1", "db1.test:27017"), ["127.0.0.1", "localhost", "db1.test"]);
    assert_eq!(of("10.0.0.7", "db1.test:27017"), ["10.0.0.7", "db1.test"]);
    assert_eq!(of("::1", "[fd00::1]:27017"), ["::1", "localhost", "fd00::1"]);
    assert_eq!(of("127.0.0.1", "localhost:27017"), ["127.0.0.1", "localhost"]);
    assert!(names_of_own("10.0.0.7", &doc! {}).len() <= 2);
}

#[test]
fn what_is_no_message_is_not_taken_for_one() {
    let whole = message(7, &doc! { "ping": 1 }).unwrap();
    let head: [u8; 16] = whole[..16].try_into().unwrap();
    assert_eq!((word(&head, 0), word(&head, 4), word(&head, 12)), (36, 7, OP_MSG));
    assert_eq!(room(&head).len(), whole.len() - 16);
    let body = &whole[16..];
    assert_eq!(document(body), Some(doc! { "ping": 1 }));
    // With a checksum behind it, and cut off.
    let summed = [&[1, 0, 0, 0], &body[4..], &[1, 2, 3, 4]].concat();
    assert_eq!(document(&summed), Some(doc! { "ping": 1 }));
    for length in 0..body.len() {
        assert_eq!(document(&body[..length]), None, "{length}");
    }
    for length in [-1, 0, 15, i32::MAX] {
        let mut head = head;
        head[..4].copy_from_slice(&i32::to_le_bytes(length));
        assert!(room(&head).is_empty(), "{length}");
    }
}

/// What a database says of itself stands in status, and the server is told: one in wrong hands may say anything.
#[tokio::test]
async fn a_database_that_says_too_much_is_cut_short() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let much = "x".repeat(1_000_000);
    let answers = [
        doc! { "ok": 1 },
        doc! { "ok": 0, "code": 1, "errmsg": &much, "codeName": &much },
        doc! {
            "ok": 1, "version": &much,
        },
    ];
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in answers {
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.unwrap();
            stream.read_exact(&mut room(&head)).await.unwrap();
            let mut message = message(1, &answer).unwrap();
            message[8..12].copy_from_slice(&word(&head, 4).to_le_bytes());
            stream.write_all(&message).await.unwrap();
        }
    });
    let database = Database::new(&engine(port, None));
    let error = database.version().await.unwrap_err();
    assert!(chain(&error).contains("xxx") && chain(&error).len() < 2_000, "{}", chain(&error).len());
    assert_eq!(database.version().await.unwrap().len(), 64);
    serving.await.unwrap();
}
