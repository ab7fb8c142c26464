"""anychip serve: OpenAI's API over HTTP."""

from __future__ import annotations

import argparse
import sys

from anychip.cli.generate import announce
from anychip.cli.options import add_engine_options, engine_options
from anychip.cli.parser import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=whole, default=8000, help="port to listen on; 0 takes a free one (default 8000)")
    parser.add_argument(
        "--api-key", help="ask clients for this key (default: the environment's ANYCHIP_API_KEY, or none)"
    )
    parser.add_argument("--served-model-name", help="what clients call the model (default: its own name)")
    add_engine_options(parser)


def run(options: argparse.Namespace) -> None:
    import os

    from anychip.engine.async_engine import AsyncEngine
    from anychip.serving.server import serve

    def start() -> AsyncEngine:
        engine = AsyncEngine(options.model, progress=True, **engine_options(options))
        announce(engine)
        print(f"model: {options.served_model_name or engine.model_name}", file=sys.stderr)
        return engine

    serve(
        start,
        host=options.host,
        port=options.port,
        api_key=options.api_key or os.environ.get("ANYCHIP_API_KEY"),
        model_name=options.served_model_name,
    )
