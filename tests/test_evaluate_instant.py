"""Instant essences measured: on cases with known answers, and once with the bundled models."""

from __future__ import annotations

import shutil

import pytest

from essence.errors import UserError
from essence.evaluate import instant
from essence.evaluate.instant import Row, table
from essence.runtime.folders import bundled


def row(gain: float, steps: int | None) -> Row:
    return Row(0.2, 0.3, 0.6, {"encode": 0.2 + gain}, steps)


def test_gains_are_shares_of_the_optimisers():
    found = table([row(0.4, 0), row(0.2, None)], [True, False])
    assert "| photographs (1) | 0.200 | 0.300 | 0.600 | 0.600 | 100% |" in found
    assert "| others (1) | 0.200 | 0.300 | 0.600 | 0.400 | 50% |" in found
    assert "| all (2) |" in found and "75%" in found


def test_who_never_beats_the_run_needs_more_steps_than_were_looked_at():
    few = table([row(0.4, 0), row(0.4, 5), row(0.4, 10)], [True] * 3)
    assert "median 5; at once 1, within 25 3 of 3" in few
    never = table([row(0.1, None)] * 3, [True] * 3)
    assert "median 26; at once 0, within 25 0 of 3" in never


def test_without_pictures_it_says_so(tmp_path):
    with pytest.raises(UserError, match="no pictures|at least"):
        instant.main(["--data", str(tmp_path), "--model", "mini", "--out", str(tmp_path / "o")])


@pytest.mark.slow
def test_one_command_compares_instant_essences(tmp_path, capsys):
    data, few, out = (tmp_path / name for name in ("data", "few", "out"))
    data.mkdir(), few.mkdir()
    for i, path in enumerate(bundled("sources")[:2]):
        shutil.copy(path, data / f"congress_{i}.jpg"), shutil.copy(path, few)
    for path in bundled("targets"):  # of ten others one is held out
        shutil.copy(path, data)
    words = ["--data", str(data), "--photographs", str(few), "--out", str(out), "--model", "mini"]
    instant.main([*words, "--targets", "2", "--people", "2", "--steps", "3"])
    printed = capsys.readouterr().out
    assert "| all (2) |" in printed and "nearer than the mean stranger" in printed
    assert "to its essence, map" in printed and (out / "instant.jpg").is_file()
