//! A pool of pages whose unused numbers are NaN, and texts in it, in pages drawn at random.

use codeseal_kernels::cuda::{Buffer, HEAD, KvLayout, Layer, Narrow, Places};
use codeseal_kernels::kv::BLOCK_TOKENS;

use crate::device::Emulator;
use crate::numbers::Numbers;

/// Texts in a pool.
pub struct Texts<T> {
    /// The layout of a page.
    pub layout: KvLayout,
    /// Pages in a row of `tables`.
    pub table_width: usize,
    /// Page tables, one row per text; -1 where there is no page.
    pub tables: Vec<i32>,
    /// All pages.
    pub pool: Vec<T>,
}

impl<T: Narrow + From32> Texts<T> {
    /// As many texts as `lengths`, whose keys and values are drawn for one layer, up to their lengths.
    pub fn new(layout: KvLayout, layer: usize, lengths: &[usize], numbers: &mut Numbers) -> Self {
        let table_width = lengths.iter().max().unwrap().div_ceil(BLOCK_TOKENS).max(1);
        let used: usize = lengths.iter().map(|length| length.div_ceil(BLOCK_TOKENS)).sum();
        let mut free: Vec<i32> = (0..used as i32 + 2).collect();
        for last in (1..free.len()).rev() {
            free.swap(last, numbers.between(0, last));
        }
        let nan = T::from32(f32::NAN);
        let mut texts = Self {
            layout,
            table_width,
            // What is behind a text's last page is never looked at.
            tables: vec![-1; lengths.len() * table_width],
            pool: vec![nan; free.len() * layout.block_numbers()],
        };
        for (slot, &length) in lengths.iter().enumerate() {
            for page in 0..length.div_ceil(BLOCK_TOKENS) {
                texts.tables[slot * table_width + page] = free.pop().unwrap();
            }
            for position in 0..length {
                for head in 0..2 * layout.kv_heads {
                    let at = texts.offset(layer, slot, position, head);
                    for number in &mut texts.pool[at..at + HEAD] {
                        *number = T::from32(numbers.normal());
                    }
                }
            }
        }
        texts
    }

    /// Where a head's key begins; values follow, as if they were more heads.
    pub fn offset(&self, layer: usize, slot: usize, position: usize, head: usize) -> usize {
        let page = self.tables[slot * self.table_width + position / BLOCK_TOKENS] as usize;
        let row = ((layer * 2 * self.layout.kv_heads + head) * BLOCK_TOKENS + position % BLOCK_TOKENS) * HEAD;
        page * self.layout.block_numbers() + row
    }

    /// What a query sees of the positions up to `last`, in f64.
    pub fn attended(
        &self,
        layer: usize,
        slot: usize,
        last: usize,
        kv_head: usize,
        query: &[f32],
    ) -> Vec<f64> {
        let row = |position, head| {
            let at = self.offset(layer, slot, position, head);
            self.pool[at..at + HEAD].iter().map(|&number| f64::from(number.to32()))
        };
        let scores: Vec<f64> = (0..=last)
            .map(|position| {
                let products = row(position, kv_head).zip(query).map(|(key, &query)| key * f64::from(query));
                products.sum::<f64>() / 16.0
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        let mut sums = vec![0.0; HEAD];
        for (position, score) in scores.iter().enumerate() {
            let weight = (score - largest).exp() / total;
            for (sum, value) in sums.iter_mut().zip(row(position, self.layout.kv_heads + kv_head)) {
                *sum += weight * value;
            }
        }
        sums
    }
}

/// Rows of a batch on the device.
pub struct Rows {
    layout: KvLayout,
    slots: Buffer<Emulator, i32>,
    positions: Buffer<Emulator, i32>,
    tables: Buffer<Emulator, i32>,
    table_width: usize,
}

impl Rows {
    /// The rows that read `texts` at `positions`.
    pub fn new<T>(device: &Emulator, texts: &Texts<T>, slots: &[i32], positions: &[i32]) -> Self {
        Self {
            layout: texts.layout,
            slots: device.put(slots),
            positions: device.put(positions),
            tables: device.put(&texts.tables),
            table_width: texts.table_width,
        }
    }

    /// The places in layer `number`.
    pub fn layer(&self, number: usize) -> Layer<'_> {
        let places = Places {
            slots: self.slots.view(),
            positions: self.positions.view(),
            tables: self.tables.view(),
            table_width: self.table_width,
        };
        Layer { layout: self.layout, number, places }
    }
}

/// To and from f32.
pub trait From32: Copy {
    /// Rounds to the nearest.
    fn from32(value: f32) -> Self;
    /// Exact.
    fn to32(self) -> f32;
}

impl From32 for half::bf16 {
    fn from32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn to32(self) -> f32 {
        self.to_f32()
    }
}

impl From32 for half::f16 {
    fn from32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn to32(self) -> f32 {
        self.to_f32()
    }
}
