//! The agent's configuration file.
//!
//! Owns its shape, its defaults and every check that needs no network. It never holds a secret: files name other
//! files. All problems are reported at once, each with file, line and hint.

mod tls;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use keyward_config_file::{Found, Problems, Reader, Section};
use keyward_kms::azure;
use keyward_model::{KeyIdentifier, RevocationPolicy, approval::Approval};
pub use tls::TlsConfig;
use url::Url;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node's name, for people.
    pub name: String,
    /// DBPATH.
    pub data_path: PathBuf,
    /// Where the agent remembers things, outside DBPATH.
    pub state_dir: PathBuf,
    /// What to do on an empty data path.
    pub initial: Initial,
    /// The encryptor library.
    pub encryptor: PathBuf,
    /// Spare database keys to keep in the keystore.
    pub spare_database_keys: usize,
    /// The database process.
    pub engine: EngineConfig,
    /// The customer key.
    pub customer_key: CustomerKeyConfig,
    /// When refusals become a revocation.
    pub verdict: VerdictConfig,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Where metrics are served, loopback only.
    pub metrics_listen: Option<SocketAddr>,
    /// Options and credentials of the object store for snapshots; the host's own identity where not given.
    pub snapshot_credentials_file: Option<PathBuf>,
    /// What a server may do here.
    pub server: ServerConfig,
}

/// What to do on an empty data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// Make a keystore and an empty database.
    New,
    /// Wait for `keyward node restore`.
    Restore,
    /// Wait until the server places this node in a cluster.
    Server,
}

/// Kinds of database processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// MongoDB Community.
    Mongod,
    /// SecantusDB from PyPI.
    Secantusdb,
    /// A program that drives WiredTiger itself as mongod does: for tests and demonstrations.
    Wiredtiger,
}

impl EngineKind {
    /// As it stands in the file and in status.
    pub fn as_str(self) -> &'static str {
        match self {
            EngineKind::Mongod => "mongod",
            EngineKind::Secantusdb => "secantusdb",
            EngineKind::Wiredtiger => "wiredtiger",
        }
    }
}

/// What may stay readable of the things that an engine writes outside WiredTiger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Exposure {
    /// Nothing.
    Strict,
    /// What holds no document.
    #[default]
    Standard,
    /// Whatever the engine writes.
    Open,
}

impl Exposure {
    /// As it stands in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Exposure::Strict => "strict",
            Exposure::Standard => "standard",
            Exposure::Open => "open",
        }
    }
}

/// What to do with a mongod release that the layout table does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum UnknownRelease {
    /// Do not start it.
    #[default]
    Refuse,
    /// Accept its layout on symbol names alone.
    Symbols,
}

/// `[engine]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Which kind.
    pub kind: EngineKind,
    /// The program to run: a mongod, or the Python that has SecantusDB.
    pub program: PathBuf,
    /// Further arguments, after the agent's own.
    pub args: Vec<String>,
    /// Address it listens on.
    pub host: String,
    /// Port it listens on.
    pub port: u16,
    /// Where its output goes.
    pub log_file: PathBuf,
    /// What may stay readable outside WiredTiger.
    pub exposure: Exposure,
    /// Accepts that swap may hold plaintext.
    pub accept_plaintext_in_swap: bool,
    /// The Unix user it runs as; needs an agent that runs as root.
    pub user: Option<String>,
    /// The layout of its WiredTiger; found by release where not given.
    pub layout: Option<String>,
    /// What to do with an unknown release.
    pub unknown_release: UnknownRelease,
    /// The agent's own database user.
    pub database_user: Option<String>,
    /// Its password.
    pub database_password_file: Option<PathBuf>,
    /// How it is spoken to over TLS, where the file says so.
    pub tls: Option<TlsConfig>,
    /// How long a clean stop may take before the process is killed.
    pub stop_grace: Duration,
    /// How long its encryptor may take to say hello.
    pub hello_timeout: Duration,
}

