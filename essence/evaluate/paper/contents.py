"""What a report consists of, and its files: CSV, Markdown, and one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...pictures.grids import grid
from ...runtime.files import write_bytes

NOT_KNOWN = "–"
LABEL = 170  # pixels left of a figure's rows for their names
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem;
       color: #222; background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
img { max-width: 100%; height: auto } figure { margin: 1rem 0 }
figcaption, .note { color: #555; font-size: 13px }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; margin: 1rem 0 }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: left;
         white-space: nowrap }
dt { font-weight: 600 } dd { margin: 0 0 .5rem 1rem }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 }
  th, td { border-color: #444 } figcaption, .note { color: #aaa } }
"""


@dataclass(frozen=True)
class Figure:
    name: str  # of the file, without suffix
    caption: str
    picture: Image.Image


@dataclass(frozen=True)
class Table:
    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    title: str
    text: Sequence[str] = ()  # paragraphs
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    # Beside the tables that are shown: CSV files with every single figure.
    data: Sequence[Table] = field(default_factory=tuple)


def labelled_grid(
    rows: Sequence[Sequence[Image.Image | None]], labels: Sequence[str], cell: int
) -> Image.Image:
    """A sheet as the paper prints it, sources on top and targets left, each row with its name."""
    sheet = grid(rows, cell)
    wide = Image.new("RGB", (sheet.width + LABEL, sheet.height), "white")
    wide.paste(sheet, (LABEL, 0))
    draw, font = ImageDraw.Draw(wide), ImageFont.load_default(14)
    step = sheet.height / len(rows)
    for i, label in enumerate(labels):
        place = (LABEL - 6, (i + 0.5) * step)
        draw.text(place, label, fill="black", font=font, anchor="rm")
    return wide


def write_report(
    sections: Sequence[Section], title: str, head: Sequence[str], out: Path, suffix: str
) -> None:
    """Write every figure (`suffix` ".jpg" or ".png") and table, report.md and index.html."""
    markdown = [f"# {title}", *head]
    page = [f"<h1>{html.escape(title)}</h1>", *paragraphs(head)]
    for section in sections:
        markdown += [f"## {section.title}", *section.text]
        page += [f"<h2>{html.escape(section.title)}</h2>", *paragraphs(section.text)]
        for figure in section.figures:
            data = encoded(figure.picture, suffix)
            write_bytes(out / f"{figure.name}{suffix}", data)
            markdown += [f"![{figure.name}]({figure.name}{suffix})", f"<sub>{figure.caption}</sub>"]
            page.append(html_figure(figure, data, suffix))
        for table in section.tables:
            write_csv(table, out)
            markdown += [f"**{table.caption}**", markdown_table(table)]
            page.append(html_table(table))
        for table in section.data:
            write_csv(table, out)
            markdown.append(f"{table.caption}: [{table.name}.csv]({table.name}.csv)")
    write_bytes(out / "report.md", ("\n\n".join(markdown) + "\n").encode())
    body = "\n".join(page)
    document = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )
    write_bytes(out / "index.html", document.encode())


def encoded(picture: Image.Image, suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".jpg":
        picture.save(buffer, "JPEG", quality=84)
    else:
        picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def paragraphs(texts: Sequence[str]) -> list[str]:
    return [f"<p>{html.escape(text)}</p>" for text in texts]


def html_figure(figure: Figure, data: bytes, suffix: str) -> str:
    kind = "jpeg" if suffix == ".jpg" else "png"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    caption = html.escape(figure.caption)
    return (
        f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )


def html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table.rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    caption = f'<p class="note">{html.escape(table.caption)}</p>'
    return f'{caption}<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def markdown_table(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Tensor) -> str:
    """Mean ± deviation of what is a number."""
    known = values[~values.isnan()]
    if not len(known):
        return NOT_KNOWN
    return f"{known.mean():.3f}" + (f" ± {known.std():.3f}" if len(known) > 1 else "")


def write_csv(table: Table, out: Path) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([table.columns, *table.rows])
    write_bytes(out / f"{table.name}.csv", buffer.getvalue().encode())
