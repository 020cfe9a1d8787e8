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

/// What cannot serve as a customer key is refused before anything depends on it, with the reason and what to do.
#[tokio::test]
async fn what_will_not_do_is_refused_at_configuration() {
    let vault = Vault::start().await;
    let url = vault.running.description().url.clone();
    let named = |name: &str, version: &str| KeyIdentifier::new(&url, name, version).unwrap();
    let parsed = |id: &str| -> KeyIdentifier { id.parse().unwrap() };
    let make = async |name: &str, settings: KeySettings| {
        vault.admin.create_key(name, 2048).await.unwrap();
        parsed(vault.admin.change_key(name, &settings).await.unwrap().key_identifier().unwrap())
    };
    let only = |operations: &[&str]| KeySettings {
        key_ops: Some(operations.iter().map(|operation| (*operation).to_owned()).collect()),
        ..KeySettings::default()
    };
    let now = vault.admin.status().await.unwrap().now;
    let planted = async |kty: &str, bits: u32| {
        let name = format!("{kty}-{bits}").to_lowercase();
        parsed(&vault.running.plant_key_for_tests(&name, kty, bits).await.unwrap())
    };
    let ec = vault.admin.create_key_of_type("ec", "EC").await.unwrap();
    let version = vault.key.version();
    let other_version = "0".repeat(32);
    let cases = [
        (named("k9", version), "404 KeyNotFound", "A key with (name/id) k9", "correct the key identifier"),
        (
            named("k1", &other_version),
            "404 KeyNotFound",
            "was not found in this key vault",
            "correct the key identifier",
        ),
        (parsed(ec.key_identifier().unwrap()), "of type EC, not RSA", "", "make an RSA key of 2048"),
        (planted("oct-HSM", 0).await, "of type oct-HSM, not RSA", "", "make an RSA key of 2048"),
        (planted("RSA", 1024).await, "has 1024 bits", "", "2048, 3072 or 4096 bits"),
        (planted("RSA", 8192).await, "has 8192 bits", "", "2048, 3072 or 4096 bits"),
        (
            make("sealer", only(&["wrapKey", "encrypt"])).await,
            "does not permit to unwrap",
            "unwrapKey",
            "add wrapKey and unwrapKey",
        ),
        (
            make("opener", only(&["unwrapKey"])).await,
            "does not permit to wrap",
            "wrapKey",
            "add wrapKey and unwrapKey",
        ),
        (
            make("signer", only(&["sign", "verify"])).await,
            "does not permit to wrap",
            "encrypt",
            "add wrapKey and unwrapKey",
        ),
        (
            make("off", KeySettings { enabled: Some(false), ..KeySettings::default() }).await,
            "is disabled",
            "",
            "enable the key version",
        ),
        (
            make("past", KeySettings { expires: Some(now - 60), ..KeySettings::default() }).await,
            "has expired",
            "",
            "make a new key version",
        ),
        (
            make("soon", KeySettings { not_before: Some(now + 600), ..KeySettings::default() }).await,
            "is not valid before",
            "",
            "activation date",
        ),
        (
            parsed(&format!("https://contoso.vault.azure.net/keys/k1/{version}")),
            "is not a vault of the configured cloud",
            "localhost",
            "correct the tenant, cloud or vault",
        ),
    ];
    let service = vault.service();
    for (key, words, reason, advice) in cases {
        let found = service.check(&key).await;
        assert_eq!(highest_severity(&found), Some(Severity::Refuse), "{key}: {found:?}");
        let refusal = found.iter().find(|found| found.severity == Severity::Refuse).unwrap();
        assert!(refusal.text.contains(words) && refusal.text.contains(reason), "{key}: {}", refusal.text);
        assert!(refusal.hint.contains(advice), "{key}: {}", refusal.hint);
    }

    // The application's side, in Entra's own words.
    let with = |change: &dyn Fn(&mut AzureConfig)| {
        let mut config = vault.config();
        change(&mut config);
        AzureKeyService::new(config).unwrap()
    };
    let stranger = "99999999-2222-3333-4444-555555555555";
    let wrong_secret = vault.file("wrong");
    std::fs::write(&wrong_secret, "no").unwrap();
    let of_application = [
        (with(&|config| config.tenant_id = stranger.into()), "belongs to tenant", Class::Misconfigured),
        (with(&|config| config.client_id = stranger.into()), "AADSTS700016", Class::ApplicationDeleted),
        (
            with(&|config| config.credential = Credential::ClientSecretFile(wrong_secret.clone())),
            "AADSTS7000215",
            Class::CredentialRejected,
        ),
    ];
    for (service, words, class) in of_application {
        let found = service.check(&vault.key).await;
        let refusal = found.iter().find(|found| found.severity == Severity::Refuse).unwrap();
        assert!(refusal.text.contains(words), "{}", refusal.text);
        assert_eq!((refusal.class, refusal.hint.as_str()), (Some(class), class.hint()));
    }
    // The right one passes.
    assert_ne!(highest_severity(&service.check(&vault.key).await), Some(Severity::Refuse));
}

