//! The Azure client against the development vault: each fault and each denial shows as what it is.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod vault_config;

use std::{path::PathBuf, time::Duration};

use aws_lc_rs::digest;
use keyward_kms::{
    KeyService, Severity,
    azure::{AzureConfig, AzureKeyService, Credential},
    highest_severity,
};
use keyward_model::{Class, Evidence, KeyIdentifier, Weight};
use keyward_vault::{
    FirstStart, RunningVault, ServeOptions,
    admin::{FederatedRegistration, KeySettings},
    client::VaultAdmin,
    fault::FaultKind,
    serve_with,
    state::AccessModel,
};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use tempfile::TempDir;

const CANARY: [u8; 32] = [7; 32];

/// A development vault with the key `k1`, and a canary wrapped by it.
struct Vault {
    running: RunningVault,
    admin: VaultAdmin,
    folder: TempDir,
    key: KeyIdentifier,
    canary: Vec<u8>,
}

impl Vault {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options =
            ServeOptions { dir: folder.path().join("vault"), listen: "127.0.0.1:0".parse().unwrap() };
        let first = FirstStart { purge_protection: false, ..FirstStart::default() };
        let running = serve_with(options, first).await.unwrap();
        let admin = VaultAdmin::of(running.description()).unwrap();
        let made = admin.create_key("k1", 2048).await.unwrap();
        let key: KeyIdentifier = made.key_identifier().unwrap().parse().unwrap();
        std::fs::write(folder.path().join("secret"), &running.description().client_secret).unwrap();
        let mut vault = Self { running, admin, folder, key, canary: Vec::new() };
        vault.canary = vault.service().wrap(&vault.key, &CANARY).await.unwrap();
        vault
    }

    fn config(&self) -> AzureConfig {
        let credential = Credential::ClientSecretFile(self.file("secret"));
        vault_config::of(self.running.description(), &self.key, credential)
    }

    /// As an agent that has just been started: no token in memory, nothing learned.
    fn service(&self) -> AzureKeyService {
        AzureKeyService::new(self.config()).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client_id(&self) -> &str {
        &self.running.description().client_id
    }

    async fn probe_by(&self, service: &AzureKeyService) -> Evidence {
        let sha256 = digest::digest(&digest::SHA256, &CANARY).as_ref().try_into().unwrap();
        service.probe(&self.key, &self.canary, &sha256).await
    }

    /// The class that a running and a just started agent see.
    async fn expect(&self, running: &AzureKeyService, expected: Class) {
        for (which, service) in [("running", running), ("started", &self.service())] {
            let evidence = self.probe_by(service).await;
            assert_eq!(evidence.class, expected, "{which}: {evidence:?}");
        }
    }

    async fn started(&self) -> Class {
        self.probe_by(&self.service()).await.class
    }

    async fn set_key_ops(&self, operations: &[&str]) {
        let key_ops = Some(operations.iter().map(|operation| (*operation).to_owned()).collect());
        self.admin.change_key("k1", &KeySettings { key_ops, ..KeySettings::default() }).await.unwrap();
    }

    async fn grant(&self, model: AccessModel, actions: &[&str]) {
        let actions: Vec<String> = actions.iter().map(|action| (*action).to_owned()).collect();
        self.admin.grant(self.client_id(), Some(model), &actions).await.unwrap();
    }

    async fn revoke_all(&self) {
        self.admin.revoke(self.client_id(), None, &[]).await.unwrap();
    }
}

