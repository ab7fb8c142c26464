"""Sampling without sorting: cutoffs and the sampled token are found by their place in the order of falling logits
(lower token id first on ties).

The order's measure up to a place (how many tokens, or their probability) is monotone, so the place where it reaches a
bound is found digit by digit in the 32 bits of the logit's key, four bits in each pass over the row, and among equal
logits by counting. Nothing depends on how many tokens pass the filters. What is added up over a row is kept in each
lane and reduced once, at the row's end: a reduction waits for every warp."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def key_of(x: tl.tensor) -> Any:
    """uint32 keys in the order of the float32 x; both zeros have one key."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.uint32, bitcast=True)
    return tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def read_block(row: tl.tensor, start: int, V: int, best: float, temperature: float, min_p: float, cut_key: tl.tensor,
               cut_id: int, BLOCK: tl.constexpr
) -> Any:  # fmt: skip
    """Of BLOCK tokens: ids, keys, which are kept (up to the cut in the order, and min_p times as likely as the best
    one), and probabilities relative to the best one's, 0 where not kept."""
    i = start + tl.arange(0, BLOCK)
    x = tl.load(row + i, mask=i < V, other=-float("inf"))
    key = key_of(x)
    p = tl.exp((x - best) / temperature)
    kept = (i < V) & ((key > cut_key) | ((key == cut_key) & (i <= cut_id))) & (p >= min_p)
    return i, key, kept, tl.where(kept, p, 0.0)


@triton.jit
def mass_of(row: tl.tensor, V: int, best: float, temperature: float, min_p: float, cut_key: tl.tensor, cut_id: int,
            BLOCK: tl.constexpr
) -> Any:  # fmt: skip
    """The sum of the kept tokens' relative probabilities."""
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        _i, _key, _kept, p = read_block(row, start, V, best, temperature, min_p, cut_key, cut_id, BLOCK)
        total += p
    return tl.sum(total, axis=0)


@triton.jit
def find_key(row: tl.tensor, V: int, best: float, temperature: float, min_p: float, cut_key: tl.tensor,
             cut_id: int, bound: float, COUNT: tl.constexpr, STRICT: tl.constexpr, BLOCK: tl.constexpr
) -> Any:  # fmt: skip
    """The largest key at which the measure of all kept tokens with that key or a larger one passes `bound`."""
    digit = tl.arange(0, 16).to(tl.uint32)
    prefix = tl.full([], 0, tl.uint32)
    for step in range(8):
        bounds = prefix | (digit << (28 - 4 * step))
        each = tl.zeros([BLOCK, 16], tl.float32)
        for start in range(0, V, BLOCK):
            _i, key, kept, p = read_block(row, start, V, best, temperature, min_p, cut_key, cut_id, BLOCK)
            measure = kept.to(tl.float32) if COUNT else p
            each += tl.where(key[:, None] >= bounds[None, :], measure[:, None], 0.0)
        sums = tl.sum(each, axis=0)
        passed = (sums > bound) if STRICT else (sums >= bound)
        found = tl.maximum(tl.sum(passed.to(tl.int32), axis=0) - 1, 0)
        prefix = prefix | (found.to(tl.uint32) << (28 - 4 * step))
    return prefix


@triton.jit
def nth_tie(row: tl.tensor, V: int, best: float, temperature: float, min_p: float, cut_key: tl.tensor, cut_id: int,
            wanted: tl.tensor, number: float, BLOCK: tl.constexpr
) -> Any:  # fmt: skip
    """Id of the kept token that is the `number`-th with the key `wanted`, or the last one where there are fewer."""
    counted = 0
    found = 0
    for start in range(0, V, BLOCK):
        i, key, kept, _p = read_block(row, start, V, best, temperature, min_p, cut_key, cut_id, BLOCK)
        tie = kept & (key == wanted)
        place = counted + tl.cumsum(tie.to(tl.int32), axis=0)
        found = tl.maximum(found, tl.max(tl.where(tie & (place <= number), i, 0), axis=0))
        counted += tl.sum(tie.to(tl.int32), axis=0)
    return found


@triton.jit
def find_place(row: tl.tensor, V: int, best: float, temperature: float, min_p: float, cut_key: tl.tensor,
               cut_id: int, bound: float, COUNT: tl.constexpr, STRICT: tl.constexpr, BLOCK: tl.constexpr
) -> Any:  # fmt: skip
    """Key and id of the first token in the order at which the measure of the kept tokens (how many with COUNT, else
    their probability) reaches `bound`, or with STRICT exceeds it."""
    wanted = find_key(row, V, best, temperature, min_p, cut_key, cut_id, bound, COUNT, STRICT, BLOCK)
    above = tl.zeros([BLOCK], tl.float32)
    each = tl.zeros([BLOCK], tl.float32)
    first = tl.full([BLOCK], 2147483647, tl.int32)
    for start in range(0, V, BLOCK):
        i, key, kept, p = read_block(row, start, V, best, temperature, min_p, cut_key, cut_id, BLOCK)
        measure = kept.to(tl.float32) if COUNT else p
        above += tl.where(key > wanted, measure, 0.0)
        each = tl.maximum(each, tl.where(key == wanted, measure, 0.0))
        first = tl.minimum(first, tl.where(kept & (key == wanted), i, 2147483647))
    share = tl.max(each, axis=0)
    missing = (bound - tl.sum(above, axis=0)) / tl.where(share == 0.0, 1.0, share)
    number = tl.maximum(tl.floor(missing) + 1 if STRICT else tl.ceil(missing), 1.0)
    found = tl.minimum(tl.min(first, axis=0), V - 1)
    if number > 1.0:
        found = nth_tie(row, V, best, temperature, min_p, cut_key, cut_id, wanted, number, BLOCK)
    return wanted, found


