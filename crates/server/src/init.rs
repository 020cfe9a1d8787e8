//! `keyward server init`: what a server needs once.

use std::path::PathBuf;

use keyward_model::{
    api_key::ApiKey,
    event::{Actor, EventType, NewEvent},
    id::{Id, OrgId},
    organization::{Organization, OrganizationSettings},
    role::OrgRole,
};
use keyward_store::{Grant, PrincipalId, ServerKey, Store, StoreError};
use secrecy::SecretString;

use crate::{
    Config,
    api::api_keys::NewPair,
    app::{machine_clock, make_bytes},
    auth::secret_of,
    certificate,
    serve::NONCE_SECRET,
};

/// What was made. The private key is nowhere else.
#[derive(Debug)]
pub struct InitReport {
    /// The first organization.
    pub org_id: OrgId,
    /// The public key of its owner key.
    pub public_key: String,
    /// The private key of its owner key.
    pub private_key: SecretString,
    /// The server key: back it up.
    pub key_file: PathBuf,
    /// Who signed the API's certificate; `None` when one was given.
    pub ca_file: Option<PathBuf>,
}

/// Why a server could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The folder.
    #[error("the folder {} could not be made", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is a server already.
    #[error("the store has an organization already")]
    Done,
    /// The store or the server key.
    #[error("the store could not be set up")]
    Store(#[from] StoreError),
    /// The API's certificate.
    #[error("the API's certificate could not be made")]
    Certificate(#[from] certificate::CertificateError),
    /// The agents' authority.
    #[error("the authority for agents could not be made")]
    Agents(#[from] crate::link::LinkError),
}

impl InitError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "check the path and who may write there",
            Self::Done => "run `keyward server run`, or name another store",
            Self::Store(error) => error.hint(),
            Self::Certificate(error) => error.hint(),
            Self::Agents(_) => "check the store and the server key",
        }
    }
}

/// Sets a server up: its key, the API's authority, the first organization and a key of its owner.
pub async fn init(config: &Config) -> Result<InitReport, InitError> {
    let now = machine_clock()();
    private_folder(&config.data_dir)
        .map_err(|source| InitError::Folder { path: config.data_dir.clone(), source })?;
    let key_file = config.key_file();
    // A first run that was interrupted goes on with the key that it made.
    let key =
        if key_file.exists() { ServerKey::read_file(&key_file)? } else { ServerKey::make_file(&key_file)? };
    let ca_file = match config.tls_certificate_file {
        Some(_) => None,
        None => {
            certificate::make_authority(config, now)?;
            Some(config.ca_file())
        }
    };
    let store = Store::open(&config.store_url(), key).await?;
    let mut change = store.change().await?;
    if !change.list_all::<Organization>().await?.is_empty() {
        return Err(InitError::Done);
    }
    let org = Organization {
        id: Id::from_bytes(make_bytes()),
        name: "Organization".to_owned(),
        created: now,
        skip_default_alerts_settings: false,
        settings: OrganizationSettings::default(),
    };
    change.insert(&org).await?;
    let pair = NewPair::make();
    let key = ApiKey {
        id: Id::from_bytes(make_bytes()),
        org: org.id,
        public_key: pair.public_key.clone(),
        desc: "Owner, made by keyward server init".to_owned(),
        created: now,
        access_list: keyward_model::access_list::AccessList::default(),
    };
    change.insert(&key).await?;
    change.put_secret(&secret_of(&key), pair.ha1().as_bytes()).await?;
    change.grant(&PrincipalId::ApiKey(key.id), Grant::Org(org.id, OrgRole::OrgOwner)).await?;
    crate::link::set_up(&mut change, now).await?;
    change.put_secret(NONCE_SECRET, &zeroize::Zeroizing::new(make_bytes::<32>())[..]).await?;
    let event = NewEvent::new(EventType::ServerInitialized, Actor::Operator)
        .org(org.id)
        .detail("publicKey", pair.public_key.clone());
    change.commit(event, now).await?;
    store.close().await;
    Ok(InitReport {
        org_id: org.id,
        public_key: pair.public_key,
        private_key: pair.private_key,
        key_file,
        ca_file,
    })
}

fn private_folder(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
