"""Blocks of a file, back into images: of a model that is range coded group by group, of a latent variable by bits-back (`_bits_back.py`)."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from pofx.model import BitsBack, Codable, RangeCoded, one_thread
from pofx.tasks._bits_back import decode_chain
from pofx.tasks._container import Block, Damaged
from pofx.tasks._entropy import Alphabet, Decoder
from pofx.tasks._integer_form import IntegerForm


def flat_order(model: RangeCoded) -> tuple[Tensor, list[int]]:
    """Sub-pixels in the order of a stream, and how many each group has."""
    groups = model.order()
    return torch.cat(groups), [len(group) for group in groups]


def decode_block(form: IntegerForm, block: Block) -> Tensor:
    """The images of a block, uint8 `(n, C, H, W)`.

    Raises:
        Damaged: they are not those whose checksum is in the block; the message says which, where each image has one.
    """
    n = block.count
    try:
        with form.exact() as model, one_thread():
            x = decode_chain(model, block.stream, n) if isinstance(model, BitsBack) else _decode_steps(model, block.stream, n)
    except Damaged as error:
        raise Damaged(f"images {block.first} … {block.first + n - 1}") from error
    sums = x.numpy()[None] if len(block.checks) == 1 else x.numpy()
    wrong = [k for k, (image, sum_) in enumerate(zip(sums, block.checks, strict=True)) if zlib.crc32(image.tobytes()) != sum_]
    if wrong:
        raise Damaged(f"image {block.first + wrong[0]}" if len(block.checks) > 1 else f"images {block.first} … {block.first + n - 1}")
    return x


def _decode_steps(model: Codable, stream: bytes, n: int) -> Tensor:
    """Each step reads what the model says of the next group."""
    assert isinstance(model, RangeCoded)
    x = torch.zeros(n, model.space.dims, dtype=torch.uint8)
    decoder, alphabet, steps = Decoder(stream), Alphabet(model.space.levels), model.begin(n)
    for group in model.order():
        values = alphabet.read(decoder.decode, lambda v, m=len(group): steps.cumulative(v.reshape(n, m, -1)).flatten(0, 1), n * len(group))
        values = values.reshape(n, len(group))
        steps.fix(values)
        x[:, group] = values.to(torch.uint8)
    return x.reshape(n, *model.space.shape)
