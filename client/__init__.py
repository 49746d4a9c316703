"""A small typed client of the HTTP interface in docs/api.md.

``Client`` asks, the exceptions in ``client.errors`` tell what went wrong. Imports nothing of the
server, so the folder can be copied into another project; needs requests, numpy and Pillow.
"""

from client.errors import (
    ArgumentError,
    BadRequest,
    ClientError,
    NotAcceptable,
    NotReachable,
    Problem,
    ServerFailed,
    TooLarge,
    Unavailable,
)
from client.session import Client, Picture

__all__ = [
    "ArgumentError",
    "BadRequest",
    "Client",
    "ClientError",
    "NotAcceptable",
    "NotReachable",
    "Picture",
    "Problem",
    "ServerFailed",
    "TooLarge",
    "Unavailable",
]
