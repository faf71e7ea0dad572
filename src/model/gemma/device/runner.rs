//! Takes steps on a device: owns the weights, the KV cache, and all that stays in memory between two steps.
//!
//! Where no prompt is read, a step is always the same launches: they are recorded once for each batch size (a CUDA graph)
//! and replayed. The tokens that a decode step samples are the input of the next one, on the device. So while a batch stays
//! as it is, nothing is copied to the device, and the next step is launched before the tokens of this one are read. A step
//! that was launched ahead and is not needed does no harm: it wrote behind the ends of sequences, where whatever is read
//! later is written before.

use codeseal_kernels::cuda::{
    Buffer, Device, DeviceError, Feedback, Narrow, Prompts, Recorded, SamplingBuffers, View, feed_back,
    sample_rows,
};
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};
use codeseal_kernels::sampling::{RowSampler, SamplingParams};

use super::super::batch::Slice;
use super::forward::{Activations, Input, Network, Room};
use super::input::{StepLayout, StepWords};

/// The name of a step in errors.
const STEP: &str = "step";
/// The batch sizes that decode steps are recorded for; smaller batches are padded with rows that are not in use.
const BATCHES: [usize; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64];
/// Steps whose tokens stay on the device until they are read.
const HISTORY: usize = 4;
/// After how many steps without a change the next is launched ahead: new sequences and draft tokens change a batch.
const STEADY: u32 = 2;

/// What a runner has memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerRoom {
    /// KV blocks.
    pub blocks: usize,
    /// The longest block table.
    pub table_width: usize,
    /// Rows of a step.
    pub rows: usize,
    /// Sequences of a step, and rows that get logits.
    pub logit_rows: usize,
    /// Rows of a decode step that is recorded.
    pub batch: usize,
}

/// A model on a device, with memory for its steps.
pub struct Runner<D: Device, T> {
    /// One for each batch size, once it has been recorded.
    recordings: Vec<Option<Recorded<D>>>,
    network: Network<D, T>,
    state: State<D, T>,
    room: RunnerRoom,
    /// Whether steps are recorded: not any more once the device could not.
    records: bool,
    /// The input of the next decode step that is on the device already, if there is one.
    next: Option<NextStep<D>>,
    /// How many decode steps continued the one before.
    steady: u32,
    /// How many decode steps were launched.
    launched: usize,
    chosen: Vec<u32>,
    logits: Vec<f32>,
    // Dropped last.
    device: D,
}

/// What steps read and write.
struct State<D: Device, T> {
    pool: Buffer<D, T>,
    rows: Activations<D, T>,
    words: Buffer<D, u32>,
    history: Buffer<D, u32>,
    step: Buffer<D, u32>,
    chosen: Buffer<D, u32>,
    partial: Buffer<D, u64>,
}

/// The next decode step, whose input is on the device.
struct NextStep<D: Device> {
    words: StepWords,
    /// The step, if it was launched ahead.
    in_flight: Option<InFlight<D>>,
}

/// A step that was launched.
struct InFlight<D: Device> {
    number: usize,
    /// After its last launch.
    event: D::Event,
}

/// The result of a step. Not to be printed: token ids are text.
#[derive(Clone, Copy)]
pub struct StepOutput<'a> {
    /// The token that was sampled after each row that gets logits; [`codeseal_kernels::cuda::NO_TOKEN`] if its logits were
    /// not all finite.
    pub chosen: &'a [u32],
    /// `[rows, vocabulary]` logits of the rows without a sampler.
    pub logits: &'a [f32],
}

