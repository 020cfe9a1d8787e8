use keyward_model::{
    RevocationPolicy,
    sync::{DesiredCredential, DesiredEncryption},
};
use serde_json::json;
use sqlx::Connection;

use crate::{
    nodes::{desired, node},
    site::{Site, Thing, at, event, on_both_databases},
};

on_both_databases!(
    a_secret_reads_back_for_its_owner_alone,
    no_secret_stands_in_the_database,
    debug_shows_nothing
);

async fn a_secret_reads_back_for_its_owner_alone(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    change.put_secret("encryption:p1", b"first").await.unwrap();
    change.put_secret("encryption:p1", b"second").await.unwrap();
    change.put_secret("encryption:p2", b"other").await.unwrap();
    change.commit(event(), at(0)).await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(**tx.secret("encryption:p1").await.unwrap().unwrap(), *b"second");
    assert!(tx.has_secret("encryption:p2").await.unwrap());
    assert_eq!(tx.secret("encryption:p3").await.unwrap(), None);
    drop(tx);

    // Moved to another owner by someone who can write to the database, it does not open.
    sqlx::any::install_default_drivers();
    let mut connection = sqlx::AnyConnection::connect(&site.url).await.unwrap();
    let moved = "UPDATE \"secret\" SET sealed = (SELECT sealed FROM \"secret\" WHERE owner = 'encryption:p1') \
                 WHERE owner = 'encryption:p2'";
    sqlx::query(moved).execute(&mut connection).await.unwrap();
    let refused = store.read().await.unwrap().secret("encryption:p2").await.unwrap_err();
    assert!(refused.to_string().contains("encryption:p2"), "{refused}");

    let mut change = store.change().await.unwrap();
    assert!(change.drop_secret("encryption:p1").await.unwrap());
    assert!(!change.drop_secret("encryption:p1").await.unwrap());
    change.commit(event(), at(1)).await.unwrap();
    assert!(!store.read().await.unwrap().has_secret("encryption:p1").await.unwrap());
}

fn with_client_secret(secret: &str) -> keyward_model::sync::Desired {
    let encryption: DesiredEncryption = serde_json::from_value(json!({
        "keyIdentifier": "https://shop.vault.azure.net/keys/cmk/0123456789abcdef0123456789abcdef",
        "azureEnvironment": "AZURE", "tenantId": "t", "clientId": "c", "subscriptionId": null,
        "resourceGroupName": null, "credential": DesiredCredential::ClientSecret { secret: secret.into() },
        "requirePrivateNetworking": false, "policy": RevocationPolicy::default(), "clientSecretExpires": null,
    }))
    .unwrap();
    keyward_model::sync::Desired { encryption: Some(encryption), ..desired("shop") }
}

async fn no_secret_stands_in_the_database(site: Site) {
    let secrets = ["kw~Client.Secret~0", "kw~Desired.Secret~1", "kw~Access.Token~2", "kw~Dropped.Secret~3"];
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "kw~in.plain.sight")).await.unwrap();
    change.put_secret("encryption:p1", secrets[0].as_bytes()).await.unwrap();
    change.put_desired(node(1), &with_client_secret(secrets[1]), at(0)).await.unwrap();
    change.put_access_token(secrets[2], "robot", at(10)).await.unwrap();
    change.put_secret("encryption:p2", secrets[3].as_bytes()).await.unwrap();
    change.drop_secret("encryption:p2").await.unwrap();
    change.commit(event().detail("note", "kw~also.in.sight"), at(0)).await.unwrap();
    // They are there all the same.
    let mut tx = store.read().await.unwrap();
    assert_eq!(**tx.secret("encryption:p1").await.unwrap().unwrap(), *secrets[0].as_bytes());
    assert_eq!(
        tx.desired(node(1)).await.unwrap().unwrap().encryption,
        with_client_secret(secrets[1]).encryption
    );
    assert!(tx.access_token(secrets[2], at(0)).await.unwrap().is_some());
    drop(tx);

    let contents = site.contents();
    let finds = |needle: &[u8]| contents.windows(needle.len()).any(|window| window == needle);
    let forms = |secret: &str| {
        [
            secret.as_bytes().to_vec(),
            data_encoding::HEXLOWER.encode(secret.as_bytes()).into_bytes(),
            data_encoding::BASE64.encode(secret.as_bytes()).as_bytes()[..20].to_vec(),
        ]
    };
    for control in ["kw~in.plain.sight", "kw~also.in.sight", "encryption:p1"] {
        assert!(finds(control.as_bytes()), "positive control: {control}");
    }
    for secret in secrets {
        for form in forms(secret) {
            assert!(!finds(&form), "{secret} is stored as {}", String::from_utf8_lossy(&form));
        }
    }
    let key = std::fs::read_to_string(&site.key_file).unwrap();
    let encoded = key.trim().rsplit(':').next().unwrap();
    let raw = data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).unwrap();
    assert!(!finds(encoded.as_bytes()) && !finds(&raw), "the server key is stored");
    assert!(!finds(data_encoding::HEXLOWER.encode(&raw).as_bytes()), "the server key is stored");
}

async fn debug_shows_nothing(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    change.put_secret("encryption:p1", b"hunter2").await.unwrap();
    let shown = format!("{store:?} {change:?} {:?} {:?}", store.key(), store.read().await.unwrap());
    assert!(!shown.contains("hunter2") && !shown.contains("keyward@"), "{shown}");
    assert!(shown.contains("ServerKey") && shown.contains("Change"), "{shown}");
}
