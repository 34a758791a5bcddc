//! The guests' initial file system: busybox, `/init`, and whatever a caller adds, as a newc archive.
//!
//! The format is Linux's (Documentation/driver-api/early-userspace/buffer-format.rst): per file a header of
//! hexadecimal fields, the name, the content, each padded to four bytes, and a trailer at the end.

use anyhow::{Result, ensure};

/// The first process.
const INIT: &str = include_str!("init.sh");

/// Folders that have to exist before `/init` mounts on them.
const FOLDERS: [&str; 6] = ["bin", "dev", "proc", "root", "sys", "tmp"];

// File types in a mode (POSIX <sys/stat.h>, and inode(7)).
const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// A file to add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File<'a> {
    /// Its path from the root, without the leading slash: `bin/fp-check`.
    pub(crate) path: &'a str,
    /// Its content.
    pub(crate) content: &'a [u8],
    /// Its permission bits: `0o755`.
    pub(crate) mode: u32,
}

/// Builds the archive: uncompressed, the same bytes for the same input.
///
/// # Errors
/// When a path of `extra` is not a relative one of plain names, or a file is larger than the format allows (4 GiB).
pub(crate) fn build(busybox: &[u8], extra: &[File<'_>]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.add(Entry { path: folder, mode: FOLDER | 0o755, ..Entry::default() });
    }
    // The kernel opens it for the first process before anything is mounted; 5:1 is its number
    // (Documentation/admin-guide/devices.txt).
    archive.add(Entry { path: "dev/console", mode: CHARACTER | 0o600, device: (5, 1), ..Entry::default() });
    archive.add(Entry { path: "bin/busybox", mode: REGULAR | 0o755, content: busybox, ..Entry::default() });
    archive.add(Entry { path: "bin/sh", mode: LINK | 0o777, content: b"busybox", ..Entry::default() });
    archive.add(Entry { path: "init", mode: REGULAR | 0o755, content: INIT.as_bytes(), ..Entry::default() });
    let mut made: Vec<&str> = FOLDERS.to_vec();
    for file in extra {
        let plain =
            file.path.split('/').all(|name| !matches!(name, "" | "." | "..")) && !file.path.contains('\0');
        ensure!(
            plain,
            "{:?} is no path for a file in the initramfs: give it from the root, without a leading slash",
            file.path
        );
        ensure!(u32::try_from(file.content.len()).is_ok(), "{} is too large for the initramfs", file.path);
        for (end, _) in file.path.match_indices('/') {
            let folder = &file.path[..end];
            if !made.contains(&folder) {
                made.push(folder);
                archive.add(Entry { path: folder, mode: FOLDER | 0o755, ..Entry::default() });
            }
        }
        let mode = REGULAR | (file.mode & 0o7777);
        archive.add(Entry { path: file.path, mode, content: file.content, ..Entry::default() });
    }
    Ok(archive.finish())
}

/// What one header describes.
#[derive(Default)]
struct Entry<'a> {
    path: &'a str,
    mode: u32,
    content: &'a [u8],
    device: (u32, u32),
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, entry: Entry<'_>) {
        self.entries += 1;
        let links = if entry.mode & FOLDER == FOLDER { 2 } else { 1 };
        // In order: inode, mode, owner, group, links, time, size, device of the file, device it is, length of the
        // name with its NUL, checksum (none in this variant).
        let fields = [
            self.entries,
            entry.mode,
            0,
            0,
            links,
            0,
            u32::try_from(entry.content.len()).expect("checked by the caller"),
            0,
            0,
            entry.device.0,
            entry.device.1,
            u32::try_from(entry.path.len() + 1).expect("a path is short"),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.content);
        self.pad();
    }

    /// Fills up to a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add(Entry { path: "TRAILER!!!", ..Entry::default() });
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A reader written from the format's description alone: path, mode, content of every entry before the trailer.
    fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let (mut at, mut entries) = (0, Vec::new());
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name) = (field(6) as usize, field(11) as usize);
            let begin = (at + 110 + name).next_multiple_of(4);
            assert_eq!(archive[at + 110 + name - 1], 0);
            let path = String::from_utf8(archive[at + 110..at + 110 + name - 1].to_vec()).unwrap();
            if path == "TRAILER!!!" {
                assert_eq!(begin, archive.len());
                return entries;
            }
            entries.push((path, field(1), archive[begin..begin + size].to_vec()));
            at = (begin + size).next_multiple_of(4);
        }
    }

    #[test]
    fn it_has_busybox_a_shell_an_init_and_a_console() {
        let entries = read(&build(b"BUSYBOX", &[]).unwrap());
        let entry = |path: &str| entries.iter().find(|entry| entry.0 == path).unwrap();
        assert_eq!(entry("bin/busybox").2, b"BUSYBOX");
        assert_eq!(entry("bin/sh").1, 0o120_777);
        assert_eq!(entry("bin/sh").2, b"busybox");
        assert_eq!(entry("init").1, 0o100_755);
        assert!(entry("init").2.starts_with(b"#!/bin/busybox sh\n"));
        assert_eq!(entry("dev/console").1, 0o020_600);
    }

    #[test]
    fn folders_of_added_files_are_made_once_and_first() {
        let file = |path| File { path, content: b"x", mode: 0o644 };
        let entries = read(&build(b"", &[file("usr/lib/a"), file("usr/lib/b"), file("bin/c")]).unwrap());
        let paths: Vec<_> = entries.iter().map(|entry| entry.0.as_str()).collect();
        let at = |path: &str| paths.iter().position(|found| *found == path).unwrap();
        assert!(at("usr") < at("usr/lib") && at("usr/lib") < at("usr/lib/a"));
        for folder in ["usr", "usr/lib", "bin"] {
            assert_eq!(paths.iter().filter(|path| **path == folder).count(), 1, "{folder}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/bin/x", "a//b", "../x", "a/../b", "a/", "./a", "a\0b"] {
            assert!(build(b"", &[File { path, content: b"", mode: 0 }]).is_err(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_put_in_is_read_back(
            files in proptest::collection::btree_map("[a-z]{1,9}(/[a-z]{1,9}){0,2}\\.x", (any::<Vec<u8>>(), 0_u32..0o10000), 0..6)
        ) {
            let extra: Vec<_> =
                files.iter().map(|(path, (content, mode))| File { path, content, mode: *mode }).collect();
            let entries = read(&build(b"box", &extra).unwrap());
            for file in extra {
                prop_assert!(entries.contains(&(file.path.to_owned(), REGULAR | file.mode, file.content.to_vec())));
            }
        }
    }
}
