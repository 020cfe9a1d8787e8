//! The tour's lines: one per step, with its time; as JSON, one object per step.

use serde::Serialize;
use tokio::time::Instant;

use super::seconds;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Spinner;
use crate::render::{BOLD, DIM, GREEN, RED, styled};

/// Where a step's text ends and its time begins, on a terminal of 80 columns.
const TEXT_WIDTH: usize = 64;

/// Prints steps as they end.
pub(super) struct Report {
    output: Output,
    begun: Instant,
    steps: Vec<Step>,
}

/// A step under way.
pub(super) struct Begun {
    title: String,
    at: Instant,
    _spinner: Spinner,
}

/// A step that has ended.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    step: usize,
    title: String,
    passed: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    seconds: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    passed: bool,
    steps: usize,
    seconds: f64,
    vault_calls: serde_json::Map<String, serde_json::Value>,
    #[serde(skip)]
    calls: &'a [(String, u64)],
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { output: Output { json }, begun: Instant::now(), steps: Vec::new() }
    }

    /// What this is; a person's only.
    pub(super) fn title(&self, text: &str) -> Result<(), Failure> {
        if self.output.json { Ok(()) } else { crate::output::print(&format!("{}\n\n", styled(text, DIM))) }
    }

    pub(super) fn begin(&self, title: &str) -> Begun {
        Begun {
            title: title.to_owned(),
            at: Instant::now(),
            // Where there is no terminal, the line at the step's end is enough.
            _spinner: Spinner::on_terminal(!self.output.json, title),
        }
    }

    /// Ends a step either way.
    pub(super) fn end(&mut self, begun: Begun, outcome: Result<String, Failure>) -> Result<(), Failure> {
        match outcome {
            Ok(detail) => self.passed(begun, &detail),
            Err(failure) => {
                self.failed(begun)?;
                Err(failure)
            }
        }
    }

    pub(super) fn passed(&mut self, begun: Begun, detail: &str) -> Result<(), Failure> {
        self.line(begun, true, detail)
    }

    pub(super) fn failed(&mut self, begun: Begun) -> Result<(), Failure> {
        self.line(begun, false, "")
    }

    fn line(&mut self, begun: Begun, passed: bool, detail: &str) -> Result<(), Failure> {
        let step = Step {
            step: self.steps.len() + 1,
            title: begun.title.clone(),
            passed,
            detail: detail.to_owned(),
            seconds: seconds(begun.at),
        };
        drop(begun);
        self.output.line(&step, step_text)?;
        self.steps.push(step);
        Ok(())
    }

    /// The last line.
    pub(super) fn summary(&self, passed: bool, calls: &[(String, u64)]) -> Result<(), Failure> {
        let summary = Summary {
            passed,
            steps: self.steps.len(),
            seconds: seconds(self.begun),
            vault_calls: calls.iter().map(|(name, count)| (name.clone(), (*count).into())).collect(),
            calls,
        };
        self.output.line(&summary, summary_text)
    }
}

fn step_text(step: &Step) -> String {
    let mark = if step.passed { styled("✓", GREEN) } else { styled("✗", RED) };
    let dots = TEXT_WIDTH.saturating_sub(step.title.chars().count()).max(2);
    let mut text = format!(
        "{mark} {:2}  {} {} {:5.1} s\n",
        step.step,
        step.title,
        styled(&"·".repeat(dots), DIM),
        step.seconds
    );
    if !step.detail.is_empty() {
        text.push_str(&format!("      {}\n", styled(&step.detail, DIM)));
    }
    text
}

fn summary_text(summary: &Summary<'_>) -> String {
    let verdict = if summary.passed { styled("all steps passed", GREEN) } else { styled("failed", RED) };
    let all: u64 = summary.calls.iter().map(|(_, count)| count).sum();
    let calls: Vec<String> = summary.calls.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!(
        "\n{} {verdict}: {} steps in {:.0} s\n{}\n",
        styled("keyward", BOLD),
        summary.steps,
        summary.seconds,
        styled(&format!("the vault answered {all} requests: {}", calls.join(", ")), DIM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_a_person() {
        let step = |passed, title: &str, detail: &str| {
            let step = Step { step: 3, title: title.into(), passed, detail: detail.into(), seconds: 1.25 };
            anstream::adapter::strip_str(&step_text(&step)).to_string()
        };
        let calls = [("KeyUnwrap".to_owned(), 40), ("Token".to_owned(), 2)];
        let summary = Summary {
            passed: true,
            steps: 14,
            seconds: 93.4,
            vault_calls: Default::default(),
            calls: &calls,
        };
        let summary = anstream::adapter::strip_str(&summary_text(&summary)).to_string();
        insta::assert_snapshot!(
            [
                step(true, "clients write documents", "900 documents"),
                step(false, &"very long ".repeat(9), ""),
                summary
            ]
            .concat()
        );
    }
}
