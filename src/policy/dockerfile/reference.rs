//! Names of images, as builders parse them before they look for one.
//!
//! A port of `ParseNormalizedNamed` in github.com/distribution/reference.

/// Whether `image` is `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
pub(super) fn is_valid(image: &str) -> bool {
    if image.len() == 64 && image.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
        return false;
    }
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let (host, rest) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (Some(first), rest),
        _ => (None, name),
    };
    let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
    host.is_none_or(is_domain) && is_path(path) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest)
}

/// Whether what stands before the first slash is a registry and no part of the path.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.contains(char::is_uppercase)
}

fn is_domain(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_label = |label: &str| {
        let edge = |c: char| c.is_ascii_alphanumeric();
        label.starts_with(edge) && label.ends_with(edge) && label.chars().all(|c| edge(c) || c == '-')
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_name = match address {
        Some(address) => !address.is_empty() && address.chars().all(|c| c.is_ascii_hexdigit() || c == ':'),
        None => name.split('.').all(is_label),
    };
    is_name && port.is_none_or(|port| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit()))
}

fn is_path(path: &str) -> bool {
    path.split('/').all(|part| {
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        // Between words stands one dot, one or two underscores, or any number of hyphens.
        let mut separators = part.split(is_word).filter(|separator| !separator.is_empty());
        part.starts_with(is_word)
            && part.ends_with(is_word)
            && separators.all(|s| [".", "_", "__"].contains(&s) || s.chars().all(|c| c == '-'))
    })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(is_word) && tag.chars().all(|c| is_word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_registries_name_them() {
        let digest = format!("debian@sha256:{}", "0".repeat(64));
        for valid in [
            "debian",
            "debian:12",
            "library/debian",
            "gcr.io/p/i:t",
            "localhost/i",
            "localhost:5000/a/b__c:T-1.x",
            "HOST/i",
            "[::1]:80/i",
            "a--b",
            "0",
            &digest,
        ] {
            assert!(is_valid(valid), "{valid}");
        }
        let hex = "a".repeat(64);
        for invalid in [
            "",
            "Debian",
            "a/B",
            "debian:",
            ":12",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a.",
            "a..b",
            "a___b",
            "a:b:c",
            "a b",
            ",",
            "1{x",
            "gcr.io/",
            "x.:1/a",
            "debian@sha256:00",
            "debian@",
            &hex,
        ] {
            assert!(!is_valid(invalid), "{invalid}");
        }
    }
}
