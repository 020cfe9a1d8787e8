//! Rules about Rust source, checked on its tokens: strings and comments cannot confuse them.

use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Finding;

/// Longest file, tests not counted.
const MAX_LINES: usize = 800;
/// Module names that say nothing.
const VAGUE_MODULES: [&str; 8] = ["utils", "util", "common", "helpers", "helper", "manager", "misc", "stuff"];
/// The files that may hold `unsafe`, by prefix of their path.
const UNSAFE_ALLOWED: [&str; 5] = [
    "crates/encryptor/src/",
    "crates/encryptor/tests/",
    "crates/encryptor/examples/",
    "crates/keys/src/locked",
    "crates/agent/src/engine/process",
];
/// Crates that are functions of their arguments, by prefix of their path.
const PURE: [&str; 3] = ["crates/model/src/", "crates/keys/src/", "crates/config-file/src/"];
/// What a pure crate must not reach for.
const IMPURE: [(&str, &str); 12] = [
    ("std::fs", "no files"),
    ("std::net", "no network"),
    ("std::env", "no environment"),
    ("std::process", "no processes"),
    ("std::os::unix::net", "no sockets"),
    ("SystemTime::now", "time comes in as an argument"),
    ("Instant::now", "time comes in as an argument"),
    ("Timestamp::now", "time comes in as an argument"),
    ("Zoned::now", "time comes in as an argument"),
    ("thread::sleep", "no waiting"),
    ("tokio::", "no async runtime"),
    ("rand::thread_rng", "randomness comes from the AEAD provider only"),
];
/// The encryptor lives in somebody else's process.
const FORBIDDEN_IN_ENCRYPTOR: [(&str, &str); 3] = [
    ("std::net", "no network"),
    ("tokio::", "no async runtime"),
    ("process::exit", "never ends the database's process"),
];

/// Findings in one Rust file.
pub(super) fn check(file: &str, text: &str) -> Vec<Finding> {
    let Ok(stream) = TokenStream::from_str(text) else {
        return vec![Finding { file: file.to_owned(), line: 0, what: "does not parse".to_owned() }];
    };
    let mut tokens = Vec::new();
    flatten(stream, false, &mut tokens);
    let mut findings = Vec::new();
    let mut found = |line: usize, what: String| findings.push(Finding { file: file.to_owned(), line, what });

    let is_test_file = file.contains("/tests/") || file.contains("/benches/") || file.ends_with("/tests.rs");
    let test_lines = lines_in_tests(&tokens);
    let own_lines = text.lines().count().saturating_sub(test_lines);
    if !is_test_file && own_lines > MAX_LINES {
        found(0, format!("{own_lines} lines without tests: split it by noun ({MAX_LINES} at most)"));
    }
    if let Some(name) = file.rsplit('/').next().and_then(|name| name.strip_suffix(".rs"))
        && VAGUE_MODULES.contains(&name)
    {
        found(0, format!("{name} is no name for a module: give each thing its one home"));
    }
    for pair in tokens.windows(2) {
        if pair[0].text == "mod" && VAGUE_MODULES.contains(&pair[1].text.as_str()) {
            found(
                pair[1].line,
                format!("{} is no name for a module: give each thing its one home", pair[1].text),
            );
        }
    }
    for (index, token) in tokens.iter().enumerate() {
        if token.text != "unsafe" {
            continue;
        }
        if !UNSAFE_ALLOWED.iter().any(|allowed| file.starts_with(allowed)) {
            found(
                token.line,
                "unsafe is kept to the encryptor's FFI, locked memory and the engine's process".to_owned(),
            );
        } else if tokens.get(index + 1).is_some_and(|next| next.text == "{")
            && !has_safety_comment(text, token.line)
        {
            found(token.line, "an unsafe block needs a SAFETY comment".to_owned());
        }
    }
    for line in examples(text) {
        found(line, "examples in comments are not run: make it a test, or say `text`".to_owned());
    }
    let rules: &[(&str, &str)] = if PURE.iter().any(|pure| file.starts_with(pure)) {
        &IMPURE
    } else if file.starts_with("crates/encryptor/src/") {
        &FORBIDDEN_IN_ENCRYPTOR
    } else {
        &[]
    };
    if !is_test_file {
        for (path, why) in rules {
            for line in uses_of(&tokens, path) {
                found(line, format!("{path} does not belong here: {why}"));
            }
        }
    }
    findings
}

struct Token {
    text: String,
    line: usize,
    in_test: bool,
}

/// All tokens in order; a group's delimiters are tokens too. Items under `#[cfg(test)]` are marked.
fn flatten(stream: TokenStream, in_test: bool, out: &mut Vec<Token>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut test_item = false;
    for (index, tree) in trees.iter().enumerate() {
        let line = tree.span().start().line;
        let in_test = in_test || test_item;
        match tree {
            TokenTree::Group(group) => {
                let attribute = group.delimiter() == Delimiter::Bracket
                    && index > 0
                    && matches!(&trees[index - 1], TokenTree::Punct(punct) if punct.as_char() == '#');
                if attribute && group.stream().to_string().replace(' ', "") == "cfg(test)" {
                    test_item = true;
                }
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::None => ("", ""),
                };
                out.push(Token { text: open.to_owned(), line, in_test });
                flatten(group.stream(), in_test, out);
                out.push(Token { text: close.to_owned(), line: group.span_close().end().line, in_test });
                if group.delimiter() == Delimiter::Brace {
                    test_item = false;
                }
            }
            TokenTree::Punct(punct) => {
                out.push(Token { text: punct.as_char().to_string(), line, in_test });
                if punct.as_char() == ';' {
                    test_item = false;
                }
            }
            TokenTree::Ident(ident) => out.push(Token { text: ident.to_string(), line, in_test }),
            TokenTree::Literal(_) => out.push(Token { text: "\"…\"".to_owned(), line, in_test }),
        }
    }
}