/// What the customer does to the key, and back: seen, and over once it is taken back.
#[tokio::test]
async fn what_is_done_to_the_key() {
    let vault = Vault::start().await;
    let running = vault.service();
    vault.expect(&running, Class::Success).await;

    vault.admin.disable_key("k1").await.unwrap();
    vault.expect(&running, Class::KeyDisabled).await;
    vault.admin.enable_key("k1").await.unwrap();
    vault.expect(&running, Class::Success).await;

    vault.set_key_ops(&["wrapKey", "encrypt", "sign"]).await;
    vault.expect(&running, Class::OperationTakenOff).await;
    vault.set_key_ops(&["wrapKey", "unwrapKey"]).await;
    vault.expect(&running, Class::Success).await;

    // Expired: it unwraps, and wraps nothing.
    let expired = KeySettings { expires: Some(1_000_000_000), ..KeySettings::default() };
    vault.admin.change_key("k1", &expired).await.unwrap();
    vault.expect(&running, Class::Success).await;
    assert_eq!(running.wrap(&vault.key, &CANARY).await.unwrap_err().class, Class::KeyNotCurrent);
    let findings = running.check(&vault.key).await;
    assert_eq!(highest_severity(&findings), Some(Severity::Refuse), "{findings:?}");
    vault.admin.change_key("k1", &KeySettings { expires: Some(0), ..KeySettings::default() }).await.unwrap();

    vault.admin.delete_key("k1").await.unwrap();
    vault.expect(&running, Class::KeyDeleted).await;
    assert_eq!(running.unwrap(&vault.key, &vault.canary).await.unwrap_err().class, Class::KeyDeleted);
    vault.admin.recover_key("k1").await.unwrap();
    vault.expect(&running, Class::Success).await;

    vault.admin.delete_key("k1").await.unwrap();
    vault.admin.purge_key("k1").await.unwrap();
    vault.expect(&running, Class::KeyPurged).await;
}

/// A deletion that nobody confirms is only a denial.
#[tokio::test]
async fn a_deleted_key_that_we_may_not_look_for() {
    let vault = Vault::start().await;
    vault.revoke_all().await;
    vault.grant(AccessModel::Rbac, &["wrapKey", "unwrapKey"]).await;
    assert_eq!(vault.started().await, Class::Success);
    vault.admin.delete_key("k1").await.unwrap();
    assert_eq!(vault.started().await, Class::KeyPurged);
}

/// A new version does not disturb the old one, and is found as the newest.
#[tokio::test]
async fn rotation_of_the_customer_key() {
    let vault = Vault::start().await;
    let rotated: KeyIdentifier =
        vault.admin.rotate_key("k1").await.unwrap().key_identifier().unwrap().parse().unwrap();
    let service = vault.service();
    assert_ne!(rotated, vault.key);
    assert_eq!(service.latest_version(&vault.key).await.unwrap(), rotated);
    assert_eq!(vault.started().await, Class::Success);
    let wrapped = service.wrap(&rotated, &CANARY).await.unwrap();
    assert_eq!(*service.unwrap(&rotated, &wrapped).await.unwrap().0, CANARY);
    // Under another version the ciphertext is damage, not a refusal.
    let error = service.unwrap(&vault.key, &wrapped).await.unwrap_err();
    assert_eq!(error.class, Class::BadCiphertext);
    let (old, new) = (service.describe(&vault.key).await.unwrap(), service.describe(&rotated).await.unwrap());
    assert_eq!((old.key_size_bits, new.key_size_bits), (Some(2048), Some(2048)));
    assert_ne!(old.public_key_sha256, new.public_key_sha256);
}

/// Both access models deny in their own words; each of the two grants is enough, alone.
#[tokio::test]
async fn grants_and_their_removal() {
    let vault = Vault::start().await;
    let running = vault.service();
    vault.expect(&running, Class::Success).await;
    vault.revoke_all().await;
    vault.expect(&running, Class::DeniedByRbac).await;
    vault.grant(AccessModel::Rbac, &["get", "encrypt", "decrypt"]).await;
    vault.expect(&running, Class::Success).await;
    vault.revoke_all().await;
    vault.grant(AccessModel::Rbac, &["get", "wrapKey", "unwrapKey"]).await;
    vault.expect(&running, Class::Success).await;

    vault.revoke_all().await;
    vault.grant(AccessModel::Policy, &["get", "encrypt", "decrypt"]).await;
    vault.expect(&running, Class::Success).await;
    let wrapped = running.wrap(&vault.key, &CANARY).await.unwrap();
    vault.revoke_all().await;
    vault.expect(&running, Class::DeniedByPolicy).await;
    vault.grant(AccessModel::Policy, &["get", "wrapKey", "unwrapKey"]).await;
    vault.expect(&running, Class::Success).await;
    // What one grant wrapped, the other one unwraps.
    assert_eq!(*running.unwrap(&vault.key, &wrapped).await.unwrap().0, CANARY);
}

