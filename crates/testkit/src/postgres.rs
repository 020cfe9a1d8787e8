//! A PostgreSQL of the test process' own: started when it is first asked for, gone when the process ends, however it
//! ends.
//!
//! It listens on a unix socket in a private folder. PostgreSQL refuses to run as root; then it runs as the user
//! `postgres` or `nobody`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::provision::{provisioned, run};

/// The URL of a new, empty database. `None`, reported as a skip, where there is no PostgreSQL on this machine.
pub fn database() -> Option<String> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let server = SERVER.get_or_init(|| {
        let programs = programs()?;
        Some(Server::start(&programs, "keyward-postgres", None).expect("PostgreSQL starts"))
    });
    let Some(server) = server else {
        crate::report_skip(NO_POSTGRES);
        return None;
    };
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    server.make_database(&name).expect("PostgreSQL makes a database");
    let socket = server.folder.to_string_lossy().replace('/', "%2F");
    Some(format!("postgres://{ROLE}@{socket}/{name}"))
}

/// A PostgreSQL that is reached by TCP with TLS alone, for as long as this lives.
pub struct TlsServer {
    /// Its port on the loopback address.
    pub port: u16,
    server: Server,
}

impl TlsServer {
    /// Starts one with a certificate and its key, in PEM. `None`, reported as a skip, where there is no PostgreSQL.
    pub fn start(certificate: &str, key: &str) -> Option<Self> {
        let Some(programs) = programs() else {
            crate::report_skip(NO_POSTGRES);
            return None;
        };
        let port = free_port().expect("the loopback address has a free port");
        let tls = Tls { certificate, key, port };
        let server = Server::start(&programs, "keyward-postgres-tls", Some(tls)).expect("PostgreSQL starts");
        server.make_database("keyward").expect("PostgreSQL makes a database");
        Some(Self { port, server })
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.server.folder.join("log")).unwrap_or_default()
    }
}

/// All tables and their contents of a database made by [`database`], as SQL.
pub fn dump(url: &str) -> Result<String> {
    let programs = programs().context("PostgreSQL was there a moment ago")?;
    let (before, name) = url.rsplit_once('/').context("the URL names a database")?;
    let socket = before.rsplit_once('@').context("the URL names a socket")?.1.replace("%2F", "/");
    let dumped = Command::new(programs.join("pg_dump"))
        .args(["--host", &socket, "--username", ROLE, "--inserts", name])
        .output()
        .context("cannot run pg_dump")?;
    if !dumped.status.success() {
        bail!("pg_dump: {}", String::from_utf8_lossy(&dumped.stderr));
    }
    Ok(String::from_utf8_lossy(&dumped.stdout).into_owned())
}

const ROLE: &str = "keyward";
const NO_POSTGRES: &str = "not run on PostgreSQL: no initdb (Debian package postgresql)";
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Runs PostgreSQL until its own standard input ends, which the death of the test process brings about too.
const KEEPER: &str = r#"
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off -c autovacuum=off \
    -c shared_buffers=16MB -c max_connections=80 ${3:+-c listen_addresses=127.0.0.1 -c ssl=on -p "$3"} > "$2/log" 2>&1 < /dev/null &
server=$!
read -r end
kill -QUIT "$server"
wait "$server"
rm -rf "$2"
"#;

/// What a server needs for TLS.
struct Tls<'a> {
    certificate: &'a str,
    key: &'a str,
    port: u16,
}

const DEFAULT_PORT: u16 = 5432;
const TLS_ONLY: &str = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";

struct Server {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// Open as long as the server should run.
    _life: ChildStdin,
}

impl Server {
    fn start(programs: &Path, name: &str, tls: Option<Tls<'_>>) -> Result<Self> {
        let user = unprivileged()?;
        let template = template(programs, user)?;
        let folder = make_folder(name, user)?;
        let data = folder.join("data");
        copy(&template, &data)?;
        if let Some(tls) = &tls {
            write_private(&data.join("server.crt"), tls.certificate)?;
            write_private(&data.join("server.key"), tls.key)?;
            write_private(&data.join("pg_hba.conf"), TLS_ONLY)?;
        }
        give(&folder, user)?;
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(programs).arg(&folder);
        if let Some(tls) = &tls {
            keeper.arg(tls.port.to_string());
        }
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // An interrupt from the terminal is not for it.
        keeper.process_group(0).current_dir(&folder);
        become_user(&mut keeper, user);
        let mut keeper = keeper.spawn().context("cannot start sh")?;
        let life = keeper.stdin.take().context("sh has a standard input")?;
        let port = tls.map_or(DEFAULT_PORT, |tls| tls.port);
        Ok(Self { programs: programs.to_owned(), folder, port, _life: life })
    }

