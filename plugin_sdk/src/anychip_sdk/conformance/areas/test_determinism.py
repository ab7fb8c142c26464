"""The same question has the same answer: bit by bit, every time, and whatever else runs where that is declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anychip_sdk.conformance import batches
from anychip_sdk.conformance.areas.conftest import Lab
from anychip_sdk.conformance.inputs import linear, norm, table
from anychip_sdk.conformance.marks import check
from anychip_sdk.conformance.models import prompts
from anychip_sdk.conformance.pages import Scene, Setting
from anychip_sdk.conformance.parity import Model, greedy
from anychip_sdk.contract import AttentionSpec, Capabilities, Device, DType, StepPlugin

Models = Callable[[str, DType], Model]
PLAIN = AttentionSpec(head_dim=64, scale=0.125)
SPANS = ((7, 1), (20, 1), (33, 1), (0, 17), (19, 3))


def _mlp(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
    x = ops.embedding(batch.token_ids, w["x"])
    return ops.gated_mlp(ops.rms_norm(x, w["norm"], 1e-5), w["gate_up"], w["down"], "silu"), kv


def _weights(lab: Lab, dtype: DType, rows: int) -> dict[str, Any]:
    draw = lab.draw
    gate, up = (draw.normal(n, 96, 64, dtype=dtype, scale=0.2) for n in ("gate", "up"))
    return {
        "x": table(draw.normal("x", rows, 64, dtype=dtype)), "norm": norm(draw.normal("norm", 64)),
        "gate_up": linear(gate, up), "down": linear(draw.normal("down", 64, 96, dtype=dtype, scale=0.2)),
    }  # fmt: skip


@check(since="1.0")
def test_ops_repeat_bit_by_bit(lab: Lab, dtype: DType) -> None:
    bench = lab.trio(dtype, _weights(lab, dtype, 37)).device
    first = bench.run(_mlp, batches.rows(37), 64)
    for _ in range(3):
        assert np.array_equal(bench.run(_mlp, batches.rows(37), 64), first), "the same step gave other bits"


@check(since="1.0")
def test_attention_repeats_bit_by_bit(lab: Lab, kv_dtype: DType) -> None:
    scene = Scene(lab, kv_dtype, Setting(spec=PLAIN, spans=SPANS))
    scene.write_history()
    first = scene.on_device()
    for _ in range(3):
        assert np.array_equal(scene.on_device(), first), "the same step gave other bits"


@check(since="1.0")
def test_a_result_outlives_the_steps_after_it(lab: Lab, dtype: DType) -> None:
    """Results are taken late: the steps launched meanwhile, of the same shape, may not overwrite them."""
    bench = lab.trio(dtype, _weights(lab, dtype, 24)).device
    asked = [batches.rows(8, ids=range(start, start + 8)) for start in (0, 8, 16)]
    wanted = [bench.run(_mlp, batch, 64) for batch in asked]
    pending = [bench.pending(_mlp, batch, 64) for batch in asked]
    for i, (one, right) in enumerate(zip(pending, wanted, strict=True)):
        got = np.asarray(one.get().top_logprobs)[:8]
        assert np.array_equal(got, right), f"the result of step {i} changed while later steps ran"


@check(since="1.0")
def test_engines_repeat_bit_by_bit(model: Models, kv_dtype: DType, page_size: int) -> None:
    """Tokens and their logprobs, in one engine twice, and in a new one."""
    tested = model("llama", kv_dtype)
    asked = prompts((5, page_size, 2 * page_size + 3), tested.seed)
    runs = []
    for _ in range(2):
        engine = tested.engine(page_size=page_size, prefix_caching=False)
        runs += [engine.generate(asked, greedy(8, logprobs=0)) for _ in range(2)]
        engine.close()
    for run in runs[1:]:
        assert [d.tokens for d in run] == [d.tokens for d in runs[0]], "another run gave other tokens"
        assert [d.logprobs for d in run] == [d.logprobs for d in runs[0]], "another run gave other logprobs"


@check(since="1.0")
def test_seeds_are_their_request_s_own(model: Models, kv_dtype: DType, page_size: int) -> None:
    """The same seed gives the same tokens beside others and alone; other seeds give others."""
    tested = model("llama", kv_dtype)
    asked = prompts((9,), tested.seed) * 4
    params = [greedy(10, temperature=1.0, seed=s) for s in (11, 12, 11, 13)]
    engine = tested.engine(page_size=page_size)
    together = [d.tokens for d in engine.generate(asked, params)]
    alone = [engine.generate([p], one)[0].tokens for p, one in zip(asked, params, strict=True)]
    engine.close()
    assert together[0] == together[2], "two requests of one seed differ"
    assert len({tuple(t) for t in together}) == 3, "requests of different seeds have the same random numbers"
    if tested.exact:
        assert together == alone, "a seeded request depends on what runs beside it"


@check(since="1.0", claim="batch_invariant")
def test_batch_invariance_where_it_is_declared(lab: Lab, kv_dtype: DType) -> None:
    """A row's bits do not depend on how many rows, or sequences, there are beside it."""
    if not lab.device.capabilities.batch_invariant:
        pytest.skip("the device does not declare batch_invariant")
    bench = lab.trio(kv_dtype, _weights(lab, kv_dtype, 130)).device
    whole = bench.run(_mlp, batches.rows(130), 64)
    for count in (1, 2, 5, 8, 33, 64, 129):
        part = bench.run(_mlp, batches.rows(count), 64)
        assert np.array_equal(part, whole[:count]), f"batch_invariant is declared, but {count} rows and 130 rows differ"
    scene = Scene(lab, kv_dtype, Setting(spec=PLAIN, spans=SPANS))
    scene.write_history()
    together = scene.on_device()
    for i, (start, new) in enumerate(((0, 1), (1, 1), (2, 1), (3, 17), (20, 3))):
        assert np.array_equal(scene.on_device(scene.batch([i])), together[start : start + new]), (
            f"batch_invariant is declared, but the attention of sequence {i} depends on its batch"
        )


@check(since="1.0", claim="batch_invariant")
def test_engines_are_batch_invariant_where_declared(
    model: Models, kv_dtype: DType, page_size: int, opened: Device | StepPlugin
) -> None:
    if not opened.capabilities.batch_invariant:
        pytest.skip("the device does not declare batch_invariant")
    tested = model("llama", kv_dtype)
    asked = prompts((5, 30, page_size, 2 * page_size + 3), tested.seed)
    engine = tested.engine(page_size=page_size, prefix_caching=False)
    together = engine.generate(asked, greedy(8, logprobs=0))
    for prompt, right in zip(asked, together, strict=True):
        alone = engine.generate([prompt], greedy(8, logprobs=0))[0]
        assert (alone.tokens, alone.logprobs) == (right.tokens, right.logprobs), (
            "batch_invariant is declared, but a request's logprobs depend on its batch"
        )
    engine.close()


@check(since="1.0", level="gold", tier="certify")
def test_batch_invariance_is_declared(opened: Device | StepPlugin) -> None:
    claims: Capabilities = opened.capabilities
    assert claims.batch_invariant, "Gold needs batch_invariant: a request's result may not depend on its batch"
