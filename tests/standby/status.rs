//! What `status` says of a standby.
