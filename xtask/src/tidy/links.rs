//! Links between documents lead somewhere.

use super::Finding;

/// Findings in one Markdown file: relative links whose file, or whose heading in a Markdown file, does not exist.
pub(super) fn check<'a>(
    file: &str,
    text: &str,
    exists: impl Fn(&str) -> bool,
    read: impl Fn(&str) -> Option<&'a str>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in prose_lines(text) {
        for target in link_targets(line) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let full = if path.is_empty() { file.to_owned() } else { resolved(file, path) };
            let mut found =
                |what: String| findings.push(Finding { file: file.to_owned(), line: index + 1, what });
            if !exists(&full) {
                found(format!("the link to {target} leads nowhere"));
            } else if !heading.is_empty()
                && let Some(other) = if full == file { Some(text) } else { read(&full) }
                && !headings(other).any(|anchor| anchor == heading)
            {
                found(format!("{full} has no heading #{heading}"));
            }
        }
    }
    findings
}

/// Lines outside fenced code, with their index.
fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return false;
        }
        !fenced
    })
}

fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, opening)| {
        let rest = &line[at + opening.len()..];
        rest.split_once(')').map(|(target, _)| target.split_whitespace().next().unwrap_or(""))
    })
}

/// `path` as seen from `file`, without `.` and `..`.
fn resolved(file: &str, path: &str) -> String {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Anchors as code hosts make them: lower case, spaces to hyphens, punctuation gone.
fn headings(text: &str) -> impl Iterator<Item = String> {
    prose_lines(text).filter(|(_, line)| line.starts_with('#')).map(|(_, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let exists = |path: &str| ["docs/a.md", "docs/b.md", "README.md"].contains(&path);
        let read = |path: &str| (path == "docs/b.md").then_some("# Why not LUKS?\n");
        check("docs/a.md", text, exists, read).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        assert!(found("# Top\n[b](b.md) [up](../README.md) [here](#top) [h](b.md#why-not-luks)").is_empty());
        assert!(found("[out](https://example.com/x)\n```\n[code](gone.md)\n```").is_empty());
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        assert_eq!(found("[c](c.md) and [h](b.md#gone) and [here](#gone)").len(), 3);
    }
}
