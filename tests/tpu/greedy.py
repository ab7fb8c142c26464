"""Greedy tokens of an emulated TPU, in a process of its own: `greedy.py DEVICE_INDEX CHECKPOINT`. Prompts come and
tokens go as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from anychip import SamplingParams
from anychip_sdk.conformance.engines import Engine
from anychip_tpu.platform import EmulatedPlatform


def generate(device, checkpoint: Path, prompts: list[list[int]], count: int, **options) -> list[list[int]]:
    engine = Engine(checkpoint, device, dtype="float32", **options)
    done = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=count, detokenize=False))
    engine.check_idle()
    engine.close()
    assert not any(d.error for d in done), done
    return [d.tokens for d in done]


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    device = EmulatedPlatform().open(int(sys.argv[1]))
    json.dump(generate(device, Path(sys.argv[2]), asked["prompts"], asked["count"]), sys.stdout)
    assert "torch" not in sys.modules
