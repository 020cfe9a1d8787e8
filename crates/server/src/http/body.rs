//! Bodies: read within limits, and parsed strictly.

use std::fmt;

use keyward_model::Code;
use serde::{
    Deserialize,
    de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::error::ApiError;

/// Largest body of a request, bytes.
pub const LARGEST_BODY: usize = 1 << 20;
/// Deepest nesting of arrays and objects in a body.
pub const DEEPEST_BODY: usize = 32;

/// The JSON value that `bytes` are. Refused: what is no JSON, an object with a name twice, too deep nesting.
pub fn parse_json(bytes: &[u8]) -> Result<Value, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| match error.classify() {
        serde_json::error::Category::Data => ApiError::new(Code::InvalidJson).detail(sentence(&error)),
        serde_json::error::Category::Syntax
        | serde_json::error::Category::Eof
        | serde_json::error::Category::Io => ApiError::new(Code::MalformedJson).detail(format!(
            "The body is no JSON: line {}, column {}.",
            error.line(),
            error.column()
        )),
    })
}

/// The body as `T`; what is wrong with it names the field.
pub fn parse<T: DeserializeOwned>(body: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let path = error.path().to_string();
        let text = error.inner().to_string();
        explain(&path, &text)
    })
}

/// What serde says about a field, in Atlas' codes. serde has no typed errors: its wording is what there is.
fn explain(path: &str, text: &str) -> ApiError {
    let place = |name: &str| match path {
        "." | "?" => name.to_owned(),
        path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        path => format!("{path}.{name}"),
    };
    let name = quoted(text);
    let (code, field, what) = match name {
        Some(name) if text.starts_with("unknown field") => {
            (Code::InvalidAttribute, place(name), "is not known".to_owned())
        }
        Some(name) if text.starts_with("missing field") => {
            (Code::MissingAttribute, place(name), "is missing".to_owned())
        }
        Some(name) if text.starts_with("unknown variant") => {
            let known = text.split_once(", expected ").map_or("another value", |(_, known)| known);
            (Code::InvalidEnumValue, path.to_owned(), format!("is {}, not {known}", short(name)))
        }
        Some(_) | None => {
            (Code::InvalidAttribute, path.to_owned(), format!("is wrong: {}", without_value(text)))
        }
    };
    let field = if field == "." { "the body".to_owned() } else { field };
    ApiError::new(code).detail(format!("The attribute {field} {what}.")).param(&field).field(field, what)
}

fn quoted(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('`')?;
    rest.split_once('`').map(|(name, _)| name)
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// serde quotes the value that it refused; it may be a secret, so an answer repeats none.
fn without_value(text: &str) -> String {
    match text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: ")) {
        Some(rest) => {
            let expected = rest.rsplit_once(", expected ").map_or("another value", |(_, expected)| expected);
            format!("expected {expected}")
        }
        None => short_of_quotes(text),
    }
}

fn short_of_quotes(text: &str) -> String {
    match text
        .split_once('`')
        .and_then(|(before, rest)| rest.split_once('`').map(|(_, after)| (before, after)))
    {
        Some((before, after)) => format!("{}{}", before.trim_start(), after.trim_start()),
        None => short(text),
    }
}

fn sentence(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("The body cannot be read: {what}.")
}

/// Builds a value, refusing duplicate names and deep nesting.
struct Strict {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > DEEPEST_BODY {
            return Err(D::Error::custom(format!("it nests deeper than {DEEPEST_BODY} levels")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Strict { depth: self.depth + 1 })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Strict { depth: self.depth + 1 })?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("an object has a name twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// A field of a PATCH: absent, `null`, or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Field<T> {
    /// Leave it as it is.
    #[default]
    Absent,
    /// Clear it.
    Null,
    /// Set it.
    Set(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<T>::deserialize(deserializer).map(|value| value.map_or(Self::Null, Self::Set))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    #[expect(dead_code, reason = "read by serde")]
    struct Body {
        name: String,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read by serde")]
    struct Inner {
        count: u32,
        kind: Kind,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    enum Kind {
        One,
    }

    fn refused(text: &str) -> (Code, Value) {
        let error = match parse_json(text.as_bytes()) {
            Ok(value) => parse::<Body>(value).unwrap_err(),
            Err(error) => error,
        };
        (error.code(), error.body())
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for text in ["", "{", "{\"name\":}", "[1,]", "nul", "{} {}", "\u{feff}{}"] {
            assert_eq!(refused(text).0, Code::MalformedJson, "{text}");
        }
        assert_eq!(parse_json(b"\"\xff\"").unwrap_err().code(), Code::MalformedJson);
    }

    #[test]
    fn a_name_twice_and_deep_nesting_are_refused() {
        assert_eq!(refused("{\"name\":\"a\",\"name\":\"b\"}").0, Code::InvalidJson);
        assert_eq!(refused("{\"inner\":{\"count\":1,\"count\":2}}").0, Code::InvalidJson);
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(parse_json(deep.as_bytes()).is_err());
        let fine = format!("{}{}", "[".repeat(DEEPEST_BODY), "]".repeat(DEEPEST_BODY));
        assert!(parse_json(fine.as_bytes()).is_ok());
    }

    #[test]
    fn the_field_is_named_and_its_value_is_not_repeated() {
        let cases = [
            ("{\"name\":\"a\",\"x\":1}", Code::InvalidAttribute, "x"),
            ("{}", Code::MissingAttribute, "name"),
            ("{\"name\":7}", Code::InvalidAttribute, "name"),
            (
                "{\"name\":\"a\",\"inner\":{\"count\":\"sesame\",\"kind\":\"ONE\"}}",
                Code::InvalidAttribute,
                "inner.count",
            ),
            (
                "{\"name\":\"a\",\"inner\":{\"count\":1,\"kind\":\"TWO\"}}",
                Code::InvalidEnumValue,
                "inner.kind",
            ),
            (
                "{\"name\":\"a\",\"inner\":{\"count\":1,\"kind\":\"ONE\",\"y\":2}}",
                Code::InvalidAttribute,
                "inner.y",
            ),
            ("{\"name\":\"a\",\"inner\":{\"count\":1}}", Code::MissingAttribute, "inner.kind"),
            ("[]", Code::InvalidAttribute, "the body"),
        ];
        for (text, code, field) in cases {
            let (found, body) = refused(text);
            assert_eq!((found, &body["parameters"]), (code, &json!([field])), "{text}: {body}");
            assert!(!body.to_string().contains("sesame"), "{body}");
        }
    }

    #[test]
    fn absent_null_and_set_are_told_apart() {
        #[derive(Deserialize)]
        struct Patch {
            #[serde(default)]
            a: Field<u8>,
            #[serde(default)]
            b: Field<u8>,
            #[serde(default)]
            c: Field<u8>,
        }
        let patch: Patch = parse(json!({"b": null, "c": 3})).unwrap();
        assert_eq!((patch.a, patch.b, patch.c), (Field::Absent, Field::Null, Field::Set(3)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Ok(value) = parse_json(&bytes) {
                assert_eq!(value, serde_json::from_slice::<Value>(&bytes).unwrap());
            }
        }
    }
}
