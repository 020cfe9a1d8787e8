//! Customer keys that will not do, and a node that moves to a key in another vault.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use keyward_agent::{admin::Request, config::Config};
use keyward_model::{Class, NodeState, Verdict};
use keyward_vault::{
    FirstStart, RunningVault, ServeOptions, admin::KeySettings, client::VaultAdmin, serve_with,
};

use crate::support::{Agent, World, count, database, failure_of, insert, rewrap_to, until, until_state};

const NOBODYS_ID: &str = "11111111-2222-3333-4444-555555555555";

fn only_ops(operations: &[&str]) -> KeySettings {
    let key_ops = Some(operations.iter().map(|operation| (*operation).to_owned()).collect());
    KeySettings { key_ops, ..KeySettings::default() }
}

fn identifier(key: &keyward_vault::admin::KeyView) -> Result<String> {
    Ok(key.versions.last().context("a version")?.key_identifier.clone())
}

/// A version id that no key has.
fn other_version(key_identifier: &str) -> String {
    let mut other = key_identifier.to_owned();
    other.replace_range(other.len() - 1.., if other.ends_with('0') { "1" } else { "0" });
    other
}

fn node(world: &World, name: &str, text: &str) -> Result<Config> {
    fs::create_dir_all(world.path(name))?;
    let own = world.path(name).display().to_string();
    let text = text.replace(&world.path("n").display().to_string(), &own);
    Ok(Config::parse(&text, Path::new("agent.toml"))?)
}

/// Of a new node: said with Azure's own reason and what to do, before anything is made, and `failed`, since waiting
/// would not mend it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_key_that_will_not_do_is_refused_at_configuration() -> Result<()> {
    let world = World::new().await?;
    let good = world.config_text("n", world.port)?;
    let vault = world.vault.running.as_ref().context("it runs")?.description().clone();
    let admin = &world.vault.admin;
    let no_unwrap = world.vault.key("no-unwrap").await?;
    admin.change_key("no-unwrap", &only_ops(&["wrapKey", "encrypt"])).await?;
    let no_wrap = world.vault.key("no-wrap").await?;
    admin.change_key("no-wrap", &only_ops(&["unwrapKey", "decrypt"])).await?;
    let ec = identifier(&admin.create_key_of_type("ec", "EC").await?)?;
    // No vault makes these: they are put there below its API, and served as any other.
    let planted = world.vault.running.as_ref().context("it runs")?;
    let small = planted.plant_key_for_tests("small", "RSA", 1024).await?;
    let large = planted.plant_key_for_tests("large", "RSA-HSM", 8192).await?;
    let symmetric = planted.plant_key_for_tests("symmetric", "oct-HSM", 0).await?;
    let with_key = |key: &str| good.replace(&world.key_identifier, key);
    let cases = [
        (
            "a version that is not there",
            with_key(&other_version(&world.key_identifier)),
            &["KeyNotFound"][..],
        ),
        (
            "a key that is not there",
            with_key(&world.key_identifier.replace("/k1/", "/k9/")),
            &["KeyNotFound"],
        ),
        ("a key of another type", with_key(&ec), &["is a key of type EC, not RSA", "make an RSA key"]),
        (
            "a key too small",
            with_key(&small),
            &["has 1024 bits", "make an RSA key of 2048, 3072 or 4096 bits"],
        ),
        (
            "a key too large",
            with_key(&large),
            &["has 8192 bits", "make an RSA key of 2048, 3072 or 4096 bits"],
        ),
        ("a symmetric key", with_key(&symmetric), &["is a key of type oct-HSM, not RSA", "make an RSA key"]),
        (
            "a key that may not unwrap",
            with_key(&no_unwrap),
            &["does not permit to unwrap", "add wrapKey and"],
        ),
        ("a key that may not wrap", with_key(&no_wrap), &["does not permit to wrap", "add wrapKey and"]),
        (
            "another tenant",
            good.replace(&vault.tenant_id, NOBODYS_ID),
            &["belongs to tenant", "is configured"],
        ),
        ("an unknown application", good.replace(&vault.client_id, NOBODYS_ID), &["AADSTS700016"]),
        (
            "a vault elsewhere",
            with_key(&world.key_identifier).replace(
                "cloud = \"CUSTOM\"",
                "cloud = \"CUSTOM\"\nvault_hosts = [\"vault.example\", \"other.example\"]",
            ),
            &["is not a vault of the configured cloud (vault.example or other.example)"],
        ),
    ];
    for (number, (what, text, reasons)) in cases.into_iter().enumerate() {
        let config = node(&world, &format!("n{number}"), &text)?;
        let agent = Agent::start(config.clone()).await?;
        let status = until_state(&agent.client, NodeState::Failed).await?;
        for reason in reasons {
            assert!(status.reason.contains(reason), "{what}: {reason:?} is not in {}", status.reason);
        }
        assert!(status.reason.contains("(hint: "), "{what}: {}", status.reason);
        assert_ne!(status.verdict, Verdict::Revoked, "{what}");
        let failure = failure_of(agent.client.run(&Request::Start, |_| {}).await);
        assert_eq!(failure.exit, 1, "{what}: {failure:?}");
        assert!(failure.message.contains(reasons[0]) && !failure.hint.is_empty(), "{what}: {failure:?}");
        assert!(!config.keyward_dir().join("keystore.json").exists(), "{what}");
        agent.end().await?;
    }

    // A grant that is missing is a mistake at configuration, too; once it is mended, the node starts.
    admin.revoke(&vault.client_id, None, &[]).await?;
    let agent = Agent::start(node(&world, "granted-later", &good)?).await?;
    let status = until_state(&agent.client, NodeState::Failed).await?;
    assert!(status.reason.contains("ForbiddenByRbac"), "{}", status.reason);
    assert!(status.reason.contains("Key Vault Crypto Service Encryption User"), "{}", status.reason);
    admin.grant(&vault.client_id, None, &[]).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    until_state(&agent.client, NodeState::Running).await?;

    // A running node refuses such a key as well, and stays under its own; one kept in hardware is as good as any.
    for (key, reason) in
        [(&small, "has 1024 bits"), (&ec, "is a key of type EC"), (&no_unwrap, "permit to unwrap")]
    {
        let failure = failure_of(agent.client.run(&rewrap_to(key)?, |_| {}).await);
        assert_eq!(failure.code, "CUSTOMER_KEY_UNSUITABLE", "{failure:?}");
        assert!(failure.message.contains(reason), "{failure:?}");
    }
    let used =
        async || anyhow::Ok(agent.client.status().await?.customer_key.context("a key")?.key_identifier);
    assert_eq!(used().await?.to_string(), world.key_identifier);
    let hardware = identifier(&admin.create_key_of_type("hardware", "RSA-HSM").await?)?;
    agent.client.run(&rewrap_to(&hardware)?, |_| {}).await?;
    assert_eq!(used().await?.to_string(), hardware);
    agent.stop_all().await
}

