"""Every error the engine raises on purpose. Each message is one line: what was wrong, what was expected, what to do."""

from __future__ import annotations


class AnychipError(Exception):
    """Base of all errors that are the user's to mend; commands print them without a traceback."""

    def __str__(self) -> str:
        """One line, whatever a library or a vendor said that is quoted in it."""
        return " ".join(super().__str__().splitlines())


class ModelError(AnychipError):
    """A checkpoint that cannot be used: missing or truncated file, wrong shape, unknown architecture."""


class RequestError(AnychipError, ValueError):
    """A request that cannot be served as asked. `field` names the offending parameter, where there is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PlatformError(AnychipError):
    """No usable device: unknown name, absent hardware, a broken or incompatible plugin."""


class CapacityError(AnychipError):
    """The model, its context or the KV cache does not fit into the device's memory."""


class EngineDeadError(AnychipError):
    """The engine loop has stopped after an internal error; start a new engine."""