impl EngineConfig {
    /// A mongod with every default: what a preflight judges without a file.
    pub(crate) fn of_mongod(program: PathBuf) -> Self {
        Self {
            kind: EngineKind::Mongod,
            program,
            args: Vec::new(),
            host: "127.0.0.1".to_owned(),
            port: 27017,
            log_file: PathBuf::from("/var/log/mongodb/mongod.log"),
            exposure: Exposure::default(),
            accept_plaintext_in_swap: false,
            user: None,
            layout: None,
            unknown_release: UnknownRelease::default(),
            database_user: None,
            database_password_file: None,
            tls: None,
            stop_grace: Duration::from_secs(120),
            hello_timeout: Duration::from_secs(120),
        }
    }

    /// With every default, for tests of the engine's parts.
    #[cfg(test)]
    pub(crate) fn for_test(kind: EngineKind) -> Self {
        Self { kind, ..Self::of_mongod(PathBuf::from("/nowhere")) }
    }
}

/// `[customer_key]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerKeyConfig {
    /// The customer key that a new keystore is made under. An existing keystore names its own; a node that waits
    /// for its server gets it from there.
    pub key_identifier: Option<KeyIdentifier>,
    /// How it is reached; its tenant is the only one that customer keys may come from.
    pub azure: azure::AzureConfig,
    /// When the client secret expires, as far as the operator recorded it.
    pub client_secret_expires: Option<jiff::civil::Date>,
}

/// `[server]`: what holds for the server that the node has joined. Its address comes with the join token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerConfig {
    /// What a key identifier from the server must begin with, any of these; none: any vault of the tenant.
    pub keys: Vec<String>,
    /// What is approved beforehand.
    pub approve: BTreeSet<Approval>,
}

/// `[verdict]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerdictConfig {
    /// Time between two probes.
    pub probe_interval: Duration,
    /// Time between two unwraps of the master key itself.
    pub master_key_check_interval: Duration,
    /// When refusals add up.
    pub policy: RevocationPolicy,
}

impl Config {
    /// Reads and checks `path`.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let text = std::fs::read_to_string(path).map_err(|source| {
            let text = format!("the file cannot be read: {source}");
            Problems::of_file(path, text, "check the path and its permissions")
        })?;
        Self::parse(&text, path)
    }

    /// Checks `text`; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Problems> {
        keyward_config_file::parse(text, path, read)
    }

    /// DBPATH/.keyward: what keyward keeps beside the data.
    pub fn keyward_dir(&self) -> PathBuf {
        self.data_path.join(".keyward")
    }

    /// The socket for encryptors.
    pub fn key_socket(&self) -> PathBuf {
        self.state_dir.join("keys").join("socket")
    }
}

/// Longest path of a Unix socket, without the final NUL.
const SOCKET_PATH_MAX: usize = 107;

