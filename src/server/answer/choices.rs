//! The answers to one request, as many as it asks for, side by side.
//!
//! The first is alone until its first token: by then the model has read the prompt, and the others find it in the
//! cache. Dropping this stops the model's work on all of them.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::generation::{ChoiceEvent, RunningChoice, ScoredToken, concat};
use super::parameters::Parameters;
use crate::engine::{GenerationRequest, Handle, SubmitError};
use crate::prompt::{self, Stops};
use crate::protocol::openai::FinishReason;
use crate::protocol::{ErrorCode, Namespace};
use crate::secret::Secret;
use crate::server::error::ApiError;
use crate::server::observation::Observation;
use crate::server::state::Loaded;
use crate::tokenizer::{TokenId, Tokenizer};

/// A request whose prompt and parameters have been checked. Not to be printed: token ids are text.
pub(crate) struct Prepared {
    /// Control tokens included.
    pub(crate) prompt: Vec<TokenId>,
    /// Text that each answer begins with, before anything is generated.
    pub(crate) lead: Option<Secret<String>>,
    pub(crate) parameters: Parameters,
}

/// JSON around the texts of an answer, in bytes.
const ANSWER_BYTES: usize = 512;
/// A token of code in JSON, in bytes, generously.
const TOKEN_BYTES: usize = 12;
/// One token with its log probability in JSON, in bytes.
const LOGPROB_BYTES: usize = 96;
/// The largest size that an answer is padded to, in bytes: a request for many tokens must not cost much memory.
const MAX_FILLED_BYTES: usize = 256 * 1024;

impl Prepared {
    /// The number of tokens that the size and the frames of the answer are derived from: those of all answers together, or
    /// `pad_tokens` if that is more.
    pub(crate) fn shaped_tokens(&self) -> usize {
        let tokens = self.parameters.max_new_tokens.saturating_mul(self.parameters.choices);
        tokens.max(self.parameters.pad_tokens)
    }

    /// The size that a whole answer is padded to, in bytes, derived from the request alone. A longer answer is possible, because
    /// a token may be any number of characters.
    pub(crate) fn answer_bytes(&self) -> usize {
        let logprobs = self.parameters.logprobs.map_or(0, |alternatives| LOGPROB_BYTES * (1 + alternatives));
        // Quotation marks and line ends are two bytes in JSON.
        let lead = self.lead.as_ref().map_or(0, |lead| lead.expose().len().saturating_mul(2));
        let answers = lead.saturating_mul(self.parameters.choices);
        let tokens = self.shaped_tokens().saturating_mul(TOKEN_BYTES + logprobs);
        ANSWER_BYTES.saturating_add(tokens).saturating_add(answers).min(MAX_FILLED_BYTES)
    }
}

/// A whole answer.
pub(crate) struct FinishedChoice {
    pub(crate) text: Secret<String>,
    /// Its tokens with their log probabilities, if requested.
    pub(crate) scored: Option<Vec<ScoredToken>>,
    pub(crate) finish: FinishReason,
}

/// The answers that are being generated.
pub(crate) struct Choices {
    template: Template,
    /// Those that have been submitted to the engine, in order; none in the place of one that has ended.
    answers: Vec<Option<RunningChoice>>,
    /// Which answer is polled first next time (round robin).
    turn: usize,
    /// Whether the first one has a token.
    prompt_read: bool,
}

/// What the answers are made from.
struct Template {
    engine: Handle,
    tokenizer: Arc<Tokenizer>,
    request: GenerationRequest,
    lead: Option<Secret<String>>,
    stops: Stops,
    count: usize,
    include_usage: bool,
    /// Whether the deadline is an ordinary end.
    deadline_ends: bool,
}

impl Choices {
    /// Submits `prepared` to the engine.
    ///
    /// # Errors
    /// The prompt is too long, or the queue is full.
    pub(crate) fn start(
        loaded: &Loaded,
        prepared: Prepared,
        namespace: Namespace,
        observation: &mut Observation,
    ) -> Result<Self, ApiError> {
        let Prepared { prompt, lead, parameters } = prepared;
        let Parameters {
            max_new_tokens,
            choices: count,
            logprobs,
            sampling,
            stops,
            include_usage,
            time_limit,
            pad_tokens: _,
        } = parameters;
        let deadline = observation.deadline();
        // The earlier deadline. If it is the request's own, the answer ends with the text so far.
        let own = time_limit.map(|limit| observation.after(limit)).filter(|own| *own < deadline);
        prompt::fit(prompt.len(), max_new_tokens, loaded.engine.context_length())?;
        observation.prompt(prompt.len());
        let request = GenerationRequest {
            prompt,
            max_new_tokens,
            stop_ids: prompt::stop_ids(),
            sampling,
            logprobs,
            namespace,
            deadline: own.unwrap_or(deadline).into_std(),
        };
        let template = Template {
            engine: loaded.engine.clone(),
            tokenizer: Arc::clone(&loaded.tokenizer),
            request,
            lead,
            stops,
            count,
            include_usage,
            deadline_ends: own.is_some(),
        };
        let answers = vec![Some(template.answer(0)?)];
        Ok(Self { template, answers, turn: 0, prompt_read: false })
    }