    fn make_database(&self, name: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let made = Command::new(self.programs.join("createdb"))
                .arg("--host")
                .arg(&self.folder)
                .args(["--port", &self.port.to_string()])
                .args(["--username", ROLE, "--maintenance-db", "postgres", name])
                .output()
                .context("cannot run createdb")?;
            if made.status.success() {
                return Ok(());
            }
            if begun.elapsed() > START_PATIENCE {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("createdb: {}\nthe server's log:\n{log}", String::from_utf8_lossy(&made.stderr));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The folder of PostgreSQL's programs: of the `initdb` on the path, else Debian's newest.
fn programs() -> Option<PathBuf> {
    let complete = |folder: &PathBuf| {
        ["initdb", "postgres", "createdb", "pg_dump"].iter().all(|program| folder.join(program).is_file())
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A link on the path leads to the folder where its companions are.
    let on_path = std::env::split_paths(&path)
        .filter_map(|folder| Some(fs::canonicalize(folder.join("initdb")).ok()?.parent()?.to_owned()))
        .find(complete);
    if on_path.is_some() {
        return on_path;
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, folder)| complete(folder))
        .max()
        .map(|(_, folder)| folder)
}

/// A freshly made data folder, made once for all test processes.
fn template(programs: &Path, user: Option<(u32, u32)>) -> Result<PathBuf> {
    let version = Command::new(programs.join("postgres")).arg("--version").output()?.stdout;
    let stamp = format!("{} recipe 1", String::from_utf8_lossy(&version).trim());
    let dir = provisioned(
        "postgres",
        &stamp,
        |dir| dir.join("data/PG_VERSION").is_file(),
        |dir| {
            let folder = make_folder("keyward-initdb", user)?;
            give(&folder, user)?;
            let mut initdb = Command::new(programs.join("initdb"));
            initdb.arg("-D").arg(folder.join("data")).args(["-U", ROLE, "--auth=trust", "--no-sync"]);
            initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--wal-segsize=1"]).current_dir(&folder);
            become_user(&mut initdb, user);
            let made = initdb.stdin(Stdio::null()).output().context("cannot run initdb")?;
            if !made.status.success() {
                bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
            }
            copy(&folder.join("data"), &dir.join("data"))?;
            fs::remove_dir_all(&folder).context("cannot remove the draft")
        },
    )?;
    Ok(dir.join("data"))
}

/// Whom PostgreSQL runs as when this is root: user and group.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    if effective != Some("0") {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody")).map(Some).context("no user `postgres` or `nobody`")
}

/// Also leaves the groups of root.
fn become_user(command: &mut Command, user: Option<(u32, u32)>) {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
}

fn give(folder: &Path, user: Option<(u32, u32)>) -> Result<()> {
    match user {
        Some((uid, gid)) => run(
            &std::env::temp_dir(),
            "chown",
            ["-R".into(), format!("{uid}:{gid}"), folder.display().to_string()],
        ),
        None => Ok(()),
    }
}

/// Short, since a unix socket's path may have no more than 107 bytes.
fn make_folder(prefix: &str, user: Option<(u32, u32)>) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("{prefix}-{}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    if let Some((uid, gid)) = user {
        chown(&folder, Some(uid), Some(gid))?;
    }
    Ok(folder)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Into::into)
}

/// PostgreSQL cannot be told to choose one itself.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_is_empty_and_of_its_own() {
        let Some(one) = database() else { return };
        let two = database().expect("the server is there");
        assert_ne!(one, two);
        let server = two.rsplit_once('@').unwrap().1.split('/').next().unwrap().replace("%2F", "/");
        let psql = |url: &str, sql: &str| {
            let name = url.rsplit_once('/').unwrap().1;
            let done = Command::new(programs().unwrap().join("psql"))
                .args(["--host", &server, "--username", ROLE, "--quiet", "--command", sql, name])
                .status()
                .unwrap();
            assert!(done.success(), "{sql}");
        };
        psql(&one, "CREATE TABLE t (word TEXT); INSERT INTO t VALUES ('apricot')");
        psql(&two, "CREATE TABLE t (word TEXT); INSERT INTO t VALUES ('quince')");
        assert!(dump(&one).unwrap().contains("apricot"));
        assert!(!dump(&two).unwrap().contains("apricot"));
    }
}
