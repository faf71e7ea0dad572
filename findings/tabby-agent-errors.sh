#!/usr/bin/env bash
# A language server answers a failed completion as if there were nothing to complete.
#
# Package:  tabby-agent 1.5.0 (npm)
# Expected: when the server refuses a completion (here 403 with a sentence), the client is told: by an error of
#           `textDocument/completion`, or by `window/showMessage`, which the Language Server Protocol has for that.
# Seen:     an empty list, the same as for a server that has nothing to suggest, and no message. An editor's user cannot tell a broken
#           set-up from a model without ideas.
# Last run: 2026-11-29, Node 20
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
npm install --silent --no-audit --no-fund --prefix "$folder" tabby-agent@1.5.0 vscode-jsonrpc@10.0.0 || exit 69
cat >"$folder/client.mjs" <<'EOF'
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import * as rpc from "vscode-jsonrpc/node";

const SENTENCE = "this server is not allowed by your administrator";
let completes = true;
let asked = 0;
const server = createServer((request, response) => {
  request.resume().on("end", () => {
    const isCompletion = request.method === "POST" && request.url.endsWith("/completions");
    asked += isCompletion ? 1 : 0;
    const refused = isCompletion && !completes;
    const answer = refused ? { error: { message: SENTENCE } }
      : isCompletion ? { id: "c", choices: [{ index: 0, text: "a + b" }] }
      : { model: "m", device: "cpu", arch: "", cpu_info: "", cpu_count: 1, cuda_devices: [], version: { git_describe: "v1" } };
    response.writeHead(refused ? 403 : 200, { "content-type": "application/json" }).end(JSON.stringify(answer));
  });
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const home = process.env.HOME;
mkdirSync(join(home, ".tabby-client/agent"), { recursive: true });
writeFileSync(join(home, ".tabby-client/agent/config.toml"),
  `[server]\nendpoint = "http://127.0.0.1:${server.address().port}"\n[anonymousUsageTracking]\ndisable = true\n`);
const agent = join(dirname(createRequire(import.meta.url).resolve("tabby-agent")), "cli.js");
const child = spawn(process.execPath, [agent, "--lsp", "--stdio"], { stdio: ["pipe", "pipe", "ignore"] });
const connection = rpc.createMessageConnection(
  new rpc.StreamMessageReader(child.stdout), new rpc.StreamMessageWriter(child.stdin));
const told = [];
connection.onRequest((method, parameters) => { told.push({ method, parameters }); return null; });
connection.onNotification((method, parameters) => { told.push({ method, parameters }); });
connection.listen();
await connection.sendRequest("initialize", { processId: process.pid, rootUri: null, capabilities: { textDocument: { completion: {} } } });
await connection.sendNotification("initialized", {});

async function complete(uri) {
  const text = `# ${uri}\ndef add(a, b):\n    return `;
  await connection.sendNotification("textDocument/didOpen", { textDocument: { uri, languageId: "python", version: 1, text: `${text}\n` } });
  const position = { line: 2, character: 11 };
  try {
    const answer = await connection.sendRequest("textDocument/completion", { textDocument: { uri }, position, context: { triggerKind: 1 } });
    return { items: answer?.items?.length ?? 0, error: null };
  } catch (error) {
    return { items: 0, error: error.message };
  }
}

const works = await complete("file:///example/a.py");
completes = false;
const before = asked;
const refused = await complete("file:///example/b.py");
const messages = told.filter(({ method, parameters }) => method.startsWith("window/") && JSON.stringify(parameters).includes("403")
  || JSON.stringify(parameters ?? null).includes(SENTENCE));
console.log("tabby-agent 1.5.0");
console.log("expected: an error of textDocument/completion, or a message to the user, for a completion that was refused with 403");
console.log(`seen:     ${refused.items} items, error ${refused.error}, messages ${JSON.stringify(messages)} (${works.items} items before that)`);
child.kill();
server.close();
const holds = works.items > 0 && asked > before && refused.items === 0 && refused.error === null && messages.length === 0;
process.exit(holds ? 0 : 1);
EOF
HOME=$folder node "$folder/client.mjs"
