"""Bugs of the communicator: the torch kit over gloo, and a device of one rank."""

from __future__ import annotations

import os

from bugs.registry import Bug, bug


def group(seeded: Bug):
    """open_rank of the torch kit's group, with the bug planted in it."""

    def open_rank(rank, size, rendezvous, timeout):
        import torch_group

        device = torch_group.open_rank(rank, size, rendezvous, timeout)
        seeded.plant(device)
        return device

    return open_rank


@bug("communicator", "all_reduce of a strided view sums the memory under it", base="group")
def strides_ignored(device):
    c = device.communicator
    right = c.all_reduce
    c.all_reduce = lambda x: right(x.as_strided(x.shape, (x.shape[1], 1)))


@bug("communicator", "all_reduce changes what was brought", base="group")
def reduced_in_place(device):
    c = device.communicator
    right = c.all_reduce
    c.all_reduce = lambda x: x.copy_(right(x))


@bug("communicator", "reduce_scatter gives the next rank's slice", base="group")
def slice_of_the_next_rank(device):
    c = device.communicator
    c.reduce_scatter = lambda x, axis: c.all_reduce(x).chunk(c.size, dim=axis)[(c.rank + 1) % c.size].contiguous()


@bug("communicator", "all_gather joins along the first axis only", base="group")
def gathers_along_rows_only(device):
    c = device.communicator
    right = c.all_gather
    c.all_gather = lambda x, axis: right(x, 0)


@bug("communicator", "ranks do not compare what they bring before they exchange it", base="group")
def mismatch_unnoticed(device):
    device.communicator._announce = lambda call, x: None


@bug("communicator", "a dead rank is awaited for ever", base="group", limit=25, only="test_a_dead_rank_is_noticed[2]")
def hangs_on_a_dead_rank(device):
    import threading

    c = device.communicator
    right = c._run

    def run(call):
        try:
            right(call)
        except Exception:
            threading.Event().wait()

    c._run = run


@bug("communicator", "a sharded product is not summed over the ranks", base="group")
def partial_sums(device):
    right = device.pack

    def pack(spec, read, shapes, dtype):
        w = right(spec, read, shapes, dtype)
        w.summed = False
        return w

    device.pack = pack


@bug("communicator", "the process dies where ranks have to wait", base="group")
def dies_in_a_barrier(device):
    device.communicator.barrier = lambda: os._exit(3)
