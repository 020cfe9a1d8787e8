//! What people read when something is asked wrongly or is not there: each message with its exit code. A changed
//! message shows as a changed snapshot.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `keyward` in `dir` and shows command, exit code, stdout and stderr; the folder's name is replaced.
fn said(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .env("NO_COLOR", "1")
        .env("PATH", "/nonexistent")
        .env_remove("RUST_LOG")
        .env_remove("KEYWARD_VAULT_TOKEN")
        .env_remove("KEYWARD_PROFILE")
        .env("XDG_CONFIG_HOME", dir.join("config"))
        .env_remove("KEYWARD_SECANTUSDB_PYTHON")
        .output()
        .unwrap();
    let place = dir.canonicalize().unwrap();
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let text = text.replace(place.to_str().unwrap(), "DIR").replace(dir.to_str().unwrap(), "DIR");
        text.lines().map(|line| format!("{}\n", without_clock(line))).collect::<String>()
    };
    format!(
        "$ keyward {}\nexit code {}\n--- stdout\n{}--- stderr\n{}",
        text(arguments.join(" ").as_bytes()).trim_end(),
        output.status.code().map_or("none".to_owned(), |code| code.to_string()),
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// A line that begins with a time of day, without it.
fn without_clock(line: &str) -> String {
    let is_clock = line.len() > 8
        && line
            .bytes()
            .take(8)
            .enumerate()
            .all(|(i, b)| if i % 3 == 2 { b == b':' } else { b.is_ascii_digit() });
    if is_clock { format!("HH:MM:SS{}", &line[8..]) } else { line.to_owned() }
}

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

macro_rules! messages {
    ($($test:ident: $arguments:expr;)*) => {
        $(
            #[test]
            fn $test() {
                insta::assert_snapshot!(said(empty().path(), &$arguments));
            }
        )*
    };
}

messages! {
    no_command: [];
    unknown_command: ["deploy"];
    unknown_option: ["node", "status", "--verbose"];
    misspelt_command: ["vault", "key", "disabel", "cmk"];
    missing_argument: ["vault", "key", "create"];
    node_count_out_of_range: ["dev", "--nodes", "0"];
    unknown_engine: ["dev", "--engine", "postgres"];
    unknown_fault: ["vault", "fault", "set", "explode"];
    time_without_unit: ["vault", "fault", "set", "refuse", "--for", "90"];
    wrong_key_identifier: ["node", "rewrap", "--key-identifier", "https://v.vault.azure.net/keys/k1"];
    wrong_url: ["node", "snapshot", "--to", "backups"];
    node_without_folder: ["node", "status", "--node", "node-0"];
    no_agent: ["node", "status", "--socket", "/nonexistent/admin.sock", "--json"];
    no_vault: ["vault", "key", "list"];
    vault_url_without_token: ["vault", "key", "list", "--url", "https://localhost:1"];
    no_configuration: ["agent", "run", "--config", "agent.toml"];
    no_database: ["dev", "--engine", "mongod"];
    no_python: ["dev", "--engine", "secantusdb", "--dir", "."];
    help: ["--help"];
    help_of_dev: ["dev", "--help"];
    help_of_a_node_command: ["node", "rewrap", "--help"];
    help_of_a_vault_command: ["vault", "access", "grant", "--help"];
    version: ["--version"];
    help_of_login: ["login", "--help"];
    help_of_encryption_set: ["encryption", "set", "--help"];
    help_of_a_cluster_command: ["cluster", "create", "--help"];
    no_profile: ["cluster", "list", "--json"];
    login_to_nothing: ["login"];
    login_without_a_key: ["login", "--url", "https://localhost:1"];
    login_without_a_secret: ["login", "--url", "https://localhost:1", "--public-key", "abcdefgh"];
    login_with_the_private_key_as_argument:
        ["login", "--url", "https://localhost:1", "--public-key", "abcdefgh", "--private-key", "x"];
    login_to_a_folder_without_dev: ["login", "--dir", "."];
    login_to_two_things: ["login", "--dir", ".", "--url", "https://localhost:1"];
    token_without_profile: ["login", "--print-token"];
    no_server_configuration: ["server", "run", "--config", "server.toml"];
    unknown_role: ["project", "member", "add", "--me", "--role", "king"];
    member_without_name: ["project", "member", "add", "--role", "owner"];
    too_many_nodes: ["cluster", "create", "orders", "--nodes", "51"];
    unknown_provider: ["cluster", "create", "orders", "--encryption", "aws"];
    two_ways_to_prove_oneself:
        ["encryption", "set", "--role-id", "5f3a0c9e8d7b6a5f4e3d2c1b", "--secret-file", "-"];
    acknowledgement_without_unit: ["alert", "acknowledge", "5f3a0c9e8d7b6a5f4e3d2c1b", "--for", "8"];
    unknown_alert_status: ["alert", "list", "--status", "loud"];
}

/// What is said before a server is asked, and when it does not answer.
#[test]
fn a_profile_is_used_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let dir = empty();
    let file = dir.path().join("config/keyward/credentials.toml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let profile = "[default]\nurl = \"https://localhost:1/\"\npublic_key = \"abcdefgh\"\nprivate_key = \"k\"\n\
                   project = \"5f3a0c9e8d7b6a5f4e3d2c1b\"\n";
    fs::write(&file, profile).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    insta::assert_snapshot!("profiles_that_others_may_read", said(dir.path(), &["cluster", "list"]));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for (name, arguments) in [
        ("unknown_profile", &["cluster", "list", "--profile", "staging"][..]),
        ("no_server", &["cluster", "list", "--json"]),
        ("nothing_to_set", &["encryption", "set"]),
        ("nothing_to_change", &["cluster", "update", "orders"]),
        ("body_that_is_not_there", &["cluster", "create", "orders", "--file", "cluster.json"]),
        ("nobody_to_ask", &["project", "delete", "5f3a0c9e8d7b6a5f4e3d2c1b"]),
        ("nobody_to_ask_about_a_cluster", &["cluster", "delete", "orders"]),
        ("token_of_no_organization", &["login", "--print-token"]),
    ] {
        insta::assert_snapshot!(name, said(dir.path(), arguments));
    }
    fs::write(&file, "[default]\nurl = \"https://localhost:1/\"\nprivate_key = oops\n").unwrap();
    insta::assert_snapshot!("broken_profile", said(dir.path(), &["cluster", "list"]));
    fs::write(&file, "[default]\nurl = \"https://localhost:1/\"\n").unwrap();
    insta::assert_snapshot!("profile_of_nobody", said(dir.path(), &["cluster", "list"]));
}

#[test]
fn a_server_configuration_with_several_mistakes_is_reported_at_once() {
    let dir = empty();
    let text = "data_dir = \"data\"\napi_listen = \"7443\"\ncolour = \"red\"\nstore_url = \"mysql://x\"\n";
    fs::write(dir.path().join("server.toml"), text).unwrap();
    insta::assert_snapshot!(said(dir.path(), &["server", "init", "--config", "server.toml"]));
}

const DEV_FILE: &str = r#"{"vault":{"url":"https://localhost:1","authority":"https://localhost:1",
"armUrl":"https://localhost:1","caFile":"/v/ca.pem","tenantId":"t","clientId":"c","clientSecret":"s",
"keyIdentifier":"https://localhost:1/keys/customer-key/0123456789abcdef0123456789abcdef"},"nodes":[
{"name":"node-0","uri":"mongodb://127.0.0.1:1/","dbPath":"/n","socket":"/nonexistent/0.sock"},
{"name":"node-1","uri":"mongodb://127.0.0.1:2/","dbPath":"/n","socket":"/nonexistent/1.sock"}]}"#;

