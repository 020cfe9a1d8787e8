//! Where the methods used lie in WiredTiger's tables, release by release.
//!
//! The version string doesn't identify a layout (11.2.0 alone names three), so the agent looks the release up here and passes
//! the layout's name, and [`crate::probe`] verifies it against the running process before anything is touched.
//! Figures: counted in WiredTiger's sources at the release tags and in the headers of the builds used in tests.

/// File name of the extension as cargo builds it.
pub const LIBRARY_FILE_NAME: &str = "libkeyward_encryptor.so";

/// Name under which the extension registers its encryptor: `encryption=(name=keyward,keyid=…)`.
pub const ENCRYPTOR_NAME: &str = "keyward";

/// A version as WiredTiger reports it: major, minor, patch.
pub type WiredTigerVersion = (u32, u32, u32);

/// Slots of `WT_CONNECTION`; `get_extension_api` is the last member in every release.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct ConnectionSlots {
    /// Number of members (pointers to functions) in the table.
    pub members: usize,
    /// Slot of `get_home`.
    pub get_home: usize,
    /// Slot of `open_session`.
    pub open_session: usize,
    /// Slot of `add_encryptor`.
    pub add_encryptor: usize,
}

impl ConnectionSlots {
    /// Slot of `get_extension_api`.
    pub fn get_extension_api(&self) -> usize {
        self.members - 1
    }
}

/// Slots of `WT_SESSION`, whose first two members are data.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct SessionSlots {
    /// Number of members, the two data members included.
    pub members: usize,
    /// Slot of `create`.
    pub create: usize,
}

/// Slots of `WT_EXTENSION_API`, whose first member is the connection. The head is the same in every release.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct ExtensionSlots {
    /// Number of members, the connection included.
    pub members: usize,
    /// Slot of `version`.
    pub version: usize,
}

/// The three tables of one release.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Tables {
    /// `WT_CONNECTION`.
    pub connection: ConnectionSlots,
    /// `WT_SESSION`.
    pub session: SessionSlots,
    /// `WT_EXTENSION_API`; `None` where nobody has counted it: symbol names are then required.
    pub extension: Option<ExtensionSlots>,
}

/// One layout that the extension knows.
#[derive(Debug)]
pub struct Layout {
    /// What the agent passes as `layout=` in the extension's configuration.
    pub name: &'static str,
    /// Versions that a WiredTiger of this layout reports; empty where that isn't known.
    pub wiredtiger_versions: &'static [WiredTigerVersion],
    /// The counted tables; `None` accepts a table by the names of its functions alone.
    pub tables: Option<Tables>,
    releases: &'static [Releases],
}

impl Layout {
    /// Whether the process must have a symbol table for this layout to be accepted: where it isn't wholly counted, or where
    /// another release has as many members in each table and reports the same version, with its methods elsewhere.
    pub fn needs_symbols(&self) -> bool {
        !matches!(self.tables, Some(Tables { extension: Some(_), .. })) || self.double().is_some()
    }

    /// Another layout that counting can't tell from this one.
    fn double(&self) -> Option<&'static Layout> {
        let members = |tables: &Tables| {
            (tables.connection.members, tables.session.members, tables.extension.map(|slots| slots.members))
        };
        let own = self.tables?;
        LAYOUTS.iter().find(|other| {
            let versions = self.wiredtiger_versions;
            other.tables.is_some_and(|tables| tables != own && members(&tables) == members(&own))
                && other.wiredtiger_versions.iter().any(|version| versions.contains(version))
        })
    }
}

/// The layout for a mongod Community release such as `7.0.14` or `8.2.0-rc1`, as `mongod --version` prints it.
///
/// `None`: a release nobody has counted and that is outside the series known here. A patch release of a known series
/// whose tables grew between patches gets [`AUTO`], which needs symbol names.
pub fn for_mongod(version: &str) -> Option<&'static Layout> {
    let release = Release::parse(version)?;
    LAYOUTS.iter().find(|layout| layout.releases.iter().any(|releases| releases.contain(release)))
}

