"""Packed weights on disk: made once, found again, and never believed when they are not as they were left."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from anychip import LLM, SamplingParams
from anychip.cli import main
from anychip.engine import weights as engine_weights
from anychip.loading import content, packed_file, weight_cache
from anychip.loading.packed_file import Damaged, Writer, read
from anychip_cpu import native
from anychip_cpu.device import CpuDevice
from anychip_sdk.contract import StoredWeight

PARAMS = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, detokenize=False)
needs_kernels = pytest.mark.skipif(not native.isas(), reason="anychip-cpu was installed without a C++ compiler")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache's directory, for models of any size."""
    monkeypatch.setenv("ANYCHIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_weights, "LEAST", 0)
    return tmp_path / "cache"


@pytest.fixture
def packed(monkeypatch):
    """The kinds of the weights that were packed, in order."""
    calls, pack = [], CpuDevice.pack

    def counted(self, spec, read, shapes, dtype):
        calls.append(spec.kind)
        return pack(self, spec, read, shapes, dtype)

    monkeypatch.setattr(CpuDevice, "pack", counted)
    return calls


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    checkpoints.build("llama", folder)
    return folder


def tokens(model, **options):
    with LLM(str(model), "cpu", skip_tokenizer=True, threads=1, **options) as llm:
        return llm.generate([[3, 1, 4]], PARAMS)[0].outputs[0].token_ids


def files(cache):
    return sorted((cache / "weights").iterdir()) if (cache / "weights").exists() else []


@needs_kernels
@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": "bfloat16"}, {"dtype": "float16"}, {"quantize": "int8"}, {"quantize": "int4-g32"}],
    ids=str,
)
def test_the_second_start_packs_nothing_and_says_the_same(cache, packed, model, options):
    first = tokens(model, **options)
    assert packed
    packed.clear()
    assert tokens(model, **options) == first
    assert not packed
    assert [path.suffix for path in files(cache)] == [".packed"]


@needs_kernels
def test_it_can_be_turned_off(cache, packed, model, monkeypatch):
    tokens(model, weight_cache=False)
    assert not cache.exists()
    monkeypatch.setenv("ANYCHIP_CACHE", "off")
    tokens(model)
    tokens(model)
    assert packed.count("embedding") == 3


@needs_kernels
def test_small_models_are_not_kept(cache, model, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("ANYCHIP_CACHE", str(cache))
    tokens(model)
    assert not cache.exists()


@needs_kernels
def test_every_form_has_a_file_of_its_own(cache, model, monkeypatch):
    tokens(model)
    tokens(model, quantize="int8")
    monkeypatch.setenv(native.FORCED, "portable")
    tokens(model)
    assert len(files(cache)) == 3


@needs_kernels
def test_what_oneDNN_lays_out_is_not_kept(cache, model, monkeypatch):
    monkeypatch.setenv(native.FORCED, "none")
    tokens(model)
    assert not cache.exists()


@needs_kernels
def test_another_checkpoint_in_the_same_place_is_packed_anew(cache, packed, tmp_path):
    for seed in (0, 1):
        checkpoints.build("llama", tmp_path / "model")
        data = bytearray((tmp_path / "model/model.safetensors").read_bytes())
        data[-2] ^= seed  # the same size
        (tmp_path / "model/model.safetensors").write_bytes(data)
        tokens(tmp_path / "model")
    assert packed.count("embedding") == 2
    assert len(files(cache)) == 2


@needs_kernels
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: os.truncate(path, 100),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"x" * path.stat().st_size),
        lambda path: _poke(path, 5000),
        lambda path: _poke(path, 20),
        lambda path: _poke(path, path.stat().st_size - 30, keep_time=True),
    ],
    ids=["cut short", "cut to nothing", "empty", "other bytes", "a bit of data", "a bit of the head", "of the index"],
)
def test_a_damaged_file_is_found_and_made_again(cache, packed, model, caplog, harm):
    first = tokens(model)
    (path,) = files(cache)
    harm(path)
    packed.clear()
    assert tokens(model) == first
    assert "are no good" in caplog.text
    packed.clear()
    assert tokens(model) == first
    assert not packed


