//! Which database the nodes run: a mongod on PATH, or SecantusDB from PyPI, installed into the folder.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use super::home::{make_dir, write_file};
use crate::args::dev::EngineChoice;
use crate::failure::Failure;
use crate::progress::Spinner;

/// Every package with its hashes, for Python 3.10 to 3.14.
const REQUIREMENTS: &str = include_str!("../../../../python/secantusdb.txt");

/// Names an interpreter that has SecantusDB already, so that nothing is installed.
pub(crate) const PYTHON_VARIABLE: &str = "KEYWARD_SECANTUSDB_PYTHON";

/// A database program, ready to be started by an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Database {
    /// `mongod`, as a replica set.
    Mongod {
        /// The binary.
        program: PathBuf,
    },
    /// SecantusDB, each node for itself.
    Secantusdb {
        /// The interpreter that has it.
        python: PathBuf,
    },
}

impl Database {
    /// As in the agent's configuration.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Database::Mongod { .. } => "mongod",
            Database::Secantusdb { .. } => "secantusdb",
        }
    }

    pub(crate) fn program(&self) -> &Path {
        match self {
            Database::Mongod { program } => program,
            Database::Secantusdb { python } => python,
        }
    }
}

/// Finds the database, installing SecantusDB into `dir`/secantusdb where that is the choice and it is missing.
pub(crate) async fn provide(
    choice: EngineChoice,
    dir: &Path,
    show_progress: bool,
) -> Result<Database, Failure> {
    let mongod = find_on_path("mongod", std::env::var_os("PATH").as_deref());
    match (choice, mongod) {
        (EngineChoice::Auto | EngineChoice::Mongod, Some(program)) => Ok(Database::Mongod { program }),
        (EngineChoice::Mongod, None) => Err(Failure::new(
            "there is no mongod on PATH",
            "install MongoDB Community 4.4.5 to 8.2, or use --engine secantusdb",
        )),
        (EngineChoice::Auto | EngineChoice::Secantusdb, _) => {
            Ok(Database::Secantusdb { python: secantusdb(dir, show_progress).await? })
        }
    }
}

