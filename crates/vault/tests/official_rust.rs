//! Azure's own Rust client against a served vault, over this project's TLS stack.

#![allow(clippy::unwrap_used)]

mod served;

use std::sync::Arc;

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::{ClientOptions, RequestContent, RetryOptions, StatusCode, Transport};
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};
use azure_security_keyvault_keys::models::{
    CreateKeyParameters, EncryptionAlgorithm, Key, KeyClientEncryptOptions, KeyClientGetKeyOptions,
    KeyClientUpdateKeyPropertiesOptions, KeyClientWrapKeyOptions, KeyOperationParameters, KeyType,
    RestoreKeyParameters,
};
use azure_security_keyvault_keys::{KeyClient, KeyClientOptions, ResourceExt as _};
use futures_util::TryStreamExt;
use served::Served;

const NAME: &str = "rust-key";
const SECRET: [u8; 32] = [42; 32];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_life_of_a_key() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let description = vault.description();
    let client = client(&vault, &description.client_id, &description.client_secret);

    // Create, get, list.
    let first = create(&client).await;
    let second = create(&client).await;
    assert_ne!(version(&first), version(&second));
    assert_eq!(version(&get(&client, None).await), version(&second));
    assert_eq!(version(&get(&client, Some(version(&first))).await), version(&first));
    let versions: Vec<_> =
        client.list_key_properties_versions(NAME, None).unwrap().into_stream().try_collect().await.unwrap();
    assert_eq!(versions.len(), 2);
    let all: Vec<_> = client.list_key_properties(None).unwrap().into_stream().try_collect().await.unwrap();
    assert_eq!(all.len(), 1);

    // Wrap and encrypt, unwrap and decrypt, under an older version and under the newest.
    let wrapped = wrap(&client, Some(version(&first))).await;
    assert_eq!(unwrap(&client, &version(&first), &wrapped).await.unwrap(), SECRET);
    let newest = wrap(&client, None).await;
    assert_eq!(unwrap(&client, "", &newest).await.unwrap(), SECRET);
    assert_eq!(unwrap(&client, &version(&first), &newest).await.unwrap_err(), StatusCode::BadRequest);
    let options = KeyClientEncryptOptions { key_version: Some(version(&first)), ..Default::default() };
    let sealed =
        client.encrypt(NAME, parameters(&SECRET), Some(options)).await.unwrap().into_model().unwrap();
    let opened = client
        .decrypt(NAME, &version(&first), parameters(&sealed.result.unwrap()), None)
        .await
        .unwrap()
        .into_model()
        .unwrap();
    assert_eq!(opened.result.unwrap(), SECRET);

    // Rotate, with a policy.
    let policy = r#"{"lifetimeActions":[{"trigger":{"timeAfterCreate":"P90D"},"action":{"type":"Rotate"}}],"attributes":{"expiryTime":"P2Y"}}"#;
    client.update_key_rotation_policy(NAME, RequestContent::from_str(policy), None).await.unwrap();
    let policy = client.get_key_rotation_policy(NAME, None).await.unwrap().into_model().unwrap();
    assert_eq!(policy.attributes.unwrap().expiry_time.as_deref(), Some("P2Y"));
    let third = client.rotate_key(NAME, None).await.unwrap().into_model().unwrap();
    assert!(third.attributes.as_ref().unwrap().expires.is_some());
    let wrapped = wrap(&client, Some(version(&third))).await;

    // Disable and enable.
    set_enabled(&client, &version(&third), false).await;
    assert_eq!(get(&client, None).await.attributes.unwrap().enabled, Some(false));
    assert_eq!(unwrap(&client, &version(&third), &wrapped).await.unwrap_err(), StatusCode::Forbidden);
    set_enabled(&client, &version(&third), true).await;
    assert_eq!(unwrap(&client, &version(&third), &wrapped).await.unwrap(), SECRET);

    // Backup, delete, recover, purge, restore.
    let backup = client.backup_key(NAME, None).await.unwrap().into_model().unwrap().value.unwrap();
    client.delete_key(NAME, None).await.unwrap();
    assert_eq!(unwrap(&client, &version(&third), &wrapped).await.unwrap_err(), StatusCode::NotFound);
    assert!(client.get_deleted_key(NAME, None).await.unwrap().into_model().unwrap().recovery_id.is_some());
    client.recover_deleted_key(NAME, None).await.unwrap();
    assert_eq!(unwrap(&client, &version(&third), &wrapped).await.unwrap(), SECRET);
    client.delete_key(NAME, None).await.unwrap();
    client.purge_deleted_key(NAME, None).await.unwrap();
    assert_eq!(
        client.get_deleted_key(NAME, None).await.unwrap_err().http_status(),
        Some(StatusCode::NotFound)
    );
    let body = RestoreKeyParameters { key_backup: Some(backup) };
    client.restore_key(body.try_into().unwrap(), None).await.unwrap();
    assert_eq!(unwrap(&client, &version(&third), &wrapped).await.unwrap(), SECRET);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let description = vault.description();
    let owner = client(&vault, &description.client_id, &description.client_secret);
    create(&owner).await;

    let other = vault.admin.create_application("other").await.unwrap();
    let stranger = client(&vault, &other.client_id, &other.client_secret);
    let denied = stranger.get_key(NAME, None).await.unwrap_err();
    assert_eq!(denied.http_status(), Some(StatusCode::Forbidden), "{denied}");
    vault.admin.grant(&other.client_id, None, &[]).await.unwrap();
    assert!(stranger.get_key(NAME, None).await.is_ok());
    assert_eq!(stranger.rotate_key(NAME, None).await.unwrap_err().http_status(), Some(StatusCode::Forbidden));
    // A new client needs a new token.
    let wrong = client(&vault, &other.client_id, "wrong").get_key(NAME, None).await.unwrap_err();
    assert!(format!("{wrong:?}").contains("AADSTS7000215"), "{wrong:?}");
    vault.admin.expire_secret(&other.client_id).await.unwrap();
    let expired =
        client(&vault, &other.client_id, &other.client_secret).get_key(NAME, None).await.unwrap_err();
    assert!(format!("{expired:?}").contains("AADSTS7000222"), "{expired:?}");
    vault.stop().await;
}

