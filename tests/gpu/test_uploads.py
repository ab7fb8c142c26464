"""Weights on their way to a card, over a fake stream whose copies happen as late as they may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
import torch
from anychip_sdk.contract import DeviceInfo, WeightSpec
from anychip_sdk.kits.torch.weights import join
from anychip_sdk.kits.triton import TritonDevice
from anychip_sdk.kits.triton.uploads import BUFFERS, Uploads

CPU = torch.device("cpu")


@dataclass
class Late:
    """A copy that is made when somebody waits for it."""

    run: Callable[[], object] | None

    def synchronize(self):
        if self.run is not None:
            self.run()
            self.run = None


@dataclass
class LateStream:
    """`log`: b for begin, c for a copy, e for end."""

    queued: list[Late] = field(default_factory=list)
    buffers: int = 0
    log: str = ""

    def buffer(self, size):
        self.buffers += 1
        return torch.empty(size, dtype=torch.uint8)

    def begin(self):
        self.log += "b"

    def copy(self, target, source):
        self.log += "c"
        self.queued.append(Late(lambda: target.copy_(source)))
        return self.queued[-1]

    def end(self):
        self.log += "e"
        for copy in self.queued:
            copy.synchronize()


def draw(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kept", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_arrives_is_what_was_in_the_file(dtype, kept):
    """Larger and smaller than a buffer, strided, of one axis, and empty."""
    arrays = [
        draw(5, 24, dtype=kept),
        draw(3, 24, dtype=kept),
        draw(4, 48, dtype=kept)[:, ::2],
        draw(0, 24, dtype=kept),
    ]
    stream = LateStream()
    upload, kind = Uploads(stream, size=100), getattr(torch, dtype)
    for case in (arrays, [draw(7, dtype=kept)], arrays[:1]):
        got = upload(case, kind, CPU)
        assert got.dtype == kind
        assert got.equal(join(case, kind, CPU))
    assert stream.buffers == BUFFERS


def test_a_buffer_is_filled_again_only_when_its_copy_is_done():
    array = draw(40)  # 160 bytes, of which a buffer holds 16
    stream = LateStream()
    got = Uploads(stream, size=16)([array], torch.float32, CPU)
    assert got.equal(torch.from_numpy(array))
    assert stream.log == "b" + 10 * "c" + "e"
    assert stream.buffers == BUFFERS


def test_read_only_files_are_read_without_a_copy_of_them(recwarn):
    array = draw(6, 4)
    array.flags.writeable = False
    assert Uploads(LateStream())([array], torch.float32, CPU).equal(torch.tensor(array))
    assert not recwarn.list


def test_a_device_packs_over_its_stream():
    """Parts of one product, a stack of experts, and a bias, each straight into its place."""
    stream = LateStream()
    device = TritonDevice(DeviceInfo(name="fake", description="", details={}), "cpu", graphs=None, copies=stream)
    plain = TritonDevice(DeviceInfo(name="fake", description="", details={}), "cpu", graphs=None)
    tensors = {f"{e}.{n}": draw(4 + i, 6) for e in range(3) for i, n in enumerate("gu")}
    tensors |= {"b": draw(4), "c": draw(5), "n": draw(6)}
    shapes = {name: t.shape for name, t in tensors.items()}
    for spec in (
        WeightSpec((("0.g",), ("1.u",)), "linear", tp="out", bias=("b", "c")),
        WeightSpec((tuple(f"{e}.g" for e in range(3)), tuple(f"{e}.u" for e in range(3))), "experts"),
        WeightSpec((("n",),), "norm", offset=1.0),
    ):
        got, wanted = (
            d.pack(spec, lambda name, index=(): tensors[name][index], shapes, "bfloat16") for d in (device, plain)
        )
        assert got.sizes == wanted.sizes
        assert got.tensor.equal(wanted.tensor)
        assert (got.bias is None) == (wanted.bias is None)
        assert got.bias is None or got.bias.equal(wanted.bias)
    assert stream.log.count("b") == stream.log.count("e") == 2 + 2 + 6 + 1
    experts = plain.pack(
        WeightSpec((tuple(f"{e}.g" for e in range(3)), tuple(f"{e}.u" for e in range(3))), "experts"),
        lambda name, index=(): tensors[name][index], shapes, "float32",
    )  # fmt: skip
    assert experts.tensor[1].equal(torch.from_numpy(np.concatenate((tensors["1.g"], tensors["1.u"]))))
