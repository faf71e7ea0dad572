//! Takes steps on a device: owns the weights, the pages, and all that lies in memory between two steps.
//!
//! Where all rows follow what was generated, a step is launches that are always the same: they are recorded once for
//! each size of batch and replayed. What such a step chooses is the next one's input, on the device. So as long as a
//! batch goes on as it is, nothing is copied to the device, and the next step is launched before the tokens of this one
//! are read. A step that was launched ahead and is not wanted did no harm: it wrote behind the end of texts, where
//! whatever is read later is written before.
//!
//! Must not touch: files, who owns which page.

use super::attention::Texts;
use super::input::{Layout, Text, Words};
use super::kv::PAGE_TOKENS;
use super::launch::{DeviceError, require};
use super::memory::{Buffer, Device, View};
use super::narrow::Narrow;
use super::network::{Activations, Input, Network, Room};
use super::sample::{Chooser, Feedback, choose, feed_back};
use crate::sampling::{Choice, SamplingParams};

/// What errors name.
const STEP: &str = "step";
/// For how many rows steps are recorded; others are filled up with rows that are not in use.
const BATCHES: [usize; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64];
/// Steps whose tokens stay on the device until they are read.
const HISTORY: usize = 4;
/// After how many steps without a change the next is launched ahead: who has just come, or guesses, changes a batch.
const STEADY: u32 = 2;

/// For how much there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerRoom {
    /// Pages for keys and values.
    pub pages: usize,
    /// Pages of the longest text.
    pub table_width: usize,
    /// Rows of a step.
    pub rows: usize,
    /// Texts of a step, and rows after which a token is chosen.
    pub scored: usize,
    /// Rows of a step that reads no prompt, if it is to be recorded.
    pub batch: usize,
}

/// A model on a device, with memory for its steps.
pub struct Runner<D: Device, T> {
    // Recordings name what follows, so they go first, and the device goes last.
    recordings: Vec<Option<D::Recording>>,
    network: Network<D, T>,
    state: State<D, T>,
    room: RunnerRoom,
    /// Whether steps are recorded: not any more once the device could not.
    records: bool,
    /// What the device has for its next step, if it is a batch's.
    next: Option<Next<D>>,
    /// How many steps went on from the one before.
    steady: u32,
    /// How many steps of batches were launched.
    launched: usize,
    chosen: Vec<u32>,
    logits: Vec<f32>,
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

/// The input of a batch's next step, which is on the device already.
struct Next<D: Device> {
    words: Words,
    /// The step, if it was launched.
    flight: Option<Flight<D>>,
}

/// A step that was launched.
struct Flight<D: Device> {
    number: usize,
    mark: D::Mark,
}

/// What came of a step. Not to be printed: token ids are text.
#[derive(Clone, Copy)]
pub struct Outcome<'a> {
    /// For each wanted row the token that was chosen; [`super::NO_TOKEN`] if its logits were not all finite.
    pub chosen: &'a [u32],
    /// The logits of the wanted rows for which nothing was to be chosen.
    pub logits: &'a [f32],
}

