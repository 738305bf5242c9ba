use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::repo::evidence::{KeyUse, Phase};

const MIB: f64 = 1024.0 * 1024.0;

/// A machine: what its recoveries really take.
struct Machine {
    fetch: Line,
    replay: Line,
    fixed_seconds: f64,
}

const MACHINE: Machine = Machine {
    fetch: Line { fixed_seconds: 0.4, seconds_per_byte: 1.0 / (180.0 * MIB) },
    replay: Line { fixed_seconds: 0.2, seconds_per_byte: 1.0 / (90.0 * MIB) },
    fixed_seconds: 0.3,
};

impl Machine {
    /// Evidence of a recovery that did `work`; each phase takes up to `noise` of itself more or less.
    fn drill(&self, work: Work, mut noise: impl FnMut() -> f64) -> Evidence {
        let mut phase = |phase, seconds: f64, bytes| Phase { phase, seconds: seconds * (1.0 + noise()), bytes };
        let phases = vec![
            phase(PhaseKind::Plan, self.fixed_seconds, None),
            phase(PhaseKind::Fetch, self.fetch.seconds(work.write_bytes as f64), Some(work.write_bytes)),
            phase(PhaseKind::Start, self.fixed_seconds, None),
            phase(PhaseKind::Replay, self.replay.seconds(work.replay_bytes as f64), Some(work.replay_bytes)),
            phase(PhaseKind::Promote, self.fixed_seconds, None),
            phase(PhaseKind::FirstCheck, self.fixed_seconds, None),
            phase(PhaseKind::Checks, 500.0, None),
        ];
        drill(phases)
    }
}

/// Passed evidence with these phases, and a tenth of a second beside them.
pub fn drill(phases: Vec<Phase>) -> Evidence {
    let in_rto: f64 = phases.iter().filter(|phase| phase.phase != PhaseKind::Checks).map(|phase| phase.seconds).sum();
    let time = Timestamp::parse_compact("20261120T214002Z").unwrap();
    Evidence {
        previous: None,
        host: "restore1".to_owned(),
        program_version: "0.1.0".to_owned(),
        level: DrillLevel::Component,
        outcome: DrillOutcome::Passed,
        declared: time,
        finished: time,
        policy: None,
        seed: None,
        target: "latest".to_owned(),
        restored: None,
        verified: Vec::new(),
        phases,
        rto_seconds: Some(in_rto + 0.1),
        rpo_seconds: None,
        rpo_is_upper_bound: false,
        checks: Vec::new(),
        key_use: KeyUse::Command,
        why: Vec::new(),
    }
}

fn work(write_mib: f64, replay_mib: f64) -> Work {
    Work { write_bytes: (write_mib * MIB) as u64, replay_bytes: (replay_mib * MIB) as u64 }
}

#[test]
fn two_drills_predict_the_third_on_a_database_grown_tenfold() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..500 {
        let mut noise = || random.random_range(-0.03..0.03);
        let drills = [MACHINE.drill(work(200.0, 32.0), &mut noise), MACHINE.drill(work(400.0, 96.0), &mut noise)];
        let grown = work(3000.0, 640.0);
        let real = MACHINE.drill(grown, &mut noise).rto_seconds.unwrap();
        let declared = Declared { detection: Duration::from_secs(5), thaw: Duration::ZERO };
        let predicted = predict(&drills, grown, declared).unwrap();
        let ratio = (predicted.total_seconds - 5.0) / real;
        assert!((0.75..1.25).contains(&ratio), "round {round}: {ratio}, {predicted:?}");
        assert_eq!(predicted.parts[0], ("detection", 5.0));
    }
}

#[test]
fn without_noise_the_parts_are_exact_and_the_checks_after_the_first_are_none_of_them() {
    let drills = [MACHINE.drill(work(100.0, 10.0), || 0.0), MACHINE.drill(work(300.0, 50.0), || 0.0)];
    let target = work(5000.0, 1000.0);
    let predicted = predict(&drills, target, Declared::default()).unwrap();
    let real = MACHINE.drill(target, || 0.0).rto_seconds.unwrap();
    assert!((predicted.total_seconds - real).abs() < 1e-6, "{predicted:?}, {real}");
    assert_eq!(predicted.drills, 2);
}