fn read<'i>(r: &mut Reader<'i>, mut top: Section<'i>) -> Option<Config> {
    let name = r.text(&mut top, "name", "give a name for the node, such as \"node-0\"");
    let data_path = r.path(&mut top, "data_path", "give the folder for the database's files");
    let state_dir =
        r.path(&mut top, "state_dir", "give a folder outside data_path, such as /var/lib/keyward/NAME");
    if let (Some(data), Some(state)) = (&data_path, &state_dir)
        && (state.value.starts_with(&data.value) || data.value.starts_with(&state.value))
    {
        r.problem(
            state.span.clone(),
            "`state_dir` and `data_path` lie within each other",
            "a copy or a rollback of the data must not carry the agent's memory with it: keep them apart",
        );
    }
    if let Some(state) = &state_dir
        && state.value.join("keys").join("socket").as_os_str().len() > SOCKET_PATH_MAX
    {
        r.problem(
            state.span.clone(),
            "`state_dir` is too long for a socket in it",
            "choose a path of at most 90 characters",
        );
    }
    let initial = r.choice(
        &mut top,
        "initial",
        &[("new", Initial::New), ("restore", Initial::Restore), ("server", Initial::Server)],
        Some(Initial::New),
    );
    let encryptor = r.path(&mut top, "encryptor", "give the path of libkeyward_encryptor.so");
    let spares = r.integer(&mut top, "spare_database_keys", 1..=4096, Some(64));
    let engine = r.section(&mut top, "engine").and_then(|table| read_engine(r, table, state_dir.as_ref()));
    let customer_key = r.section(&mut top, "customer_key").and_then(|table| {
        // What a node that waits for its server need not know yet.
        let later =
            (initial == Some(Initial::Server)).then(|| state_dir.as_ref().map(|dir| dir.value.clone()));
        read_customer_key(r, table, later.flatten())
    });
    let verdict = match r.optional_section(&mut top, "verdict") {
        Some(table) => read_verdict(r, table.unwrap_or_default()),
        None => None,
    };
    let admin_socket = r.section(&mut top, "admin").and_then(|mut table| {
        let socket = r.path(&mut table, "socket", "give a path such as /run/keyward/NAME/admin.sock");
        if let Some(socket) = &socket
            && socket.value.as_os_str().len() > SOCKET_PATH_MAX
        {
            let text = format!("`socket` is longer than {SOCKET_PATH_MAX} characters");
            r.problem(socket.span.clone(), text, "choose a shorter path");
        }
        r.no_more(table);
        socket
    });
    let metrics_listen = match r.optional_section(&mut top, "metrics") {
        Some(Some(mut table)) => {
            let listen = r.text(&mut table, "listen", "give an address such as \"127.0.0.1:9216\"");
            r.no_more(table);
            listen.and_then(|listen| read_metrics_address(r, listen)).map(Some)
        }
        Some(None) => Some(None),
        None => None,
    };
    let snapshot_credentials = match r.optional_section(&mut top, "snapshots") {
        Some(Some(mut table)) => {
            let file = r.optional_path(&mut table, "credentials_file");
            r.no_more(table);
            file
        }
        Some(None) => Some(None),
        None => None,
    };
    let server = match r.optional_section(&mut top, "server") {
        Some(table) => read_server(r, table.unwrap_or_default()),
        None => None,
    };
    r.no_more(top);
    Some(Config {
        name: name?.value,
        data_path: data_path?.value,
        state_dir: state_dir?.value,
        initial: initial?,
        encryptor: encryptor?.value,
        spare_database_keys: usize::try_from(spares?).unwrap_or(64),
        engine: engine?,
        customer_key: customer_key?,
        verdict: verdict?,
        admin_socket: admin_socket?.value,
        metrics_listen: metrics_listen?,
        snapshot_credentials_file: snapshot_credentials?,
        server: server?,
    })
}

fn read_metrics_address(r: &mut Reader<'_>, listen: Found<String>) -> Option<SocketAddr> {
    let parse = |text: &str| text.parse::<SocketAddr>().ok();
    let Found { value, span, .. } =
        r.parsed(listen, "is no ADDRESS:PORT", "write it as 127.0.0.1:9216", parse)?;
    if value.ip().is_loopback() {
        return Some(value);
    }
    r.problem(
        span,
        format!("`listen` = \"{value}\" is no loopback address"),
        "metrics are served without TLS or login: use 127.0.0.1 or [::1]",
    );
    None
}

fn read_server<'i>(r: &mut Reader<'i>, mut table: Section<'i>) -> Option<ServerConfig> {
    let place = table.place();
    let keys = r.texts(&mut table, "keys");
    let approve = r.texts(&mut table, "approve");
    r.no_more(table);
    let keys = keys?;
    for key in &keys {
        // Without the slash `https://contoso.` would let `https://contoso.attacker.example` in.
        let whole_host = key.strip_prefix("https://").is_some_and(|rest| rest.contains('/'));
        if !whole_host {
            r.problem(
                place.clone(),
                format!("`keys` names \"{key}\", which is not https://VAULT_HOST/…"),
                "write what the allowed key identifiers begin with, such as \"https://contoso.vault.azure.net/\"",
            );
        }
    }
    let mut approved = BTreeSet::new();
    for text in approve? {
        match text.parse::<Approval>() {
            Ok(approval) => {
                approved.insert(approval);
            }
            Err(error) => {
                let hint = "copy the line that `keyward node approve` shows";
                r.problem(place.clone(), error.to_string(), hint);
            }
        }
    }
    Some(ServerConfig { keys, approve: approved })
}

