"""What plugins print goes to standard error, and what comes after goes where it went before."""

from __future__ import annotations

import os
import sys

from anychip.platforms.isolation import printing_to_stderr


def test_threads_that_overlap_leave_standard_output_as_it_was():
    stream, place = sys.stdout, os.fstat(1)
    first, second = printing_to_stderr(), printing_to_stderr()
    first.__enter__()
    second.__enter__()
    assert sys.stdout is sys.stderr
    first.__exit__(None, None, None)
    assert sys.stdout is sys.stderr
    second.__exit__(None, None, None)
    assert sys.stdout is stream
    assert (os.fstat(1).st_dev, os.fstat(1).st_ino) == (place.st_dev, place.st_ino)


def test_a_process_may_have_no_standard_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with printing_to_stderr():
        assert sys.stdout is sys.stderr
    assert sys.stdout is None
