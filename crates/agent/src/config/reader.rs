//! Reads a TOML document value by value and collects every problem instead of stopping at the first.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Something wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Line, counted from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// Everything that is wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblems {
    /// The file.
    pub path: PathBuf,
    /// At least one problem, by line.
    pub problems: Vec<ConfigProblem>,
}

impl ConfigProblems {
    pub(super) fn one(path: &Path, text: String, hint: &str) -> Self {
        let problem = ConfigProblem { line: 0, text, hint: hint.to_owned() };
        Self { path: path.to_owned(), problems: vec![problem] }
    }
}

impl fmt::Display for ConfigProblems {
    /// One line per problem and one per hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.path.display())?;
            if problem.line > 0 {
                write!(f, ":{}", problem.line)?;
            }
            write!(f, ": {}\n  hint: {}", problem.text, problem.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// A table of which values are taken one by one; what is left at the end is unknown.
#[derive(Debug, Default)]
pub(super) struct Table<'i> {
    entries: BTreeMap<String, (Range<usize>, Spanned<DeValue<'i>>)>,
    span: Range<usize>,
}

impl Table<'_> {
    /// Whether `key` is given and was not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }
}

/// Collects problems.
pub(super) struct Reader<'i> {
    text: &'i str,
    path: PathBuf,
    problems: Vec<(usize, ConfigProblem)>,
    section: Range<usize>,
}

impl<'i> Reader<'i> {
    pub(super) fn new(text: &'i str, path: &Path) -> Self {
        Self { text, path: path.to_owned(), problems: Vec::new(), section: 0..0 }
    }

