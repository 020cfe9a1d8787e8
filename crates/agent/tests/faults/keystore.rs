//! A keystore that is lost, changed, old or not known: nothing is taken in silence, and each error names the way
//! back, which then works.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result};
use keyward_agent::{
    admin::{ExportedKeystore, Request},
    config::Config,
    snapshot::Restored,
};
use keyward_keys::keystore::SealedKeystore;
use keyward_model::{NodeState, NodeStatus};

use crate::support::{Agent, World, count, database, failure_of, insert, until, until_state};

async fn failed(agent: &Agent, word: &str) -> Result<NodeStatus> {
    until(&agent.client, word, |s| s.state == NodeState::Failed && s.reason.contains(word)).await
}

async fn export(agent: &Agent) -> Result<Vec<u8>> {
    let result = agent.client.run(&Request::KeystoreExport, |_| {}).await?;
    let exported: ExportedKeystore = serde_json::from_value(result)?;
    let bytes = data_encoding::BASE64.decode(exported.keystore_base64.as_bytes())?;
    assert_eq!(SealedKeystore::parse(&bytes)?.generation(), exported.generation);
    Ok(bytes)
}

/// A stopped node with 30 documents and some generations of its keystore.
async fn stopped_node(world: &World) -> Result<(Config, Agent)> {
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config.clone()).await?;
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..30).await?;
    agent.client.run(&Request::RotateMasterKey, |_| {}).await?;
    agent.client.run(&Request::Stop, |_| {}).await?;
    Ok((config, agent))
}

async fn starts_with_all_data(world: &World, agent: &Agent) -> Result<()> {
    agent.client.run(&Request::Start, |_| {}).await?;
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 30);
    Ok(())
}

/// docs/guides/lost-keystore.md, "There is an export of the newest generation".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_keystore_is_put_back_from_its_export() -> Result<()> {
    let world = World::new().await?;
    let (config, agent) = stopped_node(&world).await?;
    let exported = export(&agent).await?;
    let path = config.keyward_dir().join("keystore.json");
    assert_eq!(exported, fs::read(&path)?, "the file's exact bytes");
    agent.end().await?;
    fs::remove_file(&path)?;

    let agent = Agent::start(config.clone()).await?;
    let failure = failure_of(agent.client.run(&Request::Start, |_| {}).await);
    assert_eq!(failure.exit, 1);
    assert!(failure.message.contains("keyward node keystore export"), "{failure:?}");
    let status = failed(&agent, "there is no keystore").await?;
    assert!(status.reason.contains("docs/guides/lost-keystore.md"), "{}", status.reason);
    assert!(!path.exists(), "no new keystore beside data");
    assert_eq!(failure_of(agent.client.run(&Request::KeystoreExport, |_| {}).await).code, "KEYSTORE");

    fs::write(&path, &exported)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    starts_with_all_data(&world, &agent).await?;
    agent.stop_all().await
}

/// docs/guides/lost-keystore.md, "There is only an older one".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_export_is_refused_in_place_and_starts_a_node_by_restore() -> Result<()> {
    let world = World::new().await?;
    let (config, agent) = stopped_node(&world).await?;
    let exported = export(&agent).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    agent.client.run(&Request::RotateMasterKey, |_| {}).await?;
    agent.client.run(&Request::Stop, |_| {}).await?;
    agent.end().await?;
    let path = config.keyward_dir().join("keystore.json");
    fs::write(&path, &exported)?;

    let agent = Agent::start(config.clone()).await?;
    assert_eq!(failure_of(agent.client.run(&Request::Start, |_| {}).await).exit, 1);
    let status = failed(&agent, "was seen before").await?;
    assert!(status.reason.contains("keyward node restore"), "{}", status.reason);
    // No word of the operator makes an older generation good in place: nonces and keys may have moved on.
    let failure = failure_of(agent.client.run(&Request::Approve { approvals: None }, |_| {}).await);
    assert!(failure.message.contains("was seen before"), "{failure:?}");
    agent.end().await?;

    let aside = world.path("aside");
    fs::rename(&config.data_path, &aside)?;
    let agent = Agent::start(config.clone()).await?;
    failed(&agent, "there is no keystore").await?;
    let from = url::Url::from_file_path(&aside).ok().context("an absolute path")?;
    let result = agent.client.run(&Request::Restore { from }, |_| {}).await?;
    let restored: Restored = serde_json::from_value(result)?;
    assert!(restored.files > 10);
    starts_with_all_data(&world, &agent).await?;
    let generation = SealedKeystore::parse(&fs::read(&path)?)?.generation();
    assert!(generation > SealedKeystore::parse(&exported)?.generation() + 1, "above every one seen");
    agent.stop_all().await
}

