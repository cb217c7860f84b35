"""The crop editor: a photograph with the square of the face on it, which can be zoomed, shifted and
turned.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import isfinite

from essence.pictures import align

from .session import Item
from .views import data_url, next_serial

EDITOR_SIDE = 640  # pixels, longest side, of the photograph in the editor
# name: (lowest, highest, step, what it is called)
CONTROLS = {
    "zoom": (0.5, 2.0, 0.02, "Zoom"),
    "right": (-0.5, 0.5, 0.01, "Left, right"),
    "down": (-0.5, 0.5, 0.01, "Up, down"),
    "turn": (-45.0, 45.0, 1.0, "Turn"),
}


def checked(values: Mapping[str, object]) -> align.Nudge:
    """Numbers come from the browser: what is no number is left alone, others than the sliders' are
    pulled in.
    """
    clean = {}
    for name, (low, high, _, _) in CONTROLS.items():
        value = values.get(name)
        if isinstance(value, (int, float)) and isfinite(value):
            clean[name] = min(max(float(value), low), high)
    return align.Nudge(**clean)


def editor(item: Item) -> str:
    """A dialog. The page's script moves the square while a slider moves; the server crops when it
    rests.
    """
    photo = item.photo.picture()
    factor = min(1.0, EDITOR_SIDE / max(photo.size))
    small = photo.convert("RGB").resize(tuple(max(1, round(factor * side)) for side in photo.size))
    squares = [square.scaled(factor) for square in item.photo.squares]
    (cx, cy), (x, y) = squares[item.chosen].centre, squares[item.chosen].across
    others = "".join(outline(square) for i, square in enumerate(squares) if i != item.chosen)
    name = escape(item.name)
    sliders = "".join(control(key, getattr(item.nudge, key)) for key in CONTROLS)
    return f"""<dialog class="crop" data-id="{item.id}" data-serial="{next_serial()}" aria-label="Crop of {name}">
      <header><b>Crop of {name}</b><button class="icon" data-close aria-label="Close">×</button></header>
      <div class="photo"><img src="{data_url(small)}" alt="{name}"><svg viewBox="0 0 {small.width} {small.height}" role="img"
          aria-label="the square that is used"><g class="others">{others}</g>
          <polygon class="chosen" data-cx="{cx:.2f}" data-cy="{cy:.2f}" data-x="{x:.3f}" data-y="{y:.3f}"></polygon></svg></div>
      <div class="result"></div>
      <div class="controls">{sliders}</div>
      <footer><span>Drag the square, or use the sliders.</span><button class="text" data-reset>Reset</button></footer></dialog>"""


def outline(square: align.Square) -> str:
    return f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in square.corners())}"/>'


def control(name: str, value: float) -> str:
    low, high, step, label = CONTROLS[name]
    return f"""<label class="strength"><span>{label}</span><input type="range" name="{name}" min="{low:g}" max="{high:g}" step="{step:g}"
      value="{value:g}" data-rest="{align.Nudge.__dataclass_fields__[name].default:g}"></label>"""
