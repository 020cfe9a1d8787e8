use keyward_store::{Store, StoreError};
use keyward_testkit::postgres::TlsServer;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::site::{Site, at, event};

/// The server takes no connection without TLS, and its certificate is for `localhost` by an authority of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_over_the_network_must_show_a_certificate_that_is_trusted_and_its_own() {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &Issuer::new(authority, authority_key))
        .unwrap();
    let Some(server) = TlsServer::start(&certificate.pem(), &key.serialize_pem()) else { return };

    let site = Site::sqlite();
    let authority_file = site.dir.path().join("authority.pem");
    std::fs::write(&authority_file, authority_pem).unwrap();
    let trusted = format!("sslrootcert={}", authority_file.display());
    let open = async |host: &str, query: &str| {
        let url = format!("postgres://keyward@{host}:{}/keyward?{query}", server.port);
        Store::open(&url, site.key.clone()).await
    };

    let store = open("localhost", &format!("sslmode=verify-full&{trusted}")).await.unwrap();
    store.change().await.unwrap().commit(event(), at(0)).await.unwrap();
    let unknown = open("localhost", "sslmode=verify-full").await.unwrap_err();
    assert!(matches!(unknown, StoreError::Unreachable(_)), "{unknown:?}");
    let other_name = open("127.0.0.1", &format!("sslmode=verify-full&{trusted}")).await.unwrap_err();
    assert!(matches!(other_name, StoreError::Unreachable(_)), "{other_name:?}");
    open("localhost", "sslmode=disable").await.unwrap_err();
    assert!(
        server.log().contains("no encryption"),
        "positive control: it was asked without TLS: {}",
        server.log()
    );
}
