"""A small typed client of the HTTP interface in docs/api.md.

``Client`` asks, the exceptions in ``client.errors`` tell what went wrong. Imports nothing of the
server: ``pip install ./client`` puts it into another project with requests and Pillow, and
``./client[cli]`` with what arrays and the command line need besides.
"""

from client.errors import ArgumentError as ArgumentError
from client.errors import BadRequest as BadRequest
from client.errors import ClientError as ClientError
from client.errors import NotAcceptable as NotAcceptable
from client.errors import NotReachable as NotReachable
from client.errors import Problem as Problem
from client.errors import ServerFailed as ServerFailed
from client.errors import TooLarge as TooLarge
from client.errors import Unavailable as Unavailable
from client.session import Client as Client
from client.session import Picture as Picture
