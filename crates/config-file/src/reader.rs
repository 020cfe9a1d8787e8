//! Takes values out of sections and remembers what is wrong with them.

use std::{
    collections::BTreeMap,
    ops::{Range, RangeInclusive},
    path::PathBuf,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::Problem;

/// A value, its key and where it stands.
#[derive(Debug, Clone)]
pub struct Found<T> {
    /// The key it was given for.
    pub key: String,
    /// The value.
    pub value: T,
    /// Where the value stands in the text.
    pub span: Range<usize>,
}

/// A section of which values are taken one by one; what is left at the end is not known. The default is a section
/// that nobody wrote.
#[derive(Debug, Default)]
pub struct Section<'i> {
    /// As it stands between brackets; empty for the top of the file.
    name: String,
    entries: BTreeMap<String, Entry<'i>>,
    span: Range<usize>,
}

#[derive(Debug)]
struct Entry<'i> {
    key_span: Range<usize>,
    value: Spanned<DeValue<'i>>,
}

impl<'i> Section<'i> {
    fn new(name: String, span: Range<usize>, table: DeTable<'i>) -> Self {
        let entries = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), Entry { key_span: key.span(), value }))
            .collect();
        Self { name, entries, span }
    }

    /// Whether `key` is given and was not taken yet.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The keys that were not taken yet.
    pub fn keys(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Where the section begins: the place of what concerns several of its values.
    pub fn place(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The whole name of the section `key` within this one.
    fn name_of(&self, key: &str) -> String {
        match self.name.as_str() {
            "" => key.to_owned(),
            outer => format!("{outer}.{key}"),
        }
    }

    fn take(&mut self, key: &str) -> Option<Spanned<DeValue<'i>>> {
        self.entries.remove(key).map(|entry| entry.value)
    }
}

/// Collects problems. Each method that takes a value answers `None` after it has reported one; where a value need
/// not be given, `Some(None)` says that it was not.
#[derive(Debug)]
pub struct Reader<'i> {
    text: &'i str,
    problems: Vec<(usize, Problem)>,
}

impl<'i> Reader<'i> {
    pub(crate) fn new(text: &'i str) -> Self {
        Self { text, problems: Vec::new() }
    }

