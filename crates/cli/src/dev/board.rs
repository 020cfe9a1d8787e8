//! The live board: a [`View`] and recent events on a terminal of 80 × 24 or more. Draws, and decides nothing.

use keyward_model::{NodeState, NodeStatus, Verdict};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Paragraph};

use super::view::{Event, KeyState, NodeView, View};
use crate::render::{age, clock, evidence_short, nodes, short, verdict_word};

/// What a key on the keyboard asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    TakeKeyAway,
    GiveKeyBack,
    Outage,
    RotateMasterKeys,
    NewKeyVersion,
    Quit,
}

/// Keys, what they ask for, and how the last line names them: in full, and where there is little room.
pub(crate) const KEYS: [(char, Action, &str, &str); 6] = [
    ('t', Action::TakeKeyAway, "take key away", "off"),
    ('g', Action::GiveKeyBack, "give back", "on"),
    ('o', Action::Outage, "outage 30s", "down"),
    ('r', Action::RotateMasterKeys, "rotate", "rotate"),
    ('n', Action::NewKeyVersion, "new key version", "new"),
    ('q', Action::Quit, "quit", "quit"),
];

/// How the board looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Theme {
    colours: bool,
}

impl Theme {
    /// Without colours where `NO_COLOR` is set.
    pub(crate) fn from_environment() -> Self {
        Self { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn good(self) -> Style {
        self.colour(Color::Green)
    }

    fn odd(self) -> Style {
        self.colour(Color::Yellow)
    }

    fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn quiet(self) -> Style {
        if self.colours { Style::new().fg(Color::DarkGray) } else { Style::new().add_modifier(Modifier::DIM) }
    }

    fn accent(self) -> Style {
        self.colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    fn state(self, state: NodeState) -> Style {
        match state {
            NodeState::Running => self.good(),
            NodeState::Starting | NodeState::WaitingForCustomerKey => self.odd(),
            NodeState::StoppedRevoked | NodeState::Failed => self.bad(),
            NodeState::Stopped => self.quiet(),
        }
    }

    fn verdict(self, verdict: Verdict) -> Style {
        match verdict {
            Verdict::Valid => self.good(),
            Verdict::Unavailable => self.odd(),
            Verdict::Revoked => self.bad(),
        }
    }

    /// The same colour as on the command line.
    fn of(self, style: anstyle::Style) -> Style {
        match style {
            crate::render::GREEN => self.good(),
            crate::render::YELLOW => self.odd(),
            crate::render::RED => self.bad(),
            _ => self.quiet(),
        }
    }
}

/// Draws everything; `events` newest last.
pub(crate) fn draw(frame: &mut Frame<'_>, view: &View, events: &[Event], theme: Theme) {
    const TOP: u16 = 6;
    const LEAST_EVENTS: u16 = 4;
    let area = frame.area();
    let count = u16::try_from(view.nodes.len()).unwrap_or(u16::MAX).max(1);
    // Three lines per node where they fit, else two, else one.
    let room = area.height.saturating_sub(TOP + LEAST_EVENTS + 1 + 3);
    let per_node = (room / count).clamp(1, 3);
    let [top, nodes, log, keys] = Layout::vertical([
        Constraint::Length(TOP),
        Constraint::Length(count.saturating_mul(per_node).saturating_add(3)),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_vault(frame, top, view, theme);
    draw_nodes(frame, nodes, view, usize::from(per_node), theme);
    draw_events(frame, log, events, theme);
    draw_keys(frame, keys, theme);
}

fn block<'a>(title: impl Into<Line<'a>>, theme: Theme) -> Block<'a> {
    Block::bordered().border_type(BorderType::Rounded).border_style(theme.quiet()).title(title)
}

fn draw_vault(frame: &mut Frame<'_>, area: Rect, view: &View, theme: Theme) {
    let up = age(view.started_at, view.now);
    let block = block(Line::from(vec![" keyward dev ".into()]).style(theme.accent()), theme)
        .title(Line::from(format!(" up {up} · {} UTC ", clock(view.now))).right_aligned());
    let (dot, word) = match (view.vault.up, view.vault.faults.as_slice()) {
        (false, _) => (theme.odd(), "no answer".to_owned()),
        (true, []) => (theme.good(), "up".to_owned()),
        (true, faults) => (theme.odd(), format!("fault: {}", faults.join(", "))),
    };
    let vault = row("vault", dot, &word, view.vault.url.clone(), theme);
    let key = row(
        "customer key",
        match view.key.state {
            KeyState::Enabled => theme.good(),
            KeyState::Disabled | KeyState::Deleted => theme.bad(),
            KeyState::Unknown => theme.odd(),
        },
        view.key.state.word(),
        format!("{} {}", view.key.name, view.key.version),
        theme,
    );
    let server = row(
        "server",
        match (view.server.up, view.server.alerts.as_slice()) {
            (true, []) => theme.good(),
            (true, [_, ..]) => theme.bad(),
            (false, _) => theme.odd(),
        },
        match (view.server.up, view.server.alerts.len()) {
            (false, _) => "no answer".to_owned(),
            (true, 0) => "up".to_owned(),
            (true, 1) => "1 alert".to_owned(),
            (true, count) => format!("{count} alerts"),
        }
        .as_str(),
        match &view.server.cluster {
            Some(state) => {
                format!("{} · {} {state}", view.server.url.trim_end_matches('/'), super::server::CLUSTER)
            }
            None => view.server.url.clone(),
        },
        theme,
    );
    let windows = view.windows;
    let probes = Line::from(vec![
        Span::styled(format!(" {:<14}", "probes"), theme.quiet()),
        format!("every {} s; ", windows.probe_s).into(),
        format!("revoked after {} s, denials {} s ", windows.strong_s, windows.denial_s).into(),
        Span::styled("(short: for trials)", theme.quiet()),
    ]);
    frame.render_widget(Paragraph::new(vec![vault, key, server, probes]).block(block), area);
}

fn row(name: &str, dot: Style, word: &str, rest: String, theme: Theme) -> Line<'static> {
    Line::from(vec![
        Span::styled(format!(" {name:<14}"), theme.quiet()),
        Span::styled(format!("● {word:<14} "), dot),
        rest.into(),
    ])
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, view: &View, per_node: usize, theme: Theme) {
    let block = block(format!(" {} · {} ", nodes(view.nodes.len()), view.engine), theme);
    let columns = Columns::of(area.width);
    let header = format!(
        " {:<8} {:<wide$} {:<12} {:<15} {:>4}  {}",
        "node",
        "state",
        "verdict",
        "master key",
        "keys",
        "process",
        wide = columns.state
    );
    let mut lines = vec![Line::styled(header, theme.quiet())];
    lines.extend(
        view.nodes.iter().flat_map(|node| node_lines(node, view, columns, theme).into_iter().take(per_node)),
    );
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// How wide what is where: what is cut off on a narrow terminal is what matters least.
#[derive(Debug, Clone, Copy)]
struct Columns {
    state: usize,
    /// Before a node's second and third line.
    indent: usize,
}

impl Columns {
    fn of(width: u16) -> Self {
        if width < 80 { Self { state: 16, indent: 3 } } else { Self { state: 23, indent: 10 } }
    }
}

fn node_lines(node: &NodeView, view: &View, columns: Columns, theme: Theme) -> Vec<Line<'static>> {
    let name = Span::styled(format!(" {:<8} ", node.name), Style::new().add_modifier(Modifier::BOLD));
    let Some(status) = &node.status else {
        let gone = Span::styled("● its agent does not answer", theme.bad());
        return vec![Line::from(vec![name, gone]), Line::from(""), Line::from("")];
    };
    let master_key = status.master_key.as_ref().map_or("–".to_owned(), |key| {
        let held = if status.master_key_held { "" } else { " ✗" };
        format!("{} {}{held}", short(&key.id), age(key.created_at, view.now))
    });
    let process = status.engine.as_ref().map_or("–".to_owned(), |engine| engine.pid.to_string());
    let state = format!("{:<wide$} ", format!("● {}", status.state), wide = columns.state);
    let first = Line::from(vec![
        name,
        Span::styled(state, theme.state(status.state)),
        Span::styled(format!("{:<12} ", verdict_word(status.verdict)), theme.verdict(status.verdict)),
        format!("{master_key:<15} {:>4}  {process}", status.database_keys.len()).into(),
    ]);
    let mut reason = vec![" ".repeat(columns.indent).into()];
    if status.state == NodeState::Running {
        // Where clients connect; a node that does not run has more to explain.
        reason.push(Span::styled(format!("{} ", node.uri), theme.quiet()));
    }
    reason.push(status.reason.clone().into());
    let reason = Line::from(reason);
    vec![first, reason, probe_line(status, view, columns, theme)]
}

fn probe_line(status: &NodeStatus, view: &View, columns: Columns, theme: Theme) -> Line<'static> {
    let text = match status.evidence.first() {
        Some(probe) => format!("probe {} ago: {}", age(probe.at, view.now), evidence_short(probe)),
        None => "not probed yet".to_owned(),
    };
    let mut spans = vec![Span::styled(format!("{}{text}", " ".repeat(columns.indent)), theme.quiet())];
    if !status.memory_locked {
        spans.push(Span::styled("  memory not locked", theme.odd()));
    }
    Line::from(spans)
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, events: &[Event], theme: Theme) {
    let block = block(" events ", theme);
    let fits = usize::from(block.inner(area).height);
    let shown = &events[events.len().saturating_sub(fits)..];
    let lines: Vec<Line<'_>> = shown
        .iter()
        .map(|event| {
            let (who, text, style) = event.parts();
            Line::from(vec![
                Span::styled(format!(" {} ", clock(event.at)), theme.quiet()),
                Span::styled("● ", theme.of(style)),
                format!("{who:<8} {text}").into(),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    let room = usize::from(area.width);
    let line = |word: fn(&'static str, &'static str) -> &'static str, gap: &'static str| {
        let spans = KEYS.into_iter().enumerate().flat_map(|(index, (key, _, long, short))| {
            let before = if index == 0 { gap } else { " " };
            let after = if index + 1 == KEYS.len() { "" } else { gap };
            let text = Span::styled(format!("{}{after}", word(long, short)), theme.quiet());
            [Span::styled(format!("{before}{key} "), theme.accent()), text]
        });
        Line::from(spans.collect::<Vec<_>>())
    };
    let lines = [line(|long, _| long, " "), line(|_, short| short, " "), line(|_, short| short, "")];
    // Where nothing fits, at least how to leave.
    let quit = || Line::from(vec![Span::styled(" q ", theme.accent()), Span::styled("quit", theme.quiet())]);
    let line = lines.into_iter().find(|line| line.width() <= room).unwrap_or_else(quit);
    frame.render_widget(Paragraph::new(line), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::{changes, samples};
    use super::*;

    fn screen(view: &View, before: &View, (width, height): (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let events: Vec<Event> =
            [changes(None, before), changes(Some(before), view)].into_iter().flatten().collect();
        terminal.draw(|frame| draw(frame, view, &events, Theme { colours: true })).unwrap();
        terminal.backend().to_string()
    }

    const NORMAL: (u16, u16) = (80, 24);

    #[test]
    fn running() {
        insta::assert_snapshot!(screen(&samples::running(), &samples::running(), NORMAL));
    }

    #[test]
    fn revoked() {
        insta::assert_snapshot!(screen(&samples::revoked(), &samples::running(), NORMAL));
    }

    #[test]
    fn outage() {
        insta::assert_snapshot!(screen(&samples::outage(), &samples::running(), NORMAL));
    }

    #[test]
    fn a_lost_agent_and_a_fault() {
        let mut view = samples::running();
        view.nodes[1].status = None;
        view.vault.faults = vec!["throttle".into()];
        insta::assert_snapshot!(screen(&view, &samples::running(), NORMAL));
    }

    #[test]
    fn nine_nodes_still_fit() {
        let mut view = samples::running();
        let node = view.nodes[0].clone();
        view.nodes = (0..9).map(|i| NodeView { name: format!("node-{i}"), ..node.clone() }).collect();
        insta::assert_snapshot!(screen(&view, &samples::running(), NORMAL));
    }

    #[test]
    fn the_last_line_says_how_to_leave_at_every_width() {
        for (width, shown) in [
            (80, " t take key away  g give back  o outage 30s  r rotate  n new key version  q quit"),
            (79, " t off  g on  o down  r rotate  n new  q quit "),
            (40, "t off g on o down r rotate n new q quit"),
            (38, " q quit"),
        ] {
            let screen = screen(&samples::running(), &samples::running(), (width, 24));
            let last = screen.lines().last().unwrap().trim_matches('"').to_owned();
            assert_eq!(last.trim_end(), shown.trim_end(), "at {width}");
        }
    }

    #[test]
    fn a_narrow_terminal() {
        insta::assert_snapshot!(screen(&samples::revoked(), &samples::running(), (40, 30)));
    }

    #[test]
    fn a_wide_terminal() {
        insta::assert_snapshot!(screen(&samples::outage(), &samples::running(), (120, 40)));
    }

    #[test]
    fn no_size_panics() {
        for (width, height) in [(0, 0), (1, 1), (10, 3), (80, 5), (20, 24), (200, 60)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let events = changes(None, &samples::revoked());
            terminal
                .draw(|frame| draw(frame, &samples::revoked(), &events, Theme { colours: true }))
                .unwrap();
        }
    }

    #[test]
    fn states_have_their_colours_and_none_without_colour() {
        let draw_in = |colours| {
            let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
            terminal.draw(|frame| draw(frame, &samples::revoked(), &[], Theme { colours })).unwrap();
            let buffer = terminal.backend().buffer().clone();
            buffer.content().iter().map(|cell| cell.fg).collect::<std::collections::HashSet<_>>()
        };
        assert!(draw_in(true).contains(&Color::Red));
        assert_eq!(draw_in(false), std::collections::HashSet::from([Color::Reset]));
    }
}
