//! The server's API from a client's side: profiles, credentials, calls, and what a refusal means for a person.

pub(crate) mod answer;
mod client;
mod credential;
pub(crate) mod profile;
mod refusal;
mod scope;
mod unreachable;

pub(crate) use client::{Api, Endpoint, atlas, own};
pub(crate) use credential::{Credential, TokenAnswer};
pub(crate) use scope::{connect, id_of_org, id_of_project, organization, project};
