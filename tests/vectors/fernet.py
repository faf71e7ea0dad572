#!/usr/bin/env python3
"""Makes fernet.json: Fernet keys and tokens with the verdict of Python's `cryptography`.

Run:  pip install -r requirements.txt && python fernet.py > fernet.json
The other way round, `python fernet.py check sealed.json` opens what codeseal sealed.

Each case holds the key's and the token's bytes in base64 (`latin-1` text would not survive JSON) and what
`Fernet(key).decrypt(token)` returned: the plaintext in base64, or null for an exception. Keys, IVs and
times are fixed, so that the file is the same every time.
"""

import base64
import hashlib
import json
import struct
import sys

from cryptography import __version__
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC

KEY = base64.urlsafe_b64encode(hashlib.sha256(b"codeseal vectors").digest())
OTHER = base64.urlsafe_b64encode(hashlib.sha256(b"another key").digest())
TIME = 1_760_000_000
IV = bytes(range(16))


def seal(plaintext, key=KEY, time=TIME):
    return Fernet(key)._encrypt_from_parts(plaintext, time, IV)


def forge(body, version=0x80, time=TIME, iv=IV, key=KEY):
    """A token with a valid HMAC around whatever `body` is."""
    raw = base64.urlsafe_b64decode(key)
    parts = struct.pack(">BQ", version, time) + iv + body
    hmac = HMAC(raw[:16], hashes.SHA256())
    hmac.update(parts)
    return base64.urlsafe_b64encode(parts + hmac.finalize())


def cbc(padded):
    raw = base64.urlsafe_b64decode(KEY)
    encryptor = Cipher(algorithms.AES(raw[16:]), modes.CBC(IV)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def flip(token, index):
    raw = bytearray(base64.urlsafe_b64decode(token))
    raw[index] ^= 1
    return base64.urlsafe_b64encode(bytes(raw))


def trailing_bits(token):
    """The same bytes, with bits set that base64 says must be zero."""
    head = token.rstrip(b"=")
    pads = len(token) - len(head)
    assert pads, "choose a token with padding"
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(head[-1:])
    return head[:-1] + alphabet[last | 1 : (last | 1) + 1] + b"=" * pads


def cases():
    hello = seal(b"def fib(n):")
    texts = {
        "empty": b"",
        "15 bytes": b"a" * 15,
        "16 bytes": b"a" * 16,
        "17 bytes": b"a" * 17,
        "korean, emoji and nul": "피보나치 함수 🦀\0\n".encode(),
        "4 KiB": bytes(i % 251 for i in range(4096)),
        "not utf-8": b"\xff\xfe",
    }
    for name, text in texts.items():
        yield name, KEY, seal(text)
    yield "at the epoch", KEY, seal(b"x", time=0)
    yield "far in the future", KEY, seal(b"x", time=TIME + 10**9)
    yield "timestamp 2^64-1", KEY, seal(b"x", time=2**64 - 1)
    yield "timestamp 2^64-1, forged", KEY, flip(seal(b"x", time=2**64 - 1), -1)
    yield "wrong key", OTHER, hello
    for index, name in [(0, "version"), (1, "time"), (9, "iv"), (25, "ciphertext"), (-1, "hmac")]:
        yield f"flipped {name}", KEY, flip(hello, index)
    yield "version 0x81 under a valid hmac", KEY, forge(cbc(b"x" * 15 + b"\x01"), version=0x81)
    yield "padding of zero", KEY, forge(cbc(b"x" * 15 + b"\x00"))
    yield "padding of 17", KEY, forge(cbc(b"x" * 15 + b"\x11"))
    yield "padding that disagrees", KEY, forge(cbc(b"x" * 13 + b"\x01\x02\x03"))
    yield "whole block of padding", KEY, forge(cbc(b"\x10" * 16))
    yield "no ciphertext", KEY, forge(b"")
    yield "17 bytes of ciphertext", KEY, forge(b"x" * 17)
    yield "empty token", KEY, b""
    yield "one character", KEY, b"g"
    yield "truncated by a quad", KEY, hello[:-4]
    yield "truncated by one", KEY, hello[:-1]
    yield "only the head", KEY, base64.urlsafe_b64encode(base64.urlsafe_b64decode(hello)[:30])
    # How lenient Python's base64 is decides what a client may send.
    yield "padding stripped", KEY, seal(b"x" * 5).rstrip(b"=")
    yield "more padding", KEY, hello + b"===="
    yield "trailing newline", KEY, hello + b"\n"
    yield "wrapped lines", KEY, b"\n".join(hello[i : i + 20] for i in range(0, len(hello), 20))
    yield "spaces", KEY, b" ".join(hello[i : i + 7] for i in range(0, len(hello), 7))
    yield "standard alphabet", KEY, hello.replace(b"-", b"+").replace(b"_", b"/")
    yield "junk bytes", KEY, hello[:10] + b"\xff\x00!" + hello[10:]
    yield "padding in the middle", KEY, hello[:6] + b"=" + hello[6:]
    yield "text after the padding", KEY, seal(b"y" * 20) + b"AAAA"
    yield "trailing bits", KEY, trailing_bits(seal(b"y" * 20))
    yield "key with a newline", KEY + b"\n", hello
    yield "key without padding", KEY.rstrip(b"="), hello
    yield "key in the standard alphabet", KEY.replace(b"-", b"+").replace(b"_", b"/"), hello
    yield "key of 31 bytes", base64.urlsafe_b64encode(b"k" * 31), hello
    yield "key of 33 bytes", base64.urlsafe_b64encode(b"k" * 33), hello
    yield "empty key", b"", hello


def verdict(key, token):
    try:
        return base64.b64encode(Fernet(key).decrypt(token)).decode()
    except (InvalidToken, ValueError, TypeError):
        return None


def check(path):
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    for case in cases:
        opened = Fernet(case["key"]).decrypt(case["token"].encode())
        assert base64.b64encode(opened).decode() == case["plaintext"], case["name"]
    print(f"{len(cases)} tokens of codeseal opened by cryptography {__version__}")


def main():
    if sys.argv[1:2] == ["check"]:
        return check(sys.argv[2])
    rows = [
        {
            "name": name,
            "key": base64.b64encode(key).decode(),
            "token": base64.b64encode(token).decode(),
            "plaintext": verdict(key, token),
        }
        for name, key, token in cases()
    ]
    json.dump({"cryptography": __version__, "cases": rows}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
