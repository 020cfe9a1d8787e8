//! Real WiredTiger builds, one per method-table layout that can be had from package registries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::provision::{provisioned, run};
use crate::python;

/// One WiredTiger: what there is of it on disk.
#[derive(Debug, Clone)]
pub struct WiredTiger {
    /// The release, like `11.3.1`.
    pub version: &'static str,
    /// Folder with `wiredtiger.h` and `wiredtiger_ext.h`.
    pub include: PathBuf,
    /// `libwiredtiger.so`.
    pub library: PathBuf,
    /// The `wt` command. Needs no `LD_LIBRARY_PATH`.
    pub wt: Option<PathBuf>,
    /// The `wtperf` benchmark. Needs no `LD_LIBRARY_PATH`.
    pub wtperf: Option<PathBuf>,
    /// The reference encryptor over libsodium, where libsodium's headers were found.
    pub sodium: Option<PathBuf>,
}

/// WiredTiger 11.3.1 from its source distribution, built in release mode with symbols; minutes on first use.
pub fn v11_3_1() -> Result<WiredTiger> {
    let sodium_here = has_sodium();
    let stamp = format!(
        "1\n{}\n{}\nsodium {sodium_here}",
        python::requirements("wiredtiger.txt")?,
        python::requirements("build-tools.txt")?
    );
    let usable = |dir: &Path| at(dir, sodium_here).is_complete();
    let dir = provisioned("wiredtiger-11.3.1", &stamp, usable, |dir| build(dir, sodium_here))?;
    Ok(at(&dir, sodium_here))
}

/// WiredTiger 3.2.1 as Debian packages it (stripped), installed or unpacked from the package; else why there is none.
pub fn v3_2_1() -> Result<WiredTiger, String> {
    installed_3_2_1().or_else(|not_installed| unpacked_3_2_1(&not_installed))
}

impl WiredTiger {
    fn is_complete(&self) -> bool {
        let needed = [Some(self.include.join("wiredtiger.h")), Some(self.library.clone())];
        let tools = [self.wt.clone(), self.wtperf.clone(), self.sodium.clone()];
        needed.iter().chain(&tools).flatten().all(|path| path.exists())
    }
}

fn at(dir: &Path, sodium: bool) -> WiredTiger {
    let build = dir.join("build");
    WiredTiger {
        version: "11.3.1",
        include: build.join("include"),
        library: build.join("libwiredtiger.so"),
        wt: Some(build.join("wt")),
        wtperf: Some(build.join("bench/wtperf/wtperf")),
        sodium: sodium.then(|| build.join("ext/encryptors/sodium/libwiredtiger_sodium.so")),
    }
}

fn build(dir: &Path, sodium: bool) -> Result<()> {
    let tools = python::build_tools()?;
    let list = python::requirements_path("wiredtiger.txt");
    let download = ["-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"];
    let pinned = ["--require-hashes", "--no-binary", ":all:", "-r"];
    let target = [list.as_os_str(), "-d".as_ref(), dir.as_os_str()];
    run(dir, tools.join("bin/python"), download.iter().chain(&pinned).map(AsRef::as_ref).chain(target))?;
    let archive = dir.join("wiredtiger-11.3.1.tar.gz");
    run(dir, "tar", ["-xzf".as_ref(), archive.as_os_str(), "-C".as_ref(), dir.as_os_str()])?;
    let source = dir.join("wiredtiger-11.3.1");
    let target = dir.join("build");
    let off = [
        "ENABLE_STRICT",
        "HAVE_DIAGNOSTIC",
        "ENABLE_PYTHON",
        "ENABLE_CPPSUITE",
        "ENABLE_MODEL",
        "ENABLE_STATIC",
        "ENABLE_LLVM",
        "HAVE_UNITTEST",
    ];
    let mut configure = vec![
        "-GNinja".to_owned(),
        "-DCMAKE_BUILD_TYPE=Release".to_owned(),
        format!("-DCMAKE_MAKE_PROGRAM={}", tools.join("bin/ninja").display()),
        "-DENABLE_SHARED=1".to_owned(),
        format!("-DENABLE_SODIUM={}", u8::from(sodium)),
    ];
    configure.extend(off.iter().map(|option| format!("-D{option}=0")));
    configure.extend([
        "-S".to_owned(),
        source.display().to_string(),
        "-B".to_owned(),
        target.display().to_string(),
    ]);
    run(dir, tools.join("bin/cmake"), configure).context("hint: a C and C++ compiler is needed")?;
    let mut targets = vec!["wiredtiger_shared", "wt", "wtperf"];
    targets.extend(sodium.then_some("wiredtiger_sodium"));
    let in_target = ["-C".to_owned(), target.display().to_string()];
    run(dir, tools.join("bin/ninja"), in_target.into_iter().chain(targets.into_iter().map(str::to_owned)))?;
    fs::copy(source.join("src/include/wiredtiger_ext.h"), target.join("include/wiredtiger_ext.h"))?;
    fs::remove_dir_all(source)?;
    fs::remove_file(archive)?;
    Ok(())
}

