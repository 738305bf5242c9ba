//! A disk of a few MiB, to fill up. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::dirs;

/// A mounted tmpfs, unmounted on drop.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`, aloud, where nothing may be mounted.
    pub fn mount(at: &Path, size_mib: u32) -> Option<Self> {
        let (uid, gid) = dirs::server_user().unwrap_or_default();
        let options = format!("size={size_mib}m,mode=0700,uid={uid},gid={gid}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        if status.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        println!("skipped: only root can mount a small tmpfs");
        None
    }

    /// Gives it another size.
    pub fn grow(&self, size_mib: u32) {
        let status = Command::new("mount").args(["-o", &format!("remount,size={size_mib}m")]).arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "remount {}", self.0.display());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a server may still have its directory there.
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        if !status.is_ok_and(|status| status.success()) {
            println!("not unmounted: {}", self.0.display());
        }
    }
}
