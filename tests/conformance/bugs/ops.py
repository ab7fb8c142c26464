"""Bugs of single ops, and of what a plugin says of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anychip_sdk.contract import NotSupported, StoredWeight
from anychip_sdk.kits.numpy.math import gelu_tanh, silu
from anychip_sdk.kits.numpy.weights import Weight

from bugs.registry import bug


@bug("ops", "the norm's eps is added outside the root")
def eps_outside_the_root(device):
    def rms_norm(x, w, eps):
        return (x / (np.sqrt(np.mean(x * x, -1, keepdims=True)) + eps) * w.parts[0]).astype(x.dtype)

    device.ops.rms_norm = rms_norm


@bug("ops", "the norm's eps is left out")
def eps_left_out(device):
    right = device.ops.rms_norm
    device.ops.rms_norm = lambda x, w, eps: right(x, w, 1e-12)


@bug("ops", "the residual is dropped: the next layer gets the bare branch")
def residual_dropped(device):
    device.ops.add_rms_norm = lambda x, residual, w, eps: (device.ops.rms_norm(x + residual, w, eps), x)


@bug("ops", "the weight's offset (Gemma's one) is not added")
def norm_offset_ignored(device):
    pack = device.pack
    device.pack = lambda spec, read, shapes, dtype: pack(replace(spec, offset=0.0), read, shapes, dtype)


@bug("ops", "only the first part of a fused weight gets its bias")
def bias_of_the_first_part_only(device):
    def linear_split(x, w):
        y = [x @ part.T for part in w.parts]
        return (y[0] + w.bias[0], *y[1:]) if w.bias else tuple(y)

    device.ops.linear_split = linear_split


@bug("ops", "rope turns neighbours (x[2i], x[2i + 1]) instead of halves")
def rope_on_neighbours(device):
    def rope(x, angles):
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        y = np.empty_like(x)
        y[..., ::2] = x[..., ::2] * cos - x[..., 1::2] * sin
        y[..., 1::2] = x[..., 1::2] * cos + x[..., ::2] * sin
        return y

    device.ops.rope = rope


@bug("ops", "positions of rope count from one")
def rope_counts_from_one(device):
    right = device.ops.rope_angles
    device.ops.rope_angles = lambda positions, w: right(positions + 1, w)


@bug("ops", "of equal largest logits the greedy ones keep one alone")
def greedy_keeps_one(device):
    def greedy_logits(x, w):
        y = device.ops.logits(x, w)
        rows, best = np.arange(len(y)), y[:, ::-1].argmax(1)
        kept = np.full_like(y, -1e9)
        kept[rows, y.shape[1] - 1 - best] = y[rows, y.shape[1] - 1 - best]
        return kept

    device.ops.greedy_logits = greedy_logits


@bug("ops", "greedy logits have 8 bits of the activations, with one scale a row")
def greedy_in_8_bits(device):
    def greedy_logits(x, w):
        scale = np.abs(x).max(1, keepdims=True) / 127
        return device.ops.logits((np.round(x / np.maximum(scale, 1e-9)) * scale).astype(x.dtype), w)

    device.ops.greedy_logits = greedy_logits


@bug("ops", "gelu is the sigmoid approximation, not the tanh one")
def another_gelu(device):
    def gated(gate, up, kind):
        return (silu(gate) if kind == "silu" else gate / (1 + np.exp(-1.702 * gate))) * up

    device.ops.gated_activation = gated


@bug("ops", "gate and up change places")
def gate_and_up_swapped(device):
    device.ops.gated_activation = lambda gate, up, kind: (silu(up) if kind == "silu" else gelu_tanh(up)) * gate


@bug("ops", "the embedding's scale is ignored")
def embedding_scale_ignored(device):
    device.ops.embedding = lambda ids, w, scale=1.0: w.parts[0][ids]


@bug("ops", "the final softcap is ignored")
def logit_softcap_ignored(device):
    right = device.ops.logits
    device.ops.logits = lambda x, w, softcap=None: right(x, w)


@bug("ops", "a float32 product keeps ten bits of its inputs, as TF32 does")
def products_in_tf32(device):
    def short(x):
        if x.dtype != np.float32:
            return x
        return ((np.ascontiguousarray(x).view(np.int32) + 0x1000) & ~0x1FFF).view(np.float32)

    device.ops.linear_split = lambda x, w: tuple(
        short(x) @ short(part).T + (w.bias[i] if w.bias else 0) for i, part in enumerate(w.parts)
    )


@bug("ops", "a product adds up in float16")
def sums_in_half(device):
    def linear_split(x, w):
        y = [np.zeros((len(x), len(part)), np.float16) for part in w.parts]
        for total, part in zip(y, w.parts, strict=True):
            for i in range(x.shape[1]):
                np.add(total, (x[:, i, None] * part[None, :, i]).astype(np.float16), out=total)
        return tuple(t.astype(x.dtype) + (w.bias[i] if w.bias else 0) for i, t in enumerate(y))

    device.ops.linear_split = linear_split


@bug("ops", "the chosen experts' weights are not made to sum to one")
def experts_not_renormalised(device):
    right = device.ops.moe
    device.ops.moe = lambda x, router, gate_up, down, spec, batch: right(
        x, router, gate_up, down, replace(spec, renormalize=False), batch
    )


@bug("ops", "a token takes one expert too few")
def one_expert_too_few(device):
    right = device.ops.moe
    device.ops.moe = lambda x, router, gate_up, down, spec, batch: right(
        x, router, gate_up, down, replace(spec, top_k=max(1, spec.top_k - 1)), batch
    )


@bug("ops", "bfloat16 is declared, but no weight can be packed in it")
def a_dtype_too_many(device):
    device.capabilities = replace(device.capabilities, weight_dtypes=("float32", "bfloat16"))
    pack = device.pack

    def refuse(spec, read, shapes, dtype):
        if dtype == "bfloat16":
            raise NotSupported("no bfloat16 here")
        return pack(spec, read, shapes, dtype)

    device.pack = refuse


@bug("ops", "a kernel never ends", limit=15)
def never_ends(device):
    def linear(x, w):
        while True:
            pass

    device.ops.linear = linear


@bug("discovery", "any device index can be opened")
def opens_any_index(device):
    """The platform looks at this bug's name."""


