//! Reading PostgreSQL's write-ahead log.
