"""llama.cpp through its C interface, as its own parallel example uses it: requests are sequences of one context, new
tokens of all of them and whole prompts share a batch, and what all prompts start with is computed once and copied."""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any

import numpy as np

from peers import runner

BATCH, PART = 2048, 512
"""Tokens of a batch, and of the part that is computed at once: llama.cpp's own defaults."""
SEQUENCES, CONTEXT = 32, 16384


class Sequence:
    def __init__(self, prompt: list[int], count: int) -> None:
        self.prompt, self.left, self.made = prompt, count, list[int]()


class Llama:
    def __init__(self, model: str, format: str) -> None:
        import llama_cpp

        self._c = c = llama_cpp
        c.llama_backend_init()
        self._log = c.llama_log_callback(lambda level, text, user: None)  # kept: C holds no reference
        c.llama_log_set(self._log, ctypes.c_void_p(0))
        self._model = c.llama_model_load_from_file(model.encode(), c.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        options = c.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = CONTEXT, BATCH, PART, SEQUENCES + 1
        options.n_threads = options.n_threads_batch = runner.threads()
        options.kv_unified = True
        self._context = c.llama_init_from_model(self._model, options)
        self._memory = c.llama_get_memory(self._context)
        self._vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self._batch = c.llama_batch_init(BATCH, 0, 1)

    def generate(self, work: runner.Work) -> list[list[int]]:
        """At most SEQUENCES requests."""
        sequences = [Sequence(prompt, count) for prompt, count in work]
        shared = self._share([s.prompt for s in sequences])
        waiting, running = deque(enumerate(sequences)), dict[int, Sequence]()
        while waiting or running:
            self._batch.n_tokens = 0
            rows = {i: self._add(s.made[-1], len(s.prompt) + len(s.made) - 1, i, True) for i, s in running.items()}
            while waiting and self._batch.n_tokens + len(waiting[0][1].prompt) - shared <= BATCH:
                i, sequence = waiting.popleft()
                rows[i] = self._add_prompt(sequence.prompt, shared, i)
                running[i] = sequence
            self._decode()
            for i, row in rows.items():
                self._take(running[i], row)
                if not running[i].left:
                    del running[i]
                    self._c.llama_memory_seq_rm(self._memory, i, -1, -1)
        return [s.made for s in sequences]

    def forget(self) -> None:
        self._c.llama_memory_clear(self._memory, False)

    def _share(self, prompts: list[list[int]]) -> int:
        """Computes the prefix that all share, in a sequence of its own, and gives it to every other one."""
        shared: int = min(runner.shared(prompts), min(map(len, prompts)) - 1)
        if shared:
            self._batch.n_tokens = 0
            for position, token in enumerate(prompts[0][:shared]):
                self._add(token, position, SEQUENCES, False)
            self._decode()
            for i in range(len(prompts)):
                self._c.llama_memory_seq_cp(self._memory, SEQUENCES, i, -1, -1)
            self._c.llama_memory_seq_rm(self._memory, SEQUENCES, -1, -1)
        return shared

    def _add_prompt(self, prompt: list[int], start: int, sequence: int) -> int:
        """From `start` on; the row of its last token."""
        row = -1
        for position, token in enumerate(prompt[start:], start):
            row = self._add(token, position, sequence, position == len(prompt) - 1)
        return row

    def _add(self, token: int, position: int, sequence: int, logits: bool) -> int:
        """The token's row in the batch."""
        batch: Any = self._batch
        row = int(batch.n_tokens)
        batch.token[row], batch.pos[row], batch.logits[row] = token, position, logits
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
        batch.n_tokens = row + 1
        return row

    def _decode(self) -> None:
        code = self._c.llama_decode(self._context, self._batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def _take(self, sequence: Sequence, row: int) -> None:
        logits = np.ctypeslib.as_array(self._c.llama_get_logits_ith(self._context, row), (self._vocabulary,))
        sequence.made.append(int(logits.argmax()))
        sequence.left -= 1


if __name__ == "__main__":
    runner.main(("llama_cpp",), Llama)