/// Of a node that has data: a setting of ours is an outage, a denial is one, each for what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_existing_node_our_mistakes_are_outages_and_denials_are_denials() -> Result<()> {
    let world = World::new().await?;
    let good = world.config_text("n", world.port)?;
    let vault = world.vault.running.as_ref().context("it runs")?.description().clone();
    let admin = &world.vault.admin;
    let agent = Agent::start(node(&world, "n", &good)?).await?;
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..20).await?;

    // The operation is taken off the key: a denial, obeyed after its window, and given back.
    admin.change_key("k1", &only_ops(&["wrapKey", "encrypt"])).await?;
    let status = until_state(&agent.client, NodeState::StoppedRevoked).await?;
    assert_eq!(status.reason, Class::OperationTakenOff.text());
    assert!(
        status.evidence.iter().any(|e| e.inner_code.as_deref() == Some("KeyOperationForbidden")),
        "{status:#?}"
    );
    admin.change_key("k1", &only_ops(&["wrapKey", "unwrapKey", "encrypt", "decrypt"])).await?;
    until_state(&agent.client, NodeState::Running).await?;
    agent.stop_all().await?;

    // Another tenant in the file: ours to mend, so it waits, and never says revoked.
    let agent = Agent::start(node(&world, "n", &good.replace(&vault.tenant_id, NOBODYS_ID))?).await?;
    let failure = failure_of(agent.client.run(&Request::Start, |_| {}).await);
    assert_eq!(failure.exit, 4, "{failure:?}");
    let status = until_state(&agent.client, NodeState::WaitingForCustomerKey).await?;
    assert_ne!(status.verdict, Verdict::Revoked);
    assert!(status.reason.contains(Class::Misconfigured.text()), "{}", status.reason);
    agent.end().await?;

    // An application that Entra ID does not know looks like a deleted one: a refusal, and no key is in memory yet.
    let agent = Agent::start(node(&world, "n", &good.replace(&vault.client_id, NOBODYS_ID))?).await?;
    let status = until_state(&agent.client, NodeState::StoppedRevoked).await?;
    assert_eq!(status.reason, Class::ApplicationDeleted.text());
    assert_eq!(failure_of(agent.client.run(&Request::Start, |_| {}).await).exit, 3);
    agent.end().await?;

    let agent = Agent::start(node(&world, "n", &good)?).await?;
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 20);
    agent.stop_all().await
}

/// Another vault of the tenant that the vault in `of` belongs to.
async fn second_vault(dir: &Path, of: &Path) -> Result<(RunningVault, String)> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let first = FirstStart { tenant_of: Some(of.to_owned()), ..FirstStart::default() };
    let running = serve_with(ServeOptions { dir: dir.to_owned(), listen }, first).await?;
    let made = VaultAdmin::of(running.description())?.create_key("old", 2048).await?;
    let key = made.versions.last().context("a version")?.key_identifier.clone();
    Ok((running, key))
}

