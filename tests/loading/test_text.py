"""Tokenizer, incremental detokenizer and chat templates."""

from __future__ import annotations

import json
import sys
import threading

import pytest
import tokenizers
from anychip.errors import ModelError, RequestError
from anychip.loading.chat_template import ChatTemplate
from anychip.loading.tokenizer import Detokenizer, Tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

CORPUS = ["The quick brown fox jumps over the lazy dog. Größe naïve café 你好 世界 🙂👍🏽 שלום"] * 3
SPECIAL = ["<eos>"]


def byte_level() -> tokenizers.Tokenizer:
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return t


def sentencepiece_like() -> tokenizers.Tokenizer:
    pieces = {"<eos>": 0, "<unk>": 1} | {f"<0x{b:02X}>": b + 2 for b in range(256)}
    for word in ("▁", "▁The", "▁quick", "▁dog", "a", "b", "e", "é", "你", "▁你好"):
        pieces[word] = len(pieces)
    t = tokenizers.Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.add_special_tokens(SPECIAL)
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return t


BACKENDS = {"bytes": byte_level(), "pieces": sentencepiece_like()}


def wrapped(kind: str) -> Tokenizer:
    return Tokenizer(BACKENDS[kind], {"eos_token": "<eos>"}, None)


@pytest.mark.parametrize("kind", BACKENDS)
@settings(max_examples=150, deadline=None)
@given(prompt=st.text(max_size=12), text=st.text(max_size=40))
def test_pieces_of_text_add_up_and_hold_no_half_character(kind, prompt, text):
    t = wrapped(kind)
    before, ids = t.encode(prompt), t.encode(text)
    detokenizer = Detokenizer(t, before)
    pieces = [detokenizer.push([i]) for i in ids]
    assert not any("\ufffd" in p for p in pieces if "\ufffd" not in text)
    shown = "".join(pieces) + detokenizer.finish()
    whole, start = t.decode(before + ids), t.decode(before)
    assert shown == whole[len(start) :] or not before or not whole.startswith(start)
    if kind == "bytes":
        assert shown == t.decode(ids)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 299), max_size=40))
def test_any_tokens_come_out_whole_in_the_end(ids):
    t = wrapped("bytes")
    size = t.vocab_size
    ids = [i % size for i in ids]
    detokenizer = Detokenizer(t, [])
    shown = detokenizer.push(ids) + detokenizer.finish()
    assert shown.replace("\ufffd", "") == t.decode(ids).replace("\ufffd", "")


def test_emoji_comes_out_in_one_piece():
    t = wrapped("bytes")
    detokenizer = Detokenizer(t, [])
    pieces = [detokenizer.push([i]) for i in t.encode("a🧵b")]
    assert [p for p in pieces if p] == ["a", "🧵", "b"]


def test_tokens_that_are_left_out_are_not_decoded_again():
    """After the end of a text that goes on nevertheless a model may repeat one for thousands of tokens."""
    t = wrapped("pieces")
    ids = t.encode("The quick dog", add_special_tokens=False)
    (end,) = t.special_ids
    detokenizer = Detokenizer(t, [])
    shown = detokenizer.push([*ids[:2], *[end] * 50, *ids[2:]])
    assert shown + detokenizer.finish() == t.decode(ids)
    assert len(detokenizer._window) < 10
    assert Detokenizer(t, ids, skip_special_tokens=False).push([end]) == "<eos>"


def test_other_threads_run_while_a_text_is_encoded():
    t, ended, interval = wrapped("bytes"), threading.Event(), sys.getswitchinterval()

    def encode():
        t.encode("The quick brown fox " * 10_000)
        ended.set()

    thread = threading.Thread(target=encode)
    sys.setswitchinterval(60)  # a thread gives way only where it gives up the interpreter's lock
    try:
        thread.start()
        assert not ended.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def test_a_token_by_itself_keeps_its_space():
    """For logprobs: what it adds within a text, whichever way the decoder treats the first word."""
    for kind, text in (("pieces", "The quick dog"), ("bytes", " quick fox")):
        t = wrapped(kind)
        texts = [t.token_text(i) for i in t.encode(text)]
        assert "".join(texts).strip() == text.strip()
        assert any(piece.startswith(" ") for piece in texts)
    t = wrapped("pieces")
    assert [t.token_text(BACKENDS["pieces"].token_to_id(piece)) for piece in ("▁dog", "▁", "a", "<eos>", "<0xE4>")] == [
        " dog",
        " ",
        "a",
        "<eos>",
        "\ufffd",
    ]


def test_special_tokens_and_settings(tmp_path):
    BACKENDS["bytes"].save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<eos>"}, "chat_template": [{"name": "default", "template": "{{ 1 }}"}]})
    )
    t = Tokenizer.load(tmp_path, {})
    assert t.eos_token_ids == (0,)
    assert t.chat_template == "{{ 1 }}"
    assert t.decode([0, *t.encode("fox")]) == "fox"
    (tmp_path / "chat_template.jinja").write_text("{{ 2 }}")
    assert Tokenizer.load(tmp_path, {}).chat_template == "{{ 2 }}"
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ 2 }}\xff")
    with pytest.raises(ModelError, match=r"chat_template.jinja is not valid UTF-8 at byte 7"):
        Tokenizer.load(tmp_path, {})
    with pytest.raises(RequestError, match="Unicode"):
        t.encode("\ud800")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        Tokenizer.load(tmp_path, {})
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path, {})


