//! What is shown, step by step.

use std::io::Write;

use serde_json::Value;

use super::operator::{Operator, metrics};
use super::paper::Paper;
use super::scene::{Scene, refusal};
use super::{DemoConfig, DemoError};
use crate::client::{Client, CompletionOptions, Prompt, TextCompletion};
use crate::protocol::openai::FinishReason;
use crate::protocol::{ErrorCode, SealedRequest};
use crate::sandbox::{Exchange, Verdict, claims};
use crate::secret::Secret;
use crate::server::Service;

/// A prompt that a company would not want its operator to read.
const PROMPT: &str = "\
# Primus, confidential: project Larkspur, the price for Northwind
def northwind_price(volume, discount):
    floor_price = 41.75
";
/// What stands before the cursor of the infill.
const PREFIX: &str = "\
def northwind_price(volume, discount):
    floor_price = 41.75
    list_price = 77.50
    ";
/// What stands after it.
const SUFFIX: &str = "\n    return max(floor_price, price) * volume\n";
/// Words of the texts that the operator must not see.
const TELLTALES: [&str; 4] = ["Northwind", "northwind", "Larkspur", "floor_price"];

const WRONG_DIGEST: &str = "sha256:0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad";

/// The metrics that are shown.
const METRICS: [&str; 4] = [
    "codeseal_requests_total",
    "codeseal_prompt_tokens_total",
    "codeseal_generation_tokens_total",
    "codeseal_key_seconds_count",
];

/// The demo on its stage.
pub(super) struct Demo<'a> {
    paper: Paper<'a>,
    operator: Operator,
    scene: Scene,
    service: Service,
    employee: Client,
}

impl<'a> Demo<'a> {
    /// Starts everything that the first four steps need.
    pub(super) async fn start(config: &DemoConfig, out: &'a mut dyn Write) -> Result<Self, DemoError> {
        let mut paper = Paper::new(out, config.colour);
        paper.title("codeseal demo: a prompt that only the attested workload can read")?;
        paper.say(
            "All of this is on 127.0.0.1: a local Confidential Space (launcher, token exchange, key service), \
             codeseal-server inside it, and an employee's client. The model is a small one of CodeGemma's \
             architecture that is part of this program: it knows a few idioms, and takes the real one's way.",
        )?;
        let operator = Operator::start()?;
        let scene = Scene::start(&config.scratch).await?;
        let service = scene.serve(scene.sandbox.launcher()).await?;
        let employee = scene.employee(&service).await?;
        Ok(Self { paper, operator, scene, service, employee })
    }

    /// Shows all steps.
    pub(super) async fn play(mut self) -> Result<(), DemoError> {
        self.what_the_employee_types()?;
        let prompt = Prompt { prefix: PROMPT.to_owned().into(), suffix: None };
        let completion = self.complete(&prompt).await?;
        self.what_the_operator_sees().await?;
        self.why_the_key_was_released()?;
        self.what_the_employee_gets(&completion).await?;
        self.service.shutdown().await;
        // Its last lines are no part of what follows.
        self.operator.take_log();
        let other = claims::with_image_digest(claims::shielded_preview(), WRONG_DIGEST);
        let other = self.scene.launch(other).await?;
        let service = self.scene.serve(&other).await?;
        let stage = Refused { paper: self.paper, operator: self.operator, scene: &self.scene };
        let shown = stage.play(&service, &prompt).await;
        service.shutdown().await;
        other.shutdown().await;
        self.scene.end().await;
        shown
    }

    fn what_the_employee_types(&mut self) -> Result<(), DemoError> {
        self.paper.step(1, "What the employee types")?;
        self.paper.quote(PROMPT)?;
        self.paper.say(
            "Their client made a key for this session (a DEK), had it wrapped by the company's KMS key, sealed the \
             prompt under it, and sent both.",
        )?;
        Ok(())
    }

    async fn complete(&mut self, prompt: &Prompt) -> Result<TextCompletion, DemoError> {
        let options = CompletionOptions { max_tokens: Some(64), ..CompletionOptions::default() };
        let operator = &mut self.operator;
        Ok(self.employee.complete(prompt, &options, &mut |event| operator.note(event)).await?)
    }

