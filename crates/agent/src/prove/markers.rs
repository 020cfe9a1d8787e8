//! Markers: random bytes that are nowhere else in the world, and every form in which they could lie on a disk.
//!
//! They are random, hence incompressible: a block compressor stores them as they are, so that a search without a
//! hit says something.

use aho_corasick::AhoCorasick;
use aws_lc_rs::rand::{SystemRandom, generate};
use bson::{Binary, Document, doc, spec::BinarySubtype};
use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};

/// How many different markers a proof writes.
const COUNT: usize = 16;
/// How many documents carry each of them.
const DOCUMENTS_EACH: usize = 8;
/// Bytes of further random data in each document, so that pages fill up and are written.
const PADDING: usize = 8 * 1024;

/// A set of markers.
#[derive(Debug, Clone)]
pub(super) struct Markers {
    seeds: Vec<[u8; 24]>,
}

/// A form of a marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    /// Which encoding.
    pub(super) encoding: &'static str,
    /// The bytes to search for.
    pub(super) bytes: Vec<u8>,
}

impl Markers {
    /// Makes new ones.
    pub(super) fn make() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let random = SystemRandom::new();
        let seeds = (0..COUNT).map(|_| generate(&random).map(|r| r.expose())).collect::<Result<_, _>>()?;
        Ok(Self { seeds })
    }

    /// The documents to write: a marker as a key, as text, as bytes, as a field's name, and amid random bytes.
    pub(super) fn documents(&self) -> Result<Vec<Document>, aws_lc_rs::error::Unspecified> {
        let random = SystemRandom::new();
        let mut all = Vec::new();
        for copy in 0..DOCUMENTS_EACH {
            for seed in &self.seeds {
                let mut padding = vec![0; PADDING];
                aws_lc_rs::rand::SecureRandom::fill(&random, &mut padding)?;
                padding[PADDING / 2..PADDING / 2 + seed.len()].copy_from_slice(seed);
                let bytes = |bytes: Vec<u8>| Binary { subtype: BinarySubtype::Generic, bytes };
                all.push(doc! {
                    "_id": format!("{}-{copy}", text(seed)),
                    "text": text(seed),
                    "bytes": bytes(seed.to_vec()),
                    text(seed): 1,
                    "padding": bytes(padding),
                });
            }
        }
        Ok(all)
    }

    /// How many different markers there are.
    pub(super) fn count(&self) -> usize {
        self.seeds.len()
    }

    /// Every form of every marker.
    pub(super) fn forms(&self) -> Vec<Form> {
        self.seeds.iter().flat_map(forms_of).collect()
    }

    /// One automaton over all forms; a match's pattern number is its place in [`Self::forms`].
    pub(super) fn automaton(&self) -> Result<AhoCorasick, aho_corasick::BuildError> {
        AhoCorasick::new(self.forms().iter().map(|form| &form.bytes))
    }
}

/// The field that a proof indexes.
pub(super) const INDEXED_FIELD: &str = "text";

/// A marker as text.
fn text(seed: &[u8]) -> String {
    HEXLOWER.encode(seed)
}

fn forms_of(seed: &[u8; 24]) -> Vec<Form> {
    let form = |encoding, bytes| Form { encoding, bytes };
    let text = text(seed);
    let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
    let mut all = vec![
        form("raw", seed.to_vec()),
        form("hex", text.clone().into_bytes()),
        form("hexUpper", HEXUPPER.encode(seed).into_bytes()),
        form("utf16le", wide(u16::to_le_bytes)),
        form("utf16be", wide(u16::to_be_bytes)),
        form("reversed", seed.iter().rev().copied().collect()),
    ];
    // Base64 of a longer text holds the marker at one of three alignments; the characters at both ends that also
    // depend on their neighbours are left away.
    for shift in 0..3 {
        let mut padded = vec![0; shift];
        padded.extend_from_slice(seed);
        let first = (shift * 8).div_ceil(6);
        let last = padded.len() * 8 / 6;
        for (encoding, codec) in [("base64", &BASE64), ("base64url", &BASE64URL)] {
            let encoded = codec.encode(&padded).into_bytes();
            all.push(form(encoding, encoded[first..last].to_vec()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_found_amid_other_bytes() {
        let markers = Markers::make().unwrap();
        let automaton = markers.automaton().unwrap();
        let seed = markers.seeds[3];
        for shift in 0..7 {
            let mut around = vec![b'x'; shift];
            around.extend_from_slice(&seed);
            around.extend_from_slice(b"tail");
            let wide: Vec<u8> = HEXLOWER.encode(&seed).encode_utf16().flat_map(u16::to_be_bytes).collect();
            for haystack in [
                around.clone(),
                HEXLOWER.encode(&around).into_bytes(),
                HEXUPPER.encode(&around).into_bytes(),
                BASE64.encode(&around).into_bytes(),
                BASE64URL.encode(&around).into_bytes(),
                wide,
            ] {
                assert!(automaton.is_match(&haystack), "shift {shift}");
            }
        }
    }

    #[test]
    fn other_random_bytes_do_not_match() {
        let automaton = Markers::make().unwrap().automaton().unwrap();
        for document in Markers::make().unwrap().documents().unwrap() {
            assert!(!automaton.is_match(&document.to_vec().unwrap()));
        }
    }

    #[test]
    fn the_documents_hold_the_markers() {
        let markers = Markers::make().unwrap();
        let automaton = markers.automaton().unwrap();
        let documents = markers.documents().unwrap();
        assert_eq!(documents.len(), COUNT * DOCUMENTS_EACH);
        assert!(documents.iter().all(|d| automaton.is_match(&d.to_vec().unwrap())));
    }
}
