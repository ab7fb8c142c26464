"""Which plugins are installed. Each is loaded by itself, so that a broken one costs only its own devices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import pluggy
from anychip_sdk.contract import CONTRACT_VERSION, ENTRY_POINT_GROUP, Broken, Manifest, Version
from anychip_sdk.contract import hooks as hookspecs
from anychip_sdk.contract.version import runs, supported

from anychip.platforms.isolation import NoAnswer, isolated

UNKNOWN_RANK: Final = 2**31
"""The rank of a plugin that does not load. It could be the best, so `auto` stops at it rather than pass it over."""


@dataclass(frozen=True)
class Plugin:
    """An installed plugin: its manifest, or why there is none. `distribution` is "name version"."""

    name: str
    distribution: str
    manifest: Manifest | None
    problem: Broken | None = None
    rank: int = UNKNOWN_RANK


def discover(points: list[EntryPoint] | None = None) -> list[Plugin]:
    """All plugins of the entry-point group, best rank first. Never raises for a plugin's sake."""
    points = list(entry_points(group=ENTRY_POINT_GROUP)) if points is None else points
    plugins = [_load(point) for point in points]
    seen: dict[str, Plugin] = {}
    for plugin in sorted(plugins, key=lambda p: (-p.rank, p.name, p.distribution)):
        if (other := seen.get(plugin.name)) is None:
            seen[plugin.name] = plugin
        elif other.distribution != plugin.distribution:
            reason = f"two plugins are called {plugin.name!r}: {other.distribution} and {plugin.distribution}"
            mend = f"pip uninstall {plugin.distribution.split()[0]}"
            seen[plugin.name] = Plugin(plugin.name, other.distribution, None, Broken(reason, mend), other.rank)
    return list(seen.values())


def _load(point: EntryPoint) -> Plugin:
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist else f"{point.value} (no distribution)"
    try:
        manifest = isolated(lambda: _manifest(point))
    except (Exception, SystemExit) as error:
        reason = (
            f"{distribution}: its plugin {point.value!r} does not load: {first_line(error)}{_expected(error, point)}"
        )
        return Plugin(point.name, distribution, None, Broken(reason, upgrade(distribution)))
    theirs = Version(*manifest.contract)
    if not runs(theirs):
        ours = f"this anychip has {CONTRACT_VERSION} and runs {supported()}"
        reason = f"{distribution} is written for contract {theirs}, {ours}"
        mend = upgrade("anychip" if theirs > CONTRACT_VERSION else distribution)
        return Plugin(manifest.name, distribution, None, Broken(reason, mend), manifest.rank)
    return Plugin(manifest.name, distribution, manifest, None, manifest.rank)


def _expected(error: BaseException, point: EntryPoint) -> str:
    """What would have been right, where the error itself does not say it."""
    if isinstance(error, NoAnswer):
        return "; expected a module that imports nothing heavy"
    if isinstance(error, ModuleNotFoundError) and error.name == point.module:
        return "; expected the module that its entry point names"
    if isinstance(error, SystemExit):
        return "; expected a module that returns"
    return ""


def _manifest(point: EntryPoint) -> Manifest:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(point.load(), name=point.name)
    manager.check_pending()
    manifests = manager.hook.anychip_platform()
    if len(manifests) != 1 or not isinstance(manifests[0], Manifest):
        raise TypeError(f"its hook anychip_platform must return one Manifest, not {manifests!r}")
    _check(manifests[0])
    return manifests[0]


def _check(manifest: Manifest) -> None:
    """Raises TypeError for a field that the rest could not work with."""
    name, rank, contract = manifest.name, manifest.rank, manifest.contract
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or name == "auto":
        raise TypeError(f"its name is {name!r}; expected lower-case letters, digits, - and _, other than auto")
    if not isinstance(rank, int) or not 0 <= rank < UNKNOWN_RANK:
        raise TypeError(f"its rank is {rank!r}; expected a whole number >= 0")
    if not isinstance(manifest.platform, str) or not re.fullmatch(r"[\w.]+:\w+", manifest.platform):
        raise TypeError(f"its platform is {manifest.platform!r}; expected 'module:Class'")
    if not isinstance(contract, tuple) or len(contract) != 2 or not all(isinstance(n, int) for n in contract):
        raise TypeError(f"its contract is {contract!r}; expected a Version(major, minor)")


def upgrade(distribution: str) -> str:
    """The command that mends most plugins. distribution: as `Plugin.distribution`."""
    return f"pip install --upgrade {distribution.split(maxsplit=1)[0]}"


def first_line(error: BaseException) -> str:
    """An error of a plugin in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"


def one_line(text: str) -> str:
    """What a plugin says of itself, without its line breaks."""
    return " ".join(text.split())
