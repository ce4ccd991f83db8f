"""The studio in a real browser: every page, one real action each, no console error, no request to elsewhere, nothing that jumps."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .conftest import ARTIFACTS, CHROMIUM, READY, Server

pytestmark = pytest.mark.slow

if CHROMIUM is None and os.environ.get("POFX_REQUIRE_BROWSER") != "1":
    pytest.skip("no Chromium on this machine (apt-get install chromium)", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'pofx[dev]'")

PAINT = 1500.0  # milliseconds to the first paint
JUMPS = 0.1  # the layout shift that the web counts as good
WAIT = 60_000


@dataclass
class Browser:
    """A page of the studio, and what went wrong on it."""

    page: Any
    address: str
    wrong: list[str] = field(default_factory=list)

    def open(self, path: str = "") -> Any:
        self.page.goto(f"{self.address}/{path}", wait_until="domcontentloaded")
        self.page.wait_for_selector("h1", timeout=WAIT)
        return self.page

    def ready(self) -> None:
        """The list of runs is filled. Jumps count from here: before, Gradio mounts its parts under its own sign of loading."""
        self.page.wait_for_function("document.querySelector('.run input')?.value", timeout=WAIT)
        self.page.evaluate("window.__jumps = 0; window.__jumped = []")

    def choose(self, run: str) -> None:
        """Choose a run by the end of its path, once the list is filled."""
        self.ready()
        box = self.page.locator(".run input").first
        if f"/{run} " in box.input_value():
            return
        box.click()
        self.page.get_by_role("option").filter(has_text=f"/{run} ").first.click()

    def until(self, selector: str, text: str) -> None:
        self.page.wait_for_function(
            "([s, t]) => [...document.querySelectorAll(s)].some((e) => (e.value ?? e.innerText).includes(t))",
            arg=[selector, text],
            timeout=WAIT,
        )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"])
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide-light", "narrow-dark"])
def browser(request: pytest.FixtureRequest, chromium: Any, studio: Server) -> Iterator[Browser]:
    """A fresh page at a width, in a colour scheme; afterwards: a screenshot, no error, no request to elsewhere, and no jump."""
    width, scheme = request.param
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.add_init_script(
        """
        window.__jumps = 0; window.__jumped = [];
        new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
            if (entry.hadRecentInput) return;
            window.__jumps += entry.value;
            if (entry.value > 0.02) window.__jumped.push(...entry.sources.map((s) => s.node?.id || s.node?.className || s.node?.nodeName));
        })).observe({ type: 'layout-shift', buffered: true });
        """
    )
    page = context.new_page()
    made = Browser(page, studio.address)
    page.on("console", lambda message: made.wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: made.wrong.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((studio.address, "data:", "blob:")) else made.wrong.append(f"asks {asked.url}"),
    )
    yield made
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{request.node.name.replace('[', '-').rstrip(']')}.png", full_page=True)
    jumps, jumped, across = page.evaluate("[window.__jumps, window.__jumped, document.documentElement.scrollWidth]")
    context.close()
    assert made.wrong == []
    assert jumps <= JUMPS, f"the layout jumps by {jumps:.3f}: {jumped}"
    assert across <= width + 1, f"the page is {across} wide in a window of {width}"


def test_it_is_ready_soon_and_paints_at_once(studio: Server, chromium: Any) -> None:
    page = chromium.new_page()
    page.goto(studio.address, wait_until="domcontentloaded")
    page.wait_for_selector("h1", timeout=WAIT)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.close()
    assert studio.ready <= READY * _slower(), f"ready after {studio.ready:.1f} s"
    assert paint <= PAINT * _slower(), f"painted after {paint:.0f} ms"


def _slower() -> float:
    """How much slower the machine is just now for the load on it: its processes for each processor, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def test_watch_draws_pauses_and_goes_on_from_a_changed_pixel(browser: Browser) -> None:
    page = browser.open("watch")
    browser.choose("pixelcnn")
    page.get_by_role("button", name="Draw").click()
    browser.until("#where", "64 of 64 sub-pixels")
    board = page.locator("#image canvas")
    board.click(position={"x": 100, "y": 60})
    browser.until("#where", "Row 1, column 2")
    page.get_by_role("button", name="Change the pixel").click()
    browser.until("#where", "Changed.")
    page.get_by_role("button", name="Continue from here").click()
    browser.until("#where", "64 of 64 sub-pixels")


@pytest.mark.parametrize("run", ["vae", "gan"])
def test_a_dragged_point_is_decoded(browser: Browser, run: str) -> None:
    page = browser.open("latents")
    browser.choose(run)
    browser.until("#where", "standard deviations")
    before = page.locator("#where").inner_text()
    board = page.locator("#plane canvas")
    board.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("(old) => document.querySelector('#where').innerText !== old", arg=before, timeout=WAIT)
    box = board.bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    for step in range(20):
        page.mouse.move(box["x"] + 40 + 8 * step, box["y"] + 40 + 6 * step)
    page.mouse.up()
    time.sleep(0.5)
    way = page.locator("#way input[type=range]")
    way.focus()
    page.keyboard.press("ArrowRight")
    browser.until("#way input", "0.02")


