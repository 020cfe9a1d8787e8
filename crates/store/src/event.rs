//! The audit log. Only a [`Change`](crate::Change) writes it, and only by being committed.

use std::sync::atomic::Ordering;

use keyward_model::{
    Timestamp,
    cluster::Cluster,
    event::{Actor, Event, EventType, NewEvent},
    id::{EventId, OrgId, ProjectId},
    node::EnrolledNode,
    project::Project,
};
use sqlx::AssertSqlSafe;

use crate::{
    StoreError,
    document::bound,
    key::fill_random,
    tx::{Columns, Tx},
};

/// Which events are asked for. Empty lists and `None` ask for nothing in particular.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this organization.
    pub org: Option<OrgId>,
    /// Of this project.
    pub project: Option<ProjectId>,
    /// Of no project: what concerns an organization as a whole.
    pub of_no_project: bool,
    /// Of one of these types.
    pub types: Vec<EventType>,
    /// Of none of these types.
    pub excluded_types: Vec<EventType>,
    /// Of a cluster with one of these names.
    pub clusters: Vec<String>,
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Not after this.
    pub to: Option<Timestamp>,
}

impl Tx {
    /// Some events, newest first, and how many the filter lets through in all.
    pub async fn events(
        &mut self,
        filter: &EventFilter,
        offset: u64,
        limit: u64,
    ) -> Result<(Vec<Event>, u64), StoreError> {
        let (condition, values) = conditions(filter);
        let count = format!("SELECT COUNT(*) AS total FROM \"event\" WHERE {condition}");
        let mut statement = sqlx::query(AssertSqlSafe(count));
        for value in &values {
            statement = value.bind_to(statement);
        }
        let total = self.row(statement).await?.map_or(Ok(0), |row| row.number("total"))?;
        let next = values.len();
        let page = format!(
            "SELECT id, body FROM \"event\" WHERE {condition} ORDER BY at DESC, id DESC LIMIT ${} OFFSET ${}",
            next + 1,
            next + 2
        );
        let mut statement = sqlx::query(AssertSqlSafe(page));
        for value in &values {
            statement = value.bind_to(statement);
        }
        let rows = self.rows(statement.bind(bound(limit)).bind(bound(offset))).await?;
        let events = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok((events, total.unsigned_abs()))
    }

    /// The event of an id.
    pub async fn event(&mut self, id: EventId) -> Result<Option<Event>, StoreError> {
        let found = sqlx::query("SELECT id, body FROM \"event\" WHERE id = $1").bind(id.to_string());
        self.row(found).await?.as_ref().map(read).transpose()
    }

    /// Fills in the project, cluster and organization that a new event concerns, as far as it does not say them
    /// itself: a node has its cluster and project, a project its organization.
    async fn place(&mut self, event: &mut NewEvent) -> Result<(), StoreError> {
        let of_actor = if let Actor::Node { id, .. } = event.actor { Some(id) } else { None };
        if let Some(id) = event.node.or(of_actor)
            && (event.project.is_none() || event.cluster.is_none())
            && let Some(node) = self.get::<EnrolledNode>(id).await?
        {
            let project = *event.project.get_or_insert(node.project);
            if project == node.project
                && event.cluster.is_none()
                && let Some(id) = node.cluster
            {
                event.cluster = self.get::<Cluster>(id).await?.map(|cluster| cluster.name.clone());
            }
        }
        if event.org.is_none()
            && let Some(id) = event.project
        {
            event.org = self.get::<Project>(id).await?.map(|project| project.org);
        }
        Ok(())
    }

