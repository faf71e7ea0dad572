#!/usr/bin/env bash
# A request to fill a hole reaches Ollama's API as a request to continue the text before it.
#
# Package:  litellm 1.110.2 (PyPI)
# Expected: text_completion(prompt=…, suffix=…) sends both: Ollama's /api/generate has a member `suffix`, and the same call with
#           the model prefix `openai/` sends OpenAI's.
# Seen:     with the prefix `ollama/` the suffix becomes a member of `options`, where Ollama's API has none of that name: the
#           model sees only what is before the cursor, and no error says so.
# Last run: 2026-11-29, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet litellm==1.110.2 || exit 69
LITELLM_LOCAL_MODEL_COST_MAP=True "$folder/venv/bin/python" - <<'EOF'
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import litellm

requests = {}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        requests[self.path] = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/api/generate":
            answer = {"model": "m", "response": "x", "done": True}
        else:
            choice = {"index": 0, "text": "x", "finish_reason": "stop"}
            answer = {"id": "i", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
        answer = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"http://127.0.0.1:{server.server_port}"
for model, base in (("openai/m", f"{host}/v1"), ("ollama/m", host)):
    litellm.text_completion(model=model, prompt="def add(", suffix="return a + b", api_base=base, api_key="k")
openai, ollama = requests["/v1/completions"], requests["/api/generate"]
print('expected: "suffix" beside "prompt" in both requests')
print(f"seen:     openai/: {openai}")
print(f"seen:     ollama/: {ollama}")
lost = "suffix" not in ollama and ollama.get("options", {}).get("suffix") == "return a + b"
sys.exit(0 if openai.get("suffix") == "return a + b" and lost else 1)
EOF
