//! The extension's own configuration: `config=(socket="…",layout="…",per_database=true|false)` of its entry in `extensions=[…]`.
//!
//! Read here and not with WiredTiger's parser, because the layout must be known before any of WiredTiger's methods may be called.

use std::path::PathBuf;

use crate::layout::{self, Layout};

/// What the agent configured.
#[derive(Debug)]
pub struct Settings {
    /// The agent's socket, absolute.
    pub socket: PathBuf,
    /// The layout that this process is expected to have.
    pub layout: &'static Layout,
    /// One key per database; otherwise the system key for everything.
    pub per_database: bool,
}

/// What is wrong with the extension's configuration.
#[derive(Clone, Eq, PartialEq, Debug, thiserror::Error)]
pub enum SettingsError {
    /// The text doesn't follow the grammar.
    #[error("the extension's configuration can't be read at {0:?}")]
    Grammar(String),
    /// A key nobody knows.
    #[error("the extension's configuration has an unknown key {0:?}")]
    UnknownKey(String),
    /// A key is missing.
    #[error("the extension's configuration has no {0}")]
    Missing(&'static str),
    /// The value isn't allowed.
    #[error("the extension's configuration has {key}={value:?}; {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value given.
        value: String,
        /// What would do.
        expected: &'static str,
    },
}

impl SettingsError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        "the agent writes WIREDTIGER_CONFIG; start the database through it, with an agent and an encryptor of one release"
    }
}

impl Settings {
    /// Parses the texts of the extension's configuration; a later text wins.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, SettingsError> {
        let (mut socket, mut layout, mut per_database) = (None, None, true);
        for text in texts {
            for (key, value) in pairs(text)? {
                match key {
                    "socket" => socket = Some(absolute(value)?),
                    "layout" => layout = Some(known_layout(value)?),
                    "per_database" => per_database = boolean(value)?,
                    _ => return Err(SettingsError::UnknownKey(key.to_owned())),
                }
            }
        }
        Ok(Self {
            socket: socket.ok_or(SettingsError::Missing("socket"))?,
            layout: layout.ok_or(SettingsError::Missing("layout"))?,
            per_database,
        })
    }
}

fn absolute(value: &str) -> Result<PathBuf, SettingsError> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(SettingsError::Value {
            key: "socket",
            value: value.to_owned(),
            expected: "an absolute path is needed",
        })
    }
}

fn known_layout(value: &str) -> Result<&'static Layout, SettingsError> {
    layout::by_name(value).ok_or_else(|| SettingsError::Value {
        key: "layout",
        value: value.to_owned(),
        expected: "this encryptor doesn't know it",
    })
}

fn boolean(value: &str) -> Result<bool, SettingsError> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(SettingsError::Value {
            key: "per_database",
            value: value.to_owned(),
            expected: "true or false is needed",
        }),
    }
}

/// `key=value` pairs, separated by commas, in round brackets or none; a value may be quoted.
fn pairs(text: &str) -> Result<Vec<(&str, &str)>, SettingsError> {
    let grammar = |rest: &str| SettingsError::Grammar(rest.chars().take(40).collect());
    let mut rest = text.trim();
    if let Some(inner) = rest.strip_prefix('(') {
        rest = inner.strip_suffix(')').ok_or_else(|| grammar(text))?;
    }
    let mut pairs = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t', '\n']);
        if rest.is_empty() {
            return Ok(pairs);
        }
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let key = rest[..end].trim();
        let (value, after) = match rest[end..].strip_prefix('=') {
            None => ("", &rest[end..]),
            Some(quoted) if quoted.starts_with('"') => {
                let close = quoted[1..].find('"').ok_or_else(|| grammar(rest))? + 1;
                (&quoted[1..close], &quoted[close + 1..])
            }
            Some(plain) => {
                let end = plain.find(',').unwrap_or(plain.len());
                (plain[..end].trim(), &plain[end..])
            }
        };
        let word = |text: &str| !text.contains(['(', ')', '"', '\\']);
        if key.is_empty()
            || !word(key)
            || !word(value)
            || !(after.is_empty() || after.starts_with([',', ' ']))
        {
            return Err(grammar(rest));
        }
        pairs.push((key, value));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_writes_is_read() {
        let settings = Settings::parse([
            r#"(socket="/run/keyward/a,b=c.sock",layout="mongodb-7.0",per_database=false)"#,
        ])
        .unwrap();
        assert_eq!(settings.socket, PathBuf::from("/run/keyward/a,b=c.sock"));
        assert_eq!(settings.layout.name, "mongodb-7.0");
        assert!(!settings.per_database);
        let plain = Settings::parse(["socket=/run/a, layout=auto"]).unwrap();
        assert!(plain.per_database && plain.layout.name == "auto");
        let later = Settings::parse(["socket=/a,layout=auto", "(layout=\"mongodb-8.0\")"]).unwrap();
        assert_eq!(later.layout.name, "mongodb-8.0");
    }

    #[test]
    fn every_mistake_has_its_message() {
        for (text, message) in [
            ("", "the extension's configuration has no socket"),
            ("(socket=\"/a\")", "the extension's configuration has no layout"),
            ("(socket=\"a\",layout=auto)", "an absolute path is needed"),
            ("(socket=\"/a\",layout=\"mongodb-3.6\")", "this encryptor doesn't know it"),
            ("(socket=\"/a\",layout=auto,per_database=maybe)", "true or false is needed"),
            ("(socket=\"/a\",layout=auto,color=red)", "unknown key \"color\""),
            ("(socket=\"/a", "can't be read"),
            ("(socket=\"/a)", "can't be read"),
            ("(socket=\"/a\"x,layout=auto)", "can't be read"),
            ("(=x)", "can't be read"),
        ] {
            let error = Settings::parse([text]).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
