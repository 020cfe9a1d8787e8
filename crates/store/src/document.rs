//! Documents: one typed struct per noun, stored as JSON with a revision.

use std::{
    fmt::Display,
    ops::{Deref, DerefMut},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, any::AnyRow};

use crate::{
    Change, Observation, StoreError,
    tx::{Columns, Tx},
};

/// A noun that is stored whole.
pub trait Document: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its table, one of those in `migrations/`.
    const TABLE: &'static str;

    /// Its id.
    fn id(&self) -> String;

    /// The id of the project or organization that it belongs to; empty for none.
    fn parent(&self) -> String;

    /// A name that is unique within the parent; `None` where there is none.
    fn name(&self) -> Option<&str>;
}

/// A noun that says, wholly or in part, what was found rather than what is wanted: that much of it is written without
/// an audit event too.
pub trait ObservedDocument: Document {
    /// The fields of its JSON that say what was found; empty for all of them. An [`Observation`] that would change
    /// another one fails with [`StoreError::Wanted`].
    const FOUND: &'static [&'static str];

    /// Whether it comes and goes with what is found, so that an [`Observation`] may insert and delete it.
    const COMES_AND_GOES: bool;
}

/// A document as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// What it says.
    pub document: T,
    /// Grows by one with each update, from 1.
    pub revision: i64,
}

impl<T> Deref for Stored<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.document
    }
}

impl<T> DerefMut for Stored<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.document
    }
}

impl Tx {
    /// The document of an id.
    pub async fn get<T: Document>(&mut self, id: impl Display) -> Result<Option<Stored<T>>, StoreError> {
        let id = id.to_string();
        if id.contains('\0') {
            return Ok(None);
        }
        let sql = format!("SELECT id, revision, body FROM \"{}\" WHERE id = $1", T::TABLE);
        let row = self.row(sqlx::query(AssertSqlSafe(sql)).bind(id)).await?;
        row.as_ref().map(stored).transpose()
    }

    /// The document of a name within a parent.
    pub async fn find<T: Document>(
        &mut self,
        parent: impl Display,
        name: &str,
    ) -> Result<Option<Stored<T>>, StoreError> {
        let parent = parent.to_string();
        if parent.contains('\0') || name.contains('\0') {
            return Ok(None);
        }
        let sql = format!("SELECT id, revision, body FROM \"{}\" WHERE parent = $1 AND name = $2", T::TABLE);
        let row = self.row(sqlx::query(AssertSqlSafe(sql)).bind(parent).bind(name.to_owned())).await?;
        row.as_ref().map(stored).transpose()
    }

    /// The documents of a name, whatever their parents, by id.
    pub async fn named<T: Document>(&mut self, name: &str) -> Result<Vec<Stored<T>>, StoreError> {
        if name.contains('\0') {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT id, revision, body FROM \"{}\" WHERE name = $1 ORDER BY id", T::TABLE);
        self.rows(sqlx::query(AssertSqlSafe(sql)).bind(name.to_owned())).await?.iter().map(stored).collect()
    }

    /// The documents of a parent, by id.
    pub async fn list<T: Document>(&mut self, parent: impl Display) -> Result<Vec<Stored<T>>, StoreError> {
        let parent = parent.to_string();
        if parent.contains('\0') {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT id, revision, body FROM \"{}\" WHERE parent = $1 ORDER BY id", T::TABLE);
        self.rows(sqlx::query(AssertSqlSafe(sql)).bind(parent)).await?.iter().map(stored).collect()
    }

    /// All documents, by id.
    pub async fn list_all<T: Document>(&mut self) -> Result<Vec<Stored<T>>, StoreError> {
        let sql = format!("SELECT id, revision, body FROM \"{}\" ORDER BY id", T::TABLE);
        self.rows(sqlx::query(AssertSqlSafe(sql))).await?.iter().map(stored).collect()
    }

