"""Published networks as features: the Inception v3 of the usual FID, and DINOv2. Their weights are not ours and are not shipped.

    inception   $POFX_CACHE/weights/inception-2015-12-05.pt: the TorchScript file of StyleGAN2-ADA and clean-fid (Heusel et al. 2017 by Karras et al. 2020);
                images resized to 299×299, (x − 128) / 128, 2048 features of the last average pool
    dinov2      $POFX_CACHE/weights/dinov2.safetensors (any of ViT-S, B, L/14 as the Hub has them), else facebook/dinov2-small from the Hub
                (Oquab et al. 2023; as a feature space Stein et al. 2023); images resized to 224×224, the mean and scale of ImageNet, the class token

Images are resized by the bicubic filter with antialiasing, channel by channel, in floating point and without rounding, as clean-fid does
(Parmar et al. 2022); grey images get three equal channels. $POFX_CACHE is ~/.cache/pofx unless set. Why so: docs/decisions/0012-published-features.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.data.cache import cache_root
from pofx.errors import InputError
from pofx.model import Features, Objective
from pofx.space import ImageSpace
from pofx.views import View

INCEPTION = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION}"
DINOV2, DINOV2_HUB = "dinov2.safetensors", "facebook/dinov2-small"
CHUNK = 20  # images in the network at once: 299×299 takes memory


def weights_folder() -> Path:
    """Where published weights are looked for: $POFX_CACHE/weights, else ~/.cache/pofx/weights."""
    return cache_root() / "weights"


class Pretrained(Features):
    """A published network behind the images of any space.

    Args:
        space: 1 or 3 channels, any size and levels.
        given: must be None; p(feature | x) needs no view.
        net: `(n, 3, size, size)` → `(n, d)`.
        size: what images are resized to.
        mean, scale: the net sees (x − mean) / scale, with x on [0, 255], per channel.

    Raises:
        InputError: images of 2 or 4 channels.

    >>> Pretrained.small(ImageSpace(1, 8, 8)).features(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
    torch.Size([2, 12])
    """

    family: ClassVar = ("discriminative",)
    paper: ClassVar = "the network's own"
    refuses: ClassVar = {View: "features are of the image alone."}

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        net: nn.Module,
        size: int,
        mean: Sequence[float] = (0.0,) * 3,
        scale: Sequence[float] = (255.0,) * 3,
    ) -> None:
        super().__init__(space, given)
        if space.channels not in (1, 3):
            raise InputError(f"Published networks take grey or colour images, found {space.channels} channels. Use --features auto.")
        self.net, self.size, self.mean, self.scale = net, size, mean, scale

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, net=nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten()), size=8)

    def objectives(self) -> Sequence[Objective]:
        return []  # nothing is learned

    @property
    def feature_layers(self) -> Sequence[str]:
        return ["features"]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """The network's features, float32 `(n, d)`."""
        self.layer_index(layer)
        x = self.space.check(x).to(self.device)
        return torch.cat([self.net(self.prepared(part)).flatten(1) for part in x.split(CHUNK)])

    def prepared(self, x: Tensor) -> Tensor:
        """What the network sees of uint8 `(n, C, H, W)`: float32 `(n, 3, size, size)`."""
        x = x.float() * (255 / (self.space.levels - 1))
        x = F.interpolate(x, size=(self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        mean, scale = (torch.tensor(list(values), device=x.device)[:, None, None] for values in (self.mean, self.scale))
        return (x.expand(-1, 3, -1, -1) - mean) / scale

    @property
    def resizing(self) -> str:
        return f"bicubic with antialiasing to {self.size}×{self.size}"


# Inception ------------------------------------------------------------------------------------------------------------


def inception(space: ImageSpace) -> tuple[Pretrained, Path]:
    """The network, and its file.

    Raises:
        InputError: the file is not there, or is another one.
    """
    path = weights_folder() / INCEPTION
    if not path.is_file():
        raise InputError(
            f"Features 'inception' are those of the usual FID, and {path} is not there (95 MB). Fetch it once, or use --features auto:\n"
            f"curl -L --create-dirs -o {path} {INCEPTION_URL}"
        )
    try:
        net = torch.jit.load(path, map_location="cpu").layers
    except (RuntimeError, AttributeError) as error:
        first = (str(error).strip().splitlines() or ["?"])[0]
        raise InputError(
            f"{path} is not the TorchScript file that it should be ({first}). Fetch it again:\ncurl -L -o {path} {INCEPTION_URL}"
        ) from error
    return Pretrained(space, net=net, size=299, mean=(128.0,) * 3, scale=(128.0,) * 3), path


# DINOv2 ---------------------------------------------------------------------------------------------------------------


class VisionTransformer(nn.Module):
    """DINOv2's encoder from its published tensors: images `(n, 3, S, S)` → class token after the last norm, `(n, width)`.

        h ← h + λ₁ ⊙ Attention(LN h),   h ← h + λ₂ ⊙ W₂ GELU(W₁ LN h);   heads of 64

    Positions are resized by the bicubic filter to as many patches as there are.

    Raises:
        KeyError: the name of a tensor that is missing.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "/") for name in tensors}
        for name, tensor in tensors.items():
            self.register_parameter(self.names[name], nn.Parameter(tensor.float(), requires_grad=False))
        self.layers = 1 + max((int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer.")), default=-1)
        for name in ("embeddings.cls_token", "embeddings.position_embeddings", "layernorm.weight", "encoder.layer.0.mlp.fc2.weight"):
            self.tensor(name)

    def tensor(self, name: str) -> Tensor:
        return self.get_parameter(self.names[name])

    def linear(self, h: Tensor, name: str) -> Tensor:
        return F.linear(h, self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"))

    def norm(self, h: Tensor, name: str) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.tensor("embeddings.patch_embeddings.projection.weight")
        h = F.conv2d(x, kernel, self.tensor("embeddings.patch_embeddings.projection.bias"), stride=kernel.shape[2:])
        rows, columns = h.shape[2:]
        first, rest = self.tensor("embeddings.position_embeddings").split([1, self._positions], 1)
        if self._positions != rows * columns:
            side = round(self._positions**0.5)
            grid = rest.reshape(1, side, side, -1).permute(0, 3, 1, 2)
            rest = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False).flatten(2).mT
        token = self.tensor("embeddings.cls_token") + first
        h = torch.cat([token.expand(len(x), -1, -1), h.flatten(2).mT + rest], 1)
        for i in range(self.layers):
            at = f"encoder.layer.{i}"
            h = h + self.tensor(f"{at}.layer_scale1.lambda1") * self.attention(self.norm(h, f"{at}.norm1"), f"{at}.attention")
            inner = F.gelu(self.linear(self.norm(h, f"{at}.norm2"), f"{at}.mlp.fc1"))
            h = h + self.tensor(f"{at}.layer_scale2.lambda1") * self.linear(inner, f"{at}.mlp.fc2")
        return self.norm(h[:, 0], "layernorm")

    @property
    def _positions(self) -> int:
        return self.tensor("embeddings.position_embeddings").shape[1] - 1

    def attention(self, h: Tensor, at: str) -> Tensor:
        n, length, width = h.shape
        q, k, v = (
            self.linear(h, f"{at}.attention.{part}").reshape(n, length, width // 64, 64).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        return self.linear(mixed, f"{at}.output.dense")


def dinov2(space: ImageSpace, say: Callable[[str], None] | None = None) -> tuple[Pretrained, Path]:
    """The network, and its file.

    Raises:
        InputError: there is no file and no Hub, or the file holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = weights_folder() / DINOV2
    if not path.is_file():
        path = _from_hub(path, say)
    try:
        net = VisionTransformer(load_file(path))
    except (SafetensorError, KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"{path} does not hold DINOv2 (ViT-S, B or L/14) as the Hub has it: {str(error).splitlines()[0]}. Take model.safetensors of {DINOV2_HUB}."
        ) from error
    mean, scale = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, pixels on [0, 1]
    return Pretrained(space, net=net, size=224, mean=[255 * m for m in mean], scale=[255 * s for s in scale]), path


def _from_hub(path: Path, say: Callable[[str], None] | None) -> Path:
    import socket
    from urllib.parse import urlsplit

    import huggingface_hub.constants as hub
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    missing = (
        f"Features 'dinov2' are not in {path}, and the Hub did not give {DINOV2_HUB} ({{}}). Where there is a network, or use --features auto:\n"
        f"curl -L --create-dirs -o {path} {hub.ENDPOINT}/{DINOV2_HUB}/resolve/main/model.safetensors"
    )
    address = urlsplit(hub.ENDPOINT)
    offline = hub.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(address.hostname, address.port or address.scheme)
    except OSError:
        offline = True  # say so now, and not after half a minute of retries; what was fetched once is still found
    if not offline and say is not None:
        say(f"fetching {DINOV2_HUB} from the Hub, once")
    try:
        return Path(hf_hub_download(DINOV2_HUB, "model.safetensors", local_files_only=offline))
    except (HfHubHTTPError, OSError) as error:
        raise InputError(missing.format("there is no network" if offline else str(error).strip().splitlines()[0])) from error
