//! A fleet of simulated nodes: carries out what plans ask, as a store and agents would.

use std::fmt::Write as _;

use keyward_model::{
    KeyIdentifier, NodeState, Timestamp, Verdict,
    cluster::KeyProvider,
    id::{ClusterId, NodeId, ProjectId},
    maintenance::{Maintenance, Window},
    plan::{Asked, Cluster, MemberState, Node, Plan, Project, Seen, State, check, plan},
};

pub(crate) const DAY: i64 = 86_400_000;
pub(crate) const PROJECT: ProjectId = ProjectId::from_bytes([1; 12]);
pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([2; 12]);

/// One project, one cluster, and nodes that do as they are told.
pub(crate) struct Fleet {
    pub(crate) now: i64,
    pub(crate) state: State,
    masters_made: u32,
    pub(crate) rotations_done: u32,
}

/// The customer key number `n`.
pub(crate) fn key(n: u8) -> KeyIdentifier {
    KeyIdentifier::new("https://v.vault.azure.net", "k", &format!("{n:032x}")).unwrap()
}

/// Node number `n`.
pub(crate) fn node_id(n: usize) -> NodeId {
    NodeId(uuid::Uuid::from_u128(n as u128))
}

impl Fleet {
    /// A cluster that wants `wanted` nodes, and `nodes` enrolled free ones that run nothing yet.
    pub(crate) fn new(wanted: usize, nodes: usize, provider: KeyProvider) -> Self {
        let now = 400 * DAY;
        let node = |n| Node {
            id: node_id(n),
            project: PROJECT,
            cluster: None,
            asked: Asked::default(),
            seen: Some(Seen {
                at: Timestamp::from_epoch_ms(now),
                state: NodeState::Stopped,
                verdict: Verdict::Valid,
                key: None,
                master_key: None,
                master_key_held: false,
                done_revision: 0,
                needs_approval: false,
                member: None,
                unencrypted: false,
            }),
        };
        let cluster = Cluster {
            id: CLUSTER,
            project: PROJECT,
            provider,
            switch_off: false,
            node_count: wanted,
            paused: false,
            deleting: false,
            ready: false,
            rotations: Vec::new(),
        };
        Self {
            now,
            state: State {
                projects: vec![Project {
                    id: PROJECT,
                    key: Some(key(1)),
                    maintenance: Maintenance::new(PROJECT),
                }],
                clusters: vec![cluster],
                nodes: (1..=nodes).map(node).collect(),
            },
            masters_made: 0,
            rotations_done: 0,
        }
    }

    /// A running, ready replica set of three under customer key 1.
    pub(crate) fn running(provider: KeyProvider) -> Self {
        let mut fleet = Self::new(3, 3, provider);
        fleet.settle(20);
        fleet
    }

    pub(crate) fn time(&self) -> Timestamp {
        Timestamp::from_epoch_ms(self.now)
    }

    pub(crate) fn cluster(&mut self) -> &mut Cluster {
        &mut self.state.clusters[0]
    }

    pub(crate) fn project(&mut self) -> &mut Project {
        &mut self.state.projects[0]
    }

    pub(crate) fn seen(&mut self, n: usize) -> &mut Seen {
        self.state.nodes[n - 1].seen.as_mut().unwrap()
    }

    /// A weekly window on the day of the week that is in `days` days, at midnight UTC.
    pub(crate) fn window(&mut self, days: i64) {
        // The epoch was a Thursday, day 5 of a week that begins on Sunday.
        let day = ((self.now / DAY + days + 4).rem_euclid(7) + 1) as u8;
        self.project().maintenance.window = Some(Window { day_of_week: day, hour_of_day: 0 });
    }

    pub(crate) fn plan(&self) -> Plan {
        let plan = plan(self.time(), &self.state);
        assert_eq!(check(&plan, &self.state), [], "{}", self.render(&plan));
        plan
    }

