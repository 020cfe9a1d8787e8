//! A double of mongod, for machines where none can be had. It is for tests alone and no part of keyward.
//!
//! It is a program of its own, in Python, over the real WiredTiger 11.2 of SecantusDB's wheel, whose method tables are
//! those of MongoDB 7.0: `WIREDTIGER_CONFIG` loads a real encryptor into it, and what it writes is what WiredTiger
//! writes. It knows as much of mongod's command line, protocol, access control and replication as keyward meets, and
//! refuses the rest. What it shows of mongod itself is nothing: it says `7.0.0-double` wherever a version is asked for.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::provision::provisioned;
use crate::python;

const SOURCES: [(&str, &str); 9] = [
    ("access.py", include_str!("mongod_double/access.py")),
    ("commands.py", include_str!("mongod_double/commands.py")),
    ("main.py", include_str!("mongod_double/main.py")),
    ("query.py", include_str!("mongod_double/query.py")),
    ("replica.py", include_str!("mongod_double/replica.py")),
    ("server.py", include_str!("mongod_double/server.py")),
    ("storage.py", include_str!("mongod_double/storage.py")),
    ("tls.py", include_str!("mongod_double/tls.py")),
    ("wire.py", include_str!("mongod_double/wire.py")),
];

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// The double: an executable named `mongod`, in a folder that holds no other program.
pub fn program() -> Result<PathBuf> {
    let interpreter = python::secantusdb()?;
    let launcher = format!(
        "#!/bin/sh\n# A double of mongod for keyward's tests.\nhere=$(dirname \"$0\")\n\
         exec \"{}\" -E -s \"$here/../double/main.py\" \"$@\"\n",
        interpreter.display()
    );
    let sources: String = SOURCES.iter().map(|(name, text)| format!("{name}\n{text}\n")).collect();
    let usable = |dir: &Path| dir.join("bin/mongod").exists() && dir.join("double/main.py").exists();
    let dir = provisioned("mongod-double", &format!("1\n{launcher}\n{sources}"), usable, |dir| {
        fs::create_dir_all(dir.join("double"))?;
        fs::create_dir_all(dir.join("bin"))?;
        for (name, text) in SOURCES {
            fs::write(dir.join("double").join(name), text)?;
        }
        let program = dir.join("bin/mongod");
        fs::write(&program, &launcher)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).map_err(Into::into)
    })?;
    Ok(dir.join("bin/mongod"))
}

/// A double that runs, until this is dropped.
#[derive(Debug)]
pub struct MongodDouble {
    /// Where it listens on the loopback address.
    pub port: u16,
    child: Child,
    log: PathBuf,
}

impl MongodDouble {
    /// Starts one with no variables but `environment` and waits until it takes connections.
    ///
    /// Its output is appended to `<data_path>.log`.
    pub fn start(
        data_path: &Path,
        port: u16,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_on("127.0.0.1", data_path, port, arguments, environment)
    }

    /// The same on the addresses of `hosts`, 127.0.0.1 among them.
    pub fn start_on(
        hosts: &str,
        data_path: &Path,
        port: u16,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let log = log_of(data_path);
        let output = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = Command::new(program()?)
            .arg("--dbpath")
            .arg(data_path)
            .args(["--port", &port.to_string(), "--bind_ip", hosts, "--directoryperdb"])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("the double of mongod cannot be started")?;
        let mut started = Self { port, child, log };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = started.child.try_wait()? {
                bail!("the double of mongod ended with {status}; its log:\n{}", started.log());
            }
            if begun.elapsed() > START {
                bail!("the double of mongod does not listen; its log:\n{}", started.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(started)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it and those before it on the same data path wrote to their log.
    pub fn log(&self) -> String {
        let mut text = String::new();
        // A log that cannot be read is an empty one: it is shown, not judged.
        let _ = fs::File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        text
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        let asked = Command::new("kill").arg(self.pid().to_string()).status()?;
        if !asked.success() {
            bail!("process {} cannot be asked to end", self.pid());
        }
        Ok(self.child.wait()?)
    }

    /// Waits for an end that somebody else asked for.
    pub fn wait(mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// SIGKILL, and waits.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for MongodDouble {
    fn drop(&mut self) {
        // Gone already, or our own child.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback address that nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn log_of(data_path: &Path) -> PathBuf {
    let mut name = data_path.as_os_str().to_owned();
    name.push(".log");
    name.into()
}
