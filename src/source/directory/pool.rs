//! A few threads that look ahead of a walk. A job never waits for another one, so waiting for a job always ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use crate::base::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// The threads; ended and joined when dropped, jobs that have not begun are forgotten.
#[derive(Debug)]
pub struct Pool {
    jobs: Option<mpsc::Sender<Job>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The result of a job, once it is done.
#[derive(Debug)]
pub struct Pending<T>(mpsc::Receiver<T>);

impl Pool {
    /// Starts `threads` threads, one at least.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn new(threads: usize) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self { jobs: Some(jobs), stop: Arc::default(), threads: Vec::new() };
        for _ in 0..threads.max(1) {
            let (queue, stop) = (Arc::clone(&queue), Arc::clone(&pool.stop));
            let thread = std::thread::Builder::new().name("walk".into()).spawn(move || serve(&queue, &stop));
            pool.threads.push(thread.map_err(|error| Error::failed("cannot start a thread for the walk").caused_by(error))?);
        }
        Ok(pool)
    }

    /// Has `work` done by a thread.
    pub fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Pending<T> {
        let (result, pending) = mpsc::sync_channel(1);
        // Nobody waits for the result of a walk that was dropped.
        let job = move || drop(result.send(work()));
        if let Some(jobs) = &self.jobs {
            // Threads end only when the pool does; were they gone, waiting would tell.
            let _ = jobs.send(Box::new(job));
        }
        Pending(pending)
    }
}

impl<T> Pending<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// When the thread that had the job came to grief.
    pub fn wait(self) -> Result<T> {
        self.0.recv().map_err(|_| Error::failed("a thread that looked ahead of the walk has failed"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic was told by the job whose result is missing.
            let _ = thread.join();
        }
    }
}

fn serve(queue: &Mutex<mpsc::Receiver<Job>>, stop: &AtomicBool) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) if !stop.load(Ordering::SeqCst) => job(),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_to_whom_they_belong_and_a_panic_is_told() {
        let pool = Pool::new(3).unwrap();
        let pending: Vec<Pending<usize>> = (0..100).map(|n| pool.begin(move || n * n)).collect();
        let squares: Vec<usize> = pending.into_iter().map(|pending| pending.wait().unwrap()).collect();
        assert_eq!(squares, (0..100).map(|n| n * n).collect::<Vec<_>>());
        let broken: Pending<()> = pool.begin(|| std::panic::panic_any("as the test wants"));
        assert!(broken.wait().is_err());
        assert_eq!(pool.begin(|| 7).wait().unwrap(), 7);
    }
}
