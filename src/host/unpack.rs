//! An OCI artifact becomes a folder named by its manifest's digest. The artifact is hostile until proven otherwise:
//! every byte is verified, nothing it names lies outside the folder, and it can fill neither disk nor memory.
//!
//! * Names have only plain components; a folder on the way that is a link is refused, so no write follows a link.
//! * Links point relatively and inside: `..` only at the start of a target and never above the root. Because the folder
//!   a link stands in is a real one, following any chain of such links stays inside.
//! * Devices, fifos, sockets, set-id and sticky bits are not created.
//! * The folder is built beside and renamed when whole, so that it either exists and is complete, or does not exist.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::layout::{ArtifactStore, Descriptor, Verified};
use crate::core::release::Digest;

/// Bytes that may describe one entry of a layer, all its headers together: two names and some attributes, with much room. The reader
/// of the archive holds them in memory, however many they say they are.
const HEAD_BYTES: u64 = 64 << 10;

/// How the names of folders begin that are being built or removed.
const UNFINISHED: &str = ".new-";

/// Counts such folders, to tell their names apart.
static BUILDS: AtomicU64 = AtomicU64::new(0);

/// What an artifact may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest.
    pub manifest_bytes: u64,
    /// Layers of an artifact.
    pub layers: usize,
    /// Bytes of one layer as it is stored.
    pub blob_bytes: u64,
    /// Bytes of all layers unpacked, tar headers included.
    pub unpacked_bytes: u64,
    /// Unpacked bytes per stored byte of a layer, beyond the first MiB.
    pub ratio: u64,
    /// Files, folders and links.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { manifest_bytes: 4 << 20, layers: 128, blob_bytes: 1 << 30, unpacked_bytes: 2 << 30, ratio: 100, entries: 100_000 }
    }
}

/// Why an artifact was not unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A blob is not there (yet).
    #[error("{0}")]
    Missing(String),
    /// Bytes are not those that were promised.
    #[error("{0}")]
    Forged(String),
    /// A name or link leads outside, or the kind of entry is not allowed.
    #[error("{0}")]
    Unsafe(String),
    /// It is larger than allowed.
    #[error("{0}")]
    Limit(String),
    /// It is not an artifact this program can unpack.
    #[error("{0}")]
    Invalid(String),
    /// The machine's own disk.
    #[error("{0}")]
    Disk(String),
}

impl Fault {
    pub(crate) fn read(path: &Path, error: &io::Error) -> Self {
        Self::Disk(format!("cannot read {}: {error}", path.display()))
    }

    fn write(path: &Path, error: &io::Error) -> Self {
        Self::Disk(format!("cannot write {}: {error}", path.display()))
    }
}

/// Where the artifact of `digest` is unpacked below `root`.
pub fn folder(root: &Path, digest: &Digest) -> PathBuf {
    root.join("sha256").join(digest.hex())
}

/// Unpacks the artifact of `digest` below `root` unless it is there, and says where. Blocks.
pub fn unpack(store: &ArtifactStore, digest: &Digest, root: &Path, limits: &Limits) -> Result<PathBuf, Fault> {
    let place = folder(root, digest);
    if place.is_dir() {
        return Ok(place);
    }
    let manifest = store.manifest(digest, limits)?;
    let Some(layers) = manifest.layers else {
        let kind = manifest.media_type.unwrap_or_else(|| "no manifest of layers".into());
        return Err(Fault::Invalid(format!(
            "{digest} is {kind}: expected an image manifest; pin the manifest of one platform, not the index"
        )));
    };
    if layers.len() > limits.layers {
        return Err(Fault::Limit(format!("{digest} has {} layers, more than {}", layers.len(), limits.layers)));
    }
    let parent = place.parent().unwrap_or(root);
    fs::create_dir_all(parent).map_err(|error| Fault::write(parent, &error))?;
    // Two arms may want the same artifact at once: each builds its own folder, and the first to finish names it.
    let beside = parent.join(unfinished(digest.hex()));
    clear(&beside)?;
    fs::create_dir(&beside).map_err(|error| Fault::write(&beside, &error))?;
    let mut tree = Tree { root: beside.clone(), bytes: 0, entries: 0, limits };
    let built = layers.iter().try_for_each(|layer| tree.layer(store, layer));
    let named = built.and_then(|()| {
        // One sync of the file system instead of one per file.
        let synced = File::open(&beside).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
        synced.map_err(|error| Fault::write(&beside, &error))?;
        match fs::rename(&beside, &place) {
            Err(error) if !place.is_dir() => Err(Fault::write(&place, &error)),
            _ => Ok(()),
        }
    });
    _ = clear(&beside);
    named.map(|()| place)
}

