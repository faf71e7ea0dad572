#!/usr/bin/env bash
# `--key` is ignored for a model of an OpenAI-compatible server.
#
# Package:  llm 0.36 (Python)
# Expected: `llm --key KEY -m MODEL` sends `Authorization: Bearer KEY`. Its help says "API key to use", and nothing is said when it is
#           not used.
# Seen:     for a model of extra-openai-models.yaml that has an `api_base` and no `api_key_name`, "Bearer DUMMY_KEY" is sent. The key
#           that was given on the command line is dropped without a word, as is OPENAI_API_KEY. With `api_key_name: NAME`, whatever
#           the name, the flag works.
# Last run: 2026-11-29, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet llm==0.36 || exit 69
LLM_USER_PATH="$folder/llm" "$folder/venv/bin/python" - "$folder/venv/bin/llm" <<'EOF'
import json, os, pathlib, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

seen = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        seen.append(self.headers.get("authorization"))
        answer = json.dumps({"id": "c", "object": "text_completion", "created": 1, "model": "m",
                             "choices": [{"index": 0, "text": "x", "finish_reason": "stop", "logprobs": None}],
                             "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}/v1"
settings = pathlib.Path(os.environ["LLM_USER_PATH"])
settings.mkdir()
model = "- model_id: {0}\n  model_name: m\n  api_base: {1}\n  completion: true\n"
(settings / "extra-openai-models.yaml").write_text(
    model.format("plain", base) + model.format("named", base) + "  api_key_name: any\n")
environment = {**os.environ, "OPENAI_API_KEY": "key-of-the-environment"}
for name in "plain", "named":
    subprocess.run([sys.argv[1], "-m", name, "--no-stream", "--no-log", "--key", "key-of-the-flag", "hi"],
                   env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
plain, named = seen
print("llm 0.36, --key key-of-the-flag")
print("expected: Authorization: Bearer key-of-the-flag, with and without api_key_name")
print(f"seen:     Authorization: {plain} without, {named} with it")
sys.exit(0 if (plain, named) == ("Bearer DUMMY_KEY", "Bearer key-of-the-flag") else 1)
EOF
