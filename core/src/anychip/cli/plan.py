"""anychip plan: the memory a model needs, before anything is loaded; also of devices that are not here, and of models
of which there is no more than the config.json."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from anychip.cli.options import NO_PREFIX_CACHING, NO_WARM_UP, NO_WEIGHT_CACHE, add_engine_options, engine_options
from anychip.errors import RequestError

if TYPE_CHECKING:
    from anychip.engine.budget import Budget
    from anychip.engine.options import EngineOptions
    from anychip.engine.planning import Outlook
    from anychip.loading.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    useless = ("--policy", "--max-prefill-chunk", NO_PREFIX_CACHING, NO_WARM_UP, NO_WEIGHT_CACHE)
    add_engine_options(parser, without=useless)


def run(options: argparse.Namespace) -> None:
    from anychip.engine.budget import make_budget
    from anychip.engine.build import refuse_if_strict
    from anychip.engine.options import EngineOptions
    from anychip.engine.planning import outlook
    from anychip.loading.checkpoint import open_checkpoint
    from anychip.platforms.selection import choose, open_device, plan_device

    engine = EngineOptions(**engine_options(options))
    with open_checkpoint(options.model, revision=engine.revision, weights=False) as checkpoint:
        planned = plan_device(engine.device)
        if planned and engine.provider is not None:
            raise RequestError(f"{engine.device} is not here and has no provider; leave --provider out", "provider")
        device = planned.device if planned else open_device(choose(engine.device), engine.threads, engine.provider)
        try:
            b = make_budget(checkpoint, device, engine)
            refuse_if_strict(device, engine, b)
            found = outlook(checkpoint, planned, b, engine.max_num_seqs, progress=True) if planned else None
        finally:
            device.close()
    outlook_rows = [] if found is None else _outlook_rows(found, b)
    for key, value in [*_rows(checkpoint, device.info.name, b, engine), *outlook_rows, ("verdict", "it fits")]:
        print(f"{key:16} {value}")


def _rows(checkpoint: Checkpoint, name: str, b: Budget, engine: EngineOptions) -> list[tuple[str, str]]:
    """name: the device's"""
    from anychip.sizes import gib

    known = "" if checkpoint.has_weights else "; by its config.json alone, the weights are not here"
    layout, quantize = b.layout, engine.quantize
    most = f"of the {gib(b.cache.limit)} asked for"
    if engine.kv_cache_memory is None:
        share = f"{engine.memory_fraction:.0%} of what weights and activations leave"
        most = f"of {gib(b.cache.limit)} allowed, {share}"
    return [
        ("model", f"{checkpoint.name} ({b.spec.architecture}, {len(b.spec.layers)} layers{known})"),
        ("device", f"{name}, {gib(b.memory.free)} free of {gib(b.memory.total)}"),
        ("weights", f"{gib(b.weights)} in {b.dtype}" + (f", linear layers in {quantize}" if quantize else "")),
        ("activations", f"{gib(b.activations)} estimated for {b.step_tokens} tokens a step"),
        (
            "KV cache",
            f"{gib(b.cache.size)} in {layout.spec.dtype} {most}; {b.kv_bytes_per_token} bytes a token",
        ),
        ("KV pages", f"{' + '.join(str(n) for n in layout.pages)} of {layout.page_size} tokens"),
        ("longest context", f"{b.max_model_len} tokens (the model allows {b.spec.max_len})"),
        (
            "concurrency",
            f"{_requests(min(b.cache.concurrent, engine.max_num_seqs))} of that length, {engine.max_num_seqs} at most",
        ),
    ]


def _requests(n: int, which: str = "") -> str:
    return f"{n} {which}request{'' if n == 1 else 's'}"


def _outlook_rows(found: Outlook, b: Budget) -> list[tuple[str, str]]:
    """Of a device that is not here."""
    from anychip.sizes import gib

    how = "estimated from bytes and FLOPs at the chip's published rates"
    if isinstance(found.compiled, str):
        compiled = f"no step was compiled: {found.compiled}"
    else:
        compiled = ", ".join(f"{name} takes {gib(size)} of each chip" for name, size in found.compiled.items())
    return [
        ("decode step", f"{found.decode * 1e3:.1f} ms for {_requests(found.requests, 'such ')}, {how}"),
        ("prefill step", f"{found.prefill * 1e3:.1f} ms for {b.step_tokens} tokens, {how}"),
        ("compiler", compiled),
    ]
