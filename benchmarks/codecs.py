"""Files of `pofx compress` beside other lossless codecs, on the same test images; and how long both directions take.

    python benchmarks/codecs.py [--images 2000] [--threads 2] [--out results/codecs.json] [RUN=DATA …]
    python benchmarks/codecs.py --speed [--out results/codec-speed.json]

By default the runs under results/weights that the issue names. Classical codecs get an image each (PNG and WebP as hard as they try, JPEG XL
where pillow-jxl-plugin is installed), and the whole stack: all images as one mosaic, or raw (packed to bits where there are 2 levels) through
gzip, xz and zstd. Sizes do not depend on what else the machine does; times do, and `--speed` is for an idle one.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import lzma
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import machine, seconds, tell, write
from numpy.typing import NDArray
from PIL import Image

from pofx.data import load_data
from pofx.model import ExactLikelihood, LowerBound
from pofx.tasks._blocks import decode_block
from pofx.tasks._integer_form import IntegerForm
from pofx.tasks.compress import compress, encode_block
from pofx.tasks.decompress import decompress
from pofx.tasks.score import costs
from pofx.training import load_model

WEIGHTS = Path(__file__).parents[1] / "results" / "weights"
RUNS = {
    "mnist-pixelcnn-pp": "mnist",
    "fashion-mnist-pixelcnn-pp": "fashion-mnist",
    "cifar10-pixelcnn-pp": "cifar10",
    "binarized-mnist-gated": "binarized-mnist",
    "ir-solar-pixelcnn-pp": "ir-solar",
    "binarized-mnist-row": "binarized-mnist",
    "mnist-vae": "mnist:dynamic",
}
MOST = 16383  # pixels of a side of a WebP


def picture(x: NDArray[np.uint8], levels: int) -> Image.Image:
    """`(C, H, W)`; of 2 levels one bit a pixel."""
    if levels == 2:
        return Image.fromarray(x[0] * 255).convert("1")
    return Image.fromarray(x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0)))


def saved(image: Image.Image, kind: str, **options: Any) -> int:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.tell()


def mosaic(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All images side by side, about square, `(C, H', W')`; what is over is black."""
    n, c, h, w = x.shape
    across = min(max(1, round(math.sqrt(n * h / w))), MOST // w)
    rows = -(-n // across)
    whole = np.zeros((rows * across, c, h, w), np.uint8)
    whole[:n] = x
    return whole.reshape(rows, across, c, h, w).transpose(2, 0, 3, 1, 4).reshape(c, rows * h, across * w)


def classical(x: NDArray[np.uint8], levels: int) -> dict[str, dict[str, int]]:
    """Bytes by codec: of all images each by itself, and of the whole stack."""
    images = [picture(image, levels) for image in x]
    webp = {"lossless": True, "quality": 100, "method": 6}
    each = {
        "PNG, optimized": sum(saved(image, "PNG", optimize=True) for image in images),
        "WebP lossless": sum(saved(image.convert("RGB"), "WEBP", **webp) for image in images),
    }
    together = picture(mosaic(x), levels)
    raw = np.packbits(x.reshape(-1)).tobytes() if levels == 2 else x.tobytes()
    stack = {"gzip -9": len(gzip.compress(raw, 9)), "xz -9e": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))}
    stack["PNG, optimized, one mosaic"] = saved(together, "PNG", optimize=True)
    if max(together.size) <= MOST:
        stack["WebP lossless, one mosaic"] = saved(together.convert("RGB"), "WEBP", **webp)
    if importlib.util.find_spec("pillow_jxl"):
        importlib.import_module("pillow_jxl")
        jxl = {"lossless": True, "effort": 9}
        each["JPEG XL lossless"] = sum(saved(image.convert("L") if levels == 2 else image, "JXL", **jxl) for image in images)
    if importlib.util.find_spec("zstandard"):
        stack["zstd -22"] = len(importlib.import_module("zstandard").ZstdCompressor(level=22).compress(raw))
    return {"each": each, "stack": stack}


def sizes(run: Path, data: str, n: int) -> dict[str, Any]:
    model = load_model(run)
    x = load_data(data).test.x[:n]
    own = costs(model, x)
    form = IntegerForm.of(model)
    with tempfile.TemporaryDirectory() as folder:
        found = compress(form, x, Path(folder) / "set.pofx", embed_model=True)
        again = decompress(found.path)
    assert torch.equal(again.x, x) and again.complaint() is None
    alone = sum(9 + len(encode_block(form, image[None])[0].to_bytes()) + 2 for image in x[:64]) * 8 / (min(64, len(x)) * model.space.dims)
    per = x.numel() / 8
    others = {
        kind: {name: size / per for name, size in codecs.items()} for kind, codecs in classical(x.numpy(), model.space.levels).items()
    }
    return {
        "run": run.name,
        "data": f"{data}:test",
        "images": len(x),
        "dims": model.space.dims,
        "levels": model.space.levels,
        "kind": own.kind,
        "log_likelihood": float(own.bits_per_dim.mean()),
        "integer_form": found.ideal / x.numel(),
        "initial": found.initial / x.numel(),
        "file": found.bits_per_dim,
        "block_1": alone,
        "model_bytes": found.model_size,
        "file_bytes": found.size - found.model_size,
        **others,
    }


def speed(run: Path, data: str, n: int) -> dict[str, Any]:
    """Both directions of one block against one scoring pass in float32, without the check that compressing makes."""
    model = load_model(run)
    assert isinstance(model, ExactLikelihood | LowerBound)
    once = model.log_prob if isinstance(model, ExactLikelihood) else model.elbo
    x = load_data(data).test.x[:n]
    form = IntegerForm.of(model)
    block, *_ = encode_block(form, x)
    with torch.inference_mode():
        score = seconds(lambda: once(x), 1)
    encode, decode = seconds(lambda: encode_block(form, x), 1), seconds(lambda: decode_block(form, block), 1)
    return {
        "run": run.name,
        "images": n,
        "score_s": score,
        "encode_s": encode,
        "decode_s": decode,
        "encode_over_score": encode / score,
        "decode_over_score": decode / score,
        "encode_images_per_s": n / encode,
        "decode_images_per_s": n / decode,
        "encode_mb_per_s": x.numel() / encode / 1e6,
        "decode_mb_per_s": x.numel() / decode / 1e6,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN=DATA")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = dict(item.split("=", 1) for item in options.runs) or {str(WEIGHTS / name): data for name, data in RUNS.items()}
    rows = []
    for run, data in chosen.items():
        if not Path(run).exists():
            continue
        rows.append(speed(Path(run), data, 256) if options.speed else sizes(Path(run), data, options.images))
        tell(rows[-1])
    write(options.out, {**machine(options.threads), "rows": rows})


if __name__ == "__main__":
    main()