    async fn what_the_operator_sees(&mut self) -> Result<(), DemoError> {
        self.paper.step(2, "What the operator sees: the wire, the log, the metrics")?;
        let (Some(sent), Some(received)) = (self.operator.sent.last(), self.operator.received.last()) else {
            return Err(DemoError::Unexpected("nothing went over the wire"));
        };
        self.paper.say(&format!("POST /v1/completions, {} bytes:", sent.len()))?;
        let request: SealedRequest = serde_json::from_str(sent)
            .map_err(|_| DemoError::Unexpected("the request is not of the protocol"))?;
        self.paper.field("wrapped_dek", &request.wrapped_dek)?;
        self.paper.field("ciphertext", &request.ciphertext)?;
        self.paper.say(&format!("The answer, {} bytes:", received.len()))?;
        let answer: Value = serde_json::from_str(received).unwrap_or_default();
        self.paper
            .field("ciphertext", answer.get("ciphertext").and_then(Value::as_str).unwrap_or(received))?;
        let log = self.operator.take_log();
        self.paper.say("The server's log, all of it:")?;
        self.paper.quote(log.trim_end())?;
        let metrics = metrics(self.service.admin_address()).await?;
        self.paper.say("Its metrics, among others:")?;
        let worth = metrics.lines().filter(|line| METRICS.iter().any(|name| line.starts_with(name)));
        self.paper.quote(&worth.collect::<Vec<_>>().join("\n"))?;
        let seen = [sent, received, &log, &metrics];
        if seen.iter().any(|text| tells(text)) || !log.contains("request_finished") {
            return Err(DemoError::Unexpected(
                "the operator could read of the prompt, or not of the request",
            ));
        }
        self.paper.holds(
            "No word of the prompt is in any of it. What is left to see: when, how long, how many tokens, and \
             sizes, which are padded.",
        )?;
        Ok(())
    }

    fn why_the_key_was_released(&mut self) -> Result<(), DemoError> {
        self.paper.step(3, "Why the key was released: what the workload's attestation says")?;
        let exchange = last_exchange(&self.scene)?;
        self.paper.say("The company's condition on who may use its key:")?;
        self.paper.quote(&self.scene.condition)?;
        self.paper.say("What the workload's attestation token says, signed by the attestation service:")?;
        for claim in &exchange.claims {
            self.paper.field(claim_name(&claim.path), &shown(claim.value.as_ref()))?;
        }
        let counts = self.scene.sandbox.ledger().counts();
        let one_key = counts.encrypts().granted == 1 && counts.decrypts().granted == 1;
        if exchange.verdict != Verdict::Granted || exchange.claims.is_empty() || !one_key {
            return Err(DemoError::Unexpected("the key was not released as it should be"));
        }
        self.paper.holds(
            "All clauses are true: the token exchange let the workload act as the company's service account, \
             and KMS unwrapped the session's key for it, once.",
        )?;
        Ok(())
    }

    async fn what_the_employee_gets(&mut self, completion: &TextCompletion) -> Result<(), DemoError> {
        self.paper.step(4, "What the employee gets")?;
        self.paper.say(&format!("A completion, {}:", ending(completion)))?;
        self.paper.quote(&format!("{PROMPT}{}", completion.text.expose()))?;
        let prompt =
            Prompt { prefix: PREFIX.to_owned().into(), suffix: Some(Secret::new(SUFFIX.to_owned())) };
        let infill = self.complete(&prompt).await?;
        self.paper.say(&format!("And an infill at the cursor, {}, between ⟦ and ⟧:", ending(&infill)))?;
        self.paper.quote(format!("{PREFIX}⟦{}⟧{SUFFIX}", infill.text.expose()).trim_end())?;
        let counts = self.scene.sandbox.ledger().counts();
        if counts.decrypts().granted != 1 {
            return Err(DemoError::Unexpected("a session's key was unwrapped more than once"));
        }
        self.paper.holds(
            "Both were sealed under the session's key for this very request: a forged, foreign or shortened \
             answer would have been refused.",
        )?;
        Ok(())
    }
}

