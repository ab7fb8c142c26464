"""The device `numpy`: how it is found, opened, and how its steps run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from anychip_sdk.contract import (
    Bucket,
    DeviceError,
    DeviceInfo,
    Found,
    KVSpec,
    NotSupported,
    OutOfMemory,
    Paged,
    Sampled,
    StepKey,
    WeightSpec,
    view,
    words,
)
from anychip_sdk.kits.numpy import CAPABILITIES, NumpyDevice
from anychip_sdk.kits.numpy.platform import NumpyPlatform
from anychip_sdk.kits.numpy.plugin import anychip_platform

KEY = StepKey(Bucket(1, 1, 1, 1, True))


@pytest.fixture
def device() -> NumpyDevice:
    return NumpyPlatform().open()


def test_the_plugin_names_the_platform_and_comes_last():
    manifest = anychip_platform()
    assert (manifest.name, manifest.rank) == ("numpy", 0)
    assert manifest.platform == f"{NumpyPlatform.__module__}:{NumpyPlatform.__qualname__}"


def test_there_is_one_device():
    found = NumpyPlatform().probe()
    assert isinstance(found, Found)
    assert [info.name for info in found.devices] == ["numpy"]
    assert found.devices[0].details == {"numpy": np.__version__}


def test_what_open_refuses():
    with pytest.raises(DeviceError, match="no device numpy:1; there is one, numpy:0"):
        NumpyPlatform().open(1)
    with pytest.raises(DeviceError, match=r"cannot be set to 2 threads .* set OMP_NUM_THREADS"):
        NumpyPlatform().open(threads=2)


def test_claims(device):
    claims = device.capabilities
    assert claims.weight_dtypes == ("float32", "float64")
    assert claims.kv_dtypes == ("float32", "float64", "int8", "fp8")
    assert claims.page_sizes == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert (claims.moe, claims.softcap, claims.sliding_window, claims.device_feedback) == (True,) * 4
    assert not claims.batch_invariant  # a BLAS may choose another kernel for another number of rows


def test_a_vendor_claims_less_than_the_kit_has():
    claims = replace(CAPABILITIES, weight_dtypes=("float32",), kv_dtypes=("float32",), page_sizes=(32, 64))
    device = NumpyDevice(DeviceInfo(name="mine", description="planted", details={}), claims)
    assert device.capabilities is claims
    spec = KVSpec((Paged(layers=1, kv_heads=1, k_dim=2, v_dim=2),), "float32")
    asked = {"budget": 10**6, "max_len": 64, "slots": 2}
    assert device.allocator.layout(spec, page_size=None, **asked).page_size == 32
    with pytest.raises(NotSupported, match="there are no pages of 16 tokens; use 32, 64"):
        device.allocator.layout(spec, page_size=16, **asked)
    with pytest.raises(NotSupported, match="there is no KV in int8; use float32"):
        device.allocator.layout(replace(spec, dtype="int8"), page_size=None, **asked)
    with pytest.raises(NotSupported, match="mine does not compute in float64; use float32"):
        device.pack(WeightSpec((("w",),), "linear"), lambda name, index=(): None, {"w": (2, 2)}, "float64")


def test_a_state_and_a_buffer_are_zero_and_new(device):
    assert device.state(3).last_token.tolist() == [0, 0, 0]
    assert device.state(3).last_token.dtype == np.int32
    first = device.lend(words(KEY))
    first[:] = 7
    second = device.lend(words(KEY))
    assert not second.any()
    assert (second.dtype, second.shape) == (np.int32, (words(KEY),))
    assert device.bucket(KEY.bucket) is KEY.bucket


def test_a_step_takes_tokens_that_the_step_before_sampled(device):
    """The "model" says: the next token is this one plus one."""

    def step(weights, kv, state, batch):
        ids = device.ops.feed(batch, state)
        sampled, state = device.ops.sample(np.eye(8, dtype=np.float32)[ids + 1], batch, state)
        return sampled, kv, state

    state, kv = device.state(2), []
    run = device.compile(step, KEY)
    pending = []
    for feed in (0, 1, 1):
        buffer = device.lend(words(KEY))
        batch = view(buffer, KEY)
        batch.token_ids[0], batch.feed[0], batch.token_slot[0], batch.row_slot[0] = 3, feed, 1, 1
        result, kv, state = run(None, kv, state, buffer)
        pending.append(result)
    assert [p.get().tokens.tolist() for p in pending] == [[4], [5], [6]]  # not overwritten by later steps
    device.close()


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (MemoryError("1 TiB"), OutOfMemory, "no memory for the step: 1 TiB"),
        (IndexError("index 9 is out of bounds"), DeviceError, "the step failed: index 9 is out of bounds"),
    ],
)
def test_a_failed_step_is_the_devices_error(device, error, raised, message):
    def step(weights, kv, state, batch):
        raise error

    with pytest.raises(raised, match=message):
        device.compile(step, KEY)(None, [], device.state(1), device.lend(words(KEY)))


@pytest.mark.filterwarnings("error")
def test_nan_in_a_step_gives_no_warning(device):
    def step(weights, kv, state, batch):
        return Sampled(np.float32([np.inf]) - np.float32([np.inf])), kv, state

    result, _, _ = device.compile(step, KEY)(None, [], device.state(1), device.lend(words(KEY)))
    assert np.isnan(result.get().tokens).all()
