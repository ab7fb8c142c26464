"""KV in 8 bits: numbers with a scale for each vector, in the kits of numpy, torch and JAX."""

from __future__ import annotations

import jax_cases
import numpy as np
import pytest
import torch
from anychip_sdk.contract import SCALED_KV, AttentionSpec, KVLayout, KVSpec, Layer, Paged
from anychip_sdk.kits.jax.scaled import load
from anychip_sdk.kits.numpy.scaled import read
from anychip_sdk.kits.torch.scaled import formats, gather, scaled
from numpy_batches import ragged
from torch_cases import ORACLE, kit_device, on_device

K, D, SIZE = 3, 8, 4
GROUP = Paged(layers=2, kv_heads=K, k_dim=D, v_dim=D)
LAYER = Layer(AttentionSpec(head_dim=D, scale=0.3), 1)
DEVICES = {"numpy": ORACLE, "torch": kit_device(), "jax": jax_cases.kit_device()}


def vectors() -> np.ndarray:
    """[tokens, K, D] of magnitudes from 1e-30 to 1e30, some zero."""
    drawn = np.random.default_rng(0).standard_normal((7, K, D)).astype(np.float32)
    return drawn * np.float32([1, 1e-30, 0, 1e30, 1e-3, 100, 7])[:, None, None]


def written(name: str, kept: str, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k and v [T, K, D] as pages 2 and 1 of the device give them back."""
    device, host = DEVICES[name], ragged([(0, len(k))], [[2, 1]], SIZE)
    kv = device.allocator.allocate(KVLayout(KVSpec((GROUP,), kept), SIZE, (3,), slots=2))
    attention, pages = device.ops.attention, np.array([2, 1])
    if name == "numpy":
        kv = attention.write(k, v, kv, host, LAYER)
        found = [read(cache, 1, pages, np.dtype(np.float32)) for cache in kv[0]]
        return tuple(rows[: len(k)] for rows in found)
    if name == "jax":
        write = jax_cases.traced(device, host.key, lambda batch, *arrays: attention.write(*arrays, batch, LAYER))
        kv = write(jax_cases.words_of(host), k, v, kv)
        found = [np.asarray(load(cache, 1, pages, np.dtype(np.float32))).swapaxes(1, 2) for cache in kv[0]]
        return tuple(rows.reshape(-1, K, D)[: len(k)] for rows in found)
    kv = attention.write(torch.from_numpy(k), torch.from_numpy(v), kv, on_device(device, host), LAYER)
    rows = torch.from_numpy(pages[:, None] * K + np.arange(K)).flatten()
    found = [gather(layers[1], rows, torch.float32).view(2, K, SIZE, D).transpose(1, 2) for layers in kv[0]]
    return tuple(x.reshape(-1, K, D)[: len(k)].numpy() for x in found)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("kept", SCALED_KV)
def test_every_vector_has_a_scale_of_its_own(name, kept):
    k, v = vectors(), vectors()[::-1].copy()
    for got, right in zip(written(name, kept, k, v), (k, v), strict=True):
        most = np.abs(right).max(-1, keepdims=True)
        allowed = most / 254 if kept == "int8" else np.maximum(np.abs(right) / 16, most * 2.0**-19)
        assert (np.abs(got - right) <= allowed * (1 + 1e-5)).all()
        assert not got[right == 0].any()
        largest = np.abs(right) == most
        np.testing.assert_allclose(got[largest], right[largest], rtol=1e-6)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("kept", SCALED_KV)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_not_a_number_and_spoils_no_other(name, kept, bad):
    k = vectors()
    k[4, 1, 3] = bad
    with np.errstate(all="ignore"):
        got, _ = written(name, kept, k, k)
    spoiled = np.zeros(k.shape[:2], bool)
    spoiled[4, 1] = True
    assert np.isnan(got[spoiled]).all()
    assert np.isfinite(got[~spoiled]).all()


@pytest.mark.parametrize("kept", SCALED_KV)
def test_both_kits_keep_the_same(kept):
    k = vectors()
    for one, other in zip(written("numpy", kept, k, k), written("torch", kept, k, k), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_the_largest_of_a_vector_is_never_beyond_the_format():
    """Its scale is rounded, so that it may come out a little above: in e4m3 that would be NaN."""
    drawn = torch.rand(4096, 2, generator=torch.Generator().manual_seed(3)) * 1e-37
    for dtype, most in ((torch.int8, 127), (torch.float8_e4m3fn, 448)):
        numbers, _ = scaled(drawn, dtype)
        assert numbers.float().abs().amax(-1).eq(most).all()


def test_pages_count_their_scales():
    spec = KVSpec((GROUP,), "int8")
    assert spec.page_bytes(0, SIZE) == 2 * SIZE * K * (2 * D + 2 * 4)
    assert KVSpec((GROUP,), "fp8").page_bytes(0, SIZE) == spec.page_bytes(0, SIZE)
    held = sum(t.nbytes for layers in DEVICES["torch"].allocator.allocate(KVLayout(spec, SIZE, (5,), 2))[0]
               for pages in layers for t in pages)  # fmt: skip
    assert held == 5 * spec.page_bytes(0, SIZE)


def test_fp8_needs_casts():
    assert formats("cpu") == ("int8", "fp8")
