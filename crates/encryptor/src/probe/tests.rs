use std::collections::{HashMap, HashSet};

use super::*;
use crate::layout::{self, Tables};

const CONNECTION: usize = 0x1000_0000;
const SESSION: usize = 0x2000_0000;
const EXTENSION: usize = 0x3000_0000;
const CODE: usize = 0x40_0000;
const HEAP: usize = 0x7f00_0000_0000;

/// A process made up from a layout: its three tables, the code they point to, and names if it isn't stripped.
struct Process {
    words: HashMap<usize, usize>,
    code: std::ops::Range<usize>,
    names: Option<HashMap<usize, HashSet<&'static str>>>,
    version_text: Option<WiredTigerVersion>,
}

impl MemoryImage for Process {
    fn word(&self, address: usize) -> Option<usize> {
        self.words.get(&address).copied()
    }

    fn is_code(&self, address: usize) -> bool {
        self.code.contains(&address)
    }

    fn has_symbols(&self) -> bool {
        self.names.is_some()
    }

    fn version_text(&self) -> Option<WiredTigerVersion> {
        self.version_text
    }

    fn is_named(&self, address: usize, name: &str) -> bool {
        self.names.as_ref().is_some_and(|names| names.get(&address).is_some_and(|known| known.contains(name)))
    }
}

#[derive(Copy, Clone, PartialEq)]
enum Symbols {
    Kept,
    Stripped,
}

const READ_ONLY: &str = "__session_create_readonly";

impl Process {
    /// As a binary of this layout would be. Every slot points to a function of its own.
    fn of(tables: &Tables, symbols: Symbols) -> Self {
        Self::with_create(tables, symbols, "__session_create")
    }

    fn with_create(tables: &Tables, symbols: Symbols, create: &'static str) -> Self {
        let mut process = Self {
            words: HashMap::new(),
            code: CODE..CODE + 0x10_0000,
            names: (symbols == Symbols::Kept).then(HashMap::new),
            version_text: None,
        };
        let connection = tables.connection;
        process.table(CONNECTION, 0, connection.members, |slot| match slot {
            _ if slot == connection.get_home => "__conn_get_home",
            _ if slot == connection.open_session => "__conn_open_session",
            _ if slot == connection.add_encryptor => "__conn_add_encryptor",
            _ if slot == connection.get_extension_api() => "__conn_get_extension_api",
            _ => "__conn_other",
        });
        process.words.insert(CONNECTION + connection.members * WORD, HEAP);
        process.words.insert(SESSION, CONNECTION);
        process.words.insert(SESSION + WORD, 0);
        process.table(SESSION, 2, tables.session.members, |slot| match slot {
            _ if slot == tables.session.create => create,
            _ => "__session_other",
        });
        process.words.insert(SESSION + tables.session.members * WORD, HEAP);
        // Nobody has counted the development branch's: as all others since 5.2.
        let extension = tables.extension.unwrap_or(ExtensionSlots { members: 37, version: 32 });
        process.words.insert(EXTENSION, CONNECTION);
        process.table(EXTENSION, 1, extension.members, |slot| match slot {
            1 => "__wt_ext_err_printf",
            2 => "__wt_ext_msg_printf",
            9 => "__wt_ext_config_get",
            10 => "__wt_ext_config_get_string",
            _ if slot == extension.version => "wiredtiger_version",
            _ => "__wt_ext_other",
        });
        process.words.insert(EXTENSION + extension.members * WORD, HEAP);
        process
    }

    fn table(&mut self, table: usize, first: usize, members: usize, name: impl Fn(usize) -> &'static str) {
        for slot in first..members {
            let function = CODE + (table >> 12 & 0xff_ffff) % 0xfff + slot * 16 + (table >> 28) * 0x1000;
            self.words.insert(table + slot * WORD, function);
            if let Some(names) = &mut self.names {
                names.entry(function).or_default().insert(name(slot));
            }
        }
    }
}

/// What the extension does, in its order, with a process of this version.
fn examine(
    process: &Process,
    version: WiredTigerVersion,
    layout: &'static Layout,
) -> Result<(ConnectionSlots, ExtensionSlots, SessionSlots, SessionKind), ProbeError> {
    let process = &Process {
        words: process.words.clone(),
        code: process.code.clone(),
        names: process.names.clone(),
        version_text: Some(version),
    };
    let connection = examine_connection(process, CONNECTION, layout)?;
    let extension = examine_extension(process, CONNECTION, EXTENSION, layout)?;
    examine_version(version, layout)?;
    let (session, kind) = examine_session(process, CONNECTION, SESSION, layout)?;
    Ok((connection, extension, session, kind))
}

