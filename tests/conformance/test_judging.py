"""How results, levels and profiles are judged."""

from __future__ import annotations

import numpy as np
import pytest
from anychip_sdk.conformance.inputs import Draw, load
from anychip_sdk.conformance.levels import AREAS, Outcome, judge_level, judge_profiles
from anychip_sdk.conformance.numerics import EPS, judge, rounded
from anychip_sdk.contract import Capabilities

ORACLE = np.linspace(-2, 2, 64).reshape(8, 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_twice_the_reference_s_error_is_allowed(dtype):
    reference = ORACLE + 8 * EPS[dtype]
    assert judge(ORACLE + 16 * EPS[dtype], ORACLE, reference, dtype).passed
    verdict = judge(ORACLE + 20 * EPS[dtype], ORACLE, reference, dtype)
    assert not verdict.passed
    assert verdict.e_ref == pytest.approx(8 * EPS[dtype])
    assert "times the budget" in verdict.explain()


def test_an_exact_reference_leaves_the_rounding_of_the_result():
    off = ORACLE * (1 + 0.9 * EPS["float32"])
    assert judge(off, ORACLE, ORACLE, "float32").passed
    assert not judge(ORACLE * (1 + 3 * EPS["float32"]), ORACLE, ORACLE, "float32").passed
    assert judge(ORACLE, ORACLE, ORACLE, "float32").ratio == 0


def test_one_wrong_element_is_found_and_named():
    out = ORACLE.copy()
    out[3, 5] += 0.01
    verdict = judge(out, ORACLE, ORACLE, "float32")
    assert verdict.where == (3, 5)
    out[3, 5] = np.nan
    assert judge(out, ORACLE, ORACLE, "float32").ratio == np.inf


def test_a_common_drift_is_found_though_each_error_is_small():
    """One large error of the reference does not license the same error everywhere."""
    reference = ORACLE.copy()
    reference[0, 0] += 1.0
    verdict = judge(ORACLE + 0.9, ORACLE, reference, "float32")
    assert verdict.ratio < 1
    assert not verdict.passed
    assert "mean square" in verdict.explain()


def test_another_shape_is_an_error():
    with pytest.raises(AssertionError, match="came back"):
        judge(ORACLE[:4], ORACLE, ORACLE, "float32")


def test_rounding_is_to_the_nearest_of_the_dtype():
    assert rounded(np.array([1 + 2**-9, 1 + 2**-7]), "bfloat16").tolist() == [1.0, 1 + 2**-7]


def outcome(level="bronze", profile=None, failed=False, waived=False):
    return Outcome(level, profile, failed, waived)


@pytest.mark.parametrize(
    ("outcomes", "areas", "tier", "level", "why"),
    [
        ([outcome()], AREAS, "quick", "silver", "gold: only a --certify run awards it"),
        ([outcome()], AREAS, "certify", "gold", ""),
        ([outcome("silver", failed=True)], AREAS, "quick", "bronze", "silver: 1 of its checks failed"),
        ([outcome(failed=True)], AREAS, "quick", None, "bronze: 1 of its checks failed"),
        ([outcome("gold", failed=True)], AREAS, "certify", "silver", "gold: 1 of its checks failed"),
        ([outcome("silver", failed=True, waived=True)], AREAS, "quick", "silver", "gold: only a --certify run"),
        ([outcome("bronze", failed=True, waived=True)], AREAS, "certify", "silver", "gold: waivers are in use"),
        ([outcome()], ("ops", "discovery", "executor"), "full", "bronze", "silver: not run: allocator"),
        ([outcome()], ("ops",), "full", None, "bronze: not run: discovery, executor"),
    ],
)
def test_levels(outcomes, areas, tier, level, why):
    reached, lacks = judge_level(outcomes, areas, tier)
    assert reached == level
    assert lacks.startswith(why)


def test_profiles():
    claims = Capabilities(weight_dtypes=("float32",), kv_dtypes=("float32",), sliding_window=True, moe=True)
    found = judge_profiles([outcome(profile="swa"), outcome(profile="moe", failed=True)], claims)
    assert (found["swa"], found["moe"], found["softcap"]) == ("passed", "failed", "not declared")
    assert found["mla"].startswith("not applicable")
    assert judge_profiles([], claims)["swa"] == "not run"


def test_draws_are_their_check_s_own_and_can_be_given_again(tmp_path):
    one, same, other = Draw("ops/a", 0), Draw("ops/a", 0), Draw("ops/b", 0)
    x = one.normal("x", 3, 4, dtype="bfloat16")
    assert np.array_equal(x, same.normal("x", 3, 4, dtype="bfloat16"))
    assert not np.array_equal(x, other.normal("x", 3, 4, dtype="bfloat16"))
    np.savez(tmp_path / "saved.npz", **one.arrays)
    again = Draw("ops/b", 1, load(tmp_path / "saved.npz"))
    assert np.array_equal(again.normal("x", 3, 4), x)
    with pytest.raises(LookupError, match="no 'y'"):
        again.normal("y", 3)
