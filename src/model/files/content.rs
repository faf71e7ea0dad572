//! Checks by the first bytes of a file whether it is what its name says, or for example a web page or a Git LFS pointer.

use std::io;

use super::super::layout::{FileName, TOKENIZER};

/// How many bytes at the beginning of a file are looked at.
pub(super) const HEAD_BYTES: usize = 512;
/// A safetensors file begins with the length of its header, in bytes.
const LENGTH_BYTES: u64 = 8;

/// What is wrong with a file, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileProblem {
    /// The operating system does not give it.
    #[error("cannot be read ({0})")]
    Read(io::ErrorKind),
    /// Its permissions do not allow it.
    #[error("cannot be read: the user that runs this program has no permission, change its mode or owner")]
    Permission,
    /// It is a link to nothing.
    #[error(
        "is a link whose target is not there, as in a hub cache that was pruned: download the model again"
    )]
    DanglingLink,
    /// It is a directory.
    #[error("is a directory, not a file: download it again")]
    Directory,
    /// It is a pipe, a socket or a device.
    #[error("is not a regular file: copy the model's file there")]
    Special,
    /// It has no bytes.
    #[error("is empty: download it again")]
    Empty,
    /// It is larger than any can rightly be.
    #[error("is larger than {0} bytes, which is more than such a file has: download it again")]
    TooLarge(u64),
    /// It is the pointer to a file in Git LFS.
    #[error("is a Git LFS pointer, not the file itself: run `git lfs pull` in the model's repository")]
    LfsPointer,
    /// It is HTML or XML.
    #[error(
        "is a web page, not the file itself: accept the model's terms where it is hosted, log in, and download it again"
    )]
    WebPage,
    /// It is JSON behind a byte order mark, or in UTF-16.
    #[error("begins with a byte order mark: save it as UTF-8 without one")]
    ByteOrderMark,
    /// It is something else.
    #[error("is {found}, not {wanted}: {take}")]
    OtherFormat {
        /// What it is.
        found: &'static str,
        /// What its name says.
        wanted: &'static str,
        /// What to do.
        take: &'static str,
    },
    /// It ends before what its header says.
    #[error("is cut: it has {has} bytes, and its header alone takes {needs}: download it again")]
    Cut {
        /// Bytes.
        has: u64,
        /// Bytes.
        needs: u64,
    },
    /// It is in no format that is known.
    #[error("is not in the {wanted} format: download it again")]
    Unknown {
        /// The format.
        wanted: &'static str,
    },
    /// It is another file than when it was first read.
    #[error("was changed while the model was read: start again when nothing writes to it")]
    Changed,
    /// There is none, and other files do not replace it.
    #[error("is not there: download it from where the model's other files came from")]
    Missing,
    /// There is no `tokenizer.json`, but a file of the library that made it.
    #[error(
        "is not there, and tokenizer.model is not read: download tokenizer.json from the same repository, or write it \
         with `AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers"
    )]
    SentencePiece,
}

impl FileProblem {
    /// What an error on opening or reading a regular file means.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Permission,
            kind => Self::Read(kind),
        }
    }

    /// What the lack of a file means where the directory has `others`.
    pub(super) fn missing(name: &str, others: &[String]) -> Self {
        let sentencepiece = name == TOKENIZER && others.iter().any(|other| other == "tokenizer.model");
        if sentencepiece { Self::SentencePiece } else { Self::Missing }
    }
}

/// Checks that the file `name`, which has `length` bytes and begins with `head`, can be what its name says.
///
/// # Errors
/// [`FileProblem`]
pub(super) fn check(name: &FileName, head: &[u8], length: u64) -> Result<(), FileProblem> {
    if length == 0 {
        return Err(FileProblem::Empty);
    }
    if head.starts_with(b"version https://git-lfs") {
        return Err(FileProblem::LfsPointer);
    }
    if is_page(head) {
        return Err(FileProblem::WebPage);
    }
    if name.is_gguf() {
        return check_gguf(head);
    }
    if name.is_weights() {
        return check_safetensors(head, length);
    }
    let marks: [&[u8]; 3] = [b"\xEF\xBB\xBF", b"\xFF\xFE", b"\xFE\xFF"];
    if marks.iter().any(|mark| head.starts_with(mark)) {
        return Err(FileProblem::ByteOrderMark);
    }
    Ok(())
}

fn check_gguf(head: &[u8]) -> Result<(), FileProblem> {
    const WANTED: &str = "GGUF";
    if head.starts_with(b"GGUF") {
        return Ok(());
    }
    let old = [&b"lmgg"[..], b"tjgg", b"fmgg", b"algg"];
    let (found, take) = if old.iter().any(|magic| head.starts_with(magic)) {
        ("in GGML's old format", "convert the model with llama.cpp's convert_hf_to_gguf.py")
    } else if is_safetensors(head) {
        ("a safetensors file", "call it model.safetensors and put config.json beside it")
    } else if let Some(found) = pickle(head) {
        (found, "download the model's .gguf file")
    } else {
        return Err(FileProblem::Unknown { wanted: WANTED });
    };
    Err(FileProblem::OtherFormat { found, wanted: WANTED, take })
}