    /// Notes and asks what a plan says; revisions grow only with a change.
    pub(crate) fn execute(&mut self, plan: &Plan) {
        let key = self.state.projects[0].key.clone();
        let before = self.state.nodes.clone();
        for (node, planned) in self.state.nodes.iter_mut().zip(&plan.nodes) {
            assert_eq!(node.id, planned.node);
            let asks = planned.asks(&node.asked, key.as_ref());
            if asks != node.asked {
                node.asked = Asked { revision: node.asked.revision + 1, ..asks };
            }
        }
        for step in &plan.maintenance {
            self.project().maintenance = step.maintenance.clone();
        }
        for own in &plan.clusters {
            let cluster = self.state.clusters.iter_mut().find(|c| c.id == own.cluster).unwrap();
            for rotation in &own.rotate {
                cluster.rotations.retain(|old| old.node != rotation.node);
                cluster.rotations.push(rotation.clone());
            }
            cluster.ready |= own.state == keyward_model::cluster::ClusterState::Idle;
            for node in &mut self.state.nodes {
                if own.place.contains(&node.id) {
                    node.cluster = Some(own.cluster);
                } else if own.released.contains(&node.id) {
                    node.cluster = None;
                }
            }
        }
        self.state
            .clusters
            .retain(|cluster| !plan.clusters.iter().any(|own| own.cluster == cluster.id && own.gone));
        for (old, new) in before.iter().zip(&self.state.nodes) {
            assert!(new.asked.revision >= old.asked.revision, "an older revision was asked of {}", new.id);
        }
    }

    /// Whether the set has the data of node `n` without it, as the database itself would say.
    fn safe_to_empty(&self, n: usize) -> bool {
        let members: Vec<&Node> = self.state.nodes.iter().filter(|node| node.cluster.is_some()).collect();
        let serving = |state: MemberState| {
            let is = |node: &&&Node| {
                let seen = node.seen.as_ref().unwrap();
                seen.state == NodeState::Running && seen.member == Some(state)
            };
            members.iter().filter(|node| node.id != node_id(n)).filter(is).count()
        };
        let (primaries, secondaries) = (serving(MemberState::Primary), serving(MemberState::Secondary));
        primaries == 1 && primaries + secondaries > members.len() / 2
    }

    /// Node `n` does all that is asked of it and reports. A resync takes it two reports.
    pub(crate) fn carry_out(&mut self, n: usize) {
        let now = self.time();
        let safe = self.safe_to_empty(n);
        let asked = self.state.nodes[n - 1].asked.clone();
        let made = &mut self.masters_made;
        let seen = self.state.nodes[n - 1].seen.as_mut().unwrap();
        seen.at = now;
        if seen.verdict != Verdict::Valid || seen.needs_approval || seen.state == NodeState::Failed {
            return;
        }
        let mut new_master = || {
            *made += 1;
            Some((format!("m{made}"), now))
        };
        if seen.unencrypted && asked.resync {
            if safe {
                assert!(asked.key.is_some(), "emptied without a customer key");
                (seen.key, seen.master_key) = (asked.key, new_master());
                (seen.unencrypted, seen.member, seen.state) = (false, None, NodeState::Starting);
            }
            return;
        }
        // A customer key alone means nothing to a database that is not encrypted.
        if let Some(key) = asked.key.filter(|key| seen.key.as_ref() != Some(key) && !seen.unencrypted) {
            seen.key = Some(key);
            if seen.master_key.is_none() {
                seen.master_key = new_master();
            }
        }
        if asked.rotate.is_some() && asked.rotate.as_ref() == seen.master_key.as_ref().map(|(id, _)| id) {
            seen.master_key = new_master();
            self.rotations_done += 1;
        }
        seen.state = match asked.run {
            keyward_model::sync::DesiredRun::Running => NodeState::Running,
            keyward_model::sync::DesiredRun::Stopped => NodeState::Stopped,
            keyward_model::sync::DesiredRun::Unmanaged => seen.state,
        };
        // The operator's own.
        seen.unencrypted |= seen.state == NodeState::Running && seen.key.is_none();
        seen.master_key_held = seen.master_key.is_some() && seen.state == NodeState::Running;
        let member = (asked.member && seen.state == NodeState::Running).then_some(MemberState::Secondary);
        if member.is_none() || seen.member.is_none() || asked.step_down {
            seen.member = member;
        }
        seen.done_revision = asked.revision;
    }

    /// All nodes do as told, and the set elects.
    pub(crate) fn carry_out_all(&mut self) {
        for n in 1..=self.state.nodes.len() {
            self.carry_out(n);
        }
        self.elect();
    }

