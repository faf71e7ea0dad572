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

/** What a page can do. Each returns what the page has learnt; a refusal throws. Runs in the browser. */
const attacks = {
  "read models": (base) => fetch(`${base}/v1/models`).then((answer) => answer.text()),
  "read status": (base) => fetch(`${base}/status`).then((answer) => answer.text()),
  "post without asking": (base, prompt) => fetch(`${base}/v1/completions`, { method: "POST", mode: "no-cors", body: prompt })
    .then((answer) => answer.text()),
  "post a simple type": (base, prompt) => fetch(`${base}/infill`, {
    method: "POST", body: prompt, headers: { "content-type": "text/plain" },
  }).then((answer) => answer.text()),
  "post json": (base, prompt) => fetch(`${base}/v1/completions`, {
    method: "POST", body: prompt, headers: { "content-type": "application/json" },
  }).then((answer) => answer.text()),
  "post to the playground": (base, prompt) => fetch(`${base}/playground`, { method: "POST", mode: "no-cors", body: prompt })
    .then((answer) => answer.text()),
  "post with credentials": (base, prompt) => fetch(`${base}/api/generate`, {
    method: "POST", mode: "no-cors", credentials: "include", body: prompt,
  }).then((answer) => answer.text()),
  beacon: (base, prompt) => { navigator.sendBeacon(`${base}/v1/completions`, prompt); return ""; },
  "stream of events": (base) => new Promise((resolve, reject) => {
    const events = new EventSource(`${base}/v1/completions`);
    events.onmessage = (event) => resolve(event.data);
    events.onerror = () => { events.close(); reject(new Error("refused")); };
  }),
  websocket: (base) => new Promise((resolve, reject) => {
    const socket = new WebSocket(`${base.replace("http", "ws")}/v1/completions`);
    socket.onopen = () => resolve("open");
    socket.onerror = () => reject(new Error("refused"));
  }),
  worker: (base) => new Promise((resolve, reject) => {
    const code = `importScripts("${base}/page.js"); postMessage("loaded")`;
    const worker = new Worker(URL.createObjectURL(new Blob([code])));
    worker.onmessage = (event) => resolve(event.data);
    worker.onerror = () => reject(new Error("refused"));
  }),
  image: (base) => element("img", "src", `${base}/v1/models`),
  script: (base) => element("script", "src", `${base}/page.js`),
  "style sheet": (base) => element("link", "href", `${base}/page.css`, { rel: "stylesheet" }),
  video: (base) => element("video", "src", `${base}/status`),
  "object": (base) => element("object", "data", `${base}/status`),
  "prefetch": (base) => element("link", "href", `${base}/status`, { rel: "prefetch" }),
  frame: (base) => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.onload = () => {
      // A frame that was refused shows the browser's own page, which is of another origin as well.
      try { resolve(frame.contentDocument ? frame.contentDocument.body.innerText : ""); } catch { resolve(""); }
    };
    frame.src = `${base}/`;
    document.body.append(frame);
  }),
  form: (base, prompt) => new Promise((resolve) => {
    document.body.innerHTML = `<iframe name=into></iframe><form method=post enctype=text/plain target=into action="${base}/infill">
      <textarea name=x></textarea></form>`;
    document.querySelector("textarea").name = prompt;
    document.querySelector("iframe").onload = () => resolve("");
    document.forms[0].submit();
  }),
};

function helpers() {
  window.element = (name, attribute, url, more = {}) => new Promise((resolve, reject) => {
    const made = Object.assign(document.createElement(name), more);
    made.onload = made.onloadeddata = () => resolve("loaded");
    made.onerror = () => reject(new Error("refused"));
    made[attribute] = url;
    document.body.append(made);
  });
}

const browser = await start(["evil.example", "rebind.example"]);

/** Runs all attacks from a page at `origin` on `base`, each in a tab of its own. */
async function attack(from, origin, base) {
  for (const [name, run] of Object.entries(attacks)) {
    const context = await browser.newContext();
    const page = await context.newPage();
    const statuses = [];
    page.on("response", (answer) => { if (new URL(answer.url()).port === port) statuses.push(answer.status()); });
    // The page as the attacker's own server has answered before the name led here.
    await page.route("**/attack.html", (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html><body></body>" }));
    await page.goto(`${origin}/attack.html`);
    await page.evaluate(helpers);
    const learnt = await page.evaluate(`(${run})(${JSON.stringify(base)}, ${JSON.stringify(PROMPT)})`)
      .catch((error) => `refused: ${error.message.split("\n")[0]}`);
    await page.unrouteAll();
    statuses.shift();
    await report({ part: "attack", from, name, learnt, statuses });
    await context.close();
  }
}

await attack("another origin", `http://evil.example:${own}`, target);
await attack("another port of this machine", `http://127.0.0.1:${own}`, target);
await attack("localhost to 127.0.0.1", `http://evil.example:${own}`, target.replace("127.0.0.1", "localhost"));
await attack("a name that was rebound", `http://rebind.example:${port}`, `http://rebind.example:${port}`);

// A page that is opened by a link of a foreign one, and one whose name leads here.
for (const [name, address] of [["a link", target], ["a rebound name", `http://rebind.example:${port}`]]) {
  const page = await (await browser.newContext()).newPage();
  await page.goto(`http://evil.example:${own}/`);
  const [answer] = await Promise.all([
    page.waitForNavigation(), page.evaluate((url) => { location.href = url; }, `${address}/`),
  ]);
  await report({ part: "navigation", name, status: answer.status() });
}

await browser.close();
server.close();
