"""An employee's client, after the codelab: Google's KMS library, `cryptography`, `requests`; nothing of codeseal.

Usage: employee.py KEY_NAME SERVER_URL < prompt
"""

import base64
import sys

import requests
from cryptography.fernet import Fernet
from google.cloud import kms

key_name, server = sys.argv[1:]
dek = Fernet.generate_key()
wrapped = kms.KeyManagementServiceClient().encrypt(request={"name": key_name, "plaintext": dek})
token = Fernet(dek).encrypt(sys.stdin.buffer.read())
body = {
    "ciphertext": base64.b64encode(token).decode(),
    "wrapped_dek": base64.b64encode(wrapped.ciphertext).decode(),
}
answer = requests.post(f"{server}/generate", json=body, timeout=60)
answer.raise_for_status()
sealed = base64.b64decode(answer.json()["generated_code_ciphertext"])
sys.stdout.buffer.write(Fernet(dek).decrypt(sealed))
