"""Record the animation of the README: the ratio slider of the real page, moved in headless Chromium.

Run by hand: python -m tests.slider_gif [file]. A frame is a screenshot of what Explore shows on one screen: task,
slider, pictures and map.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.page_fixtures import FLAGS, NUM_REQUESTS, ROOT, Visitor, free_port, serve, settled

OUT = ROOT / "assets" / "slider.gif"
CHROMIUM = "/usr/bin/chromium"
QUERY = "prompt=penguin&seed=0&method=dipgo&steps=50&sampler=ddim&ratio=0.05"
RATIOS = [round(0.05 * step, 2) for step in range(1, 20)]
VIEWPORT = {"width": 1280, "height": 1000}
STYLE = ".samples, .toolbar, #show, #explore-use, .edit-buttons, .as-table { display: none !important }"
WIDTH = 800  # pixels of a frame
FRAME_MS, LAST_FRAME_MS = 350, 1500
COLORS = 128
MOVE = """ratio => {
    const slider = document.querySelector("#ratio input[type=range]");
    slider.value = ratio;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
}"""
BOX = """() => {
    const parts = [".task", "#ratio", ".viewer", "#heatmap .plot"].map((name) => document.querySelector(name));
    const boxes = parts.map((part) => part.getBoundingClientRect());
    const least = (side) => Math.min(...boxes.map((box) => box[side]));
    const most = (side) => Math.max(...boxes.map((box) => box[side]));
    return { x: least("left") - 16, y: least("top") - 16, width: most("right") - least("left") + 32,
             height: most("bottom") - least("top") + 16 };
}"""


def frame(page: Page, ratio: float) -> Image.Image:
    """Move the slider to a ratio; returns a screenshot of what it changed."""
    page.evaluate(MOVE, ratio)
    page.wait_for_timeout(300)  # the picture of a frame, not a measurement
    shot = Image.open(io.BytesIO(page.screenshot(clip=page.evaluate(BOX), full_page=True))).convert("RGB")
    return shot.resize((WIDTH, round(shot.height * WIDTH / shot.width)), Image.Resampling.LANCZOS)


def record(url: str) -> list[Image.Image]:
    """Take a frame of each ratio."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = Visitor(browser.new_context(viewport=VIEWPORT), url).open(QUERY).page
        page.add_style_tag(content=STYLE)
        page.wait_for_selector("#heatmap .drawn")
        settled(page, NUM_REQUESTS)
        frames = [frame(page, ratio) for ratio in RATIOS]
        browser.close()
    return frames


def save(frames: list[Image.Image], file: Path) -> None:
    """Write the frames forwards and backwards as a GIF with one palette."""
    palette = frames[len(frames) // 2].quantize(COLORS, dither=Image.Dither.NONE)
    small = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in frames]
    loop = small + small[-2:0:-1]
    ends = (0, len(small) - 1)
    durations = [LAST_FRAME_MS if number in ends else FRAME_MS for number in range(len(loop))]
    loop[0].save(file, save_all=True, append_images=loop[1:], duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    file = Path(sys.argv[1]) if sys.argv[1:] else OUT
    with tempfile.TemporaryDirectory() as folder:
        settings = {"GRADIO_SERVER_PORT": str(free_port()), "EXPLORER_DATA": folder, "HF_HUB_OFFLINE": "1"}
        with serve(Path(folder), **settings) as url:
            save(record(url), file)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
