"""The benchmark of packing runs, and tells of every way what it showed."""

import pytest

from benchmarks.packing import WAYS, main


def test_every_way_of_packing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--streams", "nonce", "--seeds", "7", "--every", "60"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("nonce: 2 answers of each\n")
    assert all(name in out for name in WAYS)
    shown = {line.split("  ")[0]: float(line.split()[-1]) for line in out.splitlines()[2:] if line}
    assert shown["k = 4"] == 4.0
    assert 1.0 <= shown["tta, 512 tokens"] < shown["k = 16"] == 16.0
