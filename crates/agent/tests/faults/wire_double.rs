//! As much of MongoDB's wire protocol as the agent's questions need, and a record of what was asked: a double for a
//! mongod, which alone can be locked against writes. Follows the wire protocol's description (OP_MSG, OP_QUERY).

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use mongodb::bson::{Document, doc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;

pub(crate) struct WireDouble {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<String>>,
    deaf: AtomicBool,
    locked: AtomicBool,
}

impl WireDouble {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // A connection that ends, ends.
                    tokio::spawn(serve(stream, Arc::clone(&shared)));
                }
            }
        });
        Ok(Self { port, shared })
    }

    /// Closes every connection without an answer while it is on.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.shared.deaf.store(deaf, Ordering::SeqCst);
    }

    pub(crate) fn set_locked(&self, locked: bool) {
        self.shared.locked.store(locked, Ordering::SeqCst);
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.shared.locked.load(Ordering::SeqCst)
    }

    /// How often a command was answered.
    pub(crate) fn asked(&self, command: &str) -> usize {
        self.shared
            .asked
            .lock()
            .expect("no test panics with it")
            .iter()
            .filter(|name| *name == command)
            .count()
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> Result<()> {
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header).await?;
        let word =
            |at: usize| i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, request, kind) = (word(0), word(4), word(12));
        let mut body = vec![0; usize::try_from(length)?.checked_sub(16).context("a length")?];
        stream.read_exact(&mut body).await?;
        if shared.deaf.load(Ordering::SeqCst) {
            return Ok(());
        }
        // OP_MSG: flags, section kind 0, document. OP_QUERY: flags, name, NUL, skip, number, document.
        let at = match kind {
            OP_MSG => 5,
            OP_QUERY => 4 + body[4..].iter().position(|byte| *byte == 0).context("a name")? + 1 + 8,
            other => anyhow::bail!("operation {other} is not known"),
        };
        let answer = answer(&Document::from_reader(&body[at..])?, &shared);
        let mut bytes = Vec::new();
        answer.to_writer(&mut bytes)?;
        let (kind, head) = match kind {
            OP_QUERY => (OP_REPLY, [&[0; 16][..], &1i32.to_le_bytes()].concat()),
            _ => (OP_MSG, vec![0; 5]),
        };
        let length = i32::try_from(16 + head.len() + bytes.len())?;
        let mut frame = Vec::new();
        for word in [length, 1, request, kind] {
            frame.extend_from_slice(&word.to_le_bytes());
        }
        stream.write_all(&[frame, head, bytes].concat()).await?;
    }
}

fn answer(command: &Document, shared: &Shared) -> Document {
    let name = command.keys().next().cloned().unwrap_or_default();
    shared.asked.lock().expect("no test panics with it").push(name.clone());
    match name.as_str() {
        "hello" | "isMaster" | "ismaster" => doc! {
            "ok": 1, "helloOk": true, "isWritablePrimary": true, "ismaster": true, "minWireVersion": 0,
            "maxWireVersion": 21, "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000, "readOnly": false,
        },
        "buildInfo" => doc! { "ok": 1, "version": "8.0.0" },
        "fsyncUnlock" => {
            if shared.locked.swap(false, Ordering::SeqCst) {
                doc! { "ok": 1, "lockCount": 0 }
            } else {
                doc! { "ok": 0, "errmsg": "fsyncUnlock called when not locked", "code": 20,
                "codeName": "IllegalOperation" }
            }
        }
        _ => doc! { "ok": 1 },
    }
}
