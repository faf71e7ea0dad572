// Chromium without a screen, which talks to this machine only.
import { chromium } from "playwright-core";

/** Starts it. `names` are host names that lead to this machine. */
export function start(names = []) {
  const rules = [...names.map((name) => `MAP ${name} 127.0.0.1`), "MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1", "EXCLUDE localhost"];
  return chromium.launch({
    executablePath: process.env.CODESEAL_EDITORS_CHROMIUM,
    // In CI it may run as root, in a container without the means for its sandbox.
    chromiumSandbox: false,
    args: [
      "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
      // Newer browsers ask people before a page may reach this machine. The proxy must not depend on that.
      "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
      "--disable-sync", `--host-resolver-rules=${rules.join(", ")}`,
    ],
  });
}