/// The last step: the same server, in an image that the company did not approve.
struct Refused<'a, 's> {
    paper: Paper<'a>,
    operator: Operator,
    scene: &'s Scene,
}

impl Refused<'_, '_> {
    async fn play(mut self, service: &Service, prompt: &Prompt) -> Result<(), DemoError> {
        self.paper.step(5, "A workload with the wrong image is refused the key")?;
        self.paper.say("The operator starts another image in the same kind of VM. Its token says:")?;
        let employee = self.scene.employee(service).await?.without_retries();
        let released = self.scene.sandbox.ledger().counts().decrypts().granted;
        let operator = &mut self.operator;
        let options = CompletionOptions::default();
        let outcome = employee.complete(prompt, &options, &mut |event| operator.note(event)).await;
        let refusal = refusal(outcome)?;
        let exchange = last_exchange(self.scene)?;
        let Verdict::ConditionNotMet(unmet) = &exchange.verdict else {
            return Err(DemoError::Unexpected("the wrong image was refused for another reason"));
        };
        let digest = exchange.claims.iter().find(|claim| claim.path.ends_with("image_digest"));
        self.paper.field("image_digest", &shown(digest.and_then(|claim| claim.value.as_ref())))?;
        self.paper
            .refused("The token exchange refuses it, because this clause of the condition is false:")?;
        self.paper.quote(unmet.clause.as_deref().unwrap_or("(the condition is not a conjunction)"))?;
        self.paper.refused(&format!("The employee is told: {refusal}"))?;
        self.paper.say("The operator has the sealed request, and in the server's log:")?;
        let log = self.operator.take_log();
        self.paper.quote(log.trim_end())?;
        let seen = self.operator.sent.iter().chain(&self.operator.received).chain([&log]);
        let as_it_should_be = refusal.status == ErrorCode::KeyServiceUnavailable.status()
            && refusal.code.as_deref() == Some(ErrorCode::KeyServiceUnavailable.as_str())
            && unmet.clause.as_ref().is_some_and(|clause| clause.contains("image_digest"))
            && self.scene.sandbox.ledger().counts().decrypts().granted == released;
        if !as_it_should_be || seen.into_iter().any(|text| tells(text)) {
            return Err(DemoError::Unexpected("the wrong image was not refused as it should be"));
        }
        self.paper.holds("The key was not released, and nothing of the prompt was learned.")?;
        Ok(())
    }
}

fn last_exchange(scene: &Scene) -> Result<Exchange, DemoError> {
    scene.sandbox.ledger().last_exchange().ok_or(DemoError::Unexpected("no token was exchanged"))
}

/// Whether `text` gives anything of the employee's texts away.
fn tells(text: &str) -> bool {
    TELLTALES.iter().any(|part| text.contains(part))
}

/// The last component of a claim's path.
fn claim_name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// A claim's value without JSON's quotes and brackets.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => String::from("(not in the token)"),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(values)) => {
            values.iter().map(|value| shown(Some(value))).collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

fn ending(answer: &TextCompletion) -> String {
    let tokens = answer.usage.map_or(0, |usage| usage.completion_tokens);
    match answer.finish {
        FinishReason::Length => format!("{tokens} tokens as asked for"),
        FinishReason::Stop => format!("{tokens} tokens up to the model's own end"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_telltales_are_in_the_texts() {
        assert!(tells(PROMPT) && tells(PREFIX));
        assert!(TELLTALES.iter().all(|part| PROMPT.contains(part) || PREFIX.contains(part)));
    }

    #[test]
    fn claims_are_shown_without_their_json() {
        assert_eq!(shown(Some(&json!(["a", "b"]))), "a, b");
        assert_eq!(shown(Some(&json!(true))), "true");
        assert_eq!(shown(None), "(not in the token)");
        assert_eq!(claim_name("submods.container.image_digest"), "image_digest");
    }
}