    /// A set whose members run elects a primary when it has none: the last one that may.
    pub(crate) fn elect(&mut self) {
        let members = || self.state.nodes.iter().filter(|node| node.cluster.is_some());
        let state = |node: &Node| node.seen.as_ref().and_then(|seen| seen.member);
        if members().any(|node| state(node) == Some(MemberState::Primary)) {
            return;
        }
        let able = |node: &&mut Node| {
            node.cluster.is_some()
                && !node.asked.step_down
                && node.seen.as_ref().is_some_and(|seen| seen.member == Some(MemberState::Secondary))
        };
        if let Some(node) = self.state.nodes.iter_mut().rfind(able) {
            node.seen.as_mut().unwrap().member = Some(MemberState::Primary);
        }
    }

    /// One round: plan, execute, and all nodes do as told.
    pub(crate) fn round(&mut self) -> Plan {
        let plan = self.plan();
        self.execute(&plan);
        self.carry_out_all();
        self.now += 1_000;
        plan
    }

    /// Rounds until nothing is left to do, at most `rounds`.
    pub(crate) fn settle(&mut self, rounds: usize) -> usize {
        for round in 0..rounds {
            let before = self.state.clone();
            let plan = self.round();
            let still = plan.nodes.iter().all(|node| node.work.is_none() && node.waiting.is_empty());
            let same = before.nodes.iter().zip(&self.state.nodes).all(|(a, b)| a.asked == b.asked);
            if still && same && plan.clusters.iter().all(|own| own.place.is_empty() && own.rotate.is_empty())
            {
                return round;
            }
        }
        panic!("not at rest after {rounds} rounds:\n{}", self.render(&self.plan()));
    }

    /// A plan as people read it.
    pub(crate) fn render(&self, plan: &Plan) -> String {
        let mut text = String::new();
        for own in &plan.clusters {
            write!(text, "cluster {}", own.state.as_str()).unwrap();
            if !own.place.is_empty() {
                write!(text, ", places {}", list(own.place.iter())).unwrap();
            }
            if !own.released.is_empty() {
                write!(text, ", lets go {}", list(own.released.iter())).unwrap();
            }
            for rotation in &own.rotate {
                write!(text, ", notes rotation of {} on {}", rotation.master_key, rotation.node).unwrap();
            }
            for waiting in &own.waiting {
                write!(text, "; {} waits for {}", waiting.work, waiting.on).unwrap();
            }
            text.push_str(if own.gone { ", is gone\n" } else { "\n" });
        }
        for (node, planned) in self.state.nodes.iter().zip(&plan.nodes) {
            let asks = planned.asks(&node.asked, self.state.projects[0].key.as_ref());
            write!(text, "  {}:", node.id).unwrap();
            if asks.member != node.asked.member {
                text.push_str(if asks.member { " joins" } else { " leaves" });
            }
            if asks.run != node.asked.run {
                write!(text, " {:?}", asks.run).unwrap();
            }
            if asks.key != node.asked.key {
                let version = asks.key.as_ref().map_or("none", |key| key.version().trim_start_matches('0'));
                write!(text, " key {version}").unwrap();
            }
            if asks.rotate != node.asked.rotate {
                write!(text, " rotate {}", asks.rotate.as_deref().unwrap_or("nothing")).unwrap();
            }
            if asks.off != node.asked.off {
                write!(text, " off {}", asks.off).unwrap();
            }
            if asks.resync != node.asked.resync {
                write!(text, " resync {}", asks.resync).unwrap();
            }
            if asks.step_down != node.asked.step_down {
                write!(text, " step down {}", asks.step_down).unwrap();
            }
            if asks == node.asked {
                text.push_str(" as before");
            }
            for waiting in &planned.waiting {
                write!(text, "; {} waits for {}", waiting.work, waiting.on).unwrap();
            }
            text.push('\n');
        }
        for n in 1..=self.state.nodes.len() {
            text = text.replace(&node_id(n).to_string(), &format!("n{n}"));
        }
        text
    }

    /// `rounds` successive plans, each carried out.
    pub(crate) fn story(&mut self, rounds: usize) -> String {
        let mut text = String::new();
        for round in 1..=rounds {
            let plan = self.plan();
            writeln!(text, "plan {round}: {}", self.render(&plan).trim_end()).unwrap();
            self.execute(&plan);
            self.carry_out_all();
            self.now += 1_000;
        }
        text
    }
}

fn list<'a>(ids: impl Iterator<Item = &'a NodeId>) -> String {
    ids.map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