def test_a_run_that_cannot_says_why(browser: Browser) -> None:
    browser.open("latents")
    browser.choose("pixelcnn")
    browser.until(".status", "that needs Decoder")


def test_the_gallery_shows_runs_with_honest_numbers_and_trains(browser: Browser, runs: Path) -> None:
    page = browser.open()
    browser.ready()
    browser.until("#cards", "pixelcnn")
    text = page.locator("#cards").inner_text()
    assert "= " in text and "≤ " in text and "No likelihood" in text
    out = runs / f"trained-{page.viewport_size['width']}"
    page.locator("#out input, #out textarea").first.fill(str(out))
    page.locator("#more input, #more textarea").first.fill("--threads 1")
    page.locator("#minutes input").fill("0.03")
    page.locator("#minutes input").blur()
    browser.until("#line textarea", f"--out {out}")
    browser.until("#line textarea", "--minutes 0.03")
    page.locator("#start").click()
    browser.until("#live", "trained-")
    page.wait_for_function("(name) => document.querySelector('#cards').innerText.includes(name)", arg=out.name, timeout=180_000)
    assert (out / "model.safetensors").is_file()


def test_odd_images_are_found_and_alpha_moves(browser: Browser) -> None:
    page = browser.open("outliers")
    browser.choose("pixelcnn")
    page.locator("#most input").fill("60")
    page.locator("#judge").click()
    browser.until("#summary", "60")
    page.wait_for_selector("#wall img", timeout=WAIT)
    before = page.locator("#summary").inner_text()
    slider = page.locator("#alpha input[type=range]")
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("(old) => document.querySelector('#summary').innerText !== old", arg=before, timeout=WAIT)


def test_an_image_is_labelled_with_reasons(browser: Browser) -> None:
    page = browser.open("classify")
    browser.choose("classifier")
    page.locator("#pooled input").check()
    page.locator("#go").click()
    page.wait_for_selector("#near img", timeout=WAIT)
    browser.until("#answer", "p(y | x)")


def test_a_painted_hole_is_completed(browser: Browser) -> None:
    page = browser.open("complete")
    browser.choose("pixelcnn")
    browser.until("#what", "Paint")
    hole = page.locator("#hole canvas")
    hole.focus()
    page.keyboard.press("Space")
    page.locator("#top-half").click()
    page.locator("#complete").click()
    browser.until("#words", "exact")
    page.wait_for_selector("#completions img", timeout=WAIT)


def test_the_game_is_played_on_drawn_points(browser: Browser) -> None:
    page = browser.open("equilibrium")
    points = page.locator("#points canvas")
    points.wait_for(timeout=WAIT)
    page.wait_for_timeout(3000)  # until all is mounted: nothing on this page says so
    page.evaluate("window.__jumps = 0; window.__jumped = []")
    page.locator("#clear").click()
    page.wait_for_timeout(500)
    box = points.bounding_box()
    for x, y in ((80, 80), (90, 85), (220, 200), (215, 210), (100, 90)):
        points.click(position={"x": x * box["width"] / 320, "y": y * box["height"] / 320})
    before = page.locator("#numbers").inner_text()
    page.locator("#start").click()
    page.wait_for_function("(old) => document.querySelector('#numbers').innerText !== old", arg=before, timeout=WAIT)
    page.locator("#pause").click()
    browser.until("#numbers", "JSD")
    page.locator("#one-step").click()


def test_the_course_moves(browser: Browser) -> None:
    page = browser.open("course")
    browser.choose("pixelcnn")
    for selector, text in (
        ("#mixture-numbers", "sum of the bins"),
        ("#bayes-cell", "difference"),
        ("#path-numbers", "differ"),
        ("#chain", "bits/dim"),
    ):
        browser.until(selector, text)
    page.evaluate("window.__jumps = 0; window.__jumped = []")

    def moved(selector: str, act: Any) -> None:
        before = page.locator(f"{selector} b, {selector} p").all_inner_texts()
        act()
        page.wait_for_function(
            "([s, old]) => [...document.querySelectorAll(`${s} b, ${s} p`)].map((e) => e.innerText).join() !== old.join()",
            arg=[selector, before],
            timeout=WAIT,
        )

    def key(selector: str, name: str) -> None:
        page.locator(selector).focus()
        page.keyboard.press(name)

    moved("#chain", lambda: page.locator("#chain-image canvas").click(position={"x": 150, "y": 150}))
    page.locator("#chain-write").click()
    browser.until("#chain", "integer tables")
    moved("#mixture-numbers", lambda: key("#mixture-plane canvas", "ArrowRight"))
    moved("#bayes-cell", lambda: key("#bayes-prior input[type=range]", "ArrowRight"))
    moved("#bayes-cell", lambda: page.locator("#bayes-images canvas").click(position={"x": 100, "y": 100}))
    moved("#path-numbers", lambda: key("#path-mean input[type=range]", "ArrowRight"))
    page.locator("#ask").click()
    browser.until("#answer", "Computed")
    page.locator("#mass-train").click()
    page.wait_for_function("document.querySelector('#mass-progress').innerText.includes('Move the slider')", timeout=180_000)  # a training
    moved("#mass-numbers", lambda: key("#mass-frame input[type=range]", "ArrowLeft"))
    assert "1.000000000000" in page.locator("#mass-numbers").inner_text()
