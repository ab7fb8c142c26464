"""The least time of a workload, worked out by hand for a decoder small enough."""

from __future__ import annotations

import pytest
from peers import runner
from peers.limits import Machine, Shape, limit, weight_bytes

# One layer: q and o 4 x 4 each, k and v 4 x 2 each, gate, up and down 4 x 8 each: 144 weights. The head: 10 x 4.
SHAPE = Shape(layers=1, hidden=4, intermediate=8, heads=2, kv_heads=1, head_dim=2, vocabulary=10)
SLOW_MEMORY = Machine(read=1.0, peaks={"float32": 1e12, "int8": 1e12})
SLOW_CORES = Machine(read=1e12, peaks={"float32": 1.0, "int8": 4.0})


def test_weights_are_counted_as_they_are_read():
    assert SHAPE.linear == 144
    assert SHAPE.head == 40
    assert [weight_bytes(SHAPE, name) for name in ("float32", "bfloat16", "int8")] == [328, 368, 174]
    assert [weight_bytes(SHAPE, name, rows=5) for name in ("float32", "bfloat16", "int8")] == [328, 368, 184]


def test_a_checkpoint_says_its_shape():
    config = {
        "num_hidden_layers": 1, "hidden_size": 4, "intermediate_size": 8, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 2, "vocab_size": 10, "model_type": "llama",
    }  # fmt: skip
    assert Shape.of(config) == SHAPE


def test_a_slow_memory_reads_the_weights_once_a_step_and_kv_as_it_grows():
    least = limit(SHAPE, [([1, 2, 3], 3)], "float32", SLOW_MEMORY)
    assert least.prefill == 328
    # a token's K and V take 2 * 2 * 4 bytes; 4 tokens in the first step after the prompt, 5 in the second
    assert least.decode == (328 + 4 * 16) + (328 + 5 * 16)
    assert least.total == least.prefill + least.decode


def test_weights_in_whole_numbers_come_with_kv_in_16_bits():
    assert limit(SHAPE, [([1, 2, 3], 2)], "int8", SLOW_MEMORY).decode == 174 + 4 * 8


def test_many_rows_read_the_head_in_all_its_bits():
    five = limit(SHAPE, [([token], 2) for token in range(1, 6)], "int8", SLOW_MEMORY)
    assert five.prefill == 184
    assert five.decode == 184 + 5 * 2 * 8


def test_slow_cores_do_every_product_of_every_token():
    least = limit(SHAPE, [([1, 2, 3], 2)], "float32", SLOW_CORES)
    # attention: 4 * 2 heads * 2 for each pair of a query and a key, of which the prompt has 1 + 2 + 3
    assert least.prefill == 3 * 2 * 144 + 2 * 40 / 4 + 16 * 6
    assert least.decode == 2 * (144 + 40 / 4) + 16 * 4


def test_requests_share_a_step_until_they_end():
    alone = limit(SHAPE, [([1, 2], 3)], "float32", SLOW_MEMORY)
    both = limit(SHAPE, [([1, 2], 3), ([5], 2)], "float32", SLOW_MEMORY)
    assert both.prefill == alone.prefill
    assert both.decode == alone.decode + 2 * 16  # what the second request keeps, in the one step it is there


def test_what_all_prompts_start_with_is_computed_and_read_once():
    work = [([1, 2, 3, 4], 2), ([1, 2, 3, 5, 6], 2)]
    least = limit(SHAPE, work, "float32", SLOW_CORES)
    keys = (1 + 2 + 3) + 4 + (4 + 5)
    assert least.prefill == 2 * 144 * 6 + 2 * 40 * 2 / 4 + 16 * keys
    assert limit(SHAPE, work, "float32", SLOW_MEMORY).decode == 328 + 16 * (3 + (1 + 1) + (2 + 1))


@pytest.mark.parametrize(
    ("prompts", "shared"), [([[1, 2, 3]], 0), ([[1, 2], [1, 2, 3]], 2), ([[1], [2]], 0), ([[1, 2, 3], [1, 5, 3]], 1)]
)
def test_one_prompt_shares_nothing(prompts, shared):
    assert runner.shared(prompts) == shared
