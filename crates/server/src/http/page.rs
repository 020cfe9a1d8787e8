//! Pages of lists: what a request asks for, and the links of an answer.

use keyward_model::Code;
use serde_json::{Value, json};

use super::error::ApiError;

/// Items on a page unless asked otherwise.
pub const USUAL_ITEMS: u32 = 100;
/// Most items on a page.
pub const MOST_ITEMS: u32 = 500;

/// The page that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Counted from 1.
    pub number: u32,
    /// Items per page.
    pub items: u32,
}

impl Page {
    /// From `pageNum` and `itemsPerPage`.
    pub fn of(query: &[(String, String)]) -> Result<Self, ApiError> {
        Ok(Self {
            number: number(query, "pageNum", i32::MAX as u32)?.unwrap_or(1),
            items: number(query, "itemsPerPage", MOST_ITEMS)?.unwrap_or(USUAL_ITEMS),
        })
    }

    /// How many items come before it.
    pub fn offset(self) -> u64 {
        u64::from(self.number - 1) * u64::from(self.items)
    }

    /// How many items it has at most.
    pub fn limit(self) -> u64 {
        u64::from(self.items)
    }

    /// Its share of a list that is at hand as a whole, and how many there are in all.
    pub fn of_list<T>(self, list: Vec<T>) -> (Vec<T>, u64) {
        let total = list.len() as u64;
        let before = usize::try_from(self.offset()).unwrap_or(usize::MAX);
        (list.into_iter().skip(before).take(self.items as usize).collect(), total)
    }
}

fn number(query: &[(String, String)], name: &str, most: u32) -> Result<Option<u32>, ApiError> {
    let Some((_, text)) = query.iter().find(|(key, _)| key == name) else { return Ok(None) };
    match text.parse::<u32>() {
        Ok(found) if (1..=most).contains(&found) => Ok(Some(found)),
        Ok(_) | Err(_) => Err(ApiError::new(Code::InvalidQueryParameter)
            .detail(format!("The query parameter {name} is a number from 1 to {most}."))
            .param(name)),
    }
}

/// A yes or no in the query; `usual` when it is not there.
pub fn flag(query: &[(String, String)], name: &str, usual: bool) -> Result<bool, ApiError> {
    match query.iter().find(|(key, _)| key == name).map(|(_, text)| text.as_str()) {
        None => Ok(usual),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(ApiError::new(Code::InvalidQueryParameter)
            .detail(format!("The query parameter {name} is true or false."))
            .param(name)),
    }
}

/// The links of page `page` of `total` items, under `base` (scheme, host and path).
pub fn links(base: &str, query: &[(String, String)], page: Page, total: u64) -> Value {
    let href = |number: u32| {
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in query.iter().filter(|(name, _)| name != "pageNum" && name != "itemsPerPage") {
            pairs.append_pair(name, value);
        }
        pairs
            .append_pair("pageNum", &number.to_string())
            .append_pair("itemsPerPage", &page.items.to_string());
        format!("{base}?{}", pairs.finish())
    };
    let mut links = vec![json!({"rel": "self", "href": href(page.number)})];
    if page.number > 1 {
        links.push(json!({"rel": "previous", "href": href(page.number - 1)}));
    }
    if page.offset() + page.limit() < total {
        links.push(json!({"rel": "next", "href": href(page.number + 1)}));
    }
    Value::Array(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Vec<(String, String)> {
        url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
    }

    #[test]
    fn pages_are_within_bounds() {
        assert_eq!(Page::of(&[]).unwrap(), Page { number: 1, items: 100 });
        assert_eq!(Page::of(&query("pageNum=3&itemsPerPage=500")).unwrap().offset(), 1000);
        for wrong in [
            "pageNum=0",
            "pageNum=-1",
            "pageNum=x",
            "pageNum=4294967296",
            "itemsPerPage=0",
            "itemsPerPage=501",
        ] {
            assert_eq!(Page::of(&query(wrong)).unwrap_err().code(), Code::InvalidQueryParameter, "{wrong}");
        }
    }

    #[test]
    fn links_go_back_and_on_only_where_there_is_something() {
        let rels = |number, total| {
            let links = links("https://h/p", &query("name=a b"), Page { number, items: 10 }, total);
            links
                .as_array()
                .unwrap()
                .iter()
                .map(|link| link["rel"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(rels(1, 10), ["self"]);
        assert_eq!(rels(1, 11), ["self", "next"]);
        assert_eq!(rels(2, 11), ["self", "previous"]);
        let links = links("https://h/p", &query("name=a b&pageNum=9"), Page { number: 1, items: 10 }, 0);
        assert_eq!(links[0]["href"], "https://h/p?name=a+b&pageNum=1&itemsPerPage=10");
    }
}
