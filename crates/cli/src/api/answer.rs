//! Reads what the server answered: texts, numbers, lists; and lays lists out as tables.

use keyward_model::Timestamp;
use serde_json::Value;

use crate::render::{age, table};

/// The text at `pointer` (`/azureKeyVault/tenantID`); empty where there is none.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at `pointer`; 0 where there is none.
pub(crate) fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// Whether `pointer` is true.
pub(crate) fn is(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// The items at `pointer`; none where there is no list.
pub(crate) fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The texts of the list at `pointer`, with commas.
pub(crate) fn joined(value: &Value, pointer: &str) -> String {
    items(value, pointer).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// How long ago the time at `pointer` is; `–` where there is none.
pub(crate) fn ago(value: &Value, pointer: &str, now: Timestamp) -> String {
    time(value, pointer).map_or_else(|| "–".to_owned(), |then| age(then, now))
}

/// The time at `pointer`, as text or as milliseconds since 1970.
pub(crate) fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    let value = value.pointer(pointer)?;
    match value.as_str() {
        Some(text) => text.parse().ok().map(Timestamp),
        None => value.as_i64().map(Timestamp::from_epoch_ms),
    }
}

/// `text`, or a dash for nothing.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "–".to_owned() } else { text.to_owned() }
}

/// A table with one row per item; `none` says that there is none.
pub(crate) fn rows<const N: usize>(
    head: [&str; N],
    none: &str,
    items: &[Value],
    row: impl Fn(&Value) -> [String; N],
) -> String {
    if items.is_empty() {
        return format!("{none}\n");
    }
    let head = head.map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(items.iter().map(|item| row(item).to_vec())).collect();
    table(&rows)
}

/// `name  value` lines; those without a value are left out.
pub(crate) fn lines(fields: &[(&str, String)]) -> String {
    let shown = || fields.iter().filter(|(_, value)| !value.is_empty());
    let wide = shown().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    shown()
        .map(|(name, value)| {
            let gap = " ".repeat(wide.saturating_sub(name.chars().count()) + 2);
            let value = value.replace('\n', &format!("\n{}", " ".repeat(wide + 2)));
            format!("{name}{gap}{value}\n")
        })
        .collect()
}
