//! Files with the children's output: capped, one older part kept.
//!
//! A child writes to its file itself, appending, so that it can go on when the host dies. The host looks at the size
//! a few times a second, copies the end away and cuts the file to nothing; an appending writer goes on at the start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::core::text::is_unseen;

/// Characters of a fault that people get to see.
const BRIEF: usize = 300;

/// Where the older part of the log at `path` is kept.
pub(crate) fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// Cuts the log at `path` if it has more than `cap` bytes, and keeps its last `cap` bytes beside. Blocks.
pub(crate) fn rotate(path: &Path, cap: u64) -> io::Result<()> {
    let size = match fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if size <= cap {
        return Ok(());
    }
    let mut log = File::open(path)?;
    log.seek(SeekFrom::Start(size - cap))?;
    let copied = File::create(older(path)).and_then(|mut older| io::copy(&mut log.take(cap), &mut older));
    // A full disk is the very reason to cut the file even if its end could not be kept.
    OpenOptions::new().write(true).open(path)?.set_len(0)?;
    copied.map(|_| ())
}

/// The last line with text in the log at `path`, for people: at most 200 characters, none of them a control character.
pub(crate) fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(4096))).ok()?;
    let mut bytes = Vec::new();
    file.take(4096).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().filter(|character| !character.is_control()).take(200).collect())
}

/// Why something went wrong, for people: at most [`BRIEF`] characters, all of them seen. Faults quote names, and names are the artifact's.
pub(crate) fn brief(why: &str) -> String {
    why.chars().filter(|character| !is_unseen(*character)).take(BRIEF).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_fault_that_quotes_what_is_long_and_strange_is_short_and_plain() {
        assert_eq!(brief("`a\u{1b}[31m\n\u{202e}b` leads outside"), "`a[31mb` leads outside");
        assert_eq!(brief(&"é".repeat(60_000)).chars().count(), BRIEF);
    }

    #[test]
    fn a_log_is_capped_while_its_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        rotate(&path, 100).unwrap();
        let mut writer = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        writer.write_all(&[b'a'; 90]).unwrap();
        rotate(&path, 100).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 90);
        writer.write_all(&[b'b'; 200]).unwrap();
        rotate(&path, 100).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(fs::read(older(&path)).unwrap(), [b'b'; 100]);
        writer.write_all(b"first\n\x1b[31mlast \xff\n\n").unwrap();
        assert_eq!(last_line(&path).unwrap(), "[31mlast \u{fffd}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 19);
    }
}
