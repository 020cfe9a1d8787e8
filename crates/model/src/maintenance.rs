//! When work that may wait may start: a project's maintenance window, its deferrals, and the hours it protects.
//!
//! Follows `maintenanceWindow` of the Atlas Administration API. Two decisions are keyward's own: a deadline beats
//! the window (only a deferral that a person asked for, or switched on, goes past it), and work that has begun goes
//! on to its end. Urgent work does not ask here. Time zones come from the database that is compiled in, so that an
//! answer does not depend on the host.

use jiff::{ToSpan, ZonedDateTime, civil::Weekday, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::{Timestamp, id::ProjectId};

/// How long before its start maintenance is announced, and with that can be deferred, in hours.
pub const ANNOUNCED_H: i64 = 72;
/// How long a window is open for a start, in hours.
pub const OPEN_H: i64 = 1;
/// How often one maintenance can be deferred, a week each time.
pub const DEFERRALS_MAX: u8 = 2;

/// When a project's maintenance may start, and where the current one stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    /// Whose it is.
    pub project: ProjectId,
    /// The weekly window; `None` lets maintenance start at any time outside the protected hours.
    pub window: Option<Window>,
    /// The IANA name of the time zone that hours and days are meant in.
    pub time_zone: String,
    /// The daily hours in which nothing starts.
    pub protected_hours: Option<ProtectedHours>,
    /// Whether every maintenance is put off a week once.
    pub auto_defer_once: bool,
    /// Whether the announced maintenance starts without waiting for its window. Falls back when it is over.
    pub start_asap: bool,
    /// How often the current maintenance was deferred.
    pub deferrals: u8,
    /// The maintenance that is announced or runs.
    pub scheduled: Option<Scheduled>,
    /// By when the next maintenance has to start, as the planner last said.
    pub due: Option<Timestamp>,
}

/// One hour of each week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// 1 is Sunday, 7 Saturday.
    pub day_of_week: u8,
    /// 0 to 23.
    pub hour_of_day: u8,
}

/// Hours of each day in which nothing starts: from the first up to, but not including, the second. They may pass
/// midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProtectedHours {
    /// 0 to 23.
    pub start_hour_of_day: u8,
    /// 0 to 23.
    pub end_hour_of_day: u8,
}

/// A maintenance that is announced or runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduled {
    /// When it is to start.
    pub start: Timestamp,
    /// When it did.
    pub started_at: Option<Timestamp>,
}

/// A time in which maintenance may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Not before this; in the past when it is open now.
    pub start: Timestamp,
    /// No longer from here on.
    pub end: Timestamp,
}

/// What [`advance`] decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// What to store.
    pub maintenance: Maintenance,
    /// What changed, in order; each is an event.
    pub changes: Vec<Change>,
    /// Whether the work may go on now.
    pub opening: Opening,
}

/// Whether work may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// There is nothing to do.
    NothingDue,
    /// It may, now.
    Open,
    /// Not before `until`.
    Waits {
        /// When it starts, or when its start is announced.
        until: Timestamp,
        /// Whether deferrals have moved it past its deadline.
        past_deadline: bool,
    },
}

/// Something that happened to a maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It will start at this time.
    Announced(Timestamp),
    /// It was put off by itself, to this time.
    AutoDeferred(Timestamp),
    /// Its window passed without a start; it will start at this time.
    Moved(Timestamp),
    /// It began.
    Started,
    /// It is done.
    Completed,
    /// There is nothing left to do that it was announced for.
    NoLongerNeeded,
}

/// What a project owner asks of the window; `None` leaves a part as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patch {
    /// 1 is Sunday, 7 Saturday.
    pub day_of_week: Option<u8>,
    /// 0 to 23.
    pub hour_of_day: Option<u8>,
    /// `Some(None)` takes the protection away.
    pub protected_hours: Option<Option<ProtectedHours>>,
    /// Whether every maintenance is put off a week once.
    pub auto_defer_once: Option<bool>,
    /// Whether the announced maintenance starts at once.
    pub start_asap: Option<bool>,
}

