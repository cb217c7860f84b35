from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

# A shell's background jobs ignore Ctrl-C, and so would everything that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the other process has work for the other processors

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def face_image() -> Image.Image:
    """512 x 512: a generated face, 256 x 256 in FFHQ's alignment, in the middle of grey."""
    source = sorted((ROOT / "assets" / "sources").glob("*.jpg"))[0]
    canvas = Image.new("RGB", (512, 512), (128, 128, 128))
    with Image.open(source) as face:
        canvas.paste(face.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS), (128, 128))
    return canvas


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    """What the page's visitor is told."""
    import gradio as gr

    told: list[str] = []
    for kind in ("Warning", "Info"):
        monkeypatch.setattr(gr, kind, lambda message, *_, **__: told.append(message))
    return told