/// A name for a folder that is not whole, or not any more, which is or was to be called `name`: never given twice.
pub(crate) fn unfinished(name: &str) -> String {
    format!("{UNFINISHED}{}-{name}", BUILDS.fetch_add(1, Ordering::Relaxed))
}

/// Removes what a host left unfinished below `root` when it died. Blocks; no other host may run there.
pub(crate) fn tidy(root: &Path) {
    for entry in fs::read_dir(root.join("sha256")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED)
            && let Err(fault) = clear(&entry.path())
        {
            tracing::warn!(%fault, "cannot remove an unfinished artifact");
        }
    }
}

fn clear(path: &Path) -> Result<(), Fault> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::write(path, &error)),
        _ => Ok(()),
    }
}

/// The folder being built.
struct Tree<'a> {
    root: PathBuf,
    bytes: u64,
    entries: u64,
    limits: &'a Limits,
}

impl Tree<'_> {
    fn layer(&mut self, store: &ArtifactStore, layer: &Descriptor) -> Result<(), Fault> {
        let gzip = match layer.media_type.as_str() {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => false,
            "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => true,
            other => {
                let what = format!("layer {} is {other}", layer.digest);
                return Err(Fault::Invalid(format!("{what}: expected application/vnd.oci.image.layer.v1.tar, plain or +gzip")));
            }
        };
        let mut blob = store.blob(layer, self.limits)?;
        let by_ratio = (1 << 20) + layer.size.saturating_mul(self.limits.ratio);
        let left = (self.limits.unpacked_bytes - self.bytes).min(by_ratio);
        let read = if gzip { self.entries(MultiGzDecoder::new(&mut blob), left) } else { self.entries(&mut blob, left) };
        self.bytes += read.map_err(|fault| fault.of(layer))?;
        Verified::finish(&mut blob).map(|_| ())
    }

    /// Unpacks a tar stream of at most `limit` bytes and says how many it had.
    fn entries(&mut self, stream: impl Read, limit: u64) -> Result<u64, Fault> {
        let (over, head) = (Cell::new(None), Cell::new(u64::MAX));
        let mut stream = Capped { stream, left: limit, head: &head, over: &over };
        let mut archive = Archive::new(&mut stream);
        let damaged = |error: io::Error| match over.get() {
            Some(Bound::All) => Fault::Limit(format!("more than {limit} bytes unpacked")),
            Some(Bound::Head) => Fault::Limit(format!("more than {HEAD_BYTES} bytes of names and attributes of one file")),
            None => Fault::Invalid(format!("not a sound tar archive: {error}")),
        };
        let mut entries = archive.entries().map_err(damaged)?;
        loop {
            head.set(HEAD_BYTES);
            let next = entries.next();
            head.set(u64::MAX);
            let Some(entry) = next else { break };
            let mut entry = entry.map_err(damaged)?;
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(Fault::Limit(format!("more than {} files, folders and links", self.limits.entries)));
            }
            self.entry(&mut entry).map_err(|fault| match fault {
                EntryFault::Fault(fault) => fault,
                EntryFault::Stream(error) => damaged(error),
            })?;
            // What nobody wanted of it belongs to no head.
            io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
        }
        // What follows the end of the archive counts, too: it is where a bomb would hide.
        io::copy(&mut stream, &mut io::sink()).map_err(damaged)?;
        Ok(limit - stream.left)
    }

    fn entry<R: Read>(&self, entry: &mut Entry<'_, R>) -> Result<(), EntryFault> {
        let name = entry.path().map_err(EntryFault::Stream)?.into_owned();
        let Some(inside) = plain(&name)? else { return Ok(()) };
        let path = self.root.join(&inside);
        self.parents(&inside)?;
        if let Some(hidden) = inside.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(".wh.")) {
            return Ok(whiteout(&path, hidden)?);
        }
        let mode = entry.header().mode().map_err(EntryFault::Stream)? & 0o777;
        match entry.header().entry_type() {
            EntryType::Directory => Ok(make_folder(&path, mode)?),
            EntryType::Regular | EntryType::Continuous => {
                make_way(&path)?;
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(|error| Fault::write(&path, &error))?;
                io::copy(entry, &mut file).map_err(EntryFault::Stream)?;
                Ok(file.set_permissions(Permissions::from_mode(mode | 0o400)).map_err(|error| Fault::write(&path, &error))?)
            }
            EntryType::Symlink => {
                let target = link_target(entry, &name)?;
                stays_inside(&inside, &target)?;
                make_way(&path)?;
                Ok(symlink(&target, &path).map_err(|error| Fault::write(&path, &error))?)
            }
            EntryType::Link => {
                let target = link_target(entry, &name)?;
                let Some(target) = plain(&target)? else {
                    return Err(Fault::Unsafe(format!("`{}` is a hard link to the root", name.display())).into());
                };
                self.parents(&target)?;
                let from = self.root.join(&target);
                if !fs::symlink_metadata(&from).is_ok_and(|found| found.is_file()) {
                    let what = format!("`{}` is a hard link to `{}`", name.display(), target.display());
                    return Err(Fault::Unsafe(format!("{what}, which is no file of the artifact")).into());
                }
                make_way(&path)?;
                Ok(fs::hard_link(&from, &path).map_err(|error| Fault::write(&path, &error))?)
            }
            EntryType::XGlobalHeader => Ok(()),
            other => {
                let what = format!("`{}` is a {}", name.display(), kind(other));
                Err(Fault::Unsafe(format!("{what}: only files, folders and links are allowed")).into())
            }
        }
    }

    /// Makes sure that the folders above `inside` exist and none of them is a link.
    fn parents(&self, inside: &Path) -> Result<(), Fault> {
        let mut path = self.root.clone();
        for component in inside.parent().into_iter().flat_map(Path::components) {
            path.push(component);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(Fault::Unsafe(format!("`{}` lies below a link or file of the artifact", inside.display()))),
                Err(_) => fs::create_dir(&path).map_err(|error| Fault::write(&path, &error))?,
            }
        }
        Ok(())
    }
}

