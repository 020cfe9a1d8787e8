//! The encryptor's library as the engine loads it: a copy in the state directory, named by its content.
//!
//! A library that a process has mapped must never be rewritten: an upgrade of keyward puts a new file beside the
//! old one, and a running engine keeps the one it loaded.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

use super::EngineError;

/// Copies `source` to `DIRECTORY/libkeyward_encryptor-SHA256.so` unless it is there already; gives the copy's path.
///
/// # Errors
/// `source` cannot be read, the copy cannot be written, or a file of that name has another content.
pub(super) fn place(source: &Path, directory: &Path) -> Result<PathBuf, EngineError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| EngineError::Library { path, source }
    };
    let content = fs::read(source).map_err(failed(source))?;
    let digest = HEXLOWER.encode(digest(&SHA256, &content).as_ref());
    // The engine may run under another user: it must be able to enter the directory and read the file.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed(directory))?;
    // 16 hexadecimal characters tell the builds of one program apart; the content is compared below.
    let target = directory.join(format!("libkeyward_encryptor-{}.so", &digest[..16]));
    match fs::read(&target) {
        Ok(existing) if existing == content => return Ok(target),
        Ok(_) => return Err(EngineError::LibraryChanged { path: target }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&target)(error)),
    }
    let temporary = directory.join(format!(".{}.{}", &digest[..16], std::process::id()));
    let written = write_durably(&temporary, &content).and_then(|()| fs::rename(&temporary, &target));
    if written.is_err() {
        // The error that counts is the one above.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed(&target))?;
    Ok(target)
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_name_follows_the_content_and_a_copy_is_never_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("lib.so");
        let store = dir.path().join("lib");
        fs::write(&source, b"one").unwrap();
        let first = place(&source, &store).unwrap();
        let inode = fs::metadata(&first).unwrap().ino();
        assert_eq!(place(&source, &store).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().ino(), inode);
        fs::write(&source, b"two").unwrap();
        let second = place(&source, &store).unwrap();
        assert_ne!(second, first);
        assert_eq!(fs::read(&first).unwrap(), b"one");
        assert_eq!(fs::read_dir(&store).unwrap().count(), 2);
    }

    #[test]
    fn a_copy_with_another_content_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("lib.so");
        fs::write(&source, b"one").unwrap();
        let copy = place(&source, dir.path()).unwrap();
        fs::write(&copy, b"tampered").unwrap();
        assert!(matches!(place(&source, dir.path()), Err(EngineError::LibraryChanged { .. })));
    }
}
