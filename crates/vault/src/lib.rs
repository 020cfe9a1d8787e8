//! A development vault that speaks Azure Key Vault, Entra ID and the ARM calls keyward uses, and can say no the
//! way Azure does.
//!
//! It is a double for development and tests. Its private keys lie in its folder in plain text (0600): never put a
//! key there that guards anything.
//!
//! The pure parts ([`state`], [`authorize`], [`answer`], [`keys_api`], [`entra`], [`arm`], [`fault`]) decide; the
//! thin shell around them (`service`, `server`) reads the clock, draws keys, writes the disk and serves sockets.

#![forbid(unsafe_code)]

pub mod admin;
pub mod answer;
pub mod arm;
pub mod authorize;
pub mod client;
pub mod disk;
pub mod entra;
pub mod fault;
pub mod keys_api;
pub mod log;
pub mod material;
mod server;
mod service;
pub mod state;
pub mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::admin::NewApplication;
use crate::disk::{Disk, DiskError};
use crate::log::AccessLog;
use crate::material::{Material, MaterialError};
use crate::server::Plane;
use crate::service::{Endpoints, Service, machine_now};
use crate::state::{
    AccessModel, Directory, Key, KeyVersion, NetworkRules, Ports, RoleAssignment, Settings, SigningKey,
    State, Vault,
};

/// File that tells clients all they need to use the vault.
pub const DESCRIPTION_FILE: &str = "vault.json";

/// How to serve a vault.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Folder of the vault; made at the first start.
    pub dir: PathBuf,
    /// Address of the data plane. Port 0: the port of the last start, or a free one at the first.
    pub listen: SocketAddr,
}

/// What the vault is made with at its first start; later starts ignore it.
#[derive(Debug, Clone)]
pub struct FirstStart {
    /// Vault name; a random one when `None`.
    pub name: Option<String>,
    /// Subscription. Two vaults in one subscription can restore each other's backups.
    pub subscription_id: Option<String>,
    /// Azure region.
    pub location: String,
    /// Purge protection, which keyward recommends.
    pub purge_protection: bool,
    /// Folder of a vault whose tenant this one belongs to: its applications as they are now, its signing keys, and
    /// its token endpoint, which has to go on being served. `None`: a tenant of its own.
    pub tenant_of: Option<PathBuf>,
}

impl Default for FirstStart {
    fn default() -> Self {
        Self {
            name: None,
            subscription_id: None,
            location: "westeurope".to_owned(),
            purge_protection: true,
            tenant_of: None,
        }
    }
}

/// Contents of [`DESCRIPTION_FILE`]. Names a client secret and the admin token: 0600.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultDescription {
    /// Data plane; key identifiers begin with it.
    pub url: String,
    /// Entra authority.
    pub authority: String,
    /// ARM.
    pub arm_url: String,
    /// Admin API; answers also while faults keep the data plane from answering.
    pub admin_url: String,
    /// Certificate authority to trust, PEM.
    pub ca_file: PathBuf,
    /// Tenant.
    pub tenant_id: String,
    /// First application.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Token of the admin API.
    pub admin_token: String,
    /// Subscription.
    pub subscription_id: String,
    /// Resource group.
    pub resource_group: String,
    /// Vault name.
    pub vault_name: String,
    /// Process that serves it.
    pub pid: u32,
}

impl std::fmt::Debug for VaultDescription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaultDescription")
            .field("url", &self.url)
            .field("client_id", &self.client_id)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// Why a vault can't be served.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Its folder.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// Its access log.
    #[error("could not open the access log")]
    Log(#[source] io::Error),
    /// A listener.
    #[error("could not listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The keys of its first start.
    #[error("could not make the key that signs tokens")]
    Material(#[from] MaterialError),
}

impl VaultError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(
                "another process has the port; the vault keeps its port because key identifiers contain it: end that process",
            ),
            Self::Disk(DiskError::InUse { .. }) => Some("stop the other process, or use its vault"),
            Self::Disk(DiskError::Newer { .. }) => Some("use the version of keyward that wrote it"),
            Self::Disk(_) | Self::Tls(_) | Self::Log(_) | Self::Listen { .. } | Self::Material(_) => None,
        }
    }
}

/// A vault that is being served.
pub struct RunningVault {
    description: VaultDescription,
    service: Arc<Service>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for RunningVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RunningVault").field(&self.description).finish()
    }
}