/// One operation that is missing is seen as just that, in both models.
#[tokio::test]
async fn a_grant_that_lacks_one_operation() {
    let vault = Vault::start().await;
    for (model, denied) in
        [(AccessModel::Policy, Class::DeniedByPolicy), (AccessModel::Rbac, Class::DeniedByRbac)]
    {
        for (granted, reads, wraps, unwraps) in [
            (&["get", "wrapKey"][..], true, true, false),
            (&["wrapKey", "unwrapKey"], false, true, true),
            (&["unwrapKey"], false, false, true),
            (&["decrypt"], false, false, true),
            (&["get", "wrapKey", "unwrapKey"], true, true, true),
            (&["get", "encrypt", "unwrapKey"], true, true, true),
        ] {
            vault.revoke_all().await;
            vault.grant(model, granted).await;
            let service = vault.service();
            let class_of = |done: Result<(), keyward_kms::KmsError>| done.err().map(|error| error.class);
            let expect = |works: bool| (!works).then_some(denied);
            let seen = [
                class_of(service.describe(&vault.key).await.map(|_| ())),
                class_of(service.wrap(&vault.key, &CANARY).await.map(|_| ())),
                class_of(service.unwrap(&vault.key, &vault.canary).await.map(|_| ())),
            ];
            assert_eq!(seen, [expect(reads), expect(wraps), expect(unwraps)], "{model:?} {granted:?}");
            let probed = vault.probe_by(&service).await.class;
            assert_eq!(probed, if unwraps { Class::Success } else { denied }, "{model:?} {granted:?}");
        }
    }
}

/// A role assigned on one key reaches that key and no other; taken away, it is a denial like any.
#[tokio::test]
async fn a_role_on_one_key() {
    let vault = Vault::start().await;
    let other = vault.admin.create_key("k2", 2048).await.unwrap();
    let other: KeyIdentifier = other.key_identifier().unwrap().parse().unwrap();
    vault.revoke_all().await;
    let change = keyward_vault::admin::AccessChange {
        client_id: vault.client_id().to_owned(),
        model: Some(AccessModel::Rbac),
        actions: Vec::new(),
        // Azure compares names without case.
        key: Some("K1".into()),
    };
    vault.admin.change_access("grant", &change).await.unwrap();
    let running = vault.service();
    vault.expect(&running, Class::Success).await;
    assert_eq!(running.wrap(&other, &CANARY).await.unwrap_err().class, Class::DeniedByRbac);
    vault.admin.change_access("revoke", &change).await.unwrap();
    vault.expect(&running, Class::DeniedByRbac).await;
}

