"""Hugging Face Transformers as a user would write it: static batches of eight, padded on the left, each to its longest
output."""

from __future__ import annotations

from typing import Any

from peers import runner

BATCH = 8


class Transformers:
    def __init__(self, model: str, format: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(runner.threads())
        torch.set_grad_enabled(False)
        self._torch = torch
        self._net: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, format))
        self._net.generation_config.eos_token_id = None
        self._net.generation_config.pad_token_id = 0

    def generate(self, work: runner.Work) -> list[list[int]]:
        made: list[list[int]] = []
        for i in range(0, len(work), BATCH):
            made += self._batch(work[i : i + BATCH])
        return made

    def _batch(self, work: runner.Work) -> list[list[int]]:
        width, count = max(len(prompt) for prompt, _ in work), max(n for _, n in work)
        ids = self._torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in work])
        mask = self._torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in work])
        out = self._net.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False
        )
        return [row[:n] for row, (_, n) in zip(out[:, width:].tolist(), work, strict=True)]

    def forget(self) -> None:
        """It keeps nothing between two calls."""


if __name__ == "__main__":
    runner.main(("torch", "transformers"), Transformers)
