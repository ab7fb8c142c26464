"""From a StepPlan to the one buffer of a step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from anychip_sdk.contract import Batch, Bucket, Row, SampleKind

from anychip.kvcache.cache import KVCache
from anychip.request import Request
from anychip.runner.random_numbers import uniform
from anychip.scheduler.plan import StepPlan
from anychip.scheduler.table import RequestTable, has_penalties

_BIASED = -np.inf


@dataclass(frozen=True)
class Rows:
    """The logit rows of a step: first one per sampling sequence, then those of prompt logprobs.

    `edits`: (row, token, value), `counts`: (row, token, times generated, seen). Most steps have neither."""

    sampling: np.ndarray  # [n] index of the sequence in the plan
    tokens: np.ndarray  # [R] index of the token in the batch
    targets: np.ndarray  # [R] target token plus one, 0 for the sampled one
    slots: np.ndarray  # [R] request slot whose sampling parameters apply
    prompt: list[tuple[int, int, int]]  # (sequence, first row, count) of prompt logprobs
    edits: list[tuple[int, int, float]]
    counts: list[tuple[int, int, int, int]]
    kind: SampleKind


def choose_rows(plan: StepPlan, table: RequestTable) -> Rows:
    """Which logits are wanted, and which sampling code the step needs."""
    if plan.decodes_alone:
        sampling = tokens = np.arange(len(plan.slots))
    else:
        sampling = plan.samples.nonzero()[0]
        tokens = (plan.num_new.cumsum() - 1)[sampling]
    slots = plan.slots[sampling]
    targets = np.zeros(len(sampling), np.int32)
    filters = bool(table.random[slots].any())
    if not table.special[plan.slots].any():
        return Rows(sampling, tokens, targets, slots, [], [], [], SampleKind(filters=filters))
    return _special_rows(plan, table, sampling, tokens, filters)


def _special_rows(plan: StepPlan, table: RequestTable, sampling: np.ndarray, tokens: np.ndarray, filters: bool) -> Rows:
    edits: list[tuple[int, int, float]] = []
    counts: list[tuple[int, int, int, int]] = []
    wanted: list[int] = []
    for row, i in enumerate(sampling.tolist()):
        request = plan.requests[i]
        if table.special[plan.slots[i]]:
            written = len(request.output) + int(table.in_flight[plan.slots[i]])
            edits += [(row, token, value) for token, value in _edits(request, written)]
            counts += [(row, *count) for count in _counts(request)]
            if request.params.logprobs is not None:
                wanted.append(request.params.logprobs)
    prompt, prompt_tokens, prompt_targets = [], [], []
    first_token = np.cumsum(plan.num_new) - plan.num_new
    row = len(sampling)
    for i in np.flatnonzero(table.special[plan.slots]).tolist():
        request, start = plan.requests[i], int(plan.start[i])
        count = min(start + int(plan.num_new[i]), len(request.prompt) - 1) - start
        if request.params.prompt_logprobs is None or request.output or count <= 0:
            continue
        prompt.append((i, row, count))
        prompt_tokens.append(first_token[i] + np.arange(count))
        prompt_targets.append(request.prompt[start + 1 : start + 1 + count] + 1)
        wanted.append(request.params.prompt_logprobs)
        row += count
    kind = SampleKind(
        filters=filters,
        penalties=_padded(len(counts)),
        edits=_padded(len(edits)),
        logprobs=max(wanted) if wanted else None,
    )
    slots = np.concatenate([plan.slots[sampling], np.zeros(row - len(sampling), np.int32)])
    targets = np.concatenate([np.zeros(len(sampling), np.int32), *prompt_targets])
    return Rows(sampling, np.concatenate([tokens, *prompt_tokens]), targets, slots, prompt, edits, counts, kind)


def _padded(count: int) -> int:
    return 0 if count == 0 else 1 << (count - 1).bit_length()


def _edits(request: Request, written: int) -> list[tuple[int, float]]:
    """Logit biases, and stop tokens forbidden until min_tokens are written. Each token stands once."""
    values = dict(request.params.logit_bias)
    if written < request.params.min_tokens:
        values.update(dict.fromkeys(request.stop_ids, _BIASED))
    return list(values.items())


def _counts(request: Request) -> list[tuple[int, int, int]]:
    if not has_penalties(request):
        return []
    output = Counter(request.output)
    seen = output.keys() | set(request.prompt.tolist())
    return [(token, output.get(token, 0), 1) for token in seen]


def exact_bucket(plan: StepPlan, rows: Rows, kv: KVCache) -> Bucket:
    """The smallest shapes that hold the step."""
    return Bucket(
        tokens=plan.num_tokens,
        seqs=len(plan.requests),
        pages=kv.pages_for(int(plan.end.max())),
        rows=len(rows.tokens),
        decode=plan.decodes_alone,
        groups=len(kv.pools),
    )


def fill(batch: Batch, plan: StepPlan, rows: Rows, table: RequestTable, kv: KVCache) -> None:
    """Writes the step into a zeroed host batch, whose shapes may be larger than the step's."""
    B, T, R = len(plan.slots), plan.num_tokens, len(rows.tokens)
    seq = np.arange(B, dtype=np.int32)
    if plan.decodes_alone:
        token_seq, token_slot, positions = seq, plan.slots, plan.start
        batch.token_ids[:B] = table.last_token[plan.slots]
    else:
        token_seq = np.repeat(seq, plan.num_new)
        token_slot = plan.slots[token_seq]
        first = np.cumsum(plan.num_new) - plan.num_new
        positions = np.arange(T, dtype=np.int32) - (first - plan.start)[token_seq]
        batch.token_ids[: plan.num_decodes] = table.last_token[plan.slots[: plan.num_decodes]]
        for i in range(plan.num_decodes, B):
            start, count = int(plan.start[i]), int(plan.num_new[i])
            batch.token_ids[first[i] : first[i] + count] = plan.requests[i].tokens(start, start + count)
    batch.feed[:T] = table.in_flight[token_slot] > 0
    batch.counts[:] = (T, B, R, plan.num_decodes)
    batch.positions[:T] = positions
    batch.token_seq[:T] = token_seq
    batch.token_slot[:T] = token_slot
    batch.query_start[1 : B + 1] = plan.num_new.cumsum()
    batch.query_start[B + 1 :] = T
    batch.seq_lens[:B] = plan.end
    batch.seq_slot[:B] = plan.slots
    column, offset = np.divmod(positions, kv.page_size)
    columns = kv.pages_for(int(plan.end.max()))
    for g in range(len(kv.pools)):
        batch.slot_mapping[g, :T] = kv.table[g][token_slot, column] * kv.page_size + offset
        batch.page_table[g, :B, :columns] = kv.table[g][plan.slots, :columns]
    _fill_rows(batch, plan, rows, table)


def _fill_rows(batch: Batch, plan: StepPlan, rows: Rows, table: RequestTable) -> None:
    n, R = len(rows.sampling), len(rows.tokens)
    batch.logit_rows[:R] = rows.tokens
    batch.row_slot[:n] = rows.slots[:n]
    batch.sampling[:R] = table.sampling[rows.slots]
    batch.sampling[:R, Row.TARGET] = rows.targets
    if rows.kind.filters:
        numbers = uniform(table.seed[rows.slots[:n]], plan.end[rows.sampling])
        batch.sampling.view(np.float32)[:n, Row.UNIFORM] = numbers
    if rows.edits:
        row, token, value = zip(*rows.edits, strict=True)
        batch.edit_row[: len(row)], batch.edit_token[: len(row)] = row, token
        batch.edit_value.view(np.float32)[: len(row)] = value
    if rows.counts:
        row, token, output, seen = zip(*rows.counts, strict=True)
        N = len(row)
        batch.count_row[:N], batch.count_token[:N] = row, token
        batch.count_output[:N], batch.count_seen[:N] = output, seen
