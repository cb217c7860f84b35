"""Pictures from the clipboard and from a camera, in a real browser."""

from __future__ import annotations

import base64
import io
import os
import shutil

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from .browsing import FLAGS, PATIENCE, quickly, settled, unfold
from .pictures import photograph

pytest_plugins = ["tests.browsing"]

PASTE = """data => {
    const file = new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], "pasted.png", {type: "image/png"});
    const clipboardData = new DataTransfer();
    clipboardData.items.add(file);
    document.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}));
}"""


@pytest.fixture
def picture(tmp_path):
    return photograph(tmp_path / "face.png")


def test_a_picture_is_pasted_into_the_panel_under_the_pointer(visit, picture):
    page = visit()
    quickly(page)
    data = base64.b64encode(picture.read_bytes()).decode()
    page.evaluate(PASTE, data)
    settled(page, 1)
    page.locator("#targets").hover()
    page.evaluate(PASTE, data)
    expect(page.locator("#targets .item")).to_have_count(1)
    expect(page.locator("#sources .item")).to_have_count(1)


@pytest.fixture
def camera_page(browser, address, picture, tmp_path):
    """A page in a browser whose camera shows a face."""
    film = tmp_path / "face.mjpeg"
    still = io.BytesIO()
    with Image.open(picture) as image:
        image.resize((640, 480)).save(still, "JPEG")
    film.write_bytes(still.getvalue() * 30)
    flags = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    ]
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    other = browser.browser_type.launch(executable_path=chromium, args=[*FLAGS, *flags])
    page = other.new_context(permissions=["camera"]).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.wait_for_selector("#learn")
    yield page
    other.close()


def test_a_face_before_the_camera_becomes_a_source(camera_page: Page):
    page = camera_page
    quickly(page)
    unfold(page, 0, "Camera")
    camera = page.locator("#sources-camera")
    camera.get_by_role("button").first.click()
    expect(camera.locator("video")).to_be_visible()
    page.wait_for_function("document.querySelector('#sources-camera video').videoWidth > 0")
    camera.locator(
        "button[aria-label='capture photo'], button[aria-label='take photo'], .button-wrap button"
    ).first.click()
    settled(page, 1)
