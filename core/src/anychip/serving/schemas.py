"""OpenAI's request and response bodies. A request's field that is not listed here is refused by name.

Null means the default everywhere, as in OpenAI's API. Fields that change nothing when ignored (`user`, `metadata`,
`safety_identifier`, `prompt_cache_key`: labels for the provider's own books) are accepted. Those in `unsupported`
are accepted with the values listed, which ask for what is done anyway, and refused with any other.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, Struct, UnsetType

Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""Bounded, so that no message has to show a number of a million digits."""
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]

# -- requests ----------------------------------------------------------------------------------------------------


class Checked(Struct):
    """Has fields of OpenAI's that this server does not serve: name -> the values that ask for nothing."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {}


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    """ends the stream with a chunk of token counts"""


class GenerationRequest(Checked, kw_only=True, forbid_unknown_fields=True):
    """What both endpoints share. Ranges and defaults are those of `anychip.SamplingParams`."""

    model: str
    max_tokens: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[TokenId, float] | None = None
    seed: Int | None = None
    user: str | None = None

    # Extensions.
    top_k: Int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Int | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    priority: Int | None = None
    """lower goes first, where the engine's policy is "priority" """
    cache_salt: str | None = None
    """only requests with the same salt share cached prefixes"""


class CompletionRequest(GenerationRequest, kw_only=True):
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {"suffix": ("",)}

    prompt: str | list[str | TokenId | list[TokenId]]
    """a text, a list of texts, a list of token ids, or a list of such lists"""
    logprobs: Int | None = None
    echo: bool | None = None
    best_of: Int | None = None
    """only the value of `n`"""
    suffix: Any = None


class ChatMessage(Checked, kw_only=True, forbid_unknown_fields=True):
    """`content`: a text or a list of {"type": "text", "text": ...}. Null fields of a reply sent back are accepted."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "tool_calls": ([],),
        "tool_call_id": (),
        "function_call": (),
        "audio": (),
        "refusal": (),
        "annotations": ([],),
    }

    role: str
    content: Any = None
    name: str | None = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None
    audio: Any = None
    refusal: Any = None
    annotations: Any = None

    def for_template(self) -> dict[str, Any]:
        message = {"role": self.role, "content": self.content}
        return message if self.name is None else {**message, "name": self.name}


class ChatRequest(GenerationRequest, kw_only=True):
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "audio": (),
        "moderation": (),
        "prediction": (),
        "reasoning_effort": (),
        "verbosity": (),
        "web_search_options": (),
    }

    messages: list[ChatMessage]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    service_tier: Any = None
    store: Any = None
    audio: Any = None
    moderation: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None


# -- responses ---------------------------------------------------------------------------------------------------


class PromptTokensDetails(Struct):
    cached_tokens: int


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Answer(Struct, kw_only=True):
    """The head of every answer and of every chunk of a stream."""

    id: str
    object: str
    created: int
    """seconds since 1970"""
    model: str
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    """null in all chunks but the last of a stream that includes usage"""


class CompletionLogprobs(Struct):
    """One entry per token. `text_offset`: where in the choice's text it starts, in characters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(Answer, kw_only=True):
    choices: list[CompletionChoice]


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int] | None
    """UTF-8 of `token`; null where the token is only part of a character"""


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    content: list[ChatTokenLogprob]
    refusal: None = None


class AssistantMessage(Struct):
    content: str
    role: str = "assistant"
    refusal: None = None


class ChatChoice(Struct):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletion(Answer, kw_only=True):
    choices: list[ChatChoice]


class Delta(Struct):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(Answer, kw_only=True):
    choices: list[ChunkChoice]


class Model(Struct, kw_only=True):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "anychip"
    max_model_len: int


class ModelList(Struct):
    data: list[Model]
    object: str = "list"
