"""The decoder that every family here is a setting of: norms, attention, gated MLP or experts, residuals."""

from __future__ import annotations

from typing import Any

import numpy as np
from anychip_sdk.contract import Batch, Layer, Ops, WeightSpec

from anychip.models.spec import ModelSpec

Tree = dict[str, Any]


def forward(ops: Ops, spec: ModelSpec, w: Tree, batch: Batch, kv: Any) -> tuple[Any, Any]:
    """-> logits [R, V] float32 of batch.logit_rows, those of `Ops.greedy_logits` where the step is greedy and has no
    softcap, kv."""
    x = ops.embedding(batch.token_ids, w["embed"], spec.embedding_scale)  # [T, E]
    angles = tuple(ops.rope_angles(batch.positions, table) for table in w["rope"])
    narrow = False  # whether h and residual are those of the logit rows

    def block(layer: Layer, w: Tree, h: Any, residual: Any, kv: Any) -> tuple[Any, Any, Any]:
        nonlocal narrow
        x, residual = ops.add_rms_norm(h, residual, w["attention_norm"], spec.eps)
        q, k, v = ops.linear_split(x, w["qkv"])
        h, kv = ops.attention.run(
            q, k, v, kv, batch, layer,
            angles=angles[layer.rope], q_norm=w.get("q_norm"), k_norm=w.get("k_norm"),
        )  # fmt: skip
        if layer.final and "router" not in w:  # the other tokens' K and V are written, and nobody reads more of them
            h, residual, narrow = ops.take(h, batch.logit_rows), ops.take(residual, batch.logit_rows), True
        h = ops.linear(h, w["out"])
        if spec.sandwich_norms:
            h = ops.rms_norm(h, w["attention_post_norm"], spec.eps)
        x, residual = ops.add_rms_norm(h, residual, w["mlp_norm"], spec.eps)
        if "router" in w:
            assert spec.moe is not None
            h = ops.moe(x, w["router"], w["gate_up"], w["down"], spec.moe, batch)
        else:
            h = ops.gated_mlp(x, w["gate_up"], w["down"], spec.activation)
        if spec.sandwich_norms:
            h = ops.rms_norm(h, w["mlp_post_norm"], spec.eps)
        return h, residual, kv

    h, residual, kv = ops.layers(block, spec.layers, w["layers"], (ops.zeros_like(x), x, kv))
    if not narrow:
        h, residual = ops.take(h, batch.logit_rows), ops.take(residual, batch.logit_rows)
    x, _ = ops.add_rms_norm(h, residual, w["norm"], spec.eps)
    head = w["embed"] if spec.tied else w["head"]
    if batch.key.sample.greedy and spec.final_softcap is None:
        return ops.greedy_logits(x, head), kv
    return ops.logits(x, head, spec.final_softcap), kv


def weights(spec: ModelSpec) -> Tree:
    """The tree of weights, named as on the Hugging Face hub."""
    uncapped = spec.final_softcap is None
    tree: Tree = {
        "embed": WeightSpec((("model.embed_tokens.weight",),), "embedding", head=spec.tied and uncapped),
        "rope": [WeightSpec((), "rope", const=np.array(t.frequencies, np.float32)) for t in spec.rope],
        "layers": [_layer(spec, i) for i in range(len(spec.layers))],
        "norm": _norm(spec, "model.norm"),
    }
    if not spec.tied:
        tree["head"] = WeightSpec((("lm_head.weight",),), "linear", tp="out", head=uncapped)
    return tree


def _norm(spec: ModelSpec, name: str) -> WeightSpec:
    return WeightSpec(((f"{name}.weight",),), "norm", offset=spec.norm_offset)


def _linear(prefix: str, names: tuple[str, ...], tp: Any, bias: bool) -> WeightSpec:
    return WeightSpec(
        tuple((f"{prefix}.{n}.weight",) for n in names),
        "linear",
        tp=tp,
        bias=tuple(f"{prefix}.{n}.bias" for n in names) if bias else (),
    )


def _layer(spec: ModelSpec, i: int) -> Tree:
    at = f"model.layers.{i}"
    w: Tree = {
        "attention_norm": _norm(spec, f"{at}.input_layernorm"),
        "qkv": _linear(f"{at}.self_attn", ("q_proj", "k_proj", "v_proj"), "out", spec.qkv_bias),
        "out": _linear(f"{at}.self_attn", ("o_proj",), "in", spec.out_bias),
    }
    if spec.qk_norm:
        w["q_norm"] = _norm(spec, f"{at}.self_attn.q_norm")
        w["k_norm"] = _norm(spec, f"{at}.self_attn.k_norm")
    if spec.sandwich_norms:
        w["attention_post_norm"] = _norm(spec, f"{at}.post_attention_layernorm")
        w["mlp_norm"] = _norm(spec, f"{at}.pre_feedforward_layernorm")
        w["mlp_post_norm"] = _norm(spec, f"{at}.post_feedforward_layernorm")
    else:
        w["mlp_norm"] = _norm(spec, f"{at}.post_attention_layernorm")
    if spec.moe is not None and not spec.dense[i]:
        return w | _experts(spec, at)
    w["gate_up"] = _linear(f"{at}.mlp", ("gate_proj", "up_proj"), "out", spec.mlp_bias)
    w["down"] = _linear(f"{at}.mlp", ("down_proj",), "in", spec.mlp_bias)
    return w


def _experts(spec: ModelSpec, at: str) -> Tree:
    assert spec.moe is not None
    mixtral = spec.moe_names == "mixtral"
    at = f"{at}.block_sparse_moe" if mixtral else f"{at}.mlp"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")

    def stack(name: str) -> tuple[str, ...]:
        assert spec.moe is not None
        return tuple(f"{at}.experts.{e}.{name}.weight" for e in range(spec.moe.experts))

    return {
        "router": WeightSpec(((f"{at}.gate.weight",),), "linear"),
        "gate_up": WeightSpec((stack(gate), stack(up)), "experts", tp="out"),
        "down": WeightSpec((stack(down),), "experts", tp="in"),
    }
