#!/usr/bin/env python3
"""Makes paths.json: the keys of the /v1 paths, the answers of /generate and padded calls, by Python's `cryptography`.

Run:  pip install -r requirements.txt && python paths.py > paths.json
The other way round, `python paths.py check sealed_paths.json` opens what codeseal sealed.

Keys, IVs and times are fixed, so that the file is the same every time.
"""

import base64
import hashlib
import json
import sys

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DEK = base64.urlsafe_b64encode(hashlib.sha256(b"codeseal vectors").digest())
TIME = 1_760_000_000
PATHS = ["/v1/completions", "/v1/chat/completions"]
NONCE = bytes(range(8))
KIB = 1024


def derive(dek, info, length=32):
    hkdf = HKDF(algorithm=SHA256(), length=length, salt=None, info=info)
    return hkdf.derive(base64.urlsafe_b64decode(dek))


def path_key(dek, direction, path):
    """The Fernet key of a path's requests ("request") or answers ("answer")."""
    return base64.urlsafe_b64encode(derive(dek, f"codeseal v1 {direction} {path}".encode()))


def is_generated(dek, token):
    """Whether the IV says that the server made this token as an answer of /generate."""
    raw = base64.urlsafe_b64decode(token)
    timestamp, nonce, mac = raw[1:9], raw[9:17], raw[17:25]
    return mac == derive(dek, b"codeseal generate answer" + timestamp + nonce, 8)


def calls():
    for direction in ["request", "answer"]:
        for number, path in enumerate(PATHS):
            plaintext = f"{direction} {path}"
            key = path_key(DEK, direction, path)
            token = Fernet(key)._encrypt_from_parts(plaintext.encode(), TIME, bytes([number]) * 16)
            yield {"direction": direction, "path": path, "key": key.decode(), "token": token.decode(), "plaintext": plaintext}


def generated():
    for plaintext in ["", "def fib(n):", "sixteen bytes...", "피보나치 함수 🦀\n"]:
        mac = derive(DEK, b"codeseal generate answer" + TIME.to_bytes(8, "big") + NONCE, 8)
        token = Fernet(DEK)._encrypt_from_parts(plaintext.encode(), TIME, NONCE + mac)
        assert is_generated(DEK, token)
        yield {"plaintext": plaintext, "token": token.decode()}


def bucket(length):
    """What a call of `length` bytes is padded to: 32 KiB, or a multiple of 128 KiB."""
    return 32 * KIB if length <= 32 * KIB else -(-length // (128 * KIB)) * 128 * KIB


def buckets():
    for length in [1, 512, 4096, 32 * KIB - 1, 32 * KIB, 32 * KIB + 1, 64 * KIB, 128 * KIB, 128 * KIB + 1, 600 * KIB]:
        yield {"length": length, "padded": bucket(length)}


def padded():
    """Calls that differ in their padding only: none, and the buckets of earlier versions. A server opens all of them."""
    name = base64.urlsafe_b64encode(bytes(range(16))).rstrip(b"=").decode()
    call = json.dumps({"id": name, "path": PATHS[0], "body": {"prompt": "x"}}, separators=(",", ":")).encode()
    for number, length in enumerate([len(call), 512, 2048]):
        token = Fernet(path_key(DEK, "request", PATHS[0]))._encrypt_from_parts(call.ljust(length), TIME, bytes([number]) * 16)
        yield {"path": PATHS[0], "token": token.decode(), "length": length}


def check(path):
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    for case in cases:
        token, dek = case["token"].encode(), case["dek"].encode()
        if case["direction"] == "generated":
            assert is_generated(dek, token), case
            key = dek
        else:
            key = path_key(dek, case["direction"], case["path"])
        assert Fernet(key).decrypt(token).decode() == case["plaintext"], case
    print(f"{len(cases)} tokens of codeseal opened")


def main():
    if sys.argv[1:2] == ["check"]:
        return check(sys.argv[2])
    vectors = {
        "dek": DEK.decode(),
        "calls": list(calls()),
        "generated": list(generated()),
        "buckets": list(buckets()),
        "padded": list(padded()),
    }
    json.dump(vectors, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
