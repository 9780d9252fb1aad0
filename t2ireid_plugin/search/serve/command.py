"""``t2ireid serve``: a page in the browser and a JSON API for an index."""

from __future__ import annotations

import argparse
import os
import secrets
import socket

from t2ireid_plugin.errors import ConfigError, DependencyError

LOOPBACK = ("127.0.0.1", "localhost")
_TOKEN = "T2IREID_TOKEN"  # in the environment, since other users can read command lines
_MIN_TOKEN = 16  # letters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("index", metavar="INDEX", help="an index of `t2ireid index`, or milvus://HOST:PORT/NAME")
    parser.add_argument("--port", type=int, default=8000, help="port (8000); 0 for a free one")
    text = f"address to listen on (127.0.0.1, this machine only); for others a token is needed, see {_TOKEN}"
    parser.add_argument("--host", default=LOOPBACK[0], help=text)
    parser.add_argument("--model", metavar="RUN_OR_EXPORT", help="for an index without an encoder of its own")
    parser.add_argument("--root", metavar="DIR", help="where the photos are, if they have moved")
    parser.epilog = f"{_TOKEN} in the environment sets the token; otherwise every start makes a new one."


def run(options: argparse.Namespace, command: str) -> None:
    """Serves until a signal ends it.

    Raises:
        DependencyError: without FastAPI or uvicorn.
        ConfigError: for an address that cannot be used, or a short token.
        DataError: when there is no index.
    """
    token = None if options.host in LOOPBACK else os.environ.get(_TOKEN) or secrets.token_urlsafe(_MIN_TOKEN)
    if token is not None and len(token) < _MIN_TOKEN:
        raise ConfigError(f"{_TOKEN}: a token of {len(token)} letters is too short; use at least {_MIN_TOKEN}")
    listener = _listen(options.host, options.port)
    try:
        import uvicorn

        from t2ireid_plugin.search.serve.app import ServedIndex, create_app
    except ImportError as error:
        raise DependencyError(f"serving needs {error.name}; pip install fastapi uvicorn") from error
    from t2ireid_plugin.search import Encoder

    encoder = None if options.model is None else Encoder.load(options.model)
    index = ServedIndex(options.index, encoder, options.root)
    with index.gallery() as gallery:
        gallery.search("a person", 1)  # loads the encoder now, and not when the first user waits
        rows = len(gallery)
    app = create_app(index, token, LOOPBACK if token is None else ("*",))
    host = socket.gethostname() if options.host in ("0.0.0.0", "::") else options.host
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
    print(f"{rows:,} rows of '{options.index}' at {address}{f'?token={token}' if token else ''}", flush=True)
    # The access log would hold the sentences.
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another") from error
