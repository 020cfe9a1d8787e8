//! Versions of operations, and which one a request asks for.
//!
//! Follows the Atlas Administration API: the version is a date in the media type, and a date between two versions of
//! an operation means the older of them.

use std::fmt;

use jiff::civil::Date;
use keyward_model::Code;

use super::error::ApiError;

/// The version that a request is answered in. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiVersion {
    /// The operation has no versions.
    Unversioned,
    /// A date.
    Dated(Date),
    /// What may change without notice.
    Preview,
}

impl ApiVersion {
    /// The version of a day.
    ///
    /// Panics when there is no such day; for constants.
    pub const fn of(year: i16, month: i8, day: i8) -> Self {
        Self::Dated(jiff::civil::date(year, month, day))
    }

    /// From `YYYY-MM-DD` or `preview`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "preview" {
            return Some(Self::Preview);
        }
        let digits = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
        let shape = text.len() == 10 && [0, 1, 2, 3, 5, 6, 8, 9].into_iter().all(digits);
        if shape { text.parse().ok().map(Self::Dated) } else { None }
    }

    /// The `Content-Type` of a JSON answer in this version.
    pub fn media_type(self) -> String {
        match self {
            Self::Unversioned => "application/json".to_owned(),
            Self::Dated(_) | Self::Preview => format!("application/vnd.atlas.{self}+json;charset=utf-8"),
        }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unversioned => f.write_str("unversioned"),
            Self::Dated(date) => date.fmt(f),
            Self::Preview => f.write_str("preview"),
        }
    }
}

/// What a media type says about versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// This version, or the newest before it.
    Version(ApiVersion),
    /// JSON of any version: `application/json`, `application/*`, `*/*`.
    Any,
    /// Something that no operation answers with.
    Else,
}

/// What one media type asks for, parameters ignored.
pub fn asked(media_type: &str) -> Asked {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if matches!(essence.as_str(), "application/json" | "application/*" | "*/*") {
        return Asked::Any;
    }
    let version = essence
        .strip_prefix("application/vnd.atlas.")
        .and_then(|rest| rest.strip_suffix("+json"))
        .and_then(ApiVersion::parse);
    version.map_or(Asked::Else, Asked::Version)
}

/// The version of an operation with `versions` (oldest first) that a request with this `Accept` and `Content-Type`
/// is answered in.
///
/// A date means the newest version not after it. Where `Accept` is missing or names no version (`*/*`,
/// `application/json`), the body's media type decides if it names one, else the oldest version: the one that can
/// surprise a client least that does not know of versions. Sources differ on what Atlas does there; refusing would
/// lock out clients that it lets in.
pub fn resolve(
    accept: Option<&str>,
    content_type: Option<&str>,
    versions: &[&str],
) -> Result<ApiVersion, ApiError> {
    let known: Vec<ApiVersion> = versions.iter().filter_map(|text| ApiVersion::parse(text)).collect();
    let Some(oldest) = known.first().copied() else { return Ok(ApiVersion::Unversioned) };
    let refused = || ApiError::new(Code::InvalidVersionDate);
    let newest_until = |wanted: ApiVersion| match wanted {
        ApiVersion::Preview => known.iter().copied().find(|version| *version == ApiVersion::Preview),
        ApiVersion::Dated(_) => known
            .iter()
            .copied()
            .filter(|version| *version != ApiVersion::Preview && *version <= wanted)
            .max(),
        ApiVersion::Unversioned => None,
    };
    let accepted: Vec<Asked> = match accept.map(str::trim).filter(|text| !text.is_empty()) {
        Some(accept) => accept.split(',').map(asked).collect(),
        None => vec![Asked::Any],
    };
    if let Some(wanted) = accepted.iter().find_map(|asked| match asked {
        Asked::Version(version) => Some(*version),
        Asked::Any | Asked::Else => None,
    }) {
        return newest_until(wanted).ok_or_else(refused);
    }
    if !accepted.contains(&Asked::Any) {
        return Err(refused());
    }
    match content_type.map(asked) {
        Some(Asked::Version(wanted)) => newest_until(wanted).ok_or_else(refused),
        Some(Asked::Any | Asked::Else) | None => Ok(oldest),
    }
}

