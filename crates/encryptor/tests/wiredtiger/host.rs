//! A database process in little (`host.c`, `host.py`) on one of the WiredTiger builds, and what is on its disk.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use keyward_testkit::{built, python, wiredtiger};

use crate::key_agent::KeyAgent;

/// One of the three WiredTiger builds.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Build {
    /// The Python module in SecantusDB's wheel: 11.2.0, with symbols.
    SecantusDb,
    /// The source distribution: 11.3.1, with symbols.
    V11_3_1,
    /// Debian's library: 3.2.1, stripped.
    V3_2_1,
}

impl Build {
    /// Ready to run; else why this machine can't have it.
    pub fn ready(self) -> Result<Ready, String> {
        let mut command = match self {
            Self::SecantusDb => {
                let mut command = Command::new(python::secantusdb().unwrap());
                command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wiredtiger/host.py"));
                command
            }
            Self::V11_3_1 => Command::new(compiled(&wiredtiger::v11_3_1().unwrap())),
            Self::V3_2_1 => Command::new(compiled(&wiredtiger::v3_2_1()?)),
        };
        command.env_remove("WIREDTIGER_CONFIG").env_remove("WIREDTIGER_HOME");
        Ok(Ready {
            build: self,
            program: command.get_program().into(),
            args: command.get_args().map(Into::into).collect(),
        })
    }

    pub fn layout(self) -> &'static str {
        match self {
            Self::SecantusDb => "secantusdb-11.2",
            Self::V11_3_1 => "wiredtiger-11.3.1",
            Self::V3_2_1 => "wiredtiger-3.2.1",
        }
    }

    pub fn has_symbols(self) -> bool {
        self != Self::V3_2_1
    }
}

/// A build that can be started.
pub struct Ready {
    pub build: Build,
    program: PathBuf,
    args: Vec<std::ffi::OsString>,
}

/// How mongod opens its data path, but for sizes: its journal files of 100 MB would be copied hundreds of times.
pub const OPEN: &str = "create,config_base=false,cache_size=64MB,session_max=200,\
    log=(enabled=true,path=journal,file_max=2MB,prealloc=false),checkpoint=(wait=0)";

/// How the tests create tables.
pub const TABLE: &str = "key_format=Q,value_format=u";

impl Ready {
    /// Starts the host with this in `WIREDTIGER_CONFIG`.
    pub fn start(&self, wiredtiger_config: Option<&str>) -> Host {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_remove("WIREDTIGER_CONFIG");
        if let Some(config) = wiredtiger_config {
            command.env("WIREDTIGER_CONFIG", config);
        }
        Host::spawn(&mut command)
    }

    /// Starts the host where no memory can be locked; `None` where this machine has no `setpriv` to take root's right to.
    pub fn start_unlocked(&self, wiredtiger_config: &str) -> Option<Host> {
        let has_setpriv = Command::new("setpriv").arg("--version").output().is_ok();
        let mut command = if rustix::process::geteuid().is_root() {
            if !has_setpriv {
                return None;
            }
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        command.args(["-c", "ulimit -l 0 && exec \"$@\"", "sh"]).arg(&self.program).args(&self.args);
        command.env("WIREDTIGER_CONFIG", wiredtiger_config);
        Some(Host::spawn(&mut command))
    }

    /// Runs the host as a database process, to its end: with this in `WIREDTIGER_CONFIG`, and this folder's libraries
    /// before all others. Only for the builds in C.
    pub fn serve(&self, wiredtiger_config: &str, libraries: &Path, data_path: &Path) -> (ExitStatus, String) {
        fs::create_dir_all(data_path.join("journal")).unwrap();
        let output = Command::new(&self.program)
            .args(&self.args)
            .arg(data_path)
            .arg(OPEN)
            .env("WIREDTIGER_CONFIG", wiredtiger_config)
            .env("LD_LIBRARY_PATH", libraries)
            .output()
            .unwrap();
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What the agent puts into `WIREDTIGER_CONFIG`.
    pub fn config(&self, agent: &KeyAgent, per_database: bool) -> String {
        config_with(&agent.socket(), self.build.layout(), per_database, &agent.system_key_id().to_string())
    }

    /// Starts the host under the agent and opens the data path.
    pub fn open(&self, agent: &KeyAgent, data_path: &Path) -> Host {
        let mut host = self.start(Some(&self.config(agent, true)));
        host.open(data_path).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
        host
    }
}

/// The configuration in `WIREDTIGER_CONFIG`.
pub fn config_with(socket: &Path, layout: &str, per_database: bool, key_id: &str) -> String {
    format!(
        "extensions=[{}=(early_load=true,config=(socket=\"{}\",layout=\"{layout}\",per_database={per_database}))],encryption=(name=keyward,keyid=\"{key_id}\")",
        library().display(),
        socket.display()
    )
}

/// A copy of the encryptor under a name of its content, as the agent makes it: cargo may rewrite its own at any time.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = fs::read(built::encryptor_library().unwrap()).unwrap();
        let name = format!("libkeyward_encryptor-{:016x}.so", hash_of(&[&library]));
        once(&name, |draft| fs::write(draft, &library).unwrap())
    })
}

/// A running host.
pub struct Host {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    log: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

/// The database said no.
#[derive(Debug, Clone)]
pub struct HostError {
    pub code: i32,
    pub text: String,
}

impl std::fmt::Display for HostError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.text, self.code)
    }
}