fn counted() -> impl Iterator<Item = (&'static Layout, Tables)> {
    layout::all().iter().filter_map(|layout| Some((layout, layout.tables?)))
}

fn a_version(layout: &Layout) -> WiredTigerVersion {
    layout.wiredtiger_versions.last().copied().unwrap_or((12, 1, 0))
}

#[test]
fn every_layout_accepts_its_own_process() {
    for (layout, tables) in counted() {
        for symbols in [Symbols::Kept, Symbols::Stripped] {
            let process = Process::of(&tables, symbols);
            let found = examine(&process, a_version(layout), layout);
            if symbols == Symbols::Stripped && layout.needs_symbols() {
                assert_eq!(found, Err(ProbeError::Symbols { layout: layout.name }));
                continue;
            }
            let (connection, extension, session, kind) = found.unwrap();
            assert_eq!((connection, session), (tables.connection, tables.session), "{}", layout.name);
            assert_eq!(kind, SessionKind::Writing);
            assert_eq!(Some(extension), tables.extension.or(Some(extension)), "{}", layout.name);
        }
    }
}

#[test]
fn every_layout_refuses_every_other_process() {
    let mut refused = 0;
    for (layout, tables) in counted() {
        for (other, other_tables) in counted() {
            let versions = layout.wiredtiger_versions;
            let same =
                tables == other_tables && (versions.is_empty() || versions.contains(&a_version(other)));
            if same {
                continue;
            }
            for symbols in [Symbols::Kept, Symbols::Stripped] {
                let process = Process::of(&other_tables, symbols);
                let found = examine(&process, a_version(other), layout);
                assert!(found.is_err(), "{} took {} for its own: {found:?}", layout.name, other.name);
                refused += 1;
            }
        }
    }
    assert!(refused > 800, "only {refused} pairs");
}

/// One member more or less in any table, one slot moved: refused, whatever the release.
#[test]
fn every_layout_refuses_its_neighbours() {
    for (layout, tables) in counted() {
        let mut neighbours = Vec::new();
        for (more, less) in [(1, 0), (0, 1)] {
            let mut changed = tables;
            changed.connection.members = tables.connection.members + more - less;
            neighbours.push(("connection members", changed, true));
            let mut changed = tables;
            changed.session.members = tables.session.members + more - less;
            neighbours.push(("session members", changed, true));
            if let Some(extension) = &mut changed.extension {
                changed.session = tables.session;
                extension.members = extension.members + more - less;
                neighbours.push(("extension members", changed, true));
            }
            // The same length with a method moved: only names tell.
            let mut changed = tables;
            changed.connection.open_session = tables.connection.open_session + more - less;
            neighbours.push(("open_session", changed, false));
            let mut changed = tables;
            changed.connection.add_encryptor = tables.connection.add_encryptor + more - less;
            neighbours.push(("add_encryptor", changed, false));
            let mut changed = tables;
            changed.connection.get_home = tables.connection.get_home + more - less;
            neighbours.push(("get_home", changed, false));
            let mut changed = tables;
            changed.session.create = tables.session.create + more - less;
            neighbours.push(("create", changed, false));
        }
        for (what, changed, by_length) in neighbours {
            let version = a_version(layout);
            let kept = examine(&Process::of(&changed, Symbols::Kept), version, layout);
            assert!(kept.is_err(), "{}: {what}", layout.name);
            if by_length {
                let stripped = examine(&Process::of(&changed, Symbols::Stripped), version, layout);
                assert!(stripped.is_err(), "{}: {what}, stripped", layout.name);
            }
        }
    }
}

#[test]
fn names_alone_are_enough_for_any_release() {
    for (layout, tables) in counted() {
        let process = Process::of(&tables, Symbols::Kept);
        let (connection, extension, session, _) = examine(&process, a_version(layout), layout::AUTO).unwrap();
        assert_eq!((connection, session), (tables.connection, tables.session), "{}", layout.name);
        assert!(tables.extension.is_none_or(|expected| expected == extension), "{}", layout.name);
        let stripped = Process::of(&tables, Symbols::Stripped);
        assert_eq!(
            examine(&stripped, a_version(layout), layout::AUTO),
            Err(ProbeError::Symbols { layout: "auto" })
        );
    }
}