/// Why a change of the window is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first window needs its day.
    #[error("the project has no maintenance window yet, and the request names no dayOfWeek")]
    DayMissing,
    /// The hour of the window is protected.
    #[error("the window's hour, {hour}, lies in the protected hours: no maintenance could ever start")]
    HourProtected {
        /// The window's hour.
        hour: u8,
    },
    /// Start and end are the same hour.
    #[error("the protected hours begin and end at {hour}: that is no time or all of it")]
    ProtectedHoursEmpty {
        /// The hour.
        hour: u8,
    },
    /// A maintenance is announced or runs.
    #[error("maintenance is scheduled for {start}")]
    AlreadyScheduled {
        /// When it starts.
        start: Timestamp,
    },
    /// There is nothing that could be put off, or started at once.
    #[error("no maintenance is scheduled")]
    NotScheduled,
    /// There is no window.
    #[error("the project has no maintenance window")]
    NotDefined,
    /// It was deferred as often as it can be.
    #[error("the maintenance has been deferred {DEFERRALS_MAX} times already")]
    DeferralsExceeded,
    /// With the new window the next maintenance would come too late.
    #[error("the next maintenance has to start by {deadline}, and the window first opens after that")]
    NonCompliant {
        /// By when it has to start.
        deadline: Timestamp,
    },
}

impl Maintenance {
    /// What a project has that never said anything: no window, UTC.
    pub fn new(project: ProjectId) -> Self {
        Self {
            project,
            window: None,
            time_zone: "UTC".to_owned(),
            protected_hours: None,
            auto_defer_once: false,
            start_asap: false,
            deferrals: 0,
            scheduled: None,
            due: None,
        }
    }

    /// What `patch` makes of it.
    ///
    /// While maintenance is scheduled only `start_asap` and the switch for deferring by itself can change; a
    /// patch that names the window it already has changes nothing and is no error.
    pub fn patched(&self, now: Timestamp, patch: &Patch) -> Result<Self, Refusal> {
        let day = patch.day_of_week.or(self.window.map(|window| window.day_of_week));
        let hour = patch.hour_of_day.or(self.window.map(|window| window.hour_of_day));
        let window = Window { day_of_week: day.ok_or(Refusal::DayMissing)?, hour_of_day: hour.unwrap_or(0) };
        let protected_hours = patch.protected_hours.unwrap_or(self.protected_hours);
        if let Some(hours) = protected_hours {
            if hours.start_hour_of_day == hours.end_hour_of_day {
                return Err(Refusal::ProtectedHoursEmpty { hour: hours.start_hour_of_day });
            }
            if hours.contains(window.hour_of_day) {
                return Err(Refusal::HourProtected { hour: window.hour_of_day });
            }
        }
        let moved = self.window != Some(window) || self.protected_hours != protected_hours;
        if moved && let Some(scheduled) = self.scheduled {
            return Err(Refusal::AlreadyScheduled { start: scheduled.start });
        }
        if patch.start_asap == Some(true) && self.scheduled.is_none() && !self.start_asap {
            return Err(Refusal::NotScheduled);
        }
        let patched = Self {
            window: Some(window),
            protected_hours,
            auto_defer_once: patch.auto_defer_once.unwrap_or(self.auto_defer_once),
            start_asap: patch.start_asap.unwrap_or(self.start_asap),
            // As Atlas: setting the window starts the count anew. What is scheduled keeps its own.
            deferrals: if self.scheduled.is_some() { self.deferrals } else { 0 },
            ..self.clone()
        };
        match self.due {
            Some(deadline) if moved && deadline > now && next_window(now, &patched).start > deadline => {
                Err(Refusal::NonCompliant { deadline })
            }
            _ => Ok(patched),
        }
    }

    /// Without window, protected hours and switches.
    pub fn reset(&self) -> Result<Self, Refusal> {
        match self.scheduled {
            Some(scheduled) => Err(Refusal::AlreadyScheduled { start: scheduled.start }),
            None => Ok(Self { time_zone: self.time_zone.clone(), due: self.due, ..Self::new(self.project) }),
        }
    }

