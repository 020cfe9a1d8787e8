//! Bytes as unpadded base64url text in JSON.

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

pub(super) fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
    BASE64URL_NOPAD.encode(bytes.as_ref()).serialize(to)
}

/// Into a vector, or into an array of exactly the right length.
pub(super) fn deserialize<'de, D, B>(from: D) -> Result<B, D::Error>
where
    D: Deserializer<'de>,
    B: TryFrom<Vec<u8>>,
{
    let text = Cow::<'de, str>::deserialize(from)?;
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(D::Error::custom)?;
    let len = bytes.len();
    B::try_from(bytes).map_err(|_| D::Error::custom(format!("{len} bytes are too few or too many")))
}