impl Fault {
    fn of(self, layer: &Descriptor) -> Self {
        let add = |what: String| format!("layer {}: {what}", layer.digest);
        match self {
            Self::Unsafe(what) => Self::Unsafe(add(what)),
            Self::Limit(what) => Self::Limit(add(what)),
            Self::Invalid(what) => Self::Invalid(add(what)),
            other => other,
        }
    }
}

enum EntryFault {
    Fault(Fault),
    Stream(io::Error),
}

impl From<Fault> for EntryFault {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// `name` without `.` components; `None` for the root itself.
fn plain(name: &Path) -> Result<Option<PathBuf>, Fault> {
    let mut inside = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => inside.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Fault::Unsafe(format!("`{}` leads outside: names are relative and without `..`", name.display())));
            }
        }
    }
    Ok(Some(inside).filter(|inside| !inside.as_os_str().is_empty()))
}

fn link_target<R: Read>(entry: &Entry<'_, R>, name: &Path) -> Result<PathBuf, EntryFault> {
    let target = entry.link_name().map_err(EntryFault::Stream)?;
    let target = target.filter(|target| !target.as_os_str().is_empty());
    target.map(std::borrow::Cow::into_owned).ok_or_else(|| Fault::Invalid(format!("`{}` is a link to nothing", name.display())).into())
}