    /// With the announced maintenance put off by a week: same day, same hour.
    pub fn deferred(&self) -> Result<Self, Refusal> {
        match self.scheduled {
            Some(scheduled) if scheduled.started_at.is_none() && !self.start_asap => {
                if self.deferrals >= DEFERRALS_MAX {
                    return Err(Refusal::DeferralsExceeded);
                }
                let start = self.a_week_after(scheduled.start);
                Ok(Self {
                    deferrals: self.deferrals + 1,
                    scheduled: Some(Scheduled { start, ..scheduled }),
                    ..self.clone()
                })
            }
            Some(_) | None => Err(Refusal::NotScheduled),
        }
    }

    /// With the switch for deferring by itself turned over.
    pub fn auto_defer_toggled(&self) -> Result<Self, Refusal> {
        if self.window.is_none() {
            return Err(Refusal::NotDefined);
        }
        Ok(Self { auto_defer_once: !self.auto_defer_once, ..self.clone() })
    }

    fn zone(&self) -> TimeZone {
        jiff::tz::TimeZoneDatabase::bundled().get(&self.time_zone).unwrap_or(TimeZone::UTC)
    }

    fn a_week_after(&self, time: Timestamp) -> Timestamp {
        let local = time.0.to_zoned_datetime(self.zone());
        local.checked_add(1.week()).map_or(time, |later| Timestamp(later.timestamp()))
    }
}

impl ProtectedHours {
    /// Whether an hour of the day is protected.
    pub fn contains(self, hour: u8) -> bool {
        let (start, end) = (self.start_hour_of_day, self.end_hour_of_day);
        if start < end { (start..end).contains(&hour) } else { hour >= start || hour < end }
    }
}

/// Whether `name` is a time zone that windows can be meant in: an IANA name.
pub fn is_time_zone(name: &str) -> bool {
    jiff::tz::TimeZoneDatabase::bundled().get(name).is_ok()
}

/// The window that is open at `now`, or else the next one.
///
/// Without a window: from `now`, or from the end of the protected hours, until they begin again (or a day on).
pub fn next_window(now: Timestamp, maintenance: &Maintenance) -> Span {
    let local = now.0.to_zoned_datetime(maintenance.zone());
    match maintenance.window {
        Some(window) => weekly(&local, window),
        None => unprotected(&local, maintenance.protected_hours),
    }
}

/// One step of a project's maintenance: what to store, what happened, and whether the work may go on.
///
/// `due` says by when work of this project has to start; `None` that there is none. The same call with the same
/// values answers the same, so a pass that was lost or repeated changes nothing.
pub fn advance(now: Timestamp, maintenance: &Maintenance, due: Option<Timestamp>) -> Advance {
    let mut next = Maintenance { due, ..maintenance.clone() };
    let mut changes = Vec::new();
    let Some(due) = due else {
        if let Some(scheduled) = next.scheduled {
            let done = scheduled.started_at.is_some();
            changes.push(if done { Change::Completed } else { Change::NoLongerNeeded });
            next.forget_scheduled();
        }
        return Advance { maintenance: next, changes, opening: Opening::NothingDue };
    };
    // The work moved away (someone rotated by hand): what was announced for it is off.
    let off = |scheduled: &Scheduled| {
        scheduled.started_at.is_none() && due.0 > scheduled.start.0 + (8 * 24).hours()
    };
    if next.scheduled.as_ref().is_some_and(off) {
        changes.push(Change::NoLongerNeeded);
        next.forget_scheduled();
    }
    if next.scheduled.is_none() {
        let start = start_by(now, &next, due);
        let announced_from = Timestamp(start.0 - ANNOUNCED_H.hours());
        if now < announced_from {
            let opening = Opening::Waits { until: announced_from, past_deadline: false };
            return Advance { maintenance: next, changes, opening };
        }
        changes.push(Change::Announced(start));
        let mut scheduled = Scheduled { start, started_at: None };
        if next.auto_defer_once && next.window.is_some() {
            scheduled.start = next.a_week_after(start);
            next.deferrals = 1;
            changes.push(Change::AutoDeferred(scheduled.start));
        }
        next.scheduled = Some(scheduled);
    }
    let Some(mut scheduled) = next.scheduled else {
        return Advance { maintenance: next, changes, opening: Opening::NothingDue };
    };
    if scheduled.started_at.is_none() {
        let missed = now.0 >= scheduled.start.0 + OPEN_H.hours();
        if missed {
            // Nobody was there to start it. A deferral lets it wait for the next window, nothing else does.
            let start =
                if next.deferrals > 0 { next_window(now, &next).start } else { start_by(now, &next, due) };
            scheduled.start = start.max(Timestamp(now.0 - OPEN_H.hours()));
            if scheduled.start > now {
                changes.push(Change::Moved(scheduled.start));
            }
        }
        if now >= scheduled.start || next.start_asap {
            scheduled.started_at = Some(now);
            changes.push(Change::Started);
        }
        next.scheduled = Some(scheduled);
    }
    let opening = match scheduled.started_at {
        Some(_) => Opening::Open,
        None => Opening::Waits { until: scheduled.start, past_deadline: scheduled.start > due },
    };
    Advance { maintenance: next, changes, opening }
}