#[test]
fn nodes_are_looked_up_by_name() {
    let dir = empty();
    fs::write(dir.path().join("dev.json"), DEV_FILE).unwrap();
    for (name, arguments) in [
        ("which_node", &["node", "stop", "--dir", "."][..]),
        ("unknown_node", &["node", "stop", "--dir", ".", "--node", "node-7"]),
        ("agent_of_a_node_is_gone", &["node", "stop", "--dir", ".", "--node", "node-1"]),
    ] {
        insta::assert_snapshot!(name, said(dir.path(), arguments));
    }
    fs::write(dir.path().join("dev.json"), "{}").unwrap();
    insta::assert_snapshot!("damaged_dev_file", said(dir.path(), &["node", "stop", "--dir", "."]));
}

#[test]
fn a_configuration_with_several_mistakes_is_reported_at_once() {
    let dir = empty();
    let text = r#"
name = "node-0"
data_path = "data"
state_dir = "/var/lib/keyward"
encryptor = "/usr/lib/keyward/libkeyward_encryptor.so"
colour = "red"

[engine]
kind = "postgres"
program = "/usr/bin/postgres"
port = 70000

[customer_key]
key_identifier = "https://v1.vault.azure.net/keys/k1"
tenant_id = "contoso"
client_id = "00000000-0000-0000-0000-000000000001"
client_secret_file = "/etc/keyward/secret"

[admin]
socket = "/run/keyward/admin.sock"
"#;
    fs::write(dir.path().join("agent.toml"), text).unwrap();
    insta::assert_snapshot!(said(dir.path(), &["agent", "run", "--config", "agent.toml"]));
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = said(empty().path(), &["completions", shell]);
        assert!(text.contains("exit code 0"), "{text}");
        for command in [
            "dev",
            "vault",
            "agent",
            "node",
            "rotate-master-key",
            "private-endpoint",
            "server",
            "login",
            "org",
            "project",
            "join-token",
            "cluster",
            "encryption",
            "event",
            "alert",
        ] {
            assert!(text.contains(command), "{shell}: {command} is missing");
        }
    }
}

