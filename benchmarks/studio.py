"""How soon the studio is there: seconds to the ready line, milliseconds to the first paint of each page, and of a decoded point of latent space.

    python benchmarks/studio.py [RUNS] [--out results/studio.json]

In a headless Chromium, three times each, the best and the worst. Decoding is that of one 32×32 image by a convolutional VAE and a DCGAN of their
default sizes, as the page asks for it: image, frame and all, without the way through the browser.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from shutil import which

import torch
from _record import machine, tell, write

import pofx
from pofx.models import GAN, VAE
from pofx.space import ImageSpace
from pofx.studio.app import find_pages
from pofx.studio.pages.latents import Spot, one_picture

TIMES = 3


def started(runs: str) -> tuple[subprocess.Popen[str], str, float]:
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pofx", "studio", runs, "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://\S+", process.stderr.readline())
    assert found is not None
    return process, found.group(), time.perf_counter() - begun


def painted(browser: object, address: str) -> float:
    page = browser.new_page()  # type: ignore[attr-defined]
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector("h1", timeout=60_000)
    found = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.close()
    return round(found)


def decoding(model: VAE | GAN) -> float:
    """Milliseconds of one image, median of 50."""
    d = model.latent_dims
    spot = Spot("", torch.zeros(d, dtype=torch.double), torch.zeros(d, dtype=torch.double), torch.ones(d, dtype=torch.double), (0,), (0, 1))
    times = []
    for _ in range(50):
        begun = time.perf_counter()
        one_picture(model, spot, {})
        times.append(1000 * (time.perf_counter() - begun))
    return round(sorted(times)[25], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="?", default="results/weights")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = which("chromium") or which("chromium-browser")
    ready: list[float] = []
    paints: dict[str, list[float]] = {}
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"])
        for _ in range(TIMES):
            process, address, seconds = started(options.runs)
            ready.append(round(seconds, 2))
            try:
                for i, page in enumerate(find_pages()):
                    path = "" if i == 0 else page.name.replace("_", "-")
                    paints.setdefault(page.title, []).append(painted(browser, f"{address}/{path}"))
            finally:
                process.terminate()
                process.wait(20)
            tell({"ready": ready[-1], "first paint": {title: found[-1] for title, found in paints.items()}})
        browser.close()
    space = ImageSpace(3, 32, 32)
    decode = {"vae": decoding(VAE(space, network="convolutional").eval()), "gan": decoding(GAN(space, network="dcgan").eval())}
    tell({"decoding, ms": decode})
    rows = {"ready_seconds": ready, "first_paint_ms": paints, "decode_32x32_ms": decode}
    write(options.out, {"pofx": pofx.__version__, **machine(torch.get_num_threads()), "times": TIMES} | rows)


if __name__ == "__main__":
    main()
