//! Where a file would end up: in memory, on an encrypted device, or readable on a disk.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// What holds the files of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Medium {
    /// tmpfs or ramfs: gone with the power. tmpfs can be swapped out: the swap check is the other half.
    Memory,
    /// A block device that dm-crypt encrypts.
    EncryptedDevice,
    /// Anything else: what is written there stays readable.
    Disk,
}

impl Medium {
    /// What holds `path`, or the nearest directory above it that exists.
    ///
    /// # Errors
    /// The file system refuses to say.
    pub fn of(path: &Path) -> io::Result<Self> {
        let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
        let kind = rustix::fs::statfs(existing).map_err(io::Error::from)?.f_type;
        // From linux/magic.h.
        const TMPFS: i64 = 0x0102_1994;
        const RAMFS: i64 = 0x8584_58f6;
        if kind == TMPFS || kind == RAMFS {
            return Ok(Medium::Memory);
        }
        let device = fs::metadata(existing)?.dev();
        Ok(if is_encrypted(device) { Medium::EncryptedDevice } else { Medium::Disk })
    }

    /// Whether nothing readable is left there when the host is off.
    pub fn keeps_secrets(&self) -> bool {
        match self {
            Medium::Memory | Medium::EncryptedDevice => true,
            Medium::Disk => false,
        }
    }
}

/// Whether the block device `device` is dm-crypt, or lies wholly on devices that are (LVM on LUKS).
pub(super) fn is_encrypted(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    is_encrypted_in(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}")), 0)
}

/// As [`is_encrypted`], for a device's directory in sysfs.
fn is_encrypted_in(sysfs: &Path, depth: u32) -> bool {
    // Devices stack a few deep at most; the bound only guards against a loop.
    if depth > 8 {
        return false;
    }
    if fs::read_to_string(sysfs.join("dm/uuid")).is_ok_and(|uuid| uuid.starts_with("CRYPT-")) {
        return true;
    }
    // A partition has no `slaves` of its own and is not encrypted by itself.
    let Ok(below) = fs::read_dir(sysfs.join("slaves")) else { return false };
    let below: Vec<_> = below.flatten().map(|entry| entry.path()).collect();
    !below.is_empty() && below.iter().all(|device| is_encrypted_in(device, depth + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(root: &Path, name: &str, uuid: Option<&str>, slaves: &[&str]) -> PathBuf {
        let dir = root.join(name);
        fs::create_dir_all(dir.join("slaves")).unwrap();
        if let Some(uuid) = uuid {
            fs::create_dir_all(dir.join("dm")).unwrap();
            fs::write(dir.join("dm/uuid"), uuid).unwrap();
        }
        for slave in slaves {
            std::os::unix::fs::symlink(root.join(slave), dir.join("slaves").join(slave)).unwrap();
        }
        dir
    }

    #[test]
    fn shared_memory_is_memory_and_a_missing_path_takes_its_ancestor() {
        if Medium::of(Path::new("/dev/shm")).ok() == Some(Medium::Memory) {
            assert_eq!(Medium::of(Path::new("/dev/shm/not/there")).unwrap(), Medium::Memory);
        }
        assert!(!Medium::of(Path::new("/proc")).unwrap().keeps_secrets());
    }

    #[test]
    fn encryption_is_found_through_stacked_devices() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        device(root, "sda", None, &[]);
        device(root, "luks", Some("CRYPT-LUKS2-0123-x\n"), &["sda"]);
        device(root, "luks2", Some("CRYPT-PLAIN-y\n"), &["sda"]);
        let on_luks = device(root, "lv", Some("LVM-abc\n"), &["luks", "luks2"]);
        let half = device(root, "half", Some("LVM-def\n"), &["luks", "sda"]);
        assert!(is_encrypted_in(&on_luks, 0));
        assert!(!is_encrypted_in(&half, 0));
        assert!(!is_encrypted_in(&root.join("sda"), 0));
        assert!(!is_encrypted_in(&root.join("none"), 0));
    }
}
