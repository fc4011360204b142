//! Texts that are kept. Included as `#[path = "golden/mod.rs"] mod golden;`.

use std::fs;
use std::path::Path;

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares with a golden file, or writes it if the environment says so.
pub(crate) fn golden(path: &Path, actual: &str) -> Result<(), String> {
    #[allow(clippy::disallowed_methods)] // a switch for people who run the tests
    if std::env::var("BACKSTOP_UPDATE_GOLDEN").is_ok() {
        fs::write(path, actual).expect("the golden file can be written");
        return Ok(());
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    let again = "run again with BACKSTOP_UPDATE_GOLDEN=1 if this is right";
    let differs = actual.lines().zip(expected.lines()).enumerate().find(|(_, (now, was))| now != was);
    match differs {
        _ if actual == expected => Ok(()),
        Some((at, (now, was))) => Err(format!("{}:{} differs; {again}\n  now {now}\n  was {was}", path.display(), at + 1)),
        None => Err(format!("{}: {} lines, were {}; {again}", path.display(), actual.lines().count(), expected.lines().count())),
    }
}
