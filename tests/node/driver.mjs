// What all drivers share: the scenes, the reports, and the way through both.

const conductor = process.env.CODESEAL_CONDUCTOR;
/** A prompt whose completion has no end: what a client cancels is still being made. */
export const ENDLESS = process.env.CODESEAL_ENDLESS;

/** `{ good: { url, key }, token: …, down: …, not_verified: …, busy: …, cut: … }` */
export const scenes = JSON.parse(process.env.CODESEAL_SCENES);
export const snippets = process.env.CODESEAL_SNIPPETS;
export const SUFFIX = "\n\nprint(add(1, 2))\n";
export const TOKENS = 12;
const MANY_TOKENS = 4000;

/** Each client and form has a prompt of its own, so that no answer is one that the proxy has predicted before. */
export function prefix(client, form) {
  return `# ${client}, ${form}\ndef add(a, b):\n    return `;
}

export async function report(fields) {
  const answer = await fetch(`${conductor}/report`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(fields),
  });
  if (!answer.ok) throw new Error(`the test does not take a report: ${answer.status}`);
}

/** Returns when the server works on a request ("running"), or on none ("idle"). */
export async function until(load) {
  const answer = await fetch(`${conductor}/wait/${load}`);
  if (!answer.ok) throw new Error(`not in time: ${load}`);
}

export function described(error) {
  const { status, status_code, code, message, cause } = error;
  return {
    name: error.constructor.name, status: status ?? status_code, code,
    message: [message, cause?.message].filter(Boolean).join(": "),
  };
}

/**
 * Takes a client through all scenes. `forms` maps "whole" and "stream" to functions that send
 * `{ scene, url, key, prefix, suffix, tokens, signal }` and call `show` with each piece of text that they get.
 */
export async function everyScene(client, forms) {
  for (const [scene, { url, key }] of Object.entries(scenes)) {
    for (const [form, ask] of Object.entries(forms)) {
      // Only streams are cut.
      if (scene === "cut" && form !== "stream") continue;
      let shown = "";
      let error = null;
      try {
        const request = { scene, url, key, prefix: prefix(client, form), suffix: SUFFIX, tokens: TOKENS };
        await ask(request, (text) => { shown += text; });
      } catch (thrown) {
        error = described(thrown);
      }
      await report({ client, scene, form, shown, error });
    }
  }
  for (const [form, ask] of Object.entries(forms)) await cancelled(client, form, ask);
}

async function cancelled(client, form, ask) {
  const controller = new AbortController();
  const { url, key } = scenes.good;
  const request = { scene: "good", url, key, prefix: ENDLESS, tokens: MANY_TOKENS, signal: controller.signal };
  let seen;
  const first = new Promise((resolve) => { seen = resolve; });
  const asking = ask(request, seen).then(() => null, described);
  if (form === "stream") await first;
  await until("running");
  controller.abort();
  const error = await asking;
  await until("idle");
  await report({ client, scene: "cancelled", form, error });
}
