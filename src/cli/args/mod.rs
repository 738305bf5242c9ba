//! The command line's grammar. Help says units and defaults; examples are in the long help (`--help`).

mod catalogue;
mod copy;
mod drill;
mod expire;
mod parsers;
mod policy;
mod promote;
mod queue;
mod report;
mod restore;
mod run;
mod schedule;
mod status;
mod target;
mod timeline;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::base::{Incarnation, SourceName};

pub use catalogue::{DiffArgs, LsArgs};
pub use copy::CopyArgs;
pub use drill::{DrillArgs, DrillMoment};
pub use expire::ExpireArgs;
pub use policy::{PolicyCheckArgs, PolicyShowArgs, PolicyVerb};
pub use promote::PromoteArgs;
pub use queue::QueueArgs;
pub use report::{ReportArgs, RunbookArgs};
pub use restore::{RecoveryAction, RestoreArgs};
pub use run::RunArgs;
pub use schedule::{ScheduleFormat, SchedulePrintArgs, ScheduleVerb};
pub use status::{StatusArgs, StatusFormat};
pub use target::RestoreMoment;
pub use timeline::TimelineArgs;

/// A configuration that works once names and places are put in.
const INIT_HELP: &str = "\
Configuration: --config FILE, else $LIFEBOAT_CONFIG, else ./lifeboat.toml,
~/.config/lifeboat/lifeboat.toml, /etc/lifeboat/lifeboat.toml. Relative paths
in it count from the file. All it may say:

  [repository.main]
  url = \"file:///srv/backups\"
  # root = \"…\"                       # SHA-256 of its keys/1.json, pinned
  # limit_rate = \"50MiB\"             # a second; all but the log's archive
  # archive_limit_rate = \"50MiB\"     # the log's archive; default: no limit
  # site = \"cellar\"                  # what is lost together with its site

  [repository.far]
  url = \"s3://bucket/prefix\"         # credentials: environment, profile, role
  # region = \"eu-central-1\"
  # endpoint = \"https://s3.example\"  # when it is not AWS
  # path_style = true                # default: with an endpoint
  # ca_file = \"ca.pem\"               # trusted instead of the system's
  # profile = \"backup\"               # of ~/.aws
  # storage_class = \"STANDARD_IA\"
  # server_side_encryption = \"AES256\" # or \"aws:kms\", with kms_key_id
  # versions = true                  # where the bucket keeps versions
  # object_lock = \"governance\"       # or \"compliance\"; needs lock_for
  # lock_for = \"35d\"                 # each object, from its last use on
  # lock_chain_for = \"8d\"            # default; longest life of a chain

  [encryption]
  recipients = [\"age1…\", \"age1…\"]    # operations, and one kept offline
  # identity_file = \"…\"              # on restore hosts only
  # identity_command = \"…\"           # for drills: prints the identity
  # mode = \"off\"                     # or: store everything in the clear

  [signing]
  key_file = \"signing.key\"

  [source.orders]
  kind = \"postgres\"
  conninfo = \"host=/var/run/postgresql user=postgres\"
  # primary_conninfo = \"…\"           # when conninfo names a standby
  # data_directory = \"…\"             # when not where the server says
  # site = \"cellar\"                  # then status tells what a lost site loses
  # repositories = [\"main\"]          # default: all
  # policy = \"e-commerce\"            # lifeboat policy list
  # log_copies = 1                   # so many must have a file of the log
  # backup_copies = 1                # and a backup; default: policy, else all
  # archive_timeout_seconds = 300
  # standby = \"/srv/standby\"         # or a conninfo: status counts it in
  # slot = \"lifeboat_orders\"         # archive stream's replication slot
  # flush = \"2s\"                     # archive stream stores this often

  [backup]
  # workers = 4                      # default: one a core, at most 4
  # compression_level = 3            # 1 to 19
  # pack_size_mib = 32               # 1 to 64; default: by the source's size
  # lease_ttl_seconds = 120          # 3 to 3600: a lost host is waited for

  # [[contact]]                      # any number, for the runbook
  # name = \"…\"
  # role = \"on call\"
  # reach = \"+41 …\"

  [drill]
  # scratch_dir = \"…\"                # default: in state_dir

  [run]                              # lifeboat run
  # metrics_listen = \"127.0.0.1:9187\" # or \"9187\"; default: no metrics
  # jobs_at_once = 4                 # backups; as many drills
  # expire_key_file = \"…\"            # not on a protected host; see expire
  # expire = \"17 5 * * *\"            # when, in each policy's time zone

  # state_dir = \"…\" stands above all sections; default: /var/lib/lifeboat
  # for root, ~/.local/state/lifeboat for others

Examples:
  lifeboat init --generate-keys /root/lifeboat-keys
  lifeboat init --repository main --dry-run";

const BACKUP_HELP: &str = "\
Types:
  full  everything
  diff  what changed since the last full
  incr  what changed since the last backup of any type
  auto  what the policy's schedule asks for now, more when the RTO asks for it;
        without a policy a full once a week, else an incr

Where it is not certain what changed, a full is taken instead, and the reason
said. A backup that was interrupted goes on in the next run of the same type.
An audit reads every file and ends with 22 when change detection missed
anything. While another host takes a backup of this source, it ends with 21.

Examples:
  lifeboat backup orders
  lifeboat backup orders --type full
  lifeboat backup orders --type incr --audit
  lifeboat backup orders --type diff --dry-run
  lifeboat backup orders --limit-rate 50MiB";

const LIST_HELP: &str = "\
The id of a backup tells when it began, its type, and four letters. 'base' is
the backup that a diff or incr builds on, by its letters: neither restores
without it. 'size' is what a restore writes, 'stored' what the backup added.

Examples:
  lifeboat list
  lifeboat list orders --output json";

const CHECK_HELP: &str = "\
Examples:
  lifeboat check
  lifeboat check orders";

const VERIFY_HELP: &str = "\
Exits with 22 when something is damaged, forged or missing.

Examples:
  lifeboat verify
  lifeboat verify orders --deep";

const PUSH_HELP: &str = "\
Exits with 0 only once the file is durable in every repository of the source,
or in as many as its log_copies or its policy says, else with a code from 1 to
125: PostgreSQL keeps the file and tries again. The other repositories get it in
the background (lifeboat queue). Segments that wait behind it are stored at the
same time. Where 'lifeboat run' works with the same configuration, it is asked
first: it stores them ahead, and what is durable is answered at once.

Example (postgresql.conf):
  archive_mode = on
  archive_command = 'lifeboat archive push orders %p'";

const GET_HELP: &str = "\
Exits with 0 when the file was fetched, 1 when the archive certainly does not
have it, 255 on anything else, which makes PostgreSQL stop and not promote.
For a server that recovers, a process in the background fetches the segments
that come next, and ends with the recovery.

Example (postgresql.conf):
  restore_command = 'lifeboat archive get orders %f %p'   # --wait on a standby";

const STREAM_HELP: &str = "\
Connects to the server as a standby does, and stores what it writes into its
log every few seconds, so that a lost server loses no more than that. What is
not yet stored the server keeps, in a replication slot (lifeboat_SOURCE, or the
source's 'slot'), which is made at the first start. It may run beside archive
push: both store the same segments. A restart goes on where it ended.

With the slot's name in synchronous_standby_names no client is told of a commit
before it is in the repositories, and commits wait for them.

The user needs REPLICATION, and a line in pg_hba.conf:
  ALTER ROLE backup REPLICATION;
  local  replication  backup  peer

Examples:
  lifeboat archive stream orders
  lifeboat archive stream orders --flush 500ms";

/// As clap would write it, in 80 columns.
const RESOLVE_USAGE: &str = "lifeboat archive resolve [OPTIONS] --keep <DIGEST> --key <FILE>\n       <SOURCE> <FILE>";

const RESOLVE_HELP: &str = "\
Two versions of one segment mean that two servers, or a disk that was rolled
back, archived under one name. Find out which server lives on, keep its version.

Example:
  lifeboat archive resolve orders 00000001000000A3000000F1 \\
    --keep 9f86d081884c7d65 --key /media/usb/operator.key";

const COMPLETIONS_HELP: &str = "\
Examples:
  lifeboat completions bash > /etc/bash_completion.d/lifeboat
  lifeboat completions zsh > ~/.zfunc/_lifeboat
  lifeboat completions fish > ~/.config/fish/completions/lifeboat.fish";

/// Back up databases, archive their logs, and get any moment back.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, max_term_width = 80, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes:
  0 done, 1 failed, 2 usage, 10 objective broken, 11 at risk, 12 unproven,
  20 repository unreachable, 21 busy, 22 damaged data found, 130 interrupted;
  'archive get' has its own

Start here:
  lifeboat demo             the whole story on a throw-away ledger
  lifeboat init --help      a complete configuration";

/// Options of every verb.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Configuration file [see: lifeboat init --help]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Format of results and errors
    #[arg(long, global = true, value_enum, default_value_t = OutputFormat::Text, hide_possible_values = true, value_name = "text|json")]
    pub output: OutputFormat,
    /// No progress, only warnings and results
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Only this repository [default: all of the source's]
    #[arg(long, global = true, value_name = "NAME")]
    pub repository: Option<String>,
}

/// How results and errors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// Versioned documents for programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a repository, and keys when asked
    #[command(after_long_help = INIT_HELP)]
    Init(InitArgs),
    /// Examine configuration, server, archive and keys
    #[command(after_long_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Take a backup
    #[command(after_long_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// Show backups and the moments that can be restored
    #[command(after_long_help = LIST_HELP)]
    List(ListArgs),
    /// List what lies in a backup
    #[command(after_long_help = catalogue::LS_HELP)]
    Ls(LsArgs),
    /// Show what differs between two backups of a directory
    #[command(after_long_help = catalogue::DIFF_HELP)]
    Diff(DiffArgs),
    /// Show what happened when, and the moment before it
    #[command(after_long_help = timeline::HELP)]
    Timeline(TimelineArgs),
    /// Say whether a source would survive, and what would be lost
    #[command(after_long_help = status::HELP)]
    Status(StatusArgs),
    /// Write one HTML page: objectives against what was measured, over time
    #[command(after_long_help = report::REPORT_HELP)]
    Report(ReportArgs),
    /// Write the disaster-recovery plan of a source, ready to print
    #[command(after_long_help = report::RUNBOOK_HELP)]
    Runbook(RunbookArgs),
    /// Archive the database's log, and fetch it back
    #[command(subcommand)]
    Archive(ArchiveVerb),
    /// Restore a source into a directory, to any moment
    #[command(after_long_help = restore::HELP)]
    Restore(RestoreArgs),
    /// End a warm standby: it replays the archive and takes writes
    #[command(after_long_help = promote::HELP)]
    Promote(PromoteArgs),
    /// Look for damaged, forged or missing objects; needs no key
    #[command(after_long_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// Let backups go, in two steps, and the log nothing needs any more
    #[command(after_long_help = expire::HELP)]
    Expire(ExpireArgs),
    /// Fill a repository from another, without decrypting
    #[command(after_long_help = copy::HELP)]
    Copy(CopyArgs),
    /// Show what some repositories still lack, and deliver it
    #[command(after_long_help = queue::HELP)]
    Queue(QueueArgs),
    /// Rehearse the disaster, time it, and keep signed evidence
    #[command(after_long_help = drill::HELP)]
    Drill(DrillArgs),
    /// Check and show what is declared of the sources
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Run what the policies schedule, until it is stopped
    #[command(after_long_help = run::HELP)]
    Run(RunArgs),
    /// Have cron or systemd run what the policies schedule
    #[command(subcommand)]
    Schedule(ScheduleVerb),
    /// Lose a throw-away ledger under load, and get it back
    Demo(DemoArgs),
    /// Print a completion script for a shell
    #[command(after_long_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
}

/// `lifeboat init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Make what keys are missing in this directory: identity, signing, operator
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub generate_keys: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `lifeboat check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The source to examine [default: all]
    pub source: Option<SourceName>,
}

/// `lifeboat backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// The source to back up, as named in the configuration
    pub source: SourceName,
    /// full, diff, incr or auto
    #[arg(long = "type", value_enum, default_value_t = BackupTypeArg::Auto, hide_possible_values = true, value_name = "TYPE")]
    pub backup_type: BackupTypeArg,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// For a diff or incr: read every file, and fail when change detection missed anything
    #[arg(long)]
    pub audit: bool,
    /// Start at once (fast), or let the server take its time (spread)
    #[arg(long, value_enum, default_value_t = CheckpointMode::Fast, hide_possible_values = true, value_name = "fast|spread")]
    pub checkpoint: CheckpointMode,
    /// What pages with a wrong checksum, or files that cannot be read, do to the backup
    #[arg(long, visible_alias = "errors", value_enum, default_value_t = PageErrors::Report, hide_possible_values = true, value_name = "fail|report")]
    pub page_errors: PageErrors,
    /// Wait so long when another host backs up this source [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = parsers::duration, conflicts_with = "no_lease")]
    pub wait: Option<Duration>,
    /// Take no lease: only where no other host can back up this source
    #[arg(long)]
    pub no_lease: bool,
    /// Bytes a second to each repository [default: its limit_rate, else none]
    #[arg(long, value_name = "RATE", value_parser = parsers::rate)]
    pub limit_rate: Option<u64>,
}

