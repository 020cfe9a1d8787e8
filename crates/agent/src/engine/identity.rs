//! The Unix user that the engine runs under.

use std::{ffi::OsString, fs};

use super::{EngineError, process::Invocation};

/// Who the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Further groups, such as the one that may read a TLS key.
    pub(super) groups: Vec<u32>,
}

/// Who `user` is: a name of `/etc/passwd`, with its groups of `/etc/group`, or `UID:GID`.
pub(super) fn look_up(user: &str) -> Result<Identity, EngineError> {
    let unknown = || EngineError::UnknownUser { user: user.to_owned() };
    if let Some((uid, gid)) = user.split_once(':') {
        let (uid, gid) = (uid.parse().map_err(|_| unknown())?, gid.parse().map_err(|_| unknown())?);
        return Ok(Identity { uid, gid, groups: Vec::new() });
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(|_| unknown())?;
    let (uid, gid) = in_passwd(&passwd, user).ok_or_else(unknown)?;
    let groups = in_group(&fs::read_to_string("/etc/group").unwrap_or_default(), user);
    Ok(Identity { uid, gid, groups })
}

/// `invocation` with util-linux' `setpriv` changing the user, in place of the agent.
pub(super) fn by_setpriv(invocation: &Invocation) -> Invocation {
    let mut invocation = invocation.clone();
    let Some(Identity { uid, gid, groups }) = invocation.identity.take() else { return invocation };
    let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
    let mut arguments: Vec<OsString> = vec![
        format!("--reuid={uid}").into(),
        format!("--regid={gid}").into(),
        if groups.is_empty() {
            "--clear-groups".into()
        } else {
            format!("--groups={}", groups.join(",")).into()
        },
        "--".into(),
        invocation.program.into_os_string(),
    ];
    arguments.append(&mut invocation.arguments);
    Invocation { program: "setpriv".into(), arguments, ..invocation }
}

fn in_passwd(passwd: &str, user: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != user {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((uid, gid))
    })
}

/// Groups that name `user` as a member.
fn in_group(group: &str, user: &str) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let gid = fields.next()?.parse().ok()?;
        fields.next()?.split(',').any(|name| name.trim() == user).then_some(gid)
    };
    group.lines().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nmongod:x:998:997::/var/lib/mongo:/bin/false\n";
        assert_eq!(in_passwd(passwd, "mongod"), Some((998, 997)));
        assert_eq!(in_passwd(passwd, "mongo"), None);
        assert_eq!(look_up("12:34").unwrap(), Identity { uid: 12, gid: 34, groups: Vec::new() });
        assert!(look_up("no such user").is_err());
        assert!(look_up("12:x").is_err());
    }

    #[test]
    fn groups_are_those_that_name_the_user() {
        let group =
            "root:x:0:\nssl-cert:x:115:postgres,mongod\nmongod:x:997:\nmongodb:x:9:mongodx\nbad:x:n:mongod\n";
        assert_eq!(in_group(group, "mongod"), [115]);
        assert_eq!(in_group(group, "mongo"), [0; 0]);
    }
}
