//! What the engine writes outside WiredTiger, and what each exposure level does about it.
//!
//! The encryptor sees only WiredTiger's files. Everything else that mongod writes is kept off the disk, switched
//! off, or refused, by one setting with three levels. The decision is pure.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{EngineError, medium::Medium};
use crate::{
    config::{EngineConfig, EngineKind, Exposure},
    preflight::Finding,
};

/// How one thing is kept from being read on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    /// WiredTiger's own files: ciphertext.
    Encrypted,
    /// On tmpfs.
    InMemory,
    /// On a dm-crypt device.
    EncryptedDevice,
    /// The engine is told not to write it.
    SwitchedOff,
    /// It is readable on the disk.
    Readable,
}

/// One thing the engine writes, and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Where it is written.
    pub place: String,
    /// What it can hold.
    pub holds: String,
    /// How it is kept.
    pub how: How,
}

/// What the level comes to on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Everything the engine writes outside WiredTiger.
    pub kept: Vec<Kept>,
    /// Switches for the engine's command line.
    pub switches: Vec<String>,
    /// What stands in the way of the level.
    pub findings: Vec<Finding>,
}

/// Where the things would be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// `DBPATH/_tmp`.
    pub temporary: Medium,
    /// `DBPATH/rollback`.
    pub rollback: Medium,
    /// `DBPATH/diagnostic.data`.
    pub diagnostics: Medium,
    /// The engine's log.
    pub log: Medium,
}

impl Media {
    /// As they are on this host.
    ///
    /// # Errors
    /// A file system refuses to say what it is.
    pub fn read(data_path: &Path, log_file: &Path) -> Result<Self, EngineError> {
        let of = |path: &Path| {
            Medium::of(path).map_err(|source| EngineError::Medium { path: path.to_owned(), source })
        };
        Ok(Self {
            temporary: of(&data_path.join("_tmp"))?,
            rollback: of(&data_path.join("rollback"))?,
            diagnostics: of(&data_path.join("diagnostic.data"))?,
            log: of(log_file)?,
        })
    }
}

/// What `level` leaves readable on a disk, for people.
pub fn leaves_readable(level: Exposure) -> &'static str {
    match level {
        Exposure::Strict => "names of databases and collections, sizes; no documents, no log, no statistics",
        Exposure::Standard => {
            "the engine's log without slow operations (errors can quote keys of documents), statistics, names of \
             databases and collections"
        }
        Exposure::Open => {
            "whatever the engine writes outside WiredTiger: documents in sorts, index builds and rollback files, \
             slow operations in its log, statistics"
        }
    }
}

/// Decides for every such thing how it is kept at the configured level.
pub fn plan(engine: &EngineConfig, media: &Media) -> Plan {
    let mut plan = Plan::default();
    match engine.kind {
        EngineKind::Mongod => plan_mongod(engine, media, &mut plan),
        EngineKind::Secantusdb | EngineKind::Wiredtiger => {}
    }
    plan_log(engine, media, &mut plan);
    plan
}

fn plan_mongod(engine: &EngineConfig, media: &Media, plan: &mut Plan) {
    let level = engine.exposure;
    let guarded = level != Exposure::Open;

    let how = kept_by(&media.temporary);
    if guarded && how == How::Readable {
        plan.refuse(
            "sorts and index builds of mongod would write documents in the clear to DBPATH/_tmp",
            "mount tmpfs there (mount -t tmpfs -o mode=0700,uid=ENGINE_USER tmpfs DBPATH/_tmp, and in /etc/fstab), \
             or a dm-crypt volume; or set engine.exposure = \"open\" and accept it",
        );
    }
    plan.keep("DBPATH/_tmp", "whole documents of sorts, index builds and spilled queries", how);

    let mut how = kept_by(&media.rollback);
    if guarded && how == How::Readable {
        how = How::SwitchedOff;
        plan.set_parameter(engine, "createRollbackDataFiles", "false");
    }
    plan.keep("DBPATH/rollback", "documents that a rollback took back", how);

    let mut how = kept_by(&media.diagnostics);
    if level == Exposure::Strict && how == How::Readable {
        how = How::SwitchedOff;
        plan.set_parameter(engine, "diagnosticDataCollectionEnabled", "false");
    }
    plan.keep("DBPATH/diagnostic.data", "statistics and host names, no documents", how);
}

fn plan_log(engine: &EngineConfig, media: &Media, plan: &mut Plan) {
    let how = kept_by(&media.log);
    if how == How::Readable {
        match (engine.exposure, engine.kind) {
            (Exposure::Strict, _) => plan.refuse(
                "the engine's log would be readable on the disk",
                "put engine.log_file on tmpfs or on a dm-crypt volume, or set engine.exposure = \"standard\"",
            ),
            (Exposure::Standard, EngineKind::Mongod) => plan.option(engine, "--slowOpSampleRate", "0"),
            (Exposure::Standard, EngineKind::Secantusdb | EngineKind::Wiredtiger) | (Exposure::Open, _) => {}
        }
    }
    let holds = match (engine.kind, engine.exposure) {
        (EngineKind::Mongod, Exposure::Open) => "slow operations with their values, keys in error messages",
        (EngineKind::Mongod, Exposure::Strict | Exposure::Standard) => {
            "keys in error messages; slow operations are switched off"
        }
        (EngineKind::Secantusdb | EngineKind::Wiredtiger, _) => "warnings and errors, which can quote values",
    };
    plan.keep("the engine's log", holds, how);
}

