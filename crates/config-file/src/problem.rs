//! What is wrong in a configuration file, and how it is told.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Something wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, counted from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// Everything that is wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub path: PathBuf,
    /// At least one problem, by line.
    pub problems: Vec<Problem>,
}

impl Problems {
    /// One problem of the file as a whole: it cannot be read, say.
    pub fn of_file(path: &Path, text: String, hint: &str) -> Self {
        let problem = Problem { line: 0, text, hint: hint.to_owned() };
        Self { path: path.to_owned(), problems: vec![problem] }
    }
}

impl fmt::Display for Problems {
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

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_shown_with_file_line_and_hint() {
        let problem =
            |line, text: &str| Problem { line, text: text.to_owned(), hint: format!("mend {line}") };
        let problems =
            Problems { path: "/etc/a.toml".into(), problems: vec![problem(3, "wrong"), problem(7, "odd")] };
        assert_eq!(
            problems.to_string(),
            "/etc/a.toml:3: wrong\n  hint: mend 3\n/etc/a.toml:7: odd\n  hint: mend 7"
        );
        let of_file = Problems::of_file(Path::new("/etc/b.toml"), "cannot be read".to_owned(), "look at it");
        assert_eq!(of_file.to_string(), "/etc/b.toml: cannot be read\n  hint: look at it");
    }
}
