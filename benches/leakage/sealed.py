"""A client of the sealed API over plain sockets: what docs/protocol.md says, on `cryptography` alone."""

import base64
import json
import os
import socket
import urllib.request

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from capture import OBSERVED, SocketCapture

SMALLEST_BUCKET, STEP = 32 * 1024, 128 * 1024
COMPLETIONS, GENERATE = "/v1/completions", "/generate"
TIMEOUT_SECONDS = 120


def path_key(dek, direction, path):
    """The Fernet key of one path and direction."""
    info = f"codeseal v1 {direction} {path}".encode()
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=info)
    return base64.urlsafe_b64encode(hkdf.derive(base64.urlsafe_b64decode(dek)))


def bucket(length):
    """Bytes that a call of `length` bytes is padded to."""
    return SMALLEST_BUCKET if length <= SMALLEST_BUCKET else -(-length // STEP) * STEP


def frames(tokens):
    """The frames of a shaped stream of at most `tokens` tokens, if the model is fast enough."""
    return 1 << (min(max(-(-tokens // 4), 8), 128) - 1).bit_length()


class Key:
    """A DEK, wrapped by the sandbox's KMS."""

    def __init__(self, sandbox):
        self.dek = Fernet.generate_key()
        body = json.dumps({"plaintext": base64.b64encode(self.dek).decode()}).encode()
        request = urllib.request.Request(
            f"{sandbox['endpoint']}/v1/{sandbox['kms_key']}:encrypt",
            body,
            {"content-type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            self.wrapped = json.load(answer)["ciphertext"]
        keys = {path: (path_key(self.dek, "request", path), path_key(self.dek, "answer", path)) for path in [COMPLETIONS]}
        self.ciphers = {path: (Fernet(request), Fernet(answer)) for path, (request, answer) in keys.items()}

    def seal(self, path, body):
        """The body of a request."""
        if path == GENERATE:
            token = base64.b64encode(Fernet(self.dek).encrypt(body["prompt"].encode()))
        else:
            name = base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()
            call = json.dumps({"id": name, "path": path, "body": body}, separators=(",", ":")).encode()
            token = self.ciphers[path][0].encrypt(call.ljust(bucket(len(call))))
        return json.dumps({"wrapped_dek": self.wrapped, "ciphertext": token.decode()}).encode()

    def open(self, path, body):
        """What an answer says: text, finish reason and usage. A stream must be whole."""
        if path == GENERATE:
            token = base64.b64decode(json.loads(body)["generated_code_ciphertext"])
            return {"text": Fernet(self.dek).decrypt(token).decode(), "finish": None, "tokens": None, "cached": 0}
        cipher = self.ciphers[path][1]
        if not body.startswith(b"data: "):
            reply = json.loads(cipher.decrypt(json.loads(body)["ciphertext"].encode()))
            if reply["status"] != 200:
                raise ValueError(f"the answer is an error: {reply['body']}")
            return said([reply["body"]])
        frames = [json.loads(cipher.decrypt(line[6:])) for line in body.split(b"\n\n") if line]
        if [frame["seq"] for frame in frames] != list(range(len(frames))) or not frames[-1]["last"]:
            raise ValueError("the stream is not whole")
        return said([event for frame in frames for event in frame["events"]])


def said(events):
    told = {"text": "", "finish": None, "tokens": None, "cached": 0}
    for event in events:
        if "error" in event:
            raise ValueError(f"the stream ends with an error: {event['error']}")
        for choice in event["choices"]:
            told["text"] += choice["text"]
            told["finish"] = choice["finish_reason"] or told["finish"]
        if event.get("usage"):
            told["tokens"] = event["usage"]["completion_tokens"]
            told["cached"] = event["usage"]["prompt_tokens_details"]["cached_tokens"]
    return told


def post(address, path, body, capture=None):
    """Sends a request on a connection of its own. Returns the body of the answer and the segments that were seen."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {address[0]}:{address[1]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    request = head.encode() + body
    source = (OBSERVED, 0) if capture else None
    with socket.create_connection(address, TIMEOUT_SECONDS, source) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = connection.getsockname()[1]
        own = capture if isinstance(capture, SocketCapture) else None
        if own:
            connection.setsockopt(socket.SOL_SOCKET, 35, 1)
            own.sent(port, len(request))
        connection.sendall(request)
        answer = b""
        while True:
            piece, control, _, _ = connection.recvmsg(1 << 16, 128)
            if not piece:
                break
            if own:
                own.received(port, control, len(piece))
            answer += piece
    return parse(answer), capture.take(port) if capture else []


def parse(answer):
    """The body of an HTTP answer that must be a success."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().lower().split("\r\n")
    if status.split()[1] != "200":
        raise ValueError(f"{status}: {body[:200]!r}")
    headers = dict(line.split(": ", 1) for line in lines)
    if headers.get("transfer-encoding") != "chunked":
        if len(body) != int(headers["content-length"]):
            raise ValueError("the answer is cut")
        return body
    whole = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return whole
        whole, body = whole + body[:count], body[count + 2 :]