impl<D: Device, T: Narrow> Runner<D, T> {
    /// `network` on `device`, with as much memory as `room` says. Pages hold zeros.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(device: D, network: Network<D, T>, room: RunnerRoom) -> Result<Self, DeviceError> {
        let batches = BATCHES.into_iter().filter(|rows| *rows <= largest_batch(room.batch));
        let most = batches.clone().next_back().unwrap_or(1);
        let rows = room.rows.max(most);
        let scored = room.scored.max(most);
        let activations = Activations::new(&device, &network, Room { rows, decoded: most, scored })?;
        let mixed = Layout {
            rows,
            scored: Some(scored),
            prompts: scored,
            slots: scored,
            table_width: room.table_width,
        };
        let words = mixed.words().max(Layout::batch(most, room.table_width).words());
        let numbers = room.pages.checked_mul(network.layout.page_numbers());
        let mut state = State {
            pool: Buffer::new(&device, numbers.ok_or(DeviceError::OutOfMemory(usize::MAX))?)?,
            rows: activations,
            words: Buffer::new(&device, words)?,
            history: Buffer::new(&device, HISTORY * most)?,
            step: Buffer::copied(&device, &[0])?,
            chosen: Buffer::new(&device, scored)?,
            partial: Buffer::new(&device, Chooser::partial_numbers(scored))?,
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

    /// Records the steps of all sizes of batches, so that no request waits for that.
    ///
    /// # Errors
    /// A launch failed.
    pub fn record(&mut self) -> Result<(), DeviceError> {
        for (batch, rows) in BATCHES.into_iter().enumerate().take(self.recordings.len()) {
            self.put(&Words::unused(Layout::batch(rows, self.room.table_width)))?;
            self.launch(batch)?;
        }
        self.next = None;
        Ok(())
    }

    /// Whether steps of batches are replayed. They are launched one by one where the device cannot record.
    pub fn is_recorded(&self) -> bool {
        self.records && self.recordings.iter().all(Option::is_some)
    }

    /// How many launches a step of a batch of so many rows is; none if it is not recorded.
    pub fn launches_per_step(&self, rows: usize) -> Option<usize> {
        let batch = BATCHES.iter().position(|most| rows <= *most)?;
        self.recordings.get(batch)?.as_ref().map(D::recorded)
    }

    /// Reads what `texts` add, and chooses after each wanted row by its choice: slice by slice, row by row. Where that
    /// is none, the logits are returned instead.
    ///
    /// # Errors
    /// The sizes do not fit, or the device failed.
    pub fn step(
        &mut self,
        texts: &[Text<'_>],
        choices: &[Option<Choice>],
    ) -> Result<Outcome<'_>, DeviceError> {
        let rows: usize = texts.iter().map(|text| text.ids.len()).sum();
        let wanted: usize = texts.iter().map(|text| text.wanted).sum();
        let fits = |text: &Text<'_>| {
            let end = text.position + text.ids.len();
            text.wanted.max(text.generated) <= text.ids.len()
                && end <= (text.pages.len().min(self.room.table_width)) * PAGE_TOKENS
        };
        require(rows <= self.room.rows && wanted <= self.room.scored, STEP, "there are too many rows")?;
        require(texts.len() <= self.room.scored, STEP, "there are too many texts")?;
        require(choices.len() == wanted, STEP, "there is not a choice for every wanted row")?;
        require(texts.iter().all(fits), STEP, "a text does not fit its pages")?;
        let follows = |text: &Text<'_>| text.generated == text.ids.len() && text.wanted == text.ids.len();
        let batch = BATCHES.iter().take(self.recordings.len()).position(|most| rows <= *most);
        match batch {
            Some(batch) if rows > 0 && texts.iter().all(follows) => self.go_on(batch, texts, choices)?,
            _ => self.read(texts, choices)?,
        }
        Ok(Outcome { chosen: &self.chosen, logits: &self.logits })
    }

    /// Overwrites a page with zeros.
    ///
    /// # Errors
    /// There is no such page, or the device failed.
    pub fn clear(&mut self, page: usize) -> Result<(), DeviceError> {
        let numbers = self.network.layout.page_numbers();
        self.state.pool.zero(&self.device, page * numbers..(page + 1) * numbers)
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.room.pages
    }