    pub(crate) async fn insert_event(
        &mut self,
        mut event: NewEvent,
        now: Timestamp,
    ) -> Result<Event, StoreError> {
        self.place(&mut event).await?;
        let counter = self.store.0.events.fetch_add(1, Ordering::Relaxed);
        let event = event.stored(make_id(now, counter), now);
        if event.cluster.as_ref().is_some_and(|name| name.contains('\0')) {
            return Err(StoreError::Unstorable { what: "a cluster's name" });
        }
        let body = serde_json::to_string(&event)
            .map_err(|error| StoreError::Unreadable { what: "an event".to_owned(), source: error.into() })?;
        let insert = sqlx::query(
            "INSERT INTO \"event\" (id, at, event_type, org, project, cluster, body) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(event.id.to_string())
        .bind(now.epoch_ms())
        .bind(event.event_type.as_str())
        .bind(event.org.map(|org| org.to_string()))
        .bind(event.project.map(|project| project.to_string()))
        .bind(event.cluster.clone())
        .bind(body);
        self.execute(insert).await?;
        Ok(event)
    }
}

/// Seconds (4 bytes), milliseconds (2), a counter (2), random bytes (4): ids of one server grow with time.
fn make_id(now: Timestamp, counter: u32) -> EventId {
    let ms = now.epoch_ms();
    let mut bytes = [0; 12];
    fill_random(&mut bytes[8..]);
    bytes[..4].copy_from_slice(&(ms.div_euclid(1000) as u32).to_be_bytes());
    bytes[4..6].copy_from_slice(&(ms.rem_euclid(1000) as u16).to_be_bytes());
    bytes[6..8].copy_from_slice(&(counter as u16).to_be_bytes());
    EventId::from_bytes(bytes)
}

enum Bound {
    Text(String),
    Number(i64),
}

impl Bound {
    fn bind_to<'q>(&self, statement: crate::tx::Statement<'q>) -> crate::tx::Statement<'q> {
        match self {
            Bound::Text(text) => statement.bind(text.clone()),
            Bound::Number(number) => statement.bind(*number),
        }
    }
}

/// The condition of a filter, and what is bound to its parameters in order.
fn conditions(filter: &EventFilter) -> (String, Vec<Bound>) {
    let mut values = Vec::new();
    let mut conditions = Vec::new();
    let mut parameter = |value: Bound| {
        values.push(value);
        format!("${}", values.len())
    };
    if let Some(org) = filter.org {
        conditions.push(format!("org = {}", parameter(Bound::Text(org.to_string()))));
    }
    if let Some(project) = filter.project {
        conditions.push(format!("project = {}", parameter(Bound::Text(project.to_string()))));
    }
    if filter.of_no_project {
        conditions.push("project IS NULL".to_owned());
    }
    if let Some(from) = filter.from {
        conditions.push(format!("at >= {}", parameter(Bound::Number(from.epoch_ms()))));
    }
    if let Some(to) = filter.to {
        conditions.push(format!("at <= {}", parameter(Bound::Number(to.epoch_ms()))));
    }
    let mut one_of = |column: &str, operator: &str, texts: Vec<String>| {
        if !texts.is_empty() {
            let parameters: Vec<_> = texts.into_iter().map(|text| parameter(Bound::Text(text))).collect();
            conditions.push(format!("{column} {operator} ({})", parameters.join(", ")));
        }
    };
    let names = |types: &[EventType]| types.iter().map(|event_type| event_type.as_str().to_owned()).collect();
    one_of("event_type", "IN", names(&filter.types));
    one_of("event_type", "NOT IN", names(&filter.excluded_types));
    // PostgreSQL takes no NUL in a text. No cluster has one in its name either.
    one_of("cluster", "IN", filter.clusters.iter().map(|name| name.replace('\0', "\u{fffd}")).collect());
    if conditions.is_empty() {
        conditions.push("1 = 1".to_owned());
    }
    (conditions.join(" AND "), values)
}

fn read(row: &sqlx::any::AnyRow) -> Result<Event, StoreError> {
    serde_json::from_str(&row.text("body")?).map_err(|error| StoreError::Unreadable {
        what: format!("event {}", row.text("id").unwrap_or_default()),
        source: error.into(),
    })
}
