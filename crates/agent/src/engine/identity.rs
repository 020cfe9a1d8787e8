//! The Unix user that the engine runs under.

use std::fs;

use super::EngineError;

/// User and group id of `user`: a name of `/etc/passwd`, or `UID:GID`.
pub(super) fn look_up(user: &str) -> Result<(u32, u32), EngineError> {
    let unknown = || EngineError::UnknownUser { user: user.to_owned() };
    if let Some((uid, gid)) = user.split_once(':') {
        return Ok((uid.parse().map_err(|_| unknown())?, gid.parse().map_err(|_| unknown())?));
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(|_| unknown())?;
    in_passwd(&passwd, user).ok_or_else(unknown)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nmongod:x:998:997::/var/lib/mongo:/bin/false\n";
        assert_eq!(in_passwd(passwd, "mongod"), Some((998, 997)));
        assert_eq!(in_passwd(passwd, "mongo"), None);
        assert_eq!(look_up("12:34").unwrap(), (12, 34));
        assert!(look_up("no such user").is_err());
        assert!(look_up("12:x").is_err());
    }
}
