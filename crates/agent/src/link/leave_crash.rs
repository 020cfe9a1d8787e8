//! Leaving a server, cut off after each of its disk operations: the node either still has its server, or has
//! none and nothing of what that one wished; the customer key is reached as before; and leaving again ends
//! it.

use std::{path::Path, sync::Arc};

use keyward_model::{
    RevocationPolicy, Timestamp,
    approval::{Approval, Seen},
    encryption::AzureEnvironment,
    id::NodeId,
    sync::{Desired, DesiredCredential, DesiredEncryption, DesiredRun},
};

use super::{
    Link,
    files::{Accepted, Applied, Joined, LinkFiles},
};
use crate::{
    clock::Clock,
    config::Config,
    disk::fake::{Contents, FakeDisk, Names, Torn},
    node::{
        NodeHandle, Parts, Shell, chain,
        doubles::{TableService, ThreadEngine},
    },
};

const KEY: &str = "https://v.vault.azure.net/keys/k/11111111111111111111111111111111";
const TENANT: &str = "00000000-0000-0000-0000-000000000001";
const SECRET: &str = "the project's client secret";

fn config() -> Config {
    let text = format!(
        r#"
name = "n"
data_path = "/db"
state_dir = "/state"
encryptor = "/none"
initial = "server"
[engine]
kind = "mongod"
program = "/none"
port = 1
[customer_key]
tenant_id = "{TENANT}"
managed_identity = true
[admin]
socket = "/admin.sock"
"#
    );
    Config::parse(&text, Path::new("agent.toml")).unwrap()
}

fn files(disk: &Arc<FakeDisk>) -> LinkFiles {
    LinkFiles::open(Path::new("/state"), Arc::clone(disk) as _).unwrap()
}

/// An agent that has just been started on this disk.
fn started(disk: &Arc<FakeDisk>) -> (NodeHandle, Shell, Link) {
    let service: Arc<TableService> = Arc::default();
    let parts = Parts {
        make_service: Arc::new(move |_| Ok(Arc::clone(&service) as _)),
        regions: Default::default(),
        engine: Arc::new(ThreadEngine::default()),
        disk: Arc::clone(disk) as _,
        clock: Clock::open().unwrap(),
    };
    let (node, shell) = NodeHandle::open(config(), parts).unwrap();
    let link = Link::open(node.clone()).unwrap();
    (node, shell, link)
}

fn encryption() -> DesiredEncryption {
    DesiredEncryption {
        key_identifier: KEY.parse().unwrap(),
        azure_environment: AzureEnvironment::Azure,
        tenant_id: TENANT.to_owned(),
        client_id: TENANT.to_owned(),
        subscription_id: None,
        resource_group_name: None,
        credential: DesiredCredential::ClientSecret { secret: SECRET.to_owned() },
        require_private_networking: false,
        policy: RevocationPolicy::default(),
        client_secret_expires: None,
    }
}

/// A node that has joined a server and does what that one wishes.
fn joined() -> FakeDisk {
    let disk = Arc::new(FakeDisk::default());
    let files = files(&disk);
    let at = Timestamp::from_epoch_ms(0);
    files.set_join_key("key").unwrap();
    files.set_certificate("certificate", "authorities").unwrap();
    let joined = Joined {
        node_id: NodeId(uuid::Uuid::from_u128(7)),
        url: "https://server.example:27443".parse().unwrap(),
        ca_sha256: "0".repeat(64),
        issued_at: at,
        not_after: at,
        reserved_reports: 0,
    };
    files.finish_join("key", &joined, false).unwrap();
    let desired = Desired {
        revision: 5,
        cluster: None,
        encryption: Some(encryption()),
        rotate_master_key: None,
        run: DesiredRun::Stopped,
        step_down: false,
        resync: false,
        validations: Vec::new(),
    };
    let seen = Seen { revision: 5, digest: "d".to_owned() };
    files.set_accepted(&Accepted { seen, desired, done: true }).unwrap();
    files.set_applied(&Applied { encryption: Some(encryption()), run: DesiredRun::Stopped }).unwrap();
    files.set_approvals(&[Approval::EncryptionOff].into()).unwrap();
    files.keep_secret(SECRET).unwrap();
    disk.after_power_cut(Contents::Kept, Names { kept: usize::MAX, torn: Torn::No })
}

/// What lies in STATE_DIR/server.
fn kept(disk: &FakeDisk) -> Vec<String> {
    let all = disk.files();
    let names = all.keys().filter_map(|path| path.strip_prefix("/state/server").ok());
    names.map(|name| name.to_str().unwrap().to_owned()).collect()
}

fn assert_left_whole(disk: &FakeDisk, what: &str) {
    let names = kept(disk);
    assert_eq!(names.len(), 2, "{what}: {names:?}");
    assert!(names[0] == "applied.json" && names[1].starts_with("client-secret-"), "{what}: {names:?}");
    let secret = disk.files()[&Path::new("/state/server").join(&names[1])].clone();
    assert_eq!(secret, SECRET.as_bytes(), "{what}");
}

#[test]
fn no_power_cut_while_leaving_leaves_a_node_between_two_masters() {
    let base = joined();
    assert_eq!(kept(&base).len(), 8, "{:?}", kept(&base));
    let mut cuts = 0;
    for operations in 0.. {
        let disk = Arc::new(base.clone());
        let (_node, _shell, link) = started(&disk);
        disk.lose_power_after(operations);
        let outcome = link.forget();
        for (cut, left) in disk.after_power_cuts() {
            let what = format!("power cut after {operations} operations, {cut}");
            let left = Arc::new(left);
            let files = files(&left);
            let applied = files.applied().unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
            assert_eq!(applied.encryption, Some(encryption()), "{what}: the way to the customer key");
            let has_server = files.joined().unwrap().is_some();
            if has_server {
                let identity =
                    (files.key().unwrap(), files.certificate().unwrap(), files.authorities().unwrap());
                let whole = identity.0.is_some() && identity.1.is_some() && identity.2.is_some();
                assert!(whole, "{what}: it has a server that it cannot talk to");
            } else {
                assert!(files.accepted().unwrap().is_none(), "{what}: a wish without a server");
                assert_eq!(applied.run, DesiredRun::Unmanaged, "{what}");
                assert_eq!(files.approvals().unwrap().len(), 0, "{what}: the next server finds an approval");
            }
            assert!(outcome.is_err() || !has_server, "{what}: it has left, and is back again");

            // The next agent starts, is reached by the same key, and leaves.
            let (node, _shell, link) = started(&left);
            assert_eq!(node.access().key.as_ref().map(ToString::to_string), Some(KEY.to_owned()), "{what}");
            assert_eq!(node.status().link.is_some(), has_server, "{what}");
            link.forget().unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
            assert_left_whole(&left, &what);
            assert!(node.status().link.is_none(), "{what}");
            cuts += 1;
        }
        if !disk.has_lost_power() {
            outcome.unwrap();
            assert_left_whole(&disk, "not cut off");
            break;
        }
    }
    assert!(cuts >= 30, "{cuts}: the power was really cut");
}
