// OpenAI's library for JavaScript, with all its defaults.
import OpenAI from "openai";
import { everyScene, report, scenes } from "./driver.mjs";

const sdk = ({ url, key }) => new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
const body = ({ prefix, suffix, tokens }) => ({ model: "any", prompt: prefix, suffix, max_tokens: tokens, temperature: 0 });

await everyScene("openai-js", {
  async whole(request, show) {
    const answer = await sdk(request).completions.create(body(request), { signal: request.signal });
    show(answer.choices[0].text);
  },
  async stream(request, show) {
    const asked = { ...body(request), stream: true, stream_options: { include_usage: true } };
    let usage;
    for await (const chunk of await sdk(request).completions.create(asked, { signal: request.signal })) {
      usage = chunk.usage ?? usage;
      if (chunk.choices[0]?.text) show(chunk.choices[0].text);
    }
    // The library ends the loop in silence when it is aborted.
    request.signal?.throwIfAborted();
    if (!usage) throw new Error("the stream has no usage");
  },
});

const models = [];
for await (const model of sdk(scenes.good).models.list()) models.push(model.id);
await report({ client: "openai-js", scene: "models", form: "list", shown: models.join(), error: null });