/// Whether the symbolic link at `inside` with `target` stays inside, whatever the links on its way are.
fn stays_inside(inside: &Path, target: &Path) -> Result<(), Fault> {
    let refuse = |why: &str| Err(Fault::Unsafe(format!("link `{}` to `{}`: {why}", inside.display(), target.display())));
    let mut depth = inside.components().count() - 1;
    let mut down = false;
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(_) => down = true,
            Component::ParentDir if down => return refuse("`..` is allowed only at the start"),
            Component::ParentDir => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return refuse("it leads outside"),
            },
            Component::RootDir | Component::Prefix(_) => return refuse("links must be relative"),
        }
    }
    Ok(())
}

/// Applies an OCI whiteout: `.wh.NAME` removes a lower layer's file, `.wh..wh..opq` empties the folder.
fn whiteout(marker: &Path, hidden: &str) -> Result<(), Fault> {
    let Some(folder) = marker.parent() else { return Ok(()) };
    if hidden == ".wh..opq" {
        let entries = fs::read_dir(folder).map_err(|error| Fault::read(folder, &error))?;
        return entries.flatten().try_for_each(|entry| remove(&entry.path()));
    }
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(Fault::Unsafe(format!("`{}` is not a whiteout", marker.display())));
    }
    remove(&folder.join(hidden))
}

fn remove(path: &Path) -> Result<(), Fault> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(|error| Fault::write(path, &error))
}

/// A later entry replaces an earlier file or link of the same name, never a folder.
fn make_way(path: &Path) -> Result<(), Fault> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Err(Fault::Unsafe(format!("`{}` is a folder already", path.display()))),
        Ok(_) => fs::remove_file(path).map_err(|error| Fault::write(path, &error)),
        Err(_) => Ok(()),
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Fault> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Fault::Unsafe(format!("`{}` is a file or link already", path.display()))),
        Err(_) => fs::create_dir(path).map_err(|error| Fault::write(path, &error))?,
    }
    // The owner keeps the right to enter and to delete, or the folder could never be removed again.
    fs::set_permissions(path, Permissions::from_mode(mode | 0o700)).map_err(|error| Fault::write(path, &error))
}

fn kind(of: EntryType) -> String {
    match of {
        EntryType::Block | EntryType::Char => "device".into(),
        EntryType::Fifo => "fifo".into(),
        other => format!("tar entry of type {}", char::from(other.as_byte()).escape_default()),
    }
}

/// A stream that fails after `left` bytes instead of ending, or after `head` bytes, and then says in `over` which it was.
struct Capped<'a, R> {
    stream: R,
    left: u64,
    /// Bytes until the next entry must have begun; set anew for each, and no bound inside of one.
    head: &'a Cell<u64>,
    over: &'a Cell<Option<Bound>>,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    All,
    Head,
}

impl<R: Read> Read for Capped<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !buffer.is_empty() {
            if self.stream.read(&mut [0])? == 0 {
                return Ok(0);
            }
            self.over.set(Some(Bound::All));
            return Err(io::Error::other("too large"));
        }
        if self.head.get() == 0 && !buffer.is_empty() {
            self.over.set(Some(Bound::Head));
            return Err(io::Error::other("too large"));
        }
        let wanted = buffer.len().min(usize::try_from(self.left.min(self.head.get())).unwrap_or(usize::MAX));
        let count = self.stream.read(&mut buffer[..wanted])?;
        self.left -= count as u64;
        self.head.set(self.head.get().saturating_sub(count as u64));
        Ok(count)
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
