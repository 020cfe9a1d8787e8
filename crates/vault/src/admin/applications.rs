//! Applications and their credentials.

use aws_lc_rs::rand;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{AdminRefusal, read, to_json};
use crate::answer::Answer;
use crate::entra::read_certificate;
use crate::service::{HttpRequest, Service};
use crate::state::{Application, ApplicationSecret, FederatedCredential, Secret, UnixSeconds};

/// An application as the admin API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ApplicationView {
    pub client_id: String,
    pub object_id: String,
    pub name: String,
    pub disabled: bool,
    pub managed_identity: bool,
    pub secrets: Vec<SecretView>,
    /// `x5t#S256` of the registered certificates.
    pub certificates: Vec<String>,
    /// `issuer subject` of the federated credentials.
    pub federated: Vec<String>,
}

/// A client secret as the directory shows it: never the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct SecretView {
    pub key_id: String,
    /// First three characters.
    pub hint: String,
    pub expires: UnixSeconds,
}

/// A new application or a new secret of one: the only time its secret is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct NewApplication {
    pub client_id: String,
    pub object_id: String,
    pub client_secret: String,
    pub secret_key_id: String,
    pub secret_expires: UnixSeconds,
}

impl std::fmt::Debug for NewApplication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewApplication").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// A certificate to register.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRegistration {
    /// The certificate, PEM.
    pub pem: String,
}

/// A trusted outside issuer to register, with the RSA key that its tokens are signed with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct FederatedRegistration {
    pub issuer: String,
    pub subject: String,
    /// Normally `api://AzureADTokenExchange`.
    pub audience: String,
    /// Modulus, base64url.
    pub n: String,
    /// Public exponent, base64url.
    pub e: String,
}

/// Life of a secret when none is given: what Azure's portal allows at most, 24 months.
pub(crate) const SECRET_LIFETIME_S: i64 = 730 * 86_400;

pub(super) async fn answer(
    service: &Service,
    http: &HttpRequest,
    rest: &[&str],
) -> Result<Answer, AdminRefusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Create {
        name: String,
        #[serde(default)]
        managed_identity: bool,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct NewSecret {
        expires_in_s: Option<i64>,
    }
    let now = service.now();
    let edited = match (http.method.as_str(), rest) {
        ("GET", []) => {
            let state = service.state();
            return Ok(to_json(&state.directory.applications.values().map(view).collect::<Vec<_>>()));
        }
        ("POST", []) => {
            let create: Create = read(http)?;
            let application = new_application(&create.name, create.managed_identity, now);
            let shown = first_secret(&application);
            super::edit(service, |state| {
                let id = application.client_id.clone();
                state.directory.applications.insert(id, application);
            })
            .await?;
            return Ok(to_json(&shown));
        }
        ("POST", [client_id, "secrets"]) => {
            let body: NewSecret = read(http)?;
            let secret = new_secret(now + body.expires_in_s.unwrap_or(SECRET_LIFETIME_S));
            let added = secret.clone();
            let application = edit(service, client_id, |application| {
                application.secrets.push(added);
                Ok(())
            })
            .await?;
            return Ok(to_json(&NewApplication {
                client_id: application.client_id,
                object_id: application.object_id,
                client_secret: secret.value.expose().to_owned(),
                secret_key_id: secret.key_id,
                secret_expires: secret.expires,
            }));
        }
        ("DELETE", [client_id, "secrets", key_id]) => {
            edit(service, client_id, |application| {
                application.secrets.retain(|s| s.key_id != *key_id);
                Ok(())
            })
            .await?
        }
        ("POST", [client_id, "certificates"]) => {
            let body: CertificateRegistration = read(http)?;
            let certificate = read_certificate(&body.pem).map_err(AdminRefusal::Bad)?;
            edit(service, client_id, |application| {
                application.certificates.push(certificate);
                Ok(())
            })
            .await?
        }
        ("POST", [client_id, "federated"]) => {
            let body: FederatedRegistration = read(http)?;
            edit(service, client_id, |application| {
                application.federated.push(FederatedCredential {
                    issuer: body.issuer,
                    subject: body.subject,
                    audience: body.audience,
                    n: body.n,
                    e: body.e,
                });
                Ok(())
            })
            .await?
        }
        ("POST", [client_id, action]) => {
            edit(service, client_id, |application| {
                match *action {
                    "disable" => application.disabled = true,
                    "enable" => application.disabled = false,
                    "managed-identity" => application.managed_identity = true,
                    "expire-secret" => {
                        application.secrets.iter_mut().for_each(|s| s.expires = s.expires.min(now))
                    }
                    "renew-secret" => {
                        application.secrets.iter_mut().for_each(|s| s.expires = now + SECRET_LIFETIME_S);
                    }
                    _ => return Err(AdminRefusal::NoSuchPath),
                }
                Ok(())
            })
            .await?
        }
        ("DELETE", [client_id]) => {
            service
                .change(|state| match state.directory.applications.remove(*client_id) {
                    Some(_) => Ok(()),
                    None => Err(AdminRefusal::NoSuchApplication((*client_id).to_owned())),
                })
                .await?;
            return Ok(Answer::no_content());
        }
        _ => return Err(AdminRefusal::NoSuchPath),
    };
    Ok(to_json(&view(&edited)))
}

