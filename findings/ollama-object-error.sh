#!/usr/bin/env bash
# Ollama's clients lose an error message that is an object.
#
# Packages: ollama 0.6.4 (npm), ollama 0.6.3 (PyPI)
# Expected: the message "the queue is full". `{"error": {"message": …}}` is how OpenAI's API reports errors, and one server
#           often offers both interfaces.
# Seen:     the JavaScript client throws an Error with the message "[object Object]". The Python client raises a TypeError of
#           the json module, and not its ResponseError, when the object is a line of a stream. Routes below /api have to
#           send `{"error": "text"}`.
# Last run: 2026-11-28, Python 3.11, Node 20
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ollama==0.6.3 || exit 69
npm install --silent --prefix "$folder" ollama@0.6.4 || exit 69
cat >"$folder/client.mjs" <<'EOF'
import { Ollama } from "ollama";
try {
  await new Ollama({ host: process.argv[2] }).generate({ model: "m", prompt: "p" });
} catch (error) {
  console.log(error.message);
}
EOF
"$folder/venv/bin/python" - "$folder/client.mjs" <<'EOF'
import json, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import ollama


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        stream = json.loads(self.rfile.read(int(self.headers["content-length"])))["stream"]
        answer = json.dumps({"error": {"message": "the queue is full", "type": "server_error"}}).encode() + b"\n"
        # A stream has begun before its error is known.
        self.send_response(200 if stream else 503)
        self.send_header("content-type", "application/x-ndjson" if stream else "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"http://127.0.0.1:{server.server_port}"
script = subprocess.run(["node", sys.argv[1], host], capture_output=True, text=True, check=True).stdout.strip()
python = "no exception"
try:
    list(ollama.Client(host=host).generate(model="m", prompt="p", stream=True))
except Exception as error:
    python = f"{type(error).__name__}: {error}"
print("expected: an error that says: the queue is full")
print(f"seen:     npm ollama 0.6.4: {script}")
print(f"seen:     PyPI ollama 0.6.3, stream: {python}")
sys.exit(0 if script == "[object Object]" and python.startswith("TypeError") else 1)
EOF
