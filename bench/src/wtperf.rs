//! One `wtperf` database: load it, read from it, and what that took.

use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use keyward_testkit::wiredtiger::WiredTiger;
use procfs::process::Process;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tempfile::TempDir;

const CACHE: &str = "16MB";
const READ_S: u32 = 6;

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

    /// Fills this database, which is empty, with the table of `load`.
    pub(crate) fn fill(&self, load: Load) -> Result<Outcome> {
        self.start(Load::Insert, load.table())?.outcome()
    }

    /// Reads from this database, which `fill` filled for the same load.
    pub(crate) fn read(&self) -> Result<Outcome> {
        self.start_reading()?.outcome()
    }

    /// Begins what `read` does, beside others.
    pub(crate) fn start_reading(&self) -> Result<Running<'_>> {
        self.start(Load::Read, Load::Read.table())
    }

    fn start(&self, load: Load, table: Table) -> Result<Running<'_>> {
        let program = self.wiredtiger.wtperf.as_ref().context("this WiredTiger has no wtperf")?;
        let connection = format!("conn_config=\"cache_size={CACHE},eviction=(threads_max=4)\"");
        let options = match load {
            Load::Insert => table.fill(),
            Load::Read => table.read(),
        };
        let pages = "table_config=\"type=file,leaf_page_max=32k,internal_page_max=16k,allocation_size=4k\"";
        let mut command = Command::new(program);
        command.arg("-h").arg(self.home.path());
        command.args(["-o", &connection, "-o", pages, "-o", &options]);
        command.env_remove("WIREDTIGER_CONFIG").stdin(Stdio::null());
        // A few lines, which the pipe holds until they are read.
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        if !self.config.is_empty() {
            command.env("WIREDTIGER_CONFIG", self.config);
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Running { run: self, load, table, child })
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

/// A `wtperf` at work.
pub(crate) struct Running<'a> {
    run: &'a Run<'a>,
    load: Load,
    table: Table,
    child: Child,
}

impl Drop for Running<'_> {
    /// Where another of those at work has failed.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running<'_> {
    /// Waits for its end.
    pub(crate) fn outcome(mut self) -> Result<Outcome> {
        let cpu_s = cpu_s_at_exit(&self.child)?;
        let status = self.child.wait().context("cannot wait for wtperf")?;
        if !status.success() {
            let said = self.child.stderr.take().map(io::read_to_string).transpose()?.unwrap_or_default();
            bail!("wtperf ended with {status}: {said}");
        }
        let report = fs::read_to_string(self.run.home.path().join("test.stat"))
            .context("wtperf wrote no test.stat")?;
        let (operations, operations_per_s) = operations(self.load, self.table, &report)?;
        if self.load == Load::Insert && !self.run.config.is_empty() && !self.run.is_encrypted()? {
            bail!("the table is not encrypted: the encryptor was not loaded");
        }
        Ok(Outcome { operations_per_s, cpu_us_per_operation: cpu_s * 1e6 / operations })
    }
}

/// User and system time that `child` took until it ended, which this waits for. It is left to be reaped.
fn cpu_s_at_exit(child: &Child) -> Result<f64> {
    let id = i32::try_from(child.id()).context("no process id")?;
    let pid = Pid::from_raw(id).context("no process id")?;
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        .context("cannot wait for wtperf")?;
    let stat = Process::new(id)?.stat()?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
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
}
