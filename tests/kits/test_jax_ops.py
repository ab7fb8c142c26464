"""Each op of the JAX kit, compiled, against the numpy kit in float64."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anychip_sdk.contract import AttentionSpec, Bucket, Layer, MoESpec, StepKey, WeightSpec
from anychip_sdk.kits.jax.device import JaxState
from anychip_sdk.kits.jax.layers import Run, find_runs, pack
from anychip_sdk.kits.jax.moe import RAGGED
from anychip_sdk.kits.jax.weights import Weight
from jax_cases import DTYPES, ORACLE, both, close, draw, kit_device, traced, wide, words_of
from numpy_batches import empty_batch

DEVICE = kit_device()
OPS = DEVICE.ops
HALVES = ("float32", "bfloat16")


def linear_spec(bias: bool = False) -> WeightSpec:
    return WeightSpec((("a",), ("b",)), "linear", bias=("a.bias", "b.bias") if bias else ())


LINEAR = {"a": draw(12, 24), "b": draw(5, 24), "a.bias": draw(12), "b.bias": draw(5)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
def test_linear_and_its_parts(dtype, bias):
    w, oracle = both(DEVICE, linear_spec(bias), LINEAR, dtype)
    x = draw(7, 24, dtype=dtype)
    wanted = ORACLE.ops.linear_split(wide(x), oracle)
    parts, whole = jax.jit(lambda x: (OPS.linear_split(x, w), OPS.linear(x, w)))(x)
    for got, part in zip(parts, wanted, strict=True):
        close(got, part, dtype, terms=24)
    close(whole, np.concatenate(wanted, axis=1), dtype, terms=24)


@pytest.mark.parametrize("dtype", HALVES)
def test_embedding_and_the_tied_head(dtype):
    w, oracle = both(DEVICE, WeightSpec((("e",),), "embedding"), {"e": draw(9, 6)}, dtype)
    ids, x = np.array([3, 0, 8], np.int32), draw(4, 6, dtype=dtype)
    rounded = float(np.array(2.45, x.dtype))

    def run(ids, x):
        return OPS.embedding(ids, w), OPS.embedding(ids, w, 2.45), OPS.logits(x, w), OPS.logits(x, w, 3.0)

    plain, scaled, *heads = jax.jit(run)(ids, x)
    close(plain, ORACLE.ops.embedding(ids, oracle), dtype, terms=0)
    close(scaled, ORACLE.ops.embedding(ids, oracle, rounded), dtype, terms=0)
    for got, softcap in zip(heads, (None, 3.0), strict=True):
        close(got, ORACLE.ops.logits(wide(x), oracle, softcap).astype("float64"), "float32", terms=6)


def test_a_token_outside_the_vocabulary_is_nan_for_itself_alone():
    w = Weight(jnp.asarray(draw(9, 6)))
    assert np.isnan(np.asarray(OPS.embedding(jnp.array([3, 9, 0]), w))).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", HALVES)
def test_norms_rope_and_activations(dtype):
    norm, oracle_norm = both(DEVICE, WeightSpec((("n",),), "norm", offset=1.0), {"n": draw(8)}, dtype)
    spec = WeightSpec((), "rope", const=np.array([1, 0.3, 0.1, 0.01], np.float32))
    table, oracle_table = both(DEVICE, spec, {}, dtype)
    assert norm.array.dtype == table.array.dtype == jnp.float32
    positions, x = np.array([0, 5, 900], np.int32), draw(3, 2, 8, dtype=dtype)

    def run(x):
        angles = OPS.rope_angles(positions, table)
        activations = [OPS.gated_activation(x, x[::-1], kind) for kind in ("silu", "gelu_tanh")]
        return OPS.rms_norm(x, norm, 1e-3), OPS.add_rms_norm(x, x, norm, 1e-3), OPS.rope(x, angles), *activations

    y, (twice, total), turned, *activated = jax.jit(run)(x)
    close(y, ORACLE.ops.rms_norm(wide(x), oracle_norm, 1e-3), dtype, terms=8)
    close(twice, ORACLE.ops.rms_norm(wide(x + x), oracle_norm, 1e-3), dtype, terms=8)
    np.testing.assert_array_equal(np.asarray(total), x + x)
    wanted = ORACLE.ops.rope(wide(x), ORACLE.ops.rope_angles(positions, oracle_table))
    close(turned, wanted, dtype, terms=900)  # the angle 900 is rounded to float32
    for got, kind in zip(activated, ("silu", "gelu_tanh"), strict=True):
        close(got, ORACLE.ops.gated_activation(wide(x), wide(x[::-1]), kind), dtype, 2)


def test_take_zeros_like_and_feed():
    x, rows = draw(4, 6), np.array([2, 2, 0], np.int32)
    np.testing.assert_array_equal(np.asarray(OPS.take(jnp.asarray(x), rows)), x[[2, 2, 0]])
    assert not np.asarray(OPS.zeros_like(jnp.asarray(x))).any()
    host = empty_batch(StepKey(Bucket(4, 4, 1, 4, True)))
    host.token_ids[:], host.feed[:], host.token_slot[:] = [10, 11, 12, 0], [0, 1, 1, 0], [1, 2, 3, 0]
    state = JaxState(np.array([90, 91, 92, 93], np.int32))
    got = traced(DEVICE, host.key, OPS.feed)(words_of(host), state)
    assert got.tolist() == [10, 92, 93, 0]
    assert got.dtype == np.int32


def moe_specs(experts: int) -> tuple[WeightSpec, WeightSpec, WeightSpec]:
    names = {n: tuple(f"{e}.{n}" for e in range(experts)) for n in ("gate", "up", "down")}
    return (
        WeightSpec((("router",),), "linear"),
        WeightSpec((names["gate"], names["up"]), "experts", tp="out"),
        WeightSpec((names["down"],), "experts", tp="in"),
    )


@pytest.mark.parametrize(("dtype", "renormalize"), [("float32", False), ("float32", True), ("bfloat16", True)])
@pytest.mark.parametrize("how", ["ragged", "tiles", "dense"])
def test_moe(dtype, renormalize, how, monkeypatch):
    monkeypatch.setattr(OPS, "_dense_rows", 100 if how == "dense" else 0)
    if how == "tiles":  # each expert's rows begin at a multiple of 4
        monkeypatch.setattr(OPS, "_grouped", replace(RAGGED, rows=4))
    X, M, E, T = 5, 6, 8, 9  # experts, width of each, hidden, tokens
    tensors = {f"{e}.{n}": draw(M, E, seed=10 * e + i) / 3 for e in range(X) for i, n in enumerate(("gate", "up"))}
    tensors |= {f"{e}.down": draw(E, M, seed=e) / 3 for e in range(X)} | {"router": draw(X, E)}
    handles = [both(DEVICE, spec, tensors, dtype) for spec in moe_specs(X)]
    spec = MoESpec(experts=X, top_k=2, renormalize=renormalize, activation="silu")
    host = empty_batch(StepKey(Bucket(T + 2, 1, 1, 1, False)))
    host.counts[0] = T
    x = draw(T + 2, E, dtype=dtype)
    x[T:] = np.nan  # padding
    router, gate_up, down = (h for h, _ in handles)
    stacks = [replace(h, array=jnp.stack([h.array + 1, h.array])) for h in (gate_up, down)]

    def moe(batch, x, place):
        alone = OPS.moe(x, router, gate_up, down, spec, batch)
        return alone, OPS.moe(x, router, *(replace(h, place=place) for h in stacks), spec, batch)

    got, in_stack = map(np.asarray, traced(DEVICE, host.key, moe)(words_of(host), x, 1))
    np.testing.assert_array_equal(got, in_stack)
    wanted = ORACLE.ops.moe(wide(x), *(h for _, h in handles), spec, host)
    close(got[:T], wanted[:T], dtype, terms=8 * E)
    assert not got[T:].any()


def test_moe_ties_go_to_the_lower_expert():
    tensors = {"router": np.zeros((40, 1))}
    tensors |= {f"{e}.{n}": np.full((1, 1), 20.0 if n == "gate" else 1.0) for e in range(40) for n in ("gate", "up")}
    tensors |= {f"{e}.down": np.full((1, 1), float(e)) for e in range(40)}
    spec = MoESpec(experts=40, top_k=2, renormalize=True, activation="silu")
    host = empty_batch(StepKey(Bucket(1, 1, 1, 1, False)))
    host.counts[0] = 1
    handles = [both(DEVICE, s, tensors, "float32")[0] for s in moe_specs(40)]
    run = traced(DEVICE, host.key, lambda batch, x: OPS.moe(x, *handles, spec, batch))
    assert run(words_of(host), np.ones((1, 1), np.float32)).item() == pytest.approx(20 * (0 + 1) / 2)


def test_gated_mlp():
    gate_up, oracle_up = both(DEVICE, linear_spec(), {"a": draw(6, 24), "b": draw(6, 24, seed=1)}, "float32")
    down, oracle_down = both(DEVICE, WeightSpec((("d",),), "linear"), {"d": draw(24, 6)}, "float32")
    x = draw(5, 24)
    wanted = ORACLE.ops.gated_mlp(wide(x), oracle_up, oracle_down, "silu")
    close(jax.jit(lambda x: OPS.gated_mlp(x, gate_up, down, "silu"))(x), wanted, "float32", terms=100)


@pytest.mark.parametrize(
    ("kinds", "runs"),
    [
        ("", ()),
        ("a", (Run(0, 1, 1),)),
        ("aaaa", (Run(0, 1, 4),)),
        ("abab", (Run(0, 2, 2),)),
        ("aab", (Run(0, 1, 2), Run(2, 1, 1))),
        ("abbb", (Run(0, 1, 1), Run(1, 1, 3))),
        ("sssgsssgss", (Run(0, 4, 2), Run(8, 1, 2))),
        ("abcd", (Run(0, 1, 1), Run(1, 1, 1), Run(2, 1, 1), Run(3, 1, 1))),
    ],
)
def test_periods_of_layers(kinds, runs):
    places = [kinds[:i].count(k) for i, k in enumerate(kinds)]
    assert find_runs(kinds, places) == runs


def test_places_in_the_cache_must_grow_evenly_too():
    assert find_runs("aaa", [0, 1, 3]) == (Run(0, 1, 2), Run(2, 1, 1))
    assert find_runs("aaaa", [0, 1, 3, 5]) == (Run(0, 2, 2),)  # each place of the period has a step of its own
    assert find_runs("aaaa", [3, 2, 1, 0]) == (Run(0, 1, 4),)


def described(weight):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), weight)


def test_a_scan_is_the_loop():
    """Two kinds of layers by turns, then one more: the same sums, with each layer's place and weight."""
    kinds = [AttentionSpec(head_dim=8, scale=s, group=i) for i, s in enumerate((0.5, 0.25))]
    specs = [Layer(kinds[i % 2], i // 2) for i in range(7)]
    arrays = [np.float32([i, 2 * i]) for i in range(7)]

    def block(layer, w, x):
        return (x * layer.attention.scale + w["w"].array * (1 + layer.kv_index) + layer.attention.group,)

    def trees():
        return [{"w": Weight(jnp.asarray(a))} for a in arrays]

    wanted = OPS.layers(block, specs, trees(), (np.float32([1, 2]),))
    parts = trees()
    stacked = pack(specs, [{"w": i} for i in range(7)], lambda i: parts[i]["w"], lambda i: described(parts[i]["w"]))
    assert stacked.runs == (Run(0, 2, 3), Run(6, 1, 1))
    got = jax.jit(lambda s, x: OPS.layers(block, specs, s, (x,)))(stacked, np.float32([1, 2]))
    np.testing.assert_allclose(got[0], wanted[0])


def test_layers_of_other_shapes_are_another_kind():
    spec = Layer(AttentionSpec(head_dim=8, scale=1.0), 0)
    specs, trees = [replace(spec, kv_index=i) for i in range(3)], [{"w": n} for n in (3, 3, 4)]
    made = pack(specs, trees, lambda n: Weight(jnp.zeros(n)), lambda n: described(Weight(jnp.zeros(n))))
    assert made.runs == (Run(0, 1, 2), Run(2, 1, 1))


def test_no_two_layers_lie_beside_their_stack():
    """Each is put into its place and freed before the next is read."""
    parts: list[Weight] = []

    def read(i):
        assert all(part.array.is_deleted() for part in parts)
        parts.append(Weight(jnp.full((2, 3), i, jnp.float32), jnp.full(2, -i, jnp.float32), (2,)))
        return parts[-1]

    specs = [Layer(AttentionSpec(head_dim=8, scale=1.0), i) for i in range(4)]
    like = described(Weight(jnp.zeros((2, 3)), jnp.zeros(2), (2,)))
    ((tree,),) = pack(specs, [{"w": i} for i in range(4)], read, lambda _: like).weights
    assert [part.array.is_deleted() for part in parts] == [True] * 4
    assert (tree["w"].array.shape, tree["w"].bias.shape) == ((4, 2, 3), (4, 2))
    np.testing.assert_array_equal(tree["w"].bias[:, 0], [0, -1, -2, -3])


def test_what_ops_need_of_a_state_is_replaced_not_changed():
    state = JaxState(jnp.zeros(3, jnp.int32))
    host = empty_batch(StepKey(Bucket(1, 1, 1, 1, True)))
    host.row_slot[0] = 2
    batch = SimpleNamespace(**vars(host))
    _, after = OPS.sample(jnp.asarray([[0.0, 1.0]]), batch, state)
    assert (state.last_token.tolist(), after.last_token.tolist()) == ([0, 0, 0], [0, 0, 1])
