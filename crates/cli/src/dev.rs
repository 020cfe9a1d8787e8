//! `keyward dev`: a vault, a server and nodes on this machine, watched on a board or as a log of events, until Ctrl-C.

mod board;
mod check;
mod database;
pub(crate) mod home;
mod process;
mod replica_set;
mod screen;
mod server;
mod site;
mod view;
mod watch;

use std::io::IsTerminal;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::args::dev::DevArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::signals;
use board::Action;
use database::Database;
use home::Home;
pub(crate) use site::now;
use site::{NodeKind, NodePlan, Plan, Site};
use view::{Event, View, What, changes};
use watch::Watcher;

/// Between two looks at everything.
const LOOK: Duration = Duration::from_millis(500);
/// A program that ends by itself is started again after this.
const RESTART: Duration = Duration::from_secs(2);

pub(crate) async fn run(arguments: DevArguments) -> Result<(), Failure> {
    let shutdown = CancellationToken::new();
    signals::cancel_on_end(&shutdown)?;
    let home = Home::open(&arguments.dir)?;
    if arguments.check {
        return check::run(&home, &arguments, &shutdown).await;
    }
    let show_board = !arguments.json && std::io::stdout().is_terminal();
    let output = Output { json: arguments.json };
    let mut events: Vec<Event> = Vec::new();
    let mut tell = |what: What| {
        let event = Event { at: site::now(), what };
        // Before the board is there, everything is a line.
        let _ = output.line(&event, Event::line);
        events.push(event);
    };
    tell(What::Notice { text: format!("everything is under {}", home.path().display()) });
    tell(What::Notice { text: view::SHORT.text() });
    let plan = Plan {
        tools: home.path().to_owned(),
        home,
        engine: arguments.engine,
        nodes: (0..arguments.nodes)
            .map(|i| NodePlan { name: format!("node-{i}"), kind: NodeKind::Member })
            .collect(),
        show_progress: !arguments.json,
    };
    let mut site = tokio::select! {
        opened = Site::open(plan, &mut tell) => opened?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let watched = watch_all(&mut site, events, output, show_board, &shutdown).await;
    let _ = output.line(&Event::notice("stopping the nodes, then the server and the vault"), Event::line);
    let troubles = site.stop().await;
    for trouble in &troubles {
        trouble.report();
    }
    watched?;
    match troubles.is_empty() {
        true => output
            .line(&Event::notice("stopped; the same command starts again on the same data"), Event::line),
        false => Err(Failure::new("not everything stopped cleanly", "see the messages above")),
    }
}

impl Event {
    fn notice(text: &str) -> Self {
        Self { at: site::now(), what: What::Notice { text: text.to_owned() } }
    }
}

/// Starts the agents, then looks and acts until `shutdown` or `q`.
async fn watch_all(
    site: &mut Site,
    mut events: Vec<Event>,
    output: Output,
    show_board: bool,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let watcher = Watcher::of(site);
    let (sender, mut told) = mpsc::unbounded_channel::<What>();
    let mut screen = if show_board { Some(screen::Screen::open()?) } else { None };
    let mut before: Option<View> = None;
    let mut replica_set =
        matches!(site.database, Database::Mongod { .. }).then(|| site.members().cloned().collect());
    let names: Vec<String> = site.nodes.iter().map(|node| node.name.clone()).collect();
    let mut restart_at = Instant::now();
    let mut told_next = false;
    // Why the cluster could not be made yet; empty once it is.
    let mut missing: Option<String> = Some(String::new());
    while !shutdown.is_cancelled() {
        if Instant::now() >= restart_at {
            restart_at = Instant::now() + RESTART;
            // The first pass starts every agent; later ones whatever ended by itself.
            keep_running(site, &names, before.is_none(), &sender).await;
            if let Some(known) = &missing {
                let trouble = site.enlist().await.err().map(|failure| failure.message);
                if let Some(text) = trouble.as_ref().filter(|text| *text != known) {
                    let text = format!("the cluster could not be made: {text}");
                    let _ = sender.send(What::Trouble { text });
                }
                missing = trouble;
            }
        }
        let view = watcher.look().await;
        let mut news = changes(before.as_ref(), &view);
        while let Ok(what) = told.try_recv() {
            news.push(Event { at: view.now, what });
        }
        if !told_next && view.server.cluster.as_deref() == Some("IDLE") {
            told_next = true;
            let dir = site.home().path().display();
            let text = format!("next: keyward login --dir {dir}; keyward cluster list");
            news.push(Event { at: view.now, what: What::Notice { text } });
        }
        if let Some(members) = replica_set.take_if(|_| view.all_running()) {
            news.push(Event { at: view.now, what: replica_set::initiate(members).await });
        }
        if screen.is_none() {
            for event in &news {
                output.line(event, Event::line)?;
            }
        }
        events.extend(news);
        let surplus = events.len().saturating_sub(200);
        events.drain(..surplus);
        let next = Instant::now() + LOOK;
        match &mut screen {
            Some(screen) => {
                screen.draw(&view, &events)?;
                while let Some(action) = screen.action(next, shutdown).await {
                    match action {
                        Action::Quit => return Ok(()),
                        Action::TakeKeyAway
                        | Action::GiveKeyBack
                        | Action::Outage
                        | Action::RotateMasterKeys
                        | Action::NewKeyVersion => watcher.act(action, sender.clone()),
                    }
                }
            }
            None => tokio::select! {
                () = sleep(LOOK) => {}
                () = shutdown.cancelled() => {}
            },
        }
        before = Some(view);
    }
    Ok(())
}

/// Starts agents, the server and the vault where they don't run.
async fn keep_running(site: &mut Site, names: &[String], first: bool, told: &mpsc::UnboundedSender<What>) {
    let tell = |what| {
        let _ = told.send(what);
    };
    if site.process(site::VAULT).is_none() {
        tell(What::Trouble { text: "the vault ended by itself; starting it again".into() });
        if let Err(failure) = site.start_vault().await {
            tell(What::Trouble { text: failure.message });
        }
    }
    if site.process(server::SERVER).is_none() {
        tell(What::Trouble { text: "the server ended by itself; starting it again".into() });
        if let Err(failure) = site.start_server().await {
            tell(What::Trouble { text: failure.message });
        }
    }
    for name in names {
        if site.process(name).is_some() {
            continue;
        }
        if !first {
            tell(What::Trouble { text: format!("the agent of {name} ended by itself; starting it again") });
        }
        let started = match site.start_agent(name).await {
            Ok(()) if first => site.let_run(name).await,
            other => other,
        };
        if let Err(failure) = started {
            let why = failure.causes.last().map(|cause| format!(": {cause}")).unwrap_or_default();
            tell(What::Trouble { text: format!("{}{why}", failure.message) });
        }
    }
}

impl View {
    fn all_running(&self) -> bool {
        self.nodes.iter().all(|node| {
            node.status.as_ref().is_some_and(|status| status.state == keyward_model::NodeState::Running)
        })
    }
}
