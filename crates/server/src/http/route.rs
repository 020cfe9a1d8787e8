//! Which operation a method and path are.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::api::Operation;

/// The path's parameters by name, decoded.
pub type Parameters = Vec<(&'static str, String)>;

/// What a path leads to.
#[derive(Debug)]
pub enum Route {
    /// This operation, with the path's parameters.
    Found(&'static Operation, Parameters),
    /// The path exists, for these methods.
    OtherMethods(Vec<Method>),
    /// There is no such path.
    Nothing,
}

/// Finds the operation of `method` and `path` among `operations`. A path whose segments are written out wins over
/// one with a parameter in the same place.
pub fn route(operations: &'static [Operation], method: &Method, path: &str) -> Route {
    let mut found: Option<(&'static Operation, Parameters, usize)> = None;
    let mut others: Vec<Method> = Vec::new();
    for operation in operations {
        let Some(parameters) = parameters(operation.path, path) else { continue };
        if operation.method != *method {
            if !others.contains(&operation.method) {
                others.push(operation.method.clone());
            }
            continue;
        }
        // `/clusters/{name}` also fits `/clusters/a:pin`: the longer text written out is the closer one.
        let written = written_out(operation.path);
        if found.as_ref().is_none_or(|(_, _, best)| written > *best) {
            found = Some((operation, parameters, written));
        }
    }
    match found {
        Some((operation, parameters, _)) => Route::Found(operation, parameters),
        None if others.is_empty() => Route::Nothing,
        None => Route::OtherMethods(others),
    }
}

/// The parameters of `path` if it fits `template`.
pub fn parameters(template: &'static str, path: &str) -> Option<Parameters> {
    // One slash at the end is forgiven.
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut parameters = Vec::new();
    let mut segments = path.split('/');
    for wanted in template.split('/') {
        let segment = segments.next()?;
        let Some(rest) = wanted.strip_prefix('{') else {
            if wanted != segment {
                return None;
            }
            continue;
        };
        let (name, suffix) = rest.split_once('}')?;
        // Colons may come encoded.
        let value = match suffix {
            "" => segment,
            suffix => {
                let colon = segment.strip_suffix(suffix);
                let encoded = || segment.strip_suffix(&suffix.replacen(':', "%3A", 1));
                colon.or_else(encoded)?
            }
        };
        let value = percent_decode_str(value).decode_utf8().ok()?.into_owned();
        if value.is_empty() {
            return None;
        }
        parameters.push((name, value));
    }
    segments.next().is_none().then_some(parameters)
}

/// How much of a template is written out, outside braces.
fn written_out(template: &str) -> usize {
    template.split('{').map(|part| part.split_once('}').map_or(part, |(_, outside)| outside).len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "/api/atlas/v2/groups/{groupId}/clusters/{clusterName}";
    const PIN: &str = "/api/atlas/v2/groups/{groupId}/clusters/{clusterName}:pin";

    #[test]
    fn parameters_are_decoded_and_suffixes_belong_to_the_path() {
        let found = parameters(PIN, "/api/atlas/v2/groups/g/clusters/a%20b:pin").unwrap();
        assert_eq!(found, [("groupId", "g".to_owned()), ("clusterName", "a b".to_owned())]);
        assert!(parameters(PIN, "/api/atlas/v2/groups/g/clusters/a%3Apin").is_some());
        assert!(parameters(PIN, "/api/atlas/v2/groups/g/clusters/a").is_none());
        assert!(parameters(PIN, "/api/atlas/v2/groups/g/clusters/:pin").is_none());
        assert!(parameters(CLUSTER, "/api/atlas/v2/groups/g/clusters/a/b").is_none());
        assert!(parameters(CLUSTER, "/api/atlas/v2/groups//clusters/a").is_none());
        assert!(parameters(CLUSTER, "/api/atlas/v2/groups/g/clusters/%ff").is_none());
        assert!(parameters(CLUSTER, "/api/atlas/v2/groups/g/clusters/a/").is_some());
        assert!(written_out(PIN) > written_out(CLUSTER));
    }

    #[test]
    fn every_operation_is_found_by_its_own_path() {
        for operation in crate::api::all() {
            let path = operation.path.replace(['{', '}'], "");
            match route(crate::api::all(), &operation.method, &path) {
                Route::Found(found, _) => assert_eq!(found.id, operation.id, "{path}"),
                other @ (Route::OtherMethods(_) | Route::Nothing) => panic!("{path}: {other:?}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_put_in_comes_out(group in "[a-f0-9]{24}", name in "[^/]{1,30}") {
            let encoded = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
            let path = format!("/api/atlas/v2/groups/{group}/clusters/{encoded}");
            let found = parameters(CLUSTER, &path).unwrap();
            assert_eq!(found, [("groupId", group), ("clusterName", name)]);
        }

        #[test]
        fn any_path_is_matched_or_not(path in ".{0,200}") {
            let _ = route(crate::api::all(), &Method::GET, &path);
        }
    }
}
