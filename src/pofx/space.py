"""What an image may be: small integers in a box of fixed shape, checked once at the boundary.

x ∈ {0 … levels−1}^(C×H×W), stored as uint8 `(N, C, H, W)`. Scaling and dequantization live inside models, so a
number that claims to be a likelihood is always the probability mass of exactly these integers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pofx.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageSpace:
    """The set {0 … levels−1}^(channels × height × width).

    Args:
        channels: 1 grey, 3 RGB, 4 RGBA; any number ≥ 1.
        height, width: in pixels; 1×N is a series.
        levels: number of values a sub-pixel can take, 2 … 256.

    Raises:
        InputError: a size below 1 or levels outside 2 … 256.

    >>> space = ImageSpace(1, 8, 8, levels=17)
    >>> space.dims, space.shape
    (64, (1, 8, 8))
    """

    channels: int
    height: int
    width: int
    levels: int = 256

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"ImageSpace: {name}={getattr(self, name)!r}; it must be a whole number of at least 1.")
        if not isinstance(self.levels, int) or not 2 <= self.levels <= 256:
            raise InputError(f"ImageSpace: levels={self.levels!r}; it must be 2 … 256.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        return self.channels, self.height, self.width

    @property
    def dims(self) -> int:
        """Sub-pixels of one image, C·H·W."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.channels}×{self.height}×{self.width}, {self.levels} levels"

    def check(self, x: Tensor) -> Tensor:
        """Return `x` unchanged if it is uint8 `(N, C, H, W)` of this space, else raise InputError saying what is wrong."""
        import torch

        if not isinstance(x, torch.Tensor):
            raise InputError(f"Images must be a torch uint8 tensor (N, C, H, W), found {type(x).__name__}. Try torch.as_tensor(x).")
        if x.dtype != torch.uint8:
            raise InputError(f"Images must be uint8 integers in 0 … {self.levels - 1}, found {x.dtype}. Try x.to(torch.uint8).")
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise InputError(
                f"Images of shape {tuple(x.shape)} were given; this space holds (N, {self.channels}, {self.height}, {self.width}). "
                f"Convert them with --size {self.height}x{self.width}{' --gray' if self.channels == 1 else ''}."
            )
        if torch.compiler.is_exporting():  # values are not there yet; the exported graph sees to them (`training/onnx.py`)
            return x
        if self.levels < 256 and x.numel() and int(x.max()) >= self.levels:
            raise InputError(
                f"A pixel has the value {int(x.max())}; this space has {self.levels} levels (0 … {self.levels - 1}). Convert with --levels {self.levels}."
            )
        return x

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
