use std::{
    fs,
    os::unix::fs::{lchown, symlink},
};

use super::*;

/// A user that is not the agent's, as far as the rules go: where the tests run as root another one that owns
/// what [`World::of_database`] gives it, else the tests' own, and the agent is somebody else.
struct World {
    dir: tempfile::TempDir,
    trust: Trust,
}

const SOMEBODY: u32 = 65_534;

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("db")).unwrap();
        let (agent, database) = match own_uid() {
            0 => (0, SOMEBODY),
            own => (own + 1, own),
        };
        let world = Self { dir, trust: Trust { agent, database, files: Files::OfDatabase } };
        world.of_database("db");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives `name` to the database's user.
    fn of_database(&self, name: &str) {
        lchown(self.path(name), Some(self.trust.database), None).unwrap();
    }

    fn folder_of_database(&self, name: &str) {
        fs::create_dir_all(self.path(name)).unwrap();
        self.of_database(name);
    }

    fn file_of_database(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
        self.of_database(name);
    }

    /// Every file of the data path, and what is refused there.
    fn walk(&self) -> (Vec<String>, Vec<String>) {
        let (mut files, mut refused) = (Vec::new(), Vec::new());
        Folder::open(&self.path("db"))
            .unwrap()
            .walk(self.trust, &|_| true, &mut |seen| {
                match seen {
                    Seen::File { path, .. } => files.push(path.to_str().unwrap().to_owned()),
                    Seen::FileLink(path) => refused.push(format!("link to a file {}", path.display())),
                    Seen::Refused(error) => refused.push(error.to_string()),
                }
                Ok(())
            })
            .unwrap();
        (files, refused)
    }

    fn read(&self, relative: &str) -> Result<String, FolderError> {
        let mut text = String::new();
        let mut file = Folder::open(&self.path("db"))?.file_at(Path::new(relative), self.trust)?;
        file.read_to_string(&mut text).unwrap();
        Ok(text)
    }
}

#[test]
fn what_is_the_databases_is_opened() {
    let world = World::new();
    world.folder_of_database("db/alpha");
    world.file_of_database("db/alpha/c.wt", "one");
    assert_eq!(world.walk(), (vec!["alpha/c.wt".to_owned()], Vec::new()));
    assert_eq!(world.read("alpha/c.wt").unwrap(), "one");
    assert!(world.read("alpha/gone").unwrap_err().is_not_found());
    for bad in ["../x", "/etc/passwd", "", "alpha/../../x"] {
        assert!(world.read(bad).is_err(), "{bad}");
    }
}

#[test]
fn no_link_leads_to_a_file() {
    let world = World::new();
    fs::write(world.path("secret"), "SECRET").unwrap();
    symlink(world.path("secret"), world.path("db/x.wt")).unwrap();
    for made_by in [world.trust.database, own_uid()] {
        lchown(world.path("db/x.wt"), Some(made_by), None).unwrap();
        assert!(matches!(world.read("x.wt"), Err(FolderError::Link { .. })));
        assert_eq!(world.walk(), (Vec::new(), vec!["link to a file x.wt".to_owned()]));
    }
    // The control: without the rule it would have been read.
    assert_eq!(fs::read_to_string(world.path("db/x.wt")).unwrap(), "SECRET");
}

/// A link of the database's user is not followed, wherever it leads; one of root is, to what the database's
/// user may read.
#[test]
fn a_link_to_a_folder_is_followed_only_as_the_operator_made_it() {
    let world = World::new();
    world.folder_of_database("disk");
    world.file_of_database("disk/log", "two");
    symlink(world.path("disk"), world.path("db/journal")).unwrap();
    world.of_database("db/journal");
    let error = world.read("journal/log").unwrap_err();
    assert!(error.to_string().contains("neither root nor the agent's user"), "{error}");
    assert!(error.to_string().contains("db/journal is a link") && error.hint().contains("as root"));
    assert_eq!(world.walk().1.len(), 1);

    // The rules themselves, whoever runs this.
    let Trust { agent, database, .. } = world.trust;
    assert!(world.trust.follows_link_of(0) && world.trust.follows_link_of(agent));
    assert!(!world.trust.follows_link_of(database) && !world.trust.follows_link_of(database + 7));
    assert!(world.trust.enters_folder_of(database) && !world.trust.enters_folder_of(0));
    if own_uid() != 0 {
        return keyward_testkit::report_skip("only root makes links of another user than the database's");
    }
    lchown(world.path("db/journal"), Some(0), None).unwrap();
    assert_eq!(world.read("journal/log").unwrap(), "two");
    assert_eq!(world.walk(), (vec!["journal/log".to_owned()], Vec::new()));

    // The link was moved, and leads on to somewhere else: what is there is not the database's.
    fs::create_dir(world.path("root's")).unwrap();
    fs::write(world.path("root's/x.wt"), "SECRET").unwrap();
    fs::rename(world.path("disk"), world.path("disk2")).unwrap();
    symlink(world.path("root's"), world.path("disk")).unwrap();
    world.of_database("disk");
    let error = world.read("journal/x.wt").unwrap_err();
    assert!(error.to_string().contains("it leads to a folder of user 0"), "{error}");
    assert_eq!((world.walk().0.len(), world.walk().1.len()), (0, 1));
}

