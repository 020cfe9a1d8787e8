//! Benchmarks as ratios within one run: whole seconds differ from machine to machine, ratios hardly.
//!
//! A benchmark prints `ratio NAME VALUE at-least LIMIT` and `measure NAME VALUE UNIT` (or `value …`) lines among its own; they go to
//! `target/bench/<benchmark>.json`, and `--check` fails on a ratio below its limit.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use keyward_testkit::{target_dir, wiredtiger};
use serde_json::{Value, json};

use crate::step::{Steps, cargo, succeed};

pub(crate) struct Options {
    /// A ratio below its limit is a failure.
    pub(crate) check: bool,
    /// Without WiredTiger's wtperf.
    pub(crate) skip_wtperf: bool,
}

pub(crate) fn run(steps: &mut Steps, options: &Options) {
    match benches() {
        Ok(benches) => {
            for (package, bench) in benches {
                let args = ["bench", "--locked", "--package", &package, "--bench", &bench];
                steps.run(&format!("{package}: {bench}"), || measured(&bench, cargo(&args), options.check));
            }
        }
        Err(error) => drop(steps.run("list of benchmarks", || Err(error))),
    }
    if options.skip_wtperf {
        steps.note("wtperf was left out".to_owned());
        return;
    }
    steps.run("WiredTiger 11.3.1 from its source distribution", || wiredtiger::v11_3_1().map(drop));
    // With the example of the encryptor: wtperf's yardstick.
    let packages = ["--package", "keyward-encryptor", "--package", "keyward-bench"];
    let targets = ["--lib", "--bins", "--examples"];
    let build = [&["build", "--locked", "--release"][..], &packages, &targets].concat();
    if steps.run("release build", || succeed(&mut cargo(&build))) {
        let program = target_dir().join("release/keyward-wtperf");
        steps.run("wtperf", || measured("wtperf", Command::new(&program), options.check));
    }
}

/// Package and name of every benchmark of the workspace.
fn benches() -> Result<Vec<(String, String)>> {
    let output = cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let mut benches = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for target in package["targets"].as_array().into_iter().flatten() {
            if target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "bench"))
                && let (Some(package), Some(bench)) = (package["name"].as_str(), target["name"].as_str())
            {
                benches.push((package.to_owned(), bench.to_owned()));
            }
        }
    }
    Ok(benches)
}

/// Runs one benchmark, echoes what it prints, writes its numbers down.
fn measured(bench: &str, mut command: Command, check: bool) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start it")?;
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().context("its output is a pipe")?).lines() {
        let line = line?;
        println!("   {line}");
        lines.push(line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("it ended with {status}");
    }
    let results = Results::read(lines.iter().map(String::as_str))?;
    let dir = target_dir().join("bench");
    fs::create_dir_all(&dir)?;
    let file = dir.join(format!("{bench}.json"));
    fs::write(&file, serde_json::to_string_pretty(&results.to_json(bench))? + "\n")?;
    println!("   written: {}", file.display());
    let missed = results.missed();
    if check && !missed.is_empty() {
        bail!("below its aim: {}", missed.join(", "));
    }
    Ok(())
}

/// Numbers of one benchmark.
#[derive(Debug, Default, PartialEq)]
struct Results {
    ratios: Vec<(String, f64, f64)>,
    measures: Vec<(String, f64, String)>,
}

impl Results {
    fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut results = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |text: &str| text.parse::<f64>().with_context(|| format!("no number in {line:?}"));
            match words.as_slice() {
                ["ratio", name, value, "at-least", limit] => {
                    results.ratios.push(((*name).to_owned(), number(value)?, number(limit)?));
                }
                ["measure" | "value", name, value, unit @ ..] => {
                    results.measures.push(((*name).to_owned(), number(value)?, unit.join(" ")));
                }
                _ => {}
            }
        }
        Ok(results)
    }

    fn missed(&self) -> Vec<String> {
        let below = self.ratios.iter().filter(|(_, value, limit)| value.is_nan() || value < limit);
        below.map(|(name, value, limit)| format!("{name} {value} (at least {limit})")).collect()
    }

    fn to_json(&self, bench: &str) -> Value {
        let ratios = self
            .ratios
            .iter()
            .map(|(name, value, limit)| json!({ "name": name, "value": value, "atLeast": limit }));
        let measures = self
            .measures
            .iter()
            .map(|(name, value, unit)| json!({ "name": name, "value": value, "unit": unit }));
        json!({ "bench": bench, "ratios": ratios.collect::<Vec<_>>(), "measures": measures.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_below_their_aim_are_told() {
        let lines = [
            "noise",
            "ratio page/seal/4KiB 0.97 at-least 0.95",
            "ratio page/open/4KiB 0.94 at-least 0.95",
            "measure keystore/open 3.2 ms",
            "ratio odd NaN at-least 0",
        ];
        let results = Results::read(lines.into_iter()).unwrap();
        assert_eq!(results.measures, [("keystore/open".to_owned(), 3.2, "ms".to_owned())]);
        assert_eq!(results.missed(), ["page/open/4KiB 0.94 (at least 0.95)", "odd NaN (at least 0)"]);
        assert!(Results::read(["ratio x fast at-least 1"].into_iter()).is_err());
    }
}