@bug("discovery", "any provider can be asked for, and is ignored")
def takes_any_provider(device):
    """The platform looks at this bug's name."""


@bug("discovery", "a provider that happens to be installed is taken unasked")
def takes_a_provider_unasked(device):
    device.ops.provided = {"rms_norm": "some library 1.0, its rms_norm"}


@bug("discovery", "a lent buffer holds what the step before left in it")
def dirty_buffers(device):
    kept = {}
    device.lend = lambda words: kept.setdefault(words, np.zeros(words, np.int32))


@bug("discovery", "the bucket of a long step is smaller than the step")
def buckets_too_small(device):
    device.bucket = lambda exact: replace(exact, pages=min(exact.pages, 64))


@bug("discovery", "one kind of sampling serves all, and forgets the edits")
def edits_forgotten(device):
    device.sample_kind = lambda exact: replace(exact, filters=True, edits=0)


@bug("discovery", "a method was replaced by one with another signature")
def another_signature(device):
    device.ops.rms_norm = lambda x, weight, epsilon=1e-6: x


@bug("ops", "a weight that was stored comes back without its bias")
def bias_not_stored(device):
    device.stored_form = lambda dtype: "numpy"
    device.store = lambda w: StoredWeight([w.kind, [[str(p.dtype), *p.shape] for p in w.parts]], w.parts)

    def restore(stored):
        kind, forms = stored.facts
        arrays = zip(forms, stored.arrays, strict=True)
        return Weight(kind, tuple(data.view(dtype).reshape(shape) for (dtype, *shape), data in arrays))

    device.restore = restore