impl Maintenance {
    fn forget_scheduled(&mut self) {
        self.scheduled = None;
        self.deferrals = 0;
        self.start_asap = false;
    }
}

/// When work that has to start by `due` starts: the last window before, and the deadline itself where there is none.
fn start_by(now: Timestamp, maintenance: &Maintenance, due: Timestamp) -> Timestamp {
    let latest = due.max(now);
    let Some(window) = maintenance.window else {
        return unprotected(&latest.0.to_zoned_datetime(maintenance.zone()), maintenance.protected_hours)
            .start;
    };
    let a_week_before = latest.0.to_zoned_datetime(maintenance.zone()).checked_sub(1.week());
    let candidate = a_week_before.map(|from| weekly(&from, window));
    // `weekly` also gives the window that is open a week before; the one after it is then the later candidate.
    let candidates = candidate.iter().flat_map(|first| {
        let second =
            Span { start: maintenance.a_week_after(first.start), end: maintenance.a_week_after(first.end) };
        [second, *first]
    });
    candidates
        .into_iter()
        .find(|span| span.start <= latest && span.end > now)
        .map_or(latest, |span| span.start)
}

/// The weekly window that is open at `local`, or the next.
fn weekly(local: &ZonedDateTime, window: Window) -> Span {
    let day = match window.day_of_week {
        1 => Weekday::Sunday,
        2 => Weekday::Monday,
        3 => Weekday::Tuesday,
        4 => Weekday::Wednesday,
        5 => Weekday::Thursday,
        6 => Weekday::Friday,
        _ => Weekday::Saturday,
    };
    let days_ahead = i64::from(local.weekday().until(day));
    let on = |days: i64| -> Option<Span> {
        let date = local.date().checked_add(days.days()).ok()?;
        let at = date.at(window.hour_of_day.min(23).cast_signed(), 0, 0, 0);
        // An hour that daylight saving skips starts when the clocks have moved; one that comes twice, the first time.
        let start = at.to_zoned_datetime(local.time_zone().clone()).ok()?.timestamp();
        let end = start.checked_add(OPEN_H.hours()).ok()?;
        Some(Span { start: Timestamp(start), end: Timestamp(end) })
    };
    let now = Timestamp(local.timestamp());
    let this_week = on(days_ahead).filter(|span| span.end > now);
    // Yesterday's late window may still be open after midnight only if it began before it: it lasts one hour.
    this_week.or_else(|| on(days_ahead + 7)).unwrap_or(Span { start: now, end: now })
}

