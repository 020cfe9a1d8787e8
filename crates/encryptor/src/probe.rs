//! Verifies that WiredTiger's method tables are laid out as expected, before any of them is called or changed.
//!
//! Pure: the process is seen through [`MemoryImage`]. A table is a run of consecutive pointers to code of the object that
//! contains WiredTiger; it is followed by a pointer to data (the default session, the event handler). So the length of the run is the
//! number of members. Where the object has a symbol table, the functions at the slots used must also have the right names;
//! with names alone a table of unknown length can be accepted.

use crate::layout::{ConnectionSlots, ExtensionSlots, Layout, SessionSlots, WiredTigerVersion};

/// Slots of `WT_EXTENSION_API` that are the same in every release.
pub mod extension_head {
    /// `err_printf`.
    pub const ERR_PRINTF: usize = 1;
    /// `msg_printf`.
    pub const MSG_PRINTF: usize = 2;
    /// `config_get`, with the configuration as WiredTiger passes it.
    pub const CONFIG_GET: usize = 9;
    /// `config_get_string`, with the configuration as text.
    pub const CONFIG_GET_STRING: usize = 10;
}

/// What the probe sees of a process: words of its memory, and the code and names of the object that contains WiredTiger.
pub trait MemoryImage {
    /// The pointer-sized word at `address`; `None` if that isn't readable.
    fn word(&self, address: usize) -> Option<usize>;
    /// Whether `address` lies in the code of the object that contains WiredTiger.
    fn is_code(&self, address: usize) -> bool;
    /// Whether the object has a symbol table that names WiredTiger's local functions.
    fn has_symbols(&self) -> bool;
    /// The version in the text of its own that WiredTiger has among its constants; `None` if it isn't found.
    fn version_text(&self) -> Option<WiredTigerVersion>;
    /// Whether one of the symbols at `address` is `name`, compiler suffixes such as `.isra.0` left aside.
    fn is_named(&self, address: usize, name: &str) -> bool;
}

/// One of WiredTiger's tables of functions.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Table {
    /// `WT_CONNECTION`.
    Connection,
    /// `WT_SESSION`.
    Session,
    /// `WT_EXTENSION_API`.
    Extension,
}

impl std::fmt::Display for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Connection => "WT_CONNECTION",
            Self::Session => "WT_SESSION",
            Self::Extension => "WT_EXTENSION_API",
        })
    }
}

/// Why a process isn't accepted.
#[derive(Clone, Eq, PartialEq, Debug, thiserror::Error)]
pub enum ProbeError {
    /// The table has another number of members than the layout says.
    #[error("{table} has {found} members where layout {layout} has {expected}")]
    Members {
        /// The table.
        table: Table,
        /// Members expected.
        expected: usize,
        /// Members counted.
        found: usize,
        /// The layout's name.
        layout: &'static str,
    },
    /// The function at a slot has another name.
    #[error("slot {slot} of {table} isn't {expected}, as layout {layout} says")]
    Name {
        /// The table.
        table: Table,
        /// The slot.
        slot: usize,
        /// Name expected there.
        expected: &'static str,
        /// The layout's name.
        layout: &'static str,
    },
    /// The layout is accepted by names only, and there are none.
    #[error(
        "layout {layout} is accepted by the names of WiredTiger's functions only, and this binary has no symbol table"
    )]
    Symbols {
        /// The layout's name.
        layout: &'static str,
    },
    /// A function that is looked up by name isn't in the table.
    #[error("{table} has no {expected}")]
    Missing {
        /// The table.
        table: Table,
        /// The name looked for.
        expected: &'static str,
    },
    /// A table doesn't point back to the connection.
    #[error("{table} doesn't belong to the connection that loaded the encryptor")]
    Foreign {
        /// The table.
        table: Table,
    },
    /// The version is needed, and WiredTiger's text isn't found.
    #[error(
        "this binary has neither a symbol table nor WiredTiger's version in clear, so layout {layout} can't be verified"
    )]
    NoVersion {
        /// The layout's name.
        layout: &'static str,
    },
    /// WiredTiger has another version.
    #[error("WiredTiger has version {}.{}.{}, which layout {layout} doesn't have", found.0, found.1, found.2)]
    Version {
        /// The version reported.
        found: WiredTigerVersion,
        /// The layout's name.
        layout: &'static str,
    },
}

impl ProbeError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Members { .. } | Self::Name { .. } | Self::Foreign { .. } | Self::Version { .. } => {
                "the agent took this process for another release: check that the agent's `program` is the binary that runs"
            }
            Self::Symbols { .. } | Self::Missing { .. } | Self::NoVersion { .. } => {
                "use a release that keyward's layout table knows, or a build that keeps its symbol table"
            }
        }
    }
}

/// More members than any table has; a longer run isn't a table.
const MOST_MEMBERS: usize = 96;

/// Verifies `WT_CONNECTION` at `connection`. Only after this may `get_extension_api` be called.
pub fn examine_connection(
    image: &impl MemoryImage,
    connection: usize,
    layout: &'static Layout,
) -> Result<ConnectionSlots, ProbeError> {
    let table = Table::Connection;
    let found = run_of_code(image, connection, 0);
    let names = Names { image, table, address: connection, layout };
    let slots = match layout.tables {
        Some(tables) => {
            expect_members(table, tables.connection.members, found, layout)?;
            tables.connection
        }
        None => ConnectionSlots {
            members: names.slot_of("__conn_get_extension_api", found)? + 1,
            get_home: names.slot_of("__conn_get_home", found)?,
            open_session: names.slot_of("__conn_open_session", found)?,
            add_encryptor: names.slot_of("__conn_add_encryptor", found)?,
        },
    };
    if layout.needs_symbols() && !image.has_symbols() {
        return Err(ProbeError::Symbols { layout: layout.name });
    }
    // Before `version` may be called: releases with as many members have it at another slot.
    match image.version_text() {
        Some(version) => examine_version(version, layout)?,
        None if image.has_symbols() => {}
        None => return Err(ProbeError::NoVersion { layout: layout.name }),
    }
    names.expect(slots.get_home, "__conn_get_home")?;
    names.expect(slots.open_session, "__conn_open_session")?;
    names.expect(slots.add_encryptor, "__conn_add_encryptor")?;
    names.expect(slots.get_extension_api(), "__conn_get_extension_api")?;
    Ok(slots)
}

