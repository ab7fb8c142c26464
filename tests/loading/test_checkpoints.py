"""Checkpoints as they come: whole ones in every form run, damaged ones are refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from anychip import LLM, AnychipError, SamplingParams
from anychip.loading.checkpoint import resolve_model
from anychip.models.registry import ARCHITECTURES
from safetensors.numpy import load_file, save_file

INDEX = "model.safetensors.index.json"
PROMPT = [1, 2, 3, 4, 5]
NORM = "model.norm.weight"


def first_tokens(directory: Path, count: int = 4) -> list[int]:
    with LLM(directory, "numpy", skip_tokenizer=True, dtype="float32") as llm:
        params = SamplingParams(temperature=0, max_tokens=count, detokenize=False)
        return llm.generate(PROMPT, params)[0].outputs[0].token_ids


def refusal(directory: Path | str) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(AnychipError) as caught:
        LLM(directory, "numpy", skip_tokenizer=True)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    """One file, and four shards with an index."""
    whole, sharded = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("sharded")
    checkpoints.build("llama", whole)
    checkpoints.build("llama", sharded, max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    return {"whole": whole, "sharded": sharded}


@pytest.fixture
def damaged(originals, tmp_path) -> Callable[[str], Path]:
    """A copy of an original, to be damaged."""
    return lambda kind: Path(shutil.copytree(originals[kind], tmp_path / "model"))


def rewrite(directory: Path, **fields: object) -> None:
    """Sets fields of config.json; None removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change(directory: Path, name: str, tensor: Callable[[np.ndarray], np.ndarray] | None) -> None:
    """Replaces or removes one tensor of model.safetensors."""
    tensors = load_file(directory / "model.safetensors")
    old = tensors.pop(name)
    if tensor is not None:
        tensors[name] = tensor(old.copy())
    save_file(tensors, directory / "model.safetensors")


def shard_of(directory: Path, name: str) -> Path:
    return directory / json.loads((directory / INDEX).read_text())["weight_map"][name]


# -- whole ones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "llama3"], ids=["untied", "tied"])
def test_every_stored_dtype_runs(family, dtype, tmp_path):
    model = checkpoints.build(family, tmp_path, dtype=dtype)
    assert first_tokens(tmp_path) == checkpoints.greedy(model.float(), PROMPT, 4)


def test_shards_hold_the_same_model(originals):
    assert first_tokens(originals["sharded"]) == first_tokens(originals["whole"])


def test_a_tied_model_may_still_bring_its_head(tmp_path):
    model = checkpoints.build("llama3", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert first_tokens(tmp_path) == checkpoints.greedy(model, PROMPT, 4)


def test_a_head_that_differs_from_the_embedding_is_used_though_the_config_ties_them(tmp_path, caplog):
    checkpoints.build("llama3", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"][::-1].copy()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert first_tokens(tmp_path) == checkpoints.greedy(model, PROMPT, 4)
    assert "lm_head.weight, that differs from its embedding: it is used" in caplog.text


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_a_mistral_whose_layers_differ(device, tmp_path):
    """Transformers takes it for a Ministral."""
    checkpoints.build("mistral", tmp_path)
    rewrite(tmp_path, sliding_window=5, layer_types=["full_attention", "sliding_attention"] * 2)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    prompt = checkpoints.prompts(1, (30,))[0]
    with LLM(tmp_path, device, skip_tokenizer=True, dtype="float32") as llm:
        params = SamplingParams(temperature=0, max_tokens=12, detokenize=False)
        got = llm.generate(prompt, params)[0].outputs[0].token_ids
    assert got == checkpoints.greedy(model, prompt, 12)


def test_layers_beyond_the_config_are_named_and_buffers_are_not(originals, damaged, caplog):
    path, wanted = damaged("whole"), first_tokens(originals["whole"])
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(tensors, path / "model.safetensors")
    assert first_tokens(path) == wanted
    assert "no place for" not in caplog.text
    beyond = {n.replace("layers.3", "layers.9"): t for n, t in tensors.items() if "layers.3." in n}
    save_file(tensors | beyond, path / "model.safetensors")
    assert first_tokens(path) == wanted
    named = ", ".join(sorted(beyond)[:3])
    assert f"has {len(beyond)} tensors that its config.json has no place for ({named}, ...)" in caplog.text


def test_a_tokenizer_with_tokens_that_the_model_lacks(tmp_path, caplog):
    path = shutil.copytree(resolve_model("demo"), tmp_path / "model")
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["<call>"])
    tokenizer.save(str(path / "tokenizer.json"))
    with LLM(path, "numpy") as llm:
        assert f"the tokenizer of model has 1 token beyond the model's vocab_size of {size} " in caplog.text
        with pytest.raises(AnychipError, match=f"the prompt holds {size}"):
            llm.generate("a <call>")


def test_generation_config_gives_the_defaults(damaged):
    path = damaged("whole")
    wanted = {"do_sample": True, "temperature": 0.25, "top_k": 7, "top_p": 0.5, "eos_token_id": [3, 4]}
    (path / "generation_config.json").write_text(json.dumps(wanted))
    with LLM(path, "numpy", skip_tokenizer=True) as llm:
        params = llm.default_params(max_tokens=9)
        assert llm._core.eos_ids == {3, 4}
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.25, 7, 0.5, 9)