fn check_safetensors(head: &[u8], length: u64) -> Result<(), FileProblem> {
    const WANTED: &str = "safetensors";
    let (found, take) = if head.starts_with(b"GGUF") {
        ("a GGUF file", "give it a name that ends in .gguf")
    } else if let Some(found) = pickle(head) {
        (found, "download the model's .safetensors files, or save it with `safe_serialization=True`")
    } else {
        let Some((header, rest)) = head.split_first_chunk::<8>() else {
            return Err(FileProblem::Cut { has: length, needs: LENGTH_BYTES });
        };
        let needs = u64::from_le_bytes(*header).saturating_add(LENGTH_BYTES);
        if rest.first().is_some_and(|first| *first != b'{') {
            return Err(FileProblem::Unknown { wanted: WANTED });
        }
        return if needs > length { Err(FileProblem::Cut { has: length, needs }) } else { Ok(()) };
    };
    Err(FileProblem::OtherFormat { found, wanted: WANTED, take })
}

/// Whether it begins as a safetensors file.
pub(super) fn is_safetensors(head: &[u8]) -> bool {
    head.get(8) == Some(&b'{') && head.get(4..8) == Some(&[0; 4])
}

/// What holds weights of other frameworks.
pub(super) fn pickle(head: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 4] = [
        (b"PK\x03\x04", "a zip archive, as PyTorch writes"),
        (b"\x80", "a Python pickle"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x1f\x8b", "compressed with gzip"),
    ];
    // The length that a safetensors file begins with may begin with any of these bytes.
    let found = known.iter().find(|(magic, _)| head.starts_with(magic) && !is_safetensors(head));
    found.map(|(_, name)| *name)
}

fn is_page(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    let begins = |with: &[u8]| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    [&b"<!doctype"[..], b"<html", b"<?xml", b"<head", b"<error"].into_iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, content: &[u8]) -> Result<(), FileProblem> {
        super::check(&name.parse().unwrap(), content, content.len() as u64)
    }

    #[test]
    fn what_was_put_in_the_place_of_a_file_is_named() {
        use FileProblem::*;
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
        for name in ["config.json", "tokenizer.json", "model.safetensors", "a.gguf"] {
            assert_eq!(check(name, b""), Err(Empty));
            assert_eq!(check(name, lfs), Err(LfsPointer));
            for page in
                [&b"\n <!DOCTYPE html>"[..], b"<html>", b"<?xml version='1.0'?>", b"\xEF\xBB\xBF<HTML>"]
            {
                assert_eq!(check(name, page), Err(WebPage));
            }
        }
        assert_eq!(check("config.json", b"\xEF\xBB\xBF{}"), Err(ByteOrderMark));
        assert_eq!(check("config.json", b"\xFF\xFE{\0}\0"), Err(ByteOrderMark));
        assert_eq!(check("model.safetensors", b"\x40\0\0\0\0\0\0\0{\"a\""), Err(Cut { has: 12, needs: 72 }));
        assert_eq!(check("model.safetensors", b"\x40\0\0"), Err(Cut { has: 3, needs: 8 }));
        assert_eq!(check("a.gguf", b"12345"), Err(Unknown { wanted: "GGUF" }));
        for (name, content) in [
            ("model.safetensors", &b"GGUF\x03\0\0\0\0\0"[..]),
            ("model.safetensors", b"PK\x03\x04archive/data.pkl"),
            ("model.safetensors", b"\x80\x02}q\x00........"),
            ("a.gguf", b"\x08\0\0\0\0\0\0\0{}      "),
            ("a.gguf", b"tjgg\x03\0\0\0"),
        ] {
            assert!(matches!(check(name, content), Err(OtherFormat { .. })), "{name} {content:?}");
        }
    }

    #[test]
    fn what_is_right_passes() {
        for (name, content) in [
            ("config.json", &b"{}"[..]),
            ("a.gguf", b"GGUF\x03\0\0\0"),
            // Headers whose length begins as other formats do.
            ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
        ] {
            assert_eq!(check(name, content), Ok(()), "{name}");
        }
        let length = [&[0x80, 0x02, 0, 0, 0, 0, 0, 0][..], b"{", &[b' '; 0x27f]].concat();
        assert_eq!(super::check(&"model.safetensors".parse().unwrap(), &length[..HEAD_BYTES], 648), Ok(()));
    }
}