/// What is done to the application shows when a new token is fetched: at a start at once.
#[tokio::test]
async fn what_is_done_to_the_application() {
    let vault = Vault::start().await;
    let running = vault.service();
    vault.expect(&running, Class::Success).await;

    vault.admin.disable_application(vault.client_id()).await.unwrap();
    assert_eq!(vault.started().await, Class::ApplicationDisabled);
    assert_eq!(
        vault.probe_by(&running).await.class,
        Class::Success,
        "a token in memory is good until it is renewed"
    );
    vault.admin.enable_application(vault.client_id()).await.unwrap();
    vault.expect(&running, Class::Success).await;

    vault.admin.expire_secret(vault.client_id()).await.unwrap();
    assert_eq!(vault.started().await, Class::ClientSecretExpired);
    vault.admin.renew_secret(vault.client_id()).await.unwrap();
    assert_eq!(vault.started().await, Class::Success);

    let secret = std::fs::read(vault.file("secret")).unwrap();
    std::fs::write(vault.file("secret"), "not-the-secret").unwrap();
    assert_eq!(vault.started().await, Class::CredentialRejected);
    std::fs::write(vault.file("secret"), secret).unwrap();
    assert_eq!(vault.started().await, Class::Success);

    vault.admin.delete_application(vault.client_id()).await.unwrap();
    assert_eq!(vault.started().await, Class::ApplicationDeleted);
}

/// A token that expires early is renewed, so that a disabled application shows within its time.
#[tokio::test]
async fn a_renewed_token_shows_a_disabled_application() {
    let vault = Vault::start().await;
    let mut settings = vault.admin.status().await.unwrap().settings;
    // Under the rest that a token must have: every call fetches a new one.
    settings.token_lifetime_s = 100;
    vault.admin.set_settings(&settings).await.unwrap();
    let running = vault.service();
    vault.expect(&running, Class::Success).await;
    vault.admin.disable_application(vault.client_id()).await.unwrap();
    vault.expect(&running, Class::ApplicationDisabled).await;
}

/// Every fault of the vault is an outage, of its own kind, and passes.
#[tokio::test]
async fn every_fault_is_an_outage() {
    let vault = Vault::start().await;
    let mut config = vault.config();
    config.call_timeout = Duration::from_millis(1500);
    let service = || AzureKeyService::new(config.clone()).unwrap();
    let running = service();
    assert_eq!(vault.probe_by(&running).await.class, Class::Success);

    for kind in FaultKind::all() {
        let (expected_running, expected_started) = match kind {
            FaultKind::Refuse | FaultKind::Reset => (Class::ConnectionFailed, Class::ConnectionFailed),
            FaultKind::Hang | FaultKind::Slow => (Class::TimedOut, Class::TimedOut),
            FaultKind::Throttle => (Class::Throttled, Class::Throttled),
            FaultKind::Error401 => (Class::Unauthorized, Class::Unauthorized),
            FaultKind::Error500 | FaultKind::Error503 => (Class::ServerFault, Class::ServerFault),
            // Reads and cryptography work in the region that took over.
            FaultKind::ReadOnly => (Class::Success, Class::Success),
            FaultKind::Firewall => (Class::DeniedByFirewall, Class::DeniedByFirewall),
            FaultKind::PrivateLink => (Class::DeniedByPrivateLink, Class::DeniedByPrivateLink),
            // As near as a double on localhost comes to a name that is gone.
            FaultKind::DnsGone => (Class::TlsFailed, Class::TlsFailed),
            // Who has a token needs no new one yet.
            FaultKind::TokenDown => (Class::Success, Class::DirectoryUnavailable),
        };
        vault.admin.set_fault(kind, None).await.unwrap();
        for (which, service, expected) in
            [("running", &running, expected_running), ("started", &service(), expected_started)]
        {
            let evidence = vault.probe_by(service).await;
            assert_eq!(evidence.class, expected, "{kind}, {which}: {evidence:?}");
            assert!(matches!(evidence.class.weight(), Weight::Neutral | Weight::Success), "{kind}, {which}");
        }
        vault.admin.clear_faults().await.unwrap();
        assert_eq!(vault.probe_by(&running).await.class, Class::Success, "after {kind}");
    }
}

