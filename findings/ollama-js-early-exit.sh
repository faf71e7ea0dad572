#!/usr/bin/env bash
# Leaving the loop over a streamed completion does not end the request.
#
# Package:  ollama 0.6.4 (npm)
# Expected: `break` in `for await (const part of stream)` closes the connection, as it does with openai 7.59.0 (npm) and with web
#           streams, so that the server stops to generate.
# Seen:     the connection stays open and the server generates to the end: an editor that drops a completion because the
#           user typed on keeps the model busy with it. `stream.abort()` before `break` ends it.
# Last run: 2026-11-29, Node 20
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
npm install --silent --prefix "$folder" ollama@0.6.4 openai@7.59.0 || exit 69
cat >"$folder/client.mjs" <<'EOF'
import { createServer } from "node:http";
import { Ollama } from "ollama";
import OpenAI from "openai";

const parts = 40;
// How a client left: after this many parts, or not at all.
const left = {};
const server = createServer((request, response) => {
  const generate = request.url === "/api/generate";
  const name = request.headers["x-case"] ?? "openai, break";
  const line = generate
    ? `${JSON.stringify({ model: "m", response: "a", done: false })}\n`
    : `data: ${JSON.stringify({ id: "i", object: "text_completion", created: 1, model: "m", choices: [{ index: 0, text: "a" }] })}\n\n`;
  response.writeHead(200, { "content-type": generate ? "application/x-ndjson" : "text/event-stream" });
  let sent = 0;
  const timer = setInterval(() => {
    if (sent++ < parts) return void response.write(line);
    clearInterval(timer);
    response.end();
  }, 25);
  response.on("close", () => {
    clearInterval(timer);
    left[name] = response.writableFinished ? "served to the end" : "closed early";
  });
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const host = `http://127.0.0.1:${server.address().port}`;

const openai = new OpenAI({ baseURL: `${host}/v1`, apiKey: "k" });
for await (const _ of await openai.completions.create({ model: "m", prompt: "p", stream: true })) break;
for (const name of ["ollama, break", "ollama, abort and break"]) {
  const ollama = new Ollama({ host, headers: { "x-case": name } });
  const stream = await ollama.generate({ model: "m", prompt: "p", stream: true });
  try {
    for await (const _ of stream) {
      if (name.includes("abort")) stream.abort();
      break;
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}
while (Object.keys(left).length < 3) await new Promise((later) => setTimeout(later, 50));
console.log("expected: all closed early");
for (const [name, how] of Object.entries(left)) console.log(`seen:     ${name}: ${how}`);
const as = left["openai, break"] === "closed early" && left["ollama, abort and break"] === "closed early";
process.exit(as && left["ollama, break"] === "served to the end" ? 0 : 1);
EOF
node "$folder/client.mjs"
