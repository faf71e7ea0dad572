//! A completion: read, cut to its window, sealed, and answered in the shape it was asked in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Value, json};

use super::pump::{Keep, Pump};
use super::speculate::Next;
use super::texts::{ChoiceState, Texts};
use super::{Call, Core, json as json_response};
use crate::client::{ClientError, Events, LineEnds, NotAuthentic, Recorder, Restorer, StreamReply};
use crate::protocol::openai::FinishReason;
use crate::proxy::answer::{Heading, Pieces, loaded};
use crate::proxy::dialect::{self, ContextFile, EditorRequest, Endpoint, Hole, Task};
use crate::proxy::error::Failure;
use crate::proxy::gathered;
use crate::proxy::keystrokes::{ClientId, Fingerprint, Guard, Trimmer, Windows};
use crate::proxy::ledger::{Outcome, Ticket, client_id};
use crate::proxy::link::{Upstream, Warm, now};
use crate::proxy::server_api::{Answer, Choice, Counts, Features, Request};
use crate::secret::Secret;

/// The new tokens of a request that names no maximum.
const USUAL_TOKENS: usize = crate::protocol::DEFAULT_NEW_TOKENS;
/// A request that fails within this time, because its connection had died, is sent once more.
const STALE: Duration = Duration::from_secs(1);

/// A request for a completion, until its answer begins.
struct PendingCompletion<'a> {
    core: &'a Arc<Core>,
    endpoint: Endpoint,
    parsed: EditorRequest,
    call: &'a Call,
    started: Instant,
    /// How the lines end in the file that the answer goes into.
    ends: LineEnds,
    /// The text before the cursor, all of it.
    before: Secret<String>,
    fingerprint: Option<Fingerprint>,
    guard: Option<Guard>,
    /// Whether files of the repository were added, which is done once.
    with_files: bool,
}

/// The answer to a request, or its beginning.
enum Reply {
    /// A whole answer.
    Whole { answer: Answer, served: String, outcome: Outcome },
    /// The deadline passed.
    Late,
    /// A stream, whose text is still being generated.
    Stream { events: Box<Events>, request: Request, server: Arc<Upstream>, warm: Arc<Warm> },
}

/// Answers a request to `endpoint`.
pub(super) async fn answer(
    core: &Arc<Core>,
    endpoint: Endpoint,
    body: &Secret<Vec<u8>>,
    call: &Call,
    ticket: Ticket,
) -> Result<Response, Failure> {
    let started = Instant::now();
    let _request = core.speculation.interrupt();
    let mut parsed = match dialect::read(endpoint, body.expose()) {
        Ok(parsed) => parsed,
        Err(bad) => {
            let failure = Failure::BadBody(bad);
            ticket.fail(&failure);
            return Err(failure);
        }
    };
    if matches!(parsed.task, Task::Nothing) {
        ticket.end(Outcome::Answered, Counts::default());
        return Ok(nothing(endpoint, &parsed));
    }
    let ends = parsed.unify_line_ends();
    if let Some(cover) = &core.cover {
        cover.shape(&mut parsed.options);
    }
    let mut pending = PendingCompletion {
        core,
        endpoint,
        parsed,
        call,
        started,
        ends,
        before: Secret::default(),
        fingerprint: None,
        guard: None,
        with_files: false,
    };
    pending.track_hole();
    match pending.run().await {
        Ok(Reply::Whole { mut answer, served, outcome }) => {
            for choice in &mut answer.choices {
                choice.text = Restorer::new(pending.ends).restore(choice.text.expose());
            }
            ticket.end(outcome, answer.counts.unwrap_or_default());
            Ok(pending.whole(&served, &answer))
        }
        Ok(Reply::Stream { events, request, server, warm }) => {
            pending.stream(events, &request, server, warm, ticket).await
        }
        Ok(Reply::Late) => {
            ticket.fail(&Failure::Deadline);
            Err(Failure::Deadline)
        }
        Err(failure) => {
            ticket.fail(&failure);
            Err(failure)
        }
    }
}

