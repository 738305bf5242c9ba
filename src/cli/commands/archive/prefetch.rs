//! `archive get` for a recovering server, and the process beside it that fetches what the server will ask for next.
//!
//! The first `archive get` of a recovery fetches its segment as ever, and leaves behind a process that goes on with the
//! next ones ([`spool`]). Every later one asks that process first; whatever it does not hand over is fetched as ever. It
//! ends when the recovery does, or nobody asks for long, and whatever is wrong with code 0 ([`crate::cli::exit::Guard`]): where the server is the system's first
//! process, as in a container, an orphan's other code would read as that of a crashed server process.

use std::fs::{self, File, TryLockError};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::get::Asking;
use crate::base::{Error, Result, SegmentSize, durable};
use crate::cli::args::ArchiveGetArgs;
use crate::cli::config::Settings;
use crate::cli::context::Context;
use crate::codec::Sha256Digest;
use crate::engine::archive::rehearsal::Rehearsal;
use crate::engine::archive::socket::{self, Line, Unanswered};
use crate::engine::archive::spool::{self, Fetched, Question, Reply, Spool};
use crate::engine::archive::{FileKind, file_kind};

/// What PostgreSQL calls a segment while it recovers.
const RECOVERY_FILE: &str = "RECOVERYXLOG";
/// How often the process looks whether the recovery goes on.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// Nobody asks for so long: the server hangs, or its signal file is of another recovery.
const IDLE: Duration = Duration::from_secs(600);
/// A segment that is being fetched is waited for so long.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Open repositories are opened anew after so long.
const REOPEN_AFTER: Duration = Duration::from_secs(60);

/// The way to the process that fetches ahead, which may not be there.
pub(super) struct Ahead {
    socket: PathBuf,
    data: (u64, u64),
    dest: PathBuf,
}

impl Ahead {
    /// None where nothing is fetched ahead: for anybody but a server that recovers, and in a drill, which looks through
    /// each segment in its turn.
    pub(super) fn new(args: &ArchiveGetArgs, context: &Context, settings: &Settings) -> Option<Self> {
        let is_segment = file_kind(&args.name) == Some(FileKind::Segment);
        let is_recovery = args.dest.file_name().is_some_and(|name| name == RECOVERY_FILE) && spool::is_recovering();
        if !is_segment || !is_recovery || !matches!(Rehearsal::of_environment(), Ok(None)) {
            return None;
        }
        let dest = std::path::absolute(&args.dest).ok()?;
        let place = fs::metadata(durable::directory_of(&dest)).ok()?;
        let data = spool::data_directory().ok()?;
        // All that decides what is fetched, and for whom.
        let identities = &settings.encryption.identity_files;
        let words = (env!("CARGO_PKG_VERSION"), &args.source, &args.incarnation, &args.without_pieces_of);
        let place = (std::os::unix::fs::MetadataExt::dev(&place), std::os::unix::fs::MetadataExt::ino(&place), data);
        let of = (words, place, &context.global.repository, &settings.config_file, settings.config_sha256, identities);
        let name = Sha256Digest::of(format!("{of:?}").as_bytes()).short();
        Some(Self { socket: settings.state_dir.join("get").join(format!("{name}.sock")), data, dest })
    }

    /// Whether the segment was there, and has been handed over; none when nobody fetches ahead.
    pub(super) fn ask(&self, args: &ArchiveGetArgs, context: &Context) -> Option<bool> {
        let landing = durable::temporary_beside(&self.dest);
        let question = Question { name: args.name.clone(), landing: landing.clone(), data: self.data };
        let line = Line { path: self.socket.clone(), cancel: &context.cancel, longest_wait: LONGEST_WAIT };
        let reply = match line.ask::<Reply>(&question) {
            Ok(reply) => reply,
            Err(Unanswered::Nobody) => return None,
            // It lives: another is not to be started beside it.
            Err(Unanswered::StillAtIt) => Reply::Yourself,
        };
        let Reply::Landed { bytes } = reply else { return Some(false) };
        let landed = fs::metadata(&landing).is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes);
        let size = u32::try_from(bytes).ok().and_then(SegmentSize::new);
        let handed_over = landed && size.is_some() && fs::rename(&landing, &self.dest).is_ok();
        if !handed_over {
            // It may not be there at all; what follows fetches the segment.
            let _ = fs::remove_file(&landing);
        }
        Some(handed_over)
    }

    /// Leaves a process behind that fetches what comes after the segment of `args`. A failure costs time alone: the next
    /// segment is fetched when it is asked for.
    pub(super) fn start(&self, args: &ArchiveGetArgs, context: &Context, settings: &Settings) {
        use std::os::unix::process::CommandExt;

        let Ok(program) = std::env::current_exe() else { return };
        // Else one would be started for each segment, in vain.
        if !spool::can_hold(durable::directory_of(&self.dest)) {
            return;
        }
        let mut command = Command::new(program);
        command.arg("--config").arg(&settings.config_file).arg("--quiet");
        command.args(context.global.repository.iter().flat_map(|name| ["--repository", name]));
        command.args(["archive", "get", "--fetch-ahead"]).arg(args.source.to_string()).arg(&args.name).arg(&self.dest);
        command.args(args.incarnation.iter().flat_map(|name| ["--incarnation".to_owned(), name.to_string()]));
        command.args(args.without_pieces_of.iter().flat_map(|name| ["--without-pieces-of", name]));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Not among the server's processes: a signal to their group is none to this one.
        drop(command.process_group(0).spawn());
    }
}

