//! Names of relations and databases, asked of the running server: the log knows only numbers.
//!
//! What was dropped or rewritten since has no name there any more.

use std::collections::{BTreeMap, BTreeSet};

use super::connect::{Session, column, connect};
use crate::base::{Error, Result, TimelineId};

/// Names by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Databases by id.
    pub databases: BTreeMap<u32, String>,
    /// Relations by database and the number of their files.
    pub files: BTreeMap<(u32, u32), RelationName>,
    /// Relations by database and id.
    pub relations: BTreeMap<(u32, u32), RelationName>,
}

/// A relation's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationName {
    /// Its schema.
    pub schema: String,
    /// Its own.
    pub name: String,
    /// `pg_class.relkind`: `r` for a table, `i` for an index, `t` for a TOAST table, …
    pub kind: String,
}

impl RelationName {
    /// `schema.name`.
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Whether it is one of the server's own.
    pub fn is_system(&self) -> bool {
        matches!(self.schema.as_str(), "pg_catalog" | "pg_toast" | "information_schema")
    }
}

/// The numbers that names are wanted for, each with its database (0 for what all databases share).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Numbers of files.
    pub files: BTreeSet<(u32, u32)>,
    /// Ids of relations.
    pub relations: BTreeSet<(u32, u32)>,
}

const RELATIONS: &str = "SELECT c.oid, coalesce(pg_relation_filenode(c.oid), 0)::oid, n.nspname::text, c.relname::text, c.relkind::text \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.oid = ANY ($1) OR pg_relation_filenode(c.oid) = ANY ($2)";

/// Asks the server that `conninfo` names, when it is the cluster with this system identifier and on this timeline: on
/// another one the same numbers may have been given to other relations. Databases that cannot be entered are passed over.
///
/// # Errors
/// When the server does not answer, is another cluster or on another timeline.
pub async fn look_up(conninfo: &str, system_identifier: u64, timeline: TimelineId, wanted: &Wanted) -> Result<Names> {
    let session = connect(conninfo).await?;
    let row = session.row("identify", "SELECT system_identifier FROM pg_control_system()", &[]).await?;
    let found = column::<i64>(&row, 0)?.cast_unsigned();
    if found != system_identifier {
        return Err(Error::failed(format!("the server ({}) is another cluster, {found}", session.describe())));
    }
    let on = session.timeline().await?;
    if on != timeline {
        return Err(Error::failed(format!("the server is on timeline {on}")));
    }
    let mut names = Names::default();
    for row in session.rows("list the databases of", "SELECT oid, datname::text FROM pg_database", &[]).await? {
        names.databases.insert(column(&row, 0)?, column(&row, 1)?);
    }
    let all: BTreeSet<u32> = wanted.files.iter().chain(&wanted.relations).map(|(database, _)| *database).collect();
    for database in all {
        if database == 0 {
            names.add(&session, database, wanted).await?;
        } else if let Some(name) = names.databases.get(&database).cloned()
            && let Ok(session) = session.open_database(&name).await
        {
            names.add(&session, database, wanted).await?;
            session.close().await;
        }
    }
    session.close().await;
    Ok(names)
}

impl Names {
    async fn add(&mut self, session: &Session, database: u32, wanted: &Wanted) -> Result<()> {
        let of = |set: &BTreeSet<(u32, u32)>| -> Vec<u32> {
            set.iter().filter(|(of, _)| *of == database).map(|(_, number)| *number).collect()
        };
        let (relations, files) = (of(&wanted.relations), of(&wanted.files));
        for row in session.rows("read the relations of", RELATIONS, &[&relations, &files]).await? {
            let (id, file): (u32, u32) = (column(&row, 0)?, column(&row, 1)?);
            let name = RelationName { schema: column(&row, 2)?, name: column(&row, 3)?, kind: column(&row, 4)? };
            if wanted.files.contains(&(database, file)) {
                self.files.insert((database, file), name.clone());
            }
            if wanted.relations.contains(&(database, id)) {
                self.relations.insert((database, id), name);
            }
        }
        Ok(())
    }
}
