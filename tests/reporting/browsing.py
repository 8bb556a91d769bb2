"""A page in a browser, and what a test asks of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

# The names under which systems install Chromium; Playwright's own download is not asked for.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)

FAINTEST = """() => {
  const parse = css => (css.match(/[\\d.]+/g) || []).map(Number);
  const over = (top, under) => {
    const a = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map(k => a * top[k] + (1 - a) * under[k]);
  };
  const ground = element => {
    if (!element) return [255, 255, 255];
    const css = getComputedStyle(element).backgroundColor;
    const own = parse(css);
    if (css.startsWith("color(srgb")) [0, 1, 2].forEach(k => { own[k] *= 255; });
    return own.length === 4 && own[3] === 0 ? ground(element.parentElement)
      : over(own, ground(element.parentElement));
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    if (!walk.currentNode.textContent.trim() || !box.width) continue;
    if (element.closest("script, .in-cell")) continue;
    const style = getComputedStyle(element);
    const ink = parse(element instanceof SVGElement ? style.fill : style.color);
    found.push([ratio(light(ink.slice(0, 3)), light(ground(element))), element.outerHTML]);
  }
  found.sort((a, b) => a[0] - b[0]);
  return [found.length, ...found[0]];
}"""


class Opened:
    """A page from the disk, and all that it asked the network for or complained about."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        size = {"width": 1000, "height": 800}
        # Without smooth scrolling, so that nothing is still on its way when a test looks.
        self.context = browser.new_context(viewport=size, reduced_motion="reduce", **options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append("dialog"), dialog.dismiss()))
        self.page.goto(path.as_uri())

    def quiet(self) -> bool:
        """Nothing was complained about, and only the page and ``data:`` were loaded."""
        return not self.errors and all(u.startswith(("file:", "data:")) for u in self.requests)

    def faintest(self) -> list[Any]:
        """How many texts there are, and of the faintest its contrast and what it is."""
        found: list[Any] = self.page.evaluate(FAINTEST)
        return found


def first_column(table: Any) -> list[str]:
    return table.locator("tbody.sortable tr td:first-child").all_inner_texts()


def colour(page: Any, selector: str, what: str) -> str:
    return str(page.eval_on_selector(selector, f"e => getComputedStyle(e).{what}"))


def luminance(css: str) -> float:
    linear = []
    for channel in map(int, re.findall(r"\d+", css)[:3]):
        c = channel / 255
        linear.append(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
