"""Compiles whole steps for TPUs, on a machine without one, and looks at what libtpu made of them.

`python tools/tpu_check.py [MODEL[@CHIP-COUNT[/KV]] ...]`: for each model and TPU a decode and a prefill step, as in
`Llama-3-8B@v5e-4`, or `Llama-3-8B@v5e-4/int8` for KV in another dtype than the weights. A model is one of those below,
or a folder with a config.json. It fails where a step does not fit
the memory, lacks our kernels, copies the KV cache, or has other collectives than the sharding implies."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
from anychip.models.registry import Family, family
from anychip.models.spec import ModelSpec
from anychip_sdk.contract import Batch, Bucket, KVDType, KVLayout, KVSpec, Sampled, StepKey, WeightSpec
from anychip_tpu.chips import CHIPS
from anychip_tpu.planned import PlannedDevice, Program

GIB = 2**30
LLAMA = {"rms_norm_eps": 1e-5, "hidden_act": "silu", "max_position_embeddings": 8192}
MODELS: Mapping[str, dict[str, Any]] = {
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "rope_theta": 1e6, "tie_word_embeddings": True, **LLAMA,
    },
    "Llama-3-8B": {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 5e5,
        "tie_word_embeddings": False, **LLAMA,
    },
    "Mixtral-8x7B": {
        "architectures": ["MixtralForCausalLM"], "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "num_experts_per_tok": 2, "rope_theta": 1e6, "tie_word_embeddings": False, **LLAMA,
    },
}  # fmt: skip
TARGETS = {
    "Qwen3-0.6B": ("v5e-1", "v5e-4", "v6e-1", "v5e-1/int8", "v6e-1/fp8"),
    # its weights alone are as large as one v5e's memory
    "Llama-3-8B": ("v5e-4", "v6e-1", "v6e-4", "v5e-4/fp8", "v6e-1/int8"),
    "Mixtral-8x7B": ("v6e-4",),  # its weights need 87 GiB
}
PAGE = 32
BUCKETS = {
    "decode": Bucket(tokens=64, seqs=64, pages=64, rows=64, decode=True),
    "prefill": Bucket(tokens=2048, seqs=16, pages=64, rows=16, decode=False),
}
MOST_TEMPORARY = GIB // 4
"""More is a weight or a cache that was moved."""
CONTEXT = 1024
"""Tokens of context that the estimate of a step's time takes each request to have."""
REQUESTS, LENGTH = 64, 2048
"""What the cache holds: so many requests of so many tokens."""


@dataclass(frozen=True)
class Loaded:
    """A model on a planned device."""

    device: PlannedDevice
    spec: ModelSpec
    kind: Family
    weights: Any
    layout: KVLayout
    kv: Any
    state: Any

    def compile(self, bucket: Bucket) -> Program:
        ops = self.device.ops

        def step(weights: Any, kv: Any, state: Any, batch: Batch) -> tuple[Sampled, Any, Any]:
            batch = ops.attention.begin(batch)
            logits, kv = self.kind.forward(ops, self.spec, weights, batch, kv)
            sampled, state = ops.sample(logits, batch, state)
            return sampled, kv, state

        return self.device._program(step, StepKey(bucket), self.weights, self.kv, self.state)


def load(config: Mapping[str, Any], chip: str, count: int, kept: KVDType = "bfloat16") -> Loaded:
    kind = family(config)
    spec = kind.from_config(config)
    device = PlannedDevice(chip, count)
    shapes = kind.shapes_of(spec)

    def pack(tree: Any) -> Any:
        if isinstance(tree, WeightSpec):
            return device.pack(tree, _unread, shapes, "bfloat16")
        return {k: pack(v) for k, v in tree.items()} if isinstance(tree, dict) else [pack(v) for v in tree]

    tree = kind.weights(spec)
    weights = pack({name: part for name, part in tree.items() if name != "layers"})
    weights["layers"] = device.pack_layers(spec.layers, tree["layers"], _unread, shapes, "bfloat16")
    kv_spec = KVSpec(spec.groups, kept)
    # As many pages as the requests can use: whether they fit is what the compiler is asked.
    layout = device.allocator.layout(kv_spec, budget=2**60, page_size=PAGE, max_len=LENGTH, slots=1 + REQUESTS)
    return Loaded(device, spec, kind, weights, layout, device.allocator.allocate(layout), device.state(layout.slots))


def _unread(name: str, index: tuple[slice, ...] = ()) -> Any:
    raise AssertionError(f"{name} was read, though nothing is loaded")