/// From `local`, or from the end of the protected hours.
fn unprotected(local: &ZonedDateTime, protected: Option<ProtectedHours>) -> Span {
    let now = Timestamp(local.timestamp());
    let a_day_on = |from: Timestamp| Timestamp(from.0 + 24.hours());
    let Some(hours) = protected else {
        return Span { start: now, end: a_day_on(now) };
    };
    let next_at = |from: &ZonedDateTime, hour: u8| -> Option<ZonedDateTime> {
        let today = from
            .date()
            .at(hour.min(23).cast_signed(), 0, 0, 0)
            .to_zoned_datetime(from.time_zone().clone())
            .ok()?;
        if today > *from {
            return Some(today);
        }
        let tomorrow = from.date().tomorrow().ok()?.at(hour.min(23).cast_signed(), 0, 0, 0);
        tomorrow.to_zoned_datetime(from.time_zone().clone()).ok()
    };
    let start = match hours.contains(local.hour().cast_unsigned()) {
        true => next_at(local, hours.end_hour_of_day).unwrap_or_else(|| local.clone()),
        false => local.clone(),
    };
    let end = next_at(&start, hours.start_hour_of_day);
    let start = Timestamp(start.timestamp());
    Span { start, end: end.map_or_else(|| a_day_on(start), |end| Timestamp(end.timestamp())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROJECT: ProjectId = ProjectId::from_bytes([3; 12]);

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse().unwrap())
    }

    fn window(day_of_week: u8, hour_of_day: u8) -> Maintenance {
        Maintenance { window: Some(Window { day_of_week, hour_of_day }), ..Maintenance::new(PROJECT) }
    }

    #[test]
    fn a_window_is_open_for_an_hour_each_week() {
        let sunday_at_2 = window(1, 2);
        // 2026-11-29 is a Sunday.
        let span = Span { start: at("2026-11-29T02:00:00Z"), end: at("2026-11-29T03:00:00Z") };
        for now in ["2026-11-24T12:00:00Z", "2026-11-29T02:00:00Z", "2026-11-29T02:59:59Z"] {
            assert_eq!(next_window(at(now), &sunday_at_2), span, "{now}");
        }
        let next = next_window(at("2026-11-29T03:00:00Z"), &sunday_at_2);
        assert_eq!(next.start, at("2026-12-06T02:00:00Z"));
    }

    #[test]
    fn a_window_is_meant_in_local_time() {
        let berlin = |day, hour| Maintenance { time_zone: "Europe/Berlin".into(), ..window(day, hour) };
        // Winter and summer: the same local hour, another hour in UTC.
        assert_eq!(next_window(at("2026-01-01T00:00:00Z"), &berlin(1, 4)).start, at("2026-01-04T03:00:00Z"));
        assert_eq!(next_window(at("2026-07-01T00:00:00Z"), &berlin(1, 4)).start, at("2026-07-05T02:00:00Z"));
        // The clocks go from 2 to 3 on 2026-03-29: the skipped hour starts when they have moved.
        assert_eq!(next_window(at("2026-03-28T00:00:00Z"), &berlin(1, 2)).start, at("2026-03-29T01:00:00Z"));
        // On 2026-10-25 the hour from 2 to 3 comes twice: the first counts.
        assert_eq!(next_window(at("2026-10-24T00:00:00Z"), &berlin(1, 2)).start, at("2026-10-25T00:00:00Z"));
        assert!(is_time_zone("Europe/Berlin") && !is_time_zone("Mars/Olympus"));
    }

    #[test]
    fn protected_hours_may_pass_midnight() {
        let hours = ProtectedHours { start_hour_of_day: 22, end_hour_of_day: 6 };
        assert!(hours.contains(22) && hours.contains(0) && hours.contains(5));
        assert!(!hours.contains(6) && !hours.contains(21));
        let protected = Maintenance { protected_hours: Some(hours), ..Maintenance::new(PROJECT) };
        let span = next_window(at("2026-11-24T23:10:00Z"), &protected);
        assert_eq!(span, Span { start: at("2026-11-25T06:00:00Z"), end: at("2026-11-25T22:00:00Z") });
        let span = next_window(at("2026-11-24T12:10:00Z"), &protected);
        assert_eq!(span, Span { start: at("2026-11-24T12:10:00Z"), end: at("2026-11-24T22:00:00Z") });
    }

    #[test]
    fn maintenance_is_announced_started_in_the_last_window_before_its_deadline_and_completed() {
        let due = Some(at("2026-12-02T10:00:00Z"));
        let idle = advance(at("2026-11-20T00:00:00Z"), &window(1, 2), due);
        assert_eq!(idle.changes, []);
        let until = at("2026-11-26T02:00:00Z");
        assert_eq!(idle.opening, Opening::Waits { until, past_deadline: false });

        let announced = advance(until, &idle.maintenance, due);
        let start = at("2026-11-29T02:00:00Z");
        assert_eq!(announced.changes, [Change::Announced(start)]);
        assert_eq!(announced.opening, Opening::Waits { until: start, past_deadline: false });
        let again = advance(at("2026-11-27T00:00:00Z"), &announced.maintenance, due);
        assert_eq!((again.changes, &again.maintenance), (vec![], &announced.maintenance));

        let started = advance(at("2026-11-29T02:00:05Z"), &announced.maintenance, due);
        assert_eq!((started.changes, started.opening), (vec![Change::Started], Opening::Open));
        let running = advance(at("2026-11-29T09:00:00Z"), &started.maintenance, due);
        assert_eq!((running.changes, running.opening), (vec![], Opening::Open));
        let done = advance(at("2026-11-29T09:10:00Z"), &started.maintenance, None);
        assert_eq!((done.changes, done.opening), (vec![Change::Completed], Opening::NothingDue));
        assert_eq!(done.maintenance, window(1, 2));
    }

    #[test]
    fn only_a_deferral_goes_past_the_deadline() {
        let due = at("2026-12-02T10:00:00Z");
        let now = at("2026-11-28T00:00:00Z");
        let announced = advance(now, &window(1, 2), Some(due)).maintenance;
        let once = announced.deferred().unwrap();
        let waits = advance(now, &once, Some(due));
        let until = at("2026-12-06T02:00:00Z");
        assert_eq!((waits.changes, waits.opening), (vec![], Opening::Waits { until, past_deadline: true }));
        let twice = once.deferred().unwrap();
        assert_eq!(twice.scheduled.unwrap().start, at("2026-12-13T02:00:00Z"));
        assert_eq!(twice.deferred(), Err(Refusal::DeferralsExceeded));
        // A whole week away: the deferred one still waits for a window, the other is late and starts.
        let late = at("2026-12-15T12:00:00Z");
        let moved = advance(late, &twice, Some(due));
        assert_eq!(moved.changes, [Change::Moved(at("2026-12-20T02:00:00Z"))]);
        let started = advance(late, &announced, Some(due));
        assert_eq!((started.changes, started.opening), (vec![Change::Started], Opening::Open));
    }

    #[test]
    fn a_deadline_without_a_window_before_it_is_the_start() {
        // Wednesday's deadline, Thursday's window, and it is Tuesday.
        let (now, due) = (at("2026-11-24T00:00:00Z"), at("2026-11-25T00:00:00Z"));
        let step = advance(now, &window(5, 2), Some(due));
        assert_eq!(step.changes, [Change::Announced(due)]);
        assert_eq!(advance(due, &step.maintenance, Some(due)).opening, Opening::Open);
    }

    #[test]
    fn every_maintenance_is_deferred_once_where_that_is_switched_on() {
        let due = Some(at("2026-12-02T10:00:00Z"));
        let auto = Maintenance { auto_defer_once: true, ..window(1, 2) };
        let step = advance(at("2026-11-28T00:00:00Z"), &auto, due);
        let (first, second) = (at("2026-11-29T02:00:00Z"), at("2026-12-06T02:00:00Z"));
        assert_eq!(step.changes, [Change::Announced(first), Change::AutoDeferred(second)]);
        assert_eq!(step.maintenance.deferrals, 1);
        let quiet = advance(at("2026-11-29T02:00:00Z"), &step.maintenance, due);
        assert_eq!(quiet.changes, []);
        assert_eq!(Maintenance::new(PROJECT).auto_defer_toggled(), Err(Refusal::NotDefined));
        assert!(window(1, 2).auto_defer_toggled().unwrap().auto_defer_once);
    }

    #[test]
    fn what_is_scheduled_keeps_its_window() {
        let now = at("2026-11-28T00:00:00Z");
        let scheduled = advance(now, &window(1, 2), Some(at("2026-12-02T10:00:00Z"))).maintenance;
        let start = at("2026-11-29T02:00:00Z");
        let to_monday = Patch { day_of_week: Some(2), ..Patch::default() };
        assert_eq!(scheduled.patched(now, &to_monday), Err(Refusal::AlreadyScheduled { start }));
        assert_eq!(scheduled.reset(), Err(Refusal::AlreadyScheduled { start }));
        let same = Patch { day_of_week: Some(1), start_asap: Some(true), ..Patch::default() };
        let asap = scheduled.patched(now, &same).unwrap();
        let step = advance(now, &asap, Some(at("2026-12-02T10:00:00Z")));
        assert_eq!((step.changes, step.opening), (vec![Change::Started], Opening::Open));
        assert_eq!(asap.deferred(), Err(Refusal::NotScheduled));
        assert!(!advance(now, &step.maintenance, None).maintenance.start_asap);
    }

    #[test]
    fn refuses_what_does_not_hold_together() {
        let now = at("2026-11-24T00:00:00Z");
        let none = Maintenance::new(PROJECT);
        let hour_alone = Patch { hour_of_day: Some(3), ..Patch::default() };
        assert_eq!(none.patched(now, &hour_alone), Err(Refusal::DayMissing));
        assert_eq!(none.deferred(), Err(Refusal::NotScheduled));
        let asap = Patch { day_of_week: Some(1), start_asap: Some(true), ..Patch::default() };
        assert_eq!(none.patched(now, &asap), Err(Refusal::NotScheduled));
        let hours =
            |start, end| Some(Some(ProtectedHours { start_hour_of_day: start, end_hour_of_day: end }));
        let protected = |start, end| Patch { protected_hours: hours(start, end), ..Patch::default() };
        assert_eq!(window(1, 2).patched(now, &protected(1, 4)), Err(Refusal::HourProtected { hour: 2 }));
        assert_eq!(
            window(1, 2).patched(now, &protected(4, 4)),
            Err(Refusal::ProtectedHoursEmpty { hour: 4 })
        );
        assert!(window(1, 2).patched(now, &protected(8, 18)).is_ok());
        // Tuesday; due on Thursday; a window on Friday would be too late, one on Wednesday is not.
        let deadline = at("2026-11-26T00:00:00Z");
        let due = Maintenance { due: Some(deadline), ..none };
        let on = |day| Patch { day_of_week: Some(day), ..Patch::default() };
        assert_eq!(due.patched(now, &on(6)), Err(Refusal::NonCompliant { deadline }));
        assert!(due.patched(now, &on(4)).is_ok());
    }

    #[test]
    fn what_was_announced_for_nothing_is_off() {
        let now = at("2026-11-28T00:00:00Z");
        let scheduled = advance(now, &window(1, 2), Some(at("2026-12-02T10:00:00Z"))).maintenance;
        for due in [None, Some(at("2027-02-26T00:00:00Z"))] {
            let step = advance(now, &scheduled, due);
            assert_eq!(step.changes, [Change::NoLongerNeeded]);
            assert_eq!(step.maintenance.scheduled, None);
        }
    }

    proptest! {
        #[test]
        fn a_window_is_open_or_ahead_by_at_most_a_week(
            now in 0_i64..4_000_000_000, day in 1_u8..8, hour in 0_u8..24,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Asia/Kolkata"]),
        ) {
            let now = Timestamp::from_epoch_ms(now * 1000);
            let maintenance = Maintenance { time_zone: zone.into(), ..window(day, hour) };
            let span = next_window(now, &maintenance);
            prop_assert!(span.end > now);
            prop_assert_eq!(span.end.0, span.start.0 + OPEN_H.hours());
            // A week, and what daylight saving or a skipped day adds.
            prop_assert!(span.start.0 <= now.0 + (8 * 24 + 1).hours());
        }

        #[test]
        fn steps_repeated_change_nothing_and_work_starts_by_its_deadline(
            begin in 0_i64..1_000_000, day in 1_u8..8, hour in 0_u8..24, ahead_h in 0_i64..2400, step_h in 1_i64..200,
        ) {
            let start = Timestamp::from_epoch_ms(begin * 1_000_000);
            let due = Timestamp(start.0 + ahead_h.hours());
            let mut maintenance = window(day, hour);
            let mut now = start;
            loop {
                let step = advance(now, &maintenance, Some(due));
                let again = advance(now, &step.maintenance, Some(due));
                prop_assert!(again.changes.is_empty(), "{:?}", again.changes);
                prop_assert_eq!(&again.maintenance, &step.maintenance);
                maintenance = step.maintenance;
                if step.opening == Opening::Open { break; }
                prop_assert!(now < due, "not started by {}", due);
                now = Timestamp(now.0 + step_h.hours());
            }
        }
    }
}
