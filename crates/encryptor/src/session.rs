//! Which key a new table gets, and the `encryption=` clause that says so. Pure.

use std::ffi::{CStr, CString};

use keyward_keys::KeyId;
use keyward_keys::assignment::is_database_name;

use crate::layout::ENCRYPTOR_NAME;

/// Whose key a table gets.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Owner<'a> {
    /// The node's own key: catalog, temporary tables, anything that isn't a database's.
    System,
    /// The database with this directory name.
    Database(&'a str),
}

/// The owner of the table `uri`. With `--directoryperdb`, mongod's tables of a database are `table:DB/…`.
pub fn owner_of(uri: &CStr) -> Owner<'_> {
    let database = uri
        .to_str()
        .ok()
        .and_then(|uri| uri.strip_prefix("table:"))
        .and_then(|table| table.split_once('/'))
        .filter(|(database, rest)| is_database_name(database) && !rest.is_empty());
    match database {
        Some((database, _)) => Owner::Database(database),
        None => Owner::System,
    }
}

/// The last `encryption=` clause of a configuration, as WiredTiger reads it.
#[derive(Clone, Eq, PartialEq, Debug, Default)]
pub struct Clause {
    /// The encryptor's name; `None` if there is no clause or it names none.
    pub name: Option<Vec<u8>>,
    /// The key id.
    pub key_id: Option<Vec<u8>>,
}

impl Clause {
    /// The key id, if the clause is one of ours.
    pub fn ours(&self) -> Option<KeyId> {
        if self.name.as_deref() != Some(ENCRYPTOR_NAME.as_bytes()) {
            return None;
        }
        std::str::from_utf8(self.key_id.as_deref()?).ok()?.parse().ok()
    }
}

/// What `import=(enabled=true,…)` says of the file that it takes in.
#[derive(Clone, Eq, PartialEq, Debug, Default)]
pub struct Import {
    /// Whether the file's metadata is made up from the file itself.
    pub repair: bool,
    /// Whether its metadata is read from another file.
    pub from_file: bool,
    /// The clause in the metadata that is given.
    pub stored: Clause,
}

impl Import {
    /// The key id that the file's blocks go on to be written under; `None` if it isn't one of ours, or not to be seen here.
    pub fn key_id(&self) -> Option<KeyId> {
        if self.repair || self.from_file { None } else { self.stored.ours() }
    }
}

/// The configuration with our clause behind everything else, so that it wins.
pub fn with_clause(config: Option<&CStr>, key_id: KeyId) -> CString {
    let clause = format!("encryption=(name={ENCRYPTOR_NAME},keyid=\"{key_id}\")");
    let mut text = config.map(|config| config.to_bytes().to_vec()).unwrap_or_default();
    if !text.is_empty() {
        text.push(b',');
    }
    text.extend_from_slice(clause.as_bytes());
    // Neither part contains a NUL.
    CString::new(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_a_database_are_told_from_the_nodes_own() {
        for (uri, owner) in [
            (c"table:alpha/collection-1", Owner::Database("alpha")),
            (c"table:alpha/collection/2", Owner::Database("alpha")),
            (c"table:my.32db/index-9--7", Owner::Database("my.32db")),
            (c"table:_mdb_catalog", Owner::System),
            (c"table:internal-9-123", Owner::System),
            (c"table:sizeStorer", Owner::System),
            (c"file:alpha/collection-1.wt", Owner::System),
            (c"index:alpha/x:i", Owner::System),
            (c"table:/x", Owner::System),
            (c"table:../x", Owner::System),
            (c"table:alpha/", Owner::System),
            (c"", Owner::System),
            (c"table:\xff/x", Owner::System),
        ] {
            assert_eq!(owner_of(uri), owner, "{uri:?}");
        }
    }

    #[test]
    fn our_clause_stands_last() {
        let id = KeyId::from_bytes([7; 16]);
        let hex = "07".repeat(16);
        assert_eq!(
            with_clause(Some(c"key_format=u,encryption=(name=none)"), id).to_str().unwrap(),
            format!("key_format=u,encryption=(name=none),encryption=(name=keyward,keyid=\"{hex}\")")
        );
        for empty in [None, Some(c"")] {
            assert_eq!(
                with_clause(empty, id).to_str().unwrap(),
                format!("encryption=(name=keyward,keyid=\"{hex}\")")
            );
        }
    }

    #[test]
    fn only_a_clause_of_ours_counts() {
        let clause = |name: &str, key_id: &str| Clause {
            name: Some(name.as_bytes().to_vec()),
            key_id: Some(key_id.as_bytes().to_vec()),
        };
        let hex = "0a".repeat(16);
        assert_eq!(clause("keyward", &hex).ours(), Some(KeyId::from_bytes([10; 16])));
        assert_eq!(clause("none", &hex).ours(), None);
        assert_eq!(clause("keyward", "alpha").ours(), None);
        assert_eq!(Clause::default().ours(), None);
    }

    #[test]
    fn an_import_is_ours_only_where_its_metadata_says_so() {
        let stored = Clause { name: Some(b"keyward".to_vec()), key_id: Some(b"0a".repeat(16)) };
        let ours = Import { stored, ..Import::default() };
        assert_eq!(ours.key_id(), Some(KeyId::from_bytes([10; 16])));
        assert_eq!(Import { repair: true, ..ours.clone() }.key_id(), None);
        assert_eq!(Import { from_file: true, ..ours.clone() }.key_id(), None);
        let none = Clause { name: Some(b"none".to_vec()), ..ours.stored };
        assert_eq!(Import { stored: none, ..Import::default() }.key_id(), None);
        assert_eq!(Import::default().key_id(), None);
    }
}
