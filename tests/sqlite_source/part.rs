//! Processes that play a part: this test binary, started again.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// A part's process, killed on drop.
pub struct Part(Child);

impl Part {
    /// Starts `role` with settings that the role reads from its environment.
    pub fn start(role: &str, dir: &Path, settings: &[(&str, String)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "part_of_another_test", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("SQLITE_PART", role).env("SQLITE_PART_DIR", dir).envs(settings.iter().map(|(key, value)| (key, value)));
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Ends it as a power cut would, from the process's point of view.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Stops it until [`Part::go_on`].
    pub fn halt(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    pub fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Whether it ended by itself, which no part does unless it failed.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What [`Part::start`] started.
pub fn play() {
    let Ok(role) = std::env::var("SQLITE_PART") else { return };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let dir = std::path::PathBuf::from(std::env::var_os("SQLITE_PART_DIR").unwrap());
    match role.as_str() {
        "writer" => super::writer::write_for_ever(&dir),
        "program" => super::program::obey(&dir),
        "keeper" => super::keeper::keep_for_ever(&dir),
        other => panic!("no part {other}"),
    }
}

/// A setting of this part.
pub fn setting<T: std::str::FromStr>(name: &str) -> T {
    let text = std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    text.parse().unwrap_or_else(|_| panic!("{name} = {text}"))
}