fn kept_by(medium: &Medium) -> How {
    match medium {
        Medium::Memory => How::InMemory,
        Medium::EncryptedDevice => How::EncryptedDevice,
        Medium::Disk => How::Readable,
    }
}

impl Plan {
    fn keep(&mut self, place: &str, holds: &str, how: How) {
        self.kept.push(Kept { place: place.to_owned(), holds: holds.to_owned(), how });
    }

    fn refuse(&mut self, text: &str, hint: &str) {
        self.findings.push(Finding { refuse: true, text: text.to_owned(), hint: hint.to_owned() });
    }

    fn set_parameter(&mut self, engine: &EngineConfig, name: &str, value: &str) {
        if engine.args.iter().any(|a| a.contains(name)) {
            return self.refuse_conflict(name);
        }
        self.switches.extend(["--setParameter".to_owned(), format!("{name}={value}")]);
    }

    fn option(&mut self, engine: &EngineConfig, name: &str, value: &str) {
        if engine.args.iter().any(|a| a == name || a.starts_with(&format!("{name}="))) {
            return self.refuse_conflict(name);
        }
        self.switches.extend([name.to_owned(), value.to_owned()]);
    }

    fn refuse_conflict(&mut self, name: &str) {
        self.findings.push(Finding {
            refuse: true,
            text: format!("engine.args sets {name}, which the exposure level sets itself"),
            hint: format!("take {name} out of engine.args, or choose another engine.exposure"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(medium: Medium) -> Media {
        Media {
            temporary: medium.clone(),
            rollback: medium.clone(),
            diagnostics: medium.clone(),
            log: medium,
        }
    }

    fn engine(kind: EngineKind, exposure: Exposure) -> EngineConfig {
        EngineConfig { exposure, ..EngineConfig::for_test(kind) }
    }

    fn how(plan: &Plan) -> Vec<How> {
        plan.kept.iter().map(|k| k.how).collect()
    }

    #[test]
    fn on_a_plain_disk_each_level_does_what_it_says() {
        let disk = media(Medium::Disk);
        let strict = plan(&engine(EngineKind::Mongod, Exposure::Strict), &disk);
        assert_eq!(how(&strict), [How::Readable, How::SwitchedOff, How::SwitchedOff, How::Readable]);
        assert_eq!(strict.findings.iter().filter(|f| f.refuse).count(), 2);

        let standard = plan(&engine(EngineKind::Mongod, Exposure::Standard), &disk);
        assert_eq!(
            standard.switches,
            ["--setParameter", "createRollbackDataFiles=false", "--slowOpSampleRate", "0"]
        );
        assert_eq!(standard.findings.len(), 1);
        assert!(standard.findings[0].hint.contains("tmpfs"));

        let open = plan(&engine(EngineKind::Mongod, Exposure::Open), &disk);
        assert!(open.switches.is_empty() && open.findings.is_empty());
        assert!(how(&open).iter().all(|h| *h == How::Readable));
    }

    #[test]
    fn in_memory_nothing_is_refused_and_nothing_is_switched() {
        for level in [Exposure::Strict, Exposure::Standard, Exposure::Open] {
            let plan = plan(&engine(EngineKind::Mongod, level), &media(Medium::Memory));
            assert!(plan.findings.is_empty() && plan.switches.is_empty());
            assert!(how(&plan).iter().all(|h| *h == How::InMemory));
        }
    }

    #[test]
    fn an_argument_that_undoes_the_level_is_refused() {
        let mut engine = engine(EngineKind::Mongod, Exposure::Standard);
        engine.args = vec!["--setParameter".into(), "createRollbackDataFiles=true".into()];
        let plan = plan(&engine, &media(Medium::Disk));
        assert!(plan.findings.iter().any(|f| f.refuse && f.text.contains("createRollbackDataFiles")));
        assert!(!plan.switches.iter().any(|s| s.contains("createRollbackDataFiles")));
    }

    #[test]
    fn secantusdb_writes_only_its_log() {
        let plan_at = |level| plan(&engine(EngineKind::Secantusdb, level), &media(Medium::Disk));
        assert_eq!(how(&plan_at(Exposure::Standard)), [How::Readable]);
        assert!(plan_at(Exposure::Standard).findings.is_empty());
        assert_eq!(plan_at(Exposure::Strict).findings.len(), 1);
    }
}
