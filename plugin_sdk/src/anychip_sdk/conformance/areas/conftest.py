"""What the checks share: the device, and a bench to run pieces of a step on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from anychip_sdk.conformance.inputs import Draw, load
from anychip_sdk.conformance.lab import Array, Body, Trio, Weights
from anychip_sdk.conformance.levels import PROFILES
from anychip_sdk.conformance.models import PROFILE, write
from anychip_sdk.conformance.numerics import Verdict
from anychip_sdk.conformance.parity import Model, fitting_page_size
from anychip_sdk.conformance.plugin import DRAW, SETTINGS, Settings, check_id
from anychip_sdk.conformance.under_test import UnderTest, find
from anychip_sdk.contract import SCALED_KV, Batch, Device, DType, KVDType, KVLayout, NotSupported, StepPlugin

UNDER_TEST = pytest.StashKey[UnderTest]()
OPENED = pytest.StashKey[Device | StepPlugin]()


def _under_test(config: pytest.Config) -> UnderTest:
    if UNDER_TEST not in config.stash:
        settings = config.stash[SETTINGS]
        config.stash[UNDER_TEST] = find(settings.device, settings.plugin, settings.provider)
    return config.stash[UNDER_TEST]


def _opened(config: pytest.Config) -> Device | StepPlugin:
    if OPENED not in config.stash:
        config.stash[OPENED] = _under_test(config).open()
    return config.stash[OPENED]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`dtype`: every one the device multiplies in. `kv_dtype`: those of them in which it keeps KV as well.
    `quantised`: every format of weights it declares. `kv8`: every format of KV in 8 bits it declares."""
    settings = metafunc.config.stash[SETTINGS]
    if settings.device is None and settings.plugin is None:
        return
    for name in ("dtype", "kv_dtype"):
        if name in metafunc.fixturenames:
            claims = _opened(metafunc.config).capabilities
            dtypes = [d for d in claims.weight_dtypes if name == "dtype" or d in claims.kv_dtypes]
            metafunc.parametrize(name, dtypes)
    if "quantised" in metafunc.fixturenames:
        none = pytest.param("none", marks=pytest.mark.skip(reason="the device does not declare quant"))
        metafunc.parametrize("quantised", _opened(metafunc.config).capabilities.quantize or [none])
    if "kv8" in metafunc.fixturenames:
        none = pytest.param("none", marks=pytest.mark.skip(reason="the device does not declare kv8"))
        declared = [d for d in _opened(metafunc.config).capabilities.kv_dtypes if d in SCALED_KV]
        metafunc.parametrize("kv8", declared or [none], ids=lambda d: f"{d} KV")


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config) -> Settings:
    return pytestconfig.stash[SETTINGS]


@pytest.fixture(scope="session")
def under_test(pytestconfig: pytest.Config) -> UnderTest:
    return _under_test(pytestconfig)


@pytest.fixture(scope="session")
def opened(pytestconfig: pytest.Config) -> Iterator[Device | StepPlugin]:
    device = _opened(pytestconfig)
    yield device
    device.close()


@pytest.fixture
def device(opened: Device | StepPlugin) -> Device:
    if isinstance(opened, StepPlugin):
        pytest.skip("a step plugin owns its graph: it has no ops to test one by one")
    return opened


@pytest.fixture
def needed_profile(request: pytest.FixtureRequest, opened: Device | StepPlugin) -> None:
    """Leaves out a check whose profile the device does not declare."""
    marker = request.node.get_closest_marker("anychip")
    profile = None if marker is None else marker.kwargs["profile"]
    if profile is not None:
        declared = PROFILES[profile]
        if declared is None or not declared(opened.capabilities):
            pytest.skip(f"the device does not declare {profile}")


@dataclass
class Lab:
    """What a check works with. Closes what it made."""

    device: Device
    draw: Draw
    note: dict[str, Any]
    thorough: bool
    """not --quick"""
    _made: list[Trio] = field(default_factory=list)

    def again(self) -> Lab:
        """A bench that draws the same inputs once more."""
        return Lab(self.device, self.draw.again(), self.note, self.thorough, self._made)

    def trio(self, dtype: DType, weights: Weights, kv: KVLayout | None = None, form: DType | None = None) -> Trio:
        made = Trio(self.device, dtype, weights, kv, form)
        self._made.append(made)
        return made

    def check(self, trio: Trio, body: Body, batch: Batch, width: int | None = None, what: str = "") -> Array:
        """Judges one piece, and gives what came out of the device."""
        verdict, out = trio.judge(body, batch, width)
        self.verdict(verdict, what)
        return out

    def verdict(self, verdict: Verdict, what: str = "") -> None:
        if verdict.ratio >= self.note.get("ratio", -1.0):
            self.note.update(
                ratio=min(verdict.ratio, 1e30), error=min(verdict.error, 1e30), budget=verdict.budget
            )  # JSON has no infinity
        assert verdict.passed, f"{what}: {verdict.explain()}" if what else verdict.explain()

    def close(self) -> None:
        for trio in self._made:
            trio.close()


@pytest.fixture
def draw(request: pytest.FixtureRequest, settings: Settings) -> Draw:
    saved = None if settings.inputs is None else load(settings.inputs)
    made = Draw(check_id(request.node.nodeid), settings.seed, saved)
    request.node.stash[DRAW] = made
    return made


@pytest.fixture
def lab(
    request: pytest.FixtureRequest, device: Device, draw: Draw, settings: Settings, needed_profile: None
) -> Iterator[Lab]:
    note: dict[str, Any] = {}
    made = Lab(device, draw, note, settings.tier != "quick")
    yield made
    request.node.user_properties.extend(note.items())
    made.close()


@pytest.fixture(scope="session")
def model(
    under_test: UnderTest, opened: Device | StepPlugin, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Model]:
    """(family, dtype, what KV is kept in) -> a tiny checkpoint of it, made once. Leaves out a check whose model the
    device does not declare the means for."""

    @cache
    def make(family: str, dtype: DType, kept: KVDType | None = None) -> Model:
        for profile in PROFILE[family]:
            declared = PROFILES[profile]
            if declared is None or not declared(opened.capabilities):
                pytest.skip(f"the device does not declare {profile}")
        path = write(family, tmp_path_factory.mktemp(family), dtype, settings.seed)
        made = Model(family, dtype, path, under_test.open, settings.seed, kept)
        if isinstance(opened, StepPlugin):
            try:
                made.engine().close()
            except NotSupported as error:
                pytest.skip(f"the step plugin has no graph of it: {error}")
        return made

    return make


@pytest.fixture(scope="session")
def page_size(opened: Device | StepPlugin) -> int:
    return fitting_page_size(opened.capabilities.page_sizes)