/// An executable file of that name in `path`.
fn find_on_path(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?)
        .map(|folder| folder.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// The interpreter that has SecantusDB.
async fn secantusdb(dir: &Path, show_progress: bool) -> Result<PathBuf, Failure> {
    if let Some(python) = std::env::var_os(PYTHON_VARIABLE) {
        return Ok(PathBuf::from(python));
    }
    let folder = dir.join("secantusdb");
    let (python, done) = (folder.join("venv/bin/python"), folder.join("installed.txt"));
    if fs::read_to_string(&done).is_ok_and(|text| text == REQUIREMENTS) && python.exists() {
        return Ok(python);
    }
    make_dir(&folder)?;
    let requirements = folder.join("requirements.txt");
    write_file(&requirements, REQUIREMENTS.as_bytes())?;
    let spinner = Spinner::start(show_progress, "installing SecantusDB from PyPI (once)");

    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(folder.join("venv"));
    run(venv, &spinner).await.map_err(|why| {
        why.into_failure(
            "Python's virtual environment for SecantusDB could not be made",
            "install Python 3.10 to 3.14 with its venv module (Debian: python3-venv), or put a mongod on PATH",
        )
    })?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"])
        .args(["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r"])
        .arg(&requirements);
    run(pip, &spinner).await.map_err(|why| {
        why.into_failure(
            "SecantusDB could not be installed from PyPI",
            format!(
                "check that this host reaches PyPI (a mirror: PIP_INDEX_URL), put a mongod on PATH, or name a Python \
                 that has SecantusDB==0.7.0b3 in {PYTHON_VARIABLE}"
            ),
        )
    })?;
    write_file(&done, REQUIREMENTS.as_bytes())?;
    spinner.done();
    Ok(python)
}

/// Why a program did not do its work.
enum Unfinished {
    NotStarted(std::io::Error),
    Failed(Vec<String>),
}

impl Unfinished {
    fn into_failure(self, message: &str, hint: impl Into<String>) -> Failure {
        let mut failure = Failure::new(message, hint);
        match self {
            Unfinished::NotStarted(e) => failure.because(&e),
            Unfinished::Failed(lines) => {
                failure.causes = lines;
                failure
            }
        }
    }
}

/// Runs a program to its end, its newest line beside the spinner; its last lines are the reason of a failure.
async fn run(mut command: Command, spinner: &Spinner) -> Result<(), Unfinished> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(Unfinished::NotStarted)?;
    let group = Group(child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (_, mut last_lines) = tokio::join!(follow(out, spinner), follow(err, spinner));
    let status = child.wait().await.map_err(Unfinished::NotStarted)?;
    group.has_ended();
    if status.success() {
        return Ok(());
    }
    if last_lines.is_empty() {
        last_lines.push_back(format!("it ended with {status}"));
    }
    Err(Unfinished::Failed(last_lines.into()))
}

/// A program and what it starts; an interruption ends all of it.
struct Group(Option<Pid>);

impl Group {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn follow(stream: Option<impl AsyncRead + Unpin>, spinner: &Spinner) -> VecDeque<String> {
    const KEPT: usize = 5;
    let mut last = VecDeque::new();
    let Some(stream) = stream else { return last };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        spinner.say(line);
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    }
    last
}

/// Names the encryptor library, where it is not beside this program.
pub(crate) const ENCRYPTOR_VARIABLE: &str = "KEYWARD_ENCRYPTOR";

/// The encryptor library: built along with this program, or installed with it.
pub(crate) fn encryptor() -> Result<PathBuf, Failure> {
    if let Some(library) = std::env::var_os(ENCRYPTOR_VARIABLE) {
        return Ok(PathBuf::from(library));
    }
    let program = std::env::current_exe().map_err(|e| {
        Failure::new("this program's own path is not known", "mount /proc, or set KEYWARD_ENCRYPTOR")
            .because(&e)
    })?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    newest_encryptor(folder).ok_or_else(|| {
        Failure::new(
            format!("the encryptor library {ENCRYPTOR_NAME} is not beside {}", program.display()),
            format!("build it (cargo build -p keyward-encryptor), or name it in {ENCRYPTOR_VARIABLE}"),
        )
    })
}

const ENCRYPTOR_NAME: &str = "libkeyward_encryptor.so";

/// cargo leaves it in `deps`, and beside the program only when it was built by name: the newest one counts.
fn newest_encryptor(folder: &Path) -> Option<PathBuf> {
    [folder.to_owned(), folder.join("deps"), folder.join("../lib/keyward")]
        .into_iter()
        .map(|place| place.join(ENCRYPTOR_NAME))
        .filter_map(|file| Some((fs::metadata(&file).ok()?.modified().ok()?, file)))
        .max()
        .map(|(_, file)| file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_executable_on_path_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(a.join("mongod")).unwrap();
        fs::create_dir_all(&b).unwrap();
        let path = std::env::join_paths([&a, &b]).unwrap();
        let find = || find_on_path("mongod", Some(&path));
        assert_eq!(find(), None, "a folder is no program");
        fs::write(b.join("mongod"), "").unwrap();
        assert_eq!(find(), None, "not executable");
        fs::set_permissions(b.join("mongod"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(), Some(b.join("mongod")));
        assert_eq!(find_on_path("mongod", None), None);
    }

    #[test]
    fn the_newest_encryptor_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest_encryptor(dir.path()), None);
        fs::create_dir(dir.path().join("deps")).unwrap();
        let (beside, deps) = (dir.path().join(ENCRYPTOR_NAME), dir.path().join("deps").join(ENCRYPTOR_NAME));
        for file in [&beside, &deps] {
            fs::write(file, "").unwrap();
        }
        let early = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::options().write(true).open(&beside).unwrap().set_modified(early).unwrap();
        assert_eq!(newest_encryptor(dir.path()), Some(deps));
    }

    #[tokio::test]
    async fn an_interruption_ends_the_program_and_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let alive = dir.path().join("alive");
        let mut command = Command::new("sh");
        // The grandchild says every 50 ms that it lives.
        command.arg("-c").arg(format!("(while :; do touch {}; sleep 0.05; done) & wait", alive.display()));
        let spinner = Spinner::start(false, "");
        tokio::select! {
            _ = run(command, &spinner) => panic!("it never ends by itself"),
            () = async { while !alive.exists() { tokio::time::sleep(std::time::Duration::from_millis(10)).await } } => {}
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        fs::remove_file(&alive).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert!(!alive.exists(), "the grandchild lives on");
    }

    #[tokio::test]
    async fn the_last_lines_of_a_program_are_the_reason() {
        let mut command = Command::new("sh");
        command.args(["-c", "for i in 1 2 3 4 5 6 7; do echo line $i >&2; done; exit 3"]);
        let spinner = Spinner::start(false, "");
        let Err(Unfinished::Failed(lines)) = run(command, &spinner).await else { panic!("it failed") };
        assert_eq!(lines, ["line 3", "line 4", "line 5", "line 6", "line 7"]);
        let missing = run(Command::new("/nonexistent/python3"), &spinner).await;
        assert!(matches!(missing, Err(Unfinished::NotStarted(_))));
    }
}
