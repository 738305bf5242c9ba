//! A strict reader of Prometheus' text format: refuses what a scraper would, and what a careful one would frown at.

use std::collections::{BTreeMap, BTreeSet};

/// Name and labels of a sample.
pub type Key = (String, BTreeMap<String, String>);

/// Every sample; panics with the line at which something is wrong.
#[track_caller]
pub fn parse(text: &str) -> BTreeMap<Key, f64> {
    assert!(text.ends_with('\n'), "the last line ends");
    let (mut samples, mut helped, mut typed): (BTreeMap<Key, f64>, Option<String>, Option<String>) = Default::default();
    let mut finished: BTreeSet<String> = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(!help.is_empty() && finished.insert(name.to_owned()), "twice: {line}");
            assert!(is_name(name), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest.split_once(' '), helped.as_deref().map(|name| (name, "gauge")), "{line}");
            typed = helped.take();
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(Some(&name), typed.as_ref(), "a sample without its type: {line}");
            assert!(samples.insert((name, labels), value).is_none(), "twice: {line}");
        }
    }
    samples
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|sign| sign.is_ascii_alphanumeric() || sign == '_')
}

#[track_caller]
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    assert!(is_name(name), "{line}");
    let (mut labels, mut rest) = (BTreeMap::new(), rest);
    loop {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert!(is_name(label), "{line}");
        let (mut value, mut signs) = (String::new(), after.char_indices());
        let end = loop {
            match signs.next().unwrap_or_else(|| panic!("an open label: {line}")) {
                (at, '"') => break at,
                (_, '\\') => value.push(match signs.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, sign @ ('\\' | '"'))) => sign,
                    other => panic!("escaped {other:?}: {line}"),
                }),
                (_, sign) => value.push(sign),
            }
        };
        assert!(labels.insert(label.to_owned(), value).is_none(), "a label twice: {line}");
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let number = rest.strip_prefix("} ").unwrap_or_else(|| panic!("no value: {line}"));
    // Rust reads "inf" and "nan" too.
    let value = match number {
        "+Inf" => f64::INFINITY,
        _ if number.starts_with(|first: char| first.is_ascii_digit() || first == '-') => {
            number.parse().unwrap_or_else(|_| panic!("no number: {line}"))
        }
        _ => panic!("no number: {line}"),
    };
    (name.to_owned(), labels, value)
}

#[test]
fn the_reader_is_strict() {
    let head = "# HELP a_b It is.\n# TYPE a_b gauge\n";
    let labels = BTreeMap::from([("l".to_owned(), "x\"\\\n,}".to_owned()), ("m".to_owned(), String::new())]);
    let read = parse(&format!("{head}a_b{{l=\"x\\\"\\\\\\n,}}\",m=\"\"}} +Inf\n"));
    assert_eq!(read, BTreeMap::from([(("a_b".to_owned(), labels), f64::INFINITY)]));
    for wrong in [
        "a_b 1\n",
        "a_b{l=\"x\"} inf\n",
        "a_c{l=\"x\"} 1\n",
        "a_b{l=\"x} 1\n",
        "a_b{l=\"x\"} 1\na_b{l=\"x\"} 1\n",
        "a_b{l=\"x\"} 1",
    ] {
        let text = format!("{head}{wrong}");
        assert!(std::panic::catch_unwind(|| parse(&text)).is_err(), "accepted: {wrong}");
    }
}
