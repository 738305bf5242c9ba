//! Versions that a restore on another machine must meet: collations and extensions, database by database.
//!
//! An index sorted by one glibc or ICU is wrong under another, and a data directory without an extension's library
//! loads no such function: a restore compares these lists and warns.

use crate::base::Result;

use super::connect::{Session, column};

/// What was found in every database that could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Sorted by name.
    pub databases: Vec<DatabaseInventory>,
    /// Databases that accept no connection from this user, and why.
    pub unreadable: Vec<(String, String)>,
}

/// One database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseInventory {
    /// Its name.
    pub name: String,
    /// `LC_COLLATE` of the database.
    pub collate: String,
    /// Version of the default collation when the database was made (15 and later).
    pub collation_version: Option<String>,
    /// Provider and version of its collations, each pair once, sorted.
    pub collations: Vec<CollationVersion>,
    /// Installed extensions, sorted by name.
    pub extensions: Vec<ExtensionVersion>,
}

/// A collation provider's version as recorded in a catalog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CollationVersion {
    /// `libc`, `icu` or `builtin`.
    pub provider: String,
    /// In the provider's terms: `2.36`, `153.120`.
    pub version: String,
}

/// An installed extension.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtensionVersion {
    /// Its name.
    pub name: String,
    /// The installed version.
    pub version: String,
}

impl Session {
    /// Looks into every database this user may connect to, one after the other.
    pub async fn inventory(&self) -> Result<Inventory> {
        // datcollversion exists since 15.
        let version = if self.major() >= 15 { "datcollversion" } else { "NULL::text" };
        let sql = format!(
            "SELECT datname::text, datcollate::text, {version}, datallowconn AND has_database_privilege(oid, 'CONNECT') \
             FROM pg_database ORDER BY datname::text COLLATE \"C\""
        );
        let mut inventory = Inventory::default();
        for row in self.rows("list the databases of", &sql, &[]).await? {
            let name: String = column(&row, 0)?;
            if !column::<bool>(&row, 3)? {
                inventory.unreadable.push((name, "it accepts no connections from this user".into()));
                continue;
            }
            let found = DatabaseInventory {
                collate: column(&row, 1)?,
                collation_version: column(&row, 2)?,
                name: name.clone(),
                collations: Vec::new(),
                extensions: Vec::new(),
            };
            match self.look_into(found).await {
                Ok(found) => inventory.databases.push(found),
                // Dropped meanwhile, or closed to this user by pg_hba.conf: a warning less, not a failed backup.
                Err(error) => inventory.unreadable.push((name, error.summary())),
            }
        }
        Ok(inventory)
    }

    async fn look_into(&self, mut found: DatabaseInventory) -> Result<DatabaseInventory> {
        let session = self.open_database(&found.name).await?;
        let collations = "SELECT DISTINCT CASE collprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' \
            ELSE collprovider::text END COLLATE \"C\", collversion COLLATE \"C\" FROM pg_collation \
            WHERE collversion IS NOT NULL ORDER BY 1, 2";
        for row in session.rows("read the collations of", collations, &[]).await? {
            found.collations.push(CollationVersion { provider: column(&row, 0)?, version: column(&row, 1)? });
        }
        let extensions = "SELECT extname::text, extversion FROM pg_extension ORDER BY extname::text COLLATE \"C\"";
        for row in session.rows("read the extensions of", extensions, &[]).await? {
            found.extensions.push(ExtensionVersion { name: column(&row, 0)?, version: column(&row, 1)? });
        }
        Ok(found)
    }
}
