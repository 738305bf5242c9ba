//! Ctrl-C, SIGTERM and a terminal that is gone (SIGHUP): the first asks the running verb to stop cleanly, the second ends the process at once.
//! Whatever is on disk then is what a crash would leave, which the next run cleans up. SIGHUP is left alone where it is
//! ignored already (`nohup`), and by the scheduler, which reads its configuration again.

use std::sync::Weak;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::base::progress::Progress;
use crate::base::{Cancel, Error, Result};

/// Starts to listen, on a thread of its own, to SIGHUP as well where `hangs_up`. The second signal exits with `second_exit_code`.
///
/// `progress` is told of the first; a weak reference, so that listening does not keep a progress bar on the screen.
///
/// # Errors
/// When the system refuses handlers or a thread.
pub fn listen(cancel: Cancel, progress: Weak<dyn Progress>, second_exit_code: u8, hangs_up: bool) -> Result<()> {
    let failed = |error| Error::failed("cannot listen for signals").caused_by(error);
    let hangup = (hangs_up && !ignores_hangup()).then_some(SIGHUP);
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup)).map_err(failed)?;
    let watch = move || {
        for _ in signals.forever() {
            if cancel.is_cancelled() {
                std::process::exit(second_exit_code.into());
            }
            cancel.cancel();
            if let Some(progress) = progress.upgrade() {
                progress.warn("stopping; once more (Ctrl-C) stops at once");
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(failed)?;
    Ok(())
}

/// Whether whoever started this process wants it to outlive its terminal.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status, SIGHUP)
}

/// Whether `/proc/PID/status` says that a signal is ignored.
fn ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (signal - 1) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_seen() {
        for (trap, expected) in [("trap '' HUP; ", true), ("", false)] {
            let script = format!("{trap}exec cat /proc/self/status");
            let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(ignored(&String::from_utf8(output.stdout).unwrap(), SIGHUP), expected || ignores_hangup(), "{trap}");
        }
    }
}
