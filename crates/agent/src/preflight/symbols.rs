//! Whether a program's symbol table names the methods that the encryptor uses.

use std::{fs::File, io, io::BufReader, path::Path};

use object::{
    Object, ObjectSymbol,
    read::{ReadCache, ReadRef},
};

/// The names that confirm a layout.
const NAMES: [&str; 4] =
    ["__conn_open_session", "__conn_add_encryptor", "__conn_get_extension_api", "__session_create"];

/// Why a program's symbols cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SymbolsError {
    /// The file.
    #[error("the program cannot be read")]
    Read(#[source] io::Error),
    /// Its format.
    #[error("the program is no ELF file")]
    Format(#[source] object::Error),
}

/// The names that `program` lacks; reads only its headers and symbol table.
pub(super) fn missing(program: &Path) -> Result<Vec<&'static str>, SymbolsError> {
    let file = File::open(program).map_err(SymbolsError::Read)?;
    missing_in(&ReadCache::new(BufReader::new(file)))
}

fn missing_in<'data>(data: impl ReadRef<'data>) -> Result<Vec<&'static str>, SymbolsError> {
    let file = object::File::parse(data).map_err(SymbolsError::Format)?;
    let mut missing = NAMES.to_vec();
    for symbol in file.symbols() {
        if missing.is_empty() {
            break;
        }
        // Link-time optimisation appends `.lto_priv.0` or the like.
        let Ok(name) = symbol.name() else { continue };
        let plain = name.split('.').next().unwrap_or(name);
        missing.retain(|wanted| *wanted != plain);
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wiredtiger_with_symbols_has_every_name() {
        let library = keyward_testkit::python::secantusdb_wiredtiger_library().unwrap();
        assert_eq!(missing(&library).unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn another_program_lacks_them_and_a_text_is_none() {
        assert_eq!(missing(&std::env::current_exe().unwrap()).unwrap(), NAMES);
        assert!(matches!(missing(Path::new("/etc/passwd")), Err(SymbolsError::Format(_))));
        assert!(matches!(missing(Path::new("/nowhere")), Err(SymbolsError::Read(_))));
    }
}
