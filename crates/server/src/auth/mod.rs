//! Who calls: HTTP Digest for API keys, OAuth2 tokens for service accounts, and how often one may guess.

pub mod digest;
pub mod limit;
pub mod oauth;
pub mod principal;

mod authenticate;

pub(crate) use authenticate::{authenticate, check_access_list, secret_of};
pub use principal::{Principal, Who};
