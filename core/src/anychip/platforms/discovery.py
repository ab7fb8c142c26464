"""Which plugins are installed. Each is loaded by itself, so that a broken one costs only its own devices."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import pluggy
from anychip_sdk.contract import CONTRACT_VERSION, ENTRY_POINT_GROUP, Broken, Manifest
from anychip_sdk.contract import hooks as hookspecs


@dataclass(frozen=True)
class Plugin:
    """An installed plugin: its manifest, or why there is none. `distribution` is "name version"."""

    name: str
    distribution: str
    manifest: Manifest | None
    problem: Broken | None = None

    @property
    def rank(self) -> int:
        return self.manifest.rank if self.manifest else 0


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
            seen[plugin.name] = Plugin(plugin.name, plugin.distribution, None, Broken(reason, mend))
    return list(seen.values())


def _load(point: EntryPoint) -> Plugin:
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist else f"(unknown distribution) {point.value}"
    try:
        manifest = _manifest(point)
    except (Exception, SystemExit) as error:
        cause = str(error).splitlines()[0] if str(error) else "no message"
        reason = f"{distribution}: its plugin {point.value!r} does not load: {type(error).__name__}: {cause}"
        return Plugin(
            point.name, distribution, None, Broken(reason, f"pip install --upgrade {distribution.split(maxsplit=1)[0]}")
        )
    if manifest.contract[0] not in (CONTRACT_VERSION.major, CONTRACT_VERSION.major - 1):
        theirs, ours = manifest.contract, CONTRACT_VERSION
        reason = f"{distribution} is written for contract {theirs[0]}.{theirs[1]}, this anychip has {ours}"
        older = "anychip" if theirs[0] > ours.major else distribution.split(maxsplit=1)[0]
        return Plugin(manifest.name, distribution, None, Broken(reason, f"pip install --upgrade {older}"))
    return Plugin(manifest.name, distribution, manifest)


def _manifest(point: EntryPoint) -> Manifest:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(point.load(), name=point.name)
    manager.check_pending()
    manifests = manager.hook.anychip_platform()
    if len(manifests) != 1 or not isinstance(manifests[0], Manifest):
        raise TypeError(f"its hook anychip_platform must return one Manifest, not {manifests!r}")
    return manifests[0]