/// The version that took the place of `version`, if it is not the newest of the operation. A preview replaces
/// nothing.
pub fn successor(version: ApiVersion, versions: &[&str]) -> Option<Date> {
    versions
        .iter()
        .filter_map(|text| match ApiVersion::parse(text) {
            Some(ApiVersion::Dated(date)) if ApiVersion::Dated(date) > version => Some(date),
            Some(_) | None => None,
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTERS: &[&str] = &["2023-01-01", "2023-02-01", "2024-08-05"];

    fn version(accept: &str, versions: &[&str]) -> Result<String, Code> {
        resolve(Some(accept), None, versions).map(|version| version.to_string()).map_err(|error| error.code())
    }

    #[test]
    fn a_date_means_the_newest_version_not_after_it() {
        for (date, answered) in [
            ("2023-01-01", "2023-01-01"),
            ("2023-01-31", "2023-01-01"),
            ("2023-02-01", "2023-02-01"),
            ("2024-08-04", "2023-02-01"),
            ("2024-08-05", "2024-08-05"),
            ("2025-03-12", "2024-08-05"),
        ] {
            let accept = format!("application/vnd.atlas.{date}+json");
            assert_eq!(version(&accept, CLUSTERS).as_deref(), Ok(answered), "{date}");
        }
    }

    #[test]
    fn older_than_the_first_malformed_or_not_json_is_refused() {
        for accept in [
            "application/vnd.atlas.2022-12-31+json",
            "application/vnd.atlas.2023-13-01+json",
            "application/vnd.atlas.2023-1-1+json",
            "application/vnd.atlas.+json",
            "application/vnd.atlas.2023-01-01+csv",
            "application/vnd.atlas.preview+json",
            "text/html",
        ] {
            assert_eq!(version(accept, CLUSTERS), Err(Code::InvalidVersionDate), "{accept}");
        }
    }

    #[test]
    fn a_preview_is_only_had_by_asking_for_it() {
        let versions = &["2023-01-01", "preview"];
        assert_eq!(version("application/vnd.atlas.preview+json", versions).as_deref(), Ok("preview"));
        assert_eq!(version("application/vnd.atlas.2030-01-01+json", versions).as_deref(), Ok("2023-01-01"));
        assert_eq!(successor(ApiVersion::of(2023, 1, 1), versions), None);
    }

    #[test]
    fn without_a_version_the_body_decides_else_the_oldest() {
        let body = Some("application/vnd.atlas.2024-10-23+json");
        for accept in [None, Some("*/*"), Some("application/json"), Some("")] {
            assert_eq!(resolve(accept, None, CLUSTERS).unwrap(), ApiVersion::of(2023, 1, 1));
            assert_eq!(
                resolve(accept, Some("application/json"), CLUSTERS).unwrap(),
                ApiVersion::of(2023, 1, 1)
            );
            assert_eq!(resolve(accept, body, CLUSTERS).unwrap(), ApiVersion::of(2024, 8, 5));
        }
        assert_eq!(resolve(Some("text/html"), None, &[]).unwrap(), ApiVersion::Unversioned);
    }

    proptest::proptest! {
        #[test]
        fn resolution_never_panics_and_names_a_version_of_the_operation(accept in ".{0,80}", body in ".{0,80}") {
            if let Ok(version) = resolve(Some(&accept), Some(&body), CLUSTERS) {
                assert!(CLUSTERS.contains(&version.to_string().as_str()));
            }
        }

        #[test]
        fn a_later_date_never_means_an_earlier_version(a in "20[23][0-9]-0[1-9]-[012][1-8]", b in "20[23][0-9]-0[1-9]-[012][1-8]") {
            let (early, late) = if a <= b { (a, b) } else { (b, a) };
            let of = |date: &str| resolve(Some(&format!("application/vnd.atlas.{date}+json")), None, CLUSTERS).ok();
            assert!(of(&early) <= of(&late));
        }
    }
}