    /// A step of a batch.
    fn go_on(
        &mut self,
        batch: usize,
        texts: &[Text<'_>],
        choices: &[Option<Choice>],
    ) -> Result<(), DeviceError> {
        let greedy = Choice::new(&SamplingParams::GREEDY, 0);
        let chooses: Vec<Choice> = choices.iter().map(|choice| choice.unwrap_or(greedy)).collect();
        let layout = Layout::batch(BATCHES[batch], self.room.table_width);
        let words = Words::batch(layout, texts, &chooses);
        let flight = match self.next.take() {
            Some(Next { words: expected, flight }) if expected == words => {
                self.steady = self.steady.saturating_add(1);
                match flight {
                    Some(flight) => flight,
                    None => self.launch(batch)?,
                }
            }
            _ => {
                self.steady = 0;
                self.put(&words)?;
                self.launch(batch)?
            }
        };
        let has_room =
            |text: &Text<'_>| text.ids.len() == 1 && text.position + 1 < text.pages.len() * PAGE_TOKENS;
        let goes_on =
            self.steady >= STEADY && choices.iter().all(Option::is_some) && texts.iter().all(has_room);
        let ahead = if goes_on { Some(self.launch(batch)?) } else { None };

        let first = flight.number % HISTORY * layout.rows;
        let history = first..first + layout.rows;
        let all = self.state.history.read_part_at(&self.device, &flight.mark, history)?;
        self.chosen = all.get(..choices.len()).unwrap_or_default().to_vec();
        let logits = choices.iter().enumerate().filter(|(_, choice)| choice.is_none());
        self.read_logits(logits.map(|(row, _)| row).collect())?;
        let mut next = words;
        next.advance(&all);
        self.next = Some(Next { words: next, flight: ahead });
        Ok(())
    }

    /// A step that reads prompts too.
    fn read(&mut self, texts: &[Text<'_>], choices: &[Option<Choice>]) -> Result<(), DeviceError> {
        (self.next, self.steady) = (None, 0);
        let read = |text: &Text<'_>| text.ids.len() - text.generated;
        let rows = texts.iter().map(|text| text.ids.len()).sum();
        let layout = Layout {
            rows,
            scored: Some(choices.len()),
            prompts: texts.iter().filter(|text| read(text) > 0).count(),
            slots: texts.len(),
            table_width: self.room.table_width,
        };
        let prompt_rows: usize = texts.iter().map(read).sum();
        let mut words = Words::unused(layout);
        let (mut starts, mut scored) = (vec![0], Vec::new());
        let (mut prompt_row, mut generated_row, mut longest) = (0, prompt_rows, 0);
        for (slot, text) in texts.iter().enumerate() {
            words.set_table(slot, text.pages);
            for (number, id) in text.ids.iter().enumerate() {
                let next = if number < read(text) { &mut prompt_row } else { &mut generated_row };
                if number + text.wanted >= text.ids.len() {
                    scored.push((*next, text.position + number));
                }
                words.set_row(*next, *id, text.position + number, slot);
                *next += 1;
            }
            if read(text) > 0 {
                starts.push(prompt_row as u32);
                longest = longest.max(read(text));
            }
        }
        for (number, ((row, position), choice)) in scored.iter().zip(choices).enumerate() {
            words.words[layout.scored_positions().start + number] = *position as u32;
            words.words[layout.scored_rows().start + number] = *row as u32;
            words.set_choice(number, &choice.unwrap_or(Choice::new(&SamplingParams::GREEDY, 0)));
        }
        if layout.prompts > 0 {
            words.words[layout.starts()].copy_from_slice(&starts);
        }
        self.state.words.write(&self.device, 0, &words.words)?;

        let Self { device, network, state, .. } = self;
        let State { pool, rows, words, chosen, partial, .. } = state;
        let view = words.view();
        let texts = match layout.prompts {
            0 => None,
            _ => Some(Texts { starts: view.part(layout.starts())?.signed(), longest }),
        };
        let (ids, places) = (view.part(layout.ids())?, layout.places(words)?);
        let wanted = view.part(layout.scored_rows())?.signed();
        let input = Input { ids, places, texts, read: prompt_rows, scored: Some(wanted) };
        network.forward(device, &input, pool, rows)?;
        if scored.is_empty() {
            self.chosen.clear();
            self.logits.clear();
            return Ok(());
        }
        let logits = rows.logits().view().part(0..scored.len() * network.embedding.rows())?;
        let mut chooser = Chooser { choices: view.part(layout.choices())?, partial: partial.view_mut() };
        let positions = view.part(layout.scored_positions())?.signed();
        choose(device, logits, positions, &mut chooser, &mut chosen.view_mut().part(0..scored.len())?)?;
        self.chosen = state.chosen.read_part(device, 0..scored.len())?;
        let logits = choices.iter().enumerate().filter(|(_, choice)| choice.is_none());
        self.read_logits(logits.map(|(number, _)| number).collect())
    }

    /// Reads the logits of these rows, when all that was launched has run.
    fn read_logits(&mut self, rows: Vec<usize>) -> Result<(), DeviceError> {
        let vocabulary = self.network.embedding.rows();
        self.logits.clear();
        for run in rows.chunk_by(|a, b| a + 1 == *b) {
            let Some(&first) = run.first() else { continue };
            let part = first * vocabulary..(first + run.len()) * vocabulary;
            self.logits.extend(self.state.rows.logits().read_part(&self.device, part)?);
        }
        Ok(())
    }

    /// Copies a batch's input to the device.
    fn put(&mut self, words: &Words) -> Result<(), DeviceError> {
        self.state.words.write(&self.device, 0, &words.words)
    }

    /// Launches a step of the batch whose input is on the device.
    fn launch(&mut self, batch: usize) -> Result<Flight<D>, DeviceError> {
        let Self { recordings, network, state, device, .. } = self;
        let layout = Layout::batch(BATCHES[batch], self.room.table_width);
        match recordings.get(batch) {
            Some(Some(recording)) => {
                // SAFETY: what it names are the buffers of `state` and `network`, which are never replaced, and all
                // else that writes them is launched by this thread in its turn.
                unsafe { device.replay(recording) }?;
            }
            _ => {
                // Once as it is, so that the driver has loaded every kernel when it records.
                launches(device, network, state, layout)?;
                if self.records {
                    match device.record(&mut || launches(device, network, state, layout)) {
                        Ok(recording) => recordings[batch] = Some(recording),
                        Err(_) => self.records = false,
                    }
                }
            }
        }
        let number = self.launched;
        self.launched += 1;
        Ok(Flight { number, mark: self.device.mark()? })
    }
}

/// A whole step of a batch, which writes its own next input. The launches are the same each time.
fn launches<D: Device, T: Narrow>(
    device: &D,
    network: &Network<D, T>,
    state: &mut State<D, T>,
    layout: Layout,
) -> Result<(), DeviceError> {
    let State { pool, rows, words, history, step, chosen, partial } = state;
    let count = layout.rows;
    let (ids, places) = (words.view().part(layout.ids())?, layout.places(words)?);
    let input = Input { ids, places, texts: None, read: 0, scored: None };
    network.forward(device, &input, pool, rows)?;
    let choices = words.view().part(layout.choices())?;
    let positions = words.view().part(layout.positions()).map(View::signed)?;
    let logits = rows.logits().view().part(0..count * network.embedding.rows())?;
    let mut chooser = Chooser { choices, partial: partial.view_mut() };
    choose(device, logits, positions, &mut chooser, &mut chosen.view_mut().part(0..count)?)?;
    let (ids, positions) = words.view_mut().part(0..2 * count)?.split_at(count)?;
    let mut feedback = Feedback {
        ids,
        positions: positions.signed(),
        history: history.view_mut().part(0..HISTORY * count)?,
        step: step.view_mut(),
    };
    feed_back(device, chosen.view().part(0..count)?, &mut feedback)
}

/// The size of batch that so many rows need.
pub(super) fn largest_batch(rows: usize) -> usize {
    BATCHES.into_iter().find(|most| rows <= *most).unwrap_or(BATCHES[BATCHES.len() - 1])
}
