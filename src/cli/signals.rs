//! Ctrl-C and SIGTERM: the first asks the running verb to stop cleanly, the second ends the process at once.
//! Whatever is on disk then is what a crash would leave, which the next run cleans up.

use std::sync::Weak;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::base::progress::Progress;
use crate::base::{Cancel, Error, Result};

/// Starts to listen, on a thread of its own. The second signal exits with `second_exit_code`.
///
/// `progress` is told of the first; a weak reference, so that listening does not keep a progress bar on the screen.
///
/// # Errors
/// When the system refuses handlers or a thread.
pub fn listen(cancel: Cancel, progress: Weak<dyn Progress>, second_exit_code: u8) -> Result<()> {
    let failed = |error| Error::failed("cannot listen for signals").caused_by(error);
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
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