impl RunningVault {
    /// What clients need to use it.
    pub fn description(&self) -> &VaultDescription {
        &self.description
    }

    /// Lines for people: where it is, and what it is not.
    pub fn banner(&self) -> String {
        format!(
            "development vault {} at {}\n  its private keys lie unprotected in {}: for development only",
            self.description.vault_name,
            self.description.url,
            self.description.ca_file.parent().unwrap_or(&self.description.ca_file).display(),
        )
    }

    /// For tests of clients: puts a key into the vault that no call makes, such as an RSA key of 1024 bits, or one of
    /// another type with 0 bits; gives its key identifier. Its public half is all there is of it.
    pub async fn plant_key_for_tests(&self, name: &str, kty: &str, bits: u32) -> Result<String, VaultError> {
        let version = Uuid::new_v4().simple().to_string();
        let key_identifier = format!("{}/keys/{name}/{version}", self.description.url);
        let now = self.service.now();
        let planted = KeyVersion {
            version,
            kty: kty.to_owned(),
            key_ops: ["wrapKey", "unwrapKey", "encrypt", "decrypt"].map(str::to_owned).to_vec(),
            enabled: true,
            not_before: None,
            expires: None,
            created: now,
            updated: now,
            tags: BTreeMap::new(),
            material: Material::shown_only_for_tests(bits)?,
        };
        let key = Key { versions: vec![planted], rotation_policy: None };
        let put = |state: &mut State| {
            state.vault.keys.insert(name.to_owned(), key);
            Ok::<(), VaultError>(())
        };
        self.service.change(put).await?;
        Ok(key_identifier)
    }

    /// Stops serving and waits for what is under way.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// Serves a vault until [`RunningVault::shutdown`]; when this returns, it answers and `vault.json` is written.
pub async fn serve(options: ServeOptions) -> Result<RunningVault, VaultError> {
    serve_with(options, FirstStart::default()).await
}

/// As [`serve`], with a say in what is made at the first start.
pub async fn serve_with(options: ServeOptions, first: FirstStart) -> Result<RunningVault, VaultError> {
    let disk = Disk::open(&options.dir)?;
    let stored = disk.load()?;
    let ports = stored.as_ref().map_or(Ports { vault: 0, directory: 0 }, |state| state.ports);
    let listen = |port: u16| -> Result<std::net::TcpListener, VaultError> {
        let address = SocketAddr::new(options.listen.ip(), port);
        server::bind(address).map_err(|source| VaultError::Listen { address, source })
    };
    let vault_listener =
        listen(if options.listen.port() == 0 { ports.vault } else { options.listen.port() })?;
    let directory_listener = listen(ports.directory)?;
    let port = |listener: &std::net::TcpListener| -> Result<u16, VaultError> {
        let address = options.listen;
        listener.local_addr().map(|a| a.port()).map_err(|source| VaultError::Listen { address, source })
    };
    let ports = Ports { vault: port(&vault_listener)?, directory: port(&directory_listener)? };
    let state = match stored {
        Some(state) if state.ports == ports => state,
        Some(state) => State { ports, ..state },
        None => first_state(first, ports)?,
    };
    disk.save(&state)?;
    let tls = tls::server_config(&disk, &state.vault.name)?;
    let log = AccessLog::open(disk.path("access.ndjson")).map_err(VaultError::Log)?;
    let endpoints = Endpoints {
        vault: format!("https://localhost:{}", ports.vault),
        directory: format!("https://localhost:{}", ports.directory),
        authority: state
            .authority
            .clone()
            .unwrap_or_else(|| format!("https://localhost:{}", ports.directory)),
    };
    let description = describe(&state, &endpoints, &disk);
    disk.write_json(DESCRIPTION_FILE, &description)?;

    let service = Arc::new(Service::new(state, disk, log, endpoints));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    for (listener, plane) in [(vault_listener, Plane::Vault), (directory_listener, Plane::Directory)] {
        tasks.spawn(server::run(listener, plane, Arc::clone(&service), Arc::clone(&tls), stop.clone()));
    }
    tasks.close();
    Ok(RunningVault { description, service, stop, tasks })
}

fn describe(state: &State, endpoints: &Endpoints, disk: &Disk) -> VaultDescription {
    let first = first_application(state);
    VaultDescription {
        url: endpoints.vault.clone(),
        authority: endpoints.authority.clone(),
        arm_url: endpoints.directory.clone(),
        admin_url: endpoints.directory.clone(),
        ca_file: disk.path(tls::CA_FILE),
        tenant_id: state.directory.tenant_id.clone(),
        client_id: first.as_ref().map(|a| a.client_id.clone()).unwrap_or_default(),
        client_secret: first.map(|a| a.client_secret).unwrap_or_default(),
        admin_token: state.admin_token.expose().to_owned(),
        subscription_id: state.vault.subscription_id.clone(),
        resource_group: state.vault.resource_group.clone(),
        vault_name: state.vault.name.clone(),
        pid: std::process::id(),
    }
}

/// The application of the first start, with the newest of its secrets; empty once it was deleted.
fn first_application(state: &State) -> Option<NewApplication> {
    let application = state.directory.applications.get(&state.first_client_id)?;
    let secret = application.secrets.iter().max_by_key(|s| s.expires)?;
    Some(NewApplication {
        client_id: application.client_id.clone(),
        object_id: application.object_id.clone(),
        client_secret: secret.value.expose().to_owned(),
        secret_key_id: secret.key_id.clone(),
        secret_expires: secret.expires,
    })
}

/// Who belongs to the vault's tenant, and who gives out its tokens.
struct Tenant {
    directory: Directory,
    first_client_id: String,
    /// Another vault's token endpoint.
    authority: Option<String>,
}

impl Tenant {
    fn make(now: state::UnixSeconds) -> Result<Self, VaultError> {
        let application = admin::new_application("keyward", false, now);
        let first_client_id = application.client_id.clone();
        let signing =
            SigningKey { kid: Uuid::new_v4().simple().to_string(), material: Material::make(2048)? };
        let directory = Directory {
            tenant_id: Uuid::new_v4().to_string(),
            signing_keys: vec![signing],
            applications: BTreeMap::from([(first_client_id.clone(), application)]),
        };
        Ok(Self { directory, first_client_id, authority: None })
    }

