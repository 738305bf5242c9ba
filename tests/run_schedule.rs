//! The scheduler with real processes and servers: slots run once whoever runs them, clean ends, crashes, reloads, metrics;
//! and the schedules it prints for others. Slots lie in the past: they are made up for at once.

mod support;

#[path = "run_schedule/auto.rs"]
mod auto;
#[path = "run_schedule/claims.rs"]
mod claims;
#[path = "run_schedule/hosts.rs"]
mod hosts;
#[path = "run_schedule/life.rs"]
mod life;
#[path = "run_schedule/print.rs"]
mod print;
#[path = "run_schedule/stage.rs"]
mod stage;
