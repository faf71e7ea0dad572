#!/usr/bin/env bash
# Characters that are no base64 are ignored in a Fernet token.
#
# Package:  cryptography 50.0.2 (Python)
# Expected: InvalidToken. A token is base64url (Fernet specification), and RFC 4648 section 3.3 has decoders reject characters
#           outside of the alphabet unless a specification says otherwise. Missing padding is rejected.
# Seen:     line breaks, "!" and spaces are skipped, and "+" and "/" stand for "-" and "_". So one token has many texts: what
#           compares, caches or counts tokens as texts has to take the decoded bytes, and a client that works with this
#           library may fail with a strict one.
# Last run: 2026-11-28, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cryptography==50.0.2 || exit 69
"$folder/venv/bin/python" - <<'EOF'
import sys
import cryptography
from cryptography.fernet import Fernet, InvalidToken

fernet = Fernet(Fernet.generate_key())
token = fernet.encrypt(b"text")
other = token.replace(b"-", b"+").replace(b"_", b"/")
texts = {
    "a line break": token[:20] + b"\n" + token[20:],
    "an exclamation mark": token[:20] + b"!" + token[20:],
    "a trailing space": token + b" ",
    "the other alphabet": other,
    "no padding": token.rstrip(b"="),
}


def opens(text):
    try:
        return fernet.decrypt(text) == b"text"
    except InvalidToken:
        return False


accepted = [name for name, text in texts.items() if opens(text)]
print(f"cryptography {cryptography.__version__}")
print("expected: none of these is accepted")
print(f"seen:     accepted with {', '.join(accepted)}")
sys.exit(0 if accepted == [name for name in texts if name != "no padding"] else 1)
EOF
