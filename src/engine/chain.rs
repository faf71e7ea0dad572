//! Hashes of KV blocks for the prefix cache: over the namespace and all tokens up to the end of the block.
//!
//! Two sequences share a block only if their DEKs derive the same namespace and their tokens agree up to its end. A
//! non-cryptographic hash would let one tenant forge another's; SHA-256 does not (vLLM does the same).

use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::protocol::Namespace;
use crate::token::TokenId;
use codeseal_kernels::kv::BLOCK_TOKENS;

/// The start of all chains of one namespace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Root([u8; 32]);

/// The hash of a block: over that of the block before it, and its tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Link([u8; 32]);

/// The hashes of a sequence's full blocks.
pub(super) struct Chain {
    root: Root,
    links: Vec<Link>,
}

impl Root {
    pub(super) fn new(namespace: &Namespace) -> Self {
        let digest = Sha256::new_with_prefix(b"codeseal kv chain").chain_update(namespace.as_bytes());
        Self(digest.finalize().into())
    }

    /// The hash before the first block.
    pub(super) fn link(self) -> Link {
        Link(self.0)
    }
}

impl Chain {
    pub(super) fn new(root: Root) -> Self {
        Self { root, links: Vec::new() }
    }

    pub(super) fn root(&self) -> Root {
        self.root
    }

    /// The hashes so far.
    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    /// The hash of block number `block - 1`, or the root's before the first one.
    pub(super) fn before(&self, block: usize) -> Option<Link> {
        block.checked_sub(1).map_or(Some(self.root.link()), |last| self.links.get(last).copied())
    }

    /// Adds the hashes of the blocks that `tokens`, the sequence from its beginning, fills and that have none yet.
    pub(super) fn extend(&mut self, tokens: &[TokenId]) {
        for block in tokens.chunks_exact(BLOCK_TOKENS).skip(self.links.len()) {
            let before = self.links.last().map_or(self.root.0, |link| link.0);
            let mut bytes = [0; 4 * BLOCK_TOKENS];
            for (to, token) in bytes.chunks_exact_mut(4).zip(block) {
                to.copy_from_slice(&token.0.to_le_bytes());
            }
            let digest = Sha256::new_with_prefix(before).chain_update(bytes).finalize();
            bytes.zeroize();
            self.links.push(Link(digest.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dek;

    fn tokens(count: u32) -> Vec<TokenId> {
        (0..count).map(TokenId).collect()
    }

    fn chain(root: Root, tokens: &[TokenId]) -> Vec<Link> {
        let mut chain = Chain::new(root);
        chain.extend(tokens);
        chain.links
    }

    #[test]
    fn only_whole_blocks_have_names_and_growing_gives_the_same_ones() {
        let root = Root::new(&Dek::generate().unwrap().namespace());
        let text = tokens(100);
        let mut grown = Chain::new(root);
        for length in [0, 31, 32, 40, 64, 95, 100] {
            grown.extend(&text[..length]);
            assert_eq!(grown.links.len(), length / BLOCK_TOKENS);
        }
        assert!(grown.links == chain(root, &text));
    }

    #[test]
    fn a_name_depends_on_all_that_came_before_and_on_the_namespace() {
        let [root, other] = [(), ()].map(|()| Root::new(&Dek::generate().unwrap().namespace()));
        let text = tokens(96);
        let mut changed = text.clone();
        changed[3] = TokenId(99);
        let (whole, changed) = (chain(root, &text), chain(root, &changed));
        assert!(whole.iter().all(|link| !changed.contains(link)));
        assert!(chain(other, &text).iter().all(|link| !whole.contains(link)));
        // The same tokens twice are two blocks.
        let twice = [tokens(32), tokens(32)].concat();
        let twice = chain(root, &twice);
        assert!(twice[0] == whole[0] && twice[1] != twice[0]);
    }
}