@triton.jit
def draw(row: tl.tensor, V: int, best: float, temperature: float, top_k: tl.tensor, top_p: float, min_p: float,
         uniform: float, BLOCK: tl.constexpr
) -> Any:  # fmt: skip
    """The token of one row with a temperature above 0 and a finite largest logit."""
    cut_key = tl.full([], 0, tl.uint32)
    cut_id = V
    if (top_k > 0) & (top_k < V):
        bound = top_k.to(tl.float32)
        cut_key, cut_id = find_place(row, V, best, temperature, 0.0, cut_key, cut_id, bound, True, False, BLOCK)
    if top_p < 1.0:
        bound = top_p * mass_of(row, V, best, temperature, 0.0, cut_key, cut_id, BLOCK)
        cut_key, cut_id = find_place(row, V, best, temperature, 0.0, cut_key, cut_id, bound, False, False, BLOCK)
    mass = mass_of(row, V, best, temperature, min_p, cut_key, cut_id, BLOCK)
    bound = tl.minimum(uniform * mass, mass * 0.9999998807907104)  # below the mass, whatever the rounding: 1 - 2**-23
    _, token = find_place(row, V, best, temperature, min_p, cut_key, cut_id, bound, False, True, BLOCK)
    return token


@triton.jit(do_not_specialize_on_alignment=["sampling", "row_slot"])
def sample_kernel(
    logits: tl.tensor,
    sampling: tl.tensor,
    tokens: tl.tensor,
    row_slot: tl.tensor,
    last_token: tl.tensor,
    V: int,
    FILTERS: tl.constexpr,
    WORDS: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    TOP_P: tl.constexpr,
    MIN_P: tl.constexpr,
    UNIFORM: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
    DRAW_BLOCK: tl.constexpr,
) -> None:
    """One row: the most likely token, or with FILTERS and a temperature a drawn one; -1 where a logit is NaN.
    The constants from WORDS to TOP_K say where in a row of `sampling` the numbers stand."""
    r = tl.program_id(0)
    row = logits + r.to(tl.int64) * V
    largest = tl.full([BLOCK], -float("inf"), tl.float32)  # in each lane, and where it first stands
    place = tl.zeros([BLOCK], tl.int32)
    nans = tl.zeros([BLOCK], tl.int32)
    for start in range(0, V, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(row + i, mask=i < V, other=-float("inf"))
        nans |= (x != x).to(tl.int32)  # noqa: PLR0124 - only NaN differs from itself
        place = tl.where(x > largest, i, place)
        largest = tl.where(x > largest, x, largest)
    broken = tl.max(nans, axis=0)
    best = tl.max(largest, axis=0)
    token = tl.min(tl.where(largest == best, place, V), axis=0)
    if FILTERS:
        numbers = sampling + r * WORDS
        temperature = tl.load(numbers + TEMPERATURE).to(tl.float32, bitcast=True)
        if (temperature > 0.0) & (tl.abs(best) < float("inf")) & (broken == 0):
            token = draw(
                row, V, best, temperature, tl.load(numbers + TOP_K),
                tl.load(numbers + TOP_P).to(tl.float32, bitcast=True),
                tl.load(numbers + MIN_P).to(tl.float32, bitcast=True),
                tl.load(numbers + UNIFORM).to(tl.float32, bitcast=True), DRAW_BLOCK,
            )  # fmt: skip
    token = tl.where(broken > 0, -1, token)
    tl.store(tokens + r, token)
    tl.store(last_token + tl.load(row_slot + r), tl.maximum(token, 0))


@triton.jit(do_not_specialize_on_alignment=["rows", "tokens", "values"])
def edit_kernel(logits: tl.tensor, rows: tl.tensor, tokens: tl.tensor, values: tl.tensor, V: int) -> None:
    """Adds one value to one logit. Padding adds 0.0 to row 0, token 0, maybe beside a real edit of it: an atomic."""
    n = tl.program_id(0)
    place = tl.load(rows + n).to(tl.int64) * V + tl.load(tokens + n)
    tl.atomic_add(logits + place, tl.load(values + n).to(tl.float32, bitcast=True))


@triton.jit(do_not_specialize_on_alignment=["rows", "tokens", "output", "seen", "sampling"])
def penalty_kernel(
    logits: tl.tensor,
    rows: tl.tensor,
    tokens: tl.tensor,
    output: tl.tensor,
    seen: tl.tensor,
    sampling: tl.tensor,
    V: int,
    WORDS: tl.constexpr,
    REPETITION: tl.constexpr,
    PRESENCE: tl.constexpr,
    FREQUENCY: tl.constexpr,
) -> None:
    """Penalises one logit. Each stands once; padding has both counts 0 and writes nothing."""
    n = tl.program_id(0)
    r = tl.load(rows + n)
    times = tl.load(output + n)
    known = tl.load(seen + n)
    numbers = sampling + r * WORDS
    repetition = tl.load(numbers + REPETITION).to(tl.float32, bitcast=True)
    presence = tl.load(numbers + PRESENCE).to(tl.float32, bitcast=True)
    frequency = tl.load(numbers + FREQUENCY).to(tl.float32, bitcast=True)
    place = logits + r.to(tl.int64) * V + tl.load(tokens + n)
    x = tl.load(place)
    scaled = tl.where(x > 0, x / tl.where(repetition == 0.0, 1.0, repetition), x * repetition)
    x = tl.where(known == 1, scaled, x)
    x = tl.where(times > 0, x - (times * frequency + presence), x)
    tl.store(place, x, mask=(times > 0) | (known == 1))