/// What kind of backup is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackupTypeArg {
    /// Everything.
    Full,
    /// Changes since the last full.
    Diff,
    /// Changes since the last backup of any type.
    Incr,
    /// A full when the last one is a week old or there is nothing to build on, else an incr.
    Auto,
}

/// How the server's checkpoint at the start of a backup is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckpointMode {
    /// At once, with a burst of writes.
    Fast,
    /// Spread over `checkpoint_completion_target`.
    Spread,
}

/// What pages with a wrong checksum do, and files that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PageErrors {
    /// The backup fails.
    Fail,
    /// The backup is kept, and the pages are reported.
    Report,
}

/// `lifeboat list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// The source to show [default: all]
    pub source: Option<SourceName>,
}

/// `lifeboat archive …`.
#[derive(Debug, Subcommand)]
pub enum ArchiveVerb {
    /// Store one finished log file; for PostgreSQL's archive_command
    #[command(after_long_help = PUSH_HELP)]
    Push(ArchivePushArgs),
    /// Fetch one log file; for PostgreSQL's restore_command
    #[command(after_long_help = GET_HELP)]
    Get(ArchiveGetArgs),
    /// Store the log within seconds, by physical replication; runs until stopped
    #[command(after_long_help = STREAM_HELP)]
    Stream(ArchiveStreamArgs),
    /// Decide which of two versions of one segment is the true one
    #[command(after_long_help = RESOLVE_HELP, override_usage = RESOLVE_USAGE)]
    Resolve(ArchiveResolveArgs),
}

