//! Values as text for a person: marks, ages, sizes, tables, a node's status.

pub(crate) mod proof;

use anstyle::{AnsiColor, Style};
use keyward_agent::preflight::{Level, Report};
use keyward_model::{Evidence, NodeState, NodeStatus, Timestamp, Verdict, count::counted};
use unicode_width::UnicodeWidthStr;

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GREEN: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
pub(crate) const YELLOW: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
pub(crate) const RED: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));

pub(crate) const CYAN_BOLD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan))).bold();

/// `text` in `style`.
pub(crate) fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// How good or bad something is, by colour.
pub(crate) fn state_style(state: NodeState) -> Style {
    match state {
        NodeState::Running => GREEN,
        NodeState::Starting | NodeState::WaitingForCustomerKey => YELLOW,
        NodeState::StoppedRevoked | NodeState::Failed => RED,
        NodeState::Stopped => DIM,
    }
}

fn verdict_style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Valid => GREEN,
        Verdict::Unavailable => YELLOW,
        Verdict::Revoked => RED,
    }
}

/// `verdict` in one word.
pub(crate) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "Valid",
        Verdict::Unavailable => "Unavailable",
        Verdict::Revoked => "Revoked",
    }
}

/// How long ago, in its largest unit: `7 s`, `3 min`, `2 h`, `40 d`.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    let s = now.epoch_ms().saturating_sub(then.epoch_ms()).max(0) / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..172_800 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86_400),
    }
}

/// Bytes in the largest fitting unit: `512 B`, `1.5 KiB`, `3.0 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 node`, `3 nodes`.
pub(crate) fn nodes(count: usize) -> String {
    counted(count, "node", "nodes")
}

/// The first 8 characters of an id: enough to tell two apart on a screen.
pub(crate) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// One probe in one line.
pub(crate) fn evidence(evidence: &Evidence) -> String {
    let codes = [evidence.code.as_deref(), evidence.inner_code.as_deref()];
    let codes: Vec<&str> = codes.into_iter().flatten().collect();
    let answer = [evidence.http_status.map(|status| status.to_string()).unwrap_or_default(), codes.join("/")];
    let age = evidence.token_age_s.map(|s| format!("token {s} s old")).unwrap_or_default();
    with_facts(evidence, &[answer.join(" ").trim(), &age])
}

/// The same, for a narrow screen: only the innermost code.
pub(crate) fn evidence_short(evidence: &Evidence) -> String {
    let code = evidence.inner_code.as_deref().or(evidence.code.as_deref()).unwrap_or_default();
    let status = evidence.http_status.map(|status| status.to_string()).unwrap_or_default();
    with_facts(evidence, &[format!("{status} {code}").trim()])
}

fn with_facts(evidence: &Evidence, facts: &[&str]) -> String {
    let facts: Vec<&str> = facts.iter().copied().filter(|fact| !fact.is_empty()).collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    format!("{}{facts}", evidence.class.text())
}

/// `HH:MM:SS` in UTC.
pub(crate) fn clock(at: Timestamp) -> String {
    at.0.strftime("%H:%M:%S").to_string()
}

/// Rows in columns, two spaces apart, the first row in bold.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|row| row.get(c)).map(|cell| width(cell)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            // A row stays a row whatever its cells hold.
            .map(|(cell, wide)| {
                format!("{}{}", cell.replace('\n', " "), " ".repeat(wide.saturating_sub(width(cell))))
            })
            .collect();
        let line = line.join("  ");
        let style = if index == 0 { BOLD } else { Style::new() };
        text.push_str(&styled(line.trim_end(), style));
        text.push('\n');
    }
    text
}

/// How many columns of a terminal `text` takes; colours take none, wide characters two.
pub(crate) fn width(text: &str) -> usize {
    let plain = anstream::adapter::strip_str(text).to_string();
    // A line break is shown as a space.
    plain.replace('\n', " ").width()
}

/// `text` without anything that could steer a terminal but line breaks, tabs and colours: names, reasons and
/// comments come from other hosts and other people.
pub(crate) fn harmless(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match colour(rest) {
            Some(sequence) => {
                kept.push_str(sequence);
                rest = &rest[sequence.len()..];
                continue;
            }
            None if steers(c) => kept.push('\u{fffd}'),
            None => kept.push(c),
        }
        rest = after;
    }
    kept
}

/// The sequence that sets a colour, where `text` begins with one.
fn colour(text: &str) -> Option<&str> {
    let numbers = text.strip_prefix("\x1b[")?;
    let end = numbers.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    numbers[end..].starts_with('m').then(|| &text[.."\x1b[".len() + end + 1])
}

