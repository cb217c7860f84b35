"""What words do, measured: on cases with known answers, and once with the bundled models."""

from __future__ import annotations

import torch

from essence.evaluate import words
from essence.evaluate.words import GOAL, moves, shows

NAMES = ("age", "female", "smile")


def test_a_face_shows_what_is_clearly_there_on_the_asked_side():
    described = torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, 2.0]])
    found = shows(described, {"age": 1, "female": -1}, NAMES)
    assert found.tolist() == [[True, True], [False, True]]


def test_a_perfect_edit_moves_what_was_asked_alone():
    before = torch.tensor([[-1.0, 0.3, 0.0]])
    perfect = torch.tensor([[GOAL, 0.3, 0.0]])
    moved, quiet = moves(before, perfect, {"age": 1}, NAMES)
    assert moved.tolist() == [True] and quiet.tolist() == [True, True]


def test_no_edit_moves_nothing_and_is_not_called_quiet():
    before = torch.tensor([[-1.0, 0.3, 0.0]])
    moved, quiet = moves(before, before, {"age": 1}, NAMES)
    assert moved.tolist() == [False] and not quiet.any()


def test_an_edit_of_something_else_is_neither_moved_nor_quiet():
    before = torch.zeros(1, 3)
    moved, quiet = moves(before, torch.tensor([[0.6, 2.0, 0.0]]), {"age": 1}, NAMES)
    assert moved.tolist() == [True] and quiet.tolist() == [False, True]


def test_what_belongs_to_the_same_aspect_is_not_something_else():
    names = ("black", "white", "smile")
    after = torch.tensor([[1.5, -1.5, 0.0]])
    moved, quiet = moves(torch.zeros(1, 3), after, {"black": 1}, names)
    assert moved.tolist() == [True] and quiet.tolist() == [True]


def test_who_lacks_nothing_is_left_out():
    before = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    moved, quiet = moves(before, before + 1, {"age": 1}, NAMES)
    assert moved.shape == (1,) and quiet.shape == (2,)


def test_less_of_something_is_asked_with_a_minus():
    before = torch.tensor([[0.0, 0.0, 0.0]])
    moved, _ = moves(before, torch.tensor([[-0.6, 0.0, 0.0]]), {"age": -1}, NAMES)
    assert moved.tolist() == [True]


def test_one_command_measures_sentences(monkeypatch, tmp_path, capsys):
    some = {text: words.SENTENCES[text] for text in ("a smiling woman", "an old man")}
    monkeypatch.setattr(words, "SENTENCES", some)
    words.main(["--out", str(tmp_path), "--faces", "1", "--people", "2", "--model", "mini"])
    out = capsys.readouterr().out
    assert "faces that show all that was asked" in out and "of 2 |" in out
    assert (tmp_path / "faces.jpg").is_file() and (tmp_path / "edits.jpg").is_file()