#[test]
fn a_file_of_another_user_is_not_opened_by_another_name() {
    let world = World::new();
    world.file_of_database("db/x.wt", "one");
    fs::hard_link(world.path("db/x.wt"), world.path("db/y.wt")).unwrap();
    assert_eq!(world.read("y.wt").unwrap(), "one", "its own");
    let others = Trust { database: world.trust.database + 1, ..world.trust };
    let folder = Folder::open(&world.path("db")).unwrap();
    let open = |name: &str, files| folder.file(OsStr::new(name), Trust { files, ..others }).map(drop);
    assert!(matches!(open("x.wt", Files::OfDatabase), Err(FolderError::Owner { .. })));
    assert!(matches!(open("x.wt", Files::NotShared), Err(FolderError::Owner { .. })), "two names");
    open("x.wt", Files::Any).unwrap();
    fs::remove_file(world.path("db/y.wt")).unwrap();
    open("x.wt", Files::NotShared).unwrap();
    // Under one user there is nobody to protect from.
    folder.file(OsStr::new("x.wt"), Trust { agent: others.database, ..others }).unwrap();
}

#[test]
fn a_pipe_and_a_loop_hold_nobody_up() {
    let world = World::new();
    let pipe = world.path("db/x.wt");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(matches!(world.read("x.wt"), Err(FolderError::NotPlain(_))));
    symlink(".", world.path("db/again")).unwrap();
    let trust = Trust { database: own_uid(), agent: own_uid(), files: Files::Any };
    let mut refused = Vec::new();
    let folder = Folder::open(&world.path("db")).unwrap();
    let mut see = |seen| {
        refused.push(seen);
        Ok(())
    };
    folder.walk(trust, &|_| true, &mut see).unwrap();
    assert!(matches!(refused[..], [Seen::Refused(FolderError::TooDeep(_))]), "{refused:?}");
}

#[test]
fn what_is_made_and_removed_goes_through_no_link() {
    let world = World::new();
    fs::create_dir(world.path("elsewhere")).unwrap();
    fs::write(world.path("elsewhere/c.wt"), "kept").unwrap();
    symlink(world.path("elsewhere"), world.path("db/alpha")).unwrap();
    symlink(world.path("elsewhere/c.wt"), world.path("db/x.wt")).unwrap();
    let folder = Folder::open(&world.path("db")).unwrap();
    assert!(folder.create_at(Path::new("alpha/c.wt")).is_err());
    assert!(folder.create_at(Path::new("alpha/new.wt")).is_err());
    assert!(folder.create_at(Path::new("x.wt")).is_err());
    folder.create_at(Path::new("beta/gamma/c.wt")).unwrap().write_all(b"one").unwrap();
    symlink(world.path("elsewhere"), world.path("db/beta/gamma/link")).unwrap();
    for name in ["alpha", "x.wt", "beta", "never-came"] {
        folder.remove(OsStr::new(name)).unwrap();
    }
    assert_eq!(fs::read_dir(world.path("db")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(world.path("elsewhere/c.wt")).unwrap(), "kept");
    assert!(!world.path("elsewhere/new.wt").exists());
}

/// The database's user owns DBPATH: it can move `.keyward` away and put something else there.
#[test]
fn keywards_own_folder_is_not_the_database_users() {
    let world = World::new();
    let own = world.path("db/.keyward");
    world.folder_of_database("db/.keyward");
    assert!(matches!(Folder::open_own(&own, world.trust), Err(FolderError::NotOwn { .. })));
    fs::remove_dir(&own).unwrap();
    fs::create_dir(world.path("elsewhere")).unwrap();
    symlink(world.path("elsewhere"), &own).unwrap();
    assert!(matches!(Folder::open_own(&own, world.trust), Err(FolderError::NotOwn { .. })));
    // Its own, and the database's user is another one.
    fs::remove_file(&own).unwrap();
    fs::create_dir(&own).unwrap();
    let trust = Trust { database: own_uid() + 1, agent: own_uid(), ..world.trust };
    for (mode, why) in [(0o700, None), (0o711, None), (0o770, Some("0770")), (0o702, Some("0702"))] {
        fs::set_permissions(&own, fs::Permissions::from_mode(mode)).unwrap();
        let refused = Folder::open_own(&own, trust).map_err(|error| error.to_string()).err();
        let said = |why: &str| format!("others may write to it (mode {why})");
        assert_eq!(refused.is_some(), why.is_some(), "{refused:?}");
        assert!(why.is_none_or(|why| refused.unwrap().contains(&said(why))));
    }
}

#[test]
fn everything_is_given_away_and_no_more() {
    let world = World::new();
    let staging = Folder::open(&world.path("db")).unwrap().make(OsStr::new("staging")).unwrap();
    staging.create_at(Path::new("alpha/c.wt")).unwrap().write_all(b"one").unwrap();
    let (uid, gid) = (world.trust.database, rustix::process::getegid().as_raw());
    staging.settle_all(Some((uid, gid))).unwrap();
    for name in ["db/staging/alpha", "db/staging/alpha/c.wt"] {
        assert_eq!(fs::metadata(world.path(name)).unwrap().uid(), uid, "{name}");
    }
    assert_eq!(staging.metadata().unwrap().uid(), own_uid());
    // A link that somebody put there is an error, not a way out.
    symlink("/etc/hostname", world.path("db/staging/alpha/x")).unwrap();
    assert!(staging.settle_all(Some((uid, gid))).is_err());
    let to = Folder::open(&world.path("db")).unwrap();
    staging.move_into(OsStr::new("alpha"), &to).unwrap();
    assert_eq!(fs::read_to_string(world.path("db/alpha/c.wt")).unwrap(), "one");
}