/// Changes an application; gives it as it is then.
async fn edit(
    service: &Service,
    client_id: &str,
    step: impl FnOnce(&mut Application) -> Result<(), AdminRefusal>,
) -> Result<Application, AdminRefusal> {
    service
        .change(|state| match state.directory.applications.get_mut(client_id) {
            Some(application) => step(application).map(|()| application.clone()),
            None => Err(AdminRefusal::NoSuchApplication(client_id.to_owned())),
        })
        .await
}

/// An application with one secret.
pub(crate) fn new_application(name: &str, managed_identity: bool, now: UnixSeconds) -> Application {
    Application {
        client_id: Uuid::new_v4().to_string(),
        object_id: Uuid::new_v4().to_string(),
        name: name.to_owned(),
        disabled: false,
        managed_identity,
        secrets: vec![new_secret(now + SECRET_LIFETIME_S)],
        certificates: Vec::new(),
        federated: Vec::new(),
    }
}

/// Random text of 32 bytes.
pub(crate) fn random_secret() -> Secret {
    let mut bytes = [0u8; 32];
    // aws-lc's generator fails only when the process has no random source at all.
    rand::fill(&mut bytes).unwrap_or_else(|_| std::process::abort());
    Secret::new(BASE64URL_NOPAD.encode(&bytes))
}

fn new_secret(expires: UnixSeconds) -> ApplicationSecret {
    ApplicationSecret { key_id: Uuid::new_v4().to_string(), value: random_secret(), expires }
}

fn first_secret(application: &Application) -> Option<NewApplication> {
    let secret = application.secrets.first()?;
    Some(NewApplication {
        client_id: application.client_id.clone(),
        object_id: application.object_id.clone(),
        client_secret: secret.value.expose().to_owned(),
        secret_key_id: secret.key_id.clone(),
        secret_expires: secret.expires,
    })
}

fn view(application: &Application) -> ApplicationView {
    ApplicationView {
        client_id: application.client_id.clone(),
        object_id: application.object_id.clone(),
        name: application.name.clone(),
        disabled: application.disabled,
        managed_identity: application.managed_identity,
        secrets: application
            .secrets
            .iter()
            .map(|s| SecretView {
                key_id: s.key_id.clone(),
                hint: s.value.expose().chars().take(3).collect(),
                expires: s.expires,
            })
            .collect(),
        certificates: application.certificates.iter().map(|c| c.sha256.clone()).collect(),
        federated: application.federated.iter().map(|f| format!("{} {}", f.issuer, f.subject)).collect(),
    }
}
