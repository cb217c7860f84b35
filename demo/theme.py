"""How the page looks, and what `launch` is told. No font or script comes from elsewhere."""

from __future__ import annotations

from importlib.util import find_spec

import gradio as gr

from essence import ASSETS

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
FONT_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")
MAX_UPLOAD = "20mb"
# Gradio keeps what a closed tab showed; beyond so many the one that was used least recently is
# forgotten, faces and all
SESSIONS = 100


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=FONT,
        font_mono=FONT_MONO,
    ).set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#141315",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1d1c1f",
        background_fill_primary_dark="#1d1c1f",
        background_fill_secondary_dark="#262428",
        border_color_primary="#e8e5e0",
        border_color_primary_dark="#343136",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        input_background_fill="#f1efeb",
        input_background_fill_dark="#2b292e",
        block_border_width="0px",
        block_shadow="none",
        checkbox_border_color_dark="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        button_secondary_background_fill="#f1efeb",
        button_secondary_background_fill_dark="#2b292e",
        button_secondary_background_fill_hover_dark="#3d3a40",
        button_cancel_background_fill_dark="#3d3a40",
    )


def head() -> str:
    return f"<script>{(ASSETS / 'page.js').read_text(encoding='utf-8')}</script>"


def has_mcp() -> bool:
    """Whether Gradio's optional extra is installed."""
    return find_spec("mcp") is not None


LAUNCH = {
    "theme": theme(),
    "css_paths": [ASSETS / "page.css"],
    "head": head(),
    "run_history": False,  # these are faces
    "max_file_size": MAX_UPLOAD,
    "state_session_capacity": SESSIONS,
    "footer_links": [],
    "ssr_mode": False,
    # An installable page, and its endpoints as tools of the Model Context Protocol.
    "pwa": True,
    "favicon_path": ASSETS / "icon.svg",
    "mcp_server": has_mcp(),
}
