//! One `wtperf` database: load it, read from it, and what that took.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use keyward_testkit::wiredtiger::WiredTiger;
use procfs::process::Process;
use serde_json::Value;
use tempfile::TempDir;

const CACHE: &str = "16MB";
const READ_S: u32 = 20;

#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Load {
    Insert,
    Read,
}

impl Load {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Read => "read",
        }
    }

    /// What the table of this load holds, far more than the cache. Reads: values of a small document's size. Inserts:
    /// values of a large one's, so that an insert costs the cipher more than what WiredTiger needs around it varies by.
    fn table(self) -> Table {
        match self {
            Self::Insert => Table { items: 100_000, value_bytes: 8_000 },
            Self::Read => Table { items: 300_000, value_bytes: 1_000 },
        }
    }
}

/// What a table is filled with.
#[derive(Copy, Clone)]
struct Table {
    items: u32,
    value_bytes: u32,
}

impl Table {
    fn options(self) -> String {
        format!("icount={},value_sz={},random_value=true", self.items, self.value_bytes)
    }

    fn fill(self) -> String {
        format!("create=true,{},populate_threads=2,run_time=0", self.options())
    }

    fn read(self) -> String {
        format!("create=false,{},run_time={READ_S},threads=((count=4,reads=1))", self.options())
    }
}

/// What one load took.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) operations_per_s: f64,
    pub(crate) cpu_us_per_operation: f64,
    pub(crate) bytes_read_per_operation: f64,
    pub(crate) bytes_written_per_operation: f64,
}

impl Outcome {
    /// The round that took least processor time: what else runs on a machine only ever adds.
    pub(crate) fn best(rounds: &[Self]) -> Option<Self> {
        rounds.iter().copied().min_by(|a, b| a.cpu_us_per_operation.total_cmp(&b.cpu_us_per_operation))
    }
}

/// A database folder of its own, encrypted as `config` says.
pub(crate) struct Run<'a> {
    wiredtiger: &'a WiredTiger,
    config: &'a str,
    home: TempDir,
}

impl<'a> Run<'a> {
    pub(crate) fn new(wiredtiger: &'a WiredTiger, config: &'a str) -> Result<Self> {
        let home =
            tempfile::Builder::new().prefix("keyward-wtperf-").tempdir_in(keyward_testkit::target_dir())?;
        Ok(Self { wiredtiger, config, home })
    }

    /// Runs `load` on this database, which is empty, and measures it.
    pub(crate) fn load(&self, load: Load) -> Result<Outcome> {
        let table = load.table();
        if load == Load::Read {
            self.run(Load::Insert, table)?;
        }
        self.run(load, table)
    }