fn steers(c: char) -> bool {
    // Beside control characters, those that turn the direction of writing.
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `keyward node status`, for a person.
pub(crate) fn status(status: &NodeStatus, now: Timestamp) -> String {
    let mut lines = Vec::new();
    let style = state_style(status.state);
    lines.push(format!(
        "{} {} since {} UTC ({})",
        styled(&status.node, BOLD),
        styled(&format!("● {}", status.state), style),
        clock(status.since),
        age(status.since, now)
    ));
    let mut field = |name: &str, value: String| lines.push(format!("  {name:<14} {value}"));
    field("reason", status.reason.clone());
    field("verdict", styled(verdict_word(status.verdict), verdict_style(status.verdict)));
    match &status.customer_key {
        Some(key) => {
            field("customer key", key.key_identifier.to_string());
            field("", format!("public key SHA-256 {}", key.public_key_sha256));
        }
        None => field("customer key", "none yet".into()),
    }
    match &status.master_key {
        Some(key) => field(
            "master key",
            format!(
                "{}, made {} ago, {}",
                key.id,
                age(key.created_at, now),
                if status.master_key_held { "held in memory" } else { "not in memory" }
            ),
        ),
        None => field("master key", "none yet".into()),
    }
    if !status.memory_locked {
        field("memory", styled("not locked", YELLOW));
    }
    let mut name = "database keys";
    for key in &status.database_keys {
        field(name, format!("{}  {}, made {} ago", key.id, key.database, age(key.created_at, now)));
        name = "";
    }
    field(name, format!("and {} spare", status.spare_database_keys));
    field(
        "engine",
        match &status.engine {
            Some(engine) => format!("{} {}, process {}", engine.kind, engine.version, engine.pid),
            None => "not running".into(),
        },
    );
    if let Some(link) = &status.link {
        let answered = match (&link.problem, link.last_contact) {
            (Some(problem), _) => styled(problem, YELLOW),
            (None, Some(at)) => format!("answered {} ago", age(at, now)),
            (None, None) => "not heard of yet".to_owned(),
        };
        field("server", format!("{}, {answered}", link.server));
        let (wanted, done) = (link.accepted_revision, link.done_revision);
        if wanted != done {
            field("", format!("wants revision {wanted}, revision {done} is done"));
        }
        if let Some(progress) = &link.progress {
            field("", progress.clone());
        }
        for held in &link.held_back {
            let word = if held.needs_approval { "held back" } else { "not done" };
            field("", styled(&format!("{word}: {}: {} ({})", held.what, held.reason, held.hint), YELLOW));
        }
    }
    let mut name = "last probes";
    for probe in status.evidence.iter().take(5) {
        field(name, format!("{}  {}", clock(probe.at), evidence(probe)));
        name = "";
    }
    let mut name = "warnings";
    for warning in &status.warnings {
        field(name, styled(warning, YELLOW));
        name = "";
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A result as `name  value` lines, for a person: lists become counts or one line per item.
pub(crate) fn fields(value: &serde_json::Value) -> String {
    use serde_json::Value;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<24} {value}\n"));
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = words(name);
                match value {
                    Value::Null => {}
                    Value::Array(items) if items.is_empty() => line(&name, "none"),
                    Value::Array(items) => {
                        let mut name = name.as_str();
                        for item in items {
                            line(name, &inline(item));
                            name = "";
                        }
                    }
                    Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                        line(&name, &inline(value));
                    }
                }
            }
        }
        Value::Null => text.push_str("done\n"),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            text.push_str(&inline(value));
            text.push('\n');
        }
    }
    text
}

/// `keyward node preflight`, for a person.
pub(crate) fn preflight(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let (mark, style) = match check.level {
            Level::Ok => ("✓", GREEN),
            Level::Warn => ("!", YELLOW),
            Level::Refuse => ("✗", RED),
        };
        let name = serde_json::to_value(check.name).map(|name| words(name.as_str().unwrap_or_default()));
        text.push_str(&format!("{} {:<14} {}\n", styled(mark, style), name.unwrap_or_default(), check.text));
        if !check.hint.is_empty() {
            text.push_str(&format!("{:17}{}\n", "", styled(&check.hint, DIM)));
        }
    }
    text
}

