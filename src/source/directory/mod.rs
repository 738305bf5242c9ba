//! Directories of documents and files: what there is to store, what of it changed, and how it is written back.
//!
//! No repository, no store and no printing here: the engine holds those. The way of a file, top to bottom:
//! [`walk`] finds it in the order of paths ([`names`] sorts a directory, [`pool`] looks ahead, [`exclude`] leaves out);
//! [`scan`] joins the walk with the base backup's entries, asks [`compare`] whether it must be read and [`links`] whether it is
//! another name of a file met before; [`read`] reads it in [`chunk`]s, holes left out; [`index`] says which of them the chain
//! holds already. Back: [`select`] says what is wanted, [`restore`] writes it below the target ([`beneath`]), [`settle`] gives
//! each thing its owner, attributes, mode and times. [`diff`] joins the entries of two backups.
//!
//! # Invariants
//!
//! - Entries are in the order of their [`RelPath`](crate::base::RelPath)s, each directory before what it holds, in every
//!   stream; a stream that is not is refused.
//! - Memory does not grow with the number of files, of names in a directory, of hard links or with a file's length: what must
//!   be remembered lies in scratch files and in the index. The collector of a file's pieces grows with that file, 44 bytes
//!   for 150 KiB of data.
//! - No symbolic link is ever followed, neither in the source nor in the target.
//! - What was found and is not in the backup is told by its path and why: an entry with a mark, or a [`entry::Left`]. A run
//!   counts those that are trouble ([`entry::Reason::is_trouble`], [`entry::Mark`]), so that it can fail on request.
//! - Full, diff and incr mean what they say: a full has no base and begins an empty index, so it reads everything and depends
//!   on no other backup; a diff and an incr keep what is proven unchanged since the base they name, and store of the rest the
//!   chunks that their chain lacks.
//!
//! # How it could lose data, and why it does not
//!
//! | danger | against it |
//! |---|---|
//! | a changed file is taken for unchanged | [`compare`]: size, mtime, ctime, inode and birth, old enough to be believed; a base with a mark is never believed |
//! | a file changes while it is read | [`read`]: the same moment before and after, else again, else marked `unsteady`; a tick of rest hides no write |
//! | a hole is told where data is not written out yet | [`read`]: holes of fresh files are looked into |
//! | a file that cannot be read comes back empty | it has no content id, and [`restore`] refuses to make it |
//! | two files taken for one because an inode number came again | [`links`]: birth or ctime must agree |
//! | the first of a file's names vanishes, and its content with it | [`scan::Scan::settle`]: the next name is read |
//! | the index names a chunk that no backup holds | [`index`]: owners of the committed chain alone, each record checked |
//! | a chunk is missing, damaged or another when it is restored | [`file_writer`]: the list of pieces has the entry's id, each chunk its address, and all must be written |
//! | names that are not text, `..`, very long paths | bytes everywhere; `RelPath`; paths walked in parts |
//! | a restore is led out of its target by a planted link | [`beneath`]: every component is opened without following |
//! | set-uid bits and capabilities on files of somebody else | [`settle`]: owner first, and no such bit without it |
//! | a misspelt path restores nothing, and all seems well | [`select::Selection::unmatched`] |
//!
//! What it cannot see: writes through a shared mapping that the kernel has not yet noted ([`compare`]), and, on file systems
//! whose times are coarser than the kernel's, a write within that granule while the file is read ([`read`]).
//!
//! # In the repository's format 1
//!
//! A directory's backup is a backup like any other: begin, packs, `packs.jsonl`, manifest, commit entry. Its manifest has
//! `directory` where a cluster's has `postgres`: the protected path, and what [`scan::Scan::root_node`] says of the directory
//! itself, which no entry stands for. Each chunk is one frame (262,144 raw bytes at most), so packs, frames and `ref` lines
//! need no other form. An entry has besides:
//!
//! | field | what |
//! |---|---|
//! | `kind` | also `fifo`, `character_device` and `block_device`, with `major` and `minor` |
//! | `modified_nanos` | nanoseconds after the microsecond that `modified` holds |
//! | `changed`, `links`, `device` | for the next comparison; restored is none of them |
//! | `attributes` | extended attributes, `[name, value]`, base64 |
//! | `addresses` | SHA-256 of each frame, in their order; `content` the [`chunk::ContentId`] of the whole |
//! | `offsets` | where frames begin, in a file in which they do not follow each other; what lies between is a hole |
//! | `holes` | `[offset, length]` of those within frames |
//! | `link` | path of the first name of the same file; such an entry has no frames |
//! | `marks` | `unsteady`, `unread`, `unlisted`, `bare`, with error numbers |

pub mod attributes;
pub mod beneath;
pub mod chunk;
pub mod compare;
pub mod diff;
pub mod entry;
pub mod exclude;
pub mod file_writer;
pub mod index;
pub mod links;
pub mod names;
pub mod owners;
pub mod pool;
pub mod read;
pub mod restore;
pub mod scan;
pub mod select;
pub mod settle;
mod waiting;
pub mod walk;