#[test]
fn an_unknown_release_with_names_needs_the_names_it_uses() {
    let tables = layout::by_name("mongodb-8.0").unwrap().tables.unwrap();
    let mut process = Process::of(&tables, Symbols::Kept);
    for names in process.names.as_mut().unwrap().values_mut() {
        names.remove("__conn_add_encryptor");
    }
    assert_eq!(
        examine_connection(&process, CONNECTION, layout::AUTO),
        Err(ProbeError::Missing { table: Table::Connection, expected: "__conn_add_encryptor" })
    );
}

#[test]
fn a_read_only_session_is_told_by_its_name() {
    for (layout, tables) in counted() {
        for layout in [layout, layout::AUTO] {
            let process = Process::with_create(&tables, Symbols::Kept, READ_ONLY);
            let (_, kind) = examine_session(&process, CONNECTION, SESSION, layout).unwrap();
            assert_eq!(kind, SessionKind::ReadOnly, "{}", layout.name);
        }
    }
}

#[test]
fn folded_functions_have_several_names() {
    let tables = layout::by_name("mongodb-7.0").unwrap().tables.unwrap();
    let mut process = Process::of(&tables, Symbols::Kept);
    for names in process.names.as_mut().unwrap().values_mut() {
        names.insert("__folded_elsewhere");
    }
    examine(&process, (11, 2, 0), layout::by_name("mongodb-7.0").unwrap()).unwrap();
}

#[test]
fn a_table_of_another_connection_is_refused() {
    let layout = layout::by_name("mongodb-7.0").unwrap();
    let tables = layout.tables.unwrap();
    for (address, table) in [(EXTENSION, Table::Extension), (SESSION, Table::Session)] {
        let mut process = Process::of(&tables, Symbols::Stripped);
        process.words.insert(address, HEAP);
        assert_eq!(examine(&process, (11, 2, 0), layout), Err(ProbeError::Foreign { table }));
    }
}

#[test]
fn the_version_must_be_one_of_the_layouts() {
    let layout = layout::by_name("mongodb-7.0").unwrap();
    let process = Process::of(&layout.tables.unwrap(), Symbols::Stripped);
    let error = examine(&process, (11, 3, 0), layout).unwrap_err();
    assert_eq!(error, ProbeError::Version { found: (11, 3, 0), layout: "mongodb-7.0" });
    assert_eq!(error.to_string(), "WiredTiger has version 11.3.0, which layout mongodb-7.0 doesn't have");
}

/// Slot 32 is `version` in one release and takes other arguments in another with as many members: it must never be called.
#[test]
fn no_function_is_called_at_a_slot_that_may_be_another() {
    for (layout, tables) in counted() {
        for (other, other_tables) in counted() {
            let slot = |tables: &Tables| tables.extension.map(|slots| slots.version);
            if slot(&tables) == slot(&other_tables) {
                continue;
            }
            for symbols in [Symbols::Kept, Symbols::Stripped] {
                let mut process = Process::of(&other_tables, symbols);
                for text in [None, Some(a_version(other))] {
                    process.version_text = text;
                    let called = examine_connection(&process, CONNECTION, layout)
                        .and_then(|_| examine_extension(&process, CONNECTION, EXTENSION, layout));
                    assert!(called.is_err(), "{} would call a method of {}", layout.name, other.name);
                }
            }
        }
    }
}

#[test]
fn a_stripped_binary_without_version_text_is_refused() {
    let layout = layout::by_name("mongodb-7.0").unwrap();
    let process = Process::of(&layout.tables.unwrap(), Symbols::Stripped);
    let error = examine_connection(&process, CONNECTION, layout).unwrap_err();
    assert_eq!(error, ProbeError::NoVersion { layout: "mongodb-7.0" });
    assert!(
        examine_connection(&Process::of(&layout.tables.unwrap(), Symbols::Kept), CONNECTION, layout).is_ok()
    );
}

#[test]
fn unreadable_memory_and_endless_runs_end_the_count() {
    let layout = layout::by_name("mongodb-7.0").unwrap();
    let mut process = Process::of(&layout.tables.unwrap(), Symbols::Stripped);
    process.version_text = Some((11, 2, 0));
    process.words.remove(&(CONNECTION + 5 * WORD));
    assert_eq!(
        examine_connection(&process, CONNECTION, layout),
        Err(ProbeError::Members { table: Table::Connection, expected: 20, found: 5, layout: "mongodb-7.0" })
    );
    for slot in 0..200 {
        process.words.insert(CONNECTION + slot * WORD, CODE);
    }
    assert!(matches!(
        examine_connection(&process, CONNECTION, layout),
        Err(ProbeError::Members { found: MOST_MEMBERS, .. })
    ));
    assert!(examine_connection(&process, usize::MAX - 3, layout).is_err());
}