/// A changed character of the file's text that leaves a keystore's shape: the MAC alone notices.
fn forge(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let at = text.find("\"createdAt\"").context("a date")?;
    let digit = at + text[at..].find("Z\"").context("its end")? - 1;
    let mut bytes = text.into_bytes();
    bytes[digit] = if bytes[digit] == b'1' { b'2' } else { b'1' };
    SealedKeystore::parse(&bytes).context("still a keystore by its shape")?;
    Ok(fs::write(path, bytes)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_keystore_is_refused_and_the_previous_one_offered_never_taken() -> Result<()> {
    let world = World::new().await?;
    let (config, agent) = stopped_node(&world).await?;
    agent.end().await?;
    let path = config.keyward_dir().join("keystore.json");
    let previous = config.keyward_dir().join("keystore.previous");
    let good = fs::read(&path)?;

    // Nothing beside it: the export is the way back.
    forge(&path)?;
    let forged = fs::read(&path)?;
    let agent = Agent::start(config.clone()).await?;
    assert_eq!(failure_of(agent.client.run(&Request::Start, |_| {}).await).exit, 1);
    let status = failed(&agent, "its MAC does not fit").await?;
    assert!(status.reason.contains("keyward node keystore export"), "{}", status.reason);
    assert!(!status.reason.contains("mv "), "{}", status.reason);

    // As a step that was cut off leaves it: named with the command, and still not taken.
    fs::write(&previous, &good)?;
    assert_eq!(failure_of(agent.client.run(&Request::Start, |_| {}).await).exit, 1);
    let command = format!("mv {} {}", previous.display(), path.display());
    failed(&agent, &command).await?;
    assert_eq!((fs::read(&path)?, fs::read(&previous)?), (forged, good.clone()));

    // One that is behind the newest generation seen is not even named.
    let generation = SealedKeystore::parse(&good)?.generation();
    let older = String::from_utf8(good.clone())?
        .replacen(&format!("\"generation\":{generation}"), "\"generation\":1", 1)
        .into_bytes();
    assert_ne!(older, good);
    assert!(generation > 1);
    fs::write(&previous, older)?;
    assert_eq!(failure_of(agent.client.run(&Request::Start, |_| {}).await).exit, 1);
    let status = failed(&agent, "its MAC does not fit").await?;
    assert!(!status.reason.contains("mv "), "{}", status.reason);

    // A file that is no keystore at all goes the same way; the command that is named works.
    fs::write(&previous, &good)?;
    fs::write(&path, &good[..good.len() / 2])?;
    assert_eq!(failure_of(agent.client.run(&Request::Start, |_| {}).await).exit, 1);
    failed(&agent, &command).await?;
    fs::rename(&previous, &path)?;
    starts_with_all_data(&world, &agent).await?;
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approve_accepts_a_keystore_that_state_dir_does_not_know() -> Result<()> {
    let world = World::new().await?;
    let (config, agent) = stopped_node(&world).await?;
    agent.end().await?;
    fs::remove_dir_all(&config.state_dir)?;

    let agent = Agent::start(config.clone()).await?;
    let status = failed(&agent, "is not known to this agent").await?;
    assert!(status.reason.contains("keyward node approve"), "{}", status.reason);
    let refused = failure_of(agent.client.run(&Request::Start, |_| {}).await);
    assert!(refused.message.contains("is not known to this agent"), "{refused:?}");
    agent.client.run(&Request::Approve { approvals: None }, |_| {}).await?;
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 30);
    agent.stop_all().await?;

    // From now on it is known.
    let agent = Agent::start(config).await?;
    starts_with_all_data(&world, &agent).await?;
    agent.stop_all().await
}