    /// The document; `None` with syntax errors.
    pub(crate) fn top(&mut self) -> Option<Section<'i>> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let place = error.span().unwrap_or(0..0);
            self.problem(place, format!("not TOML: {}", error.message()), "see https://toml.io");
        }
        // What stands around a syntax error is guesswork: report those errors alone.
        errors.is_empty().then(|| Section::new(String::new(), 0..0, document.into_inner()))
    }

    /// All problems in the order of the text.
    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|(offset, _)| *offset);
        self.problems.into_iter().map(|(_, problem)| problem).collect()
    }

    /// Reports a problem at `place`.
    pub fn problem(&mut self, place: Range<usize>, text: impl Into<String>, hint: &str) {
        let offset = place.start.min(self.text.len());
        let line = 1 + self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count();
        self.problems.push((offset, Problem { line, text: text.into(), hint: hint.to_owned() }));
    }

    /// A section that must be there.
    pub fn section(&mut self, parent: &mut Section<'i>, key: &str) -> Option<Section<'i>> {
        let found = self.optional_section(parent, key)?;
        if found.is_none() {
            let text = format!("the section [{}] is missing", parent.name_of(key));
            self.problem(parent.place(), text, "add it");
        }
        found
    }

    /// A section that may be there.
    pub fn optional_section(&mut self, parent: &mut Section<'i>, key: &str) -> Option<Option<Section<'i>>> {
        let Some(Entry { key_span, value }) = parent.entries.remove(key) else { return Some(None) };
        let name = parent.name_of(key);
        match value.into_inner() {
            DeValue::Table(table) => Some(Some(Section::new(name, key_span, table))),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => {
                let hint = format!("write [{name}] on a line of its own");
                self.problem(key_span, format!("`{key}` is no section"), &hint);
                None
            }
        }
    }

    /// Reports what nobody took.
    pub fn no_more(&mut self, section: Section<'i>) {
        let place = match section.name.as_str() {
            "" => "the file".to_owned(),
            name => format!("[{name}]"),
        };
        for (key, entry) in section.entries {
            let text = format!("`{key}` is not known in {place}");
            self.problem(entry.key_span, text, "correct the spelling, or remove it");
        }
    }

    /// A text that must be there and not be empty.
    pub fn text(&mut self, section: &mut Section<'i>, key: &str, hint: &str) -> Option<Found<String>> {
        match self.optional_text(section, key)? {
            Some(found) => self.filled(found, hint),
            None => {
                self.missing(section, key, hint);
                None
            }
        }
    }

    /// A text that may be there, and may be empty.
    pub fn optional_text(&mut self, section: &mut Section<'i>, key: &str) -> Option<Option<Found<String>>> {
        match section.take(key) {
            None => Some(None),
            Some(value) => self.as_text(key, value).map(Some),
        }
    }

    /// A text that must not be empty.
    pub fn filled(&mut self, found: Found<String>, hint: &str) -> Option<Found<String>> {
        if found.value.is_empty() {
            self.problem(found.span, format!("`{}` is empty", found.key), hint);
            return None;
        }
        Some(found)
    }

    /// What a text stands for; `complaint` says of one that stands for nothing what is wrong, such as `is no GUID`.
    pub fn parsed<T>(
        &mut self,
        found: Found<String>,
        complaint: &str,
        hint: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Found<T>> {
        match parse(&found.value) {
            Some(value) => Some(Found { key: found.key, value, span: found.span }),
            None => {
                let text = format!("`{}` = \"{}\" {complaint}", found.key, found.value);
                self.problem(found.span, text, hint);
                None
            }
        }
    }

    /// A list of texts; empty where it is not given.
    pub fn texts(&mut self, section: &mut Section<'i>, key: &str) -> Option<Vec<String>> {
        let Some(value) = section.take(key) else { return Some(Vec::new()) };
        let span = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.problem(span, format!("`{key}` is no list"), "write it as [\"--flag\", \"value\"]");
            return None;
        };
        let found: Vec<Option<String>> =
            items.into_iter().map(|item| self.as_text(key, item).map(|found| found.value)).collect();
        found.into_iter().collect()
    }

    /// An absolute path that must be there.
    pub fn path(&mut self, section: &mut Section<'i>, key: &str, hint: &str) -> Option<Found<PathBuf>> {
        let found = self.text(section, key, hint)?;
        self.absolute(found)
    }

    /// An absolute path that may be there.
    pub fn optional_path(&mut self, section: &mut Section<'i>, key: &str) -> Option<Option<PathBuf>> {
        match self.optional_text(section, key)? {
            None => Some(None),
            Some(found) => self.absolute(found).map(|found| Some(found.value)),
        }
    }

    /// The absolute path that a text is.
    pub fn absolute(&mut self, found: Found<String>) -> Option<Found<PathBuf>> {
        self.parsed(found, "is no absolute path", "begin it with /", |text| {
            Some(PathBuf::from(text)).filter(|path| path.is_absolute())
        })
    }

    /// `usual` where it is not given.
    pub fn boolean(&mut self, section: &mut Section<'i>, key: &str, usual: bool) -> Option<bool> {
        let Some(value) = section.take(key) else { return Some(usual) };
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(key, &value, "true or false");
        }
        found
    }

    /// `usual` where it is not given; without one it must be.
    pub fn integer(
        &mut self,
        section: &mut Section<'i>,
        key: &str,
        range: RangeInclusive<u64>,
        usual: Option<u64>,
    ) -> Option<u64> {
        let hint = format!("give a number from {} to {}", range.start(), range.end());
        let Some(value) = section.take(key) else {
            if usual.is_none() {
                self.missing(section, key, &hint);
            }
            return usual;
        };
        let Some(digits) = value.get_ref().as_integer() else {
            self.wrong_type(key, &value, "a whole number");
            return None;
        };
        let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
        let number = number.and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.problem(value.span(), format!("`{key}` = {} is out of range", digits.as_str()), &hint);
        }
        number
    }

    /// `usual` where it is not given; without one it must be.
    pub fn choice<T: Copy>(
        &mut self,
        section: &mut Section<'i>,
        key: &str,
        choices: &[(&str, T)],
        usual: Option<T>,
    ) -> Option<T> {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let hint = format!("choose one of {}", names.join(", "));
        let Some(value) = section.take(key) else {
            if usual.is_none() {
                self.missing(section, key, &hint);
            }
            return usual;
        };
        let found = self.as_text(key, value)?;
        let choose = |text: &str| choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        self.parsed(found, "is not known", &hint, choose).map(|found| found.value)
    }

    fn missing(&mut self, section: &Section<'i>, key: &str, hint: &str) {
        self.problem(section.place(), format!("`{key}` is missing"), hint);
    }

    fn as_text(&mut self, key: &str, value: Spanned<DeValue<'i>>) -> Option<Found<String>> {
        let span = value.span();
        if let Some(text) = value.get_ref().as_str() {
            return Some(Found { key: key.to_owned(), value: text.to_owned(), span });
        }
        self.wrong_type(key, &value, "a text in quotes");
        None
    }

    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let text = format!("`{key}` is of type {}", value.get_ref().type_str());
        self.problem(value.span(), text, &format!("give {wanted}"));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::parse;

    #[derive(Debug, PartialEq)]
    struct Shape {
        name: String,
        path: Option<PathBuf>,
        port: u64,
        deep: bool,
    }

    fn shape<'i>(r: &mut Reader<'i>, mut top: Section<'i>) -> Option<Shape> {
        let name = r.text(&mut top, "name", "give a name");
        let path = r.optional_path(&mut top, "path");
        let port = r.integer(&mut top, "port", 1..=65_535, Some(80));
        let deep = match r.optional_section(&mut top, "outer") {
            Some(outer) => {
                let mut outer = outer.unwrap_or_default();
                let mut inner = r.optional_section(&mut outer, "inner").flatten().unwrap_or_default();
                let deep = r.boolean(&mut inner, "deep", false);
                r.no_more(inner);
                r.no_more(outer);
                deep
            }
            None => None,
        };
        r.no_more(top);
        Some(Shape { name: name?.value, path: path?, port: port?, deep: deep? })
    }

    fn read(text: &str) -> Result<Shape, Vec<(usize, String, String)>> {
        parse(text, Path::new("a.toml"), shape).map_err(|found| {
            assert_eq!(found.path, Path::new("a.toml"));
            found.problems.into_iter().map(|p| (p.line, p.text, p.hint)).collect()
        })
    }

    fn told(text: &str) -> Vec<(usize, String)> {
        read(text).unwrap_err().into_iter().map(|(line, text, _)| (line, text)).collect()
    }

    #[test]
    fn what_is_given_is_read_and_what_is_not_is_as_usual() {
        let all = "name = \"a\"\npath = \"/x\"\nport = 0x10\n[outer.inner]\ndeep = true\n";
        let whole = Shape { name: "a".to_owned(), path: Some("/x".into()), port: 16, deep: true };
        assert_eq!(read(all), Ok(whole));
        let least = Shape { name: "a".to_owned(), path: None, port: 80, deep: false };
        assert_eq!(read("name = \"a\"\n"), Ok(least));
    }

    #[test]
    fn every_problem_is_told_at_its_line_in_the_order_of_the_text() {
        let text = "zone = 1\nport = 99999999999999999999\n\npath = \"x\"\nname = \"\"\n\
                    [outer.inner]\ndeep = \"yes\"\nwide = 1\n";
        assert_eq!(
            told(text),
            [
                (1, "`zone` is not known in the file".to_owned()),
                (2, "`port` = 99999999999999999999 is out of range".to_owned()),
                (4, "`path` = \"x\" is no absolute path".to_owned()),
                (5, "`name` is empty".to_owned()),
                (7, "`deep` is of type string".to_owned()),
                (8, "`wide` is not known in [outer.inner]".to_owned()),
            ]
        );
    }

    #[test]
    fn a_section_that_is_a_value_is_told_by_its_whole_name() {
        let problems = read("name = \"a\"\nouter = { inner = 3 }\n").unwrap_err();
        let hint = "write [outer.inner] on a line of its own".to_owned();
        assert_eq!(problems, [(2, "`inner` is no section".to_owned(), hint)]);
    }

    #[test]
    fn syntax_errors_stand_alone() {
        let problems = told("colour = 1\nname = \n");
        assert_eq!(problems.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2], "{problems:?}");
        assert!(problems[0].1.starts_with("not TOML: "), "{problems:?}");
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        assert_eq!(read("").unwrap_err(), [(1, "`name` is missing".to_owned(), "give a name".to_owned())]);
    }
}
