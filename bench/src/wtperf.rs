//! One `wtperf` database: load it, read from it, and what that took.

use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use keyward_testkit::wiredtiger::WiredTiger;
use procfs::process::Process;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

const CACHE: &str = "16MB";
/// How long a database is read from alone, and how long several are in short turns.
const READ_S: u32 = 6;
const READ_IN_TURNS_S: u32 = 9;
/// Long beside what a change of turns costs, short beside what a machine's speed changes in.
const TURN: Duration = Duration::from_millis(100);

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

    fn read(self, seconds: u32) -> String {
        format!("create=false,{},run_time={seconds},threads=((count=4,reads=1))", self.options())
    }
}

/// What one load took.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) operations_per_s: f64,
    /// Without what the process takes to open and close the database.
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

    /// Fills this database, which is empty, with the table of `load`. `opening_cpu_s` as [`Run::opening_cpu_s`] found it.
    pub(crate) fn fill(&self, load: Load, opening_cpu_s: f64) -> Result<Outcome> {
        self.start_filling(load)?.outcome(opening_cpu_s)
    }

    /// Begins what `fill` does, beside others.
    pub(crate) fn start_filling(&self, load: Load) -> Result<Running<'_>> {
        self.start(Load::Insert, load.table(), &load.table().fill())
    }

    /// Reads from this database, which `fill` filled for the same load.
    pub(crate) fn read(&self, opening_cpu_s: f64) -> Result<Outcome> {
        self.start_reading(READ_S)?.outcome(opening_cpu_s)
    }

    /// Begins what `read` does, for [`take_turns`].
    pub(crate) fn start_reading_in_turns(&self) -> Result<Running<'_>> {
        self.start_reading(READ_IN_TURNS_S)
    }

    fn start_reading(&self, seconds: u32) -> Result<Running<'_>> {
        self.start(Load::Read, Load::Read.table(), &Load::Read.table().read(seconds))
    }

    /// Opens this database, which `fill` filled to be read from, and closes it: the processor time of that.
    pub(crate) fn opening_cpu_s(&self) -> Result<f64> {
        Ok(self.start_reading(0)?.end()?.0)
    }

    fn start(&self, load: Load, table: Table, options: &str) -> Result<Running<'_>> {
        let program = self.wiredtiger.wtperf.as_ref().context("this WiredTiger has no wtperf")?;
        let connection = format!("conn_config=\"cache_size={CACHE},eviction=(threads_max=4)\"");
        let pages = "table_config=\"type=file,leaf_page_max=32k,internal_page_max=16k,allocation_size=4k\"";
        let mut command = Command::new(program);
        command.arg("-h").arg(self.home.path());
        command.args(["-o", &connection, "-o", pages, "-o", options]);
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
    /// Waits for its end. Opening and closing a database of this variant takes `opening_cpu_s`, which counts as no
    /// operation's.
    pub(crate) fn outcome(mut self, opening_cpu_s: f64) -> Result<Outcome> {
        let (cpu_s, report) = self.end()?;
        let (operations, operations_per_s) = operations(self.load, self.table, &report)?;
        if self.load == Load::Insert && !self.run.config.is_empty() && !self.run.is_encrypted()? {
            bail!("the table is not encrypted: the encryptor was not loaded");
        }
        Ok(Outcome { operations_per_s, cpu_us_per_operation: (cpu_s - opening_cpu_s) * 1e6 / operations })
    }

    /// Its processor time and its report, once it has ended.
    fn end(&mut self) -> Result<(f64, String)> {
        let cpu_s = cpu_s_at_exit(&self.child)?;
        let status = self.child.wait().context("cannot wait for wtperf")?;
        if !status.success() {
            let said = self.child.stderr.take().map(io::read_to_string).transpose()?.unwrap_or_default();
            bail!("wtperf ended with {status}: {said}");
        }
        let report = fs::read_to_string(self.run.home.path().join("test.stat"));
        Ok((cpu_s, report.context("wtperf wrote no test.stat")?))
    }
}

/// Lets those at work run one at a time, in short turns, until all have ended: each sees the same machine as the others,
/// and none takes the caches from another.
pub(crate) fn take_turns(running: &[Running<'_>]) -> Result<()> {
    let mut at_work: Vec<Pid> =
        running.iter().map(|running| pid_of(&running.child)).collect::<Result<_>>()?;
    let signal = |pid: Pid, signal| kill_process(pid, signal).context("cannot signal wtperf");
    at_work.iter().try_for_each(|pid| signal(*pid, Signal::STOP))?;
    while !at_work.is_empty() {
        for pid in &at_work {
            signal(*pid, Signal::CONT)?;
            thread::sleep(TURN);
            signal(*pid, Signal::STOP)?;
        }
        let mut left = Vec::new();
        for pid in at_work {
            let exit = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            if waitid(WaitId::Pid(pid), exit).context("cannot look at wtperf")?.is_none() {
                left.push(pid);
            }
        }
        at_work = left;
    }
    Ok(())
}

fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process id")
}

/// User and system time that `child` took until it ended, which this waits for. It is left to be reaped.
fn cpu_s_at_exit(child: &Child) -> Result<f64> {
    let pid = pid_of(child)?;
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        .context("cannot wait for wtperf")?;
    let stat = Process::new(pid.as_raw_nonzero().get())?.stat()?;
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
