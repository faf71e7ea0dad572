//! Four bits for a weight: 256 columns of sixteen rows, and how they are chosen.
//!
//! The numbers are those of ggml's `Q4_K`; only the six bits of a scale take a byte here, so that sixteen are read at once.
use half::f16;
use rayon::prelude::*;

use super::Level;
use super::ggml::FourBits;
use super::memory::Plain;
use super::simd::{Kernel, LANES, Lane, Simd};

/// Columns of a block.
pub(super) const COLUMNS: usize = super::ggml::LARGE;
/// Columns that share a scale and a minimum.
const GROUP: usize = 32;
/// Groups of a block.
pub(super) const GROUPS: usize = COLUMNS / GROUP;
/// The largest number that fits.
const MOST: f32 = 15.0;
/// The largest scale and minimum.
const MOST_SCALE: f32 = 63.0;
/// By how many steps more or less than 15 the range of a group is divided at first, and by how many more or less than what was
/// best then. They find as good a line as 21 equidistant tries from 14 to 16, which ggml makes: on normal, Laplace and trained
/// weights the mean error is between 0.996 and 0.999 of theirs.
const COARSE: [f32; 6] = [0.0, -0.45, 0.45, -0.9, -1.35, -1.8];
const FINE: [f32; 2] = [-0.15, 0.15];

/// 256 columns of sixteen rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct FourBitBlock {
    /// What scales are multiples of, as f16.
    pub(super) unit: Lane<u16>,
    /// What minima are multiples of, as f16.
    pub(super) minimum_unit: Lane<u16>,
    pub(super) scales: [Lane<u8>; GROUPS],
    /// What is subtracted.
    pub(super) minima: [Lane<u8>; GROUPS],
    /// The lower halves are 32 columns, four for each row and step; the upper halves are the next 32.
    pub(super) quants: [[Lane<[u8; 4]>; GROUP / 4]; GROUPS / 2],
}

// SAFETY: integers, whose sizes add up to a multiple of the alignment.
unsafe impl Plain for FourBitBlock {}

impl FourBitBlock {
    /// All zeros.
    const EMPTY: Self = Self {
        unit: [0; LANES],
        minimum_unit: [0; LANES],
        scales: [[0; LANES]; GROUPS],
        minima: [[0; LANES]; GROUPS],
        quants: [[[[0; 4]; LANES]; GROUP / 4]; GROUPS / 2],
    };

    /// The numbers of the row `lane`, times `factor`.
    pub(super) fn read(&self, lane: usize, factor: f32, to: &mut [f32]) {
        let [unit, minimum] =
            [self.unit, self.minimum_unit].map(|units| f16::from_bits(units[lane]).to_f32());
        for (column, to) in to.iter_mut().enumerate() {
            let (group, at) = (column / GROUP, column % GROUP);
            let byte = self.quants[group / 2][at / 4][lane][at % 4];
            let quant = byte >> (group % 2 * 4) & 15;
            let scale = unit * f32::from(self.scales[group][lane]);
            let minimum = minimum * f32::from(self.minima[group][lane]);
            *to = (scale * f32::from(quant) - minimum) * factor;
        }
    }

    /// Takes over a block of a file as the row `lane`.
    pub(super) fn copy(&mut self, lane: usize, block: &[u8]) {
        self.copy_scales(lane, block);
        let Some(block) = FourBits::split(block) else { return };
        for (to, from) in self.quants.iter_mut().zip(block.quants.chunks_exact(GROUP)) {
            for (to, from) in to.iter_mut().zip(from.as_chunks::<4>().0) {
                to[lane] = *from;
            }
        }
    }

    /// Takes over all but the quants of a block of a file as the row `lane`.
    pub(super) fn copy_scales(&mut self, lane: usize, block: &[u8]) {
        let Some(block) = FourBits::split(block) else { return };
        [self.unit[lane], self.minimum_unit[lane]] = block.units;
        for group in 0..GROUPS {
            self.scales[group][lane] = block.scales[group];
            self.minima[group][lane] = block.minima[group];
        }
    }

    /// The row `lane` as a block of a file.
    fn write(&self, lane: usize) -> Vec<u8> {
        let (mut packed, mut quants) = ([0; 12], Vec::with_capacity(COLUMNS / 2));
        for at in 0..GROUPS / 2 {
            let [scales, minima] =
                [&self.scales, &self.minima].map(|all| [all[at][lane], all[at + GROUPS / 2][lane]]);
            packed[at] = scales[0] | scales[1] >> 4 << 6;
            packed[at + 4] = minima[0] | minima[1] >> 4 << 6;
            packed[at + 8] = scales[1] & 15 | minima[1] << 4;
        }
        for four in self.quants.as_flattened() {
            quants.extend_from_slice(&four[lane]);
        }
        let units = [self.unit[lane], self.minimum_unit[lane]].map(u16::to_le_bytes);
        [units.as_flattened(), &packed, &quants].concat()
    }