impl<D: Device, T: Narrow> Runner<D, T> {
    /// `network` on `device`, with as much memory as `room` says. KV blocks are zeros.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(device: D, network: Network<D, T>, room: RunnerRoom) -> Result<Self, DeviceError> {
        let most = largest_batch(room.batch);
        let batches = BATCHES.into_iter().filter(|rows| *rows <= most);
        let activations = activation_room(room);
        let Room { rows, logit_rows, .. } = activations;
        let activations = Activations::new(&device, &network, activations)?;
        let mixed = StepLayout {
            rows,
            sampled: Some(logit_rows),
            prompts: logit_rows,
            slots: logit_rows,
            table_width: room.table_width,
        };
        let words = mixed.words().max(StepLayout::decode(most, room.table_width).words());
        let numbers = room.blocks.checked_mul(network.layout.block_numbers());
        let mut state = State {
            pool: Buffer::new(&device, numbers.ok_or(DeviceError::OutOfMemory(usize::MAX))?)?,
            rows: activations,
            words: Buffer::new(&device, words)?,
            history: Buffer::new(&device, HISTORY * most)?,
            step: Buffer::copied(&device, &[0])?,
            chosen: Buffer::new(&device, logit_rows)?,
            partial: Buffer::new(&device, SamplingBuffers::partial_numbers(logit_rows))?,
        };
        let all = 0..state.pool.len();
        state.pool.zero(&device, all)?;
        Ok(Self {
            recordings: batches.map(|_| None).collect(),
            network,
            state,
            room,
            records: true,
            next: None,
            steady: 0,
            launched: 0,
            chosen: Vec::new(),
            logits: Vec::new(),
            device,
        })
    }

    /// About how many bytes a runner takes beside weights and KV blocks.
    pub fn bytes(network: &Network<D, T>, room: RunnerRoom) -> usize {
        Activations::bytes(network, activation_room(room))
    }

    /// Records decode steps of all batch sizes, so that no request waits for that.
    ///
    /// # Errors
    /// A launch failed.
    pub fn record(&mut self) -> Result<(), DeviceError> {
        for (batch, rows) in BATCHES.into_iter().enumerate().take(self.recordings.len()) {
            self.copy_input(&StepWords::unused(StepLayout::decode(rows, self.room.table_width)))?;
            self.launch(batch)?;
        }
        self.next = None;
        Ok(())
    }

    /// Whether decode steps are replayed. They are launched one by one where the device cannot record.
    pub fn is_recorded(&self) -> bool {
        self.records && self.recordings.iter().all(Option::is_some)
    }

    /// The number of launches of a decode step of `rows`; none if it is not recorded.
    pub fn launches_per_step(&self, rows: usize) -> Option<usize> {
        let batch = BATCHES.iter().position(|most| rows <= *most)?;
        self.recordings.get(batch)?.as_ref().map(Recorded::launches)
    }

    /// Takes a step: appends the keys and values of `batch`, and samples a token after each row that gets logits, slice by
    /// slice. Where a row has no sampler, its logits are returned instead.
    ///
    /// # Errors
    /// The sizes do not fit, or the device failed.
    pub fn step(
        &mut self,
        batch: &[Slice<'_>],
        samplers: &[Option<RowSampler>],
    ) -> Result<StepOutput<'_>, DeviceError> {
        let rows: usize = batch.iter().map(|slice| slice.tokens.len()).sum();
        let num_logits: usize = batch.iter().map(|slice| slice.num_logits).sum();
        let fits = |slice: &Slice<'_>| {
            let end = slice.position + slice.tokens.len();
            slice.num_logits <= slice.tokens.len()
                && end <= slice.blocks.len().min(self.room.table_width) * BLOCK_TOKENS
        };
        let most = self.room.logit_rows;
        require(rows <= self.room.rows && num_logits <= most, "there are too many rows")?;
        require(batch.len() <= most, "there are too many sequences")?;
        require(samplers.len() == num_logits, "the number of samplers is not that of logits")?;
        require(batch.iter().all(fits), "a sequence does not fit its blocks")?;
        let decodes = |slice: &Slice<'_>| {
            slice.generated() == slice.tokens.len() && slice.num_logits == slice.tokens.len()
        };
        let size = BATCHES.iter().take(self.recordings.len()).position(|most| rows <= *most);
        match size {
            Some(size) if rows > 0 && batch.iter().all(decodes) => self.decode_step(size, batch, samplers)?,
            _ => self.mixed_step(batch, samplers)?,
        }
        Ok(StepOutput { chosen: &self.chosen, logits: &self.logits })
    }

    /// Overwrites a KV block with zeros.
    ///
    /// # Errors
    /// There is no such block, or the device failed.
    pub fn clear(&mut self, block: BlockId) -> Result<(), DeviceError> {
        let (block, numbers) = (block.0 as usize, self.network.layout.block_numbers());
        self.state.pool.zero(&self.device, block * numbers..(block + 1) * numbers)
    }

    /// The number of KV blocks.
    pub fn blocks(&self) -> usize {
        self.room.blocks
    }

    /// A step that reads no prompt.
    fn decode_step(
        &mut self,
        size: usize,
        batch: &[Slice<'_>],
        samplers: &[Option<RowSampler>],
    ) -> Result<(), DeviceError> {
        let all: Vec<RowSampler> = samplers.iter().map(|sampler| sampler.unwrap_or_else(greedy)).collect();
        let layout = StepLayout::decode(BATCHES[size], self.room.table_width);
        let words = StepWords::decode(layout, batch, &all);
        let launched = match self.next.take() {
            Some(NextStep { words: expected, in_flight }) if expected == words => {
                self.steady = self.steady.saturating_add(1);
                match in_flight {
                    Some(step) => step,
                    None => self.launch(size)?,
                }
            }
            _ => {
                self.steady = 0;
                self.copy_input(&words)?;
                self.launch(size)?
            }
        };
        let has_room = |slice: &Slice<'_>| {
            slice.tokens.len() == 1 && slice.position + 1 < slice.blocks.len() * BLOCK_TOKENS
        };
        let continues =
            self.steady >= STEADY && samplers.iter().all(Option::is_some) && batch.iter().all(has_room);
        let in_flight = if continues { Some(self.launch(size)?) } else { None };

        let first = launched.number % HISTORY * layout.rows;
        let history = first..first + layout.rows;
        let sampled = self.state.history.read_part_after(&self.device, &launched.event, history)?;
        self.chosen = sampled.get(..samplers.len()).unwrap_or_default().to_vec();
        self.read_logits(samplers)?;
        let mut next = words;
        next.advance(&sampled);
        self.next = Some(NextStep { words: next, in_flight });
        Ok(())
    }

    /// A step that reads prompts too.
    fn mixed_step(
        &mut self,
        batch: &[Slice<'_>],
        samplers: &[Option<RowSampler>],
    ) -> Result<(), DeviceError> {
        (self.next, self.steady) = (None, 0);
        let prompt_tokens = |slice: &Slice<'_>| slice.tokens.len() - slice.generated();
        let rows = batch.iter().map(|slice| slice.tokens.len()).sum();
        let layout = StepLayout {
            rows,
            sampled: Some(samplers.len()),
            prompts: batch.iter().filter(|slice| prompt_tokens(slice) > 0).count(),
            slots: batch.len(),
            table_width: self.room.table_width,
        };
        let prompt_rows: usize = batch.iter().map(prompt_tokens).sum();
        let mut words = StepWords::unused(layout);
        let (mut starts, mut sampled) = (vec![0], Vec::new());
        let (mut prompt_row, mut generated_row, mut longest) = (0, prompt_rows, 0);
        for (slot, slice) in batch.iter().enumerate() {
            words.set_table(slot, slice.blocks);
            for (number, token) in slice.tokens.iter().enumerate() {
                let next = if number < prompt_tokens(slice) { &mut prompt_row } else { &mut generated_row };
                if number + slice.num_logits >= slice.tokens.len() {
                    sampled.push((*next, slice.position + number));
                }
                words.set_row(*next, token.0, slice.position + number, slot);
                *next += 1;
            }
            if prompt_tokens(slice) > 0 {
                starts.push(prompt_row as u32);
                longest = longest.max(prompt_tokens(slice));
            }
        }
        for (number, ((row, position), sampler)) in sampled.iter().zip(samplers).enumerate() {
            words.words[layout.sampled_positions().start + number] = *position as u32;
            words.words[layout.sampled_rows().start + number] = *row as u32;
            words.set_sampler(number, &sampler.unwrap_or_else(greedy));
        }
        if layout.prompts > 0 {
            words.words[layout.starts()].copy_from_slice(&starts);
        }
        self.copy_input(&words)?;

        let Self { device, network, state, .. } = self;
        let State { pool, rows, words, chosen, partial, .. } = state;
        let view = words.view();
        let prompts = match layout.prompts {
            0 => None,
            _ => Some(Prompts { starts: view.part(layout.starts())?.signed(), longest }),
        };
        let (ids, places) = (view.part(layout.ids())?, layout.places(words)?);
        let logit_rows = Some(view.part(layout.sampled_rows())?.signed());
        let input = Input { ids, places, prompts, prompt_rows, logit_rows };
        network.forward(device, &input, pool, rows)?;
        if sampled.is_empty() {
            self.chosen.clear();
            self.logits.clear();
            return Ok(());
        }
        let logits = rows.logits().view().part(0..sampled.len() * network.vocabulary())?;
        let mut buffers =
            SamplingBuffers { samplers: view.part(layout.samplers())?, partial: partial.view_mut() };
        let positions = view.part(layout.sampled_positions())?.signed();
        sample_rows(device, logits, positions, &mut buffers, &mut chosen.view_mut().part(0..sampled.len())?)?;
        self.chosen = state.chosen.read_part(device, 0..sampled.len())?;
        self.read_logits(samplers)
    }

    /// Reads the logits of the rows without a sampler, when all that was launched has run.
    fn read_logits(&mut self, samplers: &[Option<RowSampler>]) -> Result<(), DeviceError> {
        let vocabulary = self.network.vocabulary();
        let rows = samplers.iter().enumerate().filter(|(_, sampler)| sampler.is_none());
        let rows: Vec<_> = rows.map(|(row, _)| row).collect();
        self.logits.clear();
        for run in rows.chunk_by(|a, b| a + 1 == *b) {
            let Some(&first) = run.first() else { continue };
            let part = first * vocabulary..(first + run.len()) * vocabulary;
            self.logits.extend(self.state.rows.logits().read_part(&self.device, part)?);
        }
        Ok(())
    }

    /// Copies a step's input to the device.
    fn copy_input(&mut self, words: &StepWords) -> Result<(), DeviceError> {
        self.state.words.write(&self.device, 0, &words.words)
    }

    /// Launches a decode step of the batch size with this index, whose input is on the device.
    fn launch(&mut self, size: usize) -> Result<InFlight<D>, DeviceError> {
        let Self { recordings, network, state, device, .. } = self;
        let layout = StepLayout::decode(BATCHES[size], self.room.table_width);
        match recordings.get(size) {
            Some(Some(recording)) => recording.replay(device)?,
            _ => {
                // Once without recording, so that the driver has loaded every kernel when it records.
                launch_decode(device, network, state, layout)?;
                if self.records {
                    match Recorded::new(device, &mut || launch_decode(device, network, state, layout)) {
                        Ok(recording) => recordings[size] = Some(recording),
                        Err(_) => self.records = false,
                    }
                }
            }
        }
        let number = self.launched;
        self.launched += 1;
        Ok(InFlight { number, event: self.device.record_event()? })
    }
}