#[test]
fn the_rates_for_a_backups_type_are_those_of_the_prediction() {
    let drills: Vec<Evidence> =
        [work(100.0, 40.0), work(900.0, 400.0)].into_iter().map(|work| MACHINE.drill(work, || 0.0)).collect();
    let rates = rates(&drills);
    let close = |found: Option<f64>, mib: f64| found.is_some_and(|found| (found / (mib * MIB) - 1.0).abs() < 1e-9);
    assert!(close(rates.fetch_bytes_per_second, 180.0) && close(rates.replay_bytes_per_second, 90.0), "{rates:?}");
    // Four phases that depend on nothing, the fixed parts of two, and what lies beside them.
    assert!((rates.besides.as_secs_f64() - (4.0 * 0.3 + 0.4 + 0.2 + 0.1)).abs() < 1e-6, "{rates:?}");
    assert_eq!(super::rates::<Evidence>(&[]), Rates::default());
}

#[test]
fn drills_of_one_size_give_a_rate_and_never_a_negative_part() {
    let one = MACHINE.drill(work(100.0, 10.0), || 0.0);
    let fetch = |drills: &[Evidence], write_mib| {
        let parts = predict(drills, work(write_mib, 10.0), Declared::default()).unwrap().parts;
        parts.into_iter().find(|(name, _)| *name == "fetch").unwrap().1
    };
    let rate = one.phases[1].seconds / 100.0;
    assert!((fetch(std::slice::from_ref(&one), 700.0) - 700.0 * rate).abs() < 1e-6);
    let as_large = MACHINE.drill(work(101.0, 10.0), || 0.0);
    assert!((fetch(&[one.clone(), as_large], 1000.0) - 1000.0 * rate).abs() < 0.01 * 1000.0 * rate);
    // The larger one was quicker: a warm cache. No line falls.
    let mut warm = MACHINE.drill(work(200.0, 10.0), || 0.0);
    warm.phases[1].seconds = one.phases[1].seconds / 2.0;
    let seconds = warm.phases[1].seconds;
    assert!(fetch(&[one.clone(), warm], 2000.0) > seconds * 10.0 * 0.6, "size matters all the same");
    // The larger one took much longer: what would be a negative fixed part is none.
    let mut cold = MACHINE.drill(work(200.0, 10.0), || 0.0);
    cold.phases[1].seconds = one.phases[1].seconds * 10.0;
    assert!(fetch(&[one, cold], 1.0) > 0.0);
}

#[test]
fn only_what_passed_and_restored_tells() {
    let passed = MACHINE.drill(work(100.0, 10.0), || 0.0);
    let failed = Evidence { outcome: DrillOutcome::Failed, ..passed.clone() };
    let inconclusive = Evidence { outcome: DrillOutcome::Inconclusive, ..passed.clone() };
    let verified = Evidence { level: DrillLevel::Verify, ..passed.clone() };
    let none = [failed, inconclusive, verified];
    assert_eq!(predict(&none, work(1.0, 1.0), Declared::default()), None);
    assert_eq!(measured(&none), None);
    assert_eq!(measured(std::slice::from_ref(&passed)), Some((passed.finished, passed.rto_seconds.unwrap())));
}

#[test]
fn a_few_records_of_log_tell_no_rate() {
    let replay = |drills: &[Evidence]| {
        let parts = predict(drills, work(100.0, 500.0), Declared::default()).unwrap().parts;
        parts.into_iter().find(|(name, _)| *name == "replay").unwrap().1
    };
    let assumed = 500.0 * MIB / ASSUMED_RATE + MACHINE.replay.fixed_seconds;
    let [idle, few, less] = [0.0, 0.0002, 0.0001].map(|mib| MACHINE.drill(work(100.0, mib), || 0.0));
    for drills in [&[idle.clone()][..], std::slice::from_ref(&few), &[few.clone(), less, idle]] {
        assert!((replay(drills) - assumed).abs() < 0.01, "{}", replay(drills));
    }
    let enough = replay(&[few, MACHINE.drill(work(100.0, 50.0), || 0.0)]);
    assert!((enough - MACHINE.replay.seconds(500.0 * MIB)).abs() < 0.01, "{enough}");
}