fn read_engine<'i>(
    r: &mut Reader<'i>,
    mut table: Section<'i>,
    state_dir: Option<&Found<PathBuf>>,
) -> Option<EngineConfig> {
    let kinds = [
        ("mongod", EngineKind::Mongod),
        ("secantusdb", EngineKind::Secantusdb),
        ("wiredtiger", EngineKind::Wiredtiger),
    ];
    let kind = r.choice(&mut table, "kind", &kinds, None);
    let program =
        r.path(&mut table, "program", "give the path of mongod, or of the Python that has SecantusDB");
    let args = r.texts(&mut table, "args");
    let host = r.optional_text(&mut table, "host");
    let port = r.integer(&mut table, "port", 1..=65_535, None);
    let log_file = r.optional_path(&mut table, "log_file");
    let levels = [("strict", Exposure::Strict), ("standard", Exposure::Standard), ("open", Exposure::Open)];
    let exposure = r.choice(&mut table, "exposure", &levels, Some(Exposure::default()));
    let swap = r.boolean(&mut table, "accept_plaintext_in_swap", false);
    let user = r.optional_text(&mut table, "user");
    let layout = r.optional_text(&mut table, "layout");
    let answers = [("refuse", UnknownRelease::Refuse), ("symbols", UnknownRelease::Symbols)];
    let unknown_release = r.choice(&mut table, "unknown_release", &answers, Some(UnknownRelease::default()));
    let database_user = r.optional_text(&mut table, "database_user");
    let password = r.optional_path(&mut table, "database_password_file");
    if let (Some(user), Some(file)) = (&database_user, &password)
        && user.is_some() != file.is_some()
    {
        r.problem(
            table.place(),
            "[engine] has one of `database_user` and `database_password_file` without the other",
            "give both, or neither",
        );
    }
    let has_user = database_user.as_ref().is_none_or(Option::is_some);
    let tls = tls::read(r, &mut table, &tls::Beside { kind, args: args.as_deref(), has_user });
    let stop_grace = r.integer(&mut table, "stop_grace_s", 1..=3600, Some(120));
    let hello_timeout = r.integer(&mut table, "hello_timeout_s", 1..=86_400, Some(120));
    r.no_more(table);
    Some(EngineConfig {
        kind: kind?,
        program: program?.value,
        args: args?,
        host: host?.map_or_else(|| "127.0.0.1".to_owned(), |found| found.value),
        port: u16::try_from(port?).unwrap_or_default(),
        // Without a state folder there is no configuration anyway.
        log_file: log_file?.or_else(|| state_dir.map(|dir| dir.value.join("engine.log")))?,
        exposure: exposure?,
        accept_plaintext_in_swap: swap?,
        user: user?.map(|found| found.value),
        layout: layout?.map(|found| found.value),
        unknown_release: unknown_release?,
        database_user: database_user?.map(|found| found.value),
        database_password_file: password?,
        tls: tls?,
        stop_grace: Duration::from_secs(stop_grace?),
        hello_timeout: Duration::from_secs(hello_timeout?),
    })
}

