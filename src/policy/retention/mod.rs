//! What a policy keeps of what a repository holds, each with the reasons. Pure.
//!
//! What is kept is closed under "builds on". Rules count **chains** (a full and all that needs it), by the time at which
//! the full ended, whatever its incarnation or timeline; days, weeks (from Monday on), months and years are those of
//! UTC. The window counts backups: all that ended in it, and of every branch that reaches into it the last that ended
//! before. Whatever the rules say, there stay: what is from the future (a clock was set back), what is locked, what a
//! backup being taken builds on, the newest that a drill has proven, and one that can be restored. Of an incarnation whose
//! log is contradicted everything stays, for what can be restored of it is not known before somebody decides.

mod log;
mod periods;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use self::log::{LogVerdict, decide_log};
use super::Retention;
use crate::base::units::format_duration;
use crate::base::{BackupId, Incarnation, Lsn, TimelineId, Timestamp};

/// A backup that a repository holds.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Its id.
    pub id: BackupId,
    /// What it builds on; none for a full.
    pub base: Option<BackupId>,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Where its log begins.
    pub start_lsn: Lsn,
    /// Up to where it needs log.
    pub stop_lsn: Lsn,
    /// When it ended: from here on moments can be restored from it.
    pub stop_time: Timestamp,
    /// Whether its chain and its own log are whole.
    pub restorable: bool,
    /// Whether a drill that passed restored it, or read all of it.
    pub proven: bool,
    /// Until when nobody can delete it.
    pub locked_until: Option<Timestamp>,
    /// Whether an operator withdrew its mark, and none has marked it since.
    pub held: bool,
}

/// A timeline with the way that leads to it.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The timeline.
    pub timeline: TimelineId,
    /// The backups on the way.
    pub backups: BTreeSet<BackupId>,
    /// Those of them whose own log is whole on this way.
    pub served: BTreeSet<BackupId>,
    /// The last moment of which the timeline itself knows.
    pub latest: Timestamp,
    /// Those of them that may have ended in the window by what the log tells, whatever the clock said that timed them.
    pub late: BTreeSet<BackupId>,
}

/// A backup that was begun and not committed.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Its id.
    pub id: BackupId,
    /// What it builds on.
    pub base: Option<BackupId>,
    /// Where its log begins, as far as it says.
    pub log_start: Option<(Incarnation, Lsn)>,
}

/// The archived log of one incarnation, on all timelines together.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Where it begins.
    pub from: Lsn,
    /// Where it ends.
    pub to: Lsn,
    /// Bytes of a segment: what goes goes in whole ones.
    pub segment_bytes: u64,
}

/// All that is decided upon.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The backups, in the order in which they were committed.
    pub backups: Vec<Holding>,
    /// Every timeline of every incarnation.
    pub branches: Vec<Branch>,
    /// What may be in flight.
    pub begun: Vec<Begun>,
    /// The log of every incarnation.
    pub logs: Vec<Extent>,
    /// What is contradicted in the log of an incarnation, or which history is lost: what can be restored is not known.
    pub contradicted: BTreeMap<Incarnation, String>,
    /// The present moment.
    pub now: Timestamp,
}

/// What becomes of one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The backup.
    pub id: BackupId,
    /// Whether it stays.
    pub kept: bool,
    /// Why: everything that wants it, or that nothing does.
    pub why: Vec<String>,
}

/// A full and all that needs it, in the order of the facts.
struct Chain<'a> {
    full: &'a Holding,
    members: Vec<&'a Holding>,
}

impl Retention {
    /// The first moment of the window.
    pub fn window_start(&self, now: Timestamp) -> Timestamp {
        now.minus(self.window)
    }
}

impl Holding {
    /// A moment before it ended, by the clock of its server and by that of the host that took it: one may be fast.
    fn surely_later_than(&self) -> Timestamp {
        self.stop_time.min(self.id.start())
    }
}

impl Branch {
    /// Whether a backup on it ended in the window that begins at `start`, or may have.
    fn ends_in_window(&self, backup: &Holding, start: Timestamp) -> bool {
        backup.stop_time > start || self.late.contains(&backup.id)
    }

    /// The backup from which the window's first moments on it are restored: the last that can be and ended before.
    fn base<'a>(&self, facts: &'a Facts, start: Timestamp) -> Option<&'a Holding> {
        let is_usable = |backup: &&Holding| backup.restorable && self.served.contains(&backup.id);
        let before = self.holdings(facts).filter(is_usable).filter(|backup| !self.ends_in_window(backup, start));
        before.max_by_key(|backup| (backup.stop_lsn, backup.stop_time))
    }

    fn holdings<'a>(&self, facts: &'a Facts) -> impl Iterator<Item = &'a Holding> {
        facts.backups.iter().filter(|backup| self.backups.contains(&backup.id))
    }
}

