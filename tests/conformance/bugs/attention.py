"""Bugs of paged attention and of KV writes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
from anychip_sdk.kits.numpy.math import rms_norm, rotate
from anychip_sdk.kits.numpy.scaled import ScaledPages, cells, read

from bugs.registry import bug


def attend(device, *, end=None, start=None, head=None, pages=None, weights=None, values=None, scale=None):
    """The kit's loop over tokens and heads, with some of its parts replaced."""

    def run(q, kv, batch, layer):
        spec = layer.attention
        caches = kv[spec.group]
        size, heads = cells(caches[0]).shape[2:4]
        T, H, D = q.shape
        out = np.zeros((T, H, cells(caches[1]).shape[-1]), q.dtype)
        for seq in range(int(batch.counts[1])):
            table = batch.page_table[spec.group, seq]
            table = table if pages is None else pages(table)
            k, v = (read(cache, layer.kv_index, table, q.dtype) for cache in caches)
            for t in range(int(batch.query_start[seq]), int(batch.query_start[seq + 1])):
                last = int(batch.positions[t]) + 1
                first = 0 if spec.window is None else max(0, last - spec.window)
                if start is not None:
                    first = start(last, spec, batch, seq)
                if end is not None:
                    last = max(first + 1, end(last, size))
                for h in range(H):
                    g = h // (H // heads) if head is None else head(h, H, heads)
                    s = k[:, g] @ q[t, h] * (spec.scale if scale is None else scale(D))
                    p = (weights or softmax)(s, first, last, spec)
                    seen = v[first:last, g] if values is None else values(v[:, g])
                    out[t, h] = (p[first:last] if values is None else p) @ seen
        return out.reshape(T, -1)

    device.ops.attention.attend = run


def softmax(s, first, last, spec):
    """[N] scores -> [N] weights, zero outside first..last - 1."""
    p, seen = np.zeros_like(s), s[first:last]
    if spec.softcap is not None:
        seen = spec.softcap * np.tanh(seen / spec.softcap)
    e = np.exp(seen - seen.max())
    p[first:last] = e / e.sum()
    return p


@bug("attention", "the last token of a full page is not seen")
def last_of_a_full_page_unseen(device):
    attend(device, end=lambda last, size: last - (last % size == 0))


@bug("attention", "one token past the sequence's end is seen")
def one_past_the_end(device):
    attend(device, end=lambda last, size: last + (last % size != 0))


@bug("attention", "query head h reads KV head h mod K")
def kv_heads_interleaved(device):
    attend(device, head=lambda h, H, K: h % K)


