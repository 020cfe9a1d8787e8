//! Every command that a document, an example, a unit file or a hint names is one that this program has.

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Command, CommandFactory, Parser};

use super::Arguments;

/// Splits a shell command into words and drops its comment. An operator (`|`, `>`, `;` …) is a word of its own.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | '>' | '<' | ';' | '&') => {
                words.extend(word.take());
                words.push(c.to_string());
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The arguments of each call of `keyward` in a line for a shell.
fn calls(line: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for part in words(line).split(|word| matches!(word.as_str(), "|" | ">" | "<" | ";" | "&")) {
        let mut part = part.iter().map(String::as_str).skip_while(|word| *word == "$" || word.contains('='));
        let rest: Vec<String> = match part.next() {
            Some("sudo") if part.next() == Some("keyward") => part.map(str::to_owned).collect(),
            Some("keyward" | "target/release/keyward" | "/usr/bin/keyward") => {
                part.map(str::to_owned).collect()
            }
            // `cargo run --release -- dev`: what follows the dashes is ours.
            Some("cargo") if part.next() == Some("run") => {
                part.skip_while(|word| *word != "--").skip(1).map(str::to_owned).collect()
            }
            Some(_) | None => continue,
        };
        found.push(rest);
    }
    let inner = line.split("$(keyward ").skip(1).filter_map(|rest| rest.split_once(')'));
    found.extend(inner.map(|(call, _)| words(call)));
    found
}

/// Why this program does not take these arguments; `None` when it does.
fn refused(arguments: &[String]) -> Option<String> {
    let all = std::iter::once("keyward").chain(arguments.iter().map(String::as_str));
    match Arguments::try_parse_from(all) {
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => None,
        Err(error) => Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// Lines of fenced code, those that go on with `\` in one, each with its number.
fn fenced(text: &str) -> Vec<(usize, String)> {
    let mut inside = false;
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            goes_on = false;
            continue;
        }
        if !inside {
            continue;
        }
        let (part, more) = match line.trim_end().strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, last)) if goes_on => {
                last.push(' ');
                last.push_str(part.trim());
            }
            _ => lines.push((index + 1, part.trim().to_owned())),
        }
        goes_on = more;
    }
    lines
}

/// Spans between backticks that begin with `keyward `, outside fenced code, each with the number of its line.
fn spans(text: &str) -> Vec<(usize, String)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        }
        if !inside {
            let spans = line.split('`').skip(1).step_by(2).filter(|span| span.starts_with("keyward "));
            found.extend(spans.map(|span| (index + 1, span.to_owned())));
        }
    }
    found
}

/// Which part of `span` (`keyward vault access grant|revoke [--model M]`) is no command or option; placeholders are
/// left alone.
fn unknown(span: &str, root: &Command) -> Option<String> {
    // A label of cryptography, not a command.
    if span.ends_with(" v1") {
        return None;
    }
    let mut at = vec![root];
    for word in span.split_whitespace().skip(1) {
        let word = word.trim_matches(|c: char| "[](){},.;:…".contains(c));
        if let Some(option) = word.strip_prefix("--") {
            let option = option.split(['=', '|', ']']).next().unwrap_or_default();
            let has = |command: &&Command| command.get_arguments().any(|one| one.get_long() == Some(option));
            if !matches!(option, "" | "help" | "version") && !at.iter().any(has) {
                return Some(format!("--{option}"));
            }
            continue;
        }
        let is_name = !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b"-|".contains(&b));
        if !is_name || at.iter().all(|command| !command.has_subcommands()) {
            continue;
        }
        let mut next = Vec::new();
        for name in word.split('|') {
            let subs: Vec<&Command> = at.iter().filter_map(|command| command.find_subcommand(name)).collect();
            if subs.is_empty() {
                return Some(name.to_owned());
            }
            next.extend(subs);
        }
        at = next;
    }
    None
}

