"""Bugs of KV in 8 bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anychip_sdk.contract import SCALED_KV
from anychip_sdk.kits.numpy.scaled import ScaledPages

from bugs.registry import bug


def after_writes(device, change):
    """change: (scales of the tokens just written [T, K]) -> what stands in their place, for K and V."""
    right = device.ops.attention.write

    def write(k, v, kv, batch, layer):
        kv = right(k, v, kv, batch, layer)
        for cache in kv[layer.attention.group]:
            if isinstance(cache, ScaledPages):
                page, offset = np.divmod(batch.slot_mapping[layer.attention.group], cache.numbers.shape[2])
                place = layer.kv_index, page, offset
                cache.scales[place] = change(cache.scales[place])
        return kv

    device.ops.attention.write = write


@bug("attention", "a token's K and V have the scale of the token before it")
def scale_of_the_wrong_token(device):
    after_writes(device, lambda scales: np.roll(scales, 1, axis=0))


@bug("kv_write", "all KV heads of a token share the first one's scale")
def scale_of_the_first_head(device):
    after_writes(device, lambda scales: np.broadcast_to(scales[:, :1], scales.shape))


@bug("attention", "the scale of a vector of zeros is not a number")
def zeros_become_nan(device):
    after_writes(device, lambda scales: np.where(scales == 0, np.nan, scales))


@bug("attention", "V is read without its scales")
def scale_missing_on_values(device):
    right = device.ops.attention.attend

    def unscaled(cache):
        return replace(cache, scales=np.ones_like(cache.scales)) if isinstance(cache, ScaledPages) else cache

    def attend(q, kv, batch, layer):
        return right(q, [(k, unscaled(v)) for k, v in kv], batch, layer)

    device.ops.attention.attend = attend


@bug("allocator", "a page copy leaves the scales behind")
def scales_not_copied(device):
    right = device.allocator.copy_pages

    def copy_pages(kv, group, source, target):
        kept = [(c, c.scales.copy()) for c in kv[group] if isinstance(c, ScaledPages)]
        kv = right(kv, group, source, target)
        for cache, scales in kept:
            cache.scales[:] = scales
        return kv

    device.allocator.copy_pages = copy_pages


@bug("allocator", "the scales of 8 bits do not count in the budget")
def scales_not_counted(device):
    right = device.allocator.layout

    def layout(spec, *, budget, **asked):
        dim = spec.groups[0].k_dim
        return right(spec, budget=budget * (dim + 4) // dim if spec.dtype in SCALED_KV else budget, **asked)

    device.allocator.layout = layout


@bug("allocator", "KV is kept in a format that is not declared")
def undeclared_kv_format_accepted(device):
    claims = device.capabilities
    device.capabilities = replace(claims, kv_dtypes=tuple(d for d in claims.kv_dtypes if d != "fp8"))
