"""Golden compressed files: what a version wrote is decoded for ever, on any machine, by any code path of PyTorch, to the same images.

`python tests/test_golden_codec.py` makes those files under tests/golden/codec/ that are not there yet. Existing ones are never made again: where a
change breaks them the change is wrong, or the format number must rise and the old format be read as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pofx.model import BitsBack, Codable, Gaussian, RangeCoded, Sampler
from pofx.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from pofx.models.autoregressive.made import MADE
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.autoregressive.pixelcnn_pp import PixelCNNpp
from pofx.models.autoregressive.pixelrnn import PixelRNN
from pofx.models.variational.ladder import LadderVAE
from pofx.models.variational.vae import VAE
from pofx.space import ImageSpace
from pofx.tasks._bits_back import Posterior
from pofx.tasks._entropy import own
from pofx.tasks.compress import compress
from pofx.tasks.contents import contents
from pofx.tasks.decompress import decompress
from pofx.testing import densify, random_images

GOLDEN = Path(__file__).parent / "golden" / "codec"
FILES = sorted(GOLDEN.glob("*.pofx"))
MODELS = {  # sixteen features and kernels of four taps and more, so that convolutions go both ways
    "pixelcnn": lambda: PixelCNN(ImageSpace(1, 6, 5, levels=17), layers=2, channels=8, first_kernel=5),
    "pixelcnn-binary": lambda: PixelCNN(ImageSpace(1, 5, 6, levels=2), layers=1, channels=16, kernel=3, first_kernel=5, dilations=2),
    "gated-pixelcnn": lambda: GatedPixelCNN(ImageSpace(3, 4, 5, levels=8), layers=3, channels=15, first_kernel=5),
    "pixelcnn-pp-mixture": lambda: PixelCNNpp(ImageSpace(3, 5, 4), channels=6, blocks=1, stages=1, components=5),
    "pixelrnn-row": lambda: PixelRNN(ImageSpace(3, 4, 5, levels=8), kind="row", layers=2, channels=6, first_kernel=3),
    "pixelrnn-diagonal": lambda: PixelRNN(ImageSpace(1, 5, 4, levels=2), kind="diagonal", layers=2, channels=6, first_kernel=5),
    "made": lambda: MADE(ImageSpace(1, 4, 5, levels=40), hidden=40),
    "vae": lambda: VAE(
        ImageSpace(1, 6, 5, levels=40), network="convolutional", latents=4, channels=16, layers=2, likelihood="gaussian", scale="shared"
    ),
    "vae-binary": lambda: VAE(ImageSpace(1, 5, 6, levels=2), network="residual", latents=3, channels=6, stages=1),
    "ladder-vae": lambda: LadderVAE(ImageSpace(3, 5, 4, levels=7), layers=2, latents=2, channels=8, likelihood="categorical"),
    "pixelcnn-pp-categorical": lambda: PixelCNNpp(ImageSpace(1, 5, 7, levels=32), channels=8, blocks=1, stages=0, likelihood="categorical"),
}

DECODE = """
import hashlib, json, sys, torch
threads, onednn, device = int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3]
torch.set_num_threads(threads)
from pofx.tasks.decompress import decompress
torch.backends.mkldnn.set_flags(onednn)
found = {}
for path in sys.argv[4:]:
    back = decompress(path)
    assert back.complaint() is None, (path, back.complaint())
    found[path] = hashlib.sha256(back.x.numpy().tobytes()).hexdigest()