    /// Takes over the rows from `first` on, `count` of them, of `other`.
    pub(super) fn merge(&mut self, other: &Self, first: usize, count: usize) {
        if count == LANES {
            *self = *other;
            return;
        }
        for lane in first..first + count {
            self.unit[lane] = other.unit[lane];
            self.minimum_unit[lane] = other.minimum_unit[lane];
            for group in 0..GROUPS {
                self.scales[group][lane] = other.scales[group][lane];
                self.minima[group][lane] = other.minima[group][lane];
            }
            for (to, from) in self.quants.as_flattened_mut().iter_mut().zip(other.quants.as_flattened()) {
                to[lane] = from[lane];
            }
        }
    }
}

/// Whole blocks of `numbers` as [`super::Source::Q4K`] has them in a file.
pub fn quantize_q4k(numbers: &[f32]) -> Vec<u8> {
    let level = Level::best();
    let sixteen = numbers.par_chunks(LANES * COLUMNS).map(|blocks| {
        let mut lanes = [[0.0; LANES]; COLUMNS];
        for (lane, block) in blocks.chunks_exact(COLUMNS).enumerate() {
            lanes.iter_mut().zip(block).for_each(|(to, number)| to[lane] = *number);
        }
        let mut chosen = FourBitBlock::EMPTY;
        level.run(Quantize { numbers: &lanes, to: &mut chosen });
        (0..blocks.len() / COLUMNS).flat_map(|lane| chosen.write(lane)).collect::<Vec<_>>()
    });
    sixteen.collect::<Vec<_>>().concat()
}

/// Chooses a block for sixteen rows at once.
pub(super) struct Quantize<'a> {
    pub(super) numbers: &'a [Lane<f32>; COLUMNS],
    pub(super) to: &'a mut FourBitBlock,
}

impl Kernel for Quantize<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (groups, _) = self.numbers.as_chunks::<GROUP>();
        let mut fits = [Fit { scale: [0.0; LANES], minimum: [0.0; LANES] }; GROUPS];
        for (fit, group) in fits.iter_mut().zip(groups) {
            *fit = Fit::find(simd, group);
        }
        let scales = multiples(simd, fits.map(|fit| fit.scale), &mut self.to.unit, &mut self.to.scales);
        let minima =
            multiples(simd, fits.map(|fit| fit.minimum), &mut self.to.minimum_unit, &mut self.to.minima);
        let (mut broken, zero) = (simd.splat(0.0), simd.splat(0.0));
        let inverses = scales.map(|scales| {
            let scales = simd.load(&scales);
            store(simd, simd.if_less(zero, scales, simd.div(simd.splat(1.0), scales), zero))
        });
        for (pair, to) in self.to.quants.iter_mut().enumerate() {
            for (step, to) in to.iter_mut().enumerate() {
                let mut bytes = [simd.splat(0.0); 4];
                for (group, factor) in [(2 * pair, 1.0), (2 * pair + 1, 16.0)] {
                    let [minimum, inverse] = [simd.load(&minima[group]), simd.load(&inverses[group])];
                    for (byte, number) in bytes.iter_mut().zip(&groups[group][4 * step..]) {
                        let number = simd.load(number);
                        broken = simd.fma(number, simd.splat(0.0), broken);
                        let quant = nearest(simd, simd.mul(simd.add(number, minimum), inverse));
                        *byte = simd.fma(quant, simd.splat(factor), *byte);
                    }
                }
                *to = simd.to_bytes(bytes);
            }
        }
        // What is no number must not turn into a plausible weight.
        let mut marks = [0.0; LANES];
        simd.store(broken, &mut marks);
        for (unit, mark) in self.to.unit.iter_mut().zip(marks) {
            if mark != 0.0 {
                *unit = f16::NAN.to_bits();
            }
        }
    }
}

/// To the nearest number that fits.
#[inline(always)]
fn nearest<S: Simd>(simd: S, number: S::V) -> S::V {
    simd.min(simd.splat(MOST), simd.max(simd.splat(0.0), simd.round(number)))
}

/// `values` as multiples of a sixty-third of the largest: the unit, the factors, and what they come to.
#[inline(always)]
fn multiples<S: Simd>(
    simd: S,
    values: [Lane<f32>; GROUPS],
    unit: &mut Lane<u16>,
    factors: &mut [Lane<u8>; GROUPS],
) -> [Lane<f32>; GROUPS] {
    let zero = simd.splat(0.0);
    let mut largest = zero;
    for values in &values {
        largest = simd.max(simd.load(values), largest);
    }
    *unit = simd.to_f16(simd.div(largest, simd.splat(MOST_SCALE)));
    let rounded = simd.load_f16(unit);
    let mut exact = [[0.0; LANES]; GROUPS];
    for ((values, factors), exact) in values.iter().zip(factors).zip(&mut exact) {
        let factor = simd.round(simd.div(simd.load(values), rounded));
        let factor = simd.min(simd.max(factor, zero), simd.splat(MOST_SCALE));
        let factor = simd.if_less(zero, rounded, factor, zero);
        *factors = store(simd, factor).map(|factor| factor as u8);
        simd.store(simd.mul(factor, rounded), exact);
    }
    exact
}