/// Fetches ahead until the recovery has ended. Nobody reads what it says: whoever asks finds out what is wrong.
///
/// # Errors
/// A usage error for anybody but [`Ahead::start`]: PostgreSQL would take its end for a file that was fetched.
pub(super) fn run(args: &ArchiveGetArgs, context: &Context, settings: &Settings) -> Result<()> {
    if rustix::process::getpgrp() != rustix::process::getpid() {
        return Err(Error::usage("--fetch-ahead is for a process that archive get starts").hint("leave it out"));
    }
    let Some(ahead) = Ahead::new(args, context, settings) else { return Ok(()) };
    // An error, like a panic, ends it: segments are fetched one by one then, and errors told.
    let _ = catch_unwind(AssertUnwindSafe(|| fetch_ahead(&ahead, args, context, settings)));
    Ok(())
}

fn fetch_ahead(ahead: &Ahead, args: &ArchiveGetArgs, context: &Context, settings: &Settings) -> Result<()> {
    let directory = durable::directory_of(&ahead.socket);
    durable::create_dir_all(directory).map_err(|error| Error::io("create", directory, error))?;
    let Some(_lock) = lock(&ahead.socket.with_extension("lock"))? else { return Ok(()) };
    sweep(directory);
    let spool = Spool::new(durable::directory_of(&ahead.dest), &args.name)?;
    let listener = socket::bind(&ahead.socket).map_err(|error| Error::io("listen at", &ahead.socket, error))?;
    thread::scope(|scope| {
        for _ in 0..spool.fetched_at_once() {
            let spool = Arc::clone(&spool);
            scope.spawn(move || catch_unwind(AssertUnwindSafe(|| work(&spool, args, context, settings))));
        }
        serve(&listener, &spool, context);
        // Nobody is to find a socket where nobody listens, nor a file that nobody asked for.
        let _ = fs::remove_file(&ahead.socket);
        let _ = fs::remove_file(ahead.socket.with_extension("lock"));
        spool.close();
        spool.sweep();
        // What is being fetched is waited for by nobody.
        std::process::exit(0)
    })
}

/// None when another process has it.
fn lock(path: &Path) -> Result<Option<File>> {
    let failed = |error| Error::io("lock", path, error);
    let file = File::options().write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match file.try_lock() {
        // Another may have removed it before it was locked, and made one of its own.
        Ok(()) => Ok(is_at(&file, path).then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Whether `path` still leads to `file`.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (own, there) = (file.metadata().map(identity), fs::symlink_metadata(path).map(identity));
    matches!((own, there), (Ok(own), Ok(there)) if own == there)
}

/// Removes the sockets of processes that were killed.
fn sweep(directory: &Path) {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in names.filter(|path| path.extension().is_some_and(|extension| extension == "lock")) {
        if let Ok(Some(_free)) = lock(&path) {
            // Best effort: they are empty, and the next one tries again.
            let _ = fs::remove_file(path.with_extension("sock"));
            let _ = fs::remove_file(path);
        }
    }
}

/// Answers until the recovery has ended.
fn serve(listener: &UnixListener, spool: &Arc<Spool>, context: &Context) {
    let goes_on = || spool::is_recovering() && spool.asked().elapsed() < IDLE && !context.cancel.is_cancelled();
    while goes_on() {
        let mut descriptors = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
        if !matches!(poll(&mut descriptors, Some(&LOOK_EVERY)), Ok(1..)) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { return };
        let spool = Arc::clone(spool);
        // Each on a thread of its own: one who asks and waits must not keep others waiting.
        let answer = move || drop(socket::serve(stream, |question: &Question, patience| spool.answer(question, patience)));
        if thread::Builder::new().spawn(answer).is_err() {
            return;
        }
    }
}

/// Fetches what is next, again and again.
fn work(spool: &Arc<Spool>, args: &ArchiveGetArgs, context: &Context, settings: &Settings) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::failed("cannot start").caused_by(error))?;
    let mut asking = Asking::new(args, context, settings)?;
    // Of one segment after the other: fresh memory costs as much as decoding what it is to hold.
    let (mut began, mut raw) = (Instant::now(), Vec::new());
    while let Some(task) = spool.next() {
        if began.elapsed() > REOPEN_AFTER {
            // Its keys may have changed.
            (asking, began) = (Asking::new(args, context, settings)?, Instant::now());
        }
        let fetched = runtime.block_on(fetch(&asking, &task.names));
        task.done(fetched, &mut raw);
    }
    Ok(())
}

/// The first of the segments called `names` that is in the archive.
async fn fetch(asking: &Asking<'_>, names: &[String]) -> Fetched {
    for name in names {
        match asking.sealed(name).await {
            Ok(Some(sealed)) => return Fetched::Whole(name.clone(), sealed),
            Ok(None) => {}
            Err(_) => return Fetched::Failed,
        }
    }
    Fetched::Absent
}
