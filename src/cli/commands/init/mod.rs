//! `lifeboat init`: keys where they are missing, then the repository.
//!
//! Order: keys first, so that a repository whose keys nobody has can never come to be. An interrupted run is repeated:
//! keys that lie in the directory are used, never overwritten.

mod keys;
mod report;

use std::sync::Arc;

use self::keys::Keys;
use self::report::Document;
use crate::base::{Error, Result};
use crate::cli::args::InitArgs;
use crate::cli::config::{RepositorySettings, Settings};
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::check;
use crate::repo::{KeyEntry, Repository, Role, Signer, layout};
use crate::store::{self, Store};

/// Makes a repository, and keys when asked to.
///
/// # Errors
/// When there is a repository already, no key to sign with, or something cannot be written.
pub async fn run(args: &InitArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let chosen = settings.repository(context.global.repository.as_deref())?;
    let keys = Keys::plan(&settings, args.generate_keys.as_deref())?;
    let store = scope::open_store(chosen, &scope::layers(context, chosen, Use::Brief))?;
    let document = if args.dry_run {
        refuse_existing(store.as_ref(), chosen).await?;
        Document::planned(chosen, &settings, &keys)
    } else {
        create(chosen, &settings, &keys, store).await?
    };
    context.result("init", 1, &document, || document.text())?;
    Ok(Outcome::Done)
}

async fn create(chosen: &RepositorySettings, settings: &Settings, keys: &Keys, store: Arc<dyn Store>) -> Result<Document> {
    store::create_root(&chosen.url, &chosen.options).await?;
    refuse_existing(store.as_ref(), chosen).await?;
    let made = keys.make()?;
    let entry = |name: &str, signer: &Signer, roles: &[Role]| KeyEntry {
        name: name.to_owned(),
        public_key: signer.public_key(),
        roles: roles.to_vec(),
    };
    let (entries, admin) = match &made.operator {
        Some(operator) => {
            let host = entry("host", &made.signing, &[Role::Write]);
            (vec![host, entry("operator", operator, &[Role::Expire, Role::Admin])], operator)
        }
        None => (vec![entry("host", &made.signing, &[Role::Write, Role::Expire, Role::Admin])], &made.signing),
    };
    let repository = Repository::create(&chosen.name, store, entries, admin).await?;
    // The repository exists: what goes wrong now is told, and undoes nothing.
    let probe = check::probe::probe(&repository).await;
    Ok(Document::done(chosen, settings, keys, &made, &repository, &probe))
}

/// Finds a repository before keys are made for it. A place that does not answer yet holds none: creating it tells.
async fn refuse_existing(store: &dyn Store, chosen: &RepositorySettings) -> Result<()> {
    match store.head(layout::DESCRIPTOR).await {
        Ok(_) => Err(Error::failed(format!("there is a repository at {} already", chosen.url))
            .hint(format!("lifeboat check   looks at repository {}", chosen.name))),
        Err(_) => Ok(()),
    }
}
