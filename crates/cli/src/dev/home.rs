//! The folder of `keyward dev`: what lies where, its lock, and `dev.json`.
//!
//! ```text
//! DIR/dev.json            how to reach everything (addresses, credentials; 0600)
//! DIR/processes.json      what was started, so that a later start finds it
//! DIR/dev.lock            held while `keyward dev` runs
//! DIR/vault/              the vault's state, vault.json, vault.log
//! DIR/server/             server.toml, first-key.json, server.log, data/
//! DIR/secantusdb/         the database installed from PyPI
//! DIR/nodes/NAME/         agent.toml, agent.log, engine.log, data/, state/
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keyward_model::KeyIdentifier;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Longest path of a Unix socket, without the final zero.
const SOCKET_PATH_MAX: usize = 107;

/// The folder, as an absolute path.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    dir: PathBuf,
}

impl Home {
    /// Makes the folder if need be (0700) and resolves it. Refuses one whose path is too long for sockets in it.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        make_dir(dir)?;
        let dir = dir
            .canonicalize()
            .map_err(|e| Failure::new(format!("{} cannot be resolved", dir.display()), FOLDER).because(&e))?;
        let home = Self { dir };
        let spare =
            SOCKET_PATH_MAX.checked_sub(home.state_dir(LONGEST_NAME).join("keys/socket").as_os_str().len());
        if spare.is_none() {
            return Err(Failure::new(
                format!("the path {} is too long for sockets in it", home.dir.display()),
                "name a folder with a shorter path with --dir, such as /tmp/keyward",
            ));
        }
        Ok(home)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn vault_dir(&self) -> PathBuf {
        self.dir.join("vault")
    }

    pub(crate) fn server_dir(&self) -> PathBuf {
        self.dir.join("server")
    }

    pub(crate) fn dev_file(&self) -> PathBuf {
        self.dir.join("dev.json")
    }

    pub(crate) fn processes_file(&self) -> PathBuf {
        self.dir.join("processes.json")
    }

    pub(crate) fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node)
    }

    pub(crate) fn data_path(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("data")
    }

    pub(crate) fn agent_file(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("agent.toml")
    }

    pub(crate) fn admin_socket(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("admin.sock")
    }

    pub(crate) fn state_dir(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("state")
    }

    /// Makes every folder that a node needs.
    pub(crate) fn make_node_dirs(&self, node: &str) -> Result<(), Failure> {
        make_dir(&self.data_path(node))?;
        make_dir(&self.state_dir(node))
    }

    /// Takes the folder for this process; refuses when another one has it.
    pub(crate) fn lock(&self) -> Result<Lock, Failure> {
        let path = self.dir.join("dev.lock");
        let file =
            fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(
                |e| Failure::new(format!("{} cannot be opened", path.display()), FOLDER).because(&e),
            )?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(Failure::new(
                format!("another `keyward dev` uses {}", self.dir.display()),
                "stop it (Ctrl-C), or take another folder with --dir",
            )),
            Err(fs::TryLockError::Error(e)) => {
                Err(Failure::new(format!("{} cannot be locked", path.display()), FOLDER).because(&e))
            }
        }
    }
}

/// Held while a process owns the folder; the kernel lets go of it when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// `DIR/dev.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DevFile {
    pub(crate) vault: DevVault,
    pub(crate) nodes: Vec<DevNode>,
    /// Missing until the server has been made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<DevServer>,
}

/// The server, and the key of its organization's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DevServer {
    pub(crate) url: String,
    pub(crate) ca_file: PathBuf,
    pub(crate) public_key: String,
    pub(crate) private_key: String,
    pub(crate) org_id: String,
    pub(crate) project_id: String,
}

/// The vault and how the nodes come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DevVault {
    pub(crate) url: String,
    pub(crate) authority: String,
    pub(crate) arm_url: String,
    pub(crate) ca_file: PathBuf,
    pub(crate) tenant_id: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    pub(crate) key_identifier: KeyIdentifier,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DevNode {
    pub(crate) name: String,
    pub(crate) uri: String,
    pub(crate) db_path: PathBuf,
    pub(crate) socket: PathBuf,
}

