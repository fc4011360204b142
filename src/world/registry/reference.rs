//! From the name of an image to registry and repository.

use oci_distribution::Reference;

use super::Fault;
use crate::core::release::Image;

/// Docker's own registry: names without a host are its.
const DOCKER: &str = "docker.io";
/// Another name of it.
const DOCKER_LEGACY: &str = "index.docker.io";
/// The longest repository, in bytes.
const NAME_MAX: usize = 255;
/// What may not stand beside each other between letters and digits.
const TANGLED: [&str; 8] = ["..", "._", "_.", ".-", "-.", "-_", "_-", "___"];

/// The reference of an image, by the rules of <https://pkg.go.dev/github.com/distribution/reference>. That of the OCI library is the same,
/// read with a regular expression that takes megabytes of memory in each thread.
///
/// # Errors
/// It is not a name that a registry could have.
pub(super) fn reference(image: &Image) -> Result<Reference, Fault> {
    let (host, name) = match image.repository.split_once('/') {
        Some((host, name)) if host.contains(['.', ':']) || host == "localhost" => (host, name),
        _ => (DOCKER, image.repository.as_str()),
    };
    let host = if host == DOCKER_LEGACY { DOCKER } else { host };
    let name = if host == DOCKER && !name.contains('/') { format!("library/{name}") } else { name.to_owned() };
    if !is_host(host) || name.len() > NAME_MAX || !name.split('/').all(is_part) {
        return Err(Fault::Malformed(format!("`{image}` is not an image reference: expected `registry/repository@sha256:…`")));
    }
    Ok(Reference::with_digest(host.to_owned(), name, image.digest.to_string()))
}

/// A host's name, with a port or without.
fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let is_label = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && is_framed(label, |byte| byte.is_ascii_alphanumeric())
    };
    host.split('.').all(is_label) && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// A part of a repository's path.
fn is_part(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().all(|byte| plain(byte) || b"._-".contains(&byte))
        && is_framed(text, plain)
        && !TANGLED.iter().any(|tangled| text.contains(tangled))
}

/// Whether it begins and ends with such a byte.
fn is_framed(text: &str, by: impl Fn(u8) -> bool) -> bool {
    text.bytes().next().is_some_and(&by) && text.bytes().next_back().is_some_and(&by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::release::Digest;

    #[test]
    fn a_name_is_read_as_the_library_reads_it() {
        let names = [
            "busybox",
            "library/busybox",
            "shop/checkout",
            "docker.io/busybox",
            "index.docker.io/busybox",
            "localhost/a",
            "localhost:5000/a/b",
            "127.0.0.1:5000/shop/checkout",
            "registry.example/shop/check_out",
            "registry.example/shop/check__out--now.v2",
            "Registry.Example/shop",
            "registry.example/Shop",
            "registry.example/",
            "registry.example//a",
            "registry.example/../a",
            "registry.example/a/../b",
            "registry.example/a..b",
            "registry.example/a._b",
            "registry.example/a___b",
            "registry.example/a-_b",
            "registry.example/-a",
            "registry.example/a-",
            "registry.example/a b",
            "registry.example/a?b",
            "registry.example/ä",
            "registry..example/a",
            "-registry.example/a",
            "registry.example:/a",
            "registry.example:port/a",
            "[::1]:5000/a",
            "user@registry.example/a",
            "https://registry.example/a",
            "/a",
            "a/",
        ];
        let long = format!("registry.example/{}", "a".repeat(256));
        for name in names.into_iter().chain([long.as_str()]) {
            let image = Image { repository: name.to_owned(), digest: Digest::of(b"") };
            let wanted: Option<Reference> = image.to_string().parse().ok();
            assert_eq!(reference(&image).ok(), wanted, "{name}");
        }
    }
}
