//! Configuration files: TOML read value by value, with every problem told instead of only the first.
//!
//! Owns how a mistake is told: file, line, what is wrong, what to do. Which values a file has, and what they mean
//! together, belongs to the program whose file it is. It opens no file: text and path in, values or problems out.

mod problem;
mod reader;

use std::path::Path;

pub use problem::{Problem, Problems};
pub use reader::{Found, Reader, Section};

/// Reads `text`, the contents of `path`: `shape` takes the values of the top section one by one and answers `None`
/// when one that it needs is wrong. What it leaves is not known and must be reported with [`Reader::no_more`].
pub fn parse<'i, T>(
    text: &'i str,
    path: &Path,
    shape: impl FnOnce(&mut Reader<'i>, Section<'i>) -> Option<T>,
) -> Result<T, Problems> {
    let mut reader = Reader::new(text);
    let value = reader.top().and_then(|top| shape(&mut reader, top));
    let problems = reader.into_problems();
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        Some(_) | None => Err(Problems { path: path.to_owned(), problems }),
    }
}
