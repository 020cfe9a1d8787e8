use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use keyward_keys::assignment::Assignment;
use keyward_keys::keystore::Purpose;
use keyward_keys::wire::{read_to_agent, write_to_encryptor};
use keyward_keys::{DatabaseKey, NodeId};

use super::*;

struct Silent;

impl Log for Silent {
    fn error(&self, _: &str) {}
    fn message(&self, _: &str) {}
}

fn place() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    directory
}

fn introduction() -> Introduction {
    Introduction {
        wiredtiger_version: "WiredTiger 11.2.0".to_owned(),
        layout: "mongodb-7.0".to_owned(),
        data_path: PathBuf::from("/data/db"),
    }
}

fn key(id: u8, purpose: Purpose) -> WireKey {
    WireKey { id: KeyId::from_bytes([id; 16]), purpose, key: DatabaseKey::take_from(&mut [id; 32]).unwrap() }
}

fn welcome(held: bool) -> ToEncryptor {
    ToEncryptor::Welcome {
        version: PROTOCOL_VERSION,
        node_id: NodeId::make(),
        system_key_id: KeyId::from_bytes([1; 16]),
        keys: if held { vec![key(1, Purpose::System), key(2, Purpose::Spare)] } else { Vec::new() },
        held,
    }
}

/// Listens once and answers the hello.
fn answer_once(socket: &Path, answer: ToEncryptor) -> JoinHandle<(ToAgent, UnixStream)> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let hello = read_to_agent(&mut stream).unwrap();
        write_to_encryptor(&mut stream, &answer).unwrap();
        (hello, stream)
    })
}

/// A link to an agent that welcomed it, the keys it was given, and the agent's end.
fn linked(socket: &Path, log: Arc<dyn Log>) -> (Link, Arc<Keyring>, UnixStream) {
    let agent = answer_once(socket, welcome(true));
    let (greeted, welcomed) = Link::connect(socket, &introduction()).unwrap();
    let keyring = Arc::new(Keyring::new(welcomed.system_key_id, welcomed.keys));
    let link = greeted.keep(Arc::clone(&keyring), log).unwrap();
    let (_, stream) = agent.join().unwrap();
    (link, keyring, stream)
}

#[test]
fn hello_says_who_is_there_and_keys_come_back() {
    let place = place();
    let socket = place.path().join("agent.sock");
    let agent = answer_once(&socket, welcome(true));
    let (_greeted, welcome) = Link::connect(&socket, &introduction()).unwrap();
    assert_eq!(welcome.keys.len(), 2);
    let (hello, _stream) = agent.join().unwrap();
    assert_eq!(
        hello,
        ToAgent::Hello {
            min_version: MIN_PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            pid: std::process::id(),
            wiredtiger_version: "WiredTiger 11.2.0".to_owned(),
            layout: "mongodb-7.0".to_owned(),
            data_path: "/data/db".to_owned(),
        }
    );
}

#[test]
fn a_refusal_is_handed_on_in_the_agents_words() {
    let place = place();
    let socket = place.path().join("agent.sock");
    let agent = answer_once(&socket, ToEncryptor::Refused { reason: "not my engine".to_owned() });
    let error = Link::connect(&socket, &introduction()).unwrap_err();
    assert_eq!(error.to_string(), "the agent refused: not my engine");
    assert_eq!(error.code(), libc::EACCES);
    agent.join().unwrap();
}

#[test]
fn an_agent_without_master_key_or_without_manners_opens_nothing() {
    let ToEncryptor::Welcome { node_id, system_key_id, keys, .. } = welcome(true) else { unreachable!() };
    let later = ToEncryptor::Welcome { version: 2, node_id, system_key_id, keys, held: true };
    for (answer, message) in [
        (welcome(false), "the agent doesn't hold this node's master key at the moment"),
        (ToEncryptor::Spares(Vec::new()), "the agent's first answer was neither a welcome nor a refusal"),
        (later, "the agent speaks version 2 of the protocol, this encryptor 1 to 1"),
    ] {
        let place = place();
        let socket = place.path().join("agent.sock");
        let agent = answer_once(&socket, answer);
        assert_eq!(Link::connect(&socket, &introduction()).unwrap_err().to_string(), message);
        agent.join().unwrap();
    }
}

#[test]
fn no_agent_is_said_with_the_sockets_path() {
    let place = place();
    let socket = place.path().join("agent.sock");
    let error = Link::connect(&socket, &introduction()).unwrap_err();
    assert_eq!(error.to_string(), format!("no agent answers at {}", socket.display()));
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(Link::connect(&socket, &introduction()).unwrap_err().code(), libc::ECONNREFUSED);
    let error = Link::connect(Path::new("/nowhere/agent.sock"), &introduction()).unwrap_err();
    assert!(error.to_string().contains("/nowhere can't be examined"), "{error}");
}

#[test]
fn a_place_that_others_may_write_is_not_trusted() {
    for (mode, above, trusted) in [
        (0o700, 0o700, true),
        (0o750, 0o755, true),
        (0o770, 0o700, false),
        (0o707, 0o700, false),
        (0o700, 0o707, false),
        (0o700, 0o1777, true),
    ] {
        let place = place();
        let directory = place.path().join("agent");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(above)).unwrap();
        let found = trusted_owner(&directory.join("agent.sock"));
        assert_eq!(found.is_ok(), trusted, "{mode:o} in {above:o}: {found:?}");
        if !trusted {
            assert!(matches!(found, Err(ClientError::Writable { .. })));
        }
    }
}

