//! `keyward node prove`, for a person: what was searched, so that "nothing found" can be weighed.

use keyward_agent::engine::exposure::How;
use keyward_agent::prove::{Proof, ProofVerdict};
use keyward_model::count::counted;

use super::{GREEN, RED, YELLOW, bytes, styled};

/// Files listed one by one; the rest is counted.
const LISTED: usize = 10;

pub(crate) fn text(proof: &Proof) -> String {
    let verdict = match proof.verdict {
        ProofVerdict::NoPlaintext => styled("✓ no plaintext is on disk", GREEN),
        ProofVerdict::PlaintextFound => styled("✗ plaintext is on disk", RED),
        ProofVerdict::Incomplete => styled("? nothing found, but not everything was searched", YELLOW),
    };
    let mut lines = vec![format!("{verdict}: {}", proof.reason)];
    let mut field = |name: &str, value: String| lines.push(format!("  {name:<14} {value}"));
    field(
        "written",
        format!("{}, {} in all", counted(proof.markers, "marker", "markers"), bytes(proof.written_bytes)),
    );
    field("searched for", proof.forms.join(", "));
    field("searched", format!("{}, {}", counted(proof.files, "file", "files"), bytes(proof.bytes)));
    for (name, blocks, what) in
        [("data files", &proof.blocks, "blocks"), ("journal", &proof.journal, "records")]
    {
        let mut value = format!("{} encrypted {what}", blocks.encrypted);
        if blocks.unencrypted > 0 {
            value.push_str(&styled(&format!(", {} NOT encrypted", blocks.unencrypted), RED));
        }
        field(name, value);
    }
    let mut name = "outside";
    for kept in &proof.kept {
        let how = match kept.how {
            How::Encrypted => styled("encrypted", GREEN),
            How::InMemory => styled("in memory only", GREEN),
            How::EncryptedDevice => styled("on an encrypted device", GREEN),
            How::SwitchedOff => styled("switched off", GREEN),
            How::Readable => styled("readable", YELLOW),
        };
        field(name, format!("{}: {how} ({})", kept.place, kept.holds));
        name = "";
    }
    let mut name = "found";
    let hits: Vec<_> = proof.file_results.iter().filter(|file| !file.hits.is_empty()).collect();
    for file in hits.iter().take(LISTED) {
        let first = file.hits.first().map(|hit| format!("{} at byte {}", hit.encoding, hit.offset));
        let value = format!(
            "{}: {}, first {}",
            file.path.display(),
            counted(file.hits.len(), "time", "times"),
            first.unwrap_or_default()
        );
        field(name, styled(&value, RED));
        name = "";
    }
    if hits.len() > LISTED {
        field("", format!("and in {}", counted(hits.len() - LISTED, "more file", "more files")));
    }
    let mut name = "not searched";
    for skipped in proof.skipped.iter().take(LISTED) {
        field(name, styled(&format!("{}: {}", skipped.path.display(), skipped.why), YELLOW));
        name = "";
    }
    if proof.skipped.len() > LISTED {
        field("", format!("and {} more", proof.skipped.len() - LISTED));
    }
    let mut name = "passed over";
    for passed in proof.passed_over.iter().take(LISTED) {
        field(name, format!("{}: {}", passed.path.display(), passed.why));
        name = "";
    }
    if proof.passed_over.len() > LISTED {
        field("", format!("and {} more (--json lists them)", proof.passed_over.len() - LISTED));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use keyward_agent::engine::exposure::Kept;
    use keyward_agent::prove::{Blocks, FileKind, FileResult, Hit, Skipped};

    use super::*;

    fn proof() -> Proof {
        let blocks = |encrypted| Blocks { encrypted, ..Blocks::default() };
        Proof {
            verdict: ProofVerdict::NoPlaintext,
            reason: "no marker in 26 files, and every block is encrypted".into(),
            markers: 4,
            forms: vec!["UTF-8".into(), "base64".into()],
            written_bytes: 3 << 20,
            files: 26,
            bytes: 13 << 20,
            blocks: blocks(122),
            journal: blocks(40),
            file_results: Vec::new(),
            skipped: Vec::new(),
            passed_over: Vec::new(),
            creation_string: None,
            kept: vec![
                Kept { place: "*.wt".into(), holds: "documents".into(), how: How::Encrypted },
                Kept { place: "engine.log".into(), holds: "messages".into(), how: How::Readable },
            ],
        }
    }

    #[test]
    fn nothing_found() {
        insta::assert_snapshot!(anstream::adapter::strip_str(&text(&proof())).to_string());
    }

    #[test]
    fn something_found() {
        let file = |number: usize| FileResult {
            path: format!("/db/collection-{number}.wt").into(),
            kind: FileKind::Data,
            bytes: 4096,
            hits: vec![Hit { offset: 512, encoding: "UTF-8".into() }],
            blocks: None,
            written_since: true,
        };
        let found = Proof {
            verdict: ProofVerdict::PlaintextFound,
            reason: "12 files hold markers".into(),
            blocks: Blocks { encrypted: 100, unencrypted: 22, ..Blocks::default() },
            file_results: (0..12).map(file).collect(),
            skipped: vec![Skipped { path: "/proc/1/fd/3".into(), why: "permission denied".into() }],
            ..proof()
        };
        insta::assert_snapshot!(anstream::adapter::strip_str(&text(&found)).to_string());
    }
}
