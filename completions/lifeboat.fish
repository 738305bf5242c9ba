# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_lifeboat_global_optspecs
    string join \n config= output= q/quiet repository= h/help V/version
end

function __fish_lifeboat_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_lifeboat_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_lifeboat_using_subcommand
    set -l cmd (__fish_lifeboat_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c lifeboat -n "__fish_lifeboat_needs_command" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_needs_command" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_needs_command" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_needs_command" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -s V -l version -d 'Print version'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "init" -d 'Create a repository, and keys when asked'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "check" -d 'Examine configuration, server, archive and keys'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "backup" -d 'Take a backup'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "list" -d 'Show backups and the moments that can be restored'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "ls" -d 'List what lies in a backup'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "diff" -d 'Show what differs between two backups of a directory'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "timeline" -d 'Show what happened when, and the moment before it'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "status" -d 'Say whether a source would survive, and what would be lost'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "report" -d 'Write one HTML page: objectives against what was measured, over time'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "runbook" -d 'Write the disaster-recovery plan of a source, ready to print'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "archive" -d 'Archive the database\'s log, and fetch it back'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "restore" -d 'Restore a source into a directory, to any moment'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "promote" -d 'End a warm standby: it replays the archive and takes writes'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "verify" -d 'Look for damaged, forged or missing objects; needs no key'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "expire" -d 'Let backups go, in two steps, and the log nothing needs any more'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "copy" -d 'Fill a repository from another, without decrypting'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "queue" -d 'Show what some repositories still lack, and deliver it'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "drill" -d 'Rehearse the disaster, time it, and keep signed evidence'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "policy" -d 'Check and show what is declared of the sources'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "run" -d 'Run what the policies schedule, until it is stopped'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "schedule" -d 'Have cron or systemd run what the policies schedule'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "demo" -d 'Lose a throw-away ledger under load, and get it back'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "completions" -d 'Print a completion script for a shell'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "man" -d 'Write the manual pages into a directory'
complete -c lifeboat -n "__fish_lifeboat_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand init" -l generate-keys -d 'Make what keys are missing in this directory: identity, signing, operator' -r -f -a "(__fish_complete_directories)"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand init" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand init" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand init" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand init" -l dry-run -d 'Say what would be done, and do nothing'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand init" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand check" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand check" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand check" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand check" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l type -d 'full, diff, incr or auto' -r -f -a "full\t'Everything'
diff\t'Changes since the last full'
incr\t'Changes since the last backup of any type'
auto\t'A full when the last one is a week old or there is nothing to build on, else an incr'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l checkpoint -d 'Start at once (fast), or let the server take its time (spread)' -r -f -a "fast\t'At once, with a burst of writes'
spread\t'Spread over `checkpoint_completion_target`'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l page-errors -l errors -d 'What pages with a wrong checksum, or files that cannot be read, do to the backup' -r -f -a "fail\t'The backup fails'
report\t'The backup is kept, and the pages are reported'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l wait -d 'Wait so long when another host backs up this source [default: not at all]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l limit-rate -d 'Bytes a second to each repository [default: its limit_rate, else none]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l dry-run -d 'Say what would be done, and do nothing'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l audit -d 'For a diff or incr: read every file, and fail when change detection missed anything'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -l no-lease -d 'Take no lease: only where no other host can back up this source'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand list" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand list" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand list" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand list" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand ls" -l backup -d 'Of this backup [default: the newest]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand ls" -l to -d 'Of the newest backup that had ended by this time' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand ls" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand ls" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand ls" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand ls" -s l -l long -d 'Also mode, owner, size and time of last modification'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand ls" -s r -l recursive -d 'Everything below, not only what lies in it'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand ls" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand diff" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand diff" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand diff" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand diff" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l from -d 'From this time on [default: where the archived log begins]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l to -d 'Up to this time [default: where it ends]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l interval -d 'Length of a row [default: a round one, for about 24 rows]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l around -d 'Single transactions around this time; needs an identity' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l within -d 'With --around: so far from it [default: 5m]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l count -d 'With --around: so many transactions on each side, beside those that lost rows' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l before -d 'With --around: restore to before this transaction' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l timeline -d 'Follow this timeline (decimal) [default: the newest]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l incarnation -d 'The cluster meant, when several have had this name [default: the newest]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -l detail -d 'Also read the log: rows by relation, DDL, restore points; needs an identity'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand timeline" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand status" -l watch -d 'Tell it again every so many seconds until Ctrl-C [without a number: 5]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand status" -l format -d 'text, json (as --output json), prometheus or nagios' -r -f -a "text\t'For people'
json\t'The document `status`'
prometheus\t'Prometheus\' text exposition format'
nagios\t'One line with performance data, for Nagios and its kin'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand status" -l textfile -d 'Also write the prometheus format into this file, whole or not at all' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand status" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand status" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand status" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand status" -l gate -d 'Let the exit code tell the verdict: 10 breach, 11 at risk, 12 unproven'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand status" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand report" -l file -d 'Where the page goes; replaced when it is there' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand report" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand report" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand report" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand report" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand runbook" -l file -d 'Where the plan goes; replaced when it is there [default: standard output]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand runbook" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand runbook" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand runbook" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand runbook" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand runbook" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -s h -l help -d 'Print help'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -f -a "push" -d 'Store one finished log file; for PostgreSQL\'s archive_command'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -f -a "get" -d 'Fetch one log file; for PostgreSQL\'s restore_command'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -f -a "stream" -d 'Store the log within seconds, by physical replication; runs until stopped'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -f -a "resolve" -d 'Decide which of two versions of one segment is the true one'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and not __fish_seen_subcommand_from push get stream resolve help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from push" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from push" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from push" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from push" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from push" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from get" -l incarnation -d 'Incarnation it belongs to [default: that of the cluster in this directory]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from get" -l without-pieces-of -d 'Takes no pieces of this segment: the log ends before it (lifeboat restore writes this)' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from get" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from get" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from get" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from get" -l wait -d 'Wait for a repository that does not answer; for a standby, which would end'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from get" -l fetch-ahead -d 'Fetches what comes after the file until the recovery ends (\'archive get\' starts this)'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from get" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from stream" -l flush -d 'Longest time that anything waits before it is stored [default: 2s, or the source\'s flush]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from stream" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from stream" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from stream" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from stream" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from stream" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from resolve" -l keep -d 'The digest of the version to keep, as \'lifeboat verify\' shows it: 16 hex digits' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from resolve" -l key -d 'The operator\'s private key, which lifeboat init made' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from resolve" -l incarnation -d 'Incarnation it belongs to [default: the only one]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from resolve" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from resolve" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from resolve" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from resolve" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from resolve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from help" -f -a "push" -d 'Store one finished log file; for PostgreSQL\'s archive_command'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from help" -f -a "get" -d 'Fetch one log file; for PostgreSQL\'s restore_command'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from help" -f -a "stream" -d 'Store the log within seconds, by physical replication; runs until stopped'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from help" -f -a "resolve" -d 'Decide which of two versions of one segment is the true one'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand archive; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l into -d 'The directory to restore into, empty or missing but for --delta; or a SQLite file' -r -f -a "(__fish_complete_directories)"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l to -d 'To this time, or as far as the archive goes [default: latest]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l to-lsn -d 'To this position, such as A3/F1000028' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l to-xid -d 'To the end of this transaction' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l to-name -d 'To this restore point (pg_create_restore_point)' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l timeline -d 'Follow this timeline (decimal) [default: the newest]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l incarnation -d 'The cluster meant, when several have had this name [default: the newest]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l backup -d 'Start from this backup [default: the newest that serves]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l tablespace -d 'Put the tablespace at OLD into NEW; may be repeated' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l path -d 'Of a directory only this, as in the backup, or what a glob matches; may be repeated' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l action -d 'What the server does at the target' -r -f -a "promote\t'Opens for writing on a new timeline'
pause\t'Stays read-only until told to go on'
shutdown\t'Stops'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l delay -d 'With --standby: replay each commit only so long after it' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l limit-rate -d 'Bytes a second from the repository [default: its limit_rate, else none]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l to-immediate -d 'To the moment the backup ended'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l exclusive -d 'Stop just before the target, not just after it'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l delta -d 'Into a data directory in use before: fetch and write only what differs'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l discard-log -d 'With --delta: remove even log that was never archived'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l clone -d 'For a look or a test: the restored server never archives'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l standby -d 'A warm standby: it keeps following the archive until `lifeboat promote`'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -l dry-run -d 'Show the plan, and do nothing'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l dir -d 'The standby\'s data directory [default: the source\'s `standby`]' -r -f -a "(__fish_complete_directories)"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l to -d 'To this time, or as far as the archive goes [default: latest]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l to-lsn -d 'To this position, such as A3/F1000028' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l to-xid -d 'To the end of this transaction' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l to-name -d 'To this restore point (pg_create_restore_point)' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l timeline -d 'Follow this timeline (decimal) [default: the newest]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l timeout -d 'Give up waiting after this time' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l exclusive -d 'Stop just before the target, not just after it'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l force -d 'Promote although the source lives: two servers will take writes'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -l dry-run -d 'Show where it stands and what would be done, and do nothing'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand promote" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand verify" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand verify" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand verify" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand verify" -l deep -d 'Also decrypt, decode and hash everything again; needs an identity'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand verify" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l backup -d 'A backup to let go; may be repeated' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l grace -d 'How long a mark can be withdrawn before anything is deleted' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l older-than -d 'With --orphans: what was written to later may still be in flight' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l wait -d 'With --orphans: wait so long while a backup is being taken [default: not at all]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l key -d 'The operator\'s private key' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l chain -d 'Also what builds on it'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l withdraw -d 'Withdraw the marks on these backups, and on those they build on'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l orphans -d 'Remove what crashed backups left'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l allow-none -d 'Even when nothing that can be restored is left'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l dry-run -d 'Say what would be done, and do nothing'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -l explain -d 'Say everything that the policy has to say of each backup and of the log, and do nothing'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand expire" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -l from -d 'The repository to copy from' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -l to -d 'The repository to fill, made by \'lifeboat init\' before' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -l wait -d 'Wait so long when another run writes to a source there [default: not at all]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -l limit-rate -d 'Bytes a second from and to each repository [default: its limit_rate, else none]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -l dry-run -d 'Say what would be copied, and copy nothing'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand copy" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand queue" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand queue" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand queue" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand queue" -l deliver -d 'Deliver now, and say what came of it'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand queue" -l retry -d 'Take up again what was given up'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand queue" -l background -d 'Go on until nothing waits; ends with 0 whatever happens'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand queue" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand queue" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l level -d 'verify, component or failover [default: as the policy says]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l to -d 'To the end of the archive, a random moment, or this time [default: latest]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l seed -d 'Seed of the random moment [default: a fresh one, which is told]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l scratch -d 'Restore below this directory [default: [drill] scratch_dir, else in state_dir]' -r -f -a "(__fish_complete_directories)"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l junit -d 'Also write the result as JUnit XML' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l evidence -d 'Also write the signed evidence here' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l identity-command -d 'Get the age identity from this command\'s output' -r -f -a "(__fish_complete_command)"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l limit-rate -d 'Bytes a second from the repository [default: the policy\'s, else its own]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l gate -d 'Fail when an objective of the policy is broken or unproven'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l self-test -d 'Plant faults, each of which the checks must notice; records nothing'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l keep -d 'Leave the restored server running, and say how to connect and remove it'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -l list -d 'Show the drills of this source so far, and do none'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand drill" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and not __fish_seen_subcommand_from check show list help" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and not __fish_seen_subcommand_from check show list help" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and not __fish_seen_subcommand_from check show list help" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and not __fish_seen_subcommand_from check show list help" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and not __fish_seen_subcommand_from check show list help" -s h -l help -d 'Print help'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and not __fish_seen_subcommand_from check show list help" -f -a "check" -d 'Say what in a policy contradicts itself, with the sums'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and not __fish_seen_subcommand_from check show list help" -f -a "show" -d 'Show a policy with its defaults, and the next runs of its schedule'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and not __fish_seen_subcommand_from check show list help" -f -a "list" -d 'Show the policies that there are, and who uses them'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and not __fish_seen_subcommand_from check show list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from check" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from check" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from check" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from check" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from show" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from show" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from show" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from show" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from list" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from list" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from list" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from list" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "check" -d 'Say what in a policy contradicts itself, with the sums'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show a policy with its defaults, and the next runs of its schedule'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "list" -d 'Show the policies that there are, and who uses them'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand run" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand run" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand run" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand run" -l list -d 'Show the last runs on this host, the next ones and the missed ones'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand run" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and not __fish_seen_subcommand_from print help" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and not __fish_seen_subcommand_from print help" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and not __fish_seen_subcommand_from print help" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and not __fish_seen_subcommand_from print help" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and not __fish_seen_subcommand_from print help" -s h -l help -d 'Print help'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and not __fish_seen_subcommand_from print help" -f -a "print" -d 'Print the schedule for cron or systemd'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and not __fish_seen_subcommand_from print help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and __fish_seen_subcommand_from print" -l format -d 'crontab or systemd' -r -f -a "crontab\t'A crontab'
systemd\t'Pairs of a service and a timer'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and __fish_seen_subcommand_from print" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and __fish_seen_subcommand_from print" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and __fish_seen_subcommand_from print" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and __fish_seen_subcommand_from print" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and __fish_seen_subcommand_from print" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and __fish_seen_subcommand_from help" -f -a "print" -d 'Print the schedule for cron or systemd'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand schedule; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand demo" -l engine -d 'What the ledger is kept in' -r -f -a "sqlite\t'A SQLite database, for which nothing else is needed'
postgres\t'A private cluster of the PostgreSQL that is on this machine'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand demo" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand demo" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand demo" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand demo" -l keep -d 'Keep the ledger, the repository and what was restored'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand demo" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand completions" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand completions" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand completions" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand completions" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand man" -l config -d 'Configuration file [see: lifeboat init --help]' -r -F
complete -c lifeboat -n "__fish_lifeboat_using_subcommand man" -l output -d 'Format of results and errors' -r -f -a "text\t'For people'
json\t'Versioned documents for programs'"
complete -c lifeboat -n "__fish_lifeboat_using_subcommand man" -l repository -d 'Only this repository [default: all of the source\'s]' -r
complete -c lifeboat -n "__fish_lifeboat_using_subcommand man" -s q -l quiet -d 'No progress, only warnings and results'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand man" -s h -l help -d 'Print help'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "init" -d 'Create a repository, and keys when asked'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "check" -d 'Examine configuration, server, archive and keys'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "backup" -d 'Take a backup'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "list" -d 'Show backups and the moments that can be restored'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "ls" -d 'List what lies in a backup'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "diff" -d 'Show what differs between two backups of a directory'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "timeline" -d 'Show what happened when, and the moment before it'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "status" -d 'Say whether a source would survive, and what would be lost'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "report" -d 'Write one HTML page: objectives against what was measured, over time'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "runbook" -d 'Write the disaster-recovery plan of a source, ready to print'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "archive" -d 'Archive the database\'s log, and fetch it back'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "restore" -d 'Restore a source into a directory, to any moment'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "promote" -d 'End a warm standby: it replays the archive and takes writes'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "verify" -d 'Look for damaged, forged or missing objects; needs no key'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "expire" -d 'Let backups go, in two steps, and the log nothing needs any more'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "copy" -d 'Fill a repository from another, without decrypting'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "queue" -d 'Show what some repositories still lack, and deliver it'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "drill" -d 'Rehearse the disaster, time it, and keep signed evidence'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "policy" -d 'Check and show what is declared of the sources'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "run" -d 'Run what the policies schedule, until it is stopped'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "schedule" -d 'Have cron or systemd run what the policies schedule'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "demo" -d 'Lose a throw-away ledger under load, and get it back'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "completions" -d 'Print a completion script for a shell'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "man" -d 'Write the manual pages into a directory'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and not __fish_seen_subcommand_from init check backup list ls diff timeline status report runbook archive restore promote verify expire copy queue drill policy run schedule demo completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and __fish_seen_subcommand_from archive" -f -a "push" -d 'Store one finished log file; for PostgreSQL\'s archive_command'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and __fish_seen_subcommand_from archive" -f -a "get" -d 'Fetch one log file; for PostgreSQL\'s restore_command'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and __fish_seen_subcommand_from archive" -f -a "stream" -d 'Store the log within seconds, by physical replication; runs until stopped'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and __fish_seen_subcommand_from archive" -f -a "resolve" -d 'Decide which of two versions of one segment is the true one'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and __fish_seen_subcommand_from policy" -f -a "check" -d 'Say what in a policy contradicts itself, with the sums'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and __fish_seen_subcommand_from policy" -f -a "show" -d 'Show a policy with its defaults, and the next runs of its schedule'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and __fish_seen_subcommand_from policy" -f -a "list" -d 'Show the policies that there are, and who uses them'
complete -c lifeboat -n "__fish_lifeboat_using_subcommand help; and __fish_seen_subcommand_from schedule" -f -a "print" -d 'Print the schedule for cron or systemd'