    fn run(&self, load: Load, table: Table) -> Result<Outcome> {
        let program = self.wiredtiger.wtperf.as_ref().context("this WiredTiger has no wtperf")?;
        // Every command opens another statistics file; only this one's is wanted.
        for file in self.statistics_files()? {
            fs::remove_file(file)?;
        }
        let connection = format!(
            "conn_config=\"cache_size={CACHE},eviction=(threads_max=4),statistics=(fast),\
             statistics_log=(json=true,on_close=true,wait=0)\""
        );
        let options = match load {
            Load::Insert => table.fill(),
            Load::Read => table.read(),
        };
        let pages = "table_config=\"type=file,leaf_page_max=32k,internal_page_max=16k,allocation_size=4k\"";
        let mut command = Command::new(program);
        command.arg("-h").arg(self.home.path());
        command.args(["-o", &connection, "-o", pages, "-o", &options]);
        command.env_remove("WIREDTIGER_CONFIG").stdin(Stdio::null());
        if !self.config.is_empty() {
            command.env("WIREDTIGER_CONFIG", self.config);
        }
        let before = children_cpu_s()?;
        let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
        let cpu_s = children_cpu_s()? - before;
        if !output.status.success() {
            bail!("wtperf ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let report =
            fs::read_to_string(self.home.path().join("test.stat")).context("wtperf wrote no test.stat")?;
        let (operations, operations_per_s) = operations(load, table, &report)?;
        let (read, written) = self.bytes_moved()?;
        if !self.config.is_empty() && !self.is_encrypted()? {
            bail!("the table is not encrypted: the encryptor was not loaded");
        }
        Ok(Outcome {
            operations_per_s,
            cpu_us_per_operation: cpu_s * 1e6 / operations,
            bytes_read_per_operation: read / operations,
            bytes_written_per_operation: written / operations,
        })
    }

    /// Bytes that went through the block manager, from the statistics written at close.
    fn bytes_moved(&self) -> Result<(f64, f64)> {
        let file = self.statistics_files()?.pop().context("WiredTiger wrote no statistics")?;
        let text = fs::read_to_string(&file)?;
        let last = text
            .lines()
            .rfind(|line| line.contains("block-manager"))
            .context("no statistics of the blocks")?;
        let statistics: Value = serde_json::from_str(last).context("WiredTiger's statistics are no JSON")?;
        let blocks = &statistics["wiredTiger"]["block-manager"];
        let of = |name: &str| blocks[name].as_f64().with_context(|| format!("no statistic {name:?}"));
        Ok((of("bytes read")?, of("bytes written")?))
    }

    fn statistics_files(&self) -> Result<Vec<std::path::PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.home.path())? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("WiredTigerStat")) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Flag 0x08 of the page header, in most blocks of the table.
    fn is_encrypted(&self) -> Result<bool> {
        let table = fs::read(self.home.path().join("test.wt"))?;
        let blocks = table.chunks_exact(4096).skip(1).filter(|block| matches!(block[24], 5..=7));
        let (encrypted, all) =
            blocks.fold((0, 0), |(yes, all), block| (yes + usize::from(block[25] & 8 != 0), all + 1));
        Ok(encrypted * 2 > all)
    }
}

/// User and system time of the children waited for so far, in seconds.
fn children_cpu_s() -> Result<f64> {
    let stat = Process::myself()?.stat()?;
    Ok((stat.cutime + stat.cstime) as f64 / procfs::ticks_per_second() as f64)
}

/// How many operations, and how many a second, `test.stat` says there were.
fn operations(load: Load, table: Table, report: &str) -> Result<(f64, f64)> {
    let number = |text: &str| {
        text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|part| part.parse().ok())
    };
    let after = |label: &str| {
        let line = report.lines().find(|line| line.contains(label));
        line.and_then(|line| line.split_once(label)).and_then(|(_, rest)| number(rest))
    };
    let found: Option<(f64, f64)> = match load {
        Load::Insert => after("load ops/sec:").map(|per_s| (f64::from(table.items), per_s)),
        Load::Read => report
            .lines()
            .find(|line| line.contains("read operations"))
            .and_then(|line| Some((number(line)?, number(line.split_once(") ")?.1)?))),
    };
    found.with_context(|| format!("test.stat has no result of the {} load:\n{report}", load.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_report() {
        let inserts = "Load time: 4.20\nload ops/sec: 476190\n";
        let table = Table { items: 2_000_000, value_bytes: 1_000 };
        assert_eq!(operations(Load::Insert, table, inserts).unwrap(), (2_000_000.0, 476_190.0));
        let reads = "Executed 123456 read operations (100%) 6172 ops/sec\nExecuted 0 insert operations (0%) 0 ops/sec\n";
        assert_eq!(operations(Load::Read, table, reads).unwrap(), (123_456.0, 6172.0));
        assert!(operations(Load::Read, table, "nothing").is_err());
    }

    #[test]
    fn the_best_round_took_least_processor_time() {
        let round = |cpu_us_per_operation| Outcome {
            operations_per_s: 1.0,
            cpu_us_per_operation,
            bytes_read_per_operation: 0.0,
            bytes_written_per_operation: 0.0,
        };
        let best = Outcome::best(&[round(9.0), round(1.0), round(5.0)]);
        assert_eq!(best.map(|best| best.cpu_us_per_operation), Some(1.0));
        assert_eq!(Outcome::best(&[]), None);
    }
}