fn host_of(key_identifier: &str) -> Result<String> {
    Ok(key_identifier.parse::<keyward_model::KeyIdentifier>()?.vault_host().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_moves_to_another_vault_under_clients_that_write_and_the_old_one_may_go() -> Result<()> {
    let world = World::new().await?;
    let (old, old_key) = second_vault(&world.path("old-vault"), &world.vault.dir).await?;
    let old_ca = fs::read(&old.description().ca_file)?;
    let new_ca = fs::read(&world.vault.running.as_ref().context("it runs")?.description().ca_file)?;
    let ca_file = world.path("both.pem");
    fs::write(&ca_file, [old_ca, new_ca].concat())?;
    let new_key = world.key_identifier.clone();
    let text = world.config_text("n", world.port)?.replace(&new_key, &old_key);
    let text: String = text
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some(("ca_file", _)) => format!("ca_file = \"{}\"\n", ca_file.display()),
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    let hosts = |hosts: &[String]| {
        text.replace("cloud = \"CUSTOM\"", &format!("cloud = \"CUSTOM\"\nvault_hosts = {hosts:?}"))
    };

    // A vault that the file does not name is refused, whoever asks, and so is one of another tenant.
    let agent = Agent::start(node(&world, "n", &hosts(&[host_of(&old_key)?]))?).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let failure = failure_of(agent.client.run(&rewrap_to(&new_key)?, |_| {}).await);
    assert_eq!(failure.code, "CUSTOMER_KEY_UNSUITABLE", "{failure:?}");
    assert!(failure.message.contains("is not a vault of the configured cloud"), "{failure:?}");
    agent.end().await?;
    let stranger = crate::support::Vault::start(&world.path("stranger")).await?;
    let strange_key = stranger.key("k").await?;
    let stranger_ca = fs::read(&stranger.running.as_ref().context("it runs")?.description().ca_file)?;
    fs::write(&ca_file, [fs::read(&ca_file)?, stranger_ca].concat())?;
    let all = [host_of(&old_key)?, host_of(&new_key)?, host_of(&strange_key)?];
    let agent = Agent::start(node(&world, "n", &hosts(&all))?).await?;
    let before = until(&agent.client, "held", |s| s.master_key_held).await?;
    let failure = failure_of(agent.client.run(&rewrap_to(&strange_key)?, |_| {}).await);
    assert_eq!(failure.code, "CUSTOMER_KEY_UNSUITABLE", "{failure:?}");
    assert!(failure.message.contains("no authority of the configured cloud"), "{failure:?}");

    // Clients write all the while.
    let (written, done) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = tokio::spawn({
        let (written, done, db) = (Arc::clone(&written), Arc::clone(&done), database(world.port).await?);
        async move {
            while !done.load(Ordering::SeqCst) {
                let n = written.load(Ordering::SeqCst);
                // A new database now and then: it takes a spare, and the keystore changes.
                insert(&db, &format!("d{}", n / 50), n..n + 1).await?;
                written.store(n + 1, Ordering::SeqCst);
            }
            anyhow::Ok(())
        }
    });
    let wait_for = async |n: i32| {
        while written.load(Ordering::SeqCst) < n && !writer.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    wait_for(20).await;
    agent.client.run(&rewrap_to(&new_key)?, |_| {}).await?;
    let moved = written.load(Ordering::SeqCst);
    wait_for(moved + 60).await;
    let status = agent.client.status().await?;
    assert_eq!(status.customer_key.context("a key")?.key_identifier.to_string(), new_key);
    assert_eq!(status.engine, before.engine, "no process was restarted");
    assert_eq!(status.master_key, before.master_key);

    // The old vault goes for good.
    old.shutdown().await;
    fs::remove_dir_all(world.path("old-vault"))?;
    let verdicts = agent.client.status().await?.evidence.len();
    until(&agent.client, "probed at the new vault", |s| {
        s.evidence.len() > verdicts || s.evidence.len() == 20
    })
    .await?;
    assert_eq!(agent.client.status().await?.verdict, Verdict::Valid);
    done.store(true, Ordering::SeqCst);
    writer.await??;
    agent.stop_all().await?;

    let agent = Agent::start(node(&world, "n", &hosts(&all))?).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    let status = until_state(&agent.client, NodeState::Running).await?;
    assert!(status.warnings.iter().any(|w| w.contains("correct the file")), "{:?}", status.warnings);
    let db = database(world.port).await?;
    let written = written.load(Ordering::SeqCst);
    let mut found = 0;
    for number in 0..=written / 50 {
        found += count(&db, &format!("d{number}")).await?;
    }
    assert_eq!(found, u64::try_from(written)?);
    agent.stop_all().await
}
