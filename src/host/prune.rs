//! What is kept of the past: the newest few folders, and those in use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Removes all folders in `folder` but the `keep` that were changed last and those named in `in_use`. Blocks.
pub(crate) fn keep_newest(folder: &Path, keep: usize, in_use: &BTreeSet<String>) {
    remove(&surplus(folder, keep, in_use));
}

/// The folders in `folder` without the `keep` that were changed last, those named in `in_use`, and those whose names begin
/// with a dot: somebody is at work on them. Blocks.
pub(crate) fn surplus(folder: &Path, keep: usize, in_use: &BTreeSet<String>) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let stays = |name: &str| name.starts_with('.') || in_use.contains(name);
    let mut old: Vec<(SystemTime, PathBuf)> = entries
        .filter(|entry| !stays(entry.file_name().to_string_lossy().as_ref()))
        .filter_map(|entry| Some((entry.metadata().ok().filter(fs::Metadata::is_dir)?.modified().ok()?, entry.path())))
        .collect();
    old.sort();
    let surplus = old.len().saturating_sub(keep);
    old.into_iter().take(surplus).map(|(_, path)| path).collect()
}

/// Removes `folders`. What cannot be removed is logged and left. Blocks.
pub(crate) fn remove(folders: &[PathBuf]) {
    for path in folders {
        if let Err(error) = fs::remove_dir_all(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove what is not needed any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_those_in_use_stay() {
        let folder = tempfile::tempdir().unwrap();
        for (age, name) in ["a", "b", "c", "d"].iter().enumerate() {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(1 + age as u64);
            fs::File::open(&path).unwrap().set_modified(at).unwrap();
        }
        keep_newest(folder.path(), 1, &["a".to_owned()].into());
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a", "d"]);
        keep_newest(&folder.path().join("missing"), 1, &BTreeSet::new());
    }
}