/// Whoever listens there must be the user whose directory it is: the agent's.
#[test]
fn another_users_process_at_the_socket_gets_no_hello() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a directory to somebody else.
        return eprintln!("skipped: not root");
    }
    const SOMEBODY: u32 = 12_345;
    let place = place();
    let socket = place.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::chown(place.path(), Some(SOMEBODY), None).unwrap();
    let error = Link::connect(&socket, &introduction()).unwrap_err();
    assert!(matches!(error, ClientError::Peer { peer: 0, owner: SOMEBODY, .. }), "{error}");
    assert_eq!(error.code(), libc::EACCES);
    let mut stream = listener.accept().unwrap().0;
    assert!(matches!(read_to_agent(&mut stream), Err(WireError::Closed)), "it was told something");
}

#[test]
fn the_thread_tells_takes_in_reconnects_and_ends() {
    let place = place();
    let socket = place.path().join("agent.sock");
    let (link, keyring, mut stream) = linked(&socket, Arc::new(Silent));
    let assigned = |database: &str| {
        ToAgent::Assigned(Assignment { key_id: KeyId::from_bytes([2; 16]), database: database.to_owned() })
    };
    link.tell(assigned("alpha"));
    assert_eq!(read_to_agent(&mut stream).unwrap(), assigned("alpha"));
    write_to_encryptor(&mut stream, &ToEncryptor::Spares(vec![key(3, Purpose::Spare)])).unwrap();
    wait_until(|| keyring.spares() == 2);

    // The agent dies; what happens meanwhile is told when it is back, after a new hello.
    drop(stream);
    fs::remove_file(&socket).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    link.tell(assigned("beta"));
    // Asked for again and again while nobody listens: said once.
    for _ in 0..1000 {
        link.tell(ToAgent::NeedSpares);
    }
    let (sender, receiver) = mpsc::channel();
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || sender.send(listener.accept().unwrap().0));
    let mut stream = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(read_to_agent(&mut stream).unwrap(), ToAgent::Hello { .. }));
    // The new agent has no master key yet: the encryptor keeps what it has.
    write_to_encryptor(&mut stream, &welcome(false)).unwrap();
    assert_eq!(read_to_agent(&mut stream).unwrap(), assigned("beta"));
    assert_eq!(read_to_agent(&mut stream).unwrap(), ToAgent::NeedSpares);
    assert_eq!(keyring.spares(), 2);

    let ending = std::thread::spawn(move || drop(link));
    assert_eq!(read_to_agent(&mut stream).unwrap(), ToAgent::Bye);
    ending.join().unwrap();
}

/// An agent that is stopped, not gone: the database's end does not wait for its answer.
#[test]
fn the_end_does_not_wait_for_an_agent_that_is_silent() {
    let place = place();
    let socket = place.path().join("agent.sock");
    let (link, _, stream) = linked(&socket, Arc::new(Silent));
    // Half a frame, and silence: the thread waits for the rest.
    let mut half = stream.try_clone().unwrap();
    std::io::Write::write_all(&mut half, &[9, 0, 0, 0]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    drop(link);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    // And one that takes a connection and never answers the hello.
    let agent = answer_once_at(&socket, welcome(true));
    let (greeted, welcomed) = Link::connect(&socket, &introduction()).unwrap();
    let link = greeted
        .keep(Arc::new(Keyring::new(welcomed.system_key_id, welcomed.keys)), Arc::new(Silent))
        .unwrap();
    drop(agent.join().unwrap());
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut silent = listener.accept().unwrap().0;
    assert!(matches!(read_to_agent(&mut silent).unwrap(), ToAgent::Hello { .. }));
    let begun = Instant::now();
    drop(link);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// An agent that welcomes and breaks off is asked again after a while, not at once and without end; one that refuses is
/// quoted once.
#[test]
fn an_agent_that_breaks_off_is_not_asked_without_end() {
    let place = place();
    let socket = place.path().join("agent.sock");
    let log = Arc::new(Kept::default());
    let (link, _, stream) = linked(&socket, Arc::clone(&log) as Arc<dyn Log>);
    drop(stream);
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let begun = Instant::now();
    let mut hellos = 0;
    while begun.elapsed() < Duration::from_millis(1500) {
        let mut stream = listener.accept().unwrap().0;
        if read_to_agent(&mut stream).is_ok() {
            hellos += 1;
            write_to_encryptor(&mut stream, &welcome(true)).unwrap();
        }
    }
    // After 0.1, 0.2, 0.4, 0.8, 1.6 s.
    assert!((2..=6).contains(&hellos), "{hellos}");
    for _ in 0..2 {
        let mut stream = listener.accept().unwrap().0;
        read_to_agent(&mut stream).unwrap();
        let reason = "I don't know this process".to_owned();
        write_to_encryptor(&mut stream, &ToEncryptor::Refused { reason }).unwrap();
    }
    drop(link);
    let lines = log.0.lock().unwrap();
    let quoted = lines.iter().filter(|line| line.contains("the agent refused: I don't know this process"));
    assert_eq!(quoted.count(), 1, "{lines:?}");
}

/// A frame that is none ends the conversation on both sides: the agent would go on counting an encryptor that is gone.
#[test]
fn a_conversation_that_broke_off_is_closed() {
    let place = place();
    let socket = place.path().join("agent.sock");
    let (link, _, mut stream) = linked(&socket, Arc::new(Silent));
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    std::io::Write::write_all(&mut stream, &[0, 0, 0, 0, 200]).unwrap();
    assert!(matches!(read_to_agent(&mut stream), Err(WireError::Closed)));
    drop(link);
}

#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

impl Log for Kept {
    fn error(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
    fn message(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

/// As `answer_once`, in the place of a socket that is there.
fn answer_once_at(socket: &Path, answer: ToEncryptor) -> JoinHandle<(ToAgent, UnixStream)> {
    fs::remove_file(socket).unwrap();
    answer_once(socket, answer)
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it didn't happen");
}