/// The host's clock, or Azure's, is a few minutes wrong: an assertion is good all the same; further off, it is ours to
/// mend and no refusal.
#[tokio::test]
async fn a_clock_that_is_wrong() {
    let vault = Vault::start().await;
    let path = vault.file("client.pem");
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(["keyward".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(&path, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
    vault.admin.add_certificate(vault.client_id(), &certificate.pem()).await.unwrap();
    let settings = vault.admin.status().await.unwrap().settings;
    for (clock_offset_s, expected) in [
        (-240, Class::Success),
        (240, Class::Success),
        (-900, Class::CredentialRejected),
        (900, Class::CredentialRejected),
        (0, Class::Success),
    ] {
        let moved = keyward_vault::state::Settings { clock_offset_s, ..settings.clone() };
        vault.admin.set_settings(&moved).await.unwrap();
        // On a clock that was set back, the first grant is not felt yet.
        vault.admin.grant(vault.client_id(), None, &[]).await.unwrap();
        let credential = Credential::Certificate { path: path.clone() };
        let service = AzureKeyService::new(AzureConfig { credential, ..vault.config() }).unwrap();
        let evidence = vault.probe_by(&service).await;
        assert_eq!(evidence.class, expected, "{clock_offset_s}: {evidence:?}");
        if expected != Class::Success {
            assert_eq!(evidence.inner_code.as_deref(), Some("AADSTS500133"));
            assert!(evidence.class.hint().contains("clock"));
        }
    }
}

/// The key expires while the agent runs, and so does the token that it holds: both pass without a refusal.
#[tokio::test]
async fn a_key_and_a_token_that_expire_while_running() {
    let vault = Vault::start().await;
    let running = vault.service();
    vault.expect(&running, Class::Success).await;
    let status = vault.admin.status().await.unwrap();
    let expires = KeySettings { expires: Some(status.now + 5_400), ..KeySettings::default() };
    vault.admin.change_key("k1", &expires).await.unwrap();
    let moved = keyward_vault::state::Settings { clock_offset_s: 7_200, ..status.settings };
    vault.admin.set_settings(&moved).await.unwrap();
    let before = vault.admin.log(0).await.unwrap().len();
    let evidence = vault.probe_by(&running).await;
    assert_eq!((evidence.class, evidence.token_age_s), (Class::Success, Some(0)), "{evidence:?}");
    let seen: Vec<(String, u16)> = vault
        .admin
        .log(before)
        .await
        .unwrap()
        .into_iter()
        .map(|entry| (entry.operation, entry.status))
        .collect();
    let expected = [("KeyUnwrap", 401), ("Token", 200), ("KeyUnwrap", 200)];
    assert_eq!(seen, expected.map(|(operation, status)| (operation.to_owned(), status)));
    let error = running.wrap(&vault.key, &CANARY).await.unwrap_err();
    assert_eq!((error.class, error.facts.inner_code.as_deref()), (Class::KeyNotCurrent, Some("KeyExpired")));
    assert_eq!(*running.unwrap(&vault.key, &vault.canary).await.unwrap().0, CANARY);
}

/// A disabled newest version says nothing about the one in use; a disabled one in use says all.
#[tokio::test]
async fn versions_are_disabled_one_by_one() {
    let vault = Vault::start().await;
    let running = vault.service();
    let newest = vault.admin.rotate_key("k1").await.unwrap();
    let newest: KeyIdentifier = newest.key_identifier().unwrap().parse().unwrap();
    let set = async |key: &KeyIdentifier, enabled: bool| {
        let version = Some(key.version().to_owned());
        let settings = KeySettings { version, enabled: Some(enabled), ..KeySettings::default() };
        vault.admin.change_key("k1", &settings).await.unwrap();
    };
    set(&newest, false).await;
    vault.expect(&running, Class::Success).await;
    assert_eq!(running.latest_version(&vault.key).await.unwrap(), newest, "made last, though disabled");
    assert!(!running.describe(&newest).await.unwrap().enabled);
    assert_eq!(highest_severity(&running.check(&newest).await), Some(Severity::Refuse));
    set(&newest, true).await;
    set(&vault.key, false).await;
    vault.expect(&running, Class::KeyDisabled).await;
    assert!(running.describe(&newest).await.unwrap().enabled);
}

/// What a machine's metadata service says of an identity that is gone or disabled is no answer of Entra ID's: an
/// outage, until the key itself says something (docs/concepts/revocation.md).
#[tokio::test]
async fn a_disabled_managed_identity_is_no_revocation() {
    let vault = Vault::start().await;
    let identity = vault.admin.create_managed_identity("machine").await.unwrap();
    vault.admin.grant(&identity.client_id, None, &[]).await.unwrap();
    let credential = Credential::ManagedIdentity {
        client_id: Some(identity.client_id.clone()),
        endpoint: Some(vault.running.description().authority.parse().unwrap()),
    };
    let started =
        || AzureKeyService::new(AzureConfig { credential: credential.clone(), ..vault.config() }).unwrap();
    assert_eq!(vault.probe_by(&started()).await.class, Class::Success);
    vault.admin.disable_application(&identity.client_id).await.unwrap();
    let evidence = vault.probe_by(&started()).await;
    assert_eq!(
        (evidence.class, evidence.class.weight()),
        (Class::Misconfigured, Weight::Neutral),
        "{evidence:?}"
    );
    vault.admin.delete_application(&identity.client_id).await.unwrap();
    let evidence = vault.probe_by(&started()).await;
    assert_eq!(evidence.class, Class::Misconfigured, "{evidence:?}");
}

/// A name in another case is the same key, as in Azure.
#[tokio::test]
async fn names_compare_without_case() {
    let vault = Vault::start().await;
    let shouted = KeyIdentifier::new(vault.key.vault_url(), "K1", vault.key.version()).unwrap();
    let service = vault.service();
    assert_eq!(service.describe(&shouted).await.unwrap().key_identifier, vault.key);
    assert_eq!(*service.unwrap(&shouted, &vault.canary).await.unwrap().0, CANARY);
    assert_eq!(service.latest_version(&shouted).await.unwrap(), vault.key);
    assert_ne!(highest_severity(&service.check(&shouted).await), Some(Severity::Refuse));
    vault.admin.delete_key("k1").await.unwrap();
    let error = service.unwrap(&shouted, &vault.canary).await.unwrap_err();
    assert_eq!(error.class, Class::KeyDeleted, "{error}");
}

/// The network rules of the vault itself, not a fault that plays them.
#[tokio::test]
async fn network_rules_are_outages() {
    let vault = Vault::start().await;
    let running = vault.service();
    vault.expect(&running, Class::Success).await;
    let set = async |public_access: bool, default_allow: bool| {
        let network = keyward_vault::state::NetworkRules {
            public_access,
            default_allow,
            ip_rules: vec!["10.0.0.0/8".into()],
        };
        let change = keyward_vault::admin::VaultChange { network: Some(network), ..Default::default() };
        vault.admin.change_vault(&change).await.unwrap();
    };
    set(true, false).await;
    vault.expect(&running, Class::DeniedByFirewall).await;
    set(false, true).await;
    vault.expect(&running, Class::DeniedByPrivateLink).await;
    vault.admin.request_private_endpoint("pe1").await.unwrap();
    vault.expect(&running, Class::DeniedByPrivateLink).await;
    vault.admin.approve_private_endpoint("pe1").await.unwrap();
    vault.expect(&running, Class::Success).await;
    vault.admin.reject_private_endpoint("pe1").await.unwrap();
    vault.expect(&running, Class::DeniedByPrivateLink).await;
    set(true, true).await;
    vault.expect(&running, Class::Success).await;
}
