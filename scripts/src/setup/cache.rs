//! The cache: what was fetched or built once, by name and version, with the hash of every file.
//!
//! An entry is a folder that is filled elsewhere and appears by one `rename`, so one that is there is whole. Each
//! holds a `SHA256SUMS` in the format of the tool of that name, and is looked at only through [`Cache::verified`].

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::progress::say;

/// The file of hashes in every entry.
const SUMS: &str = "SHA256SUMS";

/// The folder everything is kept in.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// The right to change the cache; no other process has it meanwhile.
pub(crate) struct Lock {
    _file: File,
}

impl Cache {
    /// Finds the folder: `$FERMATA_CACHE`, else `fermata` in `$XDG_CACHE_HOME` or in `~/.cache`. Creates nothing.
    pub(crate) fn locate() -> Result<Self> {
        let from = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = from("FERMATA_CACHE")
            .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("fermata")))
            .or_else(|| from("HOME").map(|folder| folder.join(".cache/fermata")))
            .context("no place for the cache: set FERMATA_CACHE to a folder, or HOME")?;
        Ok(Self { root: std::path::absolute(root)? })
    }

    /// A cache in this folder, for tests.
    #[cfg(test)]
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a kind of entries; it may not exist yet.
    pub(crate) fn folder(&self, kind: &str) -> PathBuf {
        self.root.join(kind)
    }

    /// Waits until no other process changes the cache, and clears what an interrupted one left half-done.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let what = || {
            format!(
                "the cache {} cannot be written: set FERMATA_CACHE to a folder that can",
                self.root.display()
            )
        };
        fs::create_dir_all(&self.root).with_context(what)?;
        let file = File::create(self.root.join("lock")).with_context(what)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say("Waiting", "for the set-up of another `cargo xtask`");
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(what),
        }
        // A program that outlived its interrupted caller may still write there; nobody reads it, and it goes next time.
        let _ = fs::remove_dir_all(self.scratch_folder());
        Ok(Lock { _file: file })
    }

    /// Makes an empty folder to prepare an entry in, on the cache's own file system.
    pub(crate) fn scratch(&self, _lock: &Lock) -> Result<Scratch> {
        Scratch::new(&self.scratch_folder())
    }

    /// Makes the folder `files` an entry `kind`/`name`: writes its hashes, and moves it there in one step.
    pub(crate) fn publish(&self, _lock: &Lock, files: &Path, kind: &str, name: &str) -> Result<PathBuf> {
        let mut sums = String::new();
        for name in file_names(files)? {
            sums += &format!("{}  {name}\n", sha256(&files.join(&name))?);
        }
        fs::write(files.join(SUMS), sums)?;
        let entry = self.folder(kind).join(name);
        fs::create_dir_all(self.folder(kind))?;
        if entry.exists() {
            fs::remove_dir_all(&entry)?;
        }
        fs::rename(files, &entry).with_context(|| format!("{} cannot be made", entry.display()))?;
        Ok(entry)
    }

    /// Whether `entry` is there with every file as it was when it was published.
    pub(crate) fn verified(entry: &Path) -> bool {
        let Ok(sums) = fs::read_to_string(entry.join(SUMS)) else { return false };
        let whole = |line: &str| {
            line.split_once("  ")
                .is_some_and(|(sum, name)| sha256(&entry.join(name)).is_ok_and(|found| found == sum))
        };
        !sums.is_empty() && sums.lines().all(whole)
    }

    fn scratch_folder(&self) -> PathBuf {
        self.root.join("scratch")
    }
}

/// A folder that goes with the value.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty folder in `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let what = || format!("a folder cannot be made in {}", parent.display());
        fs::create_dir_all(parent).with_context(what)?;
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("fermata-{}-{count}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                // An interrupted process of the same number left it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(what),
            }
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder in it.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over goes with the next `Cache::lock`.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut Hasher(&mut hash))?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Hasher<'a>(&'a mut Sha256);

impl Write for Hasher<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The names in a folder, sorted; none where there is no folder.
pub(crate) fn file_names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (Scratch, Cache) {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let cache = Cache::at(scratch.path().join("cache"));
        (scratch, cache)
    }

    #[test]
    fn a_published_entry_is_verified_until_a_byte_of_it_changes() {
        let (_scratch, cache) = cache();
        let lock = cache.lock().unwrap();
        let work = cache.scratch(&lock).unwrap();
        let files = work.folder("files").unwrap();
        fs::write(files.join("Image"), b"kernel").unwrap();
        let entry = cache.publish(&lock, &files, "guests", "kernel_1").unwrap();
        assert!(Cache::verified(&entry));
        fs::write(entry.join("Image"), b"kerneL").unwrap();
        assert!(!Cache::verified(&entry));
        fs::remove_file(entry.join("Image")).unwrap();
        assert!(!Cache::verified(&entry));
    }

    #[test]
    fn an_entry_without_hashes_is_none() {
        let (_scratch, cache) = cache();
        assert!(!Cache::verified(&cache.folder("guests")));
        fs::create_dir_all(cache.folder("guests")).unwrap();
        fs::write(cache.folder("guests").join(SUMS), "").unwrap();
        assert!(!Cache::verified(&cache.folder("guests")));
    }

    #[test]
    fn taking_the_lock_clears_what_was_left_half_done() {
        let (_scratch, cache) = cache();
        let left = cache.scratch_folder().join("fermata-1-0");
        fs::create_dir_all(&left).unwrap();
        let _lock = cache.lock().unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let file = scratch.path().join("abc");
        fs::write(&file, "abc").unwrap();
        // FIPS 180-4's first example.
        assert_eq!(
            sha256(&file).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