    fn of(folder: &std::path::Path) -> Result<Self, VaultError> {
        let state = disk::peek(folder)?;
        let own = format!("https://localhost:{}", state.ports.directory);
        Ok(Self {
            directory: state.directory,
            first_client_id: state.first_client_id,
            authority: Some(state.authority.unwrap_or(own)),
        })
    }
}

fn first_state(first: FirstStart, ports: Ports) -> Result<State, VaultError> {
    let now = machine_now();
    let tenant = match &first.tenant_of {
        Some(folder) => Tenant::of(folder)?,
        None => Tenant::make(now)?,
    };
    let object_id = tenant.directory.applications.get(&tenant.first_client_id);
    let object_id = object_id.map(|application| application.object_id.clone()).unwrap_or_default();
    let recommended = authorize::read_grant(&[authorize::RECOMMENDED_ROLE.to_owned()]).unwrap_or_default();
    let role = RoleAssignment {
        id: Uuid::new_v4().to_string(),
        object_id,
        key: None,
        role: authorize::RECOMMENDED_ROLE.to_owned(),
        permissions: recommended.permissions,
        vault_read: recommended.vault_read,
        vault_write: recommended.vault_write,
        from: now,
        until: None,
    };
    let name = first.name.unwrap_or_else(|| format!("kw-dev-{}", &Uuid::new_v4().simple().to_string()[..8]));
    Ok(State {
        format: state::FORMAT,
        admin_token: admin::random_secret(),
        ports,
        first_client_id: tenant.first_client_id,
        directory: tenant.directory,
        authority: tenant.authority,
        vault: Vault {
            name,
            location: first.location,
            subscription_id: first.subscription_id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            resource_group: "keyward".to_owned(),
            sku: "premium".to_owned(),
            access_model: AccessModel::Rbac,
            purge_protection: first.purge_protection,
            retention_days: 90,
            created: now,
            network: NetworkRules::default(),
            private_endpoints: BTreeMap::new(),
            policies: Vec::new(),
            roles: vec![role],
            keys: BTreeMap::new(),
            deleted_keys: BTreeMap::new(),
            deletion: None,
        },
        settings: Settings::default(),
        faults: Vec::new(),
    })
}
