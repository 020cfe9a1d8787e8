//! Backup blobs: a key with all its versions, opaque to the caller.
//!
//! Azure opens a blob only in the subscription and geography it was made in. The double keeps that rule by
//! sealing under a key derived from the two. They are no secret: a blob of this vault is as good as the key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::answer::Refusal;
use crate::state::{Key, Vault};

const LABEL: &str = "keyward development vault backup 1";

#[derive(Serialize, Deserialize)]
struct Contents {
    name: String,
    key: Key,
}

/// Makes the blob.
pub(super) fn seal(vault: &Vault, name: &str, key: &Key) -> Result<String, Refusal> {
    let contents = Contents { name: name.to_owned(), key: key.clone() };
    let mut sealed = serde_json::to_vec(&contents).map_err(|_| Refusal::InternalServerError)?;
    let nonce = sealing_key(vault)?
        .seal_in_place_append_tag(Aad::from(LABEL), &mut sealed)
        .map_err(|_| Refusal::InternalServerError)?;
    sealed.splice(0..0, nonce.as_ref().iter().copied());
    Ok(BASE64URL_NOPAD.encode(&sealed))
}

/// Opens a blob of this subscription and geography.
pub(super) fn open(vault: &Vault, blob: &[u8]) -> Result<(String, Key), Refusal> {
    let foreign = || {
        Refusal::BadParameter(
            "The backup blob cannot be restored: it is damaged, or of another subscription or geography"
                .to_owned(),
        )
    };
    let (nonce, sealed) = blob.split_first_chunk::<12>().ok_or_else(foreign)?;
    let mut sealed = sealed.to_vec();
    let plain = sealing_key(vault)?
        .open_in_place(nonce.into(), Aad::from(LABEL), &mut sealed)
        .map_err(|_| foreign())?;
    let contents: Contents = serde_json::from_slice(plain).map_err(|_| foreign())?;
    Ok((contents.name, contents.key))
}

fn sealing_key(vault: &Vault) -> Result<RandomizedNonceKey, Refusal> {
    let text = format!("{LABEL}\n{}\n{}", vault.subscription_id, geography(&vault.location));
    RandomizedNonceKey::new(&AES_256_GCM, digest(&SHA256, text.as_bytes()).as_ref())
        .map_err(|_| Refusal::InternalServerError)
}

/// The geography a region lies in; a region this table doesn't know is one of its own.
fn geography(location: &str) -> &str {
    match location {
        "westeurope" | "northeurope" => "Europe",
        "eastus" | "eastus2" | "westus" | "westus2" | "centralus" => "United States",
        "uksouth" | "ukwest" => "United Kingdom",
        other => other,
    }
}
