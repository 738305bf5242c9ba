//! Waiting for as many as are needed, and a little longer for the others.

use std::future::pending;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};

/// Once enough have succeeded, the others have as long again, and at least this.
const GRACE: Duration = Duration::from_millis(500);

/// Works on all of `first` at the same time until `needed` have succeeded, as `succeeded` says of each outcome, and the
/// others had their chance; where `first` is not enough, on `spare` as well. What is not done by then is dropped.
pub async fn collect<F: Future>(needed: usize, first: Vec<F>, spare: Vec<F>, mut succeeded: impl FnMut(F::Output) -> bool) {
    let mut working: FuturesUnordered<F> = first.into_iter().collect();
    let (began, mut spare, mut count, mut deadline) = (Instant::now(), Some(spare), 0, None);
    loop {
        let waited = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            next = working.next() => match next {
                Some(outcome) => {
                    count += usize::from(succeeded(outcome));
                    if count >= needed && deadline.is_none() {
                        deadline = Some(Instant::now() + began.elapsed().max(GRACE));
                    }
                }
                None => match spare.take().filter(|_| count < needed) {
                    Some(more) => working.extend(more),
                    None => return,
                },
            },
            () = waited => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done, by name, when these take so many milliseconds and succeed or fail; and when that is.
    async fn done(needed: usize, first: &[(u64, bool)], spare: &[(u64, bool)]) -> (Vec<u64>, u64) {
        let began = Instant::now();
        let work = |(millis, succeeds): &(u64, bool)| {
            let (millis, succeeds) = (*millis, *succeeds);
            async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                (millis, succeeds)
            }
        };
        let mut done = Vec::new();
        let work = |all: &[(u64, bool)]| all.iter().map(work).collect::<Vec<_>>();
        collect(needed, work(first), work(spare), |(millis, succeeds)| {
            done.push(millis);
            succeeds
        })
        .await;
        (done, began.elapsed().as_millis() as u64)
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_have_as_long_again() {
        assert_eq!(done(1, &[(100, true), (400, true), (700, true)], &[]).await, (vec![100, 400], 600));
        assert_eq!(done(1, &[(2000, true), (3900, false), (5000, true)], &[]).await, (vec![2000, 3900], 4000));
        assert_eq!(done(2, &[(100, true), (2000, true), (3000, true)], &[]).await, (vec![100, 2000, 3000], 3000));
        assert_eq!(done(1, &[(100, true)], &[(1, true)]).await, (vec![100], 100), "the spare one is not asked");
    }

    #[tokio::test(start_paused = true)]
    async fn where_those_are_not_enough_the_spare_ones_are_asked() {
        assert_eq!(done(1, &[(100, false)], &[(200, true), (900, true)]).await, (vec![100, 200], 800));
        assert_eq!(done(2, &[(100, true)], &[(50, false)]).await, (vec![100, 50], 150));
        assert_eq!(done(1, &[], &[]).await, (vec![], 0));
    }
}
