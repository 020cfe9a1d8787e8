//! A mongod of its operator that requires TLS: adopted where the agent can verify it, told why where not.

use std::{fs, path::Path};

use anyhow::Result;
use keyward_agent::{
    config::Config,
    preflight::{self, CheckName, Level},
};
use keyward_model::NodeState;
use keyward_testkit::{
    certificates::Authority,
    mongod_double::{MongodDouble, program},
};
use mongodb::{
    Client,
    bson::doc,
    options::{ClientOptions, ServerAddress, Tls, TlsOptions},
};

use crate::{
    server::{node_file, waiting_node_at},
    support::{Agent, World, until},
};

const SET: &str = "orders";

/// The file of an agent beside a mongod, with these `engine.args` and with `more` at its end.
fn agent_file(world: &World, port: u16, args: &[&str], more: &str) -> Result<Config> {
    let (path, _) = waiting_node_at(world, "n", port)?;
    let python = keyward_testkit::python::secantusdb()?;
    let text = format!("{}\n{more}", fs::read_to_string(path)?)
        .replace("kind = \"secantusdb\"", "kind = \"mongod\"")
        .replace("args = [\"--sync-on-commit\"]", &format!("args = {args:?}"))
        .replace(
            &format!("program = \"{}\"", python.display()),
            &format!("program = \"{}\"", program()?.display()),
        );
    Ok(node_file(world, "n", &text)?.1)
}

/// A set of one that knows itself as 127.0.0.2, which alone its certificate is for; it wants certificates of clients.
/// All its options stand in a file.
async fn set_of_one(world: &World, authority: &Authority, options: &Path) -> Result<MongodDouble> {
    let own = authority.sign("db1", &["127.0.0.2"])?;
    let text = format!(
        "net:\n  tls:\n    mode: requireTLS\n    certificateKeyFile: {}\n    CAFile: {}\nreplication:\n  \
         replSetName: {SET}\n",
        own.display(),
        authority.ca_file().display()
    );
    fs::write(options, text)?;
    let data = world.path("n/db");
    fs::create_dir_all(&data)?;
    let mongod = MongodDouble::start_on(
        "127.0.0.1,127.0.0.2",
        &data,
        world.port,
        &["--config", &options.to_string_lossy()],
        &[],
    )?;
    let tls = TlsOptions::builder()
        .ca_file_path(authority.ca_file().to_owned())
        .cert_key_file_path(authority.sign("client", &[])?)
        .build();
    let options = ClientOptions::builder()
        .hosts(vec![ServerAddress::Tcp { host: "127.0.0.2".to_owned(), port: Some(world.port) }])
        .direct_connection(true)
        .tls(Tls::Enabled(tls))
        .build();
    let members = vec![doc! { "_id": 0, "host": format!("127.0.0.2:{}", world.port) }];
    let initiate = doc! { "replSetInitiate": { "_id": SET, "members": members } };
    Client::with_options(options)?.database("admin").run_command(initiate).await?;
    Ok(mongod)
}

async fn preflight_of(config: &Config) -> Result<preflight::Report> {
    let options = preflight::Options { mongod: None, config: Some(config.clone()) };
    Ok(tokio::task::spawn_blocking(move || preflight::preflight(&options)).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mongod_that_requires_tls_is_adopted_by_its_own_options_or_told_why_not() -> Result<()> {
    let world = World::new().await?;
    let authority = Authority::new(&world.path("certificates"), "members")?;
    let options = world.path("mongod.conf");
    let mongod = set_of_one(&world, &authority, &options).await?;
    let others = Authority::new(&world.path("certificates"), "others")?;
    let options = options.to_string_lossy();

    // Of the file that engine.args name, of the running process, and of the agent's own: each is enough.
    let explicit = format!(
        "[engine.tls]\nca_file = \"{}\"\ncertificate_file = \"{}\"\nserver_name = \"127.0.0.2\"\n",
        authority.ca_file().display(),
        authority.sign("agent", &[])?.display()
    );
    let in_file = ["--config", &*options];
    for (args, more) in [(&in_file[..], ""), (&["--replSet", SET], ""), (&in_file, explicit.as_str())] {
        let config = agent_file(&world, world.port, args, more)?;
        let report = preflight_of(&config).await?;
        let shown: Vec<_> = report.checks.iter().filter(|check| check.name == CheckName::Tls).collect();
        assert!(shown.iter().all(|check| check.level == Level::Ok) && !shown.is_empty(), "{report:#?}");
        let first = &shown[0].text;
        assert!(first.contains("CN=db1") && first.contains("good for 127.0.0.2"), "{first}");
        assert!(first.ends_with("it holds until 2100-01-01T00:00:00Z"), "{first}");

        let agent = Agent::start(config).await?;
        let status = until(&agent.client, "adopted", |status| {
            status.state == NodeState::Running
                && status.engine.as_ref().is_some_and(|engine| engine.version == "7.0.0-double")
        })
        .await?;
        assert_eq!(status.engine.map(|engine| engine.pid), Some(mongod.pid()));
        assert!(!status.reason.contains("hint"), "{}", status.reason);
        agent.end().await?;
    }

    // The wrong authority, and the wrong name: the reason and what to do stand in the node's status.
    for (wrong, why, hint) in [
        (
            explicit.replace(&*authority.ca_file().to_string_lossy(), &others.ca_file().to_string_lossy()),
            "is not of the authority in",
            "set ca_file under [engine.tls]",
        ),
        (
            explicit.replace("\"127.0.0.2\"", "\"db2.test\""),
            "is for 127.0.0.2, not for db2.test",
            "set server_name = \"127.0.0.2\"",
        ),
    ] {
        let config = agent_file(&world, world.port, &in_file, &wrong)?;
        let report = preflight_of(&config).await?;
        let refused = report.checks.iter().find(|check| check.name == CheckName::Tls);
        assert!(
            refused.is_some_and(|check| check.level == Level::Refuse && check.text.contains(why)),
            "{report:#?}"
        );
        let agent = Agent::start(config).await?;
        let status = until(&agent.client, "told", |status| status.reason.contains(why)).await?;
        assert!(status.reason.contains(hint), "{}", status.reason);
        assert_eq!(status.engine.map(|engine| engine.version).as_deref(), Some(""), "it said nothing");
        agent.end().await?;
    }
    assert!(mongod.terminate()?.success());
    Ok(())
}
