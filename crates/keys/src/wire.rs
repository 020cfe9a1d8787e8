//! Frames between agent and encryptor, on a unix socket.
//!
//! ```text
//!  0               4        5                            5 + length
//!  ┌───────────────┬────────┬───────────────────────────┐
//!  │ length u32 LE │ type   │ payload                   │   of the payload
//!  └───────────────┴────────┴───────────────────────────┘
//! ```
//!
//! Integers are little-endian, texts are a `u16` length and UTF-8, lists a `u32` count and their elements. A decoder
//! ignores what follows the fields it knows, so that later versions may add some; what a field means never changes.
//! Frames that carry keys live in buffers allocated once, at their final size, and wiped.

use std::io::{self, Read, Write};

use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    DatabaseKey, KeyId, NodeId,
    assignment::{Assignment, is_database_name},
    keystore::Purpose,
    secret::KEY_BYTES,
};

/// The newest version of this protocol that this code speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// The oldest version of this protocol that this code speaks.
pub const MIN_PROTOCOL_VERSION: u16 = 1;

/// Length (`u32`, little-endian, of the payload) and type (`u8`) before each payload.
pub const HEADER_BYTES: usize = 5;

/// From encryptor to agent. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToAgent {
    /// The first frame of a connection.
    Hello {
        /// Oldest protocol version the encryptor speaks.
        min_version: u16,
        /// Newest protocol version the encryptor speaks.
        max_version: u16,
        /// Process id of the engine, as it sees itself.
        pid: u32,
        /// What `wiredtiger_version` says.
        wiredtiger_version: String,
        /// Name of the method-table layout that was verified.
        layout: String,
        /// The data path that was opened.
        data_path: String,
    },
    /// A spare became a database's key; it is in the journal already.
    Assigned(Assignment),
    /// Few spares are left.
    NeedSpares,
    /// The connection is closed on purpose: the engine is shutting down.
    Bye,
}

/// A database key on its way to the encryptor.
#[derive(Debug)]
pub struct WireKey {
    /// Its id.
    pub id: KeyId,
    /// What it is for.
    pub purpose: Purpose,
    /// The key.
    pub key: DatabaseKey,
}

/// From agent to encryptor.
#[derive(Debug)]
pub enum ToEncryptor {
    /// Answers `Hello`.
    Welcome {
        /// The protocol version to speak from now on.
        version: u16,
        /// The node.
        node_id: NodeId,
        /// The key of `.system`.
        system_key_id: KeyId,
        /// Every database key and the spares; empty when `held` is false.
        keys: Vec<WireKey>,
        /// False: the agent has no master key at the moment; keep the keys you have.
        held: bool,
    },
    /// More spares, all durable in the keystore.
    Spares(Vec<WireKey>),
    /// The agent will not serve this connection.
    Refused {
        /// Why, for the database's log.
        reason: String,
    },
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed.
    #[error("the connection between agent and encryptor failed")]
    Io(#[from] std::io::Error),
    /// The other side closed the connection between two frames.
    #[error("the other side closed the connection")]
    Closed,
    /// A frame longer than its direction allows.
    #[error("a frame of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// The length said or needed.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A frame type that this version does not know.
    #[error("a frame of type {0} is not known to this version")]
    UnknownType(u8),
    /// The payload does not have the shape of its type.
    #[error("a frame of type {frame_type} is malformed: {what}")]
    Malformed {
        /// Its type.
        frame_type: u8,
        /// What is wrong.
        what: &'static str,
    },
    /// No memory for a key.
    #[error("a received key could not be kept")]
    Secret(#[from] crate::SecretError),
}

/// A whole frame, header included. Wiped when dropped.
pub struct Frame(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} bytes, ..)", self.0.len())
    }
}

