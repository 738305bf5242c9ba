//! From a repository's URL to its store.
