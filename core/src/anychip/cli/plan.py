"""anychip plan: the memory a model needs, before anything is loaded."""

from __future__ import annotations

import argparse

from anychip.cli.options import NO_PREFIX_CACHING, NO_WARM_UP, add_engine_options, engine_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_options(parser, without=("--policy", "--max-prefill-chunk", NO_PREFIX_CACHING, NO_WARM_UP))


def run(options: argparse.Namespace) -> None:
    from anychip.engine.budget import gib, make_budget
    from anychip.engine.build import refuse_if_strict
    from anychip.engine.options import EngineOptions
    from anychip.loading.checkpoint import open_checkpoint
    from anychip.platforms.selection import choose, open_device

    engine = EngineOptions.make(**engine_options(options))
    with open_checkpoint(options.model, revision=engine.revision) as checkpoint:
        choice = choose(engine.device)
        device = open_device(choice, engine.threads)
        try:
            refuse_if_strict(device, engine)
            b = make_budget(checkpoint, device, engine)
        finally:
            device.close()
    layout, share, quantize = b.layout, engine.memory_fraction, engine.quantize
    rows = [
        ("model", f"{checkpoint.name} ({b.spec.architecture}, {len(b.spec.layers)} layers)"),
        ("device", f"{choice.info.name}, {gib(b.memory.free)} free of {gib(b.memory.total)}"),
        ("weights", f"{gib(b.weights)} in {b.dtype}" + (f", linear layers in {quantize}" if quantize else "")),
        ("activations", f"{gib(b.activations)} estimated for {b.step_tokens} tokens a step"),
        ("KV cache", f"{gib(b.cache.size)} of at most {share:.0%} of the rest; {b.kv_bytes_per_token} bytes a token"),
        ("KV pages", f"{' + '.join(str(n) for n in layout.pages)} of {layout.page_size} tokens"),
        ("longest context", f"{b.max_model_len} tokens (the model allows {b.spec.max_len})"),
        (
            "concurrency",
            f"{min(b.cache.concurrent, engine.max_num_seqs)} requests of that length, {engine.max_num_seqs} at most",
        ),
        ("verdict", "it fits"),
    ]
    for key, value in rows:
        print(f"{key:16} {value}")
