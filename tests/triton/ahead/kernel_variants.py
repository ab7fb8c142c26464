"""Every kernel variant that a table of tiles asks for: the kit's own host code, on tensors without memory."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch
from anychip_sdk.contract import AttentionSpec, Batch, Bucket, KVDType, Layer, MoESpec, SampleKind, StepKey, view, words
from anychip_sdk.kits.solo import Solo
from anychip_sdk.kits.torch.scaled import FORMATS, Pages, ScaledPages
from anychip_sdk.kits.torch.weights import Weight
from anychip_sdk.kits.triton import Recorder, Tiles, TritonOps
from anychip_sdk.kits.triton.attention import Static
from anychip_sdk.kits.triton.kernels.pages import copy_pages
from kernel_compiler import Program, program

WIDTHS = {torch.bfloat16: (64, 128, 256), torch.float32: (64, 128, 256), torch.float16: (128,)}
"""Head widths. float16 takes the tiles of bfloat16."""
PAGE = 16
TOKENS = 64
VOCABULARY = 151936
HIDDEN = 4096
KINDS = {
    "plain": AttentionSpec(head_dim=128, scale=0.1),
    "window": AttentionSpec(head_dim=128, scale=0.1, window=4096),
    "softcap": AttentionSpec(head_dim=128, scale=0.1, window=4096, softcap=50.0),
}


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def pages(kept: KVDType, dtype: torch.dtype, shape: tuple[int, ...]) -> Pages:
    if kept in FORMATS:
        return ScaledPages(empty(*shape, dtype=FORMATS[kept]), empty(*shape[:-1], dtype=torch.float32))
    return empty(*shape, dtype=dtype)


def batch_of(key: StepKey) -> Batch:
    return view(torch.empty(words(key), dtype=torch.int32, device="meta"), key)


class Variants:
    """`programs`: name -> program, each once. Names say kernel, dtype and what else sets it apart."""

    def __init__(self, tiles: Tiles) -> None:
        self.programs: dict[str, Program] = {}
        self._known: set[Program] = set()
        self._recorder = Recorder()
        self._ops = TritonOps(Solo(), self._recorder, tiles)
        for dtype, widths in (
            (torch.bfloat16, (64, 128, 256)),
            (torch.float32, (64, 128, 256)),
            (torch.float16, (128,)),
        ):
            for width in widths:
                self._attention(dtype, replace(KINDS["plain"], head_dim=width), (32, 8))
        for dtype in (torch.bfloat16, torch.float32):
            self._elementwise(dtype)
            self._experts(dtype)
        for heads in ((8, 8), (64, 4)):
            self._attention(torch.bfloat16, KINDS["plain"], heads)
        for kind in ("window", "softcap"):
            self._attention(torch.bfloat16, KINDS[kind], (32, 8), kind)
        self._attention(torch.bfloat16, replace(KINDS["softcap"], head_dim=256), (32, 8), "softcap")
        for kept in FORMATS:
            for dtype, width in ((torch.bfloat16, 128), (torch.bfloat16, 64), (torch.bfloat16, 256),
                                 (torch.float32, 128), (torch.float32, 256)):  # fmt: skip
                self._attention(dtype, replace(KINDS["plain"], head_dim=width), (32, 8), kept, kept)
        for kind, heads, width in (("plain", (64, 8), 64), ("window", (64, 8), 64), ("softcap", (32, 8), 128)):
            spec = replace(KINDS[kind], head_dim=width)
            self._attention(torch.bfloat16, spec, heads, f"{kind} with sinks", sinks=True)
        self._sampling()

    def _keep(self, *label: object) -> None:
        """What was recorded since, under its kernel's name and the label."""
        for launch in self._recorder.launches:
            made = program(launch)
            if made not in self._known:
                self._known.add(made)
                self.programs[" ".join(map(str, (launch.kernel.__name__, *label)))] = made
        self._recorder.launches.clear()

    def _attention(
        self,
        dtype: torch.dtype,
        spec: AttentionSpec,
        heads: tuple[int, int],
        kind: str = "",
        kept: KVDType = "float32",
        sinks: bool = False,
    ) -> None:
        """kept: of the formats with scales; any other stands for `dtype`."""
        (H, K), D, layer = heads, spec.head_dim, Layer(spec, 0)
        kv = [tuple([pages(kept, dtype, (100, K, PAGE, D))] for _ in "kv")]
        label = (str(dtype)[6:], f"{H}/{K} x {D}", *([kind] if kind else []))
        for name, static in (("decode", Static(True, False, True)), ("prefill", Static(False, True, False))):
            key = StepKey(Bucket(TOKENS, TOKENS, 256, TOKENS, name == "decode"), static=static)
            batch = self._ops.attention.begin(batch_of(key))
            qkv = empty(TOKENS, (H + 2 * K) * D, dtype=dtype)
            q, k, v = qkv.split((H * D, K * D, K * D), dim=1)
            norm = Weight(empty(D, dtype=torch.float32))
            angles = tuple(empty(TOKENS, 1, D, dtype=torch.float32) for _ in "cs")
            q, _ = self._ops.attention.prepare(q, k, v, kv, batch, layer, angles=angles, q_norm=norm, k_norm=norm)
            self._keep(*label)
            if sinks:
                handle = Weight(empty(H, dtype=torch.float32))
                self._ops.attention.attend_with_sinks(q, kv, batch, layer, handle)
            else:
                self._ops.attention.attend(q, kv, batch, layer)
            self._keep(*label, name)

    def _elementwise(self, dtype: torch.dtype) -> None:
        x, norm = empty(TOKENS, HIDDEN, dtype=dtype), Weight(empty(HIDDEN, dtype=torch.float32))
        name = str(dtype)[6:]
        self._ops.rms_norm(x, norm, 1e-6)
        self._keep(name, "alone")
        self._ops.add_rms_norm(x, x, norm, 1e-6)
        self._keep(name, "sum")
        gate, up = empty(TOKENS, 2 * 12288, dtype=dtype).split(12288, dim=1)
        for kind in ("silu", "gelu_tanh"):
            self._ops.gated_activation(gate, up, kind)
            self._keep(name, kind)
        for scale in (1.0, 2.5):
            self._ops.embedding(empty(TOKENS, dtype=torch.int32), Weight(empty(VOCABULARY, HIDDEN, dtype=dtype)), scale)
            self._keep(name, "scaled" if scale != 1.0 else "plain")
        k = empty(TOKENS, 8, 128, dtype=dtype)
        kv = [tuple([empty(100, 8, PAGE, 128, dtype=dtype)] for _ in "kv")]
        batch = batch_of(StepKey(Bucket(TOKENS, TOKENS, 256, TOKENS, True)))
        self._ops.attention.write(k, k, kv, batch, Layer(KINDS["plain"], 0))
        self._keep(name, "write alone")
        copy_pages(self._recorder, kv[0][0][0], *empty(2, 5, dtype=torch.int32))
        self._keep(name)

    def _experts(self, dtype: torch.dtype) -> None:
        X, M, E = 128, 768, 2048
        spec = MoESpec(experts=X, top_k=8, renormalize=True, activation="silu")
        router = Weight(empty(X, E, dtype=dtype), (X,))
        gate_up, down = Weight(empty(X, 2 * M, E, dtype=dtype), (M, M)), Weight(empty(X, E, M, dtype=dtype), (E,))
        for name, tokens in (("few", TOKENS), ("many", 512)):
            batch = batch_of(StepKey(Bucket(tokens, tokens, 256, tokens, False)))
            self._ops.moe(empty(tokens, E, dtype=dtype), router, gate_up, down, spec, batch)
            self._keep(str(dtype)[6:], name)

    def _sampling(self) -> None:
        logits = empty(TOKENS, VOCABULARY, dtype=torch.float32)
        state = SimpleNamespace(last_token=empty(TOKENS, dtype=torch.int32))
        for name, kind in (
            ("greedy", SampleKind()),
            ("filters", SampleKind(filters=True, penalties=64, edits=64, logprobs=5)),
        ):
            key = StepKey(Bucket(TOKENS, TOKENS, 256, TOKENS, True), kind)
            self._ops.sample(logits, batch_of(key), state)
            self._keep(name)
