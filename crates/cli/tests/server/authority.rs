//! `keyward server authority`, beside a server that runs.

use keyward_model::node::JoinText;

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_authority_is_shown_replaced_and_let_go() {
    let site = Site::start().await;
    site.login().await;
    site.says(&["project", "create", "payments"]).await;
    let token = async || -> JoinText {
        let made = site.json(&["project", "join-token", "create", "--name", "a"]).await;
        made["token"].as_str().unwrap().parse().unwrap()
    };
    let config = site.dir.path().join("server.toml");
    let data = site.server.as_ref().unwrap().app().config().data_dir.clone();
    std::fs::write(&config, format!("data_dir = \"{}\"\n", data.display())).unwrap();
    let config = config.to_str().unwrap();
    let words = |command: &'static str| ["server", "authority", command, "--config", config];
    let first = token().await.ca_sha256;
    let shown = site.json(&words("show")).await;
    assert_eq!((shown["sha256"].as_str(), shown["former"].is_null()), (Some(first.as_str()), true));
    let (code, said) = site.fails(&words("retire")).await;
    assert!(code == 1 && said.contains("there is no former authority"), "{said}");

    let said = site.says(&words("rotate")).await;
    assert!(said.contains(&first) && said.contains("0 nodes, 1 join token"), "{said}");
    let second = token().await.ca_sha256;
    assert_ne!(second, first, "the server that runs has it from the store");
    for command in ["retire", "rotate"] {
        let (code, said) = site.fails(&words(command)).await;
        assert!(code == 1 && said.contains("is still needed by 1 join token"), "{said}");
    }
    let forced: Vec<&str> = words("retire").into_iter().chain(["--force"]).collect();
    assert!(site.says(&forced).await.contains(&format!("the former authority {first} is trusted no more")));
    assert!(site.json(&words("show")).await["former"].is_null());
    let (code, said) = site.fails(&["server", "authority", "show", "--config", "/nowhere.toml"]).await;
    assert!(code == 1 && said.contains("/nowhere.toml cannot be used"), "{said}");
    site.stop().await;
}
