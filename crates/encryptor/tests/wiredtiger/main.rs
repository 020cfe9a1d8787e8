//! The encryptor in real databases: three WiredTiger builds, driven as mongod drives it.
#![allow(unreachable_pub, dead_code, reason = "modules of one test program")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent_away;
mod clauses;
mod damage;
mod encryption;
mod host;
mod key_agent;
mod process;
mod refusals;
mod traces;

/// Makes each test once for every build.
macro_rules! on_every_build {
    ($($test:ident),* $(,)?) => {
        $crate::on_every_build!(@build secantusdb, $crate::host::Build::SecantusDb, $($test)*);
        $crate::on_every_build!(@build wiredtiger_11_3_1, $crate::host::Build::V11_3_1, $($test)*);
        $crate::on_every_build!(@build wiredtiger_3_2_1, $crate::host::Build::V3_2_1, $($test)*);
    };
    (@build $module:ident, $build:expr, $($test:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    match $build.ready() {
                        Ok(ready) => super::$test(&ready),
                        Err(reason) => keyward_testkit::skip!("{reason}"),
                    }
                }
            )*
        }
    };
}
pub(crate) use on_every_build;