fn has_sodium() -> bool {
    let header = ["/usr/include/sodium.h", "/usr/local/include/sodium.h"];
    header.iter().any(|path| Path::new(path).exists())
}

fn installed_3_2_1() -> Result<WiredTiger, String> {
    let roots = [Path::new("/usr"), Path::new("/usr/local")];
    roots
        .iter()
        .find_map(|root| found_3_2_1(root))
        .ok_or_else(|| "libwiredtiger-dev 3.2.1 is not installed".to_owned())
}

fn found_3_2_1(usr: &Path) -> Option<WiredTiger> {
    let include = usr.join("include");
    let header = fs::read_to_string(include.join("wiredtiger.h")).ok()?;
    let is = |name: &str, value: &str| {
        header.lines().any(|line| line.split_whitespace().eq(["#define", name, value]))
    };
    let right = is("WIREDTIGER_VERSION_MAJOR", "3")
        && is("WIREDTIGER_VERSION_MINOR", "2")
        && is("WIREDTIGER_VERSION_PATCH", "1");
    let folders = [
        usr.join("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH)),
        usr.join("lib64"),
        usr.join("lib"),
    ];
    // The unversioned name dangles where only the -dev package was unpacked.
    let library = folders.iter().map(|folder| folder.join("libwiredtiger.so")).find(|path| path.exists())?;
    let wt = Some(usr.join("bin/wt")).filter(|path| path.exists());
    right.then_some(WiredTiger { version: "3.2.1", include, library, wt, wtperf: None, sodium: None })
}

fn unpacked_3_2_1(not_installed: &str) -> Result<WiredTiger, String> {
    let usable = |dir: &Path| found_3_2_1(&dir.join("usr")).is_some();
    provisioned("wiredtiger-3.2.1", "1", usable, |dir| {
        let script = "cd \"$0\" && apt-get download libwiredtiger0=3.2.1-1 libwiredtiger-dev=3.2.1-1 && \
                      for package in *.deb; do dpkg-deb -x \"$package\" . && rm \"$package\"; done";
        run(dir, "sh", ["-c".as_ref(), script.as_ref(), dir.as_os_str()])
    })
    .ok()
    .and_then(|dir| found_3_2_1(&dir.join("usr")))
    .ok_or_else(|| format!("{not_installed}, and apt-get could not download it"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn wiredtiger_11_3_1_runs() {
        let wiredtiger = v11_3_1().unwrap();
        let output = Command::new(wiredtiger.wt.unwrap()).arg("-V").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("11.3.1"), "{text}");
    }

    #[test]
    fn wiredtiger_3_2_1_is_told_from_other_releases() {
        match v3_2_1() {
            Ok(wiredtiger) => assert!(wiredtiger.is_complete()),
            Err(reason) => crate::skip!("{reason}"),
        }
        assert!(found_3_2_1(Path::new("/nonexistent")).is_none());
    }
}