impl Facts {
    /// The branches on which moments of the window lie: those that reach into it, and those of which anything is not older
    /// than the newest backup, for one of them is the present one, which may just be idle.
    ///
    /// Which one, only the names of log would tell, and whoever can put may put those: by this rule one more branch keeps
    /// more, and never less.
    fn branches_in_window(&self, start: Timestamp) -> impl Iterator<Item = &Branch> {
        let newest = self.backups.iter().filter(|backup| backup.restorable).map(Holding::surely_later_than);
        let newest = newest.filter(|moment| *moment <= self.now).max();
        let is_present = move |branch: &&Branch| newest.is_none_or(|newest| branch.latest >= newest);
        self.branches.iter().filter(move |branch| branch.latest > start || is_present(branch))
    }

    fn by_id(&self) -> BTreeMap<&BackupId, &Holding> {
        self.backups.iter().map(|backup| (&backup.id, backup)).collect()
    }

    /// The chains that are not from the future and `count`, newest first.
    fn chains(&self, count: fn(&Chain<'_>) -> bool) -> Vec<Chain<'_>> {
        let mut members: BTreeMap<&BackupId, Vec<&Holding>> = BTreeMap::new();
        let by_id = self.by_id();
        for backup in &self.backups {
            members.entry(&root(&by_id, backup).id).or_default().push(backup);
        }
        let fulls = self.backups.iter().filter(|full| full.base.is_none() && full.stop_time <= self.now);
        let chains = fulls.map(|full| Chain { full, members: members.remove(&full.id).unwrap_or_default() });
        let mut chains: Vec<Chain<'_>> = chains.filter(count).collect();
        chains.sort_by_key(|chain| std::cmp::Reverse((chain.full.stop_time, chain.full.stop_lsn, &chain.full.id)));
        chains
    }
}

/// The last backup on the way down from `backup`: its full, when the chain is whole.
fn root<'a>(by_id: &BTreeMap<&BackupId, &'a Holding>, backup: &'a Holding) -> &'a Holding {
    let mut root = backup;
    // A circle of bases is somebody's mischief; it ends.
    for _ in 0..by_id.len() {
        match root.base.as_ref().and_then(|base| by_id.get(base)) {
            Some(base) => root = base,
            None => break,
        }
    }
    root
}

/// Decides on every backup, in the order of the facts.
pub fn decide(retention: &Retention, facts: &Facts) -> Vec<Verdict> {
    let mut desk = Desk { retention, facts, start: retention.window_start(facts.now), why: BTreeMap::new() };
    desk.window();
    desk.chains();
    desk.whatever_the_rules_say();
    desk.bases();
    desk.last_restorable();
    let Desk { mut why, .. } = desk;
    let verdict = |backup: &Holding| {
        let reasons = why.remove(&backup.id);
        let kept = reasons.is_some();
        Verdict { id: backup.id.clone(), kept, why: reasons.unwrap_or_else(|| vec![unwanted(retention, backup)]) }
    };
    facts.backups.iter().map(verdict).collect()
}

/// Why a backup goes.
fn unwanted(retention: &Retention, backup: &Holding) -> String {
    let window = format!("older than the {} window", format_duration(retention.window));
    if !backup.restorable {
        return format!("it cannot be restored, and is {window}");
    }
    let places =
        [("daily", retention.daily), ("weekly", retention.weekly), ("monthly", retention.monthly), ("yearly", retention.yearly)];
    let places: Vec<&str> = places.iter().filter(|(_, count)| *count > 0).map(|(name, _)| *name).collect();
    let mut why = window;
    if retention.keep_chains > 0 {
        why += &format!(", not of the newest {}", counted(retention.keep_chains));
    }
    if let Some((last, others)) = places.split_last() {
        let names = if others.is_empty() { (*last).to_owned() } else { format!("{} or {last}", others.join(", ")) };
        why += &format!(", in no {names} place");
    }
    why
}

fn counted(chains: u32) -> String {
    if chains == 1 { "chain".to_owned() } else { format!("{chains} chains") }
}

/// Collects the reasons for which backups stay.
struct Desk<'a> {
    retention: &'a Retention,
    facts: &'a Facts,
    start: Timestamp,
    why: BTreeMap<BackupId, Vec<String>>,
}

impl Desk<'_> {
    fn want(&mut self, id: &BackupId, why: String) {
        let reasons = self.why.entry(id.clone()).or_default();
        if !reasons.contains(&why) {
            reasons.push(why);
        }
    }

