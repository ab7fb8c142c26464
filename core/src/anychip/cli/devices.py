"""anychip devices: what is here, what is not, and why."""

from __future__ import annotations

import argparse

from anychip.errors import AnychipError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="details, memory, and where each op comes from")


def run(options: argparse.Namespace) -> None:
    from anychip_sdk.contract import Absent, Broken

    from anychip.platforms.selection import Probed, probe_all

    def show(probed: Probed) -> None:
        name, result = probed.plugin.name, probed.result
        if isinstance(result, Broken):
            print(f"{name:12} broken  {result.reason}; to mend it: {result.mend}")
        elif isinstance(result, Absent):
            print(f"{name:12} absent  {result.reason}")
        else:
            for info in result.devices:
                print(f"{info.name:12} found   {info.description}  ({probed.plugin.distribution})")
            if options.verbose:
                for index in range(len(result.devices)):
                    _details(probed, index)

    for probed in probe_all():
        show(probed)


def _details(probed: object, index: int) -> None:
    from anychip_sdk.contract import Device, DeviceError, Found

    from anychip.engine.budget import gib
    from anychip.platforms.op_table import op_table
    from anychip.platforms.selection import Choice, Probed, open_device

    assert isinstance(probed, Probed)
    assert isinstance(probed.result, Found)
    assert probed.platform is not None
    info = probed.result.devices[index]
    for key, value in info.details.items():
        print(f"    {key}: {value}")
    try:
        device = open_device(Choice(probed.platform, index, info, "listed"), None)
    except AnychipError as error:
        print(f"    {error}")
        return
    try:
        memory = device.allocator.memory() if isinstance(device, Device) else device.memory()
    except DeviceError as error:
        print(f"    cannot tell its memory: {error}")
        device.close()
        return
    print(f"    memory: {gib(memory.free)} free of {gib(memory.total)}")
    claims = device.capabilities
    print(f"    weights in {', '.join(claims.weight_dtypes)}; KV in {', '.join(claims.kv_dtypes)}")
    if isinstance(device, Device):
        for entry in op_table(device):
            print(f"    {entry.op:24} {entry.dtype:9} {entry.provider}: {entry.reason}")
    device.close()