impl Host {
    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut errors = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let reader = {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = errors.read(&mut buffer) {
                    log.lock().unwrap().extend_from_slice(&buffer[..length]);
                }
            })
        };
        Self { child, input, output, log, reader: Some(reader) }
    }

    /// Opens the data path as mongod would.
    pub fn open(&mut self, data_path: &Path) -> Result<(), HostError> {
        self.open_with(data_path, OPEN)
    }

    pub fn open_with(&mut self, data_path: &Path, config: &str) -> Result<(), HostError> {
        fs::create_dir_all(data_path.join("journal")).unwrap();
        self.ask(&format!("open {} {config}", data_path.display())).map(|_| ())
    }

    /// One command; the lines of its answer.
    pub fn ask(&mut self, command: &str) -> Result<Vec<String>, HostError> {
        self.send(command);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                let status = self.child.wait().unwrap();
                return Err(HostError {
                    code: -1,
                    text: format!("the host ended: {status}; {}", self.log()),
                });
            }
            let line = line.trim_end();
            if line == "ok" {
                return Ok(lines);
            }
            if let Some(error) = line.strip_prefix("err ") {
                let (code, text) = error.split_once(' ').unwrap();
                return Err(HostError { code: code.parse().unwrap(), text: text.to_owned() });
            }
            lines.push(line.strip_prefix("m ").unwrap_or_else(|| panic!("no answer: {line}")).to_owned());
        }
    }

    /// Everything that was said since byte `from` of the log.
    pub fn said_since(&mut self, from: usize) -> String {
        let end = format!("--- {} ---", self.log.lock().unwrap().len());
        if self.ask(&format!("say {}", end.replace(' ', "_"))).is_ok() {
            self.must_say(&end.replace(' ', "_"));
        } else if let Some(reader) = self.reader.take() {
            // It has ended: what it said last comes before the end of its log.
            reader.join().unwrap();
        }
        self.log()[from..].to_owned()
    }

    fn send(&mut self, command: &str) {
        // A host that has died is found out by reading.
        let _ = self.input.as_mut().unwrap().write_all(format!("{command}\n").as_bytes());
    }

    /// A command that must work.
    #[track_caller]
    pub fn must(&mut self, command: &str) -> Vec<String> {
        match self.ask(command) {
            Ok(lines) => lines,
            Err(error) => panic!("{command}: {error}\n{}", self.log()),
        }
    }

    /// A command that must fail.
    #[track_caller]
    pub fn must_not(&mut self, command: &str) -> HostError {
        match self.ask(command) {
            Ok(_) => panic!("{command} worked\n{}", self.log()),
            Err(error) => error,
        }
    }

    /// The database's log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Waits until the log says this; the host's answer may be here before.
    #[track_caller]
    pub fn must_say(&self, words: &str) {
        for _ in 0..1000 {
            if self.log().contains(words) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{words:?} isn't said: {}", self.log());
    }

    /// Kill -9.
    pub fn kill(self) {
        drop(self);
    }

    /// A clean end; the whole log.
    pub fn finish(mut self) -> (ExitStatus, String) {
        self.input = None;
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `host.c` compiled against this build; once for each of its texts.
fn compiled(wiredtiger: &wiredtiger::WiredTiger) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wiredtiger/host.c");
    let parts: [&[u8]; 2] = [&fs::read(&source).unwrap(), wiredtiger.library.as_os_str().as_encoded_bytes()];
    once(&format!("host-{}-{:016x}", wiredtiger.version, hash_of(&parts)), |draft| {
        let mut rpath = std::ffi::OsString::from("-Wl,-rpath,");
        rpath.push(wiredtiger.library.parent().unwrap());
        let output = Command::new("cc")
            .args(["-O1", "-g", "-Wall", "-Wextra", "-pthread", "-I"])
            .arg(&wiredtiger.include)
            .arg("-o")
            .arg(draft)
            .arg(&source)
            .arg(&wiredtiger.library)
            .arg(rpath)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    })
}

fn hash_of(parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// A file of this name in the tests' folder, made once for all processes.
fn once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = directory.join(name);
    if !path.exists() {
        let draft = tempfile::Builder::new().prefix("draft-").tempdir_in(directory).unwrap();
        let file = draft.path().join(name);
        make(&file);
        fs::rename(file, &path).unwrap();
    }
    path
}

/// The first 16 bytes of the value that a host stores under a key.
pub fn marker(seed: u64, key: u64) -> [u8; 16] {
    let mut state =
        seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(key.wrapping_mul(0xD1B5_4A32_D192_ED03));
    let mut word = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).to_le_bytes()
    };
    let mut marker = [0; 16];
    marker[..8].copy_from_slice(&word());
    marker[8..].copy_from_slice(&word());
    marker
}

/// How many of these markers are found in clear, anywhere in the data path.
pub fn plaintext_hits(data_path: &Path, markers: impl IntoIterator<Item = [u8; 16]>) -> usize {
    hits_in(&files(data_path), markers)
}

/// How many of these markers are found in clear in these files.
pub fn hits_in(files: &[PathBuf], markers: impl IntoIterator<Item = [u8; 16]>) -> usize {
    let search = AhoCorasick::new(markers).unwrap();
    files.iter().map(|file| search.find_iter(&fs::read(file).unwrap()).count()).sum()
}

/// Every file of the data path.
pub fn files(data_path: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(data_path).sort_by_file_name().into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// The key id in the metadata of this file; empty if it inherits, `None` if there is no such file.
pub fn stored_key_id(metadata: &[String], file: &str) -> Option<String> {
    let line = metadata.iter().find(|line| line.starts_with(&format!("file:{file} ")))?;
    // The last one: a user's `app_metadata`, which comes before, may hold anything.
    let clause = line.rsplit_once("encryption=(")?.1.split(')').next()?;
    let id = clause.split("keyid=").nth(1)?.split(',').next()?;
    Some(id.trim_matches('"').to_owned())
}