    fn window(&mut self) {
        let (facts, start) = (self.facts, self.start);
        let window = format_duration(self.retention.window);
        let within = format!("it ended within the {window} window");
        for backup in facts.backups.iter().filter(|backup| backup.stop_time > start) {
            self.want(&backup.id, within.clone());
        }
        for branch in facts.branches_in_window(start) {
            for backup in branch.holdings(facts).filter(|backup| branch.ends_in_window(backup, start)) {
                self.want(&backup.id, within.clone());
            }
            if let Some(base) = branch.base(facts, start) {
                let why = format!("the {window} window needs it (the newest that ended before {})", start.human_seconds());
                self.want(&base.id, why);
            }
        }
    }

    /// Places are given twice: a backup that builds on a full without its own log may restore all the same. Its chain must
    /// neither lose its place for that, nor take the place of a chain that is whole.
    fn chains(&mut self) {
        let facts = self.facts;
        let whole = facts.chains(|chain| chain.full.restorable);
        let usable = facts.chains(|chain| chain.members.iter().any(|member| member.restorable));
        let mut wanted = self.placed(&whole);
        let before: BTreeSet<&BackupId> = wanted.iter().map(|(chain, _)| &chain.full.id).collect();
        let more = self.placed(&usable).into_iter().filter(|(chain, _)| !before.contains(&chain.full.id)).collect::<Vec<_>>();
        wanted.extend(more);
        for (chain, why) in wanted {
            for member in &chain.members {
                self.want(&member.id, why.clone());
            }
        }
    }

    /// The chains that a rule wants, and which. `chains` are newest first.
    fn placed<'c, 'f>(&self, chains: &'c [Chain<'f>]) -> Vec<(&'c Chain<'f>, String)> {
        let (retention, now) = (self.retention, self.facts.now);
        let newest = chains.iter().take(retention.keep_chains as usize);
        let mut found: Vec<(&Chain<'f>, String)> =
            newest.map(|chain| (chain, format!("of the newest {}", counted(retention.keep_chains)))).collect();
        if let Some(keep_for) = retention.keep_for {
            let limit = now.minus(keep_for);
            let young = chains.iter().filter(|chain| chain.members.iter().any(|member| member.stop_time > limit));
            found.extend(young.map(|chain| (chain, format!("of a chain younger than {}", format_duration(keep_for)))));
        }
        found.extend(periods::places(retention, chains, now));
        found
    }

    fn whatever_the_rules_say(&mut self) {
        let facts = self.facts;
        for backup in facts.backups.iter().filter(|backup| backup.stop_time > facts.now) {
            self.want(&backup.id, format!("it is from the future: it ended at {}", backup.stop_time.human_seconds()));
        }
        let by_id = facts.by_id();
        for (begun, base) in facts.begun.iter().filter_map(|begun| Some((begun, by_id.get(begun.base.as_ref()?)?))) {
            self.want(&base.id, format!("{}, which is being taken, builds on it", begun.id));
        }
        let proven = facts.backups.iter().filter(|backup| backup.restorable && backup.proven);
        if let Some(newest) = proven.max_by_key(|backup| (backup.stop_time, backup.stop_lsn)) {
            self.want(&newest.id, "it is the newest that a drill has proven".to_owned());
        }
        for (backup, why) in
            facts.backups.iter().filter_map(|backup| Some((backup, facts.contradicted.get(&backup.incarnation)?)))
        {
            self.want(&backup.id, why.clone());
        }
        for backup in facts.backups.iter().filter(|backup| backup.held) {
            self.want(&backup.id, "an operator withdrew its mark".to_owned());
        }
        for (backup, until) in facts.backups.iter().filter_map(|backup| Some((backup, backup.locked_until?))) {
            self.want(&backup.id, format!("it is locked until {}", until.human_seconds()));
        }
    }

    /// What is wanted, with all that it builds on.
    fn bases(&mut self) {
        let by_id = self.facts.by_id();
        let mut next: Vec<BackupId> = self.why.keys().cloned().collect();
        while let Some(id) = next.pop() {
            let base = by_id.get(&id).and_then(|backup| by_id.get(backup.base.as_ref()?));
            if let Some(base) = base.filter(|base| !self.why.contains_key(&base.id)) {
                self.want(&base.id, format!("{id} builds on it"));
                next.push(base.id.clone());
            }
        }
    }

    fn last_restorable(&mut self) {
        let facts = self.facts;
        let restorable = || facts.backups.iter().filter(|backup| backup.restorable);
        if restorable().any(|backup| self.why.contains_key(&backup.id)) {
            return;
        }
        match restorable().max_by_key(|backup| (backup.stop_time, backup.stop_lsn)) {
            Some(newest) => self.want(&newest.id, "nothing that can be restored would be left without it".to_owned()),
            None => {
                for backup in &facts.backups {
                    self.want(&backup.id, "nothing can be restored now: it may be all that there is".to_owned());
                }
            }
        }
        self.bases();
    }
}

#[cfg(test)]
mod tests;
