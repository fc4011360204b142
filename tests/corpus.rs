//! Inputs that were kept from fuzzing, read again: each ends soon, and none with a panic.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

#[path = "corpus/targets.rs"]
mod targets;

/// No input of at most a few KiB may take longer, whatever else the machine does.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn kept_inputs_are_read() {
    for (name, target) in targets::ALL {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
        let mut files: Vec<PathBuf> = fs::read_dir(&folder).expect("a corpus").map(|file| file.expect("a file").path()).collect();
        files.sort();
        assert!(files.len() >= 3, "{} holds {} inputs", folder.display(), files.len());
        for file in files {
            let data = fs::read(&file).expect("a file");
            let (done, ended) = mpsc::channel();
            let reader = std::thread::spawn(move || {
                target(&data);
                let _ = done.send(());
            });
            match ended.recv_timeout(PATIENCE) {
                Ok(()) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("{name} does not end on {}", file.display()),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    assert!(reader.join().is_ok(), "{name} panics on {}", file.display());
                }
            }
        }
    }
}
