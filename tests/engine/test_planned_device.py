"""Estimates of a step, and devices that are planned rather than opened."""

from __future__ import annotations

from dataclasses import replace

import pytest
from anychip.engine.estimate import Work, size_of, step_seconds
from anychip.errors import PlatformError
from anychip.models.registry import family
from anychip.models.shapes import tensors
from anychip.platforms import selection
from anychip.platforms.discovery import Plugin
from anychip_sdk.contract import Found, Manifest, NotSupported, Platform, Rates

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "hidden_act": "silu", "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
LAYER = 64 * (64 + 2 * 32 + 64) + 3 * 64 * 128
RATES = Rates(chips=1, bandwidth=1e9, flops=1e12, link=1e8)


def model(**fields):
    config = LLAMA | fields
    kind = family(config)
    spec = kind.from_config(config)
    return spec, kind.weights(spec), {name: tuple(n for n, _ in axes) for name, axes in tensors(spec)}


def size(spec, tree, shapes, weights=10**6, kv=512):
    return size_of(spec, tree, shapes, weights=weights, item=2, kv={None: kv})


def test_what_a_token_is_multiplied_with():
    made = size(*model())
    assert made.active == 2 * LAYER + 64 * 1000
    assert made.read == 10**6 - 2 * 64 * 1000  # the table of an embedding is looked up, not read
    assert size(*model(tie_word_embeddings=True)).read == 10**6
    moe = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
    experts = 3 * 64 * 128
    assert size(*model(**moe)).active == made.active + 2 * (experts + 4 * 64)


def test_a_decode_reads_and_a_prefill_computes():
    spec, *rest = model()
    made = size(spec, *rest)
    decode = step_seconds(spec, made, RATES, Work(tokens=8, seqs=8, context=100))
    assert decode == pytest.approx((made.read + 8 * 100 * 512) / 1e9)
    prefill = step_seconds(spec, made, replace(RATES, bandwidth=1e15), Work(tokens=512, seqs=1, context=512))
    assert prefill == pytest.approx(512 * (2 * made.active + 2 * 4 * 64 * 512) / 1e12)


def test_several_chips_share_the_work_and_send_sums():
    spec, *rest = model()
    made, work = size(spec, *rest), Work(tokens=8, seqs=8, context=100)
    one, four = (step_seconds(spec, made, replace(RATES, chips=n), work) for n in (1, 4))
    assert four == pytest.approx(one / 4 + 2 * 2 * 8 * 64 * 2 * 2 * 3 / 4 / 1e8)


def test_a_window_is_read_no_further():
    spec, *rest = model()
    made = size_of(spec, *rest, weights=10**6, item=2, kv={None: 10, 20: 30})
    assert step_seconds(spec, made, RATES, Work(1, 1, 100)) == pytest.approx((made.read + 100 * 10 + 20 * 30) / 1e9)


class Plans(Platform):
    def probe(self):
        return Found(())

    def open(self, index=0, *, threads=None):
        raise AssertionError("nothing is opened")

    def plan(self, which):
        if which == "broken":
            raise RuntimeError("the library\nfails")
        raise NotSupported(f"no {which!r} here;\nexpected big or small")


class PlansNothing(Plans):
    plan = Platform.plan


@pytest.fixture
def plugins(monkeypatch):
    def manifest(name, cls):
        return Plugin(name, f"{name} 1", Manifest(name=name, platform=f"{__name__}:{cls}", summary="", rank=1), None, 1)

    found = [manifest("plans", "Plans"), manifest("other", "PlansNothing")]
    monkeypatch.setattr(selection, "discover", lambda: found)
    monkeypatch.setattr(selection, "import_module", lambda _: __import__("sys").modules[__name__])


@pytest.mark.parametrize("device", ["auto", "plans", "plans:0", "other:big", "nobody:big"])
def test_devices_that_nobody_plans(plugins, device):
    assert selection.plan_device(device) is None


def test_a_planned_device_is_not_one_to_run_on(plugins):
    with pytest.raises(PlatformError) as caught:
        selection.choose("plans:big")
    assert str(caught.value) == (
        "there is no device plans:big here: plans has 0 devices; only anychip plan takes devices that are not here"
    )
    with pytest.raises(PlatformError, match=r"^other has found no device; "):
        selection.choose("other:big")


@pytest.mark.parametrize(
    ("which", "said"),
    [("huge", "no 'huge' here; expected big or small"), ("broken", "RuntimeError: the library")],
)
def test_what_cannot_be_planned(plugins, which, said):
    with pytest.raises(PlatformError, match=f"^plans:{which} cannot be planned: {said}$"):
        selection.plan_device(f"plans:{which}")