    /// What comes next of any of the answers, and of which; nothing once all have ended.
    ///
    /// # Errors
    /// The model failed, or the deadline has passed.
    pub(crate) async fn next(
        &mut self,
        observation: &mut Observation,
    ) -> Result<Option<(usize, ChoiceEvent)>, ApiError> {
        self.start_others()?;
        if self.have_ended() {
            return Ok(None);
        }
        let (index, event) = poll_fn(|context| {
            let count = self.answers.len();
            for index in (self.turn..self.turn + count).map(|turn| turn % count) {
                let Some(Some(answer)) = self.answers.get_mut(index) else { continue };
                if let Poll::Ready(event) = answer.poll_next(context, observation) {
                    self.turn = index + 1;
                    return Poll::Ready(event.map(|event| (index, event)));
                }
            }
            Poll::Pending
        })
        .await?;
        self.prompt_read |= observation.usage().completion_tokens > 0 || matches!(event, ChoiceEvent::End(_));
        Ok(Some((index, event)))
    }

    /// Takes the answer that has just ended away.
    ///
    /// Returns its tokens with their log probabilities, if requested.
    pub(crate) fn take(&mut self, index: usize) -> Option<Vec<ScoredToken>> {
        let answer = self.answers.get_mut(index).and_then(Option::take)?;
        self.template.request.logprobs.map(|_| answer.into_scored())
    }

    /// Stops the model's work on what is left: an error has ended all of it.
    pub(crate) fn stop(&mut self) {
        self.answers.clear();
    }

    /// Whether a stream says the counts.
    pub(crate) fn include_usage(&self) -> bool {
        self.template.include_usage
    }

    /// Whether nothing follows.
    pub(crate) fn have_ended(&self) -> bool {
        self.answers.len() == self.template.count && self.answers.iter().all(Option::is_none)
    }

    /// The whole answers, in order.
    ///
    /// # Errors
    /// As [`Choices::next`].
    pub(crate) async fn collect(
        mut self,
        observation: &mut Observation,
    ) -> Result<Vec<FinishedChoice>, ApiError> {
        let mut pieces: Vec<Vec<Secret<String>>> = Vec::new();
        pieces.resize_with(self.template.count, Vec::new);
        let mut choices: Vec<Option<FinishedChoice>> = Vec::new();
        choices.resize_with(self.template.count, || None);
        while let Some((index, event)) = self.next(observation).await? {
            let (Some(pieces), Some(choice)) = (pieces.get_mut(index), choices.get_mut(index)) else {
                continue;
            };
            match event {
                ChoiceEvent::Text(piece) => pieces.push(piece),
                ChoiceEvent::End(finish) => {
                    let scored = self.take(index);
                    *choice = Some(FinishedChoice { text: concat(pieces), scored, finish });
                }
            }
        }
        Ok(choices.into_iter().flatten().collect())
    }

    /// Submits the other answers once the first has a token. Those that do not fit the queue wait until one of this request
    /// has ended.
    fn start_others(&mut self) -> Result<(), ApiError> {
        while self.prompt_read && self.answers.len() < self.template.count {
            match self.template.answer(self.answers.len()) {
                Ok(answer) => self.answers.push(Some(answer)),
                Err(SubmitError::Full) if self.answers.iter().any(Option::is_some) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Template {
    /// Submits the answer number `index` to the engine.
    fn answer(&self, index: usize) -> Result<RunningChoice, SubmitError> {
        let mut request = self.request.clone();
        request.sampling.seed = request.sampling.seed.wrapping_add(index as u64);
        let lead = self.lead.as_ref().map(|lead| Secret::new(lead.expose().clone()));
        let (decoder, matcher) = (self.tokenizer.decoder(), self.stops.matcher());
        RunningChoice::start(&self.engine, request, lead, decoder, matcher, self.deadline_ends)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Full => ErrorCode::ServerBusy.into(),
            SubmitError::Empty => ErrorCode::Internal.into(),
            SubmitError::TooLong { .. } => ErrorCode::ContextLengthExceeded.into(),
            SubmitError::Stopped => ErrorCode::Draining.into(),
        }
    }
}