/// number ≈ scale · (0 to 15) - minimum, for each of sixteen rows.
#[derive(Clone, Copy)]
struct Fit {
    scale: Lane<f32>,
    minimum: Lane<f32>,
}

impl Fit {
    /// The best of eight: for each width of a step, the line with the least squared error through what its numbers
    /// are rounded to. Large weights count for more.
    #[inline(always)]
    fn find<S: Simd>(simd: S, numbers: &[Lane<f32>; GROUP]) -> Self {
        let (zero, tiny) = (simd.splat(0.0), simd.splat(1e-30));
        let (mut least, mut most, mut squares) = (zero, zero, zero);
        for number in numbers {
            let number = simd.load(number);
            (least, most) = (simd.min(number, least), simd.max(number, most));
            squares = simd.fma(number, number, squares);
        }
        let mut mean = [0.0; LANES];
        simd.store(simd.mul(squares, simd.splat(1.0 / GROUP as f32)), &mut mean);
        let mean = simd.load(&mean.map(f32::sqrt));
        let range = simd.max(tiny, simd.add(most, simd.mul(least, simd.splat(-1.0))));

        let mut weights = [[0.0; LANES]; GROUP];
        let (mut all, mut firsts, mut seconds) = (zero, zero, zero);
        for (weight, number) in weights.iter_mut().zip(numbers) {
            let number = simd.load(number);
            let counts = simd.add(mean, simd.max(number, simd.mul(number, simd.splat(-1.0))));
            simd.store(counts, weight);
            let product = simd.mul(counts, number);
            (all, firsts) = (simd.add(all, counts), simd.add(firsts, product));
            seconds = simd.fma(product, number, seconds);
        }
        let (plain, middle) = (simd.div(range, simd.splat(MOST)), simd.splat(MOST));
        let mut best = Best { error: simd.splat(f32::INFINITY), steps: middle, scale: plain, offset: least };
        let sums = [all, firsts, seconds];
        for tried in COARSE {
            let steps = simd.add(middle, simd.splat(tried));
            best.consider(simd, steps, sums, rounded(simd, numbers, &weights, least, simd.div(steps, range)));
        }
        let middle = best.steps;
        for tried in FINE {
            let steps = simd.add(middle, simd.splat(tried));
            best.consider(simd, steps, sums, rounded(simd, numbers, &weights, least, simd.div(steps, range)));
        }
        Self { scale: store(simd, best.scale), minimum: store(simd, best.offset).map(|offset| -offset) }
    }
}

/// The sums of weight · quant, weight · quant² and weight · quant · number, where `inverse` is one over the width of a step.
#[inline(always)]
fn rounded<S: Simd>(
    simd: S,
    numbers: &[Lane<f32>; GROUP],
    weights: &[Lane<f32>; GROUP],
    least: S::V,
    inverse: S::V,
) -> [S::V; 3] {
    let offset = simd.mul(least, simd.mul(inverse, simd.splat(-1.0)));
    let zero = simd.splat(0.0);
    let (mut quants, mut squares, mut products) = (zero, zero, zero);
    for (weight, number) in weights.iter().zip(numbers) {
        let (weight, number) = (simd.load(weight), simd.load(number));
        // Not below 0 but for rounding.
        let quant = simd.min(simd.splat(MOST), simd.round(simd.fma(number, inverse, offset)));
        let weighed = simd.mul(weight, quant);
        quants = simd.add(quants, weighed);
        squares = simd.fma(weighed, quant, squares);
        products = simd.fma(weighed, number, products);
    }
    [quants, squares, products]
}

#[inline(always)]
fn store<S: Simd>(simd: S, value: S::V) -> Lane<f32> {
    let mut lane = [0.0; LANES];
    simd.store(value, &mut lane);
    lane
}

/// The line with the least error so far, of each row.
struct Best<S: Simd> {
    error: S::V,
    /// How many widths of a step its range has.
    steps: S::V,
    scale: S::V,
    offset: S::V,
}

