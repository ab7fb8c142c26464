"""Bugs of quantised weights, planted in a device that rounds weights to a format's numbers and multiplies plainly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anychip_sdk.contract import QUANT_FORMATS, NotSupported

from bugs.registry import bug

FORMATS = ("int8", "int4-g32")


def quantising(device, numbers, *, tables=False):
    """numbers: (groups [O, G, I / G], bits) -> what stands for them. tables: of embeddings too. Returns what is
    quantised, which grows as weights are packed."""
    made = []
    device.capabilities = replace(device.capabilities, quantize=FORMATS)
    pack = device.pack

    def rounded(x, form):
        groups = x.reshape(len(x), -1, form.group or x.shape[1])
        return numbers(groups, form.bits).reshape(x.shape).astype(x.dtype)

    def packed(spec, read, shapes, dtype):
        if spec.quantize not in (None, *FORMATS):
            raise NotSupported(f"no {spec.quantize} here")
        w = pack(replace(spec, quantize=None), read, shapes, dtype)
        if spec.quantize is None or (spec.kind == "embedding" and not tables):
            return w
        made.append(replace(w, parts=tuple(rounded(part, QUANT_FORMATS[spec.quantize]) for part in w.parts)))
        return made[-1]

    device.pack = packed
    return made


def scale_of(groups, bits):
    return np.abs(groups).max(axis=-1, keepdims=True) / (2 ** (bits - 1) - 1)


def nearest(groups, bits):
    scale = scale_of(groups, bits)
    return np.round(groups / scale) * scale


@bug("ops", "a group of quantised weights is scaled by its neighbour's scale")
def scale_of_the_next_group(device):
    def numbers(groups, bits):
        scale = scale_of(groups, bits)
        return np.round(groups / scale) * np.roll(scale, 1, axis=1)

    quantising(device, numbers)


@bug("ops", "the largest number of a quantised group wraps to the smallest")
def largest_number_wraps(device):
    def numbers(groups, bits):
        scale = np.abs(groups).max(axis=-1, keepdims=True) / 2 ** (bits - 1)
        found = np.round(groups / scale)
        return np.where(found == 2 ** (bits - 1), -found, found) * scale

    quantising(device, numbers)


@bug("ops", "an embedding is quantised along with the head it serves as")
def table_quantised_with_its_head(device):
    quantising(device, nearest, tables=True)


@bug("ops", "few greedy rows of a quantised head stop at its upper six bits")
def greedy_stops_at_six_bits(device):
    made = quantising(device, nearest)

    def greedy_logits(x, w):
        if len(x) <= 4 and any(w is one for one in made):
            step = 4 * scale_of(w.parts[0], 8)
            w = replace(w, parts=(np.round(w.parts[0] / step) * step,))
        return device.ops.logits(x, w)

    device.ops.greedy_logits = greedy_logits