def _poke(path: Path, at: int, keep_time: bool = False) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 1]))
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@needs_kernels
def test_a_full_disk_costs_a_warning(cache, model, monkeypatch, caplog):
    monkeypatch.setenv("ANYCHIP_CACHE", "off")
    first = tokens(model)
    monkeypatch.setenv("ANYCHIP_CACHE", str(cache))
    write = os.pwrite

    def full(file, data, at):
        if at > 20000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data, at)

    monkeypatch.setattr(packed_file.os, "pwrite", full)
    assert tokens(model) == first
    assert caplog.text.count("are not kept") == 1
    assert "No space left on device; free some space there, set ANYCHIP_CACHE" in caplog.text
    assert files(cache) == []


@needs_kernels
def test_a_place_that_cannot_be_made_costs_a_warning(cache, model, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("ANYCHIP_CACHE", str(tmp_path / "file"))
    assert tokens(model)
    assert caplog.text.count("are not kept") == 1


@needs_kernels
def test_who_comes_while_another_packs_packs_for_itself(cache, packed, model):
    tokens(model)
    (path,) = files(cache)
    path.unlink()
    other = Writer.begin(path)
    packed.clear()
    assert tokens(model)
    assert packed
    assert files(cache) == [path.with_suffix(".part")]
    other.abandon()


@needs_kernels
def test_processes_that_start_at_once_agree(cache, model, inherited_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_start, [(str(model),)] * 2)
    assert found[0] == found[1]
    assert [path.suffix for path in files(cache)] == [".packed"]


def _start(model):
    engine_weights.LEAST = 0
    return list(tokens(model))


def plant(cache, name, model="m", form="float32, build", used=None):
    """A whole file, used at that time."""
    path = cache / "weights" / f"{name}.packed"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer.begin(path)
    writer.add(StoredWeight(None, (np.zeros(2**20, np.uint8),)))
    writer.finish(path, {"model": model, "form": form})
    if used is not None:
        os.utime(path, (used, path.stat().st_mtime))


def left_beside(cache, model, form):
    """What stays when this model is written in this form."""
    found = weight_cache.WeightCache(cache / "weights" / "x.packed", {"model": model, "form": form}, lambda: "x")
    with found.writing(0):
        return [path.name for path in files(cache) if path.name != "x.part"]


@needs_kernels
def test_a_cache_that_cannot_be_written_is_used(cache, packed, model, monkeypatch, caplog):
    """As one of another user, or on a disk that is mounted so."""
    first = tokens(model)
    packed.clear()

    def refuse(*given, **named):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert tokens(model) == first
    assert not packed
    assert not caplog.records
    assert len(weight_cache.entries()) == 1


def test_a_checkpoint_that_goes_while_it_is_packed_costs_the_file(cache):
    def gone():
        raise FileNotFoundError

    found = weight_cache.WeightCache(cache / "weights/x.packed", {"model": "m", "form": "f, b"}, gone)
    with found.writing(0) as shelf:
        shelf.add(StoredWeight(None, (np.zeros(4, np.uint8),)))
    assert files(cache) == []


def test_what_a_dead_process_left_is_removed_and_what_nobody_reads_or_uses(cache):
    plant(cache, "old", used=0)
    plant(cache, "new")
    (cache / "weights/gone.part").write_bytes(b"half")
    (cache / "weights/odd.packed").write_bytes(b"of another version")
    assert left_beside(cache, "other", "float32, build") == ["new.packed"]


def test_of_older_builds_the_last_two_stay(cache):
    now = time.time()
    for age in range(1, 6):
        plant(cache, f"build{age}", form=f"float32, cpu build{age} avx2", used=now - age * 3600)
    plant(cache, "whole", form="float32 int8, cpu build9 avx2", used=now - 9 * 3600)
    plant(cache, "other", model="another", form="float32, cpu build5 avx2", used=now - 9 * 3600)
    expected = ["build1.packed", "build2.packed", "other.packed", "whole.packed"]
    assert left_beside(cache, "m", "float32, cpu build0 avx2") == expected
    assert left_beside(cache, "m", "float32, cpu build2 avx2") == expected


def test_to_look_is_not_to_use(cache):
    plant(cache, "old", used=10**9)
    assert [entry.used for _ in range(2) for entry in weight_cache.entries()] == [10**9] * 2
    assert packed_file.read_about(cache / "weights/old.packed")["model"] == "m"


def test_a_file_gives_back_what_was_put_in(tmp_path):
    path = tmp_path / "a.packed"
    writer = Writer.begin(path)
    assert Writer.begin(path) is None
    arrays = (np.arange(7, dtype=np.float32), np.empty(0, np.uint8), np.ones((3, 5000), np.int16))
    writer.add(StoredWeight({"name": "a"}, arrays))
    writer.add(StoredWeight(None, ()))
    writer.finish(path, {"model": "m", "form": "f"})
    assert os.listdir(tmp_path) == ["a.packed"]
    assert packed_file.read_about(path) == {"model": "m", "form": "f"}
    first, second = read(path)
    assert (first.facts, second.facts, second.arrays) == ({"name": "a"}, None, ())
    for got, array in zip(first.arrays, arrays, strict=True):
        assert got.tobytes() == array.tobytes()
        assert not array.size or got.ctypes.data % 4096 == 0
    first.arrays[0][:] = 0  # stays with this process
    assert read(path)[0].arrays[0].tobytes() == arrays[0].tobytes()


def test_a_file_that_is_none_is_damaged(tmp_path):
    (tmp_path / "a").write_bytes(b"something else")
    with pytest.raises(Damaged, match="no head"):
        read(tmp_path / "a")


def test_a_digest_is_remembered_while_the_file_stays_as_it_is(tmp_path, monkeypatch):
    file, notes, read_files = tmp_path / "file", tmp_path / "notes", []
    real = content.hashlib.file_digest
    monkeypatch.setattr(content.hashlib, "file_digest", lambda f, name: (read_files.append(f.name), real(f, name))[1])
    file.write_bytes(b"one")
    first = content.digest(file, notes)
    content.digest(file, notes)
    assert len(read_files) == 2  # too young: it could change again within the same tick
    now = time.time_ns
    monkeypatch.setattr(content.time, "time_ns", lambda: now() + 10 * 10**9)
    assert content.digest(file, notes) == first == content.digest(file, notes)
    assert len(read_files) == 3
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the size and the time of the old one
    assert content.digest(file, notes) != first


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ANYCHIP_CACHE": "/place"}, "/place"),
        ({"ANYCHIP_CACHE": "off"}, None),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/anychip"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/anychip"),
        ({"HOME": "/home/me"}, "/home/me/.cache/anychip"),
    ],
    ids=str,
)
def test_where_it_lies(monkeypatch, variables, expected):
    for name in ("ANYCHIP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert weight_cache.folder() == (None if expected is None else Path(expected))


def test_the_command_lists_and_clears(cache, capsys):
    assert main(["cache"]) == 0
    nothing = "none yet; models with less than 32.0 MiB of weights are packed at each start"
    assert capsys.readouterr().out.splitlines() == [f"packed weights in {cache}", nothing]
    for name in ("one", "two"):
        plant(cache, f"{name}-key", model=name)
    assert main(["cache"]) == 0
    first, *rows, last = capsys.readouterr().out.splitlines()
    assert first == f"packed weights in {cache}"
    assert [row.split()[0] for row in rows] == ["two", "one"]
    assert all("used today" in row and row.endswith("float32, build") for row in rows)
    assert last == "2 files, 2.0 MiB; what is not used for 30 days goes when another model is written"
    assert main(["cache", "clear", "three"]) == 1
    assert "nothing is kept of 'three'; there is: one, two" in capsys.readouterr().err
    assert main(["cache", "clear", "one"]) == 0
    assert "removed 1 file, 1.0 MiB" in capsys.readouterr().out
    assert [path.name for path in files(cache)] == ["two-key.packed"]
    (cache / "weights/gone.part").write_bytes(b"half")  # a dead process left it
    assert main(["cache", "clear"]) == 0
    assert files(cache) == []
