//! One file a verb. Each takes its own arguments and the [`Context`], and returns an [`Outcome`].

mod archive;
mod backup;
mod check;
mod completions;
mod copy;
mod demo;
mod diff;
mod drill;
mod expire;
mod init;
mod list;
mod ls;
mod man;
mod policy;
mod promote;
mod queue;
mod report;
mod restore;
mod run;
mod runbook;
mod schedule;
pub mod status;
mod timeline;
mod verify;

use super::args::{ArchiveVerb, ScheduleVerb, Verb};
use super::context::Context;
use super::exit::Outcome;
use super::runtime::{brief, long};
use crate::base::Result;

/// Runs one verb, on the runtime that suits it.
///
/// # Errors
/// The verb's.
pub fn run(verb: Verb, context: &Context) -> Result<Outcome> {
    let cancel = &context.cancel;
    match verb {
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
        Verb::Archive(ArchiveVerb::Push(args)) => archive::push::run(&args, context),
        Verb::Archive(ArchiveVerb::Get(args)) => archive::get::run(&args, context),
        Verb::Archive(ArchiveVerb::Resolve(args)) => brief(cancel, archive::resolve::run(&args, context)),
        Verb::Archive(ArchiveVerb::Stream(args)) => long(archive::stream::run(&args, context)),
        Verb::Init(args) => brief(cancel, init::run(&args, context)),
        Verb::Check(args) => long(check::run(&args, context)),
        Verb::Backup(args) => long(backup::run(&args, context)),
        Verb::List(args) => brief(cancel, list::run(&args, context)),
        Verb::Ls(args) => long(ls::run(&args, context)),
        Verb::Diff(args) => long(diff::run(&args, context)),
        Verb::Timeline(args) => long(timeline::run(&args, context)),
        Verb::Status(args) => long(status::run(&args, context)),
        Verb::Restore(args) => long(restore::run(&args, context)),
        Verb::Promote(args) => long(promote::run(&args, context)),
        Verb::Expire(args) => long(expire::run(&args, context)),
        Verb::Copy(args) => long(copy::run(&args, context)),
        Verb::Queue(args) => long(queue::run(&args, context)),
        Verb::Report(args) => long(report::run(&args, context)),
        Verb::Runbook(args) => long(runbook::run(&args, context)),
        Verb::Drill(args) => drill::run(&args, context),
        Verb::Policy(verb) => policy::run(&verb, context),
        Verb::Run(args) => long(run::run(&args, context)),
        Verb::Schedule(ScheduleVerb::Print(args)) => schedule::run(&args, context),
        Verb::Demo(args) => long(demo::run(&args, context)),
        Verb::Verify(args) => long(verify::run(&args, context)),
    }
}
