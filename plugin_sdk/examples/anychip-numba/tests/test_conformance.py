"""The conformance suite on this device."""

import json

from anychip.cli import main


def test_silver(tmp_path):
    assert main(["conformance", "--device", "numba", "--quick", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["level"] == "silver"