/// `later` is the state folder of a node that gets its customer key and credential from its server.
fn read_customer_key<'i>(
    r: &mut Reader<'i>,
    mut table: Section<'i>,
    later: Option<PathBuf>,
) -> Option<CustomerKeyConfig> {
    let place = table.place();
    let given = later.is_none() || table.has("key_identifier");
    let key_identifier = given.then(|| {
        r.text(&mut table, "key_identifier", "copy it from the vault, with its version").and_then(|text| {
            match text.value.parse::<KeyIdentifier>() {
                Ok(id) => Some(id),
                Err(error) => {
                    let hint =
                        "copy the key identifier from the vault: https://VAULT.vault.azure.net/keys/NAME/VERSION";
                    r.problem(text.span, error.to_string(), hint);
                    None
                }
            }
        })
    });
    let key_identifier = match key_identifier {
        None => Some(None),
        Some(read) => read.map(Some),
    };
    let tenant_id = match read_guid(r, &mut table, "tenant_id") {
        Some(None) => {
            r.problem(place.clone(), "`tenant_id` is missing", GUID_HINT);
            None
        }
        given => given.flatten(),
    };
    let managed = r.boolean(&mut table, "managed_identity", false);
    let client_id = match read_guid(r, &mut table, "client_id") {
        Some(None) if managed == Some(false) && later.is_none() => {
            r.problem(place.clone(), "`client_id` is missing", GUID_HINT);
            None
        }
        given => given,
    };
    let credential =
        read_credential(r, &mut table, managed == Some(true), client_id.clone().flatten(), later);
    let expires = match r.optional_text(&mut table, "client_secret_expires") {
        None => None,
        Some(None) => Some(None),
        Some(Some(text)) => {
            let parse = |text: &str| text.parse::<jiff::civil::Date>().ok();
            r.parsed(text, "is no date", "write it as \"2027-01-31\"", parse).map(|found| Some(found.value))
        }
    };
    let cloud = read_cloud(r, &mut table, key_identifier.as_ref().and_then(Option::as_ref));
    let ca_file = r.optional_path(&mut table, "ca_file");
    let subscription_id = read_guid(r, &mut table, "subscription_id");
    let resource_group = r.optional_text(&mut table, "resource_group");
    if let (Some(subscription), Some(group)) = (&subscription_id, &resource_group)
        && subscription.is_some() != group.is_some()
    {
        r.problem(
            place,
            "[customer_key] has one of `subscription_id` and `resource_group` without the other",
            "give both, or neither",
        );
    }
    let timeout = r.integer(&mut table, "call_timeout_s", 1..=120, Some(10));
    let private = r.boolean(&mut table, "require_private_networking", false);
    r.no_more(table);
    Some(CustomerKeyConfig {
        key_identifier: key_identifier?,
        azure: azure::AzureConfig {
            tenant_id: tenant_id?,
            client_id: client_id?.unwrap_or_default(),
            credential: credential?,
            cloud: cloud?,
            ca_file: ca_file?,
            subscription_id: subscription_id?,
            resource_group: resource_group?.map(|found| found.value),
            call_timeout: Duration::from_secs(timeout?),
            require_private_networking: private?,
        },
        client_secret_expires: expires?,
    })
}

fn read_credential<'i>(
    r: &mut Reader<'i>,
    table: &mut Section<'i>,
    managed: bool,
    client_id: Option<String>,
    later: Option<PathBuf>,
) -> Option<azure::Credential> {
    let secret = r.optional_path(table, "client_secret_file");
    let certificate = r.optional_path(table, "client_certificate_file");
    let token = r.optional_path(table, "federated_token_file");
    let endpoint = match r.optional_text(table, "managed_identity_endpoint") {
        None => None,
        Some(None) => Some(None),
        Some(Some(text)) => read_url(r, text).map(Some),
    };
    let mut given = Vec::new();
    if let Some(path) = secret? {
        given.push(azure::Credential::ClientSecretFile(path));
    }
    if let Some(path) = certificate? {
        given.push(azure::Credential::Certificate { path });
    }
    if let Some(token_file) = token? {
        given.push(azure::Credential::Federated { token_file });
    }
    if managed {
        given.push(azure::Credential::ManagedIdentity { client_id, endpoint: endpoint? });
    }
    if given.len() == 1 {
        return given.pop();
    }
    if let (true, Some(state_dir)) = (given.is_empty(), later) {
        // Names no file that is ever there: until the server has sent a credential there is none.
        return Some(azure::Credential::ClientSecretFile(state_dir.join("server").join("none")));
    }
    let text = match given.len() {
        0 => "[customer_key] names no credential".to_owned(),
        n => format!("[customer_key] names {n} credentials"),
    };
    r.problem(
        table.place(),
        text,
        "give exactly one of managed_identity = true, federated_token_file, client_certificate_file, \
         client_secret_file",
    );
    None
}

