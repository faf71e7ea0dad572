// Shows /status, and sends the playground's text to /playground. All that comes from outside is set as text.
"use strict";

const INTERVAL_MS = 2000;
const byId = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = String(text);
  if (className) made.className = className;
  return made;
}

function pairs(list, entries) {
  const rows = entries.flatMap(([name, value]) => [element("dt", name), element("dd", value)]);
  list.replaceChildren(...rows);
}

function time(seconds) {
  return seconds ? new Date(seconds * 1000).toLocaleString() : "never";
}

function bytes(count) {
  if (count < 10000) return count + " bytes";
  return count < 1e7 ? (count / 1e3).toFixed(0) + " kB" : (count / 1e6).toFixed(1) + " MB";
}

function headline(status) {
  const verdict = byId("verdict");
  const server = status.servers.find((one) => one.state === "verified" || one.state === "connected") || status.servers[0];
  let text = "No server";
  if (status.ready && server.state === "verified") text = "Verified: " + server.address + " is what the policy says";
  else if (status.ready) text = "Connected to " + server.address + ", which was not verified";
  else if (server) text = "Not ready: " + (server.message || server.state);
  if (verdict.textContent !== text) verdict.textContent = text;
  verdict.className = "verdict " + (status.ready && server.state === "verified" ? "good" : "bad");
  document.title = (status.ready ? "" : "! ") + "codeseal proxy";
}

function servers(status) {
  byId("servers").replaceChildren(...status.servers.map((server) => {
    const panel = element("div", undefined, "server");
    const list = element("dl");
    const identity = (server.verdict && server.verdict.server) || {};
    pairs(list, [
      ["address", server.address],
      ["state", server.message ? server.state + ": " + server.message : server.state],
      ...(server.model ? [["model", server.model]] : []),
      ...(identity.id ? [["process", identity.id], ["build", identity.build], ["weights", identity.weights]] : []),
      ...(status.policy ? [["policy", status.policy]] : []),
      ...(server.key_since ? [["key since", time(server.key_since)], ["next check", time(server.next_check)]] : []),
      ["sealed", bytes(server.sealed_bytes_sent) + " sent, " + bytes(server.sealed_bytes_received) + " received"],
    ]);
    panel.append(list);
    return panel;
  }));
}

function changes(status) {
  const notices = status.servers.flatMap((server) => server.changes.map((change) =>
    element("p", time(change.at) + ": the " + change.what + " of " + server.address + " has changed, within the policy, from " +
      change.before + " to " + change.after, "error")));
  const shown = byId("changes");
  if (shown.children.length !== notices.length) shown.replaceChildren(...notices);
}

function context(status) {
  byId("context").hidden = !status.context;
  if (!status.context) return;
  const files = status.context.files;
  byId("context-message").textContent = status.context.message || (files.length ? "Of the repository:" : "None.");
  pairs(byId("context-files"), files.map((file) => [file.path, bytes(file.bytes)]));
}

function findings(status) {
  const verdict = status.servers.map((server) => server.verdict).find(Boolean);
  pairs(byId("proven"), verdict ? Object.entries(verdict.proven) : []);
  byId("proven-none").hidden = Boolean(verdict);
  const open = verdict ? verdict.not_proven : ["anything about the server: it was not verified"];
  byId("not-proven").replaceChildren(...open.map((text) => element("li", text)));
}

function counts(status) {
  const c = status.counts;
  const hits = c.prompt_tokens ? Math.round(100 * c.cached_tokens / c.prompt_tokens) + " %" : "–";
  pairs(byId("counts"), [
    ["requests", c.requests],
    ["cancelled by the editor", c.cancelled],
    ["replaced by a newer one", c.superseded],
    ["from an earlier prediction", c.reused],
    ["failed", c.failed],
    ["prompt tokens", c.prompt_tokens + ", of which " + hits + " were in the server's cache"],
    ["generated tokens", c.generated_tokens],
    ["running since", time(status.started)],
  ]);
  const error = byId("error");
  error.hidden = !c.last_error;
  if (c.last_error) {
    error.textContent = "Last error, " + time(c.last_error.at) + ", " + c.last_error.endpoint + ": " + c.last_error.message;
  }
  if (c.clients.length) {
    byId("clients").replaceChildren(...c.clients.map((client) => {
      const row = element("tr");
      row.append(...[client.client, client.endpoint, client.outcome, client.requests, time(client.at)]
        .map((value) => element("td", value)));
      return row;
    }));
  }
}

async function refresh() {
  try {
    const answer = await fetch("/status", { cache: "no-store" });
    const status = await answer.json();
    headline(status);
    servers(status);
    changes(status);
    context(status);
    findings(status);
    counts(status);
  } catch (error) {
    byId("verdict").textContent = "The proxy does not answer";
    byId("verdict").className = "verdict bad";
  }
  setTimeout(refresh, INTERVAL_MS);
}

async function complete(event) {
  event.preventDefault();
  const code = byId("code"), button = byId("ask"), state = byId("play-state");
  const before = code.value.slice(0, code.selectionStart), after = code.value.slice(code.selectionStart);
  button.disabled = true;
  state.textContent = "Asking …";
  try {
    const answer = await fetch("/playground", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ input_prefix: before, input_suffix: after, n_predict: 48 }),
    });
    const result = await answer.json();
    if (result.error) {
      state.textContent = result.error.message;
      return;
    }
    const mark = element("mark", result.content);
    byId("completion").replaceChildren(before, mark, after);
    byId("wire").textContent = "sent\n" + result.sent + "\n\nreceived\n" + result.received;
    state.textContent = "Done: " + result.finish_reason;
  } catch (error) {
    state.textContent = "The proxy does not answer";
  } finally {
    button.disabled = false;
  }
}

byId("play").addEventListener("submit", complete);
byId("code").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) complete(event);
});
refresh();
