"""Shapes of strided stacks on any image size: strides drop out where an axis has become too small.

Sizes shrink by ⌈s/2⌉, and the way back up is resized or cropped to the very size it came from, so odd, non-square and 1×N
images need no padding by hand.
"""

from __future__ import annotations

from itertools import pairwise


def pyramid(height: int, width: int, stages: int, smallest: int = 2) -> list[tuple[int, int]]:
    """Sizes from the image down, halving each axis (rounded up) while it is larger than `smallest`.

    >>> pyramid(28, 28, 3)
    [(28, 28), (14, 14), (7, 7), (4, 4)]
    >>> pyramid(1, 5, 3)
    [(1, 5), (1, 3), (1, 2)]
    """
    sizes = [(height, width)]
    for _ in range(stages):
        h, w = sizes[-1]
        below = (h if h <= smallest else -(-h // 2), w if w <= smallest else -(-w // 2))
        if below == (h, w):
            break
        sizes.append(below)
    return sizes


def strides(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The stride of each step of a pyramid: 2 where an axis shrank, else 1.

    >>> strides([(1, 5), (1, 3), (1, 2)])
    [(1, 2), (1, 2)]
    """
    return [(2 if h2 < h1 else 1, 2 if w2 < w1 else 1) for (h1, w1), (h2, w2) in pairwise(sizes)]