    /// The document; with syntax errors, what could be read of it.
    pub(super) fn document(&mut self) -> Option<Table<'i>> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            self.problem_at(span, format!("not TOML: {}", error.message()), "see https://toml.io");
        }
        // What stands around a syntax error is guesswork: report those errors alone.
        errors.is_empty().then(|| table(document.span(), document.into_inner()))
    }

    /// The configuration, or all problems in the order of lines.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, ConfigProblems> {
        self.problems.sort_by_key(|(offset, _)| *offset);
        let problems: Vec<_> = self.problems.into_iter().map(|(_, problem)| problem).collect();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            Some(_) | None => Err(ConfigProblems { path: self.path, problems }),
        }
    }

    pub(super) fn problem_at(&mut self, span: Range<usize>, text: String, hint: &str) {
        let offset = span.start.min(self.text.len());
        let line = 1 + self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count();
        self.problems.push((offset, ConfigProblem { line, text, hint: hint.to_owned() }));
    }

    /// A problem of the section as a whole.
    pub(super) fn problem(&mut self, text: String, hint: &str) {
        self.problem_at(self.section.clone(), text, hint);
    }

    pub(super) fn string(&mut self, table: &mut Table<'i>, key: &str, hint: &str) -> Option<Found<String>> {
        match self.take(table, key) {
            None => {
                self.problem_at(table.span.clone(), format!("`{key}` is missing"), &format!("give {hint}"));
                None
            }
            Some(value) => match self.as_string(key, value)? {
                found if found.value.is_empty() => {
                    self.problem_at(found.span, format!("`{key}` is empty"), &format!("give {hint}"));
                    None
                }
                found => Some(found),
            },
        }
    }

    /// `Some(None)`: not given. `None`: wrong.
    pub(super) fn optional_string(&mut self, table: &mut Table<'i>, key: &str) -> Option<Option<String>> {
        match self.take(table, key) {
            None => Some(None),
            Some(value) => self.as_string(key, value).map(|found| Some(found.value)),
        }
    }

    pub(super) fn string_or(&mut self, table: &mut Table<'i>, key: &str, usual: &str) -> Option<String> {
        self.optional_string(table, key).map(|text| text.unwrap_or_else(|| usual.to_owned()))
    }

    pub(super) fn strings(&mut self, table: &mut Table<'i>, key: &str) -> Option<Vec<String>> {
        let Some(value) = self.take(table, key) else { return Some(Vec::new()) };
        let span = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.problem_at(span, format!("`{key}` is no list"), "write it as [\"--flag\", \"value\"]");
            return None;
        };
        let found: Vec<Option<String>> =
            items.into_iter().map(|item| self.as_string(key, item).map(|found| found.value)).collect();
        found.into_iter().collect()
    }

    pub(super) fn path(&mut self, table: &mut Table<'i>, key: &str, hint: &str) -> Option<Found<PathBuf>> {
        let found = self.string(table, key, hint)?;
        self.absolute(key, found)
    }

    /// `Some(None)`: not given. `None`: wrong.
    pub(super) fn optional_path(&mut self, table: &mut Table<'i>, key: &str) -> Option<Option<PathBuf>> {
        match self.take(table, key) {
            None => Some(None),
            Some(value) => {
                let found = self.as_string(key, value)?;
                self.absolute(key, found).map(|found| Some(found.value))
            }
        }
    }

    pub(super) fn path_or(
        &mut self,
        table: &mut Table<'i>,
        key: &str,
        usual: Option<PathBuf>,
    ) -> Option<PathBuf> {
        match self.optional_path(table, key)? {
            Some(path) => Some(path),
            None => usual,
        }
    }

    pub(super) fn boolean(&mut self, table: &mut Table<'i>, key: &str, usual: bool) -> Option<bool> {
        let Some(value) = self.take(table, key) else { return Some(usual) };
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(key, &value, "true or false");
        }
        found
    }

    pub(super) fn integer(
        &mut self,
        table: &mut Table<'i>,
        key: &str,
        range: RangeInclusive<u64>,
        usual: Option<u64>,
    ) -> Option<u64> {
        let (low, high) = (range.start(), range.end());
        let Some(value) = self.take(table, key) else {
            if usual.is_none() {
                let hint = format!("give a number from {low} to {high}");
                self.problem_at(table.span.clone(), format!("`{key}` is missing"), &hint);
            }
            return usual;
        };
        let Some(digits) = value.get_ref().as_integer() else {
            self.wrong_type(key, &value, "a whole number");
            return None;
        };
        let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
        match number.and_then(|number| u64::try_from(number).ok()).filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => {
                let text = format!("`{key}` = {} is out of range", digits.as_str());
                self.problem_at(value.span(), text, &format!("give a number from {low} to {high}"));
                None
            }
        }
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        table: &mut Table<'i>,
        key: &str,
        choices: &[(&str, T)],
        usual: Option<T>,
    ) -> Option<T> {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let hint = format!("choose one of {}", names.join(", "));
        let Some(value) = self.take(table, key) else {
            if usual.is_none() {
                self.problem_at(table.span.clone(), format!("`{key}` is missing"), &hint);
            }
            return usual;
        };
        let found = self.as_string(key, value)?;
        let choice = choices.iter().find(|(name, _)| *name == found.value).map(|(_, choice)| *choice);
        if choice.is_none() {
            self.problem_at(found.span, format!("`{key}` = \"{}\" is not known", found.value), &hint);
        }
        choice
    }

    /// `Some(None)`: not given and not needed. `None`: wrong.
    pub(super) fn guid(&mut self, table: &mut Table<'i>, key: &str, needed: bool) -> Option<Option<String>> {
        let hint = "copy it from the Azure portal: 00000000-0000-0000-0000-000000000000";
        let found = match self.take(table, key) {
            None if needed => {
                self.problem_at(table.span.clone(), format!("`{key}` is missing"), hint);
                return None;
            }
            None => return Some(None),
            Some(value) => self.as_string(key, value)?,
        };
        if found.value.len() == 36 && uuid::Uuid::try_parse(&found.value).is_ok() {
            return Some(Some(found.value));
        }
        self.problem_at(found.span, format!("`{key}` = \"{}\" is no GUID", found.value), hint);
        None
    }

    pub(super) fn url(&mut self, key: &str, text: &str) -> Option<url::Url> {
        match text.parse() {
            Ok(url) => Some(url),
            Err(_) => {
                self.problem(format!("`{key}` = \"{text}\" is no URL"), "write it as https://HOST[:PORT]");
                None
            }
        }
    }

    pub(super) fn table(&mut self, parent: &mut Table<'i>, key: &str) -> Option<Table<'i>> {
        match self.optional_table(parent, key) {
            Ok(Some(found)) => Some(found),
            Ok(None) => {
                self.problem_at(0..0, format!("the section [{key}] is missing"), "add it");
                None
            }
            Err(()) => None,
        }
    }

    pub(super) fn optional_table(
        &mut self,
        parent: &mut Table<'i>,
        key: &str,
    ) -> Result<Option<Table<'i>>, ()> {
        let Some((span, value)) = parent.entries.remove(key) else { return Ok(None) };
        match value.into_inner() {
            DeValue::Table(entries) => {
                self.section = span.clone();
                Ok(Some(table(span, entries)))
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => {
                self.problem_at(
                    span,
                    format!("`{key}` is no section"),
                    &format!("write [{key}] on a line of its own"),
                );
                Err(())
            }
        }
    }

    /// Reports what nobody asked for.
    pub(super) fn no_more(&mut self, table: Table<'i>, place: &str) {
        for (key, (span, _)) in table.entries {
            let text = format!("`{key}` is not known in {place}");
            self.problem_at(span, text, "correct the spelling, or remove it");
        }
    }

    fn take(&mut self, table: &mut Table<'i>, key: &str) -> Option<Spanned<DeValue<'i>>> {
        table.entries.remove(key).map(|(_, value)| value)
    }

    fn as_string(&mut self, key: &str, value: Spanned<DeValue<'i>>) -> Option<Found<String>> {
        let span = value.span();
        if let Some(text) = value.get_ref().as_str() {
            return Some(Found { value: text.to_owned(), span });
        }
        self.wrong_type(key, &value, "a text in quotes");
        None
    }

    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let text = format!("`{key}` is of type {}", value.get_ref().type_str());
        self.problem_at(value.span(), text, &format!("give {wanted}"));
    }

    fn absolute(&mut self, key: &str, found: Found<String>) -> Option<Found<PathBuf>> {
        let path = PathBuf::from(&found.value);
        if path.is_absolute() {
            return Some(Found { value: path, span: found.span });
        }
        let text = format!("`{key}` = \"{}\" is no absolute path", found.value);
        self.problem_at(found.span, text, "begin it with /");
        None
    }
}

fn table<'i>(span: Range<usize>, entries: DeTable<'i>) -> Table<'i> {
    let entries =
        entries.into_iter().map(|(key, value)| (key.get_ref().to_string(), (key.span(), value))).collect();
    Table { entries, span }
}
