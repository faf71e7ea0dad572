#!/usr/bin/env bash
# A streamed completion that breaks off is returned as if it were whole.
#
# Package:  openai 3.57.0 (Python)
# Expected: an exception. A stream of the completions API ends with a choice whose finish_reason is set, and then
#           `data: [DONE]`; without both, the text is not all of the answer.
# Seen:     the iterator ends without an exception, and finish_reason stays None. This happens whenever a server or a proxy
#           in between closes an HTTP response in the regular way. Callers have to check finish_reason themselves.
# Last run: 2026-11-28, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openai==3.57.0 || exit 69
"$folder/venv/bin/python" - <<'EOF'
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import openai


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        events = b""
        for text in "def add(a, b):\n", "    return a":
            chunk = {"id": "c", "object": "text_completion", "created": 1, "model": "m",
                     "choices": [{"index": 0, "text": text, "finish_reason": None, "logprobs": None}]}
            events += b"data: " + json.dumps(chunk).encode() + b"\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        # A complete response, as far as HTTP can tell.
        self.send_header("content-length", str(len(events)))
        self.end_headers()
        self.wfile.write(events)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")
text, reasons, error = "", set(), None
try:
    for chunk in client.completions.create(model="m", prompt="p", stream=True):
        text += chunk.choices[0].text
        reasons.add(chunk.choices[0].finish_reason)
except openai.OpenAIError as failure:
    error = failure
print(f"openai {openai.__version__}")
print("expected: an exception, because the stream has neither a finish_reason nor [DONE]")
print(f"seen:     error {error!r}, text {text!r}, finish_reason {reasons}")
sys.exit(0 if error is None and text.endswith("return a") and reasons == {None} else 1)
EOF
