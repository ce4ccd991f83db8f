"""Features by name: runs, and published networks with stand-ins for their weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pofx import catalog
from pofx.data import load_data
from pofx.errors import CapabilityError, InputError
from pofx.space import ImageSpace
from pofx.tasks._samples import feature_vectors, yardstick
from pofx.training import save_model
from pofx.workflows import _pretrained
from pofx.workflows._pretrained import Pretrained, VisionTransformer
from pofx.workflows.features import named_features

GREY = ImageSpace(1, 8, 8, levels=17)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty place for published weights, and no Hub."""
    import huggingface_hub.constants as hub

    monkeypatch.setenv("POFX_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def unused() -> Any:
    raise AssertionError("the data is read for 'auto' alone")


class Layers(nn.Module):
    """Stands for the layers of Inception: mean and mean square of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * torch.cat([x.mean((2, 3)), x.square().mean((2, 3))], 1)


class StandIn(nn.Module):
    """A TorchScript file with `layers`, as inception-2015-12-05.pt has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def published(width: int = 128, layers: int = 2, side: int = 5) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of the Hub's DINOv2 files."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "embeddings.patch_embeddings.projection.weight": (width, 3, 14, 14),
        "embeddings.position_embeddings": (1, side * side + 1, width),
    }
    for i in range(layers):
        at = f"encoder.layer.{i}."
        for part in ("attention.attention.key", "attention.attention.query", "attention.attention.value", "attention.output.dense"):
            shapes |= {f"{at}{part}.bias": (width,), f"{at}{part}.weight": (width, width)}
        shapes |= {f"{at}layer_scale1.lambda1": (width,), f"{at}layer_scale2.lambda1": (width,)}
        shapes |= {f"{at}mlp.fc1.bias": (4 * width,), f"{at}mlp.fc1.weight": (4 * width, width)}
        shapes |= {f"{at}mlp.fc2.bias": (width,), f"{at}mlp.fc2.weight": (width, 4 * width)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{at}{norm}.bias": (width,), f"{at}{norm}.weight": (width,)}
    shapes |= {"layernorm.bias": (width,), "layernorm.weight": (width,)}
    generator = torch.Generator().manual_seed(0)

    def scale(name: str, shape: tuple[int, ...]) -> float:
        if len(shape) == 1:
            return 0.5
        return 1.0 if "position" in name or "cls" in name else torch.Size(shape[1:]).numel() ** -0.5

    return {name: torch.randn(shape, generator=generator) * scale(name, shape) for name, shape in shapes.items()}


def test_what_a_network_sees_is_resized_with_antialiasing_and_scaled():
    space = ImageSpace(1, 4, 4, levels=17)
    model = Pretrained(space, net=nn.Sequential(nn.Flatten()), size=8, mean=(128.0,) * 3, scale=(128.0,) * 3)
    flat = torch.full((2, 1, 4, 4), 16, dtype=torch.uint8)
    torch.testing.assert_close(model.prepared(flat), torch.full((2, 3, 8, 8), 127 / 128))
    # As Pillow's bicubic filter, which is what published numbers are made with
    from PIL import Image

    big = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = Pretrained(ImageSpace(3, 40, 56), net=nn.Identity(), size=16).prepared(big) * 255
    for c in range(3):
        pillow = Image.fromarray(big[0, c].float().numpy(), mode="F").resize((16, 16), Image.Resampling.BICUBIC)
        torch.testing.assert_close(seen[0, c], torch.from_numpy(np.array(pillow)), atol=2e-3, rtol=1e-5)
    with pytest.raises(InputError, match="channels"):
        Pretrained(ImageSpace(2, 8, 8), net=nn.Identity(), size=8)


def test_inception_is_read_from_its_torchscript_file(weights: Path):
    with pytest.raises(InputError, match=r"curl -L --create-dirs -o .*inception-2015-12-05.pt https://") as error:
        named_features("inception", unused, GREY)
    assert str(weights) in str(error.value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is in maintenance
        torch.jit.script(StandIn()).save(str(weights / _pretrained.INCEPTION))
    found = named_features("inception", unused, GREY)
    assert found.name.startswith("Inception v3 of the usual FID (") and found.hash in found.name
    assert found.resizing == "bicubic with antialiasing to 299×299"
    x = torch.randint(0, 17, (25, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    vectors = feature_vectors(found.model, x)
    assert vectors.shape == (25, 6)
    assert torch.equal(vectors[:, 0], vectors[:, 1])  # grey: three equal channels
    quality = yardstick(found.model, _images(x), _images(x), 25, name=found.name, resizing=found.resizing).measure(x)
    assert quality.frechet.distance == pytest.approx(0, abs=1e-9)
    assert "299×299" in quality.protocol
    (weights / _pretrained.INCEPTION).write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="Fetch it again"):
        named_features("inception", unused, GREY)


def _images(x: Tensor) -> Any:
    from pofx.tasks.bulk import as_images

    return as_images(x)


def test_the_vision_transformer_is_that_of_the_published_weights():
    """Against `transformers` 5.23 (Dinov2Model.pooler_output) on the same tensors: at another number of patches than the positions are of."""
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = VisionTransformer(published())(x)
    assert found.shape == (2, 128)
    expected = torch.tensor([[-0.0727, 0.3463, 0.7574, 0.7956], [-0.0775, 0.3468, 0.7534, 0.7972]])
    torch.testing.assert_close(found[:, :4], expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(found[1, -4:], torch.tensor([0.6459, -0.2486, 0.5102, -0.5703]), atol=2e-4, rtol=0)


def test_dinov2_is_read_from_safetensors_and_says_how_to_get_them(weights: Path):
    with pytest.raises(InputError, match=r"there is no network[^\n]*\ncurl -L .*resolve/main/model.safetensors"):
        named_features("dinov2", unused, GREY)
    save_file(published(layers=1), weights / _pretrained.DINOV2)
    found = named_features("dinov2", unused, ImageSpace(3, 20, 12))
    x = torch.randint(0, 256, (3, 3, 20, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert found.model.features(x).shape == (3, 128)
    assert found.name.startswith("DINOv2 (")
    save_file({"other": torch.zeros(2)}, weights / _pretrained.DINOV2)
    with pytest.raises(InputError, match="does not hold DINOv2"):
        named_features("dinov2", unused, GREY)
    (weights / _pretrained.DINOV2).write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="does not hold DINOv2"):
        named_features("dinov2", unused, GREY)


def test_dinov2_comes_from_the_hub_where_there_is_one(weights: Path, monkeypatch: pytest.MonkeyPatch):
    import socket

    import huggingface_hub
    import huggingface_hub.constants as hub

    file = weights.parent / "fetched.safetensors"
    save_file(published(layers=1), file)
    asked: list[Any] = []

    def fetch(repo: str, name: str, *, local_files_only: bool) -> str:
        asked.append((repo, name, local_files_only))
        return str(file)

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    lines: list[str] = []
    assert named_features("dinov2", unused, GREY, say=lines.append).path == file
    assert asked == [("facebook/dinov2-small", "model.safetensors", False)]
    assert "from the Hub" in lines[0]


def test_a_run_gives_features_of_its_own_space(tmp_path: Path):
    digits = load_data("digits")
    save_model(catalog.get("pixelcnn").small(digits.space), tmp_path / "p", {})
    found = named_features(str(tmp_path / "p"), unused, digits.space)
    assert found.name == f"pixelcnn {tmp_path / 'p'} ({found.hash})"
    assert found.resizing == "none"
    with pytest.raises(InputError, match="the samples are"):
        named_features(str(tmp_path / "p"), unused, ImageSpace(1, 9, 9))
    save_model(catalog.get("fvbn").small(digits.space), tmp_path / "m", {})
    with pytest.raises(CapabilityError, match="give features"):
        named_features(str(tmp_path / "m"), unused, digits.space)
    with pytest.raises(InputError, match="auto, inception, dinov2"):
        named_features(str(tmp_path / "nothing"), unused, digits.space)