@bug("attention", "the ratio of heads is rounded down to a power of two")
def odd_ratios_rounded(device):
    attend(device, head=lambda h, H, K: min(K - 1, h >> ((H // K).bit_length() - 1)))


@bug("attention", "pages are taken to follow one another")
def pages_taken_as_consecutive(device):
    attend(device, pages=lambda table: np.where(table > 0, table[0] + np.arange(len(table)), 0) % (table.max() + 1))


@bug("attention", "the softcap comes after the mask, so masked places weigh something")
def softcap_after_the_mask(device):
    def weights(s, first, last, spec):
        place = np.arange(len(s))
        masked = np.where((place >= first) & (place < last), np.nan_to_num(s), -1e9)
        if spec.softcap is None:
            return softmax(s, first, last, spec)
        e = np.exp(spec.softcap * np.tanh(masked / spec.softcap))
        return e / e.sum()

    attend(device, weights=weights)


@bug("attention", "softcap is declared and not applied")
def softcap_overdeclared(device):
    attend(device, weights=lambda s, first, last, spec: softmax(s, first, last, replace(spec, softcap=None)))


@bug("attention", "the window holds one token too many")
def window_one_too_wide(device):
    attend(device, start=lambda last, spec, *_: 0 if spec.window is None else max(0, last - spec.window - 1))


@bug("attention", "the window holds for decodes only")
def window_of_decodes_only(device):
    def start(last, spec, batch, seq):
        decodes = batch.query_start[seq + 1] - batch.query_start[seq] == 1
        return max(0, last - spec.window) if spec.window is not None and decodes else 0

    attend(device, start=start)


@bug("attention", "masked places are multiplied by zero, so NaN in them leaks")
def nan_leaks(device):
    attend(device, values=lambda v: v)


@bug("attention", "the softmax does not subtract the largest score")
def softmax_without_the_maximum(device):
    def weights(s, first, last, spec):
        seen = s[first:last] if spec.softcap is None else spec.softcap * np.tanh(s[first:last] / spec.softcap)
        p = np.zeros_like(s)
        p[first:last] = np.exp(seen) / np.exp(seen).sum()
        return p

    attend(device, weights=weights)


@bug("attention", "scores are scaled by the root of head_dim, whatever the model says")
def scale_of_its_own(device):
    attend(device, scale=lambda D: D**-0.5)


@bug("attention", "the page table of an earlier step of the same shape is used again")
def plan_reused_across_steps(device):
    kept, right = {}, device.ops.attention.attend

    def run(q, kv, batch, layer):
        table = kept.setdefault((batch.page_table.shape, tuple(batch.seq_lens.tolist())), batch.page_table.copy())
        return right(q, kv, replace(batch, page_table=table), layer)

    device.ops.attention.attend = run


@bug("attention", "every layer reads the first one's pages")
def layer_mixed_up(device):
    right = device.ops.attention.attend
    device.ops.attention.attend = lambda q, kv, batch, layer: right(q, kv, batch, replace(layer, kv_index=0))


@bug("attention", "q and k are rotated before they are normed")
def rope_before_the_norm(device):
    attention = device.ops.attention

    def prepare(q, k, v, kv, batch, layer, *, angles=None, q_norm=None, k_norm=None):
        D = layer.attention.head_dim
        q, k = q.reshape(len(q), -1, D), k.reshape(len(k), -1, D)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        if q_norm is not None:
            q, k = rms_norm(q, q_norm, layer.attention.eps), rms_norm(k, k_norm, layer.attention.eps)
        return q, attention.write(k, v.reshape(len(v), k.shape[1], -1), kv, batch, layer)

    attention.prepare = prepare


@bug("attention", "windows are declared, but refused when it comes to it")
def window_declared_and_refused(device):
    from anychip_sdk.contract import NotSupported

    def supports(spec):
        if spec.window is not None or spec.head_dim > device.capabilities.max_head_dim:
            raise NotSupported("no windows")

    device.ops.attention.supports = supports


def parts(cache):
    """The arrays of K's or V's pages: in 8 bits numbers and scales."""
    return (cache.numbers, cache.scales) if isinstance(cache, ScaledPages) else (cache,)


def write(device, where, before=None):
    """The kit's write, to pages and offsets of another making: where(page, offset, size) -> page, offset."""

    def run(k, v, kv, batch, layer):
        group = layer.attention.group
        for cache, new in zip(kv[group], (k, v), strict=True):
            size = cells(cache).shape[2]
            page, offset = where(*np.divmod(batch.slot_mapping[group], size), size)
            if before is not None:
                for part in parts(cache):
                    before(part[layer.kv_index], page, offset)
            if isinstance(cache, ScaledPages):
                cache.write(layer.kv_index, page, offset, new)
            else:
                cache[layer.kv_index, page, offset] = new
        return kv

    device.ops.attention.write = run


@bug("kv_write", "a page that was read is kept, and is stale once it has been freed and written anew")
def stale_page_after_free(device):
    right, kept = device.ops.attention.attend, {}

    def run(q, kv, batch, layer):
        group, index = layer.attention.group, layer.kv_index
        mixed = deepcopy(kv)
        arrays = [
            pair
            for caches in zip(mixed[group], kv[group], strict=True)
            for pair in zip(*map(parts, caches), strict=True)
        ]
        for page in np.unique(batch.page_table[group]):
            for cache, now in arrays:
                # What is kept holds the array, whose id would else be another's later.
                _, old = kept.setdefault((id(now), index, int(page)), (now, now[index, page].copy()))
                cache[index, page] = old if page else now[index, page]
        return right(q, mixed, batch, layer)

    device.ops.attention.attend = run


@bug("kv_write", "the last slot of a page is written to the one before it")
def last_slot_missed(device):
    write(device, lambda page, offset, size: (page, np.minimum(offset, max(0, size - 2))))


@bug("kv_write", "padding is written to page 1 instead of scratch")
def padding_written_to_a_page(device):
    write(device, lambda page, offset, size: (np.where((page == 0) & (offset == 0), 1, page), offset))


@bug("kv_write", "a write clears the rest of its page")
def rest_of_the_page_cleared(device):
    def clear(cache, page, offset):
        for p, o in zip(page, offset, strict=True):
            cache[p, o:] = 0

    write(device, lambda page, offset, size: (page, offset), clear)


@bug("kv_write", "all KV groups are written with the first one's slots")
def groups_share_slots(device):
    right = device.ops.attention.write

    def run(k, v, kv, batch, layer):
        mapping = np.repeat(batch.slot_mapping[:1], len(batch.slot_mapping), 0)
        return right(k, v, kv, replace(batch, slot_mapping=mapping), layer)

    device.ops.attention.write = run


@bug("kv_write", "values of long steps are written in the wrong order")
def writes_out_of_order(device):
    right = device.ops.attention.write
    device.ops.attention.write = lambda k, v, kv, batch, layer: right(
        k, np.roll(v, 1, axis=0) if len(v) > 16 else v, kv, batch, layer
    )


def sinks(device, sink):
    """The kit's sinks, changed. sink: (sinks [H], K, spec) -> sinks."""
    attention = device.ops.attention

    def run(q, kv, batch, layer, handle):
        K = cells(kv[layer.attention.group][0]).shape[3]
        changed = sink(handle.only("vector"), K, layer.attention)
        return attention._attend(q, kv, batch, layer, None if changed is None else changed.astype(q.dtype))

    attention.attend_with_sinks = run


@bug("attention", "sinks are declared and forgotten")
def sinks_forgotten(device):
    sinks(device, lambda s, K, spec: None)


@bug("attention", "a sink counts once for each of two chunks")
def sinks_counted_twice(device):
    sinks(device, lambda s, K, spec: s + np.log(2.0))


@bug("attention", "the sinks are those of the KV heads")
def sinks_of_kv_heads(device):
    sinks(device, lambda s, K, spec: s[np.arange(len(s)) // (len(s) // K)])


@bug("attention", "a sink is scaled as the scores are")
def sinks_scaled(device):
    sinks(device, lambda s, K, spec: s * spec.scale)


@bug("attention", "a sink is capped as the scores are")
def sinks_capped(device):
    sinks(device, lambda s, K, spec: s if spec.softcap is None else spec.softcap * np.tanh(s / spec.softcap))
