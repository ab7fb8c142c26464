"""Errors of the contract. A platform raises these; the core tells them apart by class, never by text."""

from __future__ import annotations


class ContractError(Exception):
    """The contract was broken: a wrong claim, a wrong shape, a call out of order."""


class NotSupported(ContractError):  # noqa: N818 - the word of the contract: an honest refusal, not a fault
    """A declared limit of the platform was met. The message says which, and what would work instead."""


class DeviceError(Exception):
    """The device failed while it ran a step. Requests of that step fail; the engine goes on if it can."""


class OutOfMemory(DeviceError):  # noqa: N818 - the field's term
    """The device has too little memory for what was asked."""
