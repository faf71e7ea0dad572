// Continue's adapters, configured by the values of the YAML that `codeseal proxy --editor continue` prints.
import { readFileSync } from "node:fs";
import { constructLlmApi } from "@continuedev/openai-adapters";
import YAML from "yaml";
import { everyScene, report, scenes, snippets } from "./driver.mjs";

/** The printed model, as Continue hands it to its adapters, with another provider if one is named. */
function adapter(scene, provider) {
  const [model] = YAML.parse(readFileSync(`${snippets}/${scene}/continue`, "utf8")).models;
  const base = provider === "ollama" || provider === "llama.cpp" ? scenes[scene].url : model.apiBase;
  const config = { provider: provider ?? model.provider, apiKey: model.apiKey, apiBase: `${base}/` };
  return { api: constructLlmApi(config), model: model.model };
}

function body({ prefix, suffix, tokens }, model) {
  const prompt = suffix === undefined ? prefix : `<|fim_prefix|>${prefix}<|fim_suffix|>${suffix}<|fim_middle|>`;
  return { model, prompt, max_tokens: tokens, temperature: 0 };
}

const never = new AbortController().signal;

await everyScene("continue", {
  async whole(request, show) {
    const { api, model } = adapter(request.scene);
    const asked = { ...body(request, model), stream: false };
    show((await api.completionNonStream(asked, request.signal ?? never)).choices[0].text);
  },
  async stream(request, show) {
    const { api, model } = adapter(request.scene);
    const asked = { ...body(request, model), stream: true };
    for await (const chunk of api.completionStream(asked, request.signal ?? never)) {
      if (chunk.choices[0]?.text) show(chunk.choices[0].text);
    }
    request.signal?.throwIfAborted();
  },
});

for (const provider of ["vllm", "lmstudio", "llama.cpp", "ollama", "mistral", "deepseek"]) {
  const { api, model } = adapter("good", provider);
  const prefix = `# continue, ${provider}\ndef add(a, b):\n    return `;
  let shown = "", error = null;
  try {
    const asked = { model, prompt: prefix, suffix: "\n\nprint(add(1, 2))\n", max_tokens: 12, temperature: 0, stream: true };
    for await (const chunk of api.fimStream(asked, never)) {
      shown += chunk.choices[0]?.delta?.content ?? "";
    }
  } catch (thrown) {
    error = thrown.message;
  }
  await report({ client: "continue", scene: "good", form: provider, shown, error });
}