impl PendingCompletion<'_> {
    /// Derives the hole's fingerprint, and ends an older request for the same hole.
    fn track_hole(&mut self) {
        let Task::Hole(hole) = &self.parsed.task else { return };
        self.before = Secret::new([hole.prefix.expose().as_str(), hole.middle.expose()].concat());
        self.fingerprint = Fingerprint::of(hole, &self.parsed.options);
        if self.parsed.options.n.unwrap_or(1) == 1 {
            let client = client_id(&self.call.headers);
            self.guard = Some(self.core.running.begin(client, self.before.expose(), hole.suffix.expose()));
        }
    }

    /// Requests the answer from one server after the other until one answers.
    async fn run(&mut self) -> Result<Reply, Failure> {
        let mut again = true;
        let mut others = self.core.fleet.servers().len();
        loop {
            let (server, warm) = self.core.fleet.pick()?;
            if let Some(reply) = self.without_server(&warm) {
                return Ok(reply);
            }
            self.arrange(warm.features);
            match self.ask_server(&server, &warm).await {
                Err(ClientError::Unreachable(_)) if again && self.started.elapsed() < STALE => again = false,
                Err(error) => {
                    server.report(&warm, &error);
                    let failure = Failure::of(&error);
                    // Nothing was shown yet, so another server may answer; `pick` fails when none is ready.
                    let is_cut = matches!(error, ClientError::NotAuthentic(NotAuthentic::Cut));
                    others = others.saturating_sub(1);
                    if others == 0 || !(is_cut || matches!(failure, Failure::NotConnected(_))) {
                        return Err(failure);
                    }
                }
                Ok(Reply::Late) => return Err(Failure::Deadline),
                Ok(reply) => return Ok(reply),
            }
        }
    }

    /// An answer without a server: the rest of a prediction; or an empty one for `max_tokens: 0`, which servers of the first
    /// version do not take.
    fn without_server(&self, warm: &Warm) -> Option<Reply> {
        let options = &self.parsed.options;
        let local = |text, finish, outcome| Reply::Whole {
            answer: local_answer(text, finish),
            served: warm.model.clone(),
            outcome,
        };
        if options.max_tokens == Some(0) && !warm.features.holes {
            return Some(local(Secret::default(), FinishReason::Length, Outcome::Answered));
        }
        let fingerprint = self.fingerprint?;
        let (text, finish) = warm.predictions.find(fingerprint, self.before.expose())?;
        Some(local(text, finish, Outcome::Reused))
    }

    /// Cuts the hole to its window, as the server can take it.
    fn arrange(&mut self, features: Features) {
        let Task::Hole(hole) = &mut self.parsed.task else { return };
        self.core.windows.arrange(client_id(&self.call.headers), self.core.layout_for(features), hole);
        if let Some(repository) = self.core.repository.as_ref().filter(|_| features.holes && !self.with_files)
        {
            repository.add(hole, self.before.expose());
            self.with_files = true;
        }
    }

    async fn ask_server(&self, server: &Arc<Upstream>, warm: &Arc<Warm>) -> Result<Reply, ClientError> {
        let parsed = &self.parsed;
        let bound = parsed.options.max_tokens.unwrap_or(USUAL_TOKENS);
        let stream = parsed.reply.stream && bound > self.core.whole_below;
        // Log probabilities come with whole answers only, and a server of the first version tells counts only with them.
        let gather = !stream && parsed.options.logprobs.is_none() && warm.features.holes;
        let request =
            Request::new(&parsed.task, &parsed.options, parsed.reply.echo, stream || gather, warm.features)?;
        let asking = async {
            if let Some(guard) = &self.guard {
                guard.settled().await;
            }
            if self.core.cover.is_none() {
                // A cancelled request closes its connection, so the next key needs another one that is open.
                let preparing = Arc::clone(server);
                tokio::spawn(async move { preparing.link.prepare_connection().await });
            }
            let opened = if stream {
                self.open(server, warm, &request).await?
            } else if gather {
                let opened = self.open(server, warm, &request).await?;
                StreamReply::Whole(gathered::body(opened, parsed.options.choices()).await?)
            } else {
                if let Some(cover) = &self.core.cover {
                    cover.turn().await;
                }
                StreamReply::Whole(server.link.call(&warm.held, request.path, &request.body, None).await?)
            };
            Ok::<_, ClientError>(opened)
        };
        let served = || warm.model.clone();
        let opened = tokio::select! {
            () = superseded(self.guard.as_ref()) => {
                let answer = local_answer(Secret::default(), FinishReason::Stop);
                return Ok(Reply::Whole { answer, served: served(), outcome: Outcome::Superseded });
            }
            opened = tokio::time::timeout(self.limit(), asking) => opened,
        };
        match opened {
            Err(_) => Ok(Reply::Late),
            Ok(Err(error)) => Err(error),
            Ok(Ok(StreamReply::Stream(events))) => {
                Ok(Reply::Stream { events, request, server: Arc::clone(server), warm: Arc::clone(warm) })
            }
            Ok(Ok(StreamReply::Whole(body))) => {
                let mut answer = Answer::whole(body.expose(), &request)?;
                if let (Some(mut trimmer), [choice]) = (self.trimmer(), answer.choices.as_mut_slice()) {
                    let mut text = trimmer.push(choice.text.expose());
                    text.append(trimmer.finish().expose());
                    choice.text = text;
                }
                self.keep(warm, &answer);
                self.request_next(server, warm, &answer);
                Ok(Reply::Whole { answer, served: served(), outcome: Outcome::Answered })
            }
        }
    }

    /// Begins a stream. With cover traffic it leaves on the next beat, and is never cancelled.
    async fn open(
        &self,
        server: &Arc<Upstream>,
        warm: &Arc<Warm>,
        request: &Request,
    ) -> Result<StreamReply, ClientError> {
        match &self.core.cover {
            Some(cover) => cover.stream(server, warm, request).await,
            None => server.link.stream(&warm.held, request.path, &request.body).await,
        }
    }

    /// Removes the beginning of the suffix from the end of an answer. None for clients that write the markers themselves, and for
    /// llama.cpp's raw endpoint: these get what the model writes.
    fn trimmer(&self) -> Option<Trimmer> {
        let Task::Hole(hole) = &self.parsed.task else { return None };
        let options = &self.parsed.options;
        let is_raw = self.endpoint == Endpoint::LlamaCompletion || !hole.markers.is_empty();
        if is_raw || options.n.unwrap_or(1) > 1 || options.logprobs.is_some() {
            return None;
        }
        let single_line = options.stop.iter().any(|stop| stop.expose() == "\n");
        Some(Trimmer::new(self.before.expose(), hole.suffix.expose(), single_line))
    }

    /// After an accepted completion, requests the next one ahead.
    fn request_next(&self, server: &Arc<Upstream>, warm: &Arc<Warm>, answer: &Answer) {
        let (Task::Hole(hole), Some(fingerprint), [choice]) =
            (&self.parsed.task, self.fingerprint, answer.choices.as_slice())
        else {
            return;
        };
        let deadline = self.parsed.options.deadline_ms.is_some();
        if deadline || !warm.predictions.was_accepted(fingerprint, self.before.expose()) {
            return;
        }
        let text = choice.text.expose();
        let prefix = [hole.prefix.expose().as_str(), hole.middle.expose(), text].concat();
        let mut next = Hole::new(Secret::new(prefix), Secret::new(hole.suffix.expose().clone()));
        let layout = self.core.layout_for(warm.features);
        self.core.windows.arrange(client_id(&self.call.headers), layout, &mut next);
        next.context = hole.context.iter().map(ContextFile::copy).collect();
        let request = Request::new(&Task::Hole(next), &self.parsed.options, false, true, warm.features);
        if let Ok(request) = request {
            let before = Secret::new([self.before.expose().as_str(), text].concat());
            let next =
                Next { server: Arc::clone(server), warm: Arc::clone(warm), request, fingerprint, before };
            self.core.speculation.start(next, &self.core.ledger, self.core.timeout);
        }
    }

    /// How much longer the request may take.
    fn limit(&self) -> Duration {
        self.core.timeout.saturating_sub(self.started.elapsed())
    }

    /// Keeps the answer as a prediction for the next keys.
    fn keep(&self, warm: &Warm, answer: &Answer) {
        if let (Some(fingerprint), [choice]) = (self.fingerprint, answer.choices.as_slice()) {
            let finish = choice.finish.unwrap_or(FinishReason::Stop);
            // What a deadline has cut short may be longer the next time.
            if finish == FinishReason::Length && self.parsed.options.deadline_ms.is_some() {
                return;
            }
            warm.predictions.keep(fingerprint, self.before.expose(), choice.text.expose(), finish);
        }
    }

    /// A whole answer, as a stream if the client asked for one.
    fn whole(&self, served: &str, answer: &Answer) -> Response {
        let heading = Heading::new(self.endpoint, &self.parsed.reply, served, answer);
        let (counts, took) = (answer.counts.unwrap_or_default(), self.started.elapsed());
        if !self.parsed.reply.stream {
            return json_response(&heading.whole(&answer.choices, counts, took));
        }
        let mut pieces = Pieces::new(heading);
        let mut body = Vec::new();
        let mut last = FinishReason::Stop;
        for choice in &answer.choices {
            if !choice.text.expose().is_empty() {
                body.extend_from_slice(&pieces.text(choice.index, choice.text.expose()));
            }
            last = choice.finish.unwrap_or(last);
            body.extend(pieces.end(choice.index, last).into_iter().flatten());
        }
        body.extend_from_slice(&pieces.close(last, counts, took));
        streamed(self.endpoint, Body::from(body))
    }

    /// A stream whose text is still being generated.
    async fn stream(
        self,
        events: Box<Events>,
        request: &Request,
        server: Arc<Upstream>,
        warm: Arc<Warm>,
        ticket: Ticket,
    ) -> Result<Response, Failure> {
        let form = &self.parsed.reply;
        let answer = local_answer(Secret::default(), FinishReason::Stop);
        let heading = Heading::new(self.endpoint, form, &warm.model, &answer);
        let choices = 0..self.parsed.options.choices();
        let choices = choices.map(|_| ChoiceState::new(request, self.trimmer(), self.ends)).collect();
        let keep = self
            .fingerprint
            .filter(|_| self.parsed.options.deadline_ms.is_none())
            .map(|fingerprint| Keep { fingerprint, before: self.before });
        let pump = Pump {
            events,
            texts: Texts::new(Pieces::new(heading), choices),
            keep,
            guard: self.guard,
            server,
            warm,
            started: self.started,
            timeout: self.core.timeout,
            page: self.call.page.clone(),
        };
        let body = pump.start(ticket, self.call.activity.begin()).await?;
        Ok(streamed(self.endpoint, body))
    }
}

