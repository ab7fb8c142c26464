"""Where each op of a device comes from, resolved once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions

from anychip_sdk.contract import Allocator, Attention, Device, Ops, StepPlugin

from anychip.errors import PlatformError

_KITS = "anychip_sdk.kits."


@dataclass(frozen=True)
class OpEntry:
    """`provider`: distribution and class, or the library that was asked for. `reference`: reference code, of a
    kit that the platform does not name in `Ops.adopted`, or of the host."""

    op: str
    dtype: str
    provider: str
    reason: str
    reference: bool


_ON_HOST = OpEntry(
    "sample",
    "float32",
    "anychip.runner.host_sampling",
    "reference code on the host: the device declares no sampling",
    reference=True,
)


def op_table(device: Device | StepPlugin) -> tuple[OpEntry, ...]:
    """One entry for every op, attention method and page operation of the device, in the contract's order; of a step
    plugin, for every method. Sampling that the device does not declare is the host's."""
    dtype = device.capabilities.weight_dtypes[0]
    distributions = packages_distributions()
    main: Ops | StepPlugin = device.ops if isinstance(device, Device) else device
    parts: tuple[tuple[str, object, type], ...] = (("step.", device, StepPlugin),)
    if isinstance(device, Device):
        parts = (
            ("", device.ops, Ops),
            ("attention.", device.ops.attention, Attention),
            ("allocator.", device.allocator, Allocator),
        )
    host = () if device.capabilities.sampling else ("sample",)
    return tuple(
        _ON_HOST if prefix + name in host else _entry(prefix + name, dtype, owner, name, main, distributions)
        for prefix, owner, contract in parts
        for name, member in vars(contract).items()
        if inspect.isfunction(member) and not name.startswith("_")
    )


def _entry(
    op: str, dtype: str, owner: object, name: str, main: Ops | StepPlugin, distributions: Mapping[str, list[str]]
) -> OpEntry:
    if isinstance(main, Ops) and op in main.provided:
        return OpEntry(op, dtype, main.provided[op], "asked for as a provider", False)
    home = next(c for c in type(owner).__mro__ if name in vars(c))
    module = home.__module__
    top = distributions.get(module.partition(".")[0], [])
    # An editable install is not listed among the distributions; the module names it as well.
    provider = " ".join([*top[:1], f"{module}.{home.__qualname__}"])
    if module.startswith("anychip_sdk.contract"):
        reason = "the contract's default, made of other ops" if isinstance(main, Ops) else "the contract's default"
        return OpEntry(op, dtype, provider, reason, False)
    if not module.startswith(_KITS):
        return OpEntry(op, dtype, provider, "the platform's own", False)
    if type(main).__module__.startswith(_KITS):
        return OpEntry(op, dtype, provider, "the kit is the platform", False)
    if isinstance(main, Ops) and op in main.adopted:
        return OpEntry(op, dtype, provider, main.adopted[op], False)
    return OpEntry(op, dtype, provider, "reference code: the platform has none", True)


def refuse_reference(table: tuple[OpEntry, ...], device: str) -> None:
    """For --strict. Raises PlatformError naming the ops that run on reference code."""
    names = [entry.op for entry in table if entry.reference]
    if names:
        raise PlatformError(
            f"--strict: {device} runs {', '.join(names)} on reference code, which is slow; "
            "leave --strict out, or install a version of the platform that has them"
        )


def refuse_fallback(reason: str | None, device: str) -> None:
    """For --strict. reason: what `Attention.fallback` said of one of the model's layers. Raises PlatformError."""
    if reason is not None:
        raise PlatformError(
            f"--strict: {device} would run this model's attention on reference code, which is slow: {reason}; change "
            "that, or leave --strict out"
        )
