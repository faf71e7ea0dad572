// Tabby's agent as a language server, with the configuration that `codeseal proxy --editor tabby` prints.
import { spawn } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import * as rpc from "vscode-jsonrpc/node";
import { described, ENDLESS, prefix, report, scenes, snippets, SUFFIX, until } from "./driver.mjs";

const agent = join(dirname(createRequire(import.meta.url).resolve("tabby-agent")), "cli.js");

/** An agent whose home has the printed configuration for `scene`. */
async function start(scene) {
  const home = mkdtempSync(join(process.env.HOME ?? tmpdir(), "tabby-"));
  mkdirSync(join(home, ".tabby-client/agent"), { recursive: true });
  copyFileSync(`${snippets}/${scene}/tabby`, join(home, ".tabby-client/agent/config.toml"));
  const child = spawn(process.execPath, [agent, "--lsp", "--stdio"], {
    env: { ...process.env, HOME: home }, stdio: ["pipe", "pipe", "inherit"],
  });
  const connection = rpc.createMessageConnection(
    new rpc.StreamMessageReader(child.stdout), new rpc.StreamMessageWriter(child.stdin));
  // The agent shows and logs things, and asks for capabilities.
  connection.onRequest(() => null);
  connection.listen();
  await connection.sendRequest("initialize", {
    processId: process.pid, rootUri: null,
    capabilities: { textDocument: { completion: {}, inlineCompletion: {} }, tabby: { agent: true } },
  });
  await connection.sendNotification("initialized", {});
  return { connection, child };
}

let opened = 0;
async function open(connection, text) {
  const uri = `file:///example/${++opened}.py`;
  await connection.sendNotification("textDocument/didOpen", {
    textDocument: { uri, languageId: "python", version: 1, text },
  });
  return uri;
}

/** Asks for a completion behind `before`, as an editor does when it is invoked by hand. */
function complete(connection, uri, before, token) {
  const lines = before.split("\n");
  const parameters = {
    textDocument: { uri }, position: { line: lines.length - 1, character: lines.at(-1).length },
    context: { triggerKind: 1 },
  };
  return connection.sendRequest("textDocument/completion", parameters, ...(token ? [token] : []));
}

for (const scene of Object.keys(scenes)) {
  // The agent asks for no streams.
  if (scene === "cut") continue;
  const { connection, child } = await start(scene);
  const before = prefix("tabby", "whole");
  let shown = "", error = null;
  try {
    const uri = await open(connection, before + SUFFIX);
    const answer = await complete(connection, uri, before);
    shown = answer?.items?.[0]?.insertText ?? answer?.items?.[0]?.textEdit?.newText ?? "";
  } catch (thrown) {
    error = described(thrown);
  }
  await report({ client: "tabby", scene, form: "whole", shown, error });
  connection.dispose();
  child.kill();
}

{
  const { connection, child } = await start("good");
  const before = ENDLESS;
  const uri = await open(connection, `${before}\n`);
  const source = new rpc.CancellationTokenSource();
  const asking = complete(connection, uri, before, source.token).then((answer) => answer?.items?.length, described);
  await until("running");
  // What an editor does at the next key.
  source.cancel();
  const left = await asking;
  await until("idle");
  await report({ client: "tabby", scene: "cancelled", form: "whole", error: left?.message ? left : { name: `${left} items` } });
  connection.dispose();
  child.kill();
}
