//! Words that must not stand in any file: unfinished business, and paths of one machine.

use super::Finding;

/// Findings in any text file of the project in folder `root`.
pub(super) fn check(file: &str, text: &str, root: &str) -> Vec<Finding> {
    // Standard texts, and lists made by tools.
    let verbatim = file == "LICENSE" || file == "Cargo.lock" || file == "xtask/src/tidy/words.rs";
    if verbatim {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut found =
            |what: String| findings.push(Finding { file: file.to_owned(), line: index + 1, what });
        for word in UNFINISHED {
            if has_word(line, word) {
                found(format!("{word}: finish it, or decide and write the decision down"));
            }
        }
        for path in MACHINE_PATHS.into_iter().chain([root]) {
            if let Some(at) = line.find(path)
                && !line[..at]
                    .ends_with(|before: char| before.is_alphanumeric() || before == '.' || before == '}')
            {
                found(format!("{path} is a path of one machine"));
            }
        }
    }
    findings
}

const UNFINISHED: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];
const MACHINE_PATHS: [&str; 3] = ["/home/", "/Users/", "/root/"];

fn has_word(line: &str, word: &str) -> bool {
    let joined = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(joined) && !line[at + word.len()..].starts_with(joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> usize {
        check("some.rs", line, "/srv/clone").len()
    }

    #[test]
    fn unfinished_business_is_found_as_a_word_only() {
        assert_eq!(found("// TODO: later"), 1);
        assert_eq!(found("// FIXME"), 1);
        assert_eq!(found("METHODOLOGY and XXXL"), 0);
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        assert_eq!(found("let dir = \"/home/ann/x\";"), 1);
        assert_eq!(found("built in /srv/clone/target"), 1);
        assert_eq!(found("see docs/home/x and ${X}/root/y"), 0);
    }
}