fn lines_in_tests(tokens: &[Token]) -> usize {
    let mut lines = 0;
    let mut run: Option<(usize, usize)> = None;
    for token in tokens.iter().filter(|token| token.in_test) {
        run = match run {
            Some((first, last)) if token.line <= last + 40 => Some((first, token.line.max(last))),
            Some((first, last)) => {
                lines += last - first + 1;
                Some((token.line, token.line))
            }
            None => Some((token.line, token.line)),
        };
    }
    lines + run.map_or(0, |(first, last)| last - first + 1)
}

/// Lines outside tests where `path` (`a::b`, or `a::` for anything below a) is written, `use a::{b}` included.
fn uses_of(tokens: &[Token], path: &str) -> Vec<usize> {
    let parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    let mut lines = Vec::new();
    for start in 0..tokens.len() {
        if tokens[start].in_test || tokens[start].text != parts[0] {
            continue;
        }
        if reaches(&tokens[start + 1..], &parts[1..], path.ends_with("::")) {
            lines.push(tokens[start].line);
        }
    }
    lines
}

fn reaches(rest: &[Token], parts: &[&str], open_end: bool) -> bool {
    let text = |index: usize| rest.get(index).map_or("", |token: &Token| token.text.as_str());
    let Some((next, later)) = parts.split_first() else {
        return !open_end || (text(0) == ":" && text(1) == ":");
    };
    if text(0) != ":" || text(1) != ":" {
        return false;
    }
    if text(2) == "{" {
        let mut depth = 0;
        for (index, token) in rest.iter().enumerate().skip(2) {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" if depth == 1 => break,
                "}" => depth -= 1,
                name if depth == 1 && name == *next => return reaches(&rest[index + 1..], later, open_end),
                _ => {}
            }
        }
        return false;
    }
    text(2) == *next && reaches(&rest[3..], later, open_end)
}

/// Lines where a comment begins a block of code that rustdoc would take for a test.
fn examples(text: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let comment = line.strip_prefix("//!").or_else(|| line.strip_prefix("///"));
        let Some(language) = comment.and_then(|comment| comment.trim_start().strip_prefix("```")) else {
            continue;
        };
        let word = language.split([',', ' ']).next().unwrap_or_default();
        if !fenced && matches!(word, "" | "rust" | "no_run" | "should_panic" | "compile_fail") {
            lines.push(index + 1);
        }
        fenced = !fenced;
    }
    lines
}

/// A comment with the word within the statement's preceding lines.
fn has_safety_comment(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let first = line.saturating_sub(8);
    lines[first..line.min(lines.len())].iter().any(|line| line.contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<String> {
        check(file, text).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn pure_crates_reach_for_nothing() {
        for text in [
            "use std::fs;",
            "use std::{collections::BTreeMap, fs::File};",
            "fn f() { let _ = std::time::SystemTime::now(); }",
            "fn f() { tokio::spawn(g()); }",
            "fn f() { jiff::Timestamp::now(); }",
        ] {
            assert_eq!(found("crates/model/src/x.rs", text).len(), 1, "{text}");
            assert!(found("crates/agent/src/x.rs", text).is_empty(), "{text}");
        }
        let innocent = "// std::fs\nconst TEXT: &str = \"SystemTime::now\";\nfn f(fs: u8) -> u8 { fs }\n\
                        #[cfg(test)]\nmod tests { use std::fs; }";
        assert!(found("crates/model/src/x.rs", innocent).is_empty());
    }

    #[test]
    fn code_after_a_test_only_import_is_still_checked() {
        let text = "#[cfg(test)]\nuse std::env;\nuse std::fs;";
        assert_eq!(found("crates/model/src/x.rs", text), ["std::fs does not belong here: no files"]);
    }

    #[test]
    fn unsafe_is_kept_where_it_belongs() {
        let bare = "fn f() { unsafe { g() } }";
        assert_eq!(found("crates/agent/src/node.rs", bare).len(), 1);
        assert_eq!(found("crates/encryptor/src/ffi.rs", bare).len(), 1);
        let explained = "fn f() {\n    // SAFETY: g has no conditions.\n    unsafe { g() }\n}";
        assert!(found("crates/encryptor/src/ffi.rs", explained).is_empty());
        assert!(found("crates/agent/src/node.rs", "// unsafe\nconst X: &str = \"unsafe\";").is_empty());
    }

    #[test]
    fn long_files_are_found_and_tests_do_not_count() {
        let long = "fn f() {}\n".repeat(801);
        assert_eq!(found("crates/agent/src/x.rs", &long).len(), 1);
        let tested = format!(
            "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            "fn f() {}\n".repeat(700),
            "fn g() {}\n".repeat(300)
        );
        assert!(found("crates/agent/src/x.rs", &tested).is_empty());
    }

    #[test]
    fn examples_that_nobody_runs_are_found() {
        let text = "//! ```text\n//! a diagram\n//! ```\n\n/// ```\n/// f();\n/// ```\n/// ```no_run\n/// ```\nfn f() {}";
        assert_eq!(examples(text), [5, 8]);
    }

    #[test]
    fn vague_modules_are_found() {
        assert_eq!(found("crates/agent/src/lib.rs", "mod utils;").len(), 1);
        assert_eq!(found("crates/agent/src/helpers.rs", "fn f() {}").len(), 1);
        assert!(found("crates/agent/src/lib.rs", "mod engine; // not utils").is_empty());
    }
}