    /// Some of the documents of a parent, by id, and how many there are in all.
    pub async fn page<T: Document>(
        &mut self,
        parent: impl Display,
        offset: u64,
        limit: u64,
    ) -> Result<(Vec<Stored<T>>, u64), StoreError> {
        let parent = parent.to_string();
        if parent.contains('\0') {
            return Ok((Vec::new(), 0));
        }
        let sql = format!("SELECT COUNT(*) AS total FROM \"{}\" WHERE parent = $1", T::TABLE);
        let counted = self.row(sqlx::query(AssertSqlSafe(sql)).bind(parent.clone())).await?;
        let total = counted.map_or(Ok(0), |row| row.number("total"))?;
        let sql = format!(
            "SELECT id, revision, body FROM \"{}\" WHERE parent = $1 ORDER BY id LIMIT $2 OFFSET $3",
            T::TABLE
        );
        let page = sqlx::query(AssertSqlSafe(sql)).bind(parent).bind(bound(limit)).bind(bound(offset));
        let documents = self.rows(page).await?.iter().map(stored).collect::<Result<_, _>>()?;
        Ok((documents, total.unsigned_abs()))
    }

    async fn insert_document<T: Document>(&mut self, document: &T) -> Result<(), StoreError> {
        let (id, parent, name, body) = columns(document)?;
        let sql = format!(
            "INSERT INTO \"{}\" (id, parent, name, revision, body) VALUES ($1, $2, $3, 1, $4) ON CONFLICT DO NOTHING",
            T::TABLE
        );
        let label = name.clone().unwrap_or_else(|| id.clone());
        let insert = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(parent).bind(name).bind(body);
        match self.execute(insert).await? {
            0 => Err(StoreError::Exists { what: what::<T>(&label) }),
            _ => Ok(()),
        }
    }

    async fn update_document<T: Document>(&mut self, document: &T, revision: i64) -> Result<i64, StoreError> {
        let (id, parent, name, body) = columns(document)?;
        if let Some(name) = &name {
            let sql = format!("SELECT id FROM \"{}\" WHERE parent = $1 AND name = $2 AND id <> $3", T::TABLE);
            let same =
                sqlx::query(AssertSqlSafe(sql)).bind(parent.clone()).bind(name.clone()).bind(id.clone());
            if self.row(same).await?.is_some() {
                return Err(StoreError::Exists { what: what::<T>(name) });
            }
        }
        let sql = format!(
            "UPDATE \"{}\" SET parent = $1, name = $2, body = $3, revision = revision + 1 WHERE id = $4 AND revision = $5",
            T::TABLE
        );
        let what = what::<T>(&id);
        let update =
            sqlx::query(AssertSqlSafe(sql)).bind(parent).bind(name).bind(body).bind(id).bind(revision);
        match self.execute(update).await? {
            0 => Err(StoreError::Conflict { what }),
            _ => Ok(revision + 1),
        }
    }

    async fn delete_document<T: Document>(&mut self, id: String) -> Result<bool, StoreError> {
        if id.contains('\0') {
            return Ok(false);
        }
        let sql = format!("DELETE FROM \"{}\" WHERE id = $1", T::TABLE);
        Ok(self.execute(sqlx::query(AssertSqlSafe(sql)).bind(id)).await? > 0)
    }
}

impl Change {
    /// Deletes every document that belongs to a project or organization, and what is kept per node of it; not that
    /// project or organization itself, no secret, no event.
    pub async fn delete_everything_of(&mut self, parent: impl Display) -> Result<(), StoreError> {
        let parent = parent.to_string();
        for table in ["desired", "report"] {
            let sql = format!(
                "DELETE FROM \"{table}\" WHERE node_id IN (SELECT id FROM \"node\" WHERE parent = $1)"
            );
            self.execute(sqlx::query(AssertSqlSafe(sql)).bind(parent.clone())).await?;
        }
        for table in crate::documents::TABLES {
            let sql = format!("DELETE FROM \"{table}\" WHERE parent = $1");
            self.execute(sqlx::query(AssertSqlSafe(sql)).bind(parent.clone())).await?;
        }
        Ok(())
    }
}

impl Change {
    /// Stores a new document, as revision 1. [`StoreError::Exists`] where its id or name is taken.
    pub async fn insert<T: Document>(&mut self, document: &T) -> Result<(), StoreError> {
        self.insert_document(document).await
    }

    /// Replaces a document that was read at `revision`; its new revision. [`StoreError::Conflict`] where it has moved
    /// or is gone.
    pub async fn update<T: Document>(&mut self, document: &T, revision: i64) -> Result<i64, StoreError> {
        self.update_document(document, revision).await
    }

    /// Deletes a document; whether there was one.
    pub async fn delete<T: Document>(&mut self, id: impl Display) -> Result<bool, StoreError> {
        self.delete_document::<T>(id.to_string()).await
    }

