"""What comes before attention, in one launch: q/k norm, rotary embedding and the KV write."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from anychip_sdk.kits.torch.scaled import Pages
from anychip_sdk.kits.triton.kernels.common import inverse_rms
from anychip_sdk.kits.triton.kernels.narrow import narrow, numbers_of, vector_scale
from anychip_sdk.kits.triton.launch import Launcher

HEADS = 8
"""Heads of one token that a program takes."""


@triton.jit
def turn_heads(
    source: tl.tensor,
    target: tl.tensor,
    target_stride: int,
    scales: tl.tensor,
    first: int,
    cosine: tl.tensor,
    sine: tl.tensor,
    weight: tl.tensor,
    eps: float,
    COUNT: tl.constexpr,
    D: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
) -> None:
    """Heads first..first + HEADS of one token, of which there are COUNT. weight: [D] float32 or None (no norm);
    cosine, sine: [D] float32 of this token, the first half of the sines negated, or None (no rotation). scales: None,
    or where the scale of each head goes, target_stride // D apart."""
    h = first + tl.arange(0, HEADS)[:, None]
    i = tl.arange(0, HALF)[None, :]
    live = (h < COUNT) & (i < D // 2)
    a = tl.load(source + h * D + i, mask=live, other=0.0)
    b = tl.load(source + h * D + D // 2 + i, mask=live, other=0.0)
    a, b = a.to(tl.float32), b.to(tl.float32)
    if weight is not None:
        scale = inverse_rms(tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1), D, eps)
        a *= scale[:, None] * tl.load(weight + i, mask=i < D // 2, other=0.0)
        b *= scale[:, None] * tl.load(weight + D // 2 + i, mask=i < D // 2, other=0.0)
    if cosine is not None:
        c = tl.load(cosine + i, mask=i < D // 2, other=0.0)
        s = tl.load(sine + D // 2 + i, mask=i < D // 2, other=0.0)
        a, b = a * c - b * s, b * c + a * s
    if scales is not None:
        a, b = a.to(source.dtype.element_ty).to(tl.float32), b.to(source.dtype.element_ty).to(tl.float32)
        scale = vector_scale(tl.maximum(tl.abs(a), tl.abs(b)), target.dtype.element_ty)
        tl.store(scales + h * (target_stride // D), scale[:, None], mask=h < COUNT)
        a, b = narrow(a, scale, target.dtype.element_ty), narrow(b, scale, target.dtype.element_ty)
    tl.store(target + h * target_stride + i, a.to(target.dtype.element_ty), mask=live)
    tl.store(target + h * target_stride + D // 2 + i, b.to(target.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize_on_alignment=["slots"])
def prepare_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    slots: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    q_stride: int,
    k_stride: int,
    v_stride: int,
    eps: float,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    PAGE: tl.constexpr,
    HALF: tl.constexpr,
    WIDE: tl.constexpr,
    HEADS: tl.constexpr,
) -> None:
    """HEADS heads of one token: of q (where H > 0), then of k, then of v, by the second grid axis."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    q_parts: tl.constexpr = (H + HEADS - 1) // HEADS
    k_parts: tl.constexpr = (K + HEADS - 1) // HEADS
    slot = tl.load(slots + token).to(tl.int64)
    place = slot // PAGE * (K * PAGE) + slot % PAGE
    if cosine is not None:
        cosine += token * D
        sine += token * D
    if H > 0:  # noqa: SIM102 - known when this is compiled: without q there is nothing to compile below
        if part < q_parts:
            turn_heads(
                q + token * q_stride, out + token * (H * D), D, None, part * HEADS, cosine, sine, q_weight, eps,
                H, D, HALF, HEADS,
            )  # fmt: skip
    if key_scales is not None:
        key_scales += place
    if (part >= q_parts) & (part < q_parts + k_parts):
        turn_heads(
            k + token * k_stride, keys + place * D, PAGE * D, key_scales, (part - q_parts) * HEADS, cosine, sine,
            k_weight, eps, K, D, HALF, HEADS,
        )  # fmt: skip
    if part >= q_parts + k_parts:
        h = (part - q_parts - k_parts) * HEADS + tl.arange(0, HEADS)[:, None]
        i = tl.arange(0, WIDE)[None, :]
        live = (h < K) & (i < DV)
        x = tl.load(v + token * v_stride + h * DV + i, mask=live, other=0.0)
        if value_scales is not None:
            x = x.to(tl.float32)
            scale = vector_scale(tl.abs(x), values.dtype.element_ty)
            tl.store(value_scales + place + h * PAGE, scale[:, None], mask=h < K)
            x = narrow(x, scale, values.dtype.element_ty)
        tl.store(values + place * DV + h * (PAGE * DV) + i, x.to(values.dtype.element_ty), mask=live)


def prepare(
    launch: Launcher,
    q: Tensor | None,
    k: Tensor,
    v: Tensor,
    keys: Pages,
    values: Pages,
    slots: Tensor,
    *,
    angles: tuple[Tensor, Tensor] | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor | None:
    """q: [T, H*D] or None, k: [T, K*D], v: [T, K*Dv]; keys, values: [pages, K, page_size, .] take k and v at
    slots [T] (page * page_size + offset). angles: as the torch kit makes them, [T, 1, D] each. -> q [T, H, D]."""
    (keys, key_scales), (values, value_scales) = numbers_of(keys), numbers_of(values)
    q = None if q is None else _with_runs(q)
    k, v = _with_runs(k), _with_runs(v)
    K, page, D = keys.shape[1:]
    T, DV = k.shape[0], values.shape[-1]
    H = 0 if q is None else q.shape[1] // D
    out = None if q is None else torch.empty(T, H, D, dtype=q.dtype, device=q.device)
    cosine, sine = (None, None) if angles is None else angles
    parts = triton.cdiv(H, HEADS) + 2 * triton.cdiv(K, HEADS)
    strides = 0 if q is None else q.stride(0), k.stride(0), v.stride(0)
    launch(
        prepare_kernel, (T, parts), q, k, v, out, keys, values, key_scales, value_scales, slots, cosine, sine,
        q_weight, k_weight, *strides, eps, H=H, K=K, D=D, DV=DV, PAGE=page, HALF=triton.next_power_of_2(D // 2),
        WIDE=triton.next_power_of_2(DV), HEADS=HEADS,
    )  # fmt: skip
    return out


def _with_runs(x: Tensor) -> Tensor:
    """[T, N] whose rows are runs of memory."""
    return x if x.stride(1) == 1 else x.contiguous()