/// A completion for the status page, with what went over the wire for it. It is like any other request, but never
/// reused or superseded.
pub(super) async fn playground(
    core: &Arc<Core>,
    body: &Secret<Vec<u8>>,
    ticket: Ticket,
) -> Result<Response, Failure> {
    match play(core, body).await {
        Ok((answer, counts)) => {
            ticket.end(Outcome::Answered, counts);
            Ok(json_response(&answer))
        }
        Err(failure) => {
            ticket.fail(&failure);
            Err(failure)
        }
    }
}

async fn play(core: &Arc<Core>, body: &Secret<Vec<u8>>) -> Result<(Value, Counts), Failure> {
    let mut parsed = dialect::read(Endpoint::Infill, body.expose()).map_err(Failure::BadBody)?;
    let (server, warm) = core.fleet.pick()?;
    if let Task::Hole(hole) = &mut parsed.task {
        Windows::default().arrange(ClientId(0), core.layout_for(warm.features), hole);
    }
    let recorder = Recorder::default();
    let asked = async {
        let request = Request::new(&parsed.task, &parsed.options, false, false, warm.features)?;
        let body = server.link.call(&warm.held, request.path, &request.body, Some(&recorder)).await?;
        Answer::whole(body.expose(), &request)
    };
    let answer = match tokio::time::timeout(core.timeout, asked).await {
        Err(_) => return Err(Failure::Deadline),
        Ok(Err(error)) => {
            server.report(&warm, &error);
            return Err(Failure::of(&error));
        }
        Ok(Ok(answer)) => answer,
    };
    let wire = recorder.recorded();
    let choice = answer.choices.first();
    let counts = answer.counts.unwrap_or_default();
    let shown = json!({
        "content": choice.map_or("", |choice| choice.text.expose()),
        "finish_reason": choice.and_then(|choice| choice.finish),
        "sent": String::from_utf8_lossy(&wire.sent),
        "received": String::from_utf8_lossy(&wire.received),
    });
    Ok((shown, counts))
}

/// The answer to a call that asks for nothing but a loaded model.
fn nothing(endpoint: Endpoint, parsed: &EditorRequest) -> Response {
    let model = parsed.reply.model.as_deref().unwrap_or("codegemma");
    let answer = loaded(endpoint, model, now());
    if parsed.reply.stream {
        return streamed(endpoint, Body::from(format!("{answer}\n")));
    }
    json_response(&answer)
}

/// An answer that was made here.
fn local_answer(text: Secret<String>, finish: FinishReason) -> Answer {
    let mut random = [0; 8];
    // An id need not be hard to guess, only new.
    getrandom::fill(&mut random).ok();
    let choice = Choice { index: 0, text, finish: Some(finish), logprobs: None };
    Answer {
        id: format!("cmpl-{:016x}", u64::from_le_bytes(random)),
        model: String::new(),
        created: now(),
        choices: vec![choice],
        counts: None,
    }
}

fn streamed(endpoint: Endpoint, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(endpoint.stream_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Waits for a newer request, if there can be one.
async fn superseded(guard: Option<&Guard>) {
    match guard {
        Some(guard) => guard.superseded().await,
        None => std::future::pending().await,
    }
}