    /// Deletes the documents of a parent; how many.
    pub async fn delete_all<T: Document>(&mut self, parent: impl Display) -> Result<u64, StoreError> {
        let sql = format!("DELETE FROM \"{}\" WHERE parent = $1", T::TABLE);
        self.execute(sqlx::query(AssertSqlSafe(sql)).bind(parent.to_string())).await
    }
}

impl Observation {
    /// Stores a new document, as revision 1. [`StoreError::Exists`] where its id or name is taken.
    pub async fn insert<T: ObservedDocument>(&mut self, document: &T) -> Result<(), StoreError> {
        const { assert!(T::COMES_AND_GOES, "only a Change inserts this kind of document") }
        self.wait_for_turn().await?;
        self.insert_document(document).await
    }

    /// Replaces what was found in a document that was read at `revision`; its new revision.
    /// [`StoreError::Conflict`] where it has moved or is gone.
    pub async fn update<T: ObservedDocument>(
        &mut self,
        document: &T,
        revision: i64,
    ) -> Result<i64, StoreError> {
        self.wait_for_turn().await?;
        if !T::FOUND.is_empty() {
            self.check_only_found(document, revision).await?;
        }
        self.update_document(document, revision).await
    }

    /// Deletes a document; whether there was one.
    pub async fn delete<T: ObservedDocument>(&mut self, id: impl Display) -> Result<bool, StoreError> {
        const { assert!(T::COMES_AND_GOES, "only a Change deletes this kind of document") }
        self.wait_for_turn().await?;
        self.delete_document::<T>(id.to_string()).await
    }

    /// Fails where the document differs from the stored one in what is wanted.
    async fn check_only_found<T: ObservedDocument>(
        &mut self,
        document: &T,
        revision: i64,
    ) -> Result<(), StoreError> {
        let id = document.id();
        let sql = format!("SELECT body FROM \"{}\" WHERE id = $1 AND revision = $2", T::TABLE);
        let before = self.row(sqlx::query(AssertSqlSafe(sql)).bind(id.clone()).bind(revision)).await?;
        let Some(before) = before else { return Err(StoreError::Conflict { what: what::<T>(&id) }) };
        let unreadable =
            |error: serde_json::Error| StoreError::Unreadable { what: what::<T>(&id), source: error.into() };
        // By way of the type, so that a field that is new to it does not count as changed.
        let fields = |document: &T| match serde_json::to_value(document) {
            Ok(Value::Object(fields)) => Ok(fields),
            Ok(_) => Ok(Map::new()),
            Err(error) => Err(unreadable(error)),
        };
        let before: T = serde_json::from_str(&before.text("body")?).map_err(unreadable)?;
        let (before, after) = (fields(&before)?, fields(document)?);
        let names = before.keys().chain(after.keys());
        match names
            .filter(|name| !T::FOUND.contains(&name.as_str()))
            .find(|&name| before.get(name) != after.get(name))
        {
            Some(name) => Err(StoreError::Wanted { what: what::<T>(&id), field: name.clone() }),
            None => Ok(()),
        }
    }
}

/// A bound of a page as the databases take it.
pub(crate) fn bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn what<T: Document>(id: &str) -> String {
    format!("{} {id}", T::TABLE)
}

/// What a document's row holds: id, parent, name, body.
fn columns<T: Document>(document: &T) -> Result<(String, String, Option<String>, String), StoreError> {
    let (id, parent, name) = (document.id(), document.parent(), document.name().map(str::to_owned));
    for (text, what) in [(&id, "an id"), (&parent, "an id"), (name.as_ref().unwrap_or(&id), "a name")] {
        if text.contains('\0') {
            return Err(StoreError::Unstorable { what });
        }
    }
    let body = serde_json::to_string(document)
        .map_err(|error| StoreError::Unreadable { what: what::<T>(&id), source: error.into() })?;
    Ok((id, parent, name, body))
}

fn stored<T: Document>(row: &AnyRow) -> Result<Stored<T>, StoreError> {
    let document = serde_json::from_str(&row.text("body")?).map_err(|error| StoreError::Unreadable {
        what: what::<T>(&row.text("id").unwrap_or_default()),
        source: error.into(),
    })?;
    Ok(Stored { document, revision: row.number("revision")? })
}