/// `keyIdentifier` as `key identifier`.
fn words(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

fn inline(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null => "–".into(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().map(inline).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{} {}", words(name), inline(value)))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Node statuses for tests of screens.

    use keyward_model::status::{CustomerKeyStatus, DatabaseKeyStatus, EngineStatus, MasterKeyStatus};
    use keyward_model::{Class, Evidence, KeyIdentifier, NodeState, NodeStatus, Timestamp, Verdict};

    pub(crate) const NOW_MS: i64 = 1_795_540_000_000;

    pub(crate) fn key_identifier() -> KeyIdentifier {
        "https://localhost:40123/keys/customer-key/0123456789abcdef0123456789abcdef".parse().unwrap()
    }

    pub(crate) fn probe(class: Class, status: Option<u16>, codes: [Option<&str>; 2], ago_s: i64) -> Evidence {
        Evidence {
            at: Timestamp::from_epoch_ms(NOW_MS - ago_s * 1000),
            class,
            key_identifier: key_identifier(),
            http_status: status,
            code: codes[0].map(str::to_owned),
            inner_code: codes[1].map(str::to_owned),
            region: None,
            request_id: None,
            token_age_s: Some(12),
            host: None,
            message: None,
        }
    }

    pub(crate) fn running(node: &str) -> NodeStatus {
        NodeStatus {
            node: node.into(),
            state: NodeState::Running,
            verdict: Verdict::Valid,
            reason: "the engine runs".into(),
            evidence: vec![probe(Class::Success, Some(200), [None, None], 1)],
            customer_key: Some(CustomerKeyStatus {
                key_identifier: key_identifier(),
                public_key_sha256: "ab".repeat(32),
            }),
            master_key: Some(MasterKeyStatus {
                id: "3fa2c1d0aa0b4c7d9e8f001122334455".into(),
                created_at: Timestamp::from_epoch_ms(NOW_MS - 130_000),
            }),
            master_key_held: true,
            memory_locked: true,
            database_keys: vec![DatabaseKeyStatus {
                id: "0a1b2c3d4e5f60718293a4b5c6d7e8f9".into(),
                database: ".system".into(),
                created_at: Timestamp::from_epoch_ms(NOW_MS - 130_000),
            }],
            spare_database_keys: 64,
            engine: Some(EngineStatus { kind: "secantusdb".into(), version: "0.7.0b3".into(), pid: 4711 }),
            since: Timestamp::from_epoch_ms(NOW_MS - 125_000),
            warnings: Vec::new(),
            link: None,
        }
    }

    pub(crate) fn revoked(node: &str) -> NodeStatus {
        NodeStatus {
            state: NodeState::StoppedRevoked,
            verdict: Verdict::Revoked,
            reason: "the customer key is disabled".into(),
            evidence: vec![probe(Class::KeyDisabled, Some(403), [Some("Forbidden"), Some("KeyDisabled")], 0)],
            master_key_held: false,
            engine: None,
            since: Timestamp::from_epoch_ms(NOW_MS - 4_000),
            ..running(node)
        }
    }

    pub(crate) fn outage(node: &str) -> NodeStatus {
        NodeStatus {
            verdict: Verdict::Unavailable,
            reason: "the engine runs".into(),
            evidence: vec![probe(Class::ConnectionFailed, None, [None, None], 0)],
            warnings: vec!["the vault has not answered for 42 s".into()],
            ..running(node)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{NOW_MS, outage, revoked, running};
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn now() -> Timestamp {
        Timestamp::from_epoch_ms(NOW_MS)
    }

    #[test]
    fn ages_and_sizes() {
        let ago = |s: i64| age(Timestamp::from_epoch_ms(NOW_MS - s * 1000), now());
        assert_eq!(
            [ago(-5), ago(59), ago(61), ago(7_200), ago(172_800)],
            ["0 s", "59 s", "1 min", "2 h", "2 d"]
        );
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(3 << 20)],
            ["0 B", "1023 B", "1.5 KiB", "3.0 MiB"]
        );
    }

    #[test]
    fn columns_stay_columns_whatever_is_in_them() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let told = table(&[
            row(["NODE", "COMMENT", "AGE"]),
            row(["データベース", "a\nb", "1 s"]),
            row(["n\u{e9}", &styled("red", RED), "2 s"]),
            row(["", "", ""]),
        ]);
        assert_eq!(
            plain(&told),
            "NODE          COMMENT  AGE\nデータベース  a b      1 s\nn\u{e9}            red      2 s\n\n"
        );
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        let ours = styled("red", RED);
        assert_eq!(harmless(&format!("{ours}\n\tta\u{df}")), format!("{ours}\n\tta\u{df}"));
        for (evil, shown) in [
            ("\x1b]0;title\x07", "\u{fffd}]0;title\u{fffd}"),
            ("\x1b[2J", "\u{fffd}[2J"),
            ("\x1b[31", "\u{fffd}[31"),
            ("gone\rnew", "gone\u{fffd}new"),
            ("\u{9b}31m\u{202e}", "\u{fffd}31m\u{fffd}"),
        ] {
            assert_eq!(harmless(evil), shown, "{evil:?}");
        }
    }

    #[test]
    fn a_preflight() {
        let report: Report = serde_json::from_value(serde_json::json!({ "level": "refuse", "checks": [
            { "name": "engine", "level": "ok", "text": "mongod 7.0.14, Community", "hint": "" },
            { "name": "memoryLock", "level": "warn", "text": "64 KiB may be locked", "hint": "raise LimitMEMLOCK" },
            { "name": "swap", "level": "refuse", "text": "swap is on", "hint": "swapoff -a" },
        ]}))
        .unwrap();
        insta::assert_snapshot!(plain(&preflight(&report)));
    }

    #[test]
    fn results_as_fields() {
        let value = serde_json::json!({
            "keyIdentifier": "https://v/keys/k/1", "generation": 7, "held": true, "nothing": null,
            "files": [{ "name": "a.wt", "bytes": 3 }, { "name": "b.wt", "bytes": 4 }], "troubles": [],
        });
        insta::assert_snapshot!(fields(&value));
    }

    #[test]
    fn status_of_a_running_node() {
        insta::assert_snapshot!(plain(&status(&running("node-0"), now())));
    }

    #[test]
    fn status_of_a_revoked_node() {
        insta::assert_snapshot!(plain(&status(&revoked("node-0"), now())));
    }

    #[test]
    fn status_during_an_outage() {
        insta::assert_snapshot!(plain(&status(&outage("node-0"), now())));
    }
}
