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