def faults(model: Loaded, bucket: Bucket, program: Program) -> Iterator[str]:
    memory = model.device.allocator.memory().total // model.device._ranks.size
    if program.bytes > memory:
        yield f"it takes {program.bytes / GIB:.2f} GiB of a chip's {memory / GIB:.0f}"
    yield from (f"the kernel {name} is not in it" for name in kernels(model, bucket) if name not in program.kernels())
    yield from (f"it copies the KV cache: {line[:150]}" for line in program.copies(model.kv))
    if program.temporary > MOST_TEMPORARY:
        yield f"{program.temporary / GIB:.2f} GiB of it are temporary; expected {MOST_TEMPORARY / GIB:.2f} at most"
    found, wanted = program.collectives(), expected(model)
    if found != wanted:
        yield f"its collectives are {found or 'none'}; the sharding implies {wanted or 'none'}"


def kernels(model: Loaded, bucket: Bucket) -> tuple[str, ...]:
    """Those that a step must hold."""
    grouped = model.spec.moe is not None and bucket.tokens > model.device.ops._dense_rows
    return ("ragged_paged_attention", "write_pages", *(("grouped_product",) if grouped else ()))


def estimate(model: Loaded, bucket: Bucket) -> float:
    """Seconds of a step with every place of the batch taken and CONTEXT tokens behind each: the longer of reading
    weights and pages from HBM, and of the products, at the chip's published rates; then the sums among chips."""
    spec, count = model.spec, model.device._ranks.size
    chip = CHIPS[model.device.info.name.partition(":")[2].partition("-")[0]]
    active, read = 0, 0
    for leaf in jax.tree.leaves({k: v for k, v in model.weights.items() if spec.tied or k != "embed"}):
        share = spec.moe.top_k / spec.moe.experts if spec.moe and leaf.ndim == 4 else 1  # [layers, experts, O, I]
        active += int(math.prod(leaf.shape) * share)
        read += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    tokens = bucket.tokens
    scores = 4 * len(spec.layers) * spec.num_heads * spec.head_dim * CONTEXT
    token = sum(model.layout.page_bytes(g) for g in range(len(spec.groups))) // PAGE
    pages = bucket.seqs * CONTEXT * token // count
    compute = tokens * (2 * active + scores) / count / chip.flops
    sums = 2 * len(spec.layers) * tokens * spec.hidden_size * 2 * 2 * (count - 1) / count  # a ring moves it twice
    return max(compute, (read + pages) / chip.bandwidth) + sums / chip.link


def expected(model: Loaded) -> dict[str, int]:
    """Over several chips: one sum behind attention and one behind the MLP of a layer, which the loop over layers holds
    once, and the vocabulary gathered where the head is split."""
    if model.device._ranks.size == 1:
        return {}
    return {"all-reduce": 2} | ({} if model.spec.tied else {"all-gather": 1})


def report(name: str, model: Loaded, kind: str) -> bool:
    """Compiles one step and says what came out; whether all is well."""
    bucket = BUCKETS[kind]
    start = time.monotonic()
    program = model.compile(bucket)
    seconds = time.monotonic() - start
    wrong = list(faults(model, bucket, program))
    sys.stdout.write(
        f"{name:13} {model.device.info.name:9} {model.layout.spec.dtype:8} {kind:8} {'FAILED' if wrong else 'passed'}  "
        f"{program.bytes / GIB:6.2f} GiB a chip, {program.temporary / GIB:5.2f} of them temporary, "
        f"{program.collectives() or 'no collectives'}, about {estimate(model, bucket) * 1e3:.1f} ms a step "
        f"(an estimate from bytes and FLOPs), compiled in {seconds:.0f} s\n"
    )
    sys.stdout.writelines(f"    {line}\n" for line in wrong)
    sys.stdout.flush()
    return not wrong


def asked(word: str) -> Iterator[tuple[str, dict[str, Any], str, int, str]]:
    """MODEL or MODEL@CHIP-COUNT[/KV] -> name, config, chip, count, what KV is kept in."""
    name, _, target = word.partition("@")
    config = MODELS.get(name) or json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
    for one in (target,) if target else TARGETS[name]:
        chips, _, kept = one.partition("/")
        chip, _, count = chips.partition("-")
        yield Path(name).name, config, chip, int(count), kept or "bfloat16"


def main(words: list[str]) -> int:
    good = [
        report(name, model, kind)
        for word in words or MODELS
        for name, config, chip, count, kept in asked(word)
        for model in [load(config, chip, count, cast(KVDType, kept))]
        for kind in BUCKETS
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