def test_an_end_token_beyond_the_vocabulary_never_comes(damaged):
    path = damaged("whole")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": checkpoints.VOCAB}))
    with LLM(path, "numpy", skip_tokenizer=True) as llm:
        params = SamplingParams(temperature=0, max_tokens=4, min_tokens=4, detokenize=False)
        assert llm.generate(PROMPT, params)[0].outputs[0].finish_reason == "length"


# -- damaged ones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 5, 100, -1], ids=["empty", "no header", "half a header", "a byte short"])
def test_a_truncated_file(damaged, kept):
    path = damaged("whole")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    message = refusal(path)
    assert "model.safetensors is not a whole safetensors file" in message
    assert "download the file again" in message


def test_a_wrong_shape(damaged):
    path = damaged("whole")
    change(path, NORM, lambda t: t[:-1])
    assert "tensor 'model.norm.weight' has shape [31], expected [32] (hidden_size in config.json)" in refusal(path)


def test_a_missing_tensor(damaged):
    path = damaged("whole")
    change(path, NORM, None)
    assert "lacks 1 of the 39 tensors its config.json asks for, the first is 'model.norm.weight'" in refusal(path)


def test_a_missing_shard(damaged):
    path = damaged("sharded")
    shard = shard_of(path, NORM)
    shard.unlink()
    message = refusal(path)
    assert f"names {shard.name}, which is missing; download it" in message


def test_a_truncated_shard(damaged):
    path = damaged("sharded")
    shard = shard_of(path, NORM)
    shard.write_bytes(shard.read_bytes()[:-8])
    assert f"{shard.name} is not a whole safetensors file" in refusal(path)


def test_an_index_that_names_a_tensor_its_shard_lacks(damaged):
    path = damaged("sharded")
    index = json.loads((path / INDEX).read_text())
    other = next(s for s in index["weight_map"].values() if s != index["weight_map"][NORM])
    index["weight_map"][NORM] = other
    (path / INDEX).write_text(json.dumps(index))
    message = refusal(path)
    assert f"says that {other} holds tensor 'model.norm.weight', but it does not" in message
    assert "download the checkpoint again" in message


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{}", "has no 'weight_map' object"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "expected the name of a .safetensors file beside the index"),
        ('{"weight_map": {"a": 1}}', "expected the name of a .safetensors file beside the index"),
        ('{"weight_map"', "is not valid JSON"),
    ],
)
def test_a_bad_index(damaged, index, said):
    path = damaged("sharded")
    (path / INDEX).write_text(index)
    assert said in refusal(path)


@pytest.mark.parametrize(
    "field",
    ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size", "rms_norm_eps"],
)
def test_a_missing_field(damaged, field):
    path = damaged("whole")
    rewrite(path, **{field: None})
    message = refusal(path)
    assert message.startswith("config.json (architecture LlamaForCausalLM) lacks")
    assert f"'{field}'" in message
    assert "add the field" in message


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("hidden_size", "32", "'hidden_size' is '32', expected an integer"),
        ("hidden_size", 0, "'hidden_size' is 0, expected at least 1"),
        ("hidden_size", 10**12, "'hidden_size' is 1000000000000, expected at most 2147483647"),
        ("hidden_size", 64, "has shape [96, 32], expected [96, 64]"),
        ("head_dim", 10**9, "'head_dim' is 1000000000, expected at most 16384"),
        ("num_hidden_layers", 10**9, "'num_hidden_layers' is 1000000000, expected at most 4096"),
        ("rms_norm_eps", "small", "'rms_norm_eps' is 'small', expected a number"),
        ("num_key_value_heads", 3, "num_key_value_heads"),
        ("hidden_act", "swoosh", "swoosh"),
        ("rope_parameters", [], "'rope_parameters' is [], expected an object"),
        ("num_hidden_layers", 5, "lacks 9 of the 48 tensors"),
        ("eos_token_id", "</s>", "eos_token_id is ['</s>']; expected a token id"),
    ],
)
def test_a_wrong_field(damaged, field, value, said):
    path = damaged("whole")
    (path / "generation_config.json").unlink()
    rewrite(path, **{field: value})
    assert said in refusal(path)


