//! A small file system with reflinks, mounted for one test.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// How each kind is made.
const KINDS: [(&str, &[&str]); 2] = [("mkfs.btrfs", &["-q"]), ("mkfs.xfs", &["-q", "-m", "reflink=1"])];
/// The image is a sparse file: it takes what is written into it.
const SIZE: u64 = 1 << 30;

/// A mounted file system; unmounted and removed when dropped, on a panic too.
///
/// Declare it before whatever uses it, so that it is dropped after that.
#[derive(Debug)]
pub struct Reflinks {
    /// Holds the image and the folder where it is mounted.
    folder: PathBuf,
}

impl Reflinks {
    /// Makes and mounts one.
    ///
    /// `Err` inside says why this machine cannot: tests pass it to [`skip!`](crate::skip).
    pub fn mount() -> Result<Result<Self, String>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("keyward-reflinks-{}-{number}", std::process::id());
        let made = Self { folder: std::env::temp_dir().join(name) };
        fs::create_dir_all(made.path()).with_context(|| format!("cannot make {}", made.folder.display()))?;
        let image = made.folder.join("image");
        let mut reasons = Vec::new();
        for (program, options) in KINDS {
            // A new file: nothing of another kind is in it.
            File::create(&image).and_then(|file| file.set_len(SIZE)).context("cannot make the image")?;
            let mut make = vec![program.into()];
            make.extend(options.iter().map(OsString::from));
            make.push(image.clone().into());
            let mount = ["mount", "-o", "loop"].map(OsString::from).into_iter();
            let mount: Vec<OsString> = mount.chain([image.clone().into(), made.path().into()]).collect();
            match run(&make).and_then(|()| run(&mount)) {
                Ok(()) => return Ok(Ok(made)),
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        Ok(Err(format!("no file system with reflinks can be mounted: {}", reasons.join("; "))))
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.join("mounted")
    }

    /// Whether some of `file`'s blocks are those of another file too; `None` where `filefrag` cannot say.
    pub fn is_shared(&self, file: &Path) -> Option<bool> {
        let said = Command::new("filefrag").arg("-v").arg(file).stdin(Stdio::null()).output().ok()?;
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).contains("shared"))
    }
}

impl Drop for Reflinks {
    fn drop(&mut self) {
        let mounted = self.path();
        // Detached, it goes with the last process of a failed test that uses it. Not mounted is as good.
        let unmounted = run(&["umount".into(), mounted.clone().into()])
            .or_else(|_| run(&["umount".into(), "--lazy".into(), mounted.clone().into()]));
        // Only empty: should it be mounted still, nothing in it is touched.
        if fs::remove_dir(&mounted).is_err() {
            eprintln!("{} stays: {unmounted:?}", mounted.display());
            return;
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn run(words: &[OsString]) -> Result<()> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    // They lie where an ordinary user's PATH does not lead.
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let done = Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("no {}", program.display()))?;
    if !done.status.success() {
        bail!("{}: {}", program.display(), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_copies_by_reference_and_is_gone_afterwards() {
        let reflinks = match Reflinks::mount().unwrap() {
            Ok(reflinks) => reflinks,
            Err(reason) => crate::skip!("{reason}"),
        };
        let (at, folder) = (reflinks.path(), reflinks.folder.clone());
        fs::write(at.join("a"), vec![7; 1 << 20]).unwrap();
        let copy = |how: &str| {
            let (from, to) = (at.join("a"), at.join(how));
            let done =
                Command::new("cp").arg(format!("--reflink={how}")).args([&from, &to]).status().unwrap();
            assert!(done.success());
            File::open(&to).unwrap().sync_all().unwrap();
            to
        };
        let plain = copy("never");
        if let Some(shared) = reflinks.is_shared(&plain) {
            assert!(!shared);
            assert_eq!(reflinks.is_shared(&copy("always")), Some(true));
        }
        drop(reflinks);
        assert!(!folder.exists());
    }
}