fn read_cloud<'i>(
    r: &mut Reader<'i>,
    table: &mut Section<'i>,
    key: Option<&KeyIdentifier>,
) -> Option<azure::Cloud> {
    #[derive(Clone, Copy, PartialEq)]
    enum Name {
        Azure,
        China,
        Government,
        Custom,
    }
    let names = [
        ("AZURE", Name::Azure),
        ("AZURE_CHINA", Name::China),
        ("AZURE_GOVERNMENT", Name::Government),
        ("CUSTOM", Name::Custom),
    ];
    let name = r.choice(table, "cloud", &names, Some(Name::Azure));
    let authority = r.optional_text(table, "authority");
    let arm_url = r.optional_text(table, "arm_url");
    let resource = r.optional_text(table, "vault_resource");
    let vault_hosts = r.texts(table, "vault_hosts");
    let (name, authority, arm_url) = (name?, authority?, arm_url?);
    if name != Name::Custom {
        if authority.is_some() || arm_url.is_some() {
            r.problem(
                table.place(),
                "`authority` and `arm_url` are only for cloud = \"CUSTOM\"",
                "remove them: the clouds of Azure have fixed ones",
            );
            return None;
        }
        return Some(match name {
            Name::Azure | Name::Custom => azure::Cloud::Azure,
            Name::China => azure::Cloud::AzureChina,
            Name::Government => azure::Cloud::AzureUsGovernment,
        });
    }
    let Some(authority) = authority else {
        r.problem(
            table.place(),
            "cloud = \"CUSTOM\" needs `authority`",
            "the https:// address of the token service; a development vault writes it into vault.json",
        );
        return None;
    };
    let authority = read_url(r, authority)?;
    let arm_url = match arm_url {
        Some(text) => read_url(r, text)?,
        None => authority.clone(),
    };
    Some(azure::Cloud::Custom(azure::Endpoints {
        authority,
        arm_url,
        vault_hosts: match vault_hosts? {
            hosts if hosts.is_empty() => match key {
                Some(key) => vec![key.vault_host().to_owned()],
                None => {
                    r.problem(
                        table.place(),
                        "cloud = \"CUSTOM\" needs `vault_hosts` where no `key_identifier` names one",
                        "the host and port of the vault, such as [\"localhost:8443\"]",
                    );
                    return None;
                }
            },
            hosts => hosts,
        },
        vault_resource: resource?.map_or_else(|| "https://vault.azure.net".to_owned(), |found| found.value),
    }))
}

const GUID_HINT: &str = "copy it from the Azure portal: 00000000-0000-0000-0000-000000000000";

/// `Some(None)`: not given. `None`: wrong.
fn read_guid<'i>(r: &mut Reader<'i>, table: &mut Section<'i>, key: &str) -> Option<Option<String>> {
    let Some(found) = r.optional_text(table, key)? else { return Some(None) };
    let parse =
        |text: &str| (text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()).then(|| text.to_owned());
    r.parsed(found, "is no GUID", GUID_HINT, parse).map(|found| Some(found.value))
}

fn read_url(r: &mut Reader<'_>, found: Found<String>) -> Option<Url> {
    let parse = |text: &str| text.parse::<Url>().ok();
    r.parsed(found, "is no URL", "write it as https://HOST[:PORT]", parse).map(|found| found.value)
}

