"""Noise: the published generator, keyed by image, of the right distribution."""

from __future__ import annotations

from zlib import crc32

import torch
from scipy import stats

from pofx.noise import Noise, hash_images, philox


def test_philox_known_answers() -> None:
    """The test vectors of the Random123 library (Salmon et al. 2011)."""
    zero, ones = torch.zeros(1, dtype=torch.long), torch.full((1,), 0xFFFFFFFF)
    assert [hex(int(v)) for v in philox((zero, zero, zero, zero), (0, 0))] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    assert [hex(int(v)) for v in philox((ones, ones, ones, ones), (0xFFFFFFFF, 0xFFFFFFFF))] == [
        "0x408f276d",
        "0x41c83b0e",
        "0xa20bc7c6",
        "0x6d5451fd",
    ]
    pi = [torch.tensor([v]) for v in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)]
    assert [hex(int(v)) for v in philox(tuple(pi), (0xA4093822, 0x299F31D0))] == ["0xd16cfe09", "0x94fdcceb", "0x5001e420", "0x24126ea1"]  # type: ignore[arg-type]


def test_words_are_philox_of_block_site_and_image() -> None:
    """Stored runs depend on every bit."""
    images = torch.tensor([0, 7, 2**40 + 3, 2**62])
    found = Noise(-5, images).bits("z", 5)
    counter = [
        torch.zeros(4, 3, dtype=torch.long) + v for v in (torch.arange(3), crc32(b"z"), images[:, None] % 2**32, images[:, None] >> 32)
    ]
    a, b, c, d = philox(tuple(counter), ((-5) & 0xFFFFFFFF, 0xFFFFFFFF))  # type: ignore[arg-type]
    assert torch.equal(found, torch.stack([(a << 31) ^ b, (c << 31) ^ d], 2).flatten(1)[:, :5])
    assert Noise(1, torch.arange(2)).bits("z", 2).tolist() == [
        [676593734115991871, 3620299814989451465],
        [1884655679469756839, 8867901046536856149],
    ]


def test_an_image_gets_the_noise_it_gets_alone() -> None:
    batch = Noise(3, torch.arange(100, 116))
    for k in (0, 7, 15):
        alone = Noise(3, torch.tensor([100 + k]))
        assert torch.equal(alone.uniform("x", 4, 5)[0], batch.uniform("x", 4, 5)[k])
        assert torch.equal(alone.normal("z", 7)[0], batch.normal("z", 7)[k])
        like = torch.zeros(16, 3, 4)
        assert torch.equal(alone.keep("d", like[:1], 0.3)[0], batch.keep("d", like, 0.3)[k])


def test_seeds_sites_and_images_are_independent() -> None:
    a = Noise(0, torch.arange(2000))
    streams = [
        a.normal("z", 1),
        a.normal("y", 1),
        Noise(1, torch.arange(2000)).normal("z", 1),
        Noise(0, torch.arange(2000) + 2000).normal("z", 1),
    ]
    correlation = torch.corrcoef(torch.cat(streams, 1).t()) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.1


def test_distributions() -> None:
    noise = Noise(5, torch.arange(200))
    assert stats.kstest(noise.uniform("u", 100).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(noise.normal("n", 101).flatten().numpy(), "norm").pvalue > 1e-3
    for p in (0.1, 0.5, 0.9):
        keep = noise.keep("d", torch.zeros(200, 50, 10), p)
        assert abs(float((keep == 0).double().mean()) - p) < 0.01
        assert torch.allclose(keep[keep > 0], torch.tensor(1 / (1 - p)))


def test_image_hashes_differ_and_do_not_depend_on_the_batch() -> None:
    x = torch.randint(0, 2, (5000, 1, 6, 6), dtype=torch.uint8).unique(dim=0)
    keys = hash_images(x)
    assert len(keys.unique()) == len(x) and int(keys.min()) >= 0
    assert torch.equal(hash_images(x[7:9]), keys[7:9])
