//! Hostile artifacts.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

use super::*;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// One entry of a layer, written without the checks that the tar crate makes for honest writers.
struct Item(EntryType, &'static str, &'static str, u32);

fn file(name: &'static str, text: &'static str) -> Item {
    Item(EntryType::Regular, name, text, 0o644)
}

fn link(name: &'static str, target: &'static str) -> Item {
    Item(EntryType::Symlink, name, target, 0o777)
}

fn hard(name: &'static str, target: &'static str) -> Item {
    Item(EntryType::Link, name, target, 0o644)
}

fn layer(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for Item(kind, name, content, mode) in items {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(*mode);
        let linked = matches!(kind, EntryType::Symlink | EntryType::Link);
        if linked {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        let data: &[u8] = if linked { b"" } else { content.as_bytes() };
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Bed {
    folder: tempfile::TempDir,
    store: ArtifactStore,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("layout/blobs/sha256")).unwrap();
        Self { store: ArtifactStore::new(folder.path().join("layout")), folder }
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        fs::write(self.store.blob_path(&digest), bytes).unwrap();
        digest
    }

    fn artifact(&self, layers: &[(&str, Vec<u8>)]) -> Digest {
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, bytes)| serde_json::json!({"mediaType": kind, "digest": self.blob(bytes), "size": bytes.len()}))
            .collect();
        self.blob(&serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "layers": layers})).unwrap())
    }

    fn unpack(&self, digest: &Digest) -> Result<PathBuf, Fault> {
        unpack(&self.store, digest, &self.folder.path().join("unpacked"), &Limits::default())
    }

    /// Nothing is left of what failed, and nothing was written elsewhere.
    fn is_clean(&self) -> bool {
        let left = fs::read_dir(self.folder.path().join("unpacked/sha256")).map_or(0, Iterator::count);
        let names: Vec<_> = fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        left == 0 && names.iter().all(|name| name == "layout" || name == "unpacked")
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn layers_are_laid_over_each_other() {
    let bed = Bed::new();
    let lower = layer(&[
        Item(EntryType::Directory, "bin/", "", 0o755),
        Item(EntryType::Regular, "bin/app", "one", 0o6755),
        file("etc/old", "old"),
        file("var/a", "a"),
        file("var/b", "b"),
        link("bin/link", "../etc/old"),
        hard("bin/again", "bin/app"),
    ]);
    let upper = layer(&[file("./bin/app", "two"), file("etc/.wh.old", ""), file("var/.wh..wh..opq", ""), file("var/c", "c")]);
    let digest = bed.artifact(&[(TAR, lower), (GZIP, gzip(&upper))]);
    let place = bed.unpack(&digest).unwrap();
    assert!(place.ends_with(format!("sha256/{}", digest.hex())));
    assert_eq!((text(&place.join("bin/app")), text(&place.join("bin/again"))), ("two".into(), "one".into()));
    assert_eq!(fs::metadata(place.join("bin/again")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(!place.join("etc/old").exists() && !place.join("var/a").exists() && !place.join("var/b").exists());
    assert_eq!(text(&place.join("var/c")), "c");
    assert_eq!(fs::read_link(place.join("bin/link")).unwrap(), Path::new("../etc/old"));
    // Once more is a look, even without the blobs.
    fs::remove_dir_all(bed.folder.path().join("layout")).unwrap();
    assert_eq!(bed.unpack(&digest).unwrap(), place);
}

#[test]
fn what_leads_outside_is_refused() {
    let cases: Vec<(&str, Vec<Item>)> = vec![
        ("leads outside", vec![file("../evil", "x")]),
        ("leads outside", vec![file("a/../../evil", "x")]),
        ("leads outside", vec![file("/evil", "x")]),
        ("links must be relative", vec![link("a", "/etc/passwd")]),
        ("leads outside", vec![link("a", "..")]),
        ("leads outside", vec![link("a/b", "../../evil")]),
        // `up` is the root itself, so `up/..` would be above it.
        ("only at the start", vec![link("up", "."), link("b", "up/../evil")]),
        ("below a link", vec![link("dir", "sub"), file("dir/evil", "x")]),
        ("below a link", vec![file("dir", "x"), file("dir/evil", "x")]),
        ("no file of the artifact", vec![hard("a", "missing")]),
        ("leads outside", vec![hard("a", "../../secret")]),
        ("leads outside", vec![hard("a", "/etc/passwd")]),
        ("no file of the artifact", vec![link("a", "b"), hard("c", "a")]),
        ("below a link", vec![link("d", "."), file("x", "x"), hard("c", "d/x")]),
        ("device", vec![Item(EntryType::Char, "null", "", 0o666)]),
        ("device", vec![Item(EntryType::Block, "disk", "", 0o666)]),
        ("fifo", vec![Item(EntryType::Fifo, "pipe", "", 0o666)]),
        ("a folder already", vec![Item(EntryType::Directory, "a", "", 0o755), link("a", "b")]),
        ("file or link already", vec![link("a", "b"), Item(EntryType::Directory, "a", "", 0o755)]),
    ];
    for (expected, items) in cases {
        let bed = Bed::new();
        let names: Vec<_> = items.iter().map(|item| item.1).collect();
        let fault = bed.unpack(&bed.artifact(&[(TAR, layer(&items))])).unwrap_err();
        assert!(matches!(fault, Fault::Unsafe(_)) && fault.to_string().contains(expected), "{names:?}: {fault}");
        assert!(bed.is_clean(), "{names:?}");
    }
}

/// Damages the blob and says which size its manifest shall claim.
type Damage = fn(&Bed, &Digest, usize) -> usize;

#[test]
fn other_bytes_than_promised_are_refused() {
    let good = layer(&[file("app", "good")]);
    let descriptor = |digest: &Digest, size: usize| serde_json::json!({"mediaType": TAR, "digest": digest, "size": size});
    let tries: [(&str, Damage); 4] = [
        ("its bytes are", |bed, digest, size| {
            let mut bytes = fs::read(bed.store.blob_path(digest)).unwrap();
            bytes[600] ^= 1;
            fs::write(bed.store.blob_path(digest), bytes).unwrap();
            size
        }),
        ("more than", |_, _, size| size - 1),
        ("only", |_, _, size| size + 1),
        ("not in the store", |bed, digest, size| {
            fs::remove_file(bed.store.blob_path(digest)).unwrap();
            size
        }),
    ];
    for (expected, damage) in tries {
        let bed = Bed::new();
        let digest = bed.blob(&good);
        let size = damage(&bed, &digest, good.len());
        let manifest = bed.blob(&serde_json::to_vec(&serde_json::json!({"layers": [descriptor(&digest, size)]})).unwrap());
        let fault = bed.unpack(&manifest).unwrap_err().to_string();
        assert!(fault.contains(expected), "{fault}");
        assert!(bed.is_clean());
    }
    let bed = Bed::new();
    let digest = bed.artifact(&[(TAR, good)]);
    fs::write(bed.store.blob_path(&digest), b"{}").unwrap();
    assert!(matches!(bed.unpack(&digest), Err(Fault::Forged(_))));
}

#[test]
fn a_bomb_is_refused_before_it_goes_off() {
    let zeros = "0".repeat(8 << 20);
    let bed = Bed::new();
    let item = Item(EntryType::Regular, "zeros", Box::leak(zeros.into_boxed_str()), 0o644);
    let bomb = gzip(&layer(&[item]));
    let fault = bed.unpack(&bed.artifact(&[(GZIP, bomb)])).unwrap_err();
    assert!(matches!(fault, Fault::Limit(_)), "{fault}");
    assert!(bed.is_clean());

    // A bomb behind the end of the archive.
    let bed = Bed::new();
    let mut tail = layer(&[file("app", "x")]);
    tail.resize(tail.len() + (8 << 20), 0);
    let fault = bed.unpack(&bed.artifact(&[(GZIP, gzip(&tail))])).unwrap_err();
    assert!(matches!(fault, Fault::Limit(_)), "{fault}");

    let bed = Bed::new();
    let many = bed.artifact(&[(TAR, layer(&[file("a", ""), file("b", ""), file("c", "")]))]);
    let limits = Limits { entries: 2, ..Limits::default() };
    let fault = unpack(&bed.store, &many, &bed.folder.path().join("unpacked"), &limits).unwrap_err();
    assert!(fault.to_string().contains("more than 2 files"), "{fault}");
}

/// A stream of zeros that counts what is read of it.
struct Counted<'a>(&'a Cell<u64>, &'a [u8]);

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = if self.1.is_empty() { io::repeat(0).read(buffer)? } else { self.1.read(buffer)? };
        self.0.set(self.0.get() + count as u64);
        Ok(count)
    }
}

#[test]
fn a_name_of_many_megabytes_is_refused_before_it_is_held() {
    let limits = Limits::default();
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(300 << 20);
        header.set_cksum();
        let (folder, read) = (tempfile::tempdir().unwrap(), Cell::new(0));
        let mut tree = Tree { root: folder.path().to_owned(), bytes: 0, entries: 0, limits: &limits };
        let fault = tree.entries(Counted(&read, header.as_bytes()), limits.unpacked_bytes).unwrap_err();
        assert!(matches!(&fault, Fault::Limit(what) if what.contains("names and attributes")), "{kind:?}: {fault}");
        assert!(read.get() <= HEAD_BYTES, "{kind:?}: {}", read.get());
    }
}