impl Frame {
    /// What goes over the socket.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads one frame; blocks.
pub fn read_to_agent(from: &mut impl Read) -> Result<ToAgent, WireError> {
    let header = read_header(from)?;
    let mut payload = to_agent_payload(&header)?;
    from.read_exact(&mut payload)?;
    decode_to_agent(&header, &payload)
}

/// Writes one frame; blocks.
pub fn write_to_agent(to: &mut impl Write, message: &ToAgent) -> Result<(), WireError> {
    to.write_all(encode_to_agent(message)?.as_bytes())?;
    Ok(to.flush()?)
}

/// Reads one frame; blocks.
pub fn read_to_encryptor(from: &mut impl Read) -> Result<ToEncryptor, WireError> {
    let header = read_header(from)?;
    let mut payload = to_encryptor_payload(&header)?;
    from.read_exact(&mut payload)?;
    decode_to_encryptor(&header, &mut payload)
}

/// Writes one frame; blocks.
pub fn write_to_encryptor(to: &mut impl Write, message: &ToEncryptor) -> Result<(), WireError> {
    to.write_all(encode_to_encryptor(message)?.as_bytes())?;
    Ok(to.flush()?)
}

/// The frame for `message`.
pub fn encode_to_agent(message: &ToAgent) -> Result<Frame, WireError> {
    let (frame_type, fill): (u8, Fill<'_>) = match message {
        ToAgent::Hello { min_version, max_version, pid, wiredtiger_version, layout, data_path } => {
            (HELLO, &|to| {
                to.bytes(&min_version.to_le_bytes());
                to.bytes(&max_version.to_le_bytes());
                to.bytes(&pid.to_le_bytes());
                to.text(wiredtiger_version);
                to.text(layout);
                to.text(data_path);
            })
        }
        ToAgent::Assigned(assignment) => (ASSIGNED, &|to| {
            to.bytes(assignment.key_id.as_bytes());
            to.text(&assignment.database);
        }),
        ToAgent::NeedSpares => (NEED_SPARES, &|_| {}),
        ToAgent::Bye => (BYE, &|_| {}),
    };
    encode(frame_type, MAX_TO_AGENT_BYTES, fill)
}

/// The frame for `message`, in a buffer that is wiped.
pub fn encode_to_encryptor(message: &ToEncryptor) -> Result<Frame, WireError> {
    let (frame_type, fill): (u8, Fill<'_>) = match message {
        ToEncryptor::Welcome { version, node_id, system_key_id, keys, held } => (WELCOME, &|to| {
            to.bytes(&version.to_le_bytes());
            to.bytes(node_id.as_bytes());
            to.bytes(system_key_id.as_bytes());
            to.bytes(&[u8::from(*held)]);
            to.keys(keys);
        }),
        ToEncryptor::Spares(keys) => (SPARES, &|to| to.keys(keys)),
        ToEncryptor::Refused { reason } => (REFUSED, &|to| to.text(reason)),
    };
    encode(frame_type, MAX_TO_ENCRYPTOR_BYTES, fill)
}

/// A buffer, as long as the header says, for the payload of a frame to the agent.
pub fn to_agent_payload(header: &[u8; HEADER_BYTES]) -> Result<Zeroizing<Vec<u8>>, WireError> {
    payload_buffer(header, MAX_TO_AGENT_BYTES)
}

/// A buffer, as long as the header says, for the payload of a frame to the encryptor.
pub fn to_encryptor_payload(header: &[u8; HEADER_BYTES]) -> Result<Zeroizing<Vec<u8>>, WireError> {
    payload_buffer(header, MAX_TO_ENCRYPTOR_BYTES)
}

/// The message of a frame, from its header and its whole payload.
pub fn decode_to_agent(header: &[u8; HEADER_BYTES], payload: &[u8]) -> Result<ToAgent, WireError> {
    let mut from = Fields::new(header, payload)?;
    match from.frame_type {
        HELLO => Ok(ToAgent::Hello {
            min_version: u16::from_le_bytes(from.array()?),
            max_version: u16::from_le_bytes(from.array()?),
            pid: u32::from_le_bytes(from.array()?),
            wiredtiger_version: from.text()?,
            layout: from.text()?,
            data_path: from.text()?,
        }),
        ASSIGNED => {
            let key_id = KeyId::from_bytes(from.array()?);
            let database = from.database()?;
            Ok(ToAgent::Assigned(Assignment { key_id, database }))
        }
        NEED_SPARES => Ok(ToAgent::NeedSpares),
        BYE => Ok(ToAgent::Bye),
        other => Err(WireError::UnknownType(other)),
    }
}

/// The message of a frame, from its header and its whole payload, which is wiped.
pub fn decode_to_encryptor(
    header: &[u8; HEADER_BYTES],
    payload: &mut [u8],
) -> Result<ToEncryptor, WireError> {
    let decoded = Fields::new(header, payload).and_then(|mut from| match from.frame_type {
        WELCOME => Ok(ToEncryptor::Welcome {
            version: u16::from_le_bytes(from.array()?),
            node_id: NodeId::from_bytes(from.array()?),
            system_key_id: KeyId::from_bytes(from.array()?),
            held: from.flag()?,
            keys: from.keys()?,
        }),
        SPARES => Ok(ToEncryptor::Spares(from.keys()?)),
        REFUSED => Ok(ToEncryptor::Refused { reason: from.text()? }),
        other => Err(WireError::UnknownType(other)),
    });
    payload.zeroize();
    decoded
}

/// The agent admits one process, but a frame from it is still bounded.
const MAX_TO_AGENT_BYTES: usize = 64 << 10;

/// Room for some 200,000 keys.
const MAX_TO_ENCRYPTOR_BYTES: usize = 64 << 20;

const HELLO: u8 = 1;
const ASSIGNED: u8 = 2;
const NEED_SPARES: u8 = 3;
const BYE: u8 = 4;
const WELCOME: u8 = 65;
const SPARES: u8 = 66;
const REFUSED: u8 = 67;

const FOR_SYSTEM: u8 = 0;
const FOR_DATABASE: u8 = 1;
const SPARE: u8 = 2;

fn read_header(from: &mut impl Read) -> Result<[u8; HEADER_BYTES], WireError> {
    let mut header = [0; HEADER_BYTES];
    let first = loop {
        match from.read(&mut header[..1]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Err(WireError::Closed);
    }
    from.read_exact(&mut header[1..])?;
    Ok(header)
}

fn payload_buffer(header: &[u8; HEADER_BYTES], limit: usize) -> Result<Zeroizing<Vec<u8>>, WireError> {
    let [a, b, c, d, _] = *header;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > limit { Err(WireError::TooLong { len, limit }) } else { Ok(Zeroizing::new(vec![0; len])) }
}

/// Runs `fill` twice: to learn the length, and to write into a buffer that never grows.
fn encode(frame_type: u8, limit: usize, fill: Fill<'_>) -> Result<Frame, WireError> {
    let mut length = Length { bytes: 0, text_too_long: None };
    fill(&mut length);
    if let Some(len) = length.text_too_long {
        return Err(WireError::TooLong { len, limit: usize::from(u16::MAX) });
    }
    let len = length.bytes;
    let too_long = WireError::TooLong { len, limit };
    let (true, Ok(said)) = (len <= limit, u32::try_from(len)) else { return Err(too_long) };
    let mut frame = Frame(Zeroizing::new(Vec::with_capacity(HEADER_BYTES + len)));
    frame.0.extend_from_slice(&said.to_le_bytes());
    frame.0.push(frame_type);
    fill(&mut *frame.0);
    debug_assert_eq!(frame.0.len(), HEADER_BYTES + len);
    Ok(frame)
}

/// Writes the fields of one message.
type Fill<'a> = &'a dyn Fn(&mut dyn Sink);

/// Takes the fields of a payload in order.
trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    fn text(&mut self, text: &str) {
        // `Length` has refused longer ones before anything is written.
        self.bytes(&(text.len() as u16).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn keys(&mut self, keys: &[WireKey]) {
        self.bytes(&(keys.len() as u32).to_le_bytes());
        for WireKey { id, purpose, key } in keys {
            self.bytes(id.as_bytes());
            match purpose {
                Purpose::System => self.bytes(&[FOR_SYSTEM]),
                Purpose::Database(name) => {
                    self.bytes(&[FOR_DATABASE]);
                    self.text(name);
                }
                Purpose::Spare => self.bytes(&[SPARE]),
            }
            self.bytes(key.expose());
        }
    }
}

impl Sink for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

struct Length {
    bytes: usize,
    text_too_long: Option<usize>,
}

impl Sink for Length {
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn text(&mut self, text: &str) {
        if text.len() > usize::from(u16::MAX) {
            self.text_too_long = Some(text.len());
        }
        self.bytes += 2 + text.len();
    }
}

/// Gives the fields of a payload in order.
struct Fields<'a> {
    frame_type: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(header: &[u8; HEADER_BYTES], payload: &'a [u8]) -> Result<Self, WireError> {
        let [a, b, c, d, frame_type] = *header;
        let fields = Self { frame_type, rest: payload };
        if u32::from_le_bytes([a, b, c, d]) as usize == payload.len() {
            Ok(fields)
        } else {
            Err(fields.malformed("its length is not the one its header says"))
        }
    }

    fn malformed(&self, what: &'static str) -> WireError {
        WireError::Malformed { frame_type: self.frame_type, what }
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| self.malformed("it ends within a field"))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.malformed("a flag is neither 0 nor 1")),
        }
    }

    fn text(&mut self) -> Result<String, WireError> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        let bytes = self.bytes(len)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.malformed("a text is not UTF-8"))
    }

    fn database(&mut self) -> Result<String, WireError> {
        let name = self.text()?;
        if is_database_name(&name) { Ok(name) } else { Err(self.malformed("a database's name is not one")) }
    }

    fn keys(&mut self) -> Result<Vec<WireKey>, WireError> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        if count > self.rest.len() / MIN_KEY_BYTES {
            return Err(self.malformed("it announces more keys than it holds"));
        }
        let mut keys = Vec::with_capacity(count);
        for _ in 0..count {
            let id = KeyId::from_bytes(self.array()?);
            let purpose = match self.array()? {
                [FOR_SYSTEM] => Purpose::System,
                [FOR_DATABASE] => Purpose::Database(self.database()?),
                [SPARE] => Purpose::Spare,
                _ => return Err(self.malformed("a key has an unknown purpose")),
            };
            keys.push(WireKey { id, purpose, key: DatabaseKey::copy_of(self.bytes(KEY_BYTES)?)? });
        }
        Ok(keys)
    }
}

