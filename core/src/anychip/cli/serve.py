"""anychip serve: OpenAI's API over HTTP."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from anychip.cli.generate import announce
from anychip.cli.options import add_engine_options, engine_options
from anychip.cli.parser import whole
from anychip.errors import AnychipError

API_KEY: Final = "ANYCHIP_API_KEY"
"""Environment variable: the key, where --api-key gives none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=whole, default=8000, help="port to listen on; 0 takes a free one (default 8000)")
    parser.add_argument("--api-key", help=f"ask clients for this key (default: the environment's {API_KEY}, or none)")
    parser.add_argument("--served-model-name", help="what clients call the model (default: its own name)")
    add_engine_options(parser)


def run(options: argparse.Namespace) -> None:
    from anychip.engine.async_engine import AsyncEngine
    from anychip.serving.auth import check_key
    from anychip.serving.server import serve

    key = os.environ.get(API_KEY) if options.api_key is None else options.api_key
    if key == "":  # as when the variable that should hold it is not set: nobody wants an open server then
        raise AnychipError(f"the API key is empty; give one with --api-key or {API_KEY}, or neither to let everyone in")
    check_key(key)
    if options.served_model_name == "":
        raise AnychipError("--served-model-name is empty; give a name, or leave it out")

    def start() -> AsyncEngine:
        engine = AsyncEngine(options.model, progress=True, **engine_options(options))
        announce(engine)
        print(f"model: {options.served_model_name or engine.model_name}", file=sys.stderr)
        return engine

    serve(
        start,
        host=options.host,
        port=options.port,
        api_key=key,
        model_name=options.served_model_name,
    )