/// Has a shell read its script and complete a line, as Tab does; one completion per line.
fn completed(shell: &str, script: &str) -> Option<String> {
    let dir = empty();
    let file = dir.path().join("keyward");
    let text = said(empty().path(), &["completions", shell]);
    let (_, text) = text.split_once("--- stdout\n").unwrap();
    fs::write(&file, text.split("--- stderr\n").next().unwrap()).unwrap();
    let output = match Command::new(shell)
        .args(match shell {
            "bash" => &["--noprofile", "--norc", "-c"][..],
            "zsh" => &["-f", "-c"],
            _ => &["--no-config", "-c"],
        })
        .arg(script.replace("SCRIPT", file.to_str().unwrap()))
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            keyward_testkit::report_skip(&format!("{shell} is not installed"));
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{shell}: {stderr}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn bash_completes_with_the_script() {
    let complete = |line: &str, at: usize| {
        let words = line.split(' ').map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let script = format!(
            "source SCRIPT; complete -p keyward >/dev/null || exit 9; COMP_WORDS=({words}); COMP_CWORD={at}; \
             COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; _keyward keyward \"${{COMP_WORDS[at]}}\" \"${{COMP_WORDS[before]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        completed(
            "bash",
            &script.replace("[at]", &format!("[{at}]")).replace("[before]", &format!("[{}]", at - 1)),
        )
    };
    let Some(commands) = complete("keyward clu", 1) else { return };
    assert_eq!(commands, "cluster\n");
    let sub = complete("keyward vault key d", 3).unwrap();
    assert_eq!(sub.lines().collect::<Vec<_>>(), ["disable", "delete"]);
    let option = complete("keyward cluster create orders --encr", 4).unwrap();
    assert_eq!(option, "--encryption\n");
    let value = complete("keyward cluster create orders --encryption ", 5).unwrap();
    assert_eq!(value.lines().collect::<Vec<_>>(), ["azure", "none"]);
}

#[test]
fn zsh_and_fish_take_their_scripts() {
    if let Some(said) =
        completed("zsh", "autoload -U compinit; compinit -D -u; source SCRIPT; whence -w _keyward")
    {
        assert!(said.contains("_keyward: function"), "{said}");
    }
    if let Some(said) = completed("fish", "source SCRIPT; complete -C 'keyward vault key d'") {
        assert!(said.contains("disable") && said.contains("delete"), "{said}");
    }
}