impl<S: Simd> Best<S> {
    /// `sums` are those of the weights, of weight · number and weight · number²; `quants` those of weight · quant,
    /// weight · quant² and weight · quant · number. Products are rounded, on every instruction set alike.
    #[inline(always)]
    fn consider(
        &mut self,
        simd: S,
        steps: S::V,
        [all, firsts, seconds]: [S::V; 3],
        [ones, squares, products]: [S::V; 3],
    ) {
        let zero = simd.splat(0.0);
        let determinant = simd.sub(simd.mul(all, squares), simd.mul(ones, ones));
        let scale = simd.sub(simd.mul(all, products), simd.mul(firsts, ones));
        let offset = simd.sub(simd.mul(squares, firsts), simd.mul(ones, products));
        let [scale, offset] = [simd.div(scale, determinant), simd.div(offset, determinant)];
        // A minimum cannot be negative: then the line goes through zero.
        let scale = simd.if_less(zero, offset, simd.div(products, squares), scale);
        let offset = simd.if_less(zero, offset, zero, offset);
        let two = simd.splat(2.0);
        let of_scale = simd.mul(scale, simd.sub(simd.mul(scale, squares), simd.mul(two, products)));
        let of_both = simd.mul(simd.mul(two, scale), ones);
        let inner = simd.add(simd.sub(simd.mul(offset, all), simd.mul(two, firsts)), of_both);
        let error = simd.add(simd.add(seconds, of_scale), simd.mul(offset, inner));
        // Without two different numbers there is no line.
        let error = simd.if_less(zero, determinant, error, simd.splat(f32::INFINITY));
        self.steps = simd.if_less(error, self.error, steps, self.steps);
        self.scale = simd.if_less(error, self.error, scale, self.scale);
        self.offset = simd.if_less(error, self.error, offset, self.offset);
        self.error = simd.if_less(error, self.error, error, self.error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Find<'a>(&'a [Lane<f32>; GROUP], &'a mut Option<Fit>);

    impl Kernel for Find<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            *self.1 = Some(Fit::find(simd, self.0));
        }
    }

    /// Roughly normal numbers.
    fn group(seed: u64) -> [Lane<f32>; GROUP] {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        std::array::from_fn(|_| std::array::from_fn(|_| (0..6).map(|_| next()).sum()))
    }

    fn weights(numbers: &[f32]) -> Vec<f32> {
        let squares: f32 = numbers.iter().map(|number| number * number).sum();
        numbers.iter().map(|number| (squares / GROUP as f32).sqrt() + number.abs()).collect()
    }

    /// The weighed error of rounding `numbers` to the line.
    fn error(numbers: &[f32], scale: f32, minimum: f32) -> f32 {
        let miss = |number: &f32| {
            let quant = ((number + minimum) / scale).round_ties_even().clamp(0.0, MOST);
            scale * quant - minimum - number
        };
        numbers.iter().zip(weights(numbers)).map(|(number, weight)| weight * miss(number).powi(2)).sum()
    }

    /// The least error of lines through what the numbers are rounded to with 21 equidistant widths of a step.
    fn equidistant(numbers: &[f32]) -> f32 {
        let (least, most) =
            numbers.iter().fold((0.0f32, 0.0f32), |(l, m), number| (l.min(*number), m.max(*number)));
        let tries = (0..21).map(|attempt| {
            let inverse = (14.0 + 0.1 * attempt as f32) / (most - least);
            let mut sums = [0.0f64; 5];
            for (number, weight) in numbers.iter().zip(weights(numbers)) {
                let quant = f64::from(((number - least) * inverse).round_ties_even().clamp(0.0, MOST));
                let (number, weight) = (f64::from(*number), f64::from(weight));
                let added = [
                    weight,
                    weight * number,
                    weight * quant,
                    weight * quant * quant,
                    weight * quant * number,
                ];
                sums.iter_mut().zip(added).for_each(|(sum, added)| *sum += added);
            }
            let [all, firsts, ones, squares, products] = sums;
            let determinant = all * squares - ones * ones;
            let offset = (squares * firsts - ones * products) / determinant;
            let scale = (all * products - firsts * ones) / determinant;
            let [scale, offset] = if offset > 0.0 { [products / squares, 0.0] } else { [scale, offset] };
            error(numbers, scale as f32, -offset as f32)
        });
        tries.fold(f32::INFINITY, f32::min)
    }

    #[test]
    fn few_tries_find_as_good_a_line_as_many() {
        for level in Level::available() {
            let (mut found, mut expected) = (0.0, 0.0);
            for seed in 1..=64 {
                let (numbers, mut fit) = (group(seed), None);
                level.run(Find(&numbers, &mut fit));
                let fit = fit.unwrap();
                for lane in 0..LANES {
                    let row = numbers.map(|column| column[lane]);
                    found += error(&row, fit.scale[lane], fit.minimum[lane]);
                    expected += equidistant(&row);
                }
            }
            assert!(found < 1.01 * expected, "{level:?}: {found} instead of {expected}");
        }
    }
}
