"""The plugin's form: what its manifest, probe, device and capabilities must look like before anything is computed."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from typing import Any, get_args

import numpy as np
import pytest

from anychip_sdk.conformance.marks import check
from anychip_sdk.conformance.plugin import Settings
from anychip_sdk.conformance.under_test import UnderTest
from anychip_sdk.contract import (
    SCALED_KV,
    Absent,
    Allocator,
    Attention,
    Broken,
    Bucket,
    Capabilities,
    Communicator,
    Device,
    DeviceError,
    DeviceInfo,
    DType,
    Found,
    Manifest,
    NotSupported,
    Ops,
    Platform,
    Provider,
    SampleKind,
    StepKey,
    StepPlugin,
    words,
)
from anychip_sdk.contract.version import runs, supported

FRAMEWORKS = ("torch", "jax", "tensorflow", "cupy", "numba", "openvino", "triton", "mlx")
_IMPORTS = """
import sys
from anychip_sdk.conformance.under_test import manifest_of
from importlib.metadata import entry_points
if sys.argv[1] == "--plugin":
    manifest_of(sys.argv[2])
else:
    next(p for p in entry_points(group="anychip.platforms") if p.name == sys.argv[2]).load()
print("loaded", *sys.modules)
"""


@check(since="1.0", level="bronze")
def test_the_manifest_is_sound(under_test: UnderTest) -> None:
    manifest = under_test.manifest
    assert isinstance(manifest, Manifest)
    assert re.fullmatch(r"[a-z][a-z0-9_-]*", manifest.name), f"name is {manifest.name!r}; expected lower-case letters"
    assert manifest.name != "auto", "the name auto is taken"
    assert isinstance(manifest.rank, int), f"rank is {manifest.rank!r}; expected a whole number >= 0"
    assert manifest.rank >= 0, f"rank is {manifest.rank}; expected a whole number >= 0"
    assert "\n" not in manifest.summary.strip() and manifest.summary, "summary must be one line"  # noqa: PT018
    theirs = manifest.contract
    assert runs(theirs), f"it is written for contract {theirs}; this engine runs {supported()}"


@check(since="1.0", level="bronze")
def test_finding_it_imports_no_framework(under_test: UnderTest, settings: Settings) -> None:
    """Every `anychip` command looks at all manifests: none may cost seconds."""
    asked = ["--plugin", settings.plugin] if settings.plugin else ["--name", under_test.manifest.name]
    done = subprocess.run(  # noqa: S603 - our own module, no shell
        [sys.executable, "-c", _IMPORTS, *asked], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    modules = {name.partition(".")[0] for name in done.stdout.rpartition("loaded")[2].split()}
    heavy = sorted(modules & set(FRAMEWORKS))
    assert not heavy, f"the module of the manifest imports {', '.join(heavy)}; import it in the platform's open instead"


@check(since="1.0", level="bronze")
def test_the_probe_finds_it_every_time(under_test: UnderTest) -> None:
    assert isinstance(under_test.platform, Platform)
    first, second = under_test.platform.probe(), under_test.platform.probe()
    assert isinstance(first, Found), f"the probe says {first}"
    assert first == second, "two probes differ"
    for result in (first, second):
        assert not isinstance(result, Absent | Broken)


@check(since="1.0", level="bronze")
def test_devices_are_described(under_test: UnderTest) -> None:
    result, name = under_test.platform.probe(), under_test.manifest.name
    assert isinstance(result, Found)
    assert result.devices, "the probe found no device"
    names = [info.name for info in result.devices]
    assert len(set(names)) == len(names), f"two devices have one name: {names}"
    for info in result.devices:
        assert isinstance(info, DeviceInfo)
        assert re.fullmatch(rf"{re.escape(name)}(:\d+)?", info.name), f"a device is called {info.name!r}, not {name}:N"
        assert info.description, f"{info.name} has no description"
        assert all(isinstance(k, str) and isinstance(v, str) for k, v in info.details.items()), "details must be texts"


@check(since="1.0", level="bronze")
def test_a_device_that_is_not_there_is_refused(under_test: UnderTest) -> None:
    result = under_test.platform.probe()
    assert isinstance(result, Found)
    with pytest.raises(DeviceError):
        under_test.platform.open(len(result.devices) + 7)


@check(since="1.3", level="bronze")
def test_providers_are_described_and_others_refused(under_test: UnderTest) -> None:
    platform = under_test.platform
    providers = platform.providers()
    names = [p.name for p in providers]
    assert len(set(names)) == len(names), f"two providers have one name: {names}"
    for p in providers:
        assert isinstance(p, Provider)
        assert re.fullmatch(r"[a-z][a-z0-9_-]*", p.name), (
            f"a provider is called {p.name!r}; expected lower-case letters"
        )
        assert p.summary and "\n" not in p.summary, f"the summary of {p.name} must be one line"  # noqa: PT018
        if p.broken is not None:
            with pytest.raises(DeviceError):
                platform.open_with(p.name, under_test.index)
    with pytest.raises(NotSupported):
        platform.open_with("no-such-provider", under_test.index)


@check(since="1.3", level="bronze")
def test_no_provider_is_taken_unasked(under_test: UnderTest) -> None:
    device = under_test.platform.open(under_test.index)
    try:
        taken = device.ops.provided if isinstance(device, Device) else {}
        assert not taken, f"nobody asked for a provider, but one computes {', '.join(taken)}"
    finally:
        device.close()


@check(since="1.0", level="bronze")
def test_the_device_has_all_its_parts(opened: Device | StepPlugin) -> None:
    assert isinstance(opened, Device | StepPlugin), f"open gave {opened!r}"
    assert isinstance(opened.info, DeviceInfo)
    assert isinstance(opened.capabilities, Capabilities)
    if isinstance(opened, Device):
        parts: tuple[tuple[Any, type], ...] = (
            (opened.ops, Ops), (opened.ops.attention, Attention), (opened.allocator, Allocator),
            (opened.communicator, Communicator),
        )  # fmt: skip
        for part, kind in parts:
            assert isinstance(part, kind), f"{part!r} is no {kind.__name__}"
        assert (opened.rank, opened.size) == (opened.communicator.rank, opened.communicator.size)
        assert opened.size >= 1 and 0 <= opened.rank < opened.size  # noqa: PT018


@check(since="1.0", level="bronze")
def test_methods_keep_the_contract_s_signatures(opened: Device | StepPlugin) -> None:
    """Methods put on an instance, or on a class after it was made, are past the SDK's own check."""
    parts: list[tuple[object, type]] = [(opened, Device if isinstance(opened, Device) else StepPlugin)]
    if isinstance(opened, Device):
        parts += [(opened.ops, Ops), (opened.ops.attention, Attention), (opened.allocator, Allocator)]
    for part, contract in parts:
        for name, method in vars(contract).items():
            if not inspect.isfunction(method) or name.startswith("_"):
                continue
            wanted = list(inspect.signature(method).parameters)[1:]
            got = list(inspect.signature(getattr(part, name)).parameters)
            assert got[: len(wanted)] == wanted, f"{type(part).__name__}.{name} takes {got}, the contract says {wanted}"