/// The layout of this name.
pub fn by_name(name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| layout.name == name)
}

/// All layouts, oldest release first.
pub fn all() -> &'static [Layout] {
    &LAYOUTS
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
struct Release {
    series: (u32, u32),
    patch: u32,
    alpha: bool,
}

impl Release {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let (numbers, tail) = text.split_once('-').unwrap_or((text, ""));
        let mut parts = numbers.split('.').map(|part| part.parse::<u32>().ok());
        let release = Self {
            series: (parts.next()??, parts.next()??),
            patch: parts.next()??,
            alpha: tail.starts_with("alpha"),
        };
        parts.next().is_none().then_some(release)
    }
}

/// Releases of one series, first to last patch.
#[derive(Copy, Clone, Debug)]
struct Releases {
    series: (u32, u32),
    patches: (u32, u32),
    alphas: Alphas,
}

#[derive(Copy, Clone, Debug)]
enum Alphas {
    With,
    Without,
    Only,
}

impl Releases {
    const fn series(major: u32, minor: u32) -> Self {
        Self::patches(major, minor, 0, u32::MAX)
    }

    const fn patches(major: u32, minor: u32, first: u32, last: u32) -> Self {
        Self { series: (major, minor), patches: (first, last), alphas: Alphas::With }
    }

    fn contain(&self, release: Release) -> bool {
        let alphas = match self.alphas {
            Alphas::With => true,
            Alphas::Without => !release.alpha,
            Alphas::Only => release.alpha,
        };
        self.series == release.series && (self.patches.0..=self.patches.1).contains(&release.patch) && alphas
    }
}

const fn connection(members: usize, open_session: usize, add_encryptor: usize) -> ConnectionSlots {
    // Up to 4.4.1 two asynchronous methods stand before `close`.
    let get_home = if open_session == 8 { 5 } else { 3 };
    ConnectionSlots { members, get_home, open_session, add_encryptor }
}

const fn tables(
    (members, open_session, add_encryptor): (usize, usize, usize),
    session: (usize, usize),
    extension: (usize, usize),
) -> Option<Tables> {
    Some(Tables {
        connection: connection(members, open_session, add_encryptor),
        session: SessionSlots { members: session.0, create: session.1 },
        extension: Some(ExtensionSlots { members: extension.0, version: extension.1 }),
    })
}

const NONE: &[Releases] = &[];

