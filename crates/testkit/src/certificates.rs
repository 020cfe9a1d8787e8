//! Certificates for tests: an authority, and what it signs, as the files that mongod and the agent read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A day, as year, month and day.
pub type Day = (i32, u8, u8);

/// An authority with a folder for what it signs.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    ca_file: PathBuf,
}

impl Authority {
    /// A new one called `name`, its certificate in `folder`.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::create_dir_all(folder)?;
        let ca_file = folder.join(format!("{name}-ca.pem"));
        fs::write(&ca_file, issuer.pem())?;
        Ok(Self { issuer, folder: folder.to_owned(), ca_file })
    }

    /// Its own certificate.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// A certificate of `name` of the organization `tests of keyward`, for `hosts`, that holds until 2100, and its
    /// key, in one file.
    pub fn sign(&self, name: &str, hosts: &[&str]) -> Result<PathBuf> {
        self.sign_for(name, hosts, ((2020, 1, 1), (2100, 1, 1)))
    }

    /// The same with its days.
    pub fn sign_for(&self, name: &str, hosts: &[&str], (from, until): (Day, Day)) -> Result<PathBuf> {
        let mut params = CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "tests of keyward");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = self.folder.join(format!("{name}.pem"));
        fs::write(&file, format!("{}{}", certificate.pem(), key.serialize_pem()))?;
        Ok(file)
    }
}