@check(since="1.0", level="bronze")
def test_capabilities_are_possible(opened: Device | StepPlugin) -> None:
    """Types, ranges, and what every device must have: a dtype for weights and KV, a page size, heads of 64."""
    claims, dtypes = opened.capabilities, get_args(DType)
    known = {"weight_dtypes": dtypes, "kv_dtypes": (*dtypes, *SCALED_KV)}
    for name, dtypes in known.items():
        value = getattr(claims, name)
        assert isinstance(value, tuple) and value, f"{name} is {value!r}; every device has at least one"  # noqa: PT018
        assert set(value) <= set(dtypes), f"{name} holds {sorted(set(value) - set(dtypes))}; known: {dtypes}"
        assert len(set(value)) == len(value), f"{name} names a dtype twice"
    assert set(claims.weight_dtypes) & set(claims.kv_dtypes), "no dtype is declared for both weights and KV"
    assert claims.page_sizes and all(isinstance(n, int) and n > 0 for n in claims.page_sizes)  # noqa: PT018
    for f in fields(Capabilities):
        value = getattr(claims, f.name)
        if f.type == "bool":
            assert isinstance(value, bool), f"{f.name} is {value!r}; expected True or False"
    screened, allowed = claims.screens_heads, {"float32", *claims.quantize}
    assert set(screened) <= allowed, f"screens_heads has {sorted(screened)}; of this device's: {sorted(allowed)}"
    assert all(isinstance(bits, int) and bits > 0 for bits in screened.values()), f"screens_heads is {screened!r}"
    assert claims.max_head_dim >= 64, f"max_head_dim is {claims.max_head_dim}; every device takes heads of 64"
    assert claims.sampling or not claims.device_feedback, "device_feedback is declared, but no sampling to feed from"
    assert claims.device_feedback or not claims.asynchronous, "asynchronous is declared, but no device_feedback"
    assert claims.max_logprobs >= 0
    assert claims.max_world_size >= 1
    assert claims.step_tokens >= 1


