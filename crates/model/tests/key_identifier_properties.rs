//! Properties of key identifiers: what is taken is printed back, and nothing else is taken.

use keyward_model::KeyIdentifier;
use proptest::prelude::*;

proptest! {
    #[test]
    fn what_is_well_formed_survives(
        host in "[a-z][a-z0-9-]{0,20}[a-z0-9](\\.[a-z]{2,8}){0,3}",
        port in prop::option::of(1u16..),
        name in "[0-9a-zA-Z-]{1,127}",
        version in "[0-9a-f]{32}",
    ) {
        // 443 is what `https` means and is not printed.
        let port = port.filter(|port| *port != 443).map(|port| format!(":{port}")).unwrap_or_default();
        let text = format!("https://{host}{port}/keys/{name}/{version}");
        let key: KeyIdentifier = text.parse().unwrap();
        prop_assert_eq!(key.to_string(), text.clone());
        prop_assert_eq!(key.vault_url(), format!("https://{host}{port}"));
        prop_assert_eq!((key.name(), key.version()), (name.as_str(), version.as_str()));
        prop_assert_eq!(KeyIdentifier::new(key.vault_url(), key.name(), key.version()).unwrap(), key.clone());
        let json = serde_json::to_string(&key).unwrap();
        prop_assert_eq!(&json, &format!("{text:?}"));
        prop_assert_eq!(serde_json::from_str::<KeyIdentifier>(&json).unwrap(), key);
    }

    /// No text makes it panic, and whatever is taken is in its one canonical form.
    #[test]
    fn any_text_is_taken_in_canonical_form_or_refused(text in "(https://)?[a-zA-Z0-9.:/@?#%_ -]{0,120}") {
        if let Ok(key) = text.parse::<KeyIdentifier>() {
            let again: KeyIdentifier = key.to_string().parse().unwrap();
            prop_assert_eq!(again, key);
        }
    }

    /// A path cannot be made to mean another key.
    #[test]
    fn odd_names_and_versions_are_refused(name in "[a-z]{1,5}[./%_ ][a-z.]{0,5}", version in "[0-9A-F]{31,33}|[g-z]{32}") {
        let well_formed = "0123456789abcdef0123456789abcdef";
        let (name_text, version_text) =
            (format!("https://v/keys/{name}/{well_formed}"), format!("https://v/keys/k/{version}"));
        prop_assert!(name_text.parse::<KeyIdentifier>().is_err());
        let is_version = version.len() == 32 && !version.bytes().any(|byte| byte.is_ascii_uppercase() || byte >= b'g');
        prop_assert_eq!(version_text.parse::<KeyIdentifier>().is_ok(), is_version);
    }
}