fn read_verdict<'i>(r: &mut Reader<'i>, mut table: Section<'i>) -> Option<VerdictConfig> {
    let usual = RevocationPolicy::default();
    let place = table.place();
    let interval = r.integer(&mut table, "probe_interval_s", 1..=300, Some(60));
    let daily = r.integer(&mut table, "master_key_check_interval_s", 60..=604_800, Some(86_400));
    let refusals = r.integer(&mut table, "refusals", 1..=1000, Some(usual.refusals.into()));
    let strong = r.integer(&mut table, "strong_window_s", 0..=86_400, Some(usual.strong_window_ms / 1000));
    let denial = r.integer(&mut table, "denial_window_s", 0..=86_400, Some(usual.denial_window_ms / 1000));
    r.no_more(table);
    let (interval, strong, denial) = (interval?, strong?, denial?);
    if denial < strong {
        r.problem(
            place,
            format!("`denial_window_s` = {denial} is shorter than `strong_window_s` = {strong}"),
            "a denial may be a mistake and needs the longer window",
        );
        return None;
    }
    Some(VerdictConfig {
        probe_interval: Duration::from_secs(interval),
        master_key_check_interval: Duration::from_secs(daily?),
        policy: RevocationPolicy {
            refusals: u32::try_from(refusals?).unwrap_or(usual.refusals),
            strong_window_ms: strong * 1000,
            denial_window_ms: denial * 1000,
            gap_ms: usual.gap_ms,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "node-0"
data_path = "/srv/db"
state_dir = "/var/lib/keyward/node-0"
encryptor = "/usr/lib/keyward/libkeyward_encryptor.so"

[engine]
kind = "mongod"
program = "/usr/bin/mongod"
port = 27017

[customer_key]
key_identifier = "https://v1.vault.azure.net/keys/k1/6f5902ac237024bdd0c176cb93063dc4"
tenant_id = "00000000-0000-0000-0000-000000000001"
client_id = "00000000-0000-0000-0000-000000000002"
client_secret_file = "/etc/keyward/secret"

[admin]
socket = "/run/keyward/admin.sock"
"#;

    #[test]
    fn defaults_are_those_of_the_rules() {
        let config = Config::parse(GOOD, Path::new("agent.toml")).unwrap();
        assert_eq!(config.initial, Initial::New);
        assert_eq!(config.verdict.policy, RevocationPolicy::default());
        assert_eq!(config.verdict.probe_interval, Duration::from_secs(60));
        assert_eq!(config.engine.stop_grace, Duration::from_secs(120));
        assert_eq!(config.engine.log_file, Path::new("/var/lib/keyward/node-0/engine.log"));
        assert_eq!(config.customer_key.azure.cloud, azure::Cloud::Azure);
        assert_eq!(config.metrics_listen, None);
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_line_and_hint() {
        let bad = r#"
name = ""
data_path = "srv/db"
state_dir = "/var/lib/keyward/node-0"
encryptor = 7
colour = "red"

[engine]
kind = "postgres"
program = "/usr/bin/mongod"
port = 70000
args = ["--quiet", 3]

[customer_key]
key_identifier = "https://v1.vault.azure.net/keys/k1"
tenant_id = "contoso"
client_secret_file = "/etc/keyward/secret"
managed_identity = true
subscription_id = "00000000-0000-0000-0000-000000000001"

[verdict]
refusals = 0
strong_window = 60

[metrics]
listen = "0.0.0.0:9216"
"#;
        let problems = Config::parse(bad, Path::new("/etc/keyward/agent.toml")).unwrap_err();
        insta::assert_snapshot!(problems.to_string());
    }

    #[test]
    fn syntax_errors_have_a_line() {
        let problems = Config::parse("name = \"a\"\n[engine\nkind = \n", Path::new("a.toml")).unwrap_err();
        assert!(problems.problems.iter().any(|p| p.line == 2), "{problems}");
    }

    #[test]
    fn state_outside_the_data_and_windows_in_order() {
        let text = GOOD.replace("/var/lib/keyward/node-0", "/srv/db/state")
            + "\n[verdict]\nstrong_window_s = 60\ndenial_window_s = 30\n";
        let problems = Config::parse(&text, Path::new("a.toml")).unwrap_err();
        assert_eq!(problems.problems.iter().map(|p| p.line).collect::<Vec<_>>(), [4, 21]);
    }
}