@check(since="1.0", level="bronze")
def test_lent_buffers_are_zeroed(opened: Device | StepPlugin) -> None:
    key = StepKey(Bucket(5, 2, 3, 2, False), SampleKind(edits=4))
    for size in (1, words(key), 4096):
        for _ in range(3):
            buffer = opened.lend(size)
            assert isinstance(buffer, np.ndarray), f"lend gave {type(buffer)}"
            assert buffer.dtype == np.int32 and buffer.shape == (size,)  # noqa: PT018
            assert not buffer.any(), "a lent buffer is not zeroed"
            buffer[:] = -1


BUCKETS = (
    Bucket(1, 1, 1, 1, True), Bucket(3, 3, 2, 3, True), Bucket(17, 4, 9, 5, False), Bucket(100, 1, 7, 1, False),
    Bucket(33, 33, 65, 33, True, groups=2),
)  # fmt: skip


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("exact", BUCKETS, ids=lambda b: f"{b.tokens}x{b.seqs}")
def test_buckets_hold_what_is_asked(opened: Device | StepPlugin, exact: Bucket) -> None:
    """A bucket is at least as large everywhere, of the same kind, and the bucket of itself."""
    bucket = opened.bucket(exact)
    for name in ("tokens", "seqs", "pages", "rows"):
        assert getattr(bucket, name) >= getattr(exact, name), f"the bucket of {exact} has fewer {name}: {bucket}"
    assert (bucket.decode, bucket.groups) == (exact.decode, exact.groups)
    assert not bucket.decode or bucket.tokens == bucket.seqs, "a decoding bucket has one token for each sequence"
    assert opened.bucket(bucket) == bucket, "the bucket of a bucket is another one"


KINDS = (
    SampleKind(), SampleKind(filters=True), SampleKind(edits=4), SampleKind(penalties=64, logprobs=0),
    SampleKind(filters=True, penalties=8192, edits=512, logprobs=3),
)  # fmt: skip


@check(since="1.2", level="bronze")
@pytest.mark.parametrize("exact", KINDS, ids=range(len(KINDS)))
def test_sampling_does_what_is_asked(opened: Device | StepPlugin, exact: SampleKind) -> None:
    """What serves a kind of sampling can do at least as much, and is served by itself."""
    kind = opened.sample_kind(exact)
    assert kind.filters or not exact.filters, f"{exact} is served by {kind}, which takes no random token"
    for name in ("penalties", "edits"):
        assert getattr(kind, name) >= getattr(exact, name), f"{exact} is served by {kind}, whose {name} are fewer"
    wanted, found = (-1 if k.logprobs is None else k.logprobs for k in (exact, kind))
    assert found >= wanted, f"{exact} is served by {kind}, which reports too few logprobs"
    assert found <= max(wanted, opened.capabilities.max_logprobs), f"{kind} reports more logprobs than are declared"
    assert opened.sample_kind(kind) == kind, f"{exact} is served by {kind}, and that by another one"


@check(since="1.0", level="bronze")
def test_it_opens_again_after_it_was_closed(under_test: UnderTest) -> None:
    for _ in range(2):
        device = under_test.open()
        assert isinstance(device, Device | StepPlugin)
        device.close()
