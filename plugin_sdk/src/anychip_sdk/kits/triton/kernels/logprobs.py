"""Log-probabilities: of one token, its rank, and the likeliest others."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["sampling"])
def logprobs_kernel(
    logits: tl.tensor,
    sampling: tl.tensor,
    tokens: tl.tensor,
    logprob: tl.tensor,
    rank: tl.tensor,
    top_tokens: tl.tensor,
    top_logprobs: tl.tensor,
    V: int,
    COUNT: tl.constexpr,
    WORDS: tl.constexpr,
    TARGET: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One row. The token is the row's target where there is one, else the sampled one; its rank is 1 + the tokens
    with a larger logit. top_*: [R, COUNT], most likely first, the lower id on ties."""
    r = tl.program_id(0).to(tl.int64)
    row = logits + r * V
    best = -float("inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(row + i, mask=i < V, other=-float("inf"))
        largest = tl.maximum(best, tl.max(x, axis=0))
        base = tl.where(largest == -float("inf"), 0.0, largest)
        total = total * tl.exp(best - base) + tl.sum(tl.exp(x - base), axis=0)
        best = largest
    norm = best + tl.log(total)
    target = tl.load(sampling + r * WORDS + TARGET)
    wanted = tl.where(target > 0, target - 1, tl.maximum(tl.load(tokens + r), 0))
    chosen = tl.load(row + wanted)
    larger = 0
    for start in range(0, V, BLOCK):
        i = start + tl.arange(0, BLOCK)
        larger += tl.sum((tl.load(row + i, mask=i < V, other=-float("inf")) > chosen).to(tl.int32), axis=0)
    tl.store(logprob + r, chosen - norm)
    tl.store(rank + r, larger + 1)
    last = float("inf")
    last_id = -1
    for n in range(COUNT):
        best = -float("inf")
        found = V
        for start in range(0, V, BLOCK):
            i = start + tl.arange(0, BLOCK)
            x = tl.load(row + i, mask=i < V, other=-float("inf"))
            left = (i < V) & ((x < last) | ((x == last) & (i > last_id)))
            here = tl.max(tl.where(left, x, -float("inf")), axis=0)
            first = tl.min(tl.where(left & (x == here), i, V), axis=0)
            better = (here > best) | ((here == best) & (first < found))
            found = tl.where(better, first, found)
            best = tl.maximum(best, here)
        found = tl.minimum(found, V - 1)  # a row of NaN has none
        tl.store(top_tokens + r * COUNT + n, found)
        tl.store(top_logprobs + r * COUNT + n, best - norm)
        last = best
        last_id = found