static LAYOUTS: [Layout; 23] = [
    Layout {
        name: "wiredtiger-3.2.1",
        wiredtiger_versions: &[(3, 2, 1)],
        tables: tables((20, 8, 16), (32, 7), (37, 36)),
        releases: NONE,
    },
    // 4.2 to 4.4.4 are end of life and not offered by `for_mongod`; a process that says it is one can be told apart.
    Layout {
        name: "mongodb-4.2",
        wiredtiger_versions: &[(3, 3, 0)],
        tables: tables((20, 8, 16), (32, 7), (37, 36)),
        releases: NONE,
    },
    Layout {
        name: "mongodb-4.4.0",
        wiredtiger_versions: &[(10, 0, 0)],
        tables: tables((20, 8, 16), (31, 7), (37, 36)),
        releases: NONE,
    },
    Layout {
        name: "mongodb-4.4.2",
        wiredtiger_versions: &[(10, 0, 0)],
        tables: tables((18, 6, 14), (29, 7), (37, 36)),
        releases: NONE,
    },
    Layout {
        name: "mongodb-4.4.4",
        wiredtiger_versions: &[(10, 0, 0)],
        tables: tables((18, 6, 14), (30, 7), (37, 36)),
        releases: NONE,
    },
    Layout {
        name: "mongodb-4.4.5",
        wiredtiger_versions: &[(10, 0, 0)],
        tables: tables((20, 6, 14), (31, 8), (37, 36)),
        releases: &[Releases::patches(4, 4, 5, 6)],
    },
    Layout {
        name: "mongodb-5.0.0",
        wiredtiger_versions: &[(10, 0, 1)],
        tables: tables((20, 6, 14), (31, 8), (42, 37)),
        releases: &[Releases::patches(5, 0, 0, 2)],
    },
    Layout {
        name: "mongodb-5.0.3",
        wiredtiger_versions: &[(10, 0, 1), (10, 0, 2)],
        tables: tables((20, 6, 14), (30, 8), (42, 37)),
        releases: &[Releases::patches(5, 0, 3, 8), Releases::series(5, 1)],
    },
    Layout {
        name: "mongodb-5.0.9",
        wiredtiger_versions: &[(10, 0, 2)],
        tables: tables((20, 6, 14), (31, 8), (42, 37)),
        releases: &[Releases::patches(5, 0, 9, 14)],
    },
    Layout {
        name: "mongodb-5.0.15",
        wiredtiger_versions: &[(10, 0, 2)],
        tables: tables((20, 6, 14), (32, 8), (42, 37)),
        releases: &[Releases::patches(5, 0, 15, 31)],
    },
    Layout {
        name: "mongodb-5.2",
        wiredtiger_versions: &[(10, 0, 2)],
        tables: tables((20, 6, 14), (31, 8), (37, 32)),
        releases: &[Releases::series(5, 2), Releases::series(5, 3)],
    },
    Layout {
        name: "mongodb-6.0",
        wiredtiger_versions: &[(10, 0, 2), (11, 0, 1)],
        tables: tables((20, 6, 14), (32, 8), (37, 32)),
        releases: &[Releases::series(6, 0), Releases::series(6, 1)],
    },
    Layout {
        name: "mongodb-6.2",
        wiredtiger_versions: &[(11, 2, 0)],
        tables: tables((20, 6, 14), (33, 8), (37, 32)),
        releases: &[Releases::series(6, 2)],
    },
    Layout {
        name: "mongodb-7.0",
        wiredtiger_versions: &[(11, 2, 0)],
        tables: tables((20, 6, 14), (32, 8), (37, 32)),
        releases: &[Releases::series(6, 3), Releases::series(7, 0)],
    },
    Layout {
        name: "secantusdb-11.2",
        wiredtiger_versions: &[(11, 2, 0)],
        tables: tables((20, 6, 14), (32, 8), (37, 32)),
        releases: NONE,
    },
    Layout {
        name: "mongodb-7.1",
        wiredtiger_versions: &[(11, 2, 0)],
        tables: tables((20, 6, 14), (31, 7), (37, 32)),
        releases: &[Releases::series(7, 1)],
    },
    Layout {
        name: "mongodb-7.2",
        wiredtiger_versions: &[(11, 3, 0)],
        tables: tables((20, 6, 14), (31, 7), (37, 32)),
        releases: &[Releases::series(7, 2), Releases::series(7, 3)],
    },
    Layout {
        name: "mongodb-8.0",
        wiredtiger_versions: &[(11, 3, 0)],
        tables: tables((21, 7, 15), (32, 8), (37, 32)),
        releases: &[Releases::series(8, 0)],
    },
    Layout {
        name: "wiredtiger-11.3.1",
        wiredtiger_versions: &[(11, 3, 0), (11, 3, 1)],
        tables: tables((21, 7, 15), (31, 8), (37, 32)),
        releases: NONE,
    },
    Layout {
        name: "mongodb-8.1",
        wiredtiger_versions: &[(12, 0, 0)],
        tables: tables((20, 7, 15), (30, 8), (37, 32)),
        releases: &[
            Releases::series(8, 1),
            Releases { series: (8, 2), patches: (0, 0), alphas: Alphas::Only },
        ],
    },
    Layout {
        name: "mongodb-8.2",
        wiredtiger_versions: &[(12, 0, 0)],
        tables: tables((22, 7, 15), (29, 8), (37, 32)),
        releases: &[
            Releases { series: (8, 2), patches: (0, 0), alphas: Alphas::Without },
            Releases::patches(8, 2, 1, u32::MAX),
        ],
    },
    // A development branch: what it reports and its extension table aren't known, so names must confirm it.
    Layout {
        name: "mongodb-2026",
        wiredtiger_versions: &[],
        tables: Some(Tables {
            connection: connection(25, 7, 15),
            session: SessionSlots { members: 32, create: 8 },
            extension: None,
        }),
        releases: &[Releases::series(8, 3), Releases::series(9, 0)],
    },
    // Last patches of series that kept growing: not counted, so by names alone.
    Layout {
        name: "auto",
        wiredtiger_versions: &[],
        tables: None,
        releases: &[Releases::patches(4, 4, 7, u32::MAX), Releases::patches(5, 0, 32, u32::MAX)],
    },
];