/// A deleted vault is one once ARM says so; without ARM it is a riddle, and no refusal.
#[tokio::test]
async fn a_deleted_vault() {
    let vault = Vault::start().await;
    vault.grant(AccessModel::Rbac, &["vaults/read"]).await;
    let running = vault.service();
    assert_eq!(vault.probe_by(&running).await.class, Class::Success);
    vault.admin.delete_vault().await.unwrap();
    let evidence = vault.probe_by(&running).await;
    assert_eq!(evidence.class, Class::VaultDeleted, "{evidence:?}");
    // A client that is started now has never heard of the vault's region.
    let evidence = vault.probe_by(&vault.service()).await;
    assert_eq!(evidence.class, Class::VaultDeleted, "after a restart: {evidence:?}");

    let mut without_arm = vault.config();
    (without_arm.subscription_id, without_arm.resource_group) = (None, None);
    let evidence = vault.probe_by(&AzureKeyService::new(without_arm).unwrap()).await;
    assert_eq!(evidence.class.weight(), Weight::Neutral, "{evidence:?}");

    // Recovering brings no role assignment back.
    vault.admin.recover_vault().await.unwrap();
    assert_eq!(vault.probe_by(&running).await.class, Class::DeniedByRbac);
}

/// A vault of another tenant than the pinned one gets neither secret nor token.
#[tokio::test]
async fn another_tenant_is_refused() {
    let vault = Vault::start().await;
    let mut config = vault.config();
    config.tenant_id = "99999999-2222-3333-4444-555555555555".into();
    let seen_before = vault.admin.log(0).await.unwrap().len();
    let service = AzureKeyService::new(config).unwrap();
    let evidence = vault.probe_by(&service).await;
    assert_eq!(evidence.class, Class::Misconfigured, "{evidence:?}");
    assert!(evidence.message.unwrap().contains("tenant"));
    let findings = service.check(&vault.key).await;
    assert_eq!(highest_severity(&findings), Some(Severity::Refuse), "{findings:?}");
    let tokens = vault.admin.log(seen_before).await.unwrap();
    assert!(tokens.iter().all(|entry| entry.operation != "Token"), "{tokens:?}");
}

