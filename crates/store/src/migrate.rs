//! The schema and its versions.

use crate::{
    Store, StoreError,
    documents::TABLES,
    open::DatabaseKind,
    tx::{Columns, Tx},
};

/// All versions, oldest first. One that was released is never edited.
const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001_first.sql"), include_str!("migrations/0002_usage.sql")];

/// Any number that no other program on the same database uses: `keyw` in ASCII.
const POSTGRES_LOCK: i64 = 0x6b65_7977;

/// Brings the database up to the newest version, in one transaction, and checks that it belongs to the server key.
pub(crate) async fn run(store: &Store) -> Result<(), StoreError> {
    let kind = store.0.kind;
    let turn = store.0.writer_turn().await?;
    let begin = match kind {
        DatabaseKind::Sqlite => "BEGIN IMMEDIATE",
        DatabaseKind::Postgres => "BEGIN",
    };
    let mut tx = Tx::begin(store, begin, Some(turn)).await?;
    if kind == DatabaseKind::Postgres {
        tx.execute(sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(POSTGRES_LOCK)).await?;
    }
    let versions = dialect(
        "CREATE TABLE IF NOT EXISTS \"keyward_schema\" (version BIGINT NOT NULL PRIMARY KEY, sha256 TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS \"keyward_server_key\" (sealed BYTEA NOT NULL);",
        kind,
    );
    tx.execute_script(versions).await?;
    let applied =
        tx.rows(sqlx::query("SELECT version, sha256 FROM \"keyward_schema\" ORDER BY version")).await?;
    let known = MIGRATIONS.len() as i64;
    let found = applied.last().map_or(Ok(0), |row| row.number("version"))?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (number, script) in (1..).zip(MIGRATIONS) {
        let sha256 = sha256(script);
        match applied.iter().find(|row| row.number("version").is_ok_and(|version| version == number)) {
            Some(row) if row.text("sha256")? == sha256 => {}
            Some(_) => return Err(StoreError::Foreign { version: number }),
            None if number <= found => return Err(StoreError::Foreign { version: number }),
            None => {
                tx.execute_script(dialect(&with_documents(script), kind)).await?;
                let note = sqlx::query("INSERT INTO \"keyward_schema\" (version, sha256) VALUES ($1, $2)");
                tx.execute(note.bind(number).bind(sha256)).await?;
            }
        }
    }
    check_server_key(&mut tx).await?;
    tx.commit().await
}

const SERVER_KEY_PURPOSE: &str = "server key";

/// A value sealed at the first open, which every later key must open.
async fn check_server_key(tx: &mut Tx) -> Result<(), StoreError> {
    let key = tx.store.key().clone();
    match tx.row(sqlx::query("SELECT sealed FROM \"keyward_server_key\"")).await? {
        Some(row) => match key.open(SERVER_KEY_PURPOSE, &row.bytes("sealed")?) {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::WrongServerKey),
        },
        None => {
            let sealed = key.seal(SERVER_KEY_PURPOSE, SERVER_KEY_PURPOSE.as_bytes());
            tx.execute(sqlx::query("INSERT INTO \"keyward_server_key\" (sealed) VALUES ($1)").bind(sealed))
                .await?;
            Ok(())
        }
    }
}

fn with_documents(script: &str) -> String {
    let tables = TABLES.map(|table| {
        format!(
            "CREATE TABLE \"{table}\" (id TEXT NOT NULL PRIMARY KEY, parent TEXT NOT NULL, name TEXT, \
             revision BIGINT NOT NULL, body TEXT NOT NULL, UNIQUE (parent, name));\n\
             CREATE INDEX {table}_by_name ON \"{table}\" (name);"
        )
    });
    script.replace("{documents}", &tables.join("\n"))
}

/// The two words that differ: SQLite's type of bytes, and PostgreSQL's order of texts, which is else the operating
/// system's.
fn dialect(script: &str, kind: DatabaseKind) -> String {
    match kind {
        DatabaseKind::Sqlite => script.replace("BYTEA", "BLOB"),
        DatabaseKind::Postgres => script.replace("TEXT", "TEXT COLLATE \"C\""),
    }
}

fn sha256(script: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, with_documents(script).as_bytes());
    data_encoding::HEXLOWER.encode(digest.as_ref())
}
