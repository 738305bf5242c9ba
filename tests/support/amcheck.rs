//! What `amcheck` says about every table and B-tree of a cluster.

use super::postgres::Cluster;
use super::sql::Sql;

/// Every finding, with database and relation; empty when all is well. The cluster must be read-write.
///
/// `bt_index_check` also looks every heap row up in each index; `verify_heapam` exists from PostgreSQL 14 on.
#[track_caller]
pub fn findings(cluster: &Cluster) -> Vec<String> {
    let databases = cluster.sql().rows("SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1");
    let mut findings = Vec::new();
    let mut checked = 0;
    for database in databases.into_iter().filter_map(|row| row.into_iter().next().flatten()) {
        let mut sql = Sql::connect(&cluster.conninfo_of(&database)).unwrap_or_else(|error| panic!("{database}: {error}"));
        sql.execute("SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS amcheck");
        let mut found = check_indexes(&mut sql, &mut checked);
        if cluster.installation.major >= 14 {
            found.extend(check_tables(&mut sql, &mut checked));
        }
        findings.extend(found.into_iter().map(|finding| format!("{database}: {finding}")));
    }
    assert!(checked > 100, "only {checked} relations were checked");
    findings
}

/// Fails the test when [`findings`] has any.
#[track_caller]
pub fn assert_clean(cluster: &Cluster) {
    let findings = findings(cluster);
    assert!(findings.is_empty(), "amcheck found:\n  {}", findings.join("\n  "));
}

fn check_indexes(sql: &mut Sql, checked: &mut usize) -> Vec<String> {
    let indexes = sql.rows(
        "SELECT c.oid, c.oid::regclass FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am a ON a.oid = c.relam
         WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence <> 't' AND i.indisready AND i.indisvalid",
    );
    *checked += indexes.len();
    let check = |row: super::sql::Row| {
        let (oid, name) = (row[0].clone()?, row[1].clone()?);
        let result = sql.try_execute(&format!("SELECT bt_index_check({oid}::regclass, heapallindexed => true)"));
        result.err().map(|error| format!("index {name}: {error}"))
    };
    indexes.into_iter().filter_map(check).collect()
}

fn check_tables(sql: &mut Sql, checked: &mut usize) -> Vec<String> {
    let tables = sql.rows(
        "SELECT oid, oid::regclass FROM pg_class WHERE relkind IN ('r', 'm', 't') AND relpersistence <> 't'
           AND relam = (SELECT oid FROM pg_am WHERE amname = 'heap')",
    );
    *checked += tables.len();
    let mut found = Vec::new();
    for row in tables {
        let (oid, name) = (row[0].clone().unwrap_or_default(), row[1].clone().unwrap_or_default());
        match sql.try_rows(&format!("SELECT blkno, offnum, msg FROM verify_heapam({oid}::regclass, check_toast => true)")) {
            Ok(rows) => found.extend(rows.into_iter().map(|row| format!("table {name}: {row:?}"))),
            Err(error) => found.push(format!("table {name}: {error}")),
        }
    }
    found
}