/// The launches of a decode step, which writes its own next input. They are the same each time.
fn launch_decode<D: Device, T: Narrow>(
    device: &D,
    network: &Network<D, T>,
    state: &mut State<D, T>,
    layout: StepLayout,
) -> Result<(), DeviceError> {
    let State { pool, rows, words, history, step, chosen, partial } = state;
    let count = layout.rows;
    let (ids, places) = (words.view().part(layout.ids())?, layout.places(words)?);
    let input = Input { ids, places, prompts: None, prompt_rows: 0, logit_rows: None };
    network.forward(device, &input, pool, rows)?;
    let samplers = words.view().part(layout.samplers())?;
    let positions = words.view().part(layout.positions()).map(View::signed)?;
    let logits = rows.logits().view().part(0..count * network.vocabulary())?;
    let mut buffers = SamplingBuffers { samplers, partial: partial.view_mut() };
    sample_rows(device, logits, positions, &mut buffers, &mut chosen.view_mut().part(0..count)?)?;
    let (ids, positions) = words.view_mut().part(0..2 * count)?.split_at(count)?;
    let mut feedback = Feedback {
        ids,
        positions: positions.signed(),
        history: history.view_mut().part(0..HISTORY * count)?,
        step: step.view_mut(),
    };
    feed_back(device, chosen.view().part(0..count)?, &mut feedback)
}

/// The activations that steps need.
fn activation_room(room: RunnerRoom) -> Room {
    let most = largest_batch(room.batch);
    Room { rows: room.rows.max(most), decode_rows: most, logit_rows: room.logit_rows.max(most) }
}

/// The batch size that a decode step of `rows` is padded to.
fn largest_batch(rows: usize) -> usize {
    BATCHES.into_iter().find(|most| rows <= *most).unwrap_or(BATCHES[BATCHES.len() - 1])
}

/// For rows whose token is not needed.
fn greedy() -> RowSampler {
    RowSampler::new(&SamplingParams::GREEDY, 0)
}

fn require(holds: bool, reason: &'static str) -> Result<(), DeviceError> {
    if holds { Ok(()) } else { Err(DeviceError::Shape { kernel: STEP, reason }) }
}
