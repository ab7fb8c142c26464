"""Bugs that only whole engines show: of the device between steps, and of the books of the core."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anychip_sdk.contract import DeviceError, Sampled

from bugs.registry import bug


@bug("executor", "positions of a chunk start again at zero")
def chunks_start_at_zero(device):
    right = device.ops.rope_angles
    device.ops.rope_angles = lambda positions, w: right(
        positions - positions.min() if len(positions) > 1 else positions, w
    )


@bug("executor", "page copies before a step are left out: completions write into each other's pages")
def copy_on_write_skipped(device):
    device.allocator.copy_pages = lambda kv, group, source, target: kv


@bug("executor", "logits are those of the first tokens, not of the ones asked for")
def logit_rows_ignored(device):
    device.ops.take = lambda x, rows: x[: len(rows)]


@bug("executor", "a preempted request keeps its pages (leak on preempt)")
def leak_on_preempt(device):
    from anychip.scheduler.scheduler import Scheduler

    right = Scheduler.preempt

    def preempt(self, request):
        slot = request.slot
        pages = [int(p) for p in self.kv.table[0, slot, : self.kv.num_pages[slot]] if p]
        self.kv.pools[0].share(pages[:1])
        right(self, request)

    Scheduler.preempt = preempt


@bug("executor", "tenants find each other's prefixes in the cache")
def prefix_hit_across_tenants(device):
    from anychip.kvcache.prefix import PageNamer

    right = PageNamer.extend
    PageNamer.extend = lambda self, names, tokens, salt: right(self, names, tokens, "")


@bug("executor", "a page is freed twice, and given to two requests")
def double_free_accepted(device):
    from anychip.kvcache.cache import KVCache

    right = KVCache.release

    def release(self, slot):
        pages = [
            int(p) for p in self.table[0, slot, : self.num_pages[slot]] if p and not self.pools[0].is_named(int(p))
        ]
        right(self, slot)
        self.pools[0]._blank.extend(p for p in pages[:1] if not self.pools[0].references[p])

    KVCache.release = release


@bug("executor", "completions of one prompt share their seed")
def seed_shared_by_completions(device):
    from anychip.engine import core

    core.child_seed = lambda seed, index: seed


@bug("executor", "a prefix is found by its first page alone")
def prefix_by_first_page(device):
    from anychip.kvcache.prefix import PageNamer

    right = PageNamer.extend

    def extend(self, names, tokens, salt):
        size = self._page_size
        same = np.tile(tokens[:size], max(1, len(tokens) // size)) if len(tokens) >= size and not names else tokens
        right(self, names, same, salt)

    PageNamer.extend = extend


class _Late:
    def __init__(self, buffer):
        self._buffer = buffer

    def get(self):
        return Sampled(**{name: None if v is None else v.copy() for name, v in self._buffer.items()})


@bug("determinism", "a result is read from a buffer that the next step overwrites")
def result_overwritten(device):
    right, buffers = device.compile, {}

    def compile(step, key):
        run = right(step, key)

        def launch(weights, kv, state, buffer):
            done, kv, state = run(weights, kv, state, buffer)
            held = buffers.setdefault(key, {})
            for name, value in vars(done.get()).items():
                if isinstance(held.get(name), np.ndarray) and held[name].shape == np.shape(value):
                    held[name][...] = value
                else:
                    held[name] = value
            return _Late(held), kv, state

        return launch

    device.compile = compile


@bug("determinism", "products add up in an order that changes from call to call")
def unordered_sums(device):
    rng = np.random.default_rng()

    def linear_split(x, w):
        order = rng.permutation(x.shape[1])
        y = [x[:, order] @ part[:, order].T for part in w.parts]
        return tuple(a + b for a, b in zip(y, w.bias, strict=True)) if w.bias else tuple(y)

    device.ops.linear_split = linear_split


@bug("determinism", "batch_invariant is declared, but products are split differently by their number of rows")
def batch_invariance_overdeclared(device):
    device.capabilities = replace(device.capabilities, batch_invariant=True)

    def linear_split(x, w):
        half = x.shape[1] // 2 if len(x) > 4 else x.shape[1]
        y = [x[:, :half] @ part[:, :half].T + x[:, half:] @ part[:, half:].T for part in w.parts]
        return tuple(a + b for a, b in zip(y, w.bias, strict=True)) if w.bias else tuple(y)

    device.ops.linear_split = linear_split


@bug("determinism", "all requests draw from one seed")
def one_seed_for_all(device):
    from anychip.runner import inputs

    right = inputs.uniform
    inputs.uniform = lambda seeds, positions: right(np.zeros_like(seeds), positions)


@bug("faults", "a step that fails gives zeros instead of an error")
def errors_swallowed(device):
    right = device.compile

    def compile(step, key):
        run = right(step, key)

        def launch(weights, kv, state, buffer):
            try:
                return run(weights, kv, state, buffer)
            except DeviceError:
                return _Late({"tokens": np.zeros(key.bucket.rows, np.int32)}), kv, state

        return launch

    device.compile = compile


@bug("faults", "the pages of a failed request stay taken")
def leak_on_error(device):
    from anychip.scheduler.scheduler import Scheduler

    right = Scheduler.finish

    def finish(self, request, reason, stop_reason=None):
        if reason == "error" and request.slot:
            self.kv.pools[0].share([int(self.kv.table[0, request.slot, 0])])
        right(self, request, reason, stop_reason)

    Scheduler.finish = finish


@bug("faults", "a request with NaN spoils the sums of those beside it")
def nan_spreads(device):
    right = device.ops.rms_norm
    device.ops.rms_norm = lambda x, w, eps: right(x + 0 * x.sum(), w, eps)


@bug("faults", "a cancelled request goes on to its end")
def cancel_ignored(device):
    from anychip.engine.core import EngineCore

    EngineCore.cancel = lambda self, request, reason="abort": None


@bug("faults", "a segmentation fault in a kernel")
def segfault(device):
    import ctypes

    device.ops.linear = lambda x, w: ctypes.string_at(0)
