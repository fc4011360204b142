//! The Merkle tree of RFC 6962 (section 2.1), as the C2SP transparency-log formats use it. Pure.

use aws_lc_rs::digest::{Context, SHA256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Levels of nodes that are stored: a node of a stored level is the root of a complete subtree of 256 stored nodes below it.
/// The same height as that of a C2SP tile.
pub const TILE_HEIGHT: u32 = 8;

fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Hash of an entry: `SHA-256(0x00 || bytes)`.
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    sha256(&[&[0], bytes])
}

/// Hash of two subtrees: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// A node of the tree: the root of the complete subtree over the entries `index << level` to `(index + 1) << level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Height above the entries.
    pub level: u32,
    /// Place in its level.
    pub index: u64,
    /// The subtree's root.
    pub hash: Hash,
}

/// The right edge of a tree: the roots of its complete subtrees, largest first. Enough to append and to know the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    hashes: Vec<Hash>,
}

impl Edge {
    /// How many entries the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends an entry by its hash; `complete` is called with each inner node that this completes.
    pub fn append(&mut self, leaf: Hash, mut complete: impl FnMut(Node)) {
        let mut hash = leaf;
        let mut index = self.size;
        let mut level = 0;
        while index & 1 == 1 {
            let Some(left) = self.hashes.pop() else { break };
            hash = node_hash(&left, &hash);
            index >>= 1;
            level += 1;
            complete(Node { level, index, hash });
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// The root. Of the empty tree: the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut hashes = self.hashes.iter().rev();
        let Some(last) = hashes.next() else { return sha256(&[]) };
        hashes.fold(*last, |right, left| node_hash(left, &right))
    }

    /// The hashes, one after the other.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.hashes.concat()
    }

    /// The edge of a tree of `size` entries; `None` if `bytes` cannot be that.
    pub fn from_bytes(size: u64, bytes: &[u8]) -> Option<Self> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        let fits = rest.is_empty() && hashes.len() == size.count_ones() as usize;
        fits.then(|| Self { size, hashes: hashes.to_vec() })
    }
}

/// The inclusion path of entry `index` in the tree of the first `size` entries (RFC 6962, section 2.1.1), lowest first.
///
/// `node(level, index)` is the root of a complete subtree. `None` if there is no such entry.
pub fn path<E>(index: u64, size: u64, node: &mut impl FnMut(u32, u64) -> Result<Hash, E>) -> Result<Option<Vec<Hash>>, E> {
    if index >= size {
        return Ok(None);
    }
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(subtree(middle, to, node)?);
            to = middle;
        } else {
            path.push(subtree(from, middle, node)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// The largest power of two smaller than `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

fn subtree<E>(from: u64, to: u64, node: &mut impl FnMut(u32, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    let count = to - from;
    if count.is_power_of_two() {
        let level = count.trailing_zeros();
        return node(level, from >> level);
    }
    let middle = from + split(count);
    Ok(node_hash(&subtree(from, middle, node)?, &subtree(middle, to, node)?))
}

/// The root that `path` leads to from an entry's hash (RFC 9162, section 2.1.3.2); `None` if the path has the wrong length.
pub fn root_from_path(index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::release::hex;

    /// The entries of the classic Certificate Transparency test tree, and its roots by size.
    const ENTRIES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn roots_are_those_of_the_certificate_transparency_vectors() {
        let mut edge = Edge::default();
        assert_eq!(hex(&edge.root()), ROOTS[0]);
        for (size, entry) in ENTRIES.iter().enumerate() {
            edge.append(leaf_hash(entry), |_| {});
            assert_eq!(hex(&edge.root()), ROOTS[size + 1], "size {}", size + 1);
            assert_eq!(Edge::from_bytes(edge.size(), &edge.to_bytes()), Some(edge.clone()));
        }
        assert_eq!(Edge::from_bytes(7, &edge.to_bytes()), None);
    }

    #[test]
    fn every_path_of_every_size_leads_to_the_root_and_no_other_does() {
        let leaves: Vec<Hash> = (0..70u8).map(|n| leaf_hash(&[n])).collect();
        let mut edge = Edge::default();
        let mut nodes: std::collections::BTreeMap<(u32, u64), Hash> = leaves.iter().enumerate().map(|(i, h)| ((0, i as u64), *h)).collect();
        for (count, leaf) in leaves.iter().enumerate() {
            edge.append(*leaf, |node| {
                nodes.insert((node.level, node.index), node.hash);
            });
            let size = count as u64 + 1;
            for index in 0..size {
                let mut node = |level, at| nodes.get(&(level, at)).copied().ok_or((level, at));
                let path = path(index, size, &mut node).unwrap().unwrap();
                let leaf = leaves[usize::try_from(index).unwrap()];
                assert_eq!(root_from_path(index, size, leaf, &path), Some(edge.root()));
                assert_ne!(root_from_path(index, size, leaf_hash(b"other"), &path), Some(edge.root()));
                assert_ne!(root_from_path(index + 1, size, leaf, &path), Some(edge.root()));
                if !path.is_empty() {
                    assert_ne!(root_from_path(index, size, leaf, &path[1..]), Some(edge.root()));
                }
            }
        }
        assert_eq!(path(70, 70, &mut |_, _| Ok::<_, ()>([0; 32])), Ok(None));
    }

    /// From RFC 6962's published proofs for the 8-entry tree: entry 5 of 8.
    #[test]
    fn a_published_inclusion_proof_verifies() {
        let path: Vec<Hash> = [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
        .iter()
        .map(|text| std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()))
        .collect();
        assert_eq!(root_from_path(5, 8, leaf_hash(ENTRIES[5]), &path).map(|root| hex(&root)).as_deref(), Some(ROOTS[8]));
    }
}
