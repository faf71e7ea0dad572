// Drives VS Code in Chromium: opens a file, types, waits for the ghost text, and accepts it. See scripts/vscode.sh.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const { VSCODE_URL, PROXY_URL, FOLDER, CHROMIUM, PICTURE } = process.env;
const PATIENCE = 120_000;

const status = async () => (await (await fetch(`${PROXY_URL}/status`)).json()).counts;
const check = (holds, what) => { if (!holds) throw new Error(what); };

const browser = await chromium.launch({
  executablePath: CHROMIUM, chromiumSandbox: false,
  args: ["--disable-gpu", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"],
});
const page = await browser.newPage({ viewport: { width: 1000, height: 420 } });
page.setDefaultTimeout(PATIENCE);
await page.goto(`${VSCODE_URL}/?folder=${encodeURIComponent(FOLDER)}`);
await page.locator(".explorer-folders-view [role=treeitem]", { hasText: "prices.py" }).dblclick();
const lines = page.locator(".editor-instance .view-lines");
await lines.filter({ hasText: "def fib" }).waitFor();
// Completions come once the extension runs.
await page.locator(".statusbar-item", { hasText: "codeseal" }).waitFor();
await lines.click();
await page.keyboard.press("Control+End");

// Keys that follow each other fast: VS Code cancels the request of each when the next one comes.
const ghost = page.locator(".ghost-text-decoration, .ghost-text-decoration-preview, .ghost-text").first();
await page.keyboard.type("    if n <", { delay: 60 });
try {
  await ghost.waitFor({ timeout: Number(process.env.GHOST_MS ?? PATIENCE) });
} catch (error) {
  // What was there instead.
  if (PICTURE) await page.screenshot({ path: `${PICTURE}.failed.png` });
  console.error(JSON.stringify(await status(), null, 2));
  throw error;
}
const shown = (await page.locator(".ghost-text-decoration, .ghost-text-decoration-preview, .ghost-text").allTextContents()).join("\n");
if (PICTURE) await page.screenshot({ path: PICTURE });
await page.keyboard.press("Tab");
await ghost.waitFor({ state: "hidden" });
await page.keyboard.press("Control+S");
// VS Code saves by itself as well, so the file may be read without what was accepted at first.
let accepted = "";
for (const end = Date.now() + PATIENCE; accepted.trim() === "" && Date.now() < end;) {
  accepted = readFileSync(`${FOLDER}/prices.py`, "utf8").split("    if n <")[1] ?? "";
  await new Promise((resolve) => setTimeout(resolve, 100));
}
const counts = await status();
// The page has the parts of ghost text in another order than a reader sees them.
const letters = (text) => [...text.replace(/\s/g, "")].sort().join("");
console.log(JSON.stringify({ shown, accepted, counts }, null, 2));
check(letters(accepted) !== "", "nothing was accepted");
check(letters(accepted) === letters(shown), "what was accepted is not what was shown");
check(counts.failed === 0, "a request has failed");
check(counts.cancelled > 0, "no key has cancelled a request");
await browser.close();
