//! A TOML document read key by key, remembering where each key stands.
//!
//! A table remembers which keys were asked for, so the list of known keys cannot drift from the code that reads
//! them. Every complaint names file and line; all complaints about one file are reported together, in line order.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Error, Result};

/// A file under inspection: its text, and what was found to be wrong with it.
pub struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

struct Problem {
    line: usize,
    message: String,
    hint: Option<String>,
}

impl<'a> Document<'a> {
    /// A document whose messages call it `path`.
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, problems: RefCell::default() }
    }

    /// Parses the document.
    ///
    /// # Errors
    /// A usage error with file and line when it is not TOML.
    pub fn parse(&self) -> Result<Spanned<DeTable<'a>>> {
        DeTable::parse(self.text).map_err(|error| {
            let line = self.line(&error.span().unwrap_or_default());
            Error::usage(format!("{}:{line}: {}", self.path.display(), error.message().replace('\n', ", ")))
        })
    }

    /// The document's top table.
    pub fn root<'d>(&'d self, table: &'d Spanned<DeTable<'a>>) -> Table<'d, 'a> {
        Table { document: self, name: String::new(), span: table.span(), entries: table.get_ref(), known: RefCell::default() }
    }

    /// Adds a complaint about what stands at `span`.
    pub fn complain(&self, span: &Range<usize>, message: impl Into<String>, hint: Option<String>) {
        self.problems.borrow_mut().push(Problem { line: self.line(span), message: message.into(), hint });
    }

    /// `Ok` when nobody complained.
    ///
    /// # Errors
    /// One usage error: the first complaint by line, with the others as details.
    pub fn finish(self) -> Result<()> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        let mut problems = problems.into_iter();
        let Some(first) = problems.next() else { return Ok(()) };
        let place = |line: usize| format!("{}:{line}", self.path.display());
        let mut error = Error::usage(format!("{}: {}", place(first.line), first.message));
        for problem in problems {
            let guidance = problem.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            error = error.detail("also", format!("{}: {}{guidance}", place(problem.line), problem.message));
        }
        Err(match first.hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// A value with the place it stands at.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// Its bytes in the document.
    pub span: Range<usize>,
}

/// One table of a document.
pub struct Table<'d, 'a> {
    document: &'d Document<'a>,
    name: String,
    span: Range<usize>,
    entries: &'d DeTable<'a>,
    known: RefCell<Vec<&'static str>>,
}

impl<'d, 'a> Table<'d, 'a> {
    /// Where the table stands: its header, or its braces.
    pub fn span(&self) -> &Range<usize> {
        &self.span
    }

    fn get(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        self.entries.get(key)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = describe(value.get_ref());
        self.document.complain(&value.span(), format!("'{key}'{} must be {wanted}, not {found}", self.place()), None);
    }

    /// ` in [section]`, or nothing at the top.
    fn place(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) }
    }

    /// The string under `key`; empty strings are complained about.
    pub fn string(&self, key: &'static str) -> Option<Found<String>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => {
                Some(Found { value: text.clone().into_owned(), span: value.span() })
            }
            DeValue::String(_) => {
                self.document.complain(&value.span(), format!("'{key}'{} is empty", self.place()), None);
                None
            }
            _ => {
                self.wrong_type(key, value, "a string");
                None
            }
        }
    }

    /// The string under `key`, complaining when the key is missing.
    pub fn required_string(&self, key: &'static str, example: &str) -> Option<Found<String>> {
        if !self.entries.contains_key(key) {
            self.known.borrow_mut().push(key);
            self.document.complain(&self.span, format!("[{}] lacks '{key}'", self.name), Some(format!("add {example}")));
            return None;
        }
        self.string(key)
    }

    /// The strings of the list under `key`.
    pub fn strings(&self, key: &'static str) -> Option<Found<Vec<Found<String>>>> {
        let value = self.get(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, "a list of strings");
            return None;
        };
        let mut strings = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => strings.push(Found { value: text.clone().into_owned(), span: item.span() }),
                _ => self.wrong_type(key, item, "a list of strings"),
            }
        }
        Some(Found { value: strings, span: value.span() })
    }

    /// The strings under `key`, which may hold one string or a list of them.
    pub fn string_or_strings(&self, key: &'static str) -> Option<Found<Vec<Found<String>>>> {
        match self.entries.get(key)?.get_ref() {
            DeValue::Array(_) => self.strings(key),
            _ => self.string(key).map(|found| Found { span: found.span.clone(), value: vec![found] }),
        }
    }

    /// `true` or `false` under `key`.
    pub fn boolean(&self, key: &'static str) -> Option<Found<bool>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(truth) => Some(Found { value: *truth, span: value.span() }),
            _ => {
                self.wrong_type(key, value, "true or false");
                None
            }
        }
    }

    /// The whole number under `key`; numbers outside `range` are complained about.
    pub fn integer(&self, key: &'static str, range: std::ops::RangeInclusive<u64>, unit: &str) -> Option<u64> {
        let value = self.get(key)?;
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let wanted = format!("a whole number from {} to {}{unit}", range.start(), range.end());
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(key, value, &wanted);
            return None;
        };
        let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|number| range.contains(number));
        if parsed.is_none() {
            let message = format!("'{key}'{} must be {wanted}, not {}", self.place(), number.as_str());
            self.document.complain(&value.span(), message, None);
        }
        parsed
    }

    /// The table under `key`.
    pub fn table(&self, key: &'static str) -> Option<Table<'d, 'a>> {
        let value = self.get(key)?;
        self.sub_table(key, value)
    }

    /// The tables of `[key.NAME]`, by name.
    pub fn named_tables(&self, key: &'static str) -> Vec<(Found<String>, Table<'d, 'a>)> {
        let Some(group) = self.table(key) else { return Vec::new() };
        let tables = group.entries.iter().filter_map(|(name, value)| {
            let found = Found { value: name.get_ref().clone().into_owned(), span: name.span() };
            Some((found, group.sub_table(name.get_ref(), value)?))
        });
        tables.collect()
    }

    /// The tables of `[[key]]`, in their order.
    pub fn tables(&self, key: &'static str) -> Vec<Table<'d, 'a>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, &format!("sections [[{key}]]"));
            return Vec::new();
        };
        items.iter().filter_map(|item| self.sub_table(key, item)).collect()
    }

    fn sub_table(&self, key: &str, value: &'d Spanned<DeValue<'a>>) -> Option<Table<'d, 'a>> {
        let name = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        let DeValue::Table(entries) = value.get_ref() else {
            self.wrong_type(key, value, &format!("a section [{name}]"));
            return None;
        };
        Some(Table { document: self.document, name, span: value.span(), entries, known: RefCell::default() })
    }

    /// Complains about every key that nobody asked for, naming the nearest that is known. Call it last.
    pub fn reject_unknown_keys(&self) {
        let known = self.known.borrow();
        for key in self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let hint = match nearest(key.get_ref(), known.iter().copied()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.document.complain(&key.span(), format!("unknown key '{}'{}", key.get_ref(), self.place()), Some(hint));
        }
    }
}

/// A TOML value as people call it.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "a string".into(),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(truth) => format!("{truth}"),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a section".into(),
    }
}

/// The candidate that a slip of the finger would turn into `word`; `None` when all are too far away.
pub fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `path`, relative to the directory that holds the file `config`.
pub fn beside(config: &Path, path: &str) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(path)
}
