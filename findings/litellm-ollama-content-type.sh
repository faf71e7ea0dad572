#!/usr/bin/env bash
# A JSON body is sent without Content-Type.
#
# Package:  litellm 1.110.2
# Expected: `Content-Type: application/json` on POST /api/generate, as other providers of litellm and Ollama's own clients
#           send it. Frameworks answer 415 to a JSON body without it (axum's Json, for example).
# Seen:     no Content-Type header at all, for models "ollama/…" of the text completion function. Ollama itself does not
#           look at it.
# Last run: 2026-11-28, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet litellm==1.110.2 || exit 69
# Otherwise the package asks for a price list on the network first.
LITELLM_LOCAL_MODEL_COST_MAP=True "$folder/venv/bin/python" - <<'EOF'
import importlib.metadata, json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import litellm

seen = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/api/generate":
            seen.append((self.headers.get("content-type"), json.loads(body)))
        answer = json.dumps({"model": "m", "created_at": "2026-01-01T00:00:00Z", "response": "x", "done": True,
                             "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 1}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
litellm.text_completion(model="ollama/m", prompt="hi", api_base=f"http://127.0.0.1:{server.server_port}")
(content_type, body), = seen
print(f"litellm {importlib.metadata.version('litellm')}")
print("expected: content-type application/json on POST /api/generate")
print(f"seen:     content-type {content_type} with the JSON body {body}")
sys.exit(0 if content_type is None else 1)
EOF