/// Files with one of these endings under `folder`.
fn files(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                files(&path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

fn read(endings: &[&str]) -> Vec<(String, String)> {
    let root = keyward_testkit::project_root();
    let mut found = Vec::new();
    files(root, endings, &mut found);
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap_or(path).display().to_string();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn root() -> Command {
    let mut root = Arguments::command();
    root.build();
    root
}

#[test]
fn a_document_shows_only_commands_that_there_are() {
    let root = root();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (name, text) in read(&[".md"]) {
        if name == "docs/reference/cli.md" {
            continue;
        }
        for (line, code) in fenced(&text) {
            for call in calls(&code) {
                checked += 1;
                if let Some(why) = refused(&call) {
                    wrong.push(format!("{name}:{line}: keyward {}: {why}", call.join(" ")));
                }
            }
        }
        for (line, span) in spans(&text) {
            checked += 1;
            if let Some(part) = unknown(&span, &root) {
                wrong.push(format!("{name}:{line}: `{span}`: there is no {part}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 50, "only {checked} commands were found: the search is broken");
}

#[test]
fn an_example_in_the_help_is_a_command_that_there_is() {
    fn visit(command: &Command, wrong: &mut Vec<String>, checked: &mut usize) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for (_, line) in fenced(&format!("```\n{help}\n```")) {
            // What follows two spaces says what it does.
            let code = line.split("  ").next().unwrap_or_default();
            for call in calls(code) {
                *checked += 1;
                if let Some(why) = refused(&call) {
                    wrong.push(format!("{}: keyward {}: {why}", command.get_name(), call.join(" ")));
                }
            }
        }
        command.get_subcommands().for_each(|sub| visit(sub, wrong, checked));
    }
    let (mut wrong, mut checked) = (Vec::new(), 0);
    visit(&root(), &mut wrong, &mut checked);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 100, "only {checked} examples were found: the search is broken");
}

#[test]
fn a_message_or_a_unit_file_names_only_commands_that_there_are() {
    let root = root();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (name, text) in read(&[".rs"]) {
        // This file has examples of what is wrong.
        if name.ends_with("args/documents.rs") {
            continue;
        }
        let mut joined = String::new();
        for line in text.lines() {
            // A string goes on after a backslash.
            match line.trim_end().strip_suffix('\\') {
                Some(part) if part.contains('"') || joined.ends_with(' ') => {
                    joined.push_str(part.trim_start())
                }
                Some(_) | None => {
                    joined.push_str(line.trim_start());
                    joined.push('\n');
                }
            }
        }
        for (_, span) in spans(&joined) {
            checked += 1;
            if let Some(part) = unknown(&span, &root) {
                wrong.push(format!("{name}: `{span}`: there is no {part}"));
            }
        }
    }
    for (name, text) in read(&[".service"]) {
        for line in text.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            for call in calls(line) {
                checked += 1;
                if let Some(why) = refused(&call) {
                    wrong.push(format!("{name}: keyward {}: {why}", call.join(" ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 50, "only {checked} commands were found: the search is broken");
}

#[test]
fn what_is_wrong_is_found() {
    let call = |line: &str| calls(line).first().and_then(|call| refused(call));
    assert_eq!(call("keyward vault key disable customer-key    # the nodes stop"), None);
    assert_eq!(call("az x | keyward encryption set --secret-file - > out"), None);
    assert_eq!(call("curl -H \"Authorization: Bearer $(keyward login --print-token)\" u"), None);
    assert_eq!(call("cargo run --release -- dev --check"), None);
    assert!(call("keyward vault key break customer-key").is_some());
    assert!(call("A=1 target/release/keyward vault key list --colour").is_some());
    assert!(call("keyward project create").is_some(), "an argument is missing");
    assert_eq!(calls("cargo xtask test; keywards"), Vec::<Vec<String>>::new());

    let root = root();
    for right in [
        "keyward vault access grant|revoke",
        "keyward node …",
        "keyward node keystore export",
        "keyward vault fault set KIND [--for 90s]",
        "keyward encryption set --key-identifier …/NEW --watch",
    ] {
        assert_eq!(unknown(right, &root), None, "{right}");
    }
    for (wrong, part) in [
        ("keyward vault access grant|forget", "forget"),
        ("keyward cluster list --colour", "--colour"),
        ("keyward dev revoke --now", "--now"),
        ("keyward nodes", "nodes"),
    ] {
        assert_eq!(unknown(wrong, &root).as_deref(), Some(part), "{wrong}");
    }
    let text = "`keyward a`\n```\nkeyward b \\\n  --c\n```\nand `keyward d`, `keywards`";
    assert_eq!(fenced(text), [(3, "keyward b --c".to_owned())]);
    assert_eq!(spans(text), [(1, "keyward a".to_owned()), (6, "keyward d".to_owned())]);
}
