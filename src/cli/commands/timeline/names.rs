//! Numbers in the log and the names that the running server has for them, as far as it can be asked.

use std::time::Duration;

use crate::base::Error;
use crate::cli::args::TimelineArgs;
use crate::cli::config::{Settings, SourceKind};
use crate::cli::context::Context;
use crate::engine::activity::acts::Act;
use crate::engine::activity::around::Listing;
use crate::engine::activity::collect::Table;
use crate::engine::activity::detail::{Detail, What};
use crate::engine::activity::run::Archive;
use crate::source::postgres::names::{Names, Wanted, look_up};
use crate::source::postgres::wal::Relation;

/// A server that does not answer must not hold up the answer that needs none.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to call what the log has numbers for.
#[derive(Default)]
pub struct Naming(Names);

impl Naming {
    /// A relation: `public.orders`, or `relfilenode 16384 in database 5`.
    pub fn relation(&self, relation: Relation) -> String {
        self.known(relation).unwrap_or_else(|| {
            let database = self.database(relation.database);
            format!("relfilenode {} in {database}", relation.file_node)
        })
    }

    /// A relation's name, where it has one.
    pub fn known(&self, relation: Relation) -> Option<String> {
        self.0.files.get(&(relation.database, relation.file_node)).map(|name| name.qualified())
    }

    /// Whether it is one of the server's own: a catalogue, or a TOAST table.
    pub fn is_system(&self, relation: Relation) -> bool {
        let name = self.0.files.get(&(relation.database, relation.file_node));
        name.map_or(relation.is_from_initdb(), |name| name.is_system())
    }

    /// A table by its id; none when it has no name, or is another kind of relation. `or_index`: or an index, or a sequence.
    pub fn table(&self, table: Table, or_index: bool) -> Option<String> {
        let name = self.0.relations.get(&(table.database, table.id))?;
        let is_meant = match name.kind.as_str() {
            "r" | "p" | "m" => true,
            "i" | "I" | "S" => or_index,
            _ => false,
        };
        (is_meant && !name.is_system()).then(|| name.qualified())
    }

    /// A database: its name, or `database 5`.
    pub fn database(&self, id: u32) -> String {
        self.0.databases.get(&id).cloned().unwrap_or_else(|| format!("database {id}"))
    }
}

/// The names for a listing of transactions.
pub async fn of_listing(
    listing: &Listing,
    archive: &Archive,
    args: &TimelineArgs,
    context: &Context,
    settings: &Settings,
) -> Naming {
    let mut wanted = Wanted::default();
    for transaction in &listing.transactions {
        wanted.files.extend(transaction.rows.keys().map(of_file));
        transaction.acts.iter().for_each(|act| add(&mut wanted, act));
    }
    ask(wanted, archive, args, context, settings).await
}

/// The names for an interval.
pub async fn of_detail(
    detail: &Detail,
    archive: &Archive,
    args: &TimelineArgs,
    context: &Context,
    settings: &Settings,
) -> Naming {
    let mut wanted = Wanted { files: detail.writes.keys().map(of_file).collect(), ..Wanted::default() };
    for noted in detail.events() {
        if let What::Act { act, .. } = &noted.what {
            add(&mut wanted, act);
        }
    }
    ask(wanted, archive, args, context, settings).await
}

fn of_file(relation: &Relation) -> (u32, u32) {
    (relation.database, relation.file_node)
}

fn add(wanted: &mut Wanted, act: &Act) {
    wanted.files.extend(act.relations.iter().map(of_file));
    wanted.relations.extend(act.tables.iter().chain(&act.locked).map(|table| (table.database, table.id)));
}

/// Asks the source's server; without an answer there are numbers only.
async fn ask(wanted: Wanted, archive: &Archive, args: &TimelineArgs, context: &Context, settings: &Settings) -> Naming {
    let Ok(source) = settings.source(&args.source) else { return Naming::default() };
    let SourceKind::Postgres(postgres) = &source.kind else { return Naming::default() };
    let Ok(system_identifier) = archive.identity.system_identifier.parse() else { return Naming::default() };
    let asking = tokio::time::timeout(PATIENCE, look_up(&postgres.conninfo, system_identifier, archive.path.timeline(), &wanted));
    let answer = match asking.await {
        Ok(answer) => answer,
        Err(_) => Err(Error::failed(format!("the server did not answer within {} s", PATIENCE.as_secs()))),
    };
    match answer {
        Ok(names) => Naming(names),
        Err(error) => {
            context.progress.note(&format!("relations are shown by number: {}", error.summary()));
            Naming::default()
        }
    }
}
