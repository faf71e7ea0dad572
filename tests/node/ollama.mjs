// Ollama's library for JavaScript.
import { Ollama } from "ollama";
import { everyScene } from "./driver.mjs";

function client({ url, key, signal }) {
  const host = new Ollama({ host: url, headers: { authorization: `Bearer ${key}` } });
  signal?.addEventListener("abort", () => host.abort());
  return host;
}

const body = ({ prefix, suffix, tokens }) => ({
  model: "any", prompt: prefix, suffix, options: { num_predict: tokens, temperature: 0 },
});

/** The library can abort streams only; a whole request ends with its connection. */
function abortable(signal) {
  return (input, options) => fetch(input, { ...options, signal });
}

await everyScene("ollama-js", {
  async whole(request, show) {
    const { url, key, signal } = request;
    const host = new Ollama({ host: url, headers: { authorization: `Bearer ${key}` }, fetch: abortable(signal) });
    show((await host.generate(body(request))).response);
  },
  async stream(request, show) {
    for await (const part of await client(request).generate({ ...body(request), stream: true })) {
      if (part.response) show(part.response);
    }
  },
});