/// The layout that is accepted by the names of the functions alone: any release with a symbol table.
pub static AUTO: &Layout = &LAYOUTS[LAYOUTS.len() - 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_finds_its_layout() {
        for (version, name) in [
            ("4.4.5", "mongodb-4.4.5"),
            ("4.4.6", "mongodb-4.4.5"),
            ("4.4.29", "auto"),
            ("5.0.0", "mongodb-5.0.0"),
            ("5.0.3", "mongodb-5.0.3"),
            ("5.1.1", "mongodb-5.0.3"),
            ("5.0.9", "mongodb-5.0.9"),
            ("5.0.31", "mongodb-5.0.15"),
            ("5.0.32", "auto"),
            ("5.3.2", "mongodb-5.2"),
            ("6.0.16", "mongodb-6.0"),
            ("6.2.0", "mongodb-6.2"),
            ("6.3.1", "mongodb-7.0"),
            ("7.0.14", "mongodb-7.0"),
            ("v7.0.14", "mongodb-7.0"),
            ("7.1.0", "mongodb-7.1"),
            ("7.3.4", "mongodb-7.2"),
            ("8.0.4", "mongodb-8.0"),
            ("8.1.1", "mongodb-8.1"),
            ("8.2.0-alpha2", "mongodb-8.1"),
            ("8.2.0-rc0", "mongodb-8.2"),
            ("8.2.1", "mongodb-8.2"),
            ("8.3.0-alpha0", "mongodb-2026"),
        ] {
            assert_eq!(for_mongod(version).map(|layout| layout.name), Some(name), "{version}");
        }
    }

    #[test]
    fn a_release_outside_the_table_has_no_layout() {
        for version in ["3.6.23", "4.2.24", "4.4.4", "7.4.0", "10.0.0", "", "7.0", "7.0.x", "7.0.1.2"] {
            assert!(for_mongod(version).is_none(), "{version}");
        }
    }

    #[test]
    fn tables_keep_the_relations_seen_in_every_release() {
        for layout in all() {
            assert!(std::ptr::eq(by_name(layout.name).unwrap(), layout), "two layouts named {}", layout.name);
            let Some(tables) = layout.tables else { continue };
            let connection = tables.connection;
            assert_eq!(connection.add_encryptor, connection.open_session + 8, "{}", layout.name);
            assert!(connection.get_extension_api() > connection.add_encryptor, "{}", layout.name);
            assert!(tables.session.create < tables.session.members, "{}", layout.name);
        }
        assert_eq!(AUTO.name, "auto");
        assert!(AUTO.needs_symbols() && by_name("mongodb-2026").unwrap().needs_symbols());
        assert!(!by_name("mongodb-8.2").unwrap().needs_symbols());
    }

    /// The table of the reference, row by row, written down a second time: release, reported version, then
    /// `WT_CONNECTION` (members, `open_session`, `add_encryptor`, `get_extension_api`), `WT_SESSION` (members, `create`)
    /// and `WT_EXTENSION_API` (members, `version`).
    type Row = (&'static str, (u32, u32, u32), [usize; 4], [usize; 2], Option<[usize; 2]>);
    const REFERENCE: [Row; 33] = [
        ("4.4.5", (10, 0, 0), [20, 6, 14, 19], [31, 8], Some([37, 36])),
        ("4.4.6", (10, 0, 0), [20, 6, 14, 19], [31, 8], Some([37, 36])),
        ("5.0.0", (10, 0, 1), [20, 6, 14, 19], [31, 8], Some([42, 37])),
        ("5.0.2", (10, 0, 1), [20, 6, 14, 19], [31, 8], Some([42, 37])),
        ("5.0.3", (10, 0, 1), [20, 6, 14, 19], [30, 8], Some([42, 37])),
        ("5.0.8", (10, 0, 2), [20, 6, 14, 19], [30, 8], Some([42, 37])),
        ("5.1.0", (10, 0, 2), [20, 6, 14, 19], [30, 8], Some([42, 37])),
        ("5.0.9", (10, 0, 2), [20, 6, 14, 19], [31, 8], Some([42, 37])),
        ("5.0.14", (10, 0, 2), [20, 6, 14, 19], [31, 8], Some([42, 37])),
        ("5.0.15", (10, 0, 2), [20, 6, 14, 19], [32, 8], Some([42, 37])),
        ("5.0.31", (10, 0, 2), [20, 6, 14, 19], [32, 8], Some([42, 37])),
        ("5.2.0", (10, 0, 2), [20, 6, 14, 19], [31, 8], Some([37, 32])),
        ("5.3.0", (10, 0, 2), [20, 6, 14, 19], [31, 8], Some([37, 32])),
        ("6.0.0", (10, 0, 2), [20, 6, 14, 19], [32, 8], Some([37, 32])),
        ("6.0.25", (10, 0, 2), [20, 6, 14, 19], [32, 8], Some([37, 32])),
        ("6.1.0", (11, 0, 1), [20, 6, 14, 19], [32, 8], Some([37, 32])),
        ("6.2.0", (11, 2, 0), [20, 6, 14, 19], [33, 8], Some([37, 32])),
        ("6.3.0", (11, 2, 0), [20, 6, 14, 19], [32, 8], Some([37, 32])),
        ("7.0.0", (11, 2, 0), [20, 6, 14, 19], [32, 8], Some([37, 32])),
        ("7.0.25", (11, 2, 0), [20, 6, 14, 19], [32, 8], Some([37, 32])),
        ("7.1.0", (11, 2, 0), [20, 6, 14, 19], [31, 7], Some([37, 32])),
        ("7.2.0", (11, 3, 0), [20, 6, 14, 19], [31, 7], Some([37, 32])),
        ("7.3.0", (11, 3, 0), [20, 6, 14, 19], [31, 7], Some([37, 32])),
        ("8.0.0", (11, 3, 0), [21, 7, 15, 20], [32, 8], Some([37, 32])),
        ("8.0.15", (11, 3, 0), [21, 7, 15, 20], [32, 8], Some([37, 32])),
        ("8.1.0", (12, 0, 0), [20, 7, 15, 19], [30, 8], Some([37, 32])),
        ("8.1.1", (12, 0, 0), [20, 7, 15, 19], [30, 8], Some([37, 32])),
        ("8.2.0-alpha", (12, 0, 0), [20, 7, 15, 19], [30, 8], Some([37, 32])),
        ("8.2.0", (12, 0, 0), [22, 7, 15, 21], [29, 8], Some([37, 32])),
        ("8.2.1", (12, 0, 0), [22, 7, 15, 21], [29, 8], Some([37, 32])),
        ("8.3.0", (12, 1, 0), [25, 7, 15, 24], [32, 8], None),
        ("9.0.0", (12, 1, 0), [25, 7, 15, 24], [32, 8], None),
        ("8.3.0-alpha0", (12, 1, 0), [25, 7, 15, 24], [32, 8], None),
    ];

    /// The builds and ended releases that no mongod on offer has, by the layout's name.
    const REFERENCE_BY_NAME: [Row; 7] = [
        ("wiredtiger-3.2.1", (3, 2, 1), [20, 8, 16, 19], [32, 7], Some([37, 36])),
        ("mongodb-4.2", (3, 3, 0), [20, 8, 16, 19], [32, 7], Some([37, 36])),
        ("mongodb-4.4.0", (10, 0, 0), [20, 8, 16, 19], [31, 7], Some([37, 36])),
        ("mongodb-4.4.2", (10, 0, 0), [18, 6, 14, 17], [29, 7], Some([37, 36])),
        ("mongodb-4.4.4", (10, 0, 0), [18, 6, 14, 17], [30, 7], Some([37, 36])),
        ("wiredtiger-11.3.1", (11, 3, 1), [21, 7, 15, 20], [31, 8], Some([37, 32])),
        ("secantusdb-11.2", (11, 2, 0), [20, 6, 14, 19], [32, 8], Some([37, 32])),
    ];

    #[test]
    fn the_table_has_the_values_of_the_reference() {
        let of_releases = REFERENCE.map(|row| (row, for_mongod(row.0)));
        let of_names = REFERENCE_BY_NAME.map(|row| (row, by_name(row.0)));
        let mut seen = std::collections::HashSet::from([AUTO.name]);
        for ((release, version, connection, session, extension), layout) in
            of_releases.into_iter().chain(of_names)
        {
            let layout = layout.unwrap_or_else(|| panic!("{release} has no layout"));
            let tables = layout.tables.unwrap();
            let slots = tables.connection;
            assert_eq!(
                [slots.members, slots.open_session, slots.add_encryptor, slots.get_extension_api()],
                connection,
                "{release}"
            );
            // Two asynchronous methods stood before it as long as `open_session` was at 8.
            assert_eq!(slots.get_home, if connection[1] == 8 { 5 } else { 3 }, "{release}");
            assert_eq!([tables.session.members, tables.session.create], session, "{release}");
            assert_eq!(tables.extension.map(|slots| [slots.members, slots.version]), extension, "{release}");
            let versions = layout.wiredtiger_versions;
            assert!(versions.is_empty() == extension.is_none(), "{release}");
            assert!(versions.is_empty() || versions.contains(&version), "{release}: {versions:?}");
            seen.insert(layout.name);
        }
        assert_eq!(seen.len(), all().len(), "a layout that the reference doesn't have");
        // No version is accepted that the reference doesn't have in that row.
        for layout in all() {
            for version in layout.wiredtiger_versions {
                let named = |row: &Row, of: Option<&'static Layout>| {
                    of.is_some_and(|of| std::ptr::eq(of, layout)) && row.1 == *version
                };
                let known = REFERENCE.iter().any(|row| named(row, for_mongod(row.0)))
                    || REFERENCE_BY_NAME.iter().any(|row| named(row, by_name(row.0)))
                    // PyPI's 11.3.1 and the tag 11.3.0 have one layout.
                    || (layout.name, *version) == ("wiredtiger-11.3.1", (11, 3, 0));
                assert!(known, "{}: {version:?}", layout.name);
            }
        }
    }

    /// 4.4.0 and 4.4.5: 20, 31 and 37 members, 10.0.0, and yet `open_session` 8 and 6.
    #[test]
    fn releases_that_counting_cannot_tell_apart_need_symbols() {
        let doubles: Vec<_> =
            all().iter().filter_map(|layout| Some((layout.name, layout.double()?.name))).collect();
        assert_eq!(doubles, [("mongodb-4.4.0", "mongodb-4.4.5"), ("mongodb-4.4.5", "mongodb-4.4.0")]);
        assert!(by_name("mongodb-4.4.5").unwrap().needs_symbols());
    }
}
