"""anychip bench: tables for people, one JSON line for programs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from anychip.cli.options import add_engine_options, engine_options, positive
from anychip.cli.parser import whole
from anychip.errors import RequestError

MODEL_WORKLOADS = ("single", "batch", "prefix")
QUALITY = "quality"
OTHERS = ("host", "startup", QUALITY)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="*",
        help="single, batch, prefix (a model's speed; all three by default), host (the engine's own work per step), "
        "startup (the command's), quality (perplexity of formats of weights and KV, and their distance from float32)",
    )
    parser.add_argument("--repeats", type=whole, default=2, help="runs of each workload, the best counts (default 2)")
    parser.add_argument(
        "--text", help="quality: a file of documents parted by form feeds (default: what the demo model never saw)"
    )
    add_engine_options(parser, required=False, without=("--policy",))


def run(options: argparse.Namespace) -> None:
    what = options.what or list(MODEL_WORKLOADS)
    for name in what:
        if name not in MODEL_WORKLOADS + OTHERS:
            raise RequestError(f"there is no workload {name!r}; expected {', '.join(MODEL_WORKLOADS + OTHERS)}")
    names = [name for name in what if name in MODEL_WORKLOADS]
    of_models = [name for name in what if name in (*MODEL_WORKLOADS, QUALITY)]
    if of_models and options.model is None:
        raise RequestError(f"bench {of_models[0]} measures a model; name it with --model (demo comes with anychip)")
    if options.model is not None and not of_models:
        raise RequestError(f"bench {' '.join(what)} measures no model; leave --model out")
    given = {n: v for n, v in engine_options(options).items() if (n, v) not in (("device", "auto"), ("strict", False))}
    if given and not of_models:
        name, value = next(iter(given.items()))
        flag = ("--no-" if value is False else "--") + name.replace("_", "-")
        raise RequestError(f"bench {' '.join(what)} runs no model; leave {flag} out")
    if options.text is not None and QUALITY not in what:
        raise RequestError(f"bench {' '.join(what)} reads no text; leave --text out")
    positive("repeats", options.repeats)
    if "startup" in what:
        _startup()
    if "host" in what:
        _host()
    if names:
        _model(options, names)
    if QUALITY in what:
        _quality(options)


def _model(options: argparse.Namespace, names: list[str]) -> None:
    from anychip.bench import model

    results = model.run(options.model, names, repeats=options.repeats, progress=True, **engine_options(options))
    how = results[0]
    weights = f", weights in {how.quantize}" if how.quantize else ""
    print(f"{options.model} on {how.device} in {how.dtype}{weights}; loaded in {how.load_seconds} s")
    print(f"{'workload':10}{'tokens/s':>10}{'seconds':>9}{'TTFT p50/p99 ms':>20}{'ITL p50/p99 ms':>18}{'hits':>7}")
    for r in results:
        ttft, itl = f"{r.ttft_p50_ms:.0f}/{r.ttft_p99_ms:.0f}", f"{r.itl_p50_ms:.1f}/{r.itl_p99_ms:.1f}"
        hits = f"{r.prefix_hit_rate:.0%}"
        print(f"{r.workload:10}{r.tokens_per_second:10.1f}{r.seconds:9.2f}{ttft:>20}{itl:>18}{hits:>7}")
    print(json.dumps({"bench": "model", "model": options.model, "results": [model.as_dict(r) for r in results]}))


def _quality(options: argparse.Namespace) -> None:
    """Of the format that --dtype, --quantize and --kv-dtype name, or of all that the device has."""
    from anychip.bench import quality
    from anychip.sizes import gib

    given = engine_options(options)
    documents = quality.texts(options.text)
    asked: dict[str, str] = {name: given.pop(name) for name in ("dtype", "quantize", "kv_dtype") if name in given}
    chosen = [asked] if asked else quality.formats(options.device, options.threads, options.provider)
    results = []
    print(f"{'format':20}{'weights':>12}{'KV a token':>14}{'perplexity':>12}{'KL to float32':>15}{'same first':>12}")
    for r in quality.run(options.model, documents, chosen, progress=True, **given):
        results.append(asdict(r))
        held = f"{gib(r.weights):>12}{gib(r.kv):>14}"
        print(f"{r.format:20}{held}{r.perplexity:12.3f}{r.kl:15.6f}{r.agreement:12.2%}", flush=True)
    print(json.dumps({"bench": QUALITY, "model": options.model, "results": results}))


def _host() -> None:
    from anychip.bench import host

    results = [host.run(count) for count in host.COUNTS]
    print(f"{'requests':>8}{'p50 ms':>10}{'p99 ms':>10}")
    for r in results:
        print(f"{r.requests:8}{r.p50_ms:10.3f}{r.p99_ms:10.3f}")
    print(json.dumps({"bench": "host", "p50_ms": {r.requests: round(r.p50_ms, 4) for r in results}}))


def _startup() -> None:
    from anychip.bench import startup

    times = startup.run()
    for name, ms in times.items():
        print(f"{name:16}{ms:8.0f} ms")
    print(json.dumps({"bench": "startup", "ms": {k: round(v, 1) for k, v in times.items()}}))
