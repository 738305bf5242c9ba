//! What was streamed, read back: each byte once, and nothing that is no log.

use super::*;

fn gets(store: &FaultyStore, of: &str) -> usize {
    store.calls().iter().filter(|call| call.starts_with("get ") && call.contains(of)).count()
}

#[tokio::test]
async fn what_a_larger_piece_holds_is_not_fetched_and_is_compared_all_the_same() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.open();
    for (from, to) in [(0, 300), (300, 500), (500, 900), (0, 900), (900, 1200)] {
        stage.put_piece(from, to).await;
    }
    let counting = Arc::new(FaultyStore::counting(Arc::clone(&stage.store)));
    let scope = stage.through(counting.clone()).await;
    let Got::Part(part) = stage.get_from(&scope, &Vec::new(), segment).await.unwrap() else { panic!("a part") };
    assert!(part.bytes == 1200 && part.raw[..1200] == raw[..1200]);
    assert_eq!(gets(&counting, "/tail/"), 2, "{:?}", counting.calls());

    // Another server's piece, inside what the larger one holds: its name is enough.
    let wrong: Vec<u8> = raw[300..400].iter().map(|byte| byte ^ 1).collect();
    let key = stage.put_piece_of(300, &wrong).await;
    let error = stage.get(segment).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Contradicted);
    assert!(error.summary().contains(&key), "{error:?}");
}

#[tokio::test]
async fn what_is_no_log_is_damage_and_not_the_end_of_the_log() {
    for (what, forge) in [("zeros", (|_| 0) as fn(u8) -> u8), ("ones", |_| 1), ("flipped", |byte| byte ^ 0x40)] {
        let stage = Stage::new().await;
        let (segment, raw) = stage.open();
        stage.put_piece(0, 1000).await;
        assert!(matches!(stage.get(segment).await, Ok(Got::Part(_))), "{what}");
        let forged: Vec<u8> = raw[1000..1400].iter().map(|byte| forge(*byte)).collect();
        let key = stage.put_piece_of(1000, &forged).await;
        let error = stage.get(segment).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{what}");
        assert!(error.summary().contains("is no log from") && error.hints()[0].contains(".zst"), "{what}: {error:?}");
        assert!(error.details().iter().any(|(_, value)| value.contains(&key)), "{what}: {error:?}");
    }
}

/// Every cut of the log is as good as any other: the stream stores what it has.
#[tokio::test]
async fn log_may_end_anywhere() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.open();
    let mut at = 0;
    for step in (1..60).map(|step| step * 7 % 41 + 1) {
        stage.put_piece(at, at + step).await;
        at += step;
        let Got::Part(part) = stage.get(segment).await.unwrap() else { panic!("a part up to {at}") };
        assert!(part.bytes == at as u64 && part.raw[..at] == raw[..at], "{at}");
    }
}

/// Calls that list the pieces, by their number among all calls.
fn listings(store: &FaultyStore) -> Vec<usize> {
    let calls = store.calls();
    calls.iter().enumerate().filter(|(_, call)| call.starts_with("list") && call.contains("/tail/")).map(|(at, _)| at).collect()
}

/// A listing during which small pieces were put together, and went, may show neither.
#[tokio::test]
async fn a_gap_is_listed_anew_and_is_never_the_end_of_the_log() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.open();
    stage.put_piece(0, 300).await;
    let behind = stage.put_piece(800, 1000).await;
    let counting = Arc::new(FaultyStore::counting(stage.store.clone()));
    let scope = stage.through(counting.clone()).await;
    let error = stage.get_from(&scope, &Vec::new(), segment).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Damaged && error.summary().contains("is missing"), "{error:?}");
    assert!(error.details().iter().any(|(_, value)| value.contains(&behind)), "{error:?}");

    let between = stage.put_piece(0, 800).await;
    let stored = stage.store.get(&between).await.unwrap();
    stage.store.delete(&between).await.unwrap();
    for at in &listings(&counting)[2..] {
        let (store, key, content) = (stage.store.clone(), between.clone(), stored.clone());
        let joins = move || {
            store.put_if_absent(&key, content.into()).now_or_never().unwrap().unwrap();
        };
        let scope = stage.through(Arc::new(FaultyStore::interrupted(stage.store.clone(), *at, joins))).await;
        let Got::Part(part) = stage.get_from(&scope, &Vec::new(), segment).await.unwrap() else { panic!("a part") };
        assert!(part.bytes == 1000 && part.raw[..1000] == raw[..1000], "{at}: {}", part.bytes);
        stage.store.delete(&between).await.unwrap();
    }
}

/// A reader that was stopped in the middle of a listing.
#[tokio::test(start_paused = true)]
async fn a_listing_that_lasted_too_long_is_not_believed() {
    let stage = Stage::new().await;
    let (segment, _) = stage.open();
    stage.put_piece(0, 300).await;
    let counting = Arc::new(FaultyStore::counting(stage.store.clone()));
    let scope = stage.through(counting.clone()).await;
    stage.get_from(&scope, &Vec::new(), segment).await.unwrap();
    let (quick, last) = (listings(&counting).len(), *listings(&counting).last().unwrap());
    for (seconds, more) in [(100, 0), (200, 1)] {
        let stall = move || {
            // The clock is set at the first poll.
            let _ = tokio::time::advance(Duration::from_secs(seconds)).now_or_never();
        };
        let slow = Arc::new(FaultyStore::interrupted(stage.store.clone(), last, stall));
        let scope = stage.through(slow.clone()).await;
        stage.get_from(&scope, &Vec::new(), segment).await.unwrap();
        assert_eq!(listings(&slow).len(), quick + more, "{seconds} s: {:?}", slow.calls());
    }
}

/// Readers that list while pieces are put together, and those that were go, at whatever call of theirs.
#[tokio::test]
async fn pieces_that_are_put_together_while_they_are_read_are_listed_anew() {
    let stage = Stage::new().await;
    let (segment, raw) = stage.open();
    let small: Vec<String> = [stage.put_piece(0, 300).await, stage.put_piece(300, 800).await].into();
    let large = stage.put_piece(0, 800).await;
    let counting = Arc::new(FaultyStore::counting(stage.store.clone()));
    let mut contents = Vec::new();
    for key in small.iter().chain([&large]) {
        contents.push((key.clone(), stage.store.get(key).await.unwrap()));
    }
    let put = |at: usize| stage.store.put_if_absent(&contents[at].0, contents[at].1.clone().into());
    stage.store.delete(&large).await.unwrap();
    let scope = stage.through(counting.clone()).await;
    stage.get_from(&scope, &Vec::new(), segment).await.unwrap();
    for call in 0..counting.calls().len() {
        let (store, (key, content), gone) = (stage.store.clone(), contents[2].clone(), small.clone());
        let settles = move || {
            store.put_if_absent(&key, content.into()).now_or_never().unwrap().unwrap();
            gone.iter().for_each(|key| store.delete(key).now_or_never().unwrap().unwrap());
        };
        // Opening the repository counts as well.
        let faulty = Arc::new(FaultyStore::interrupted(stage.store.clone(), call, settles));
        let scope = stage.through(faulty).await;
        let got = stage.get_from(&scope, &Vec::new(), segment).await;
        let Ok(Got::Part(part)) = got else { panic!("call {call}: {:?}", got.err()) };
        assert!(part.bytes == 800 && part.raw[..800] == raw[..800], "call {call}");
        put(0).await.unwrap();
        put(1).await.unwrap();
        stage.store.delete(&large).await.unwrap();
    }
}
