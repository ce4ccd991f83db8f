"""From a folder of images without labels to the odd ones: train, calibrate, flag.

    python examples/odd_ones.py FOLDER [OUT]

Sizes may differ; everything becomes 32×32 grey. Without a folder it takes the digits that ship with scikit-learn.
"""

from __future__ import annotations

import sys

import torch

import pofx
from pofx.tasks.outliers import outliers


def main(source: str = "digits", out: str = "runs/odd-ones", *, minutes: float = 0.5) -> list[str]:
    options = {} if source == "digits" else {"size": 32, "gray": True}
    data = pofx.load_data(source, **options)
    torch.manual_seed(0)
    run = pofx.train(pofx.models.PixelCNN(data.space, dropout=0.2), data, out=out, minutes=minutes)
    found = outliers(run.model, data.test, calib=data.calib, center=data.valid, train=data.train, alpha=0.05)
    odd = [name for name, flagged in zip(found.ids, found.outlier.tolist(), strict=True) if flagged]
    print(f"{len(odd)} of {len(found.ids)} test images of {data.heading} are odd, at most 5 % false alarms: {', '.join(odd[:10])}")
    return odd


if __name__ == "__main__":
    main(*sys.argv[1:])
