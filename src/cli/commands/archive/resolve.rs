//! `lifeboat archive resolve SOURCE FILE --keep DIGEST --key FILE`.

use serde::Serialize;

use crate::base::Result;
use crate::cli::args::ArchiveResolveArgs;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::scope::{self, Use};
use crate::engine::archive::resolve;
use crate::repo::Signer;

#[derive(Serialize)]
struct Document {
    source: String,
    file: String,
    kept_digest: String,
    recorded: Vec<Recorded>,
}

#[derive(Serialize)]
struct Recorded {
    repository: String,
    key: String,
}

/// Records the operator's decision in every repository of the source.
///
/// # Errors
/// When the key has no right to decide, or a repository does not answer; running it again is harmless.
pub async fn run(args: &ArchiveResolveArgs, context: &Context) -> Result<Outcome> {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    let operator = Signer::read(&args.key)?;
    let mut document = Document {
        source: source.name.to_string(),
        file: args.file.clone(),
        kept_digest: args.keep.clone(),
        recorded: Vec::new(),
    };
    for chosen in settings.repositories_of(source, context.global.repository.as_deref())? {
        let layers = scope::layers(context, chosen, Use::Brief);
        let scope = scope::open(context, &settings, chosen, &args.source, &layers).await?;
        let key = resolve::run(&scope, &operator, args.incarnation.clone(), &args.file, &args.keep).await?;
        document.recorded.push(Recorded { repository: chosen.name.clone(), key });
    }
    context.result("archive_resolve", 1, &document, || text(&document))?;
    Ok(Outcome::Done)
}

fn text(document: &Document) -> String {
    let Document { source, file, kept_digest, recorded } = document;
    let mut text = format!("{file} of {source} is the version {kept_digest} from now on\n");
    for Recorded { repository, key } in recorded {
        text += &format!("  {repository}  {key}\n");
    }
    text
}
