//! What a cluster answers: the rows of every table of every database, and the same questions put to its indexes.

use std::collections::BTreeMap;

use super::support::postgres::Cluster;
use super::support::sql::Sql;

/// Number of rows and digest of each table, by database and name.
pub type Facts = BTreeMap<String, (i64, String)>;

const NO_ROWS: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// The tables of the users, with whether a restored cluster has their rows.
const TABLES: &str = "SELECT c.oid::regclass, c.relpersistence FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1";

/// B-tree indexes on one plain column of a table: table, index, column. With `indcheckxmin` set an index may not be used as
/// long as an older (prepared) transaction is open.
const INDEXES: &str = "SELECT t.oid::regclass, c.oid::regclass, quote_ident(a.attname)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace JOIN pg_am m ON m.oid = c.relam
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
    WHERE m.amname = 'btree' AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid AND NOT i.indcheckxmin
      AND t.relkind IN ('r', 'm') AND t.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2";

/// What every table of the cluster holds, as a backup of this moment must give it back: unlogged tables come back empty.
#[track_caller]
pub fn of(cluster: &Cluster) -> Facts {
    let mut facts = Facts::new();
    for database in databases(cluster) {
        let mut sql = connect(cluster, &database);
        for row in sql.rows(TABLES) {
            let (table, persistence) = (row[0].clone().expect("a name"), row[1].clone().expect("a letter"));
            let fact = if persistence == "u" { (0, NO_ROWS.to_owned()) } else { of_table(&mut sql, &table) };
            facts.insert(format!("{database}.{table}"), fact);
        }
    }
    facts
}

/// Fails the test unless the cluster holds exactly these rows.
#[track_caller]
pub fn assert_hold(cluster: &Cluster, facts: &Facts) {
    let found = of(cluster);
    let names = |facts: &Facts| facts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(facts), "the tables (left: restored)");
    let wrong: Vec<_> = facts.iter().filter(|(name, fact)| found[*name] != **fact).collect();
    assert!(
        wrong.is_empty(),
        "rows differ; expected {wrong:?}\n  found {:?}",
        wrong.iter().map(|(name, _)| &found[*name]).collect::<Vec<_>>()
    );
}

fn of_table(sql: &mut Sql, table: &str) -> (i64, String) {
    let digest = "md5(coalesce(string_agg(md5(t::text), '' ORDER BY md5(t::text)), ''))";
    let rows = sql.rows(&format!("SELECT count(*), {digest} FROM {table} t"));
    let field = |at: usize| rows[0][at].clone().expect("a value");
    (field(0).parse().expect("a number"), field(1))
}

/// Puts the same question to the table and to each of its B-trees by an index-only scan. Every answer that differs; the
/// number of indexes asked.
#[track_caller]
pub fn wrong_index_answers(cluster: &Cluster) -> (Vec<String>, usize) {
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for database in databases(cluster) {
        let mut sql = connect(cluster, &database);
        for row in sql.rows(INDEXES) {
            let name = |at: usize| row[at].clone().expect("a name");
            let (table, index, column) = (name(0), name(1), name(2));
            let question = format!(
                "SELECT count(*), coalesce(md5(string_agg({column}::text, ',' ORDER BY {column})), '') FROM {table} WHERE {column} IS NOT NULL"
            );
            // No index may answer, and then only this one; the others are away until the transaction is rolled back. To
            // turn scans off is not enough: an empty BRIN index has a cost so far below zero that it is used all the same.
            let put_away = format!("UPDATE pg_index SET indisvalid = false WHERE indrelid = '{table}'::regclass");
            sql.execute("BEGIN");
            sql.execute(&put_away);
            let by_table = ask(&mut sql, "enable_indexscan = off", &question, "Seq Scan");
            sql.execute("ROLLBACK");
            sql.execute("BEGIN");
            sql.execute(&format!("{put_away} AND indexrelid <> '{index}'::regclass"));
            let by_index = ask(&mut sql, "enable_seqscan = off; SET enable_indexscan = on", &question, "Index Only Scan");
            sql.execute("ROLLBACK");
            asked += 1;
            if by_table != by_index {
                wrong.push(format!("{database}: {table} by {index}: {by_index:?}, by the table: {by_table:?}"));
            }
        }
    }
    (wrong, asked)
}

/// The answer, by a plan that really is the one meant.
#[track_caller]
fn ask(sql: &mut Sql, settings: &str, question: &str, scan: &str) -> Vec<super::support::sql::Row> {
    sql.execute(&format!("RESET ALL; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0; SET {settings}"));
    let plan: Vec<String> = sql.rows(&format!("EXPLAIN {question}")).into_iter().filter_map(|row| row[0].clone()).collect();
    assert!(plan.iter().any(|line| line.contains(scan)), "no {scan}: {question}\n{}", plan.join("\n"));
    sql.rows(question)
}

/// Every database that can be connected to.
#[track_caller]
pub fn databases(cluster: &Cluster) -> Vec<String> {
    let rows = cluster.sql().rows("SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1");
    rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}

/// A connection to one database of the cluster.
#[track_caller]
pub fn connect(cluster: &Cluster, database: &str) -> Sql {
    Sql::connect(&cluster.conninfo_of(database)).unwrap_or_else(|error| panic!("{database}: {error}\n{}", cluster.log_tail()))
}

/// Deletes every third row of every table that a B-tree leads to: where a map was ahead of its page, the row stays in
/// the answers of index-only scans.
#[track_caller]
pub fn delete_some_rows(cluster: &Cluster) {
    for database in databases(cluster) {
        let mut sql = connect(cluster, &database);
        for row in sql.rows(TABLES) {
            let table = row[0].as_ref().expect("a name");
            sql.execute(&format!("DELETE FROM {table} WHERE (ctid::text::point)[1]::int % 3 = 0"));
        }
    }
}
