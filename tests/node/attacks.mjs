// Foreign web pages in Chromium that try to use the proxy, or to read from it.
import { createServer } from "node:http";
import { report, scenes } from "./driver.mjs";
import { start } from "./chromium.mjs";

const target = scenes.good.url;
const port = new URL(target).port;
const PROMPT = JSON.stringify({ prompt: "x", max_tokens: 1 });

const server = createServer((_, answer) => {
  answer.setHeader("content-type", "text/html");
  answer.end("<!doctype html><title>foreign</title><body></body>");
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const own = server.address().port;

/** What a page can do: each returns what the page has learnt, and a refusal throws. They run in the browser. */
const attacks = {
  "read models": (at) => text(fetch(at("/v1/models"))),
  "read status": (at) => text(fetch(at("/status"))),
  "post without asking": (at, body) => text(fetch(at("/v1/completions"), { method: "POST", mode: "no-cors", body })),
  "post a simple type": (at, body) => text(fetch(at("/infill"), {
    method: "POST", body, headers: { "content-type": "text/plain" },
  })),
  "post json": (at, body) => text(fetch(at("/v1/completions"), {
    method: "POST", body, headers: { "content-type": "application/json" },
  })),
  "post to the playground": (at, body) => text(fetch(at("/playground"), { method: "POST", mode: "no-cors", body })),
  "post with credentials": (at, body) => text(fetch(at("/api/generate"), {
    method: "POST", mode: "no-cors", credentials: "include", body,
  })),
  beacon: (at, body) => { navigator.sendBeacon(at("/v1/completions"), body); return ""; },
  "stream of events": (at) => new Promise((resolve, reject) => {
    const events = new EventSource(at("/v1/completions"));
    events.onmessage = (event) => resolve(event.data);
    events.onerror = () => { events.close(); reject(new Error("refused")); };
  }),
  websocket: (at) => new Promise((resolve, reject) => {
    const socket = new WebSocket(at("/v1/completions").replace("http", "ws"));
    socket.onopen = () => resolve("open");
    socket.onerror = () => reject(new Error("refused"));
  }),
  worker: (at) => new Promise((resolve, reject) => {
    const code = `importScripts("${at("/page.js")}"); postMessage("loaded")`;
    const worker = new Worker(URL.createObjectURL(new Blob([code])));
    worker.onmessage = (event) => resolve(event.data);
    worker.onerror = () => reject(new Error("refused"));
  }),
  image: (at) => element("img", "src", at("/v1/models")),
  script: (at) => element("script", "src", at("/page.js")),
  "style sheet": (at) => element("link", "href", at("/page.css"), { rel: "stylesheet" }),
  video: (at) => element("video", "src", at("/status")),
  object: (at) => element("object", "data", at("/status")),
  frame: (at) => framed((frame) => { frame.src = at("/"); }),
  form: (at, body) => framed(() => {
    const form = Object.assign(document.createElement("form"), {
      method: "post", enctype: "text/plain", target: "into", action: at("/infill"),
    });
    form.append(Object.assign(document.createElement("textarea"), { name: body }));
    document.body.append(form);
    form.submit();
  }),
};

/** Defines in the page what the attacks use. */
function helpers() {
  window.text = (answer) => answer.then((answer) => answer.text());
  window.element = (name, attribute, url, more = {}) => new Promise((resolve, reject) => {
    const made = Object.assign(document.createElement(name), more);
    made.onload = made.onloadeddata = () => resolve("loaded");
    made.onerror = () => reject(new Error("refused"));
    made[attribute] = url;
    document.body.append(made);
  });
  window.framed = (use) => new Promise((resolve) => {
    const frame = Object.assign(document.createElement("iframe"), { name: "into" });
    document.querySelectorAll("iframe").forEach((old) => old.remove());
    document.body.append(frame);
    frame.onload = () => {
      // What was refused is shown as a page of an origin of its own.
      try { resolve(frame.contentDocument?.body.innerText ?? ""); } catch { resolve(""); }
    };
    use(frame);
  });
}

const browser = await start(["evil.example", "rebind.example"]);

/** Runs all attacks from a page at `origin` on `base`. `rebound`: the page is as it was before its name led here. */
async function attack(from, origin, base, rebound = false) {
  const page = await (await browser.newContext()).newPage();
  // What came back, also where the browser keeps it from the page.
  const statuses = {}, names = {};
  const network = await page.context().newCDPSession(page);
  network.on("Network.requestWillBeSent", ({ requestId, request }) => {
    names[requestId] = new URL(request.url).searchParams.get("attack");
  });
  network.on("Network.responseReceivedExtraInfo", ({ requestId, statusCode }) => {
    (statuses[requestId] ??= []).push(statusCode);
  });
  await network.send("Network.enable");
  if (rebound) {
    const body = "<!doctype html><body></body>";
    await page.route("**/attack.html", (route) => route.fulfill({ contentType: "text/html", body }));
  }
  await page.goto(`${origin}/attack.html`);
  await page.evaluate(helpers);
  const learnt = {};
  for (const [name, run] of Object.entries(attacks)) {
    const at = `(path) => ${JSON.stringify(base)} + path + "?attack=" + encodeURIComponent(${JSON.stringify(name)})`;
    learnt[name] = await page.evaluate(`(${run})(${at}, ${JSON.stringify(PROMPT)})`)
      .catch((error) => `refused: ${error.message.split("\n")[0]}`);
  }
  await page.close();
  for (const name of Object.keys(attacks)) {
    const seen = Object.keys(names).filter((id) => names[id] === name).flatMap((id) => statuses[id] ?? []);
    await report({ part: "attack", from, name, learnt: learnt[name], statuses: seen });
  }
}

await attack("another origin", `http://evil.example:${own}`, target);
await attack("another port of this machine", `http://127.0.0.1:${own}`, target);
await attack("localhost to 127.0.0.1", `http://evil.example:${own}`, target.replace("127.0.0.1", "localhost"));
await attack("a name that was rebound", `http://rebind.example:${port}`, `http://rebind.example:${port}`, true);

// A page that is opened by a link of a foreign one, and one whose name leads here.
for (const [name, address] of [["a link", target], ["a rebound name", `http://rebind.example:${port}`]]) {
  const page = await (await browser.newContext()).newPage();
  await page.goto(`http://evil.example:${own}/`);
  const [answer] = await Promise.all([
    page.waitForResponse(`${address}/`), page.evaluate((url) => { location.href = url; }, `${address}/`),
  ]);
  await report({ part: "navigation", name, status: answer.status() });
}

await browser.close();
server.close();
