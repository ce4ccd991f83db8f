"""What a request gets and what it is refused with; the worker is a thread of this process."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from pofx.data import load_data, load_images
from pofx.pictures import each, grid
from pofx.serve.payload import Limits
from pofx.tasks.complete import complete, kept_region
from pofx.tasks.outliers import outliers
from pofx.tasks.sample import sample
from pofx.tasks.score import costs
from pofx.training import load_model

NPY = {"Content-Type": "application/x-npy"}
PNG = {"Content-Type": "image/png"}
Client = Callable[..., TestClient]


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return load_images("digits:test")[0].x[:12]


def npy(x: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(x))
    return stream.getvalue()


def png(picture: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form)
    return stream.getvalue()


def detail(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    told = response.json()
    assert list(told) == ["detail"]
    assert len(told["detail"]) > 10
    assert "--" not in told["detail"] or "pofx " in told["detail"], "flags, and no command that has them"
    return told["detail"]


# The same numbers ---------------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_task_to_the_last_digit_in_every_form(client: Client, folder: Any, digits: torch.Tensor):
    app = client("pixelcnn")
    want = costs(load_model(folder), digits)
    told = app.post("/score", content=npy(digits), headers=NPY).json()
    assert told["nats"] == want.nats.tolist()
    assert told["bits_per_dim"] == want.bits_per_dim.tolist()
    assert (told["kind"], told["dims"], told["n"], told["given"]) == ("exact", 64, 12, None)
    assert app.post("/score", json={"images": digits.tolist()}).json() == told
    for k, picture in enumerate(each(digits[:3], 17)):
        found = app.post("/score?convert=true", content=png(picture), headers=PNG).json()
        assert found["nats"] == want.nats[k : k + 1].tolist()
    colour = next(one.convert("RGB").resize((16, 16), Image.Resampling.NEAREST) for one in each(digits[:1], 17))
    assert app.post("/score?convert=true", content=png(colour), headers=PNG).json()["nats"] == want.nats[:1].tolist()


def test_outliers_are_those_of_the_task(client: Client, folder: Any, digits: torch.Tensor):
    own = load_data("digits")
    want = outliers(load_model(folder), digits, calib=own.calib, center=own.valid, train=own.train)
    told = client("pixelcnn", calibrate=True).post("/outliers", content=npy(digits), headers=NPY).json()
    assert told["score"] == want.score.tolist()
    assert told["p_value"] == want.p_value.tolist()
    assert told["outlier"] == want.outlier.tolist()
    assert told["statistics"] == {name: values.tolist() for name, values in want.statistics.items()}
    assert told["promise"] == want.promise


def test_without_calibration_there_is_no_alarm(client: Client, digits: torch.Tensor):
    assert "without calibration" in detail(client("pixelcnn").post("/outliers", content=npy(digits), headers=NPY), 404)


@pytest.mark.parametrize("query", ["n=5&seed=3&first=2", "n=3&temperature=0.5"])
def test_samples_come_as_npy_png_json_and_multipart(client: Client, folder: Any, query: str):
    asked = {name: float(v) if "." in v else int(v) for name, v in (part.split("=") for part in query.split("&"))}
    want = sample(load_model(folder), **asked)  # type: ignore[arg-type]
    assert want.x is not None
    app = client("pixelcnn")
    answer = app.get(f"/sample?{query}")
    assert np.array_equal(np.load(io.BytesIO(answer.content), allow_pickle=False), want.x.numpy())
    assert answer.headers["pofx-kind"] == want.kind
    told = app.get(f"/sample?{query}&format=json").json()
    assert told["images"] == want.x.tolist() and told["kind"] == want.kind
    assert app.get(f"/sample?{query}&format=png").content == png(grid(want.x, 17))
    stream = app.get(f"/sample?{query}&format=multipart")
    assert stream.headers["content-type"] == "multipart/mixed; boundary=pofx-image"
    parts = stream.content.split(b"--pofx-image")[1:-1]
    files = [part.partition(b"\r\n\r\n")[2][:-2] for part in parts]
    assert files == [png(picture) for picture in each(want.x, 17)]
    assert int(re.findall(rb"filename=(\d+).png", parts[0])[0]) == asked.get("first", 0)


def test_a_long_stream_is_what_the_task_draws(client: Client, run: Callable[[str], str]):
    """600 images of a VAE, in chunks of 64; of the autoregressive run three of 256 would take longer."""
    want = sample(load_model(run("vae")), 200, seed=1).x
    assert want is not None
    assert np.array_equal(np.load(io.BytesIO(client("vae").get("/sample?n=200&seed=1").content)), want.numpy())


def test_completions_are_those_of_the_task(client: Client, folder: Any, digits: torch.Tensor):
    app, model = client("pixelcnn"), load_model(folder)
    want = complete(model, digits[:1], kept_region("top:4", 8, 8), n=3, seed=1)
    told = app.post("/complete?keep=top:4&n=3&seed=1", content=npy(digits[:1]), headers=NPY).json()
    assert told["images"] == want.images.tolist()
    assert told["kind"] == "exact" and told["truth"]["nats"] == float(want.truth.nats)  # type: ignore[union-attr]
    sheet = app.post("/complete?keep=top:4&n=3&seed=1&format=png", content=npy(digits[:1]), headers=NPY)
    assert sheet.content == png(want.sheet()) and sheet.headers["content-type"] == "image/png"
    hole = (~kept_region("top:4", 8, 8)).int().tolist()
    assert app.post("/complete?n=3&seed=1", json={"images": digits[:1].tolist(), "hole": hole}).json() == told


def test_a_bound_says_so_and_takes_its_options(client: Client, run: Callable[[str], str], digits: torch.Tensor):
    app, model = client("vae"), load_model(run("vae"))
    assert app.post("/score", content=npy(digits), headers=NPY).json()["kind"] == "lower bound"
    told = app.post("/score?estimate=3&seed=5", content=npy(digits), headers=NPY).json()
    assert told["kind"] == "estimate"
    assert told["nats"] == costs(model, digits, estimate=3, seed=5).nats.tolist()
    codes = app.post("/encode", content=npy(digits), headers=NPY).json()
    assert (codes["kind"], codes["latent_dims"], len(codes["z"])) == ("mean of q(z|x)", 2, 12)


def test_a_conditional_run_is_told_the_label(client: Client, run: Callable[[str], str], digits: torch.Tensor):
    app, model, y = client("label"), load_model(run("label")), [*list(range(10)), 0, 1]
    from pofx.tasks.bulk import TensorImages

    want = costs(model, TensorImages(digits, torch.tensor(y))).nats.tolist()
    assert app.post("/score", json={"images": digits.tolist(), "labels": y}).json()["nats"] == want
    assert app.post(f"/score?label={','.join(map(str, y))}", content=npy(digits), headers=NPY).json()["nats"] == want
    assert "label=0" in detail(app.post("/score", content=npy(digits), headers=NPY), 422)
    assert "0 … 9" in detail(app.post("/score?label=10", content=npy(digits), headers=NPY), 422)
    assert np.load(io.BytesIO(app.get("/sample?n=2&label=3").content)).shape == (2, 1, 8, 8)
    # Bayes over p(x | label), with the reject of the run's own calibration images
    told = client("label", calibrate=True).post("/classify", content=npy(digits), headers=NPY).json()
    assert len(told["p_value"]) == 12 and {*told["verdict"]} <= {"answer", "ambiguous", "outlier"}
    assert told["fits"] == [[p > 0.05 for p in row] for row in told["p_value"]]
    free = app.post("/classify", content=npy(digits), headers=NPY).json()
    assert free["label"] == told["label"] and free["alpha"] is None and "no reject" in free["note"]


def test_where_calibration_images_are_too_few_classes_come_without_a_reject_and_say_so(client: Client, digits: torch.Tensor):
    told = client("label", calibrate=True, pooled=False).post("/classify", content=npy(digits), headers=NPY).json()
    assert told["alpha"] is None and "calibration images of each class" in told["note"]


# What is refused ----------------------------------------------------------------------------------------------------------------------


def test_what_a_run_cannot_do_is_said_with_the_reason(client: Client, digits: torch.Tensor):
    gan = client("gan")
    assert "has no likelihood" in detail(gan.post("/score", content=npy(digits), headers=NPY), 404)
    assert "trained without labels" in detail(client("pixelcnn").post("/classify", content=npy(digits), headers=NPY), 404)
    assert set(gan.get("/health").json()["cannot"]) == {"score", "classify", "outliers"}
    assert "/score" not in gan.get("/openapi.json").json()["paths"]


def bomb(size: int) -> bytes:
    """A PNG of a few bytes that declares size × size pixels."""
    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


GOOD = np.zeros((1, 1, 8, 8), np.uint8)
OBJECTS = npy(np.array([{"a": 1}], object))
LIAR = npy(GOOD).replace(b"(1, 1, 8, 8)", b"(9, 1, 8, 8)")
HUGE = npy(GOOD).replace(b"(1, 1, 8, 8), }    ", b"(99999999, 8, 8)}  ")


@pytest.mark.parametrize(
    ("status", "kind", "body", "said"),
    [
        (400, "application/json", b"{", "not JSON"),
        (400, "application/json", b"[" * 100_000, "not JSON"),
        (400, "application/json", b'{"images": NaN}', "NaN"),
        (400, "application/json", b"[]", '"images"'),
        (400, "application/json", b'{"images": []}', "no image"),
        (400, "application/json", b'{"images": [[[["a"]]]]}', "whole numbers"),
        (400, "application/json", b'{"images": [[[[true]]]]}', "whole numbers"),
        (400, "application/json", b'{"images": [[[[0.5]]]]}', "whole numbers"),
        (400, "application/json", b'{"images": [[[[-1]]]]}', "holds -1"),
        (400, "application/json", b'{"images": [[[[1, 2], [3]]]]}', "equal lengths"),
        (400, "application/json", b'{"images": [[[[0]]]], "image": 1}', "unknown name 'image'"),
        (400, "application/json", json.dumps({"images": GOOD.tolist(), "labels": [1]}).encode(), "unknown name 'labels'"),
        (400, "application/json", b"\xff\xfe", "not JSON"),
        (422, "application/json", b'{"images": [[[[0, 1], [1, 0]]]]}', "1×2×2"),
        (400, "application/x-npy", b"not an array", "no .npy"),
        (400, "application/x-npy", npy(GOOD)[:-9], "holds 55 bytes"),
        (400, "application/x-npy", LIAR, "declares (9, 1, 8, 8)"),
        (400, "application/x-npy", HUGE, "declares (99999999, 8, 8)"),
        (400, "application/x-npy", OBJECTS, "never opened"),
        (422, "application/x-npy", npy(GOOD.astype(np.float32)), "float32"),
        (422, "application/x-npy", npy(GOOD + 17), "17 levels"),
        (422, "application/x-npy", npy(np.zeros((1, 2, 8, 8), np.uint8)), "2×8×8"),
        (422, "application/x-npy", npy(np.zeros(64, np.uint8)), "shape (64,)"),
        (400, "image/png", b"GIF89a", "cannot be read"),
        (400, "image/png", png(Image.new("L", (8, 8)))[:-30], "cannot be read"),
        (413, "image/png", png(Image.new("1", (5000, 5000))), "5000×5000"),
        (413, "image/png", bomb(9000), "megapixels"),
        (413, "image/png", bomb(30000), "megapixels"),
        (400, "image/png", b"", "empty"),
        (422, "image/jpeg", png(Image.new("L", (8, 8)), "JPEG"), "convert=true"),
        (415, "image/gif", b"GIF89a", "image/gif"),
        (415, "text/plain", b"hello", "text/plain"),
        (415, "", b"hello", "missing"),
    ],
)
def test_a_malformed_request_is_refused_with_a_reason(client: Client, status: int, kind: str, body: bytes, said: str):
    limits = Limits(bytes=150_000)
    assert said in detail(
        client("pixelcnn", limits=limits).post("/score", content=body, headers={"Content-Type": kind} if kind else {}), status
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("covert=true", "Did you mean 'convert'?"),
        ("convert=maybe", "convert: input should be a valid boolean"),
        ("samples=3", "Unknown parameter 'samples'"),  # an exact likelihood draws nothing
    ],
)
def test_an_unknown_or_wrong_parameter_is_refused(client: Client, query: str, said: str):
    assert said in detail(client("pixelcnn").post(f"/score?{query}", content=npy(GOOD), headers=NPY), 422)


@pytest.mark.parametrize(
    "query", ["n=0", "n=1001", "seed=-1", "seed=1e400", "format=gif", "temperature=0", "temperature=nan", "top_p=2", "n=1&n=x"]
)
def test_a_sample_out_of_bounds_is_refused(client: Client, query: str):
    detail(client("pixelcnn").get(f"/sample?{query}"), 422)


def test_what_is_too_large_is_refused_before_it_is_read(client: Client):
    app = client("pixelcnn", limits=Limits(bytes=1000, images=2))
    assert "larger than 1,000 bytes" in detail(app.post("/score", content=b"x" * 1001, headers=NPY), 413)
    parts = iter([b"x" * 600, b"x" * 600])
    assert "larger than 1,000 bytes" in detail(app.post("/score", content=parts, headers=NPY), 413)  # chunked: no length is declared
    assert "at most 2" in detail(app.post("/score", content=npy(np.zeros((3, 1, 8, 8), np.uint8)), headers=NPY), 413)
    assert "at most 2" in detail(app.post("/score", json={"images": [[[[0]]]] * 3}), 413)


def test_completions_of_a_wrong_hole_or_of_two_images_are_refused(client: Client, digits: torch.Tensor):
    app = client("pixelcnn")
    assert "one at a time" in detail(app.post("/complete?keep=top:4", content=npy(digits[:2]), headers=NPY), 422)
    assert "keep=top:4" in detail(app.post("/complete?keep=up:4", content=npy(digits[:1]), headers=NPY), 422)
    assert "keep=top:4" in detail(app.post("/complete", content=npy(digits[:1]), headers=NPY), 422)
    assert "(3, 3)" in detail(app.post("/complete", json={"images": digits[:1].tolist(), "hole": [[1] * 3] * 3}), 422)


def test_one_without_the_token_is_not_let_in(client: Client):
    secret = "0123456789abcdef"
    app = client("pixelcnn", token=secret)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": secret}, {"Authorization": f"bearer {secret}x"}):
        for path in ("/sample", "/docs", "/openapi.json", "/metrics", "/nothing"):
            answer = app.get(path, headers=headers)
            assert "token" in detail(answer, 401) and answer.headers["www-authenticate"] == "Bearer"
    assert app.get("/health").status_code == 200
    assert app.get("/sample?n=1", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_a_page_from_elsewhere_does_not_come_in_through_a_name_of_its_own(client: Client):
    app = client("pixelcnn")
    assert "localhost" in detail(app.get("/health", headers={"Host": "evil.example:8000"}), 421)
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "[::1]"):
        assert app.get("/health", headers={"Host": host}).status_code == 200


def test_other_paths_and_methods_are_refused_in_the_same_form(client: Client):
    app = client("pixelcnn")
    assert "See /docs" in detail(app.get("/nothing"), 404)
    answer = app.get("/score")
    detail(answer, 405)
    assert answer.headers["allow"] == "POST"


# About itself -------------------------------------------------------------------------------------------------------------------------


def test_the_docs_need_no_network_and_name_every_path(client: Client):
    app = client("pixelcnn")
    text = app.get("/").text
    assert "<script" not in text
    assert not [link for link in re.findall(r'(?:src|href)="([^"]+)"', text) if not link.startswith(("/", "data:"))]
    api = app.get("/openapi.json").json()
    for path in api["paths"]:
        assert f" {path}</h2>" in text
    assert set(api["paths"]) == {"/score", "/encode", "/complete", "/sample", "/health", "/metrics"}


def test_health_and_metrics_tell_what_happened(client: Client, digits: torch.Tensor):
    app = client("pixelcnn", limits=Limits(images=999))
    app.post("/score", content=npy(digits), headers=NPY)
    app.get("/nothing/at/all")
    health = app.get("/health").json()
    assert (health["status"], health["space"], health["workers"]) == ("ok", "1×8×8, 17 levels", {"alive": 1, "of": 1})
    text = app.get("/metrics").text
    assert 'pofx_requests_total{path="/score",status="200"} 1.0' in text
    assert 'pofx_requests_total{path="other",status="404"} 1.0' in text
    assert "pofx_waiting_images 0.0" in text