fn client(vault: &Served, client_id: &str, secret: &str) -> KeyClient {
    let description = vault.description();
    let transport = Transport::new(Arc::new(vault.http.clone()));
    let mut cloud = CustomConfiguration::default();
    cloud.authority_host.clone_from(&description.authority);
    let cloud: Arc<CloudConfiguration> = Arc::new(cloud.into());
    let options = || ClientOptions {
        transport: Some(transport.clone()),
        cloud: Some(Arc::clone(&cloud)),
        retry: RetryOptions::none(),
        ..Default::default()
    };
    let credential: Arc<dyn TokenCredential> = ClientSecretCredential::new(
        &description.tenant_id,
        client_id.to_owned(),
        Secret::new(secret.to_owned()),
        Some(ClientSecretCredentialOptions { client_options: options() }),
    )
    .unwrap();
    let options = KeyClientOptions {
        client_options: options(),
        verify_challenge_resource: Some(false),
        ..Default::default()
    };
    KeyClient::new(&description.url, credential, Some(options)).unwrap()
}

async fn create(client: &KeyClient) -> Key {
    let body = CreateKeyParameters { kty: Some(KeyType::Rsa), key_size: Some(2048), ..Default::default() };
    client.create_key(NAME, body.try_into().unwrap(), None).await.unwrap().into_model().unwrap()
}

async fn get(client: &KeyClient, key_version: Option<String>) -> Key {
    let options = KeyClientGetKeyOptions { key_version, ..Default::default() };
    client.get_key(NAME, Some(options)).await.unwrap().into_model().unwrap()
}

async fn set_enabled(client: &KeyClient, version: &str, enabled: bool) {
    let body = RequestContent::from_str(if enabled {
        r#"{"attributes":{"enabled":true}}"#
    } else {
        r#"{"attributes":{"enabled":false}}"#
    });
    let options =
        KeyClientUpdateKeyPropertiesOptions { key_version: Some(version.to_owned()), ..Default::default() };
    client.update_key_properties(NAME, body, Some(options)).await.unwrap();
}

async fn wrap(client: &KeyClient, key_version: Option<String>) -> Vec<u8> {
    let options = KeyClientWrapKeyOptions { key_version, ..Default::default() };
    let wrapped = client.wrap_key(NAME, parameters(&SECRET), Some(options)).await.unwrap();
    wrapped.into_model().unwrap().result.unwrap()
}

async fn unwrap(client: &KeyClient, version: &str, wrapped: &[u8]) -> Result<Vec<u8>, StatusCode> {
    match client.unwrap_key(NAME, version, parameters(wrapped), None).await {
        Ok(opened) => Ok(opened.into_model().unwrap().result.unwrap()),
        Err(error) => Err(error.http_status().unwrap()),
    }
}

fn parameters(value: &[u8]) -> RequestContent<KeyOperationParameters> {
    KeyOperationParameters {
        algorithm: Some(EncryptionAlgorithm::RsaOaep256),
        value: Some(value.to_vec()),
        ..Default::default()
    }
    .try_into()
    .unwrap()
}

fn version(key: &Key) -> String {
    key.resource_id().unwrap().version.unwrap()
}
