"""Points unmodified Google client code at a local KMS and a local inference server.

Python imports a module of this name by itself at start-up, so a client that knows nothing about it is redirected
by environment alone:

    PYTHONPATH=tests/python KMS_EMULATOR=127.0.0.1:8081 KMS_TRANSPORT=grpc \
    INFERENCE_SERVER=127.0.0.1:8080 python sample_inference_client.py

KMS_EMULATOR      host:port of the sandbox; every KeyManagementServiceClient made without arguments goes there,
                  without TLS and without credentials
KMS_TRANSPORT     grpc (the default) or rest
INFERENCE_SERVER  host:port that connections to the sample client's placeholder host are made to, whatever
                  port it names; without it, the loopback address and the port that the client names

Without KMS_EMULATOR nothing is changed.
"""

import importlib.abc
import importlib.util
import os
import socket
import sys

_KMS_MODULE = "google.cloud.kms"
_PLACEHOLDER_HOST = "inference_server_ip_value"


class _PatchAfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets the real loader load the module, then patches what came out of it."""

    def __init__(self):
        self._real = None

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _KMS_MODULE or self._real is not None:
            return None
        # Looking once, as asking the other finders comes back here.
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self._real, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self._real.create_module(spec)

    def exec_module(self, module):
        self._real.exec_module(module)
        _redirect(module.KeyManagementServiceClient)


def _redirect(client):
    original = client.__init__

    def init(self, **arguments):
        arguments.setdefault("transport", _transport())
        original(self, **arguments)

    client.__init__ = init


def _transport():
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.kms_v1.services.key_management_service import transports

    target = os.environ["KMS_EMULATOR"]
    name = os.environ.get("KMS_TRANSPORT", "grpc")
    if name == "rest":
        return transports.KeyManagementServiceRestTransport(
            host=target, url_scheme="http", credentials=AnonymousCredentials()
        )
    if name != "grpc":
        raise ValueError("KMS_TRANSPORT must be grpc or rest")
    import grpc

    # Client options alone always make a TLS channel, so the channel is made here.
    return transports.KeyManagementServiceGrpcTransport(
        channel=grpc.insecure_channel(target), credentials=AnonymousCredentials()
    )


def _map_placeholder_host():
    original = socket.getaddrinfo
    server_host, _, server_port = os.environ.get("INFERENCE_SERVER", "127.0.0.1").partition(":")

    def getaddrinfo(host, port, *rest, **more):
        if isinstance(host, str) and host.lower() == _PLACEHOLDER_HOST:
            host, port = server_host, int(server_port or port)
        return original(host, port, *rest, **more)

    socket.getaddrinfo = getaddrinfo


if "KMS_EMULATOR" in os.environ:
    sys.meta_path.insert(0, _PatchAfterImport())
    _map_placeholder_host()