/// The four credentials, really checked by the other side.
#[tokio::test]
async fn every_credential() {
    let vault = Vault::start().await;
    let with =
        |credential: Credential| AzureKeyService::new(AzureConfig { credential, ..vault.config() }).unwrap();

    let path = vault.file("client.pem");
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(["keyward".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(&path, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
    let service = with(Credential::Certificate { path });
    assert_eq!(vault.probe_by(&service).await.class, Class::CredentialRejected, "not registered yet");
    vault.admin.add_certificate(vault.client_id(), &certificate.pem()).await.unwrap();
    assert_eq!(vault.probe_by(&service).await.class, Class::Success);

    let issuer = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let rsa = aws_lc_rs::rsa::KeyPair::from_pkcs8(&issuer.serialize_der()).unwrap();
    let public = aws_lc_rs::signature::KeyPair::public_key(&rsa);
    let base64 = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let registration = FederatedRegistration {
        issuer: "https://issuer.example".into(),
        subject: "node-0".into(),
        audience: "api://AzureADTokenExchange".into(),
        n: base64(public.modulus().big_endian_without_leading_zero()),
        e: base64(public.exponent().big_endian_without_leading_zero()),
    };
    vault.admin.add_federated(vault.client_id(), &registration).await.unwrap();
    let token_file = vault.file("federated");
    let service = with(Credential::Federated { token_file: token_file.clone() });
    let federated = |subject: &str| {
        let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = serde_json::json!({ "iss": registration.issuer, "sub": subject, "aud": registration.audience,
            "iat": now_s, "nbf": now_s, "exp": now_s + 600 });
        let head = base64(br#"{"alg":"RS256","typ":"JWT"}"#);
        let signed = format!("{head}.{}", base64(claims.to_string().as_bytes()));
        let mut signature = vec![0; rsa.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        rsa.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature)
            .unwrap();
        std::fs::write(&token_file, format!("{signed}.{}", base64(&signature))).unwrap();
    };
    federated("someone-else");
    let evidence = vault.probe_by(&service).await;
    assert_eq!(evidence.class.weight(), Weight::Neutral, "{evidence:?}");
    federated("node-0");
    assert_eq!(vault.probe_by(&service).await.class, Class::Success);

    let identity = vault.admin.create_managed_identity("machine").await.unwrap();
    let endpoint = Some(vault.running.description().authority.parse().unwrap());
    let credential = |client_id: &str| Credential::ManagedIdentity {
        client_id: Some(client_id.to_owned()),
        endpoint: endpoint.clone(),
    };
    let service = with(credential(&identity.client_id));
    assert_eq!(vault.probe_by(&service).await.class, Class::DeniedByRbac, "known, and granted nothing yet");
    vault.admin.grant(&identity.client_id, None, &[]).await.unwrap();
    let evidence = vault.probe_by(&service).await;
    assert_eq!(evidence.class, Class::Success, "{evidence:?}");
    assert!(evidence.token_age_s.is_some_and(|age| age < 3600), "{evidence:?}");
    let evidence = vault.probe_by(&with(credential("99999999-2222-3333-4444-555555555555"))).await;
    assert_eq!(evidence.class, Class::Misconfigured, "{evidence:?}");
}

/// Counted from the vault's own log: a start is one unwrap, a probe another one, and nothing else is called.
#[tokio::test]
async fn the_vault_counts_its_calls() {
    let vault = Vault::start().await;
    let before = vault.admin.log(0).await.unwrap().len();
    let service = vault.service();
    service.unwrap(&vault.key, &vault.canary).await.unwrap();
    let operations = |entries: Vec<keyward_vault::log::LogEntry>| -> Vec<(String, u16)> {
        entries.into_iter().map(|entry| (entry.operation, entry.status)).collect()
    };
    let of_start = operations(vault.admin.log(before).await.unwrap());
    let unwraps = of_start.iter().filter(|(operation, _)| operation == "KeyUnwrap").count();
    assert_eq!(unwraps, 1, "{of_start:?}");
    assert_eq!(of_start.len(), 3, "the challenge, the token, the unwrap: {of_start:?}");

    let before = vault.admin.log(0).await.unwrap().len();
    for _ in 0..5 {
        assert_eq!(vault.probe_by(&service).await.class, Class::Success);
    }
    let of_probes = operations(vault.admin.log(before).await.unwrap());
    assert_eq!(of_probes, vec![("KeyUnwrap".to_owned(), 200); 5]);
}

/// At configuration: what is missing is named, what is fine stays silent.
#[tokio::test]
async fn a_check_at_configuration() {
    let vault = Vault::start().await;
    let service = vault.service();
    let texts = async || -> Vec<(Severity, String)> {
        service.check(&vault.key).await.into_iter().map(|found| (found.severity, found.text)).collect()
    };
    // The recommended grant: no purge protection in this vault, and no right to read the vault.
    let found = texts().await;
    assert!(found.iter().all(|(severity, _)| *severity == Severity::Warn), "{found:?}");
    assert!(found.iter().any(|(_, text)| text.contains("purge protection")), "{found:?}");
    assert!(found.iter().any(|(_, text)| text.contains("could not be checked")), "{found:?}");

    vault.grant(AccessModel::Rbac, &["vaults/read"]).await;
    let found = texts().await;
    assert!(matches!(&found[..], [(Severity::Warn, text)] if text.contains("purge protection")), "{found:?}");

    let change = keyward_vault::admin::VaultChange { purge_protection: Some(true), ..Default::default() };
    vault.admin.change_vault(&change).await.unwrap();
    assert_eq!(texts().await, []);

    vault.revoke_all().await;
    vault.grant(AccessModel::Rbac, &["get", "wrapKey"]).await;
    let found = texts().await;
    let refusals: Vec<_> = found.iter().filter(|(severity, _)| *severity == Severity::Refuse).collect();
    assert!(matches!(refusals[..], [(_, text)] if text.contains("unwrapKey (or decrypt)")), "{found:?}");
    vault.revoke_all().await;
    let found = texts().await;
    let refusals = found.iter().filter(|(severity, _)| *severity == Severity::Refuse).count();
    assert_eq!(refusals, 3, "get, wrap and unwrap, each: {found:?}");
}