def test_special_tokens_of_older_checkpoints(tmp_path):
    BACKENDS["bytes"].save(str(tmp_path / "tokenizer.json"))
    settings = tmp_path / "tokenizer_config.json"
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<eos>", "bos_token": {"content": "a"}}))
    for old in ({}, {"eos_token": "</s>", "model_max_length": 8}):
        settings.write_text(json.dumps(old))
        t = Tokenizer.load(tmp_path, {})
        assert (t.bos_token, t.eos_token) == ("a", "<eos>")
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        assert (theirs.bos_token, theirs.eos_token) == ("a", "<eos>")
    settings.write_text(json.dumps({"bos_token": None, "eos_token": "b", "added_tokens_decoder": {}}))
    t = Tokenizer.load(tmp_path, {})
    assert (t.bos_token, t.eos_token) == ("", "b")


def test_tokens_that_the_model_has_no_row_for_are_named(caplog):
    t = wrapped("bytes")
    t.name_unembedded("m", t.vocab_size)
    assert not caplog.records
    backend = byte_level()
    size = backend.get_vocab_size()
    backend.add_special_tokens(["<call>", "<pad>"])
    t = Tokenizer(backend, {}, None)
    t.name_unembedded("m", size)
    assert f"the tokenizer of m has 2 tokens beyond the model's vocab_size of {size} " in caplog.text
    assert f"({size} '<call>', {size + 1} '<pad>'); prompts with one of them are refused" in caplog.text
    caplog.clear()
    t.name_unembedded("m", size - 2)
    assert "has 4 tokens beyond" in caplog.text
    assert ", ...)" in caplog.text


def test_text_that_has_no_tokens_is_refused():
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    t = Tokenizer(words, {}, None)
    assert t.encode("a") == [0]
    with pytest.raises(RequestError, match=r"tokenizer cannot encode the prompt: .*; change it") as caught:
        t.encode("b")
    assert caught.value.field == "prompt"


CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_templates_render_like_transformers(tmp_path):
    from transformers import PreTrainedTokenizerFast

    messages = [
        {"role": "system", "content": " s "},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    theirs = PreTrainedTokenizerFast(tokenizer_object=BACKENDS["bytes"])
    for source in (
        CHATML,
        "{{ bos_token }}{{ messages | tojson }}",
        "{%- for m in messages %}\n  {{ m.role }}\n{%- endfor %}",
        "{% for m in messages %}\n{% generation %}{{ m.content }}{% set m = 1 %}\n{% endgeneration %}{{ m }}"
        "{% endfor %}",
        "{{ messages | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}",
    ):
        theirs.chat_template = source
        wanted = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ChatTemplate(source).render(messages) == wanted.replace("None", "")


def test_a_key_without_a_value_is_left_out_of_a_message():
    """As Transformers does: clients send their own last answer back with "tool_calls": null in it."""
    source = "{% for m in messages %}{% if m.tool_calls is defined %}{{ m.tool_calls[0] }}{% endif %}{{ m.content }}"
    rendered = ChatTemplate(source + "{% endfor %}{{ documents is none }}").render(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": None}]
    )
    assert rendered == "aTrue"


def test_templates_know_the_special_tokens(tmp_path):
    BACKENDS["bytes"].save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": "<eos>", "eos_token": "<eos>", "pad_token": "a", "unk_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": {}}))
    source = "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ messages[0].content }}"
    messages = [{"role": "user", "content": "b"}]
    t = Tokenizer.load(tmp_path, {})
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    wanted = theirs.apply_chat_template(messages, chat_template=source, tokenize=False)
    assert wanted == "<eos>|<eos>|a||b"
    assert ChatTemplate(source).render(messages, special_tokens=t.special_tokens) == wanted


def test_templates_are_confined():
    with pytest.raises(ModelError, match="no valid Jinja"):
        ChatTemplate("{% if %}")
    with pytest.raises(ModelError, match="no valid Jinja"):
        ChatTemplate("{{ " + "[" * 5000 + "]" * 5000 + " }}")
    message = [{"role": "user", "content": "x"}]
    for source in (
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% for i in range(999999999) %}x{% endfor %}",
    ):
        with pytest.raises(RequestError, match=r"refuses|exceed") as caught:
            ChatTemplate(source).render(message)
        assert caught.value.field == "messages"
    with pytest.raises(RequestError, match="role"):
        ChatTemplate(CHATML).render([{"role": "robot", "content": "x"}])
    with pytest.raises(RequestError, match="content"):
        ChatTemplate(CHATML).render([{"role": "user", "content": [{"type": "image_url"}]}])
    with pytest.raises(RequestError, match="empty"):
        ChatTemplate(CHATML).render([])
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert "ab" in ChatTemplate(CHATML).render(parts)