#[test]
fn names_longer_than_a_header_has_room_for_are_unpacked_and_what_is_between_files_is_passed_over() {
    let bed = Bed::new();
    let mut builder = Builder::new(Vec::new());
    let long = format!("{}/app", ["d".repeat(100), "e".repeat(100), "f".repeat(100)].join("/"));
    // Attributes of the whole archive, and a folder with content, are larger than the heads of what follows them may be.
    for (kind, name) in [(EntryType::XGlobalHeader, "pax"), (EntryType::Directory, "folder/")] {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_path(name).unwrap();
        header.set_mode(0o755);
        header.set_size(HEAD_BYTES * 2);
        header.set_cksum();
        builder.append(&header, io::repeat(b'x').take(HEAD_BYTES * 2)).unwrap();
    }
    let mut header = Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(3);
    builder.append_data(&mut header, &long, &b"app"[..]).unwrap();
    let digest = bed.artifact(&[(TAR, builder.into_inner().unwrap())]);
    assert_eq!(text(&bed.unpack(&digest).unwrap().join(long)), "app");
}

#[test]
fn what_is_no_artifact_is_said_so() {
    let bed = Bed::new();
    let index = bed.blob(br#"{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}"#);
    assert!(bed.unpack(&index).unwrap_err().to_string().contains("pin the manifest of one platform"));
    let zstd = bed.artifact(&[("application/vnd.oci.image.layer.v1.tar+zstd", vec![1, 2, 3])]);
    assert!(bed.unpack(&zstd).unwrap_err().to_string().contains("tar+zstd"));
    let torn = bed.artifact(&[(GZIP, gzip(&layer(&[file("app", "x")]))[..40].to_vec())]);
    assert!(matches!(bed.unpack(&torn), Err(Fault::Invalid(_))));
    let missing = Digest::of(b"never written");
    assert!(matches!(bed.unpack(&missing), Err(Fault::Missing(_))));
}
