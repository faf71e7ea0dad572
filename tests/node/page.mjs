// The status page and its playground in Chromium, as people use them: by keyboard, in light and in dark.
import { report, scenes, SUFFIX } from "./driver.mjs";
import { start } from "./chromium.mjs";

const HOSTILE = "<img src=/v1/models onerror=alert(1)>";
const CODE = "# browser, playground\ndef add(a, b):\n    return";
const pictures = process.env.CODESEAL_PICTURES;

const browser = await start();

/** A page of the proxy of `scene`, with everything that it asks for and complains of. */
async function visit(scene, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1000, height: 900 }, ...options });
  const page = await context.newPage();
  const seen = { requests: [], complaints: [], policy: null };
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("console", (message) => { if (message.type() !== "log") seen.complaints.push(message.text()); });
  page.on("pageerror", (error) => seen.complaints.push(error.message));
  page.on("dialog", (dialog) => { seen.complaints.push("a dialog"); dialog.dismiss(); });
  const answer = await page.goto(`${scenes[scene].url}/`);
  seen.policy = answer.headers()["content-security-policy"];
  await page.locator("#verdict:not(:has-text('Asking for the state'))").waitFor();
  return { page, seen, context };
}

const text = (page, selector) => page.locator(selector).first().textContent();
const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.className);

/** The contrast of each text with what is behind it, as WCAG 2 defines it; the least is the worst. */
function contrasts() {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = channels(color).slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
    && [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()));
  const ratios = texts.map((element) => {
    const [one, other] = [getComputedStyle(element).color, behind(element)].map(luminance).sort((a, b) => b - a);
    return (one + 0.05) / (other + 0.05);
  });
  return { least: Math.min(...ratios), texts: ratios.length, back: behind(document.body) };
}

for (const colorScheme of ["light", "dark"]) {
  const { page, context } = await visit("good", { colorScheme });
  await page.locator("#code").fill(CODE);
  await page.getByRole("button", { name: "Complete at the cursor" }).click();
  await page.locator("#play-state:has-text('Done')").waitFor();
  await report({ part: "colours", colorScheme, ...await page.evaluate(contrasts) });
  if (pictures) {
    await page.locator("#clients td:has-text('playground')").waitFor();
    await page.screenshot({ path: `${pictures}/status-page-${colorScheme}.png`, fullPage: true });
  }
  await page.setViewportSize({ width: 360, height: 700 });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  await report({ part: "narrow", colorScheme, wide });
  await context.close();
}

// A client whose name would be a script, if the page took it for one.
await fetch(`${scenes.good.url}/v1/completions`, {
  method: "POST", headers: { "user-agent": HOSTILE }, body: JSON.stringify({ prompt: "x", max_tokens: 1 }),
});

// Holes in a file of the repository, until another file goes with them.
for (let files = []; files.length === 0;) {
  const segments = { prefix: "import prices\n", suffix: "\n", filepath: "main.py" };
  await fetch(`${scenes.good.url}/v1/completions`, { method: "POST", body: JSON.stringify({ segments, max_tokens: 1 }) });
  ({ context: { files } } = await (await fetch(`${scenes.good.url}/status`)).json());
}

{
  const { page, seen, context } = await visit("good");
  await page.getByText("img src/v1/models").waitFor();
  // The skip link is the first stop, then the playground's.
  await page.keyboard.press("Tab");
  const stops = [await focused(page)];
  await page.keyboard.press("Enter");
  stops.push(await focused(page));
  while (stops.at(-1) !== "code" && stops.length < 30) {
    await page.keyboard.press("Tab");
    stops.push(await focused(page));
  }
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  await page.keyboard.press("Control+A");
  await page.keyboard.insertText(CODE + SUFFIX);
  for (let line = 0; line < SUFFIX.split("\n").length - 1; line++) await page.keyboard.press("ArrowUp");
  await page.keyboard.press("End");
  await page.keyboard.press("Control+Enter");
  await page.locator("#play-state:has-text('Done')").waitFor();
  const shown = { completion: await text(page, "#completion mark"), around: await text(page, "#completion"), wire: await text(page, "#wire") };
  await report({
    part: "page", seen, stops, outline, ...shown,
    verdict: await text(page, "#verdict"), title: await page.title(),
    proven: await page.locator("#proven dd").allTextContents(),
    not_proven: await page.locator("#not-proven li").allTextContents(),
    files: await page.locator("#context-files > *").allTextContents(),
    clients: await page.locator("#clients tr td:first-child").allTextContents(),
    images: await page.locator("img").count(),
    tree: await page.locator("body").ariaSnapshot(),
    cookies: await context.cookies(),
  });
  await context.close();
}

for (const scene of ["down", "not_verified", "busy"]) {
  const { page, context } = await visit(scene);
  await page.getByRole("button", { name: "Complete at the cursor" }).click();
  await page.locator("#play-state:has-text('codeseal: ')").waitFor();
  await report({
    part: "failure", scene, verdict: await text(page, "#verdict"), class: await page.locator("#verdict").getAttribute("class"),
    state: await text(page, "#play-state"), title: await page.title(), completion: await text(page, "#completion"),
  });
  await context.close();
}

await browser.close();
