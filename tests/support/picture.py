"""README's picture, made of a run's report: `python tests/support/picture.py runs/demo recipes/demo/report.png`.

The page's head with its result, the chart of accuracies, and rows that the last stage gained, as every checkpoint
answered them; in the machine's own Chromium, in fewer colours, so that it stays below 300 kB.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, COLOURS, GAP = 1100, 96, 16  # pixels, colours, pixels between the parts
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def picture(report: Path) -> Image.Image:
    """The parts of the page, one below the other."""
    browser_path = next(path for name in BROWSERS if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.goto(report.as_uri())
        page.wait_for_timeout(1000)  # the charts draw themselves
        head = page.locator("#result").bounding_box()
        assert head is not None
        parts = [page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": head["y"] + head["height"]})]
        parts.append(page.locator("#checkpoints .plotly-graph-div").first.screenshot())
        page.select_option("#by-change", "gained")
        page.wait_for_timeout(300)
        parts.append(page.locator("#filters").screenshot())
        parts.append(page.locator("article.sample[data-changes=gained]:visible").first.screenshot())
        browser.close()
    images = [Image.open(io.BytesIO(part)).convert("RGB") for part in parts]
    height = sum(image.height + GAP for image in images)
    whole = Image.new("RGB", (WIDTH, height), "white")
    top = 0
    for image in images:
        whole.paste(image, ((WIDTH - image.width) // 2, top))
        top += image.height + GAP
    return whole


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("out", type=Path, metavar="OUT")
    options = parser.parse_args()
    made = picture((options.run / "report.html").resolve())
    made.quantize(COLOURS, dither=Image.Dither.NONE).save(options.out, optimize=True)
    print(f"{options.out}: {made.width} x {made.height}, {options.out.stat().st_size:,} bytes")