/// `lifeboat archive push`.
#[derive(Args, Debug)]
pub struct ArchivePushArgs {
    /// The source the file belongs to
    pub source: SourceName,
    /// The file (PostgreSQL's %p)
    pub file: PathBuf,
}

/// `lifeboat archive get`.
#[derive(Args, Debug)]
pub struct ArchiveGetArgs {
    /// The source the file belongs to
    pub source: SourceName,
    /// The file's name (PostgreSQL's %f)
    pub name: String,
    /// Where to put it (PostgreSQL's %p)
    pub dest: PathBuf,
    /// Incarnation it belongs to [default: that of the cluster in this directory]
    #[arg(long, value_name = "NAME")]
    pub incarnation: Option<Incarnation>,
    /// Wait for a repository that does not answer; for a standby, which would end
    #[arg(long)]
    pub wait: bool,
    /// Takes no pieces of this segment: the log ends before it (lifeboat restore writes this)
    // `SEGMENT:BYTES` takes so many bytes of them: the log ends there.
    #[arg(long, value_name = "SEGMENT", hide = true)]
    pub without_pieces_of: Vec<String>,
    /// Fetches what comes after the file until the recovery ends ('archive get' starts this)
    #[arg(long, hide = true)]
    pub fetch_ahead: bool,
}