impl DevFile {
    /// Reads `DIR/dev.json`; `None` when there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(Failure::new(format!("{} cannot be read", path.display()), FOLDER).because(&e));
            }
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Failure::new(
                format!("{} is not what `keyward dev` writes", path.display()),
                "delete it and start `keyward dev` again, or name another folder",
            )
            .because(&e)
        })
    }

    /// Writes it (0600: it holds a client secret), whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        write_json(path, self)
    }
}

/// Replaces a file by `value` as JSON (0600), whole or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    let mut json = serde_json::to_vec_pretty(value)
        .map_err(|e| Failure::new(format!("{} cannot be written", path.display()), FOLDER).because(&e))?;
    json.push(b'\n');
    write_file(path, &json)
}

/// Replaces a file (0600), whole or not at all.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|e| Failure::new(format!("{} cannot be written", path.display()), FOLDER).because(&e))
}

/// Makes a folder and its parents, for this user only.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Failure::new(format!("{} cannot be made", dir.display()), FOLDER).because(&e))
}

/// The longest name of a node.
const LONGEST_NAME: &str = "restored";
const FOLDER: &str = "check the folder's owner, permissions and free space, or name another one with --dir";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_the_first_one_ends_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("deep/er")).unwrap();
        let lock = home.lock().unwrap();
        let refused = home.lock().unwrap_err();
        assert!(refused.message.starts_with("another `keyward dev` uses "), "{refused:?}");
        drop(lock);
        home.lock().unwrap();
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let deep = |length: usize| dir.path().join("d".repeat(length));
        let refused = Home::open(&deep(90)).unwrap_err();
        assert!(refused.message.ends_with(" is too long for sockets in it"), "{refused:?}");
        // The longest that is taken really has room for a socket.
        let home = (1..90).rev().find_map(|length| Home::open(&deep(length)).ok()).unwrap();
        let keys = home.state_dir(LONGEST_NAME).join("keys");
        make_dir(&keys).unwrap();
        std::os::unix::net::UnixListener::bind(keys.join("socket")).unwrap();
    }

    #[test]
    fn dev_json_has_the_documented_shape_and_mode() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev.json");
        assert_eq!(DevFile::read(&path).unwrap(), None);
        let file = DevFile {
            vault: DevVault {
                url: "https://localhost:1".into(),
                authority: "https://localhost:1".into(),
                arm_url: "https://localhost:1".into(),
                ca_file: "/v/ca.pem".into(),
                tenant_id: "t".into(),
                client_id: "c".into(),
                client_secret: "s".into(),
                key_identifier: crate::render::samples::key_identifier(),
            },
            nodes: vec![DevNode {
                name: "node-0".into(),
                uri: "mongodb://127.0.0.1:27017/".into(),
                db_path: "/n/data".into(),
                socket: "/n/admin.sock".into(),
            }],
            server: Some(DevServer {
                url: "https://localhost:2/".into(),
                ca_file: "/s/ca.pem".into(),
                public_key: "abcdefgh".into(),
                private_key: "p".into(),
                org_id: "o".into(),
                project_id: "p".into(),
            }),
        };
        file.write(&path).unwrap();
        assert_eq!(DevFile::read(&path).unwrap(), Some(file));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&json), ["vault", "nodes", "server"]);
        assert_eq!(keys(&json["server"]), ["url", "caFile", "publicKey", "privateKey", "orgId", "projectId"]);
        assert_eq!(
            keys(&json["vault"]),
            ["url", "authority", "armUrl", "caFile", "tenantId", "clientId", "clientSecret", "keyIdentifier"]
        );
        assert_eq!(keys(&json["nodes"][0]), ["name", "uri", "dbPath", "socket"]);
    }
}
