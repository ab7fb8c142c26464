"""Where each op comes from, and what `--strict` makes of it."""

from __future__ import annotations

from typing import ClassVar

import pytest
from anychip import LLM, PlatformError, SamplingParams
from anychip.platforms.op_table import OpEntry, op_table, refuse_reference
from anychip.platforms.selection import choose, open_device
from anychip_sdk.contract import Allocator, Attention, Device, DeviceInfo, Ops
from anychip_sdk.kits.numpy import NumpyAttention, NumpyDevice, NumpyOps


class MyAttention(NumpyAttention):
    def attend(self, q, kv, batch, layer):
        return super().attend(q, kv, batch, layer)


class MyOps(NumpyOps):
    adopted: ClassVar = {"rms_norm": "as fast as ours"}

    def linear(self, x, w):
        return super().linear(x, w)


class MyDevice(NumpyDevice):
    def __init__(self) -> None:
        super().__init__(DeviceInfo(name="mine", description="", details={}))
        self.ops = MyOps()
        self.ops.attention = MyAttention()


def entries(device: Device) -> dict[str, OpEntry]:
    return {entry.op: entry for entry in op_table(device)}


@pytest.mark.parametrize("name", ["cpu", "numpy"])
def test_every_op_of_the_contract_has_an_entry(name):
    device = open_device(choose(name), None)
    assert isinstance(device, Device)
    table = entries(device)
    for prefix, contract in (("", Ops), ("attention.", Attention), ("allocator.", Allocator)):
        assert {prefix + n for n, m in vars(contract).items() if callable(m) and n[0] != "_"} <= set(table)
    assert not any(entry.reference for entry in table.values())
    assert all(entry.provider and entry.reason and entry.dtype == "float32" for entry in table.values())
    refuse_reference(op_table(device), name)
    device.close()


def test_each_entry_says_who_provides_it_and_why():
    table = entries(MyDevice())
    assert table["linear"].provider.endswith("test_op_table.MyOps")
    assert table["linear"].reason == "the platform's own"
    assert table["rms_norm"].reason == "as fast as ours"
    assert table["rms_norm"].provider.endswith("anychip_sdk.kits.numpy.ops.NumpyOps")
    assert table["embedding"].reason == "reference code: the platform has none"
    assert table["attention.run"].reason == "the contract's default, made of other ops"
    assert table["attention.attend"].reason == "the platform's own"
    assert [table[op].reference for op in ("linear", "rms_norm", "embedding", "attention.run")] == [
        False,
        False,
        True,
        False,
    ]


def test_an_op_of_a_provider_names_the_library():
    device = MyDevice()
    device.ops.provided = {"embedding": "some library 1.0: gather", "attention.write": "some library 1.0: put"}
    table = entries(device)
    for op, provider in device.ops.provided.items():
        assert (table[op].provider, table[op].reason) == (provider, "asked for as a provider")
        assert not table[op].reference
    assert table["take"].reference


def test_strict_names_the_reference_code():
    with pytest.raises(PlatformError) as caught:
        refuse_reference(op_table(MyDevice()), "mine")
    message = str(caught.value)
    assert message.startswith("--strict: mine runs embedding, ")
    assert "attention.write" in message
    assert "rms_norm" not in message
    assert "linear," not in message
    assert message.endswith("; leave --strict out, or install a version of the platform that has them")


def test_strict_reaches_the_engine(install):
    install("mine", open="from test_op_table import MyDevice; return MyDevice()")
    params = SamplingParams(temperature=0, max_tokens=2)
    with LLM("demo", "mine") as llm:
        assert llm.generate("def f", params)[0].finished
    with pytest.raises(PlatformError, match="--strict: mine runs embedding, "):
        LLM("demo", "mine", strict=True)
