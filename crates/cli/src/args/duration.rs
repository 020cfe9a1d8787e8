//! Times on the command line.

use std::time::Duration;

/// `90s`, `5m`, `1h`, `500ms`; whole numbers only, one unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| "a time is a number and a unit: 90s, 5m, 1h".to_owned())?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(format!("{number} of what? Add a unit: {number}s, {number}m or {number}h")),
        other => return Err(format!("{other:?} is no unit of time: use ms, s, m or h")),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(|| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in
            ["", "s", "90", "-1s", "1.5h", "90 s", "1d", "99999999999999999999s", "18446744073709551h"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
