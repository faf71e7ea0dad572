"""Uses google-cloud-kms as an employee would, then as an employee must not: prints what came of it, line by line."""

import sys

from google.api_core import exceptions
from google.cloud import kms
from google.cloud.kms_v1 import types

key, plaintext = sys.argv[1], b"a data-encryption key"
client = kms.KeyManagementServiceClient()

sealed = client.encrypt(request={"name": key, "plaintext": plaintext})
print("encrypted", sealed.name == key + "/cryptoKeyVersions/1", plaintext not in sealed.ciphertext)
print("protection", sealed.protection_level == types.ProtectionLevel.SOFTWARE, sealed.ciphertext_crc32c > 0)

try:
    client.encrypt(request={"name": key, "plaintext": plaintext, "plaintext_crc32c": 1})
# The same error has one class over gRPC and its parent over REST.
except exceptions.BadRequest as error:
    print("checksum", error.code)

try:
    client.decrypt(request={"name": key, "ciphertext": sealed.ciphertext})
except exceptions.Forbidden as error:
    print("decrypt", error.code, "useToDecrypt" in str(error))
