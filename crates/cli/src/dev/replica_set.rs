//! Makes one replica set of mongods.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind;
use mongodb::{Client, options::ClientOptions};
use tokio::time::{Instant, sleep};

use super::site::{Node, REPLICA_SET};
use super::view::What;

/// mongod's code for "this set was initiated already".
const ALREADY_INITIALIZED: i32 = 23;
/// And for "a member of it does not answer": a node runs before its mongod takes connections.
const NODE_NOT_FOUND: i32 = 74;
/// How long members are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Initiates the set with these members; one that was initiated before stays as it is.
pub(crate) async fn initiate(members: Vec<Node>) -> What {
    let Some(first) = members.first() else { return What::Trouble { text: "no members".into() } };
    match run(first, &configuration(&members)).await {
        Ok(()) => What::Notice { text: format!("replica set {REPLICA_SET}: {}", uri(&members)) },
        Err(error) => What::Trouble { text: format!("the replica set could not be made: {error}") },
    }
}

/// The whole set's address.
pub(crate) fn uri(members: &[Node]) -> String {
    let hosts: Vec<String> = members.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    format!("mongodb://{}/?replicaSet={REPLICA_SET}", hosts.join(","))
}

async fn run(first: &Node, configuration: &Document) -> mongodb::error::Result<()> {
    let mut options = ClientOptions::parse(first.uri()).await?;
    options.server_selection_timeout = Some(Duration::from_secs(20));
    let admin = Client::with_options(options)?.database("admin");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(error) = admin.run_command(doc! { "replSetInitiate": configuration }).await else {
            return Ok(());
        };
        let code = if let ErrorKind::Command(said) = error.kind.as_ref() { Some(said.code) } else { None };
        match code {
            Some(ALREADY_INITIALIZED) => return Ok(()),
            Some(NODE_NOT_FOUND) if Instant::now() < deadline => sleep(Duration::from_millis(200)).await,
            Some(_) | None => return Err(error),
        }
    }
}

fn configuration(members: &[Node]) -> Document {
    let members: Vec<Document> = (0_i32..)
        .zip(members)
        .map(|(id, node)| doc! { "_id": id, "host": format!("127.0.0.1:{}", node.port) })
        .collect();
    doc! { "_id": REPLICA_SET, "members": members }
}

#[cfg(test)]
mod tests {
    use super::super::site::NodeKind;
    use super::*;

    #[test]
    fn the_set_is_all_members() {
        let node = |name: &str, port| Node {
            name: name.into(),
            kind: NodeKind::Member,
            port,
            data_path: "/d".into(),
            socket: "/s".into(),
        };
        let members = [node("node-0", 27001), node("node-1", 27002)];
        assert_eq!(uri(&members), "mongodb://127.0.0.1:27001,127.0.0.1:27002/?replicaSet=keyward");
        assert_eq!(
            configuration(&members),
            doc! { "_id": "keyward", "members": [
                { "_id": 0, "host": "127.0.0.1:27001" }, { "_id": 1, "host": "127.0.0.1:27002" },
            ]}
        );
    }
}
