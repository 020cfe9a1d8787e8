//! The agent's side of the encryptor's socket, with one key that lives as long as this benchmark.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use keyward_keys::keystore::Purpose;
use keyward_keys::wire::{self, ToAgent, ToEncryptor, WireKey};
use keyward_keys::{DatabaseKey, KeyId, NodeId};
use tempfile::TempDir;

pub(crate) struct KeyServer {
    /// Mode 0700: the encryptor wants a folder that others cannot write.
    folder: TempDir,
    system_key_id: KeyId,
}

impl KeyServer {
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("keyward-bench-").tempdir()?;
        let listener =
            UnixListener::bind(folder.path().join("keys.sock")).context("cannot listen for the encryptor")?;
        let (node_id, system_key_id) = (NodeId::make(), KeyId::make());
        let key = DatabaseKey::make()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = serve(stream, node_id, system_key_id, &key) {
                    println!("note the encryptor's connection ended: {error:#}");
                }
            }
        });
        Ok(Self { folder, system_key_id })
    }

    /// What `WIREDTIGER_CONFIG` has to say for this library and this server.
    pub(crate) fn wiredtiger_config(&self, library: &Path) -> String {
        format!(
            "extensions=[{}=(early_load=true,config=(socket=\"{}\",layout=\"wiredtiger-11.3.1\",per_database=false))],\
             encryption=(name=keyward,keyid=\"{}\")",
            library.display(),
            self.folder.path().join("keys.sock").display(),
            self.system_key_id
        )
    }
}

/// Answers one encryptor until it says goodbye.
fn serve(mut stream: UnixStream, node_id: NodeId, system_key_id: KeyId, key: &DatabaseKey) -> Result<()> {
    loop {
        match wire::read_to_agent(&mut stream) {
            Ok(ToAgent::Hello { max_version, .. }) => {
                let key = DatabaseKey::take_from(&mut key.expose().to_owned())?;
                let welcome = ToEncryptor::Welcome {
                    version: max_version.min(wire::PROTOCOL_VERSION),
                    node_id,
                    system_key_id,
                    keys: vec![WireKey { id: system_key_id, purpose: Purpose::System, key }],
                    held: true,
                };
                wire::write_to_encryptor(&mut stream, &welcome)?;
            }
            Ok(ToAgent::Bye) | Err(wire::WireError::Closed) => return Ok(()),
            Ok(ToAgent::Assigned(_) | ToAgent::NeedSpares) => {}
            Err(error) => return Err(error).context("cannot read the encryptor's frame"),
        }
    }
}
