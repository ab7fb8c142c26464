"""Text to token ids and back, one token at a time where it must stream."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anychip.errors import ModelError, RequestError
from anychip.loading.config import read_json_object, read_text

if TYPE_CHECKING:
    import tokenizers

logger = logging.getLogger(__name__)

_NAMED = 3
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""As settings and templates name them."""
HALF_CHARACTER = "\ufffd"
MAX_HELD_TOKENS = 8
"""A character has at most four bytes; what is no character after this many tokens never will be one."""


class Tokenizer:
    """A tokenizer.json, with what tokenizer_config.json says beside it."""

    def __init__(self, backend: tokenizers.Tokenizer, settings: Mapping[str, Any], template: str | None) -> None:
        self._backend = backend
        self.chat_template = template
        self.special_tokens = {name: _token_text(settings.get(name)) for name in SPECIAL_TOKENS}
        self.bos_token, self.eos_token = self.special_tokens["bos_token"], self.special_tokens["eos_token"]
        self._token_texts: dict[int, str] = {}  # of `token_text`: logprobs ask for the same ones over and over
        self.special_ids = frozenset(i for i, t in backend.get_added_tokens_decoder().items() if t.special)

    @classmethod
    def load(cls, path: Path, config: Mapping[str, Any]) -> Tokenizer:
        """path: the checkpoint's directory. Raises ModelError without a usable tokenizer.json."""
        file = path / "tokenizer.json"
        if not file.is_file():
            raise ModelError(
                f"{path} has no tokenizer.json, the only form anychip reads; make one with "
                "transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
            )
        import tokenizers

        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a file it cannot read
            cause = (str(error).splitlines() or ["unreadable"])[0]
            raise ModelError(f"{file} is damaged: {cause}; download it again") from error
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, _settings(path), find_chat_template(path))

    @property
    def vocab_size(self) -> int:
        """Tokens that have a text, added ones included. A model's embedding may be padded beyond it."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def name_unembedded(self, model: str, rows: int) -> None:
        """A warning that names a few of the tokens beyond the model's embedding, which has `rows`, if there are any: a
        prompt that holds one is refused. model: its name."""
        known = int(self._backend.get_vocab_size(with_added_tokens=False))
        beyond = sorted({*range(rows, known), *(i for i in self._backend.get_added_tokens_decoder() if i >= rows)})
        if beyond:
            named = ", ".join(f"{i} {self._backend.id_to_token(i)!r}" for i in beyond[:_NAMED])
            logger.warning(
                "the tokenizer of %s has %d %s beyond the model's vocab_size of %d (%s); prompts with one of them "
                "are refused: check that the tokenizer belongs to these weights",
                model,
                len(beyond),
                "token" if len(beyond) == 1 else "tokens",
                rows,
                named + (", ..." if len(beyond) > _NAMED else ""),
            )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        token = self._backend.token_to_id(self.eos_token) if self.eos_token else None
        return () if token is None else (token,)

    @property
    def bos_token_id(self) -> int | None:
        return self._backend.token_to_id(self.bos_token) if self.bos_token else None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Raises RequestError for text that is no valid Unicode (lone surrogates), or that has no tokens."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the prompt is no valid Unicode at character {error.start}; mend the text", "prompt"
            ) from error
        try:
            # `encode` would hold the interpreter's lock, and a long text takes seconds; a batch gives it up.
            (encoded,) = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)
            return list(encoded.ids)
        except Exception as error:  # the library raises bare Exception for text that its model has no tokens for
            cause = (str(error).splitlines() or ["no reason given"])[0]
            raise RequestError(
                f"the model's tokenizer cannot encode the prompt: {cause}; change it", "prompt"
            ) from error

    def encode_prompt(self, text: str) -> list[int]:
        """`encode` of what a user wants written on. Raises RequestError for an empty text too, though with the token
        that begins a text it would be no empty list."""
        if not text:
            raise RequestError("the prompt is empty; expected at least one character", "prompt")
        return self.encode(text)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_text(self, token: int) -> str:
        """One token as it stands within a text, special ones too; for logprobs. Decoders of the SentencePiece kind
        drop the space before a text's first word, so the token is shown after itself."""
        text = self._token_texts.get(token)
        if text is None:
            alone, twice = (self.decode([token] * count, skip_special_tokens=False) for count in (1, 2))
            text = self._token_texts[token] = twice[len(alone) :] if twice.startswith(alone) else alone
        return text


def _token_text(value: object) -> str:
    """bos_token and the like are a string or an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _settings(path: Path) -> dict[str, Any]:
    """tokenizer_config.json; of older checkpoints, whose settings list no added tokens, special_tokens_map.json says
    which ones are special."""
    file, older = path / "tokenizer_config.json", path / "special_tokens_map.json"
    settings = read_json_object(file) if file.is_file() else {}
    if "added_tokens_decoder" not in settings and older.is_file():
        settings |= read_json_object(older)
    return settings


def find_chat_template(path: Path) -> str | None:
    """chat_template.jinja, or the field in tokenizer_config.json, or chat_template.json; of several the default. path:
    the checkpoint's directory."""
    if (file := path / "chat_template.jinja").is_file():
        return read_text(file)
    value = _settings(path).get("chat_template")
    if value is None and (file := path / "chat_template.json").is_file():
        value = read_json_object(file).get("chat_template")
    if isinstance(value, list):
        value = next((t.get("template") for t in value if isinstance(t, dict) and t.get("name") == "default"), None)
    if value is not None and not isinstance(value, str):
        raise ModelError(
            f"chat_template of {path} is {json.dumps(value)[:60]}; expected a string, or a list with a default"
        )
    return value


class Detokenizer:
    """Turns a growing list of ids into text, piece by piece, never half a character.

    What a token adds to the text can depend on the token before it, so both ends of a short window are decoded and
    the difference is new. The window slides on whenever its text ends in a whole character: the cost of a token
    does not grow with the text."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._window = self._whole_end(prompt)  # decoded before, kept for context
        self._context = len(self._window)

    def _whole_end(self, prompt: Sequence[int]) -> list[int]:
        """The last tokens of the prompt, from the start of a character on (one has at most four tokens of a byte
        each). Empty if the prompt ends inside a character: what that shows stays the prompt's."""
        for size in range(MAX_HELD_TOKENS, MAX_HELD_TOKENS + 4):
            window = list(prompt[-size:])
            if not self._decode(window).endswith(HALF_CHARACTER):
                return window
        return []

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, self._skip)

    def push(self, ids: Iterable[int]) -> str:
        """The text that became whole with these ids."""
        return "".join(self._push(token) for token in ids)

    def _push(self, token: int) -> str:
        if self._skip and token in self._tokenizer.special_ids:
            return ""  # left out before decoding: it says nothing of its neighbours, and many would fill the window
        self._window.append(token)
        old, new = self._decode(self._window[: self._context]), self._decode(self._window)
        held = len(self._window) - self._context
        if new.endswith(HALF_CHARACTER) and held < MAX_HELD_TOKENS:
            return ""
        return self._slide(old, new)

    def finish(self) -> str:
        """What was held back; half a character shows as U+FFFD."""
        return self._slide(self._decode(self._window[: self._context]), self._decode(self._window))

    def _slide(self, old: str, new: str) -> str:
        fresh = self._window[self._context :]
        if fresh and len(new) > len(old):
            self._window, self._context = fresh, len(fresh)
        else:
            self._context = len(self._window)
        return new[len(old) :]