print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "found": found}))
"""


def expected(path: Path) -> str:
    return json.loads((GOLDEN / "expected.json").read_text())[path.stem]


def decoded(paths: list[Path], *, threads: int = 1, onednn: bool = True, capability: str | None = None) -> tuple[str, list[str]]:
    """What a process of its own makes of files: its instruction set, and a hash of each."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | ({} if capability is None else {"ATEN_CPU_CAPABILITY": capability})
    command = [sys.executable, "-c", DECODE, str(threads), str(int(onednn)), "cpu", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    return answer["capability"], [answer["found"][str(path)] for path in paths]


def numbers(model: Codable, x: torch.Tensor) -> torch.Tensor:
    """All that a coder is told of each image, whole multiples of powers of two, `(n, …)`: of a latent variable at the mean of q."""
    if isinstance(model, RangeCoded):
        return model.intervals(x, own).flatten(1)
    assert isinstance(model, BitsBack)
    found: list[torch.Tensor] = []

    def draw(q: Gaussian) -> torch.Tensor:
        posterior = Posterior(q)
        found.extend([posterior.mean, posterior.inverse])
        return posterior.mean

    pixels, v = model.decode(model.infer_by(x, draw)), x.long()
    found += [pixels.cumulative(c, v[:, :c], own(v[:, c])).flatten(1).double() for c in range(x.shape[1])]
    return torch.cat(found, 1)


def test_there_are_golden_files() -> None:
    assert {path.stem for path in FILES} == set(MODELS) == set(json.loads((GOLDEN / "expected.json").read_text()))
    assert all(path.stat().st_size < 60_000 for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_golden_file_is_decoded_to_its_images(path: Path) -> None:
    back = decompress(path)
    assert back.complaint() is None and contents(path).troubles == []
    assert hashlib.sha256(back.x.numpy().tobytes()).hexdigest() == expected(path)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_golden_files_under_any_instructions(capability: str, onednn: bool, threads: int) -> None:
    used, found = decoded(FILES, threads=threads, onednn=onednn, capability=capability)
    if used.lower() != capability:
        pytest.skip(f"this machine has no {capability}")
    assert found == [expected(path) for path in FILES]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize("block", [1, 7, 256])
def test_blocks_of_any_size_are_decoded_alike(path: Path, block: int, tmp_path: Path) -> None:
    """The images of a golden file by the model inside it, at other batch sizes: what is written decodes in other processes, too."""
    from pofx.tasks._container import read
    from pofx.tasks._integer_form import IntegerForm

    model = read(path.read_bytes()).model
    assert model is not None
    x = decompress(path).x
    found = compress(IntegerForm.from_bytes(model), x.repeat(3, 1, 1, 1), tmp_path / "a.pofx", block=block, embed_model=True)
    hashes = {
        decoded([found.path], onednn=onednn, capability=capability)[1][0] for onednn, capability in ((True, None), (False, "default"))
    }
    assert hashes == {hashlib.sha256(x.repeat(3, 1, 1, 1).numpy().tobytes()).hexdigest()}


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_same_numbers_in_any_batch_and_order_of_sums(path: Path) -> None:
    """The full pass at batch 1, 7 and all; in channels-last; and by PyTorch's own convolution in place of ours."""
    import torch.nn.functional as F

    from pofx.integers import Integers
    from pofx.tasks._container import read
    from pofx.tasks._integer_form import IntegerForm

    model = read(path.read_bytes()).model
    assert model is not None
    form, x = IntegerForm.from_bytes(model), decompress(path).x
    with form.exact() as exact:
        usual = numbers(exact, x)
        for size in (1, 7):
            assert torch.equal(usual, torch.cat([numbers(exact, part) for part in x.split(size)]))
        assert torch.equal(usual, numbers(exact, x.to(memory_format=torch.channels_last)))
    ours = Integers.conv2d
    try:
        Integers.conv2d = lambda self, *a, **k: F.conv2d(*a, **k)
        with form.exact() as exact:
            assert torch.equal(usual, numbers(exact, x))
    finally:
        Integers.conv2d = ours


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
@pytest.mark.parametrize("name", ["pixelcnn-binary", "vae-binary"])
def test_the_same_numbers_compiled(name: str) -> None:
    """By the kernels that `torch.compile` makes of the networks."""
    from pofx.tasks._container import read
    from pofx.tasks._integer_form import IntegerForm

    model = read((GOLDEN / f"{name}.pofx").read_bytes()).model
    assert model is not None
    form, x = IntegerForm.from_bytes(model), decompress(GOLDEN / f"{name}.pofx").x
    with form.exact() as exact:
        usual = numbers(exact, x)
        torch._dynamo.reset()
        if isinstance(exact, VAE):
            exact.encoder.compile()
            exact.decoder.compile()
        else:
            assert isinstance(exact, PixelCNN)
            exact.full = torch.compile(exact.full)
        assert torch.equal(usual, numbers(exact, x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_same_numbers_on_a_gpu(path: Path) -> None:
    import copy

    from pofx.integers import Integers, using
    from pofx.tasks._container import read
    from pofx.tasks._integer_form import IntegerForm

    model = read(path.read_bytes()).model
    assert model is not None
    form, x = IntegerForm.from_bytes(model), decompress(path).x
    with form.exact() as exact:
        usual = numbers(exact, x)
    there = copy.deepcopy(exact).to("cuda")
    with torch.inference_mode(), using(Integers(form.tables, "cuda")):
        assert torch.equal(usual, numbers(there, x.to("cuda")).cpu())


def make() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    listed = GOLDEN / "expected.json"
    hashes = json.loads(listed.read_text()) if listed.exists() else {}
    for k, (name, new) in enumerate(MODELS.items()):
        path = GOLDEN / f"{name}.pofx"
        if path.exists():
            continue
        model = densify(new(), seed=k)
        assert isinstance(model, Sampler)
        count, block = (9, 7) if isinstance(model, RangeCoded) else (32, 40)  # so that bits-back has groups of several images
        noise = random_images(count, model.space, seed=k)
        x = torch.cat(
            [noise, model.double().sample(6, seed=k), torch.zeros_like(noise[:1]), torch.full_like(noise[:1], model.space.levels - 1)]
        )
        found = compress(model.float(), x, path, block=block, embed_model=True)
        hashes[name] = hashlib.sha256(x.numpy().tobytes()).hexdigest()
        listed.write_text(json.dumps(hashes, indent=1, sort_keys=True) + "\n")
        print(found)


if __name__ == "__main__":
    make()
