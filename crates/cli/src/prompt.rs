//! Questions to a person on the terminal, and secrets that are read rather than given as arguments.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use crate::failure::Failure;

/// Longest secret that is read, in bytes.
const SECRET_MAX: u64 = 64 * 1024;

/// Reads a secret from a file, from stdin (`-`), or from the terminal without showing it. The last line break is not
/// part of it.
pub(crate) fn secret(what: &str, file: Option<&Path>) -> Result<String, Failure> {
    let text = match file {
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin().lock().take(SECRET_MAX).read_to_string(&mut text).map_err(|e| {
                Failure::new(format!("the {what} cannot be read from stdin"), "pipe it in, as UTF-8")
                    .because(&e)
            })?;
            text
        }
        Some(path) => fs::read_to_string(path).map_err(|e| {
            Failure::new(format!("{} cannot be read", path.display()), "check --secret-file").because(&e)
        })?,
        None if std::io::stdin().is_terminal() => rpassword::prompt_password(format!("{what}: "))
            .map_err(|e| Failure::new(format!("the {what} was not read"), "try again").because(&e))?,
        None => {
            return Err(Failure::usage(
                format!("the {what} is missing"),
                "there is no terminal to ask on: name a file with --secret-file, or `-` for stdin",
            ));
        }
    };
    let secret = text.trim_end_matches(['\r', '\n']).to_owned();
    if secret.is_empty() {
        return Err(Failure::usage(format!("the {what} is empty"), "give it on the terminal or in the file"));
    }
    Ok(secret)
}

/// Asks before something that cannot be taken back, unless `yes`.
pub(crate) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("nobody is there to answer: {question}"), "say yes with --yes"));
    }
    let mut err = anstream::stderr().lock();
    let _ = write!(err, "{question} [y/N] ");
    let _ = err.flush();
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new("nothing was changed", "answer y, or use --yes")),
    }
}
