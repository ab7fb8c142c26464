"""Bugs of the allocator."""

from __future__ import annotations

from dataclasses import replace

from bugs.registry import bug


@bug("allocator", "a page copy copies the keys only")
def values_not_copied(device):
    def copy_pages(kv, group, source, target):
        kv[group][0][:, target] = kv[group][0][:, source]
        return kv

    device.allocator.copy_pages = copy_pages


@bug("allocator", "a page copy copies the first layer only")
def first_layer_copied_only(device):
    def copy_pages(kv, group, source, target):
        for cache in kv[group]:
            cache[:1, target] = cache[:1, source]
        return kv

    device.allocator.copy_pages = copy_pages


@bug("allocator", "source and target of a page copy change places")
def copies_backwards(device):
    right = device.allocator.copy_pages
    device.allocator.copy_pages = lambda kv, group, source, target: right(kv, group, target, source)


@bug("allocator", "pages of every group are copied, not those of one")
def copies_every_group(device):
    right = device.allocator.copy_pages

    def copy_pages(kv, group, source, target):
        for g in range(len(kv)):
            right(kv, g, source, target)
        return kv

    device.allocator.copy_pages = copy_pages


@bug("allocator", "freed memory is never given back")
def free_leaks(device):
    kept = []
    device.allocator.free = lambda kv: kept.append(list(kv))


@bug("allocator", "a second cache lies in the memory of the first (a stale page)")
def caches_alias(device):
    right, kept = device.allocator.allocate, {}

    def allocate(layout):
        key = (layout.spec, layout.pages, layout.page_size)
        kept[key] = kept.get(key) or right(layout)
        return list(kept[key])

    device.allocator.allocate = allocate


@bug("allocator", "scratch page 0 does not count in the budget")
def scratch_not_counted(device):
    right = device.allocator.layout

    def layout(spec, **asked):
        made = right(spec, **asked)
        return replace(made, pages=tuple(n + 1 for n in made.pages))

    device.allocator.layout = layout


@bug("allocator", "a page is said to take half of what it holds")
def pages_take_too_little(device):
    right = device.allocator.layout

    def layout(spec, **asked):
        made = right(spec, **{**asked, "budget": 2 * asked["budget"]})
        return replace(made, padded=tuple(made.page_bytes(g) // 2 for g in range(len(made.pages))))

    device.allocator.layout = layout


@bug("allocator", "another page size than the one asked for is taken in silence")
def page_size_ignored(device):
    right = device.allocator.layout
    device.allocator.layout = lambda spec, **asked: right(spec, **{**asked, "page_size": None})


@bug("allocator", "too large a cache ends in the framework's own error")
def raw_memory_error(device):
    right = device.allocator.allocate

    def allocate(layout):
        if layout.pages[0] > 2**20:
            raise MemoryError("Unable to allocate")
        return right(layout)

    device.allocator.allocate = allocate


@bug("allocator", "all memory is reported as used")
def no_free_memory(device):
    right = device.allocator.memory
    device.allocator.memory = lambda: replace(right(), free=0)


@bug("allocator", "a peak is claimed for a step that did not run")
def peak_invented(device):
    device.allocator.peak = lambda run: 0
