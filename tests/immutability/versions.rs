//! Of each name the oldest version is the object, whatever lies over it.

use lifeboat::store::{Body, PutOutcome, Store, list_all};

use crate::bucket::{Stranger, VERSIONED, block_on, store};
use crate::support::s3::{Rights, S3Server};

async fn put(store: &dyn Store, key: &str, content: &str) -> PutOutcome {
    store.put_if_absent(key, Body::from(content.as_bytes().to_vec())).await.unwrap()
}

#[test]
fn what_lies_over_an_object_is_not_seen() {
    let server = S3Server::keeping(VERSIONED);
    let thief = Stranger::with(&server, Rights::NoVersionDeletion);
    block_on(async {
        let writer = store(&server, None);
        let keys = ["a/b", "a/b-1", "a/b/c", "a/b0", "z"];
        for key in keys {
            assert_eq!(put(&writer, key, key).await, PutOutcome::Created);
        }
        for (at, key) in keys.iter().enumerate() {
            for round in 0..=at {
                assert!(thief.put(key, format!("spoilt {round}, and longer").as_bytes(), false).await);
                assert!(round % 2 == 0 || thief.hide(key).await);
            }
        }
        assert!(thief.hide("a/b").await && thief.hide("never/there").await);
        // One that knows the versions already, and one that does not.
        for reader in [writer, store(&server, None)] {
            for key in keys {
                assert_eq!(reader.get(key).await.unwrap(), key, "{key}");
                assert_eq!(reader.get_range(key, 1..3).await.unwrap(), key.as_bytes().get(1..3.min(key.len())).unwrap_or(b""));
                assert_eq!(reader.head(key).await.unwrap().size_bytes, key.len() as u64);
                assert_eq!(put(&reader, key, "another").await, PutOutcome::AlreadyExists, "{key} is hidden, not free");
            }
            let listed = list_all(&reader, "", None).await.unwrap();
            let found: Vec<(&str, u64)> = listed.iter().map(|object| (object.key.as_str(), object.size_bytes)).collect();
            let mut expected: Vec<(&str, u64)> = keys.iter().map(|key| (*key, key.len() as u64)).collect();
            expected.sort_unstable();
            assert_eq!(found, expected);
            let page = reader.list("a/", Some("a/b-1")).await.unwrap().objects;
            assert_eq!(page.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a/b/c", "a/b0"]);
            assert!(reader.get("never/there").await.unwrap_err().is_not_found());
            assert!(reader.get_range("never/there", 0..1).await.unwrap_err().is_not_found());
        }
    });
}

#[test]
fn a_name_that_only_markers_hold_is_free() {
    let server = S3Server::keeping(VERSIONED);
    block_on(async {
        let thief = Stranger::with(&server, Rights::NoVersionDeletion);
        assert!(thief.hide("a").await && thief.hide("a").await);
        let store = store(&server, None);
        assert_eq!(put(&store, "a", "ours").await, PutOutcome::Created);
        assert_eq!(store.get("a").await.unwrap(), "ours");
    });
}

#[test]
fn a_deletion_leaves_no_version_and_no_marker() {
    let server = S3Server::keeping(VERSIONED);
    block_on(async {
        let (store, thief) = (store(&server, None), Stranger::with(&server, Rights::NoVersionDeletion));
        for key in ["a", "ab"] {
            put(&store, key, "ours").await;
            for _ in 0..3 {
                assert!(thief.put(key, b"spoilt", false).await && thief.hide(key).await);
            }
        }
        store.delete("a").await.unwrap();
        let left = server.versions();
        assert_eq!((left.len(), left[0].0.as_str(), left[0].1.len()), (1, "ab", 7), "the other name keeps what it has");
        assert!(store.get("a").await.unwrap_err().is_not_found());
        assert_eq!(put(&store, "a", "anew").await, PutOutcome::Created);
        assert_eq!(store.get("a").await.unwrap(), "anew");
        // Nothing can be removed with credentials that may not delete versions, and nothing changes.
        let host = lifeboat::store::s3::S3Store::new(
            &server.url(""),
            lifeboat::store::s3::S3Options { versions: true, ..server.options_of(Rights::PutAndGet) },
        );
        let error = host.unwrap().delete("a").await.unwrap_err();
        assert!(error.to_string().contains("cannot delete a in") && !error.is_retryable(), "{error}");
        assert_eq!(store.get("a").await.unwrap(), "anew");
    });
}

#[test]
fn thousands_of_versions_of_one_name_hide_no_other() {
    let server = S3Server::keeping(VERSIONED);
    block_on(async {
        let store = store(&server, None);
        put(&store, "a", "first").await;
        for _ in 0..2100 {
            server.plant("a", b"spoilt");
        }
        put(&store, "b", "second").await;
        let fresh = crate::bucket::store(&server, None);
        assert_eq!(fresh.get("a").await.unwrap(), "first");
        let listed = list_all(&fresh, "", None).await.unwrap();
        assert_eq!(listed.iter().map(|object| object.size_bytes).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(fresh.list_dirs("").await.unwrap(), [""; 0]);
    });
}

#[test]
fn the_lease_is_read_by_its_newest_version() {
    let server = S3Server::keeping(VERSIONED);
    block_on(async {
        let (store, key) = (store(&server, None), "orders/lease.json");
        let first = store.replace_if(key, "first".into(), None).await.unwrap().expect("free");
        store.replace_if(key, "second".into(), Some(&first)).await.unwrap().expect("as seen");
        assert_eq!(store.get(key).await.unwrap(), "second");
        assert_eq!(store.head(key).await.unwrap().size_bytes, 6);
    });
}

/// A bucket that keeps no versions is no place for a repository that relies on them.
#[test]
fn a_bucket_without_versions_is_told() {
    let server = S3Server::start();
    let store = store(&server, None);
    let error = block_on(store.put_if_absent("a", Body::from(vec![1]))).unwrap_err();
    assert!(error.to_string().contains("the bucket keeps no versions"), "{error}");
}
