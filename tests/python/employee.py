#!/usr/bin/env python3
"""An employee's client in Python, after the codelab: Google's KMS library, `cryptography`, `requests`.

It proves that a client which shares no code with codeseal is understood by it, over both transports of
Google's library. Usage: employee.py grpc|rest KMS_HOST:PORT KEY_NAME SERVER_URL < prompt
"""

import base64
import sys

import grpc
import requests
from cryptography.fernet import Fernet
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcTransport,
    KeyManagementServiceRestTransport,
)


def kms_client(transport, host):
    if transport == "grpc":
        channel = grpc.insecure_channel(host)
        chosen = KeyManagementServiceGrpcTransport(channel=channel, credentials=AnonymousCredentials())
    else:
        chosen = KeyManagementServiceRestTransport(
            host=host, url_scheme="http", credentials=AnonymousCredentials()
        )
    return kms.KeyManagementServiceClient(transport=chosen)


def main():
    transport, kms_host, key_name, server = sys.argv[1:]
    dek = Fernet.generate_key()
    wrapped = kms_client(transport, kms_host).encrypt(request={"name": key_name, "plaintext": dek})
    token = Fernet(dek).encrypt(sys.stdin.buffer.read())
    body = {
        "ciphertext": base64.b64encode(token).decode(),
        "wrapped_dek": base64.b64encode(wrapped.ciphertext).decode(),
    }
    answer = requests.post(f"{server}/generate", json=body, timeout=60)
    answer.raise_for_status()
    sealed = base64.b64decode(answer.json()["generated_code_ciphertext"])
    sys.stdout.buffer.write(Fernet(dek).decrypt(sealed))


if __name__ == "__main__":
    main()