/// A key without a name: id, purpose, key.
const MIN_KEY_BYTES: usize = 16 + 1 + KEY_BYTES;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> ToAgent {
        ToAgent::Hello {
            min_version: 1,
            max_version: 3,
            pid: 4711,
            wiredtiger_version: "WiredTiger 11.2.0".to_owned(),
            layout: "secantusdb-11.2".to_owned(),
            data_path: "/var/lib/mongodb".to_owned(),
        }
    }

    fn wire_key(purpose: Purpose) -> WireKey {
        WireKey { id: KeyId::make(), purpose, key: DatabaseKey::make().unwrap() }
    }

    #[test]
    fn messages_to_the_agent_read_back() {
        let assigned = Assignment { key_id: KeyId::make(), database: "älpha".to_owned() };
        let messages = [hello(), ToAgent::Assigned(assigned), ToAgent::NeedSpares, ToAgent::Bye];
        let mut socket = Vec::new();
        for message in &messages {
            write_to_agent(&mut socket, message).unwrap();
        }
        let mut socket = &socket[..];
        for message in &messages {
            assert_eq!(read_to_agent(&mut socket).unwrap(), *message);
        }
        assert!(matches!(read_to_agent(&mut socket), Err(WireError::Closed)));
    }

    #[test]
    fn keys_arrive_whole_and_leave_the_payload_wiped() {
        let keys = vec![
            wire_key(Purpose::System),
            wire_key(Purpose::Database("alpha".to_owned())),
            wire_key(Purpose::Spare),
        ];
        let (node_id, system_key_id) = (NodeId::make(), keys[0].id);
        let welcome = ToEncryptor::Welcome { version: 1, node_id, system_key_id, keys, held: true };
        let frame = encode_to_encryptor(&welcome).unwrap();
        let ToEncryptor::Welcome { keys, .. } = &welcome else { unreachable!() };

        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&frame.as_bytes()[..HEADER_BYTES]);
        let mut payload = to_encryptor_payload(&header).unwrap();
        payload.copy_from_slice(&frame.as_bytes()[HEADER_BYTES..]);
        let ToEncryptor::Welcome { version: 1, node_id: n, system_key_id: s, keys: got, held: true } =
            decode_to_encryptor(&header, &mut payload).unwrap()
        else {
            panic!("another message");
        };
        assert!(payload.iter().all(|byte| *byte == 0));
        assert_eq!((n, s, got.len()), (node_id, system_key_id, 3));
        for (sent, got) in keys.iter().zip(&got) {
            assert_eq!((sent.id, &sent.purpose), (got.id, &got.purpose));
            assert!(sent.key.is(got.key.expose()));
        }
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
    }

    /// Version 1, byte for byte, computed by another program: old encryptors meet new agents for months.
    #[test]
    fn frames_of_version_1_stay_as_they_are() {
        let database = "älpha".to_owned();
        let assigned = Assignment { key_id: KeyId::from_bytes([0xab; 16]), database };
        let hello = ToAgent::Hello {
            min_version: 1,
            max_version: 3,
            pid: 4711,
            wiredtiger_version: "WiredTiger 11.2.0".to_owned(),
            layout: "mongodb-7.0".to_owned(),
            data_path: "/data/db".to_owned(),
        };
        for (message, hex) in [
            (
                hello,
                "320000000101000300671200001100576972656454696765722031312e322e300b006d6f6e676f64622d372e30\
                 08002f646174612f6462",
            ),
            (ToAgent::Assigned(assigned), "1800000002abababababababababababababababab0600c3a46c706861"),
            (ToAgent::NeedSpares, "0000000003"),
            (ToAgent::Bye, "0000000004"),
        ] {
            let bytes = bytes_of(hex);
            assert_eq!(encode_to_agent(&message).unwrap().as_bytes(), bytes, "{message:?}");
            assert_eq!(read_to_agent(&mut &bytes[..]).unwrap(), message);
        }
        let key = |id, purpose, byte| WireKey {
            id: KeyId::from_bytes([id; 16]),
            purpose,
            key: DatabaseKey::take_from(&mut [byte; 32]).unwrap(),
        };
        let welcome = |held, keys| ToEncryptor::Welcome {
            version: 1,
            node_id: NodeId::from_bytes([9; 16]),
            system_key_id: KeyId::from_bytes([1; 16]),
            keys,
            held,
        };
        let all = vec![
            key(1, Purpose::System, 0x11),
            key(2, Purpose::Database("alpha".to_owned()), 0x22),
            key(3, Purpose::Spare, 0x33),
        ];
        let nines_and_ones = [&[9_u8; 16][..], &[1; 16]].concat();
        let start = data_encoding::HEXLOWER.encode(&nines_and_ones);
        let [ones, twos, threes] =
            [0x11_u8, 0x22, 0x33].map(|byte| data_encoding::HEXLOWER.encode(&[byte; 32]));
        let id = |byte: u8| data_encoding::HEXLOWER.encode(&[byte; 16]);
        let (first, second, third) = (id(1), id(2), id(3));
        for (message, hex) in [
            (
                welcome(true, all),
                format!(
                    "c1000000410100{start}0103000000{first}00{ones}{second}010500616c706861{twos}{third}02{threes}"
                ),
            ),
            (welcome(false, Vec::new()), format!("27000000410100{start}0000000000")),
            (
                ToEncryptor::Spares(vec![key(3, Purpose::Spare, 0x33)]),
                format!("350000004201000000{third}02{threes}"),
            ),
            (ToEncryptor::Refused { reason: "no".to_owned() }, "040000004302006e6f".to_owned()),
        ] {
            let bytes = bytes_of(&hex);
            assert_eq!(encode_to_encryptor(&message).unwrap().as_bytes(), bytes, "{message:?}");
            let read = read_to_encryptor(&mut &bytes[..]).unwrap();
            assert_eq!(encode_to_encryptor(&read).unwrap().as_bytes(), bytes, "{message:?}");
        }
    }

    #[test]
    fn refusals_and_spares_read_back() {
        let mut socket = Vec::new();
        let reason = "pid 12 is not the process that was started".to_owned();
        write_to_encryptor(&mut socket, &ToEncryptor::Refused { reason: reason.clone() }).unwrap();
        write_to_encryptor(&mut socket, &ToEncryptor::Spares(vec![wire_key(Purpose::Spare)])).unwrap();
        let mut socket = &socket[..];
        assert!(
            matches!(read_to_encryptor(&mut socket), Ok(ToEncryptor::Refused { reason: r }) if r == reason)
        );
        assert!(matches!(read_to_encryptor(&mut socket), Ok(ToEncryptor::Spares(keys)) if keys.len() == 1));
    }

    #[test]
    fn later_fields_are_ignored() {
        let frame = encode_to_agent(&hello()).unwrap();
        let mut longer = frame.as_bytes().to_vec();
        longer.extend_from_slice(b"a field of version 2");
        let len = u32::try_from(longer.len() - HEADER_BYTES).unwrap();
        longer[..4].copy_from_slice(&len.to_le_bytes());
        assert_eq!(read_to_agent(&mut &longer[..]).unwrap(), hello());
    }

    #[test]
    fn sizes_are_limited_before_anything_is_allocated() {
        let header = [0xff, 0xff, 0xff, 0xff, HELLO];
        assert!(matches!(
            to_agent_payload(&header),
            Err(WireError::TooLong { limit: MAX_TO_AGENT_BYTES, .. })
        ));
        assert!(matches!(to_encryptor_payload(&header), Err(WireError::TooLong { .. })));
        let reason = "x".repeat(1 << 16);
        assert!(matches!(
            encode_to_encryptor(&ToEncryptor::Refused { reason }),
            Err(WireError::TooLong { len: 65536, limit: 65535 })
        ));
        // A count that the payload cannot hold.
        let spares = [4, 0, 0, 0, SPARES, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(read_to_encryptor(&mut &spares[..]), Err(WireError::Malformed { .. })));
    }

    #[test]
    fn every_cut_is_an_error() {
        let frame = encode_to_encryptor(&ToEncryptor::Spares(vec![wire_key(Purpose::Spare)])).unwrap();
        for len in 0..frame.as_bytes().len() {
            assert!(read_to_encryptor(&mut &frame.as_bytes()[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn debug_shows_ids_and_no_key() {
        let key = DatabaseKey::take_from(&mut [0xa5; 32]).unwrap();
        let key = WireKey { id: KeyId::from_bytes([1; 16]), purpose: Purpose::Database("alpha".into()), key };
        let frame = encode_to_encryptor(&ToEncryptor::Spares(vec![])).unwrap();
        insta::assert_debug_snapshot!(frame, @"Frame(9 bytes, ..)");
        insta::assert_debug_snapshot!(ToEncryptor::Spares(vec![key]), @r#"
        Spares(
            [
                WireKey {
                    id: KeyId(01010101010101010101010101010101),
                    purpose: Database(
                        "alpha",
                    ),
                    key: DatabaseKey(..),
                },
            ],
        )
        "#);
    }

    proptest! {
        #[test]
        fn random_payloads_never_panic(frame_type in any::<u8>(), payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut header = [0; HEADER_BYTES];
            header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
            for frame_type in [frame_type, HELLO + frame_type % 4, WELCOME + frame_type % 3] {
                header[4] = frame_type;
                let _ = decode_to_agent(&header, &payload);
                let mut payload = payload.clone();
                let _ = decode_to_encryptor(&header, &mut payload);
                prop_assert!(payload.iter().all(|byte| *byte == 0));
            }
        }

        #[test]
        fn random_streams_never_panic(stream in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_to_agent(&mut &stream[..]);
            let _ = read_to_encryptor(&mut &stream[..]);
        }

        #[test]
        fn a_changed_byte_never_panics(at in 0..80_usize, xor in 1..=255_u8) {
            let keys = vec![wire_key(Purpose::Database("alpha".to_owned())), wire_key(Purpose::Spare)];
            let mut bytes = encode_to_encryptor(&ToEncryptor::Spares(keys)).unwrap().as_bytes().to_vec();
            bytes[at] ^= xor;
            let _ = read_to_encryptor(&mut &bytes[..]);
        }
    }
}