/// Verifies `WT_EXTENSION_API` at `extension`, as `get_extension_api` returned it. Only after this may its members be called.
pub fn examine_extension(
    image: &impl MemoryImage,
    connection: usize,
    extension: usize,
    layout: &'static Layout,
) -> Result<ExtensionSlots, ProbeError> {
    let table = Table::Extension;
    if image.word(extension) != Some(connection) {
        return Err(ProbeError::Foreign { table });
    }
    let found = 1 + run_of_code(image, extension, 1);
    let names = Names { image, table, address: extension, layout };
    let slots = match layout.tables.and_then(|tables| tables.extension) {
        Some(slots) => {
            expect_members(table, slots.members, found, layout)?;
            slots
        }
        None => ExtensionSlots { members: found, version: names.slot_of("wiredtiger_version", found)? },
    };
    names.expect(extension_head::ERR_PRINTF, "__wt_ext_err_printf")?;
    names.expect(extension_head::MSG_PRINTF, "__wt_ext_msg_printf")?;
    names.expect(extension_head::CONFIG_GET, "__wt_ext_config_get")?;
    names.expect(extension_head::CONFIG_GET_STRING, "__wt_ext_config_get_string")?;
    names.expect(slots.version, "wiredtiger_version")?;
    Ok(slots)
}

/// Compares WiredTiger's version, from its text or as `version()` returned it, with what the layout's releases report.
pub fn examine_version(found: WiredTigerVersion, layout: &'static Layout) -> Result<(), ProbeError> {
    let known = layout.wiredtiger_versions;
    if known.is_empty() || known.contains(&found) {
        Ok(())
    } else {
        Err(ProbeError::Version { found, layout: layout.name })
    }
}

/// Whether a session's `create` may change anything.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum SessionKind {
    /// Its `create` creates, as far as is known.
    Writing,
    /// Its `create` is known, by name, to refuse.
    ReadOnly,
}

/// Verifies `WT_SESSION` at `session`. Only after this may its `create` be wrapped.
pub fn examine_session(
    image: &impl MemoryImage,
    connection: usize,
    session: usize,
    layout: &'static Layout,
) -> Result<(SessionSlots, SessionKind), ProbeError> {
    let table = Table::Session;
    if image.word(session) != Some(connection) {
        return Err(ProbeError::Foreign { table });
    }
    let found = 2 + run_of_code(image, session, 2);
    let names = Names { image, table, address: session, layout };
    let slots = match layout.tables {
        Some(tables) => {
            expect_members(table, tables.session.members, found, layout)?;
            tables.session
        }
        None => {
            let create = names.slot_of(CREATE, found).or_else(|_| names.slot_of(CREATE_READ_ONLY, found));
            SessionSlots { members: found, create: create? }
        }
    };
    let kind = if image.has_symbols() && names.is(slots.create, CREATE_READ_ONLY) {
        SessionKind::ReadOnly
    } else {
        names.expect(slots.create, CREATE)?;
        SessionKind::Writing
    };
    Ok((slots, kind))
}

const CREATE: &str = "__session_create";
const CREATE_READ_ONLY: &str = "__session_create_readonly";

const WORD: usize = size_of::<usize>();

fn run_of_code(image: &impl MemoryImage, table: usize, first: usize) -> usize {
    (first..MOST_MEMBERS)
        .take_while(|slot| {
            table
                .checked_add(slot * WORD)
                .and_then(|address| image.word(address))
                .is_some_and(|word| image.is_code(word))
        })
        .count()
}

fn expect_members(
    table: Table,
    expected: usize,
    found: usize,
    layout: &'static Layout,
) -> Result<(), ProbeError> {
    if expected == found {
        Ok(())
    } else {
        Err(ProbeError::Members { table, expected, found, layout: layout.name })
    }
}

/// The names of one table's functions.
struct Names<'a, I> {
    image: &'a I,
    table: Table,
    address: usize,
    layout: &'static Layout,
}

impl<I: MemoryImage> Names<'_, I> {
    fn is(&self, slot: usize, name: &str) -> bool {
        self.image.word(self.address + slot * WORD).is_some_and(|word| self.image.is_named(word, name))
    }

    /// Demands the name where there are names at all.
    fn expect(&self, slot: usize, expected: &'static str) -> Result<(), ProbeError> {
        if !self.image.has_symbols() || self.is(slot, expected) {
            Ok(())
        } else {
            Err(ProbeError::Name { table: self.table, slot, expected, layout: self.layout.name })
        }
    }

    fn slot_of(&self, expected: &'static str, members: usize) -> Result<usize, ProbeError> {
        if !self.image.has_symbols() {
            return Err(ProbeError::Symbols { layout: self.layout.name });
        }
        (0..members)
            .find(|slot| self.is(*slot, expected))
            .ok_or(ProbeError::Missing { table: self.table, expected })
    }
}

#[cfg(test)]
mod tests;