@pytest.mark.parametrize(("field", "value"), [("temperature", "hot"), ("top_p", 7), ("repetition_penalty", 0)])
def test_a_default_out_of_range(damaged, field, value):
    path = damaged("whole")
    (path / "generation_config.json").write_text(json.dumps({"do_sample": True, field: value}))
    message = refusal(path)
    assert message.startswith(f"generation_config.json of model: {field} is {value!r}; expected a number")
    assert message.endswith("; correct the field")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ufeff{}", "NaN", '{"a": ' * 100_000])
def test_malformed_json(damaged, text):
    path = damaged("whole")
    (path / "config.json").write_text(text)
    message = refusal(path)
    assert "config.json is not valid JSON" in message or "config.json holds a JSON" in message


def test_json_that_is_no_text(damaged):
    path = damaged("whole")
    (path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "config.json is not valid JSON" in refusal(path)


@pytest.mark.parametrize("name", ["PhantomForCausalLM", None, 7])
def test_an_unknown_architecture_lists_the_known(damaged, name):
    path = damaged("whole")
    rewrite(path, architectures=[name])
    message = refusal(path)
    assert f"architecture {name!r} in config.json is unknown" in message
    assert all(known in message for known in ARCHITECTURES)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "config.json lacks 'architectures' (a list"),
        ([], "architecture [] in config.json is unknown"),
    ],
)
def test_a_config_without_an_architecture(damaged, value, said):
    path = damaged("whole")
    rewrite(path, architectures=value)
    assert refusal(path).startswith(said)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite(damaged, value):
    def plant(tensor: np.ndarray) -> np.ndarray:
        tensor[3, 5] = value
        return tensor

    path = damaged("whole")
    change(path, "model.layers.2.mlp.up_proj.weight", plant)
    message = refusal(path)
    assert f"tensor 'model.layers.2.mlp.up_proj.weight' holds {value} at index [3, 5]" in message
    assert "get a good copy" in message


def test_a_quantised_checkpoint(damaged):
    path = damaged("whole")
    change(path, NORM, lambda t: t.astype(np.int8))
    message = refusal(path)
    assert "'model.norm.weight'" in message
    assert "int8, expected one of float32, float16, bfloat16" in message


def test_an_empty_directory(tmp_path):
    assert f"{tmp_path} has no config.json" in refusal(tmp_path)


def test_a_directory_without_weights(damaged):
    path = damaged("whole")
    (path / "model.safetensors").unlink()
    assert "has neither model.safetensors nor model.safetensors.index.json" in refusal(path)
    (path / "pytorch_model.bin").write_bytes(b"")
    assert "never pickles" in refusal(path)


def test_paths_that_are_no_directory(tmp_path):
    missing = tmp_path / "no" / "such" / "model"
    assert f"no such directory: '{missing}'; give a checkpoint directory" in refusal(missing)
    (tmp_path / "file").write_text("")
    assert "is a file; give the directory" in refusal(tmp_path / "file")
    assert "no such directory: ''; give a checkpoint directory" in refusal("")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors"])
def test_a_folder_where_a_file_should_be(damaged, name):
    path = damaged("whole")
    (path / name).unlink()
    (path / name).mkdir()
    assert name in refusal(path)


def test_the_config_of_a_text_within_another_model_is_refused(damaged):
    path = damaged("whole")
    text = json.loads((path / "config.json").read_text())
    rewrite(path, architectures=["Gemma3ForConditionalGeneration"], text_config=text)
    message = refusal(path)
    assert "'Gemma3ForConditionalGeneration'" in message
    assert message.endswith("use a checkpoint of its text model alone")
