//! Who calls: HTTP Digest for API keys, OAuth2 tokens for service accounts, and how often one may guess.

pub(crate) mod buckets;
pub mod digest;
pub mod limit;
pub mod oauth;
pub mod principal;
pub mod usage;

mod authenticate;

pub(crate) use authenticate::{authenticate, check_access_list, may_try, secret_of, too_many};
pub use principal::{Principal, Who};