/// `lifeboat archive stream`.
#[derive(Args, Debug)]
pub struct ArchiveStreamArgs {
    /// The source whose log is streamed
    pub source: SourceName,
    /// Longest time that anything waits before it is stored [default: 2s, or the source's flush]
    #[arg(long, value_name = "DURATION", value_parser = parsers::flush)]
    pub flush: Option<Duration>,
}

/// `lifeboat archive resolve`.
#[derive(Args, Debug)]
pub struct ArchiveResolveArgs {
    /// The source
    pub source: SourceName,
    /// The segment's name, 24 hex digits, or a history file's, 00000002.history
    #[arg(value_parser = parsers::log_file)]
    pub file: String,
    /// The digest of the version to keep, as 'lifeboat verify' shows it: 16 hex digits
    #[arg(long, value_name = "DIGEST", value_parser = parsers::short_digest)]
    pub keep: String,
    /// The operator's private key, which lifeboat init made
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: PathBuf,
    /// Incarnation it belongs to [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub incarnation: Option<Incarnation>,
}

/// `lifeboat verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The source to verify [default: all]
    pub source: Option<SourceName>,
    /// Also decrypt, decode and hash everything again; needs an identity
    #[arg(long)]
    pub deep: bool,
}

/// `lifeboat demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// What the ledger is kept in
    #[arg(long, value_enum, value_name = "ENGINE", default_value_t = DemoEngine::Sqlite)]
    pub engine: DemoEngine,
    /// Keep the ledger, the repository and what was restored
    #[arg(long)]
    pub keep: bool,
}

/// What `lifeboat demo` plays on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DemoEngine {
    /// A SQLite database, for which nothing else is needed
    Sqlite,
    /// A private cluster of the PostgreSQL that is on this machine
    Postgres,
}

/// `lifeboat completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `lifeboat man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The directory; created when missing
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests;
