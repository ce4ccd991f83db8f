"""Optimizers by name: those of `torch.optim`, and Muon.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") is steepest descent under the spectral norm.

For a matrix W with gradient G, momentum M ← μ M + G, and U Σ Vᵀ = G + μ M,

    W ← W − 0.2 √max(rows, columns) · lr · U Vᵀ

U Vᵀ coming from five Newton–Schulz iterations in which all singular values move to about 1. The factor gives the step the size of
AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4), so that one learning rate serves both: vectors, and matrices with a
one or two rows or columns (the biases of two directions, say), follow AdamW. The kernel of a convolution is the matrix
`(out, in · height · width)`; three dimensions are a stack of matrices.

`torch.optim.Muon` takes matrices only, and computes in bfloat16; most processors have none, and convolutions are what we train.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pofx.model import OptimizerSpec

LARGE, LONG = 48, 2.5  # rows, and columns per row, from which on the products of small matrices pay (measured on a CPU)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the largest slope at zero of a quintic that keeps singular values in about [0.7, 1.2]


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """U Vᵀ of matrices `(…, r, c)` = U Σ Vᵀ, nearly: singular values in about [0.7, 1.2], but for those near zero.

    >>> values = torch.linalg.svdvals(orthogonalise(torch.diag(torch.tensor([3.0, 1.0, 0.2]))))
    >>> bool(((values > 0.6) & (values < 1.3)).all())
    True
    """
    a, b, c = COEFFICIENTS
    tall = g.shape[-2] > g.shape[-1]
    x = (g.mT if tall else g).reshape(-1, *sorted(g.shape[-2:]))
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    rows, columns = x.shape[-2:]
    if rows >= LARGE and columns >= LONG * rows:
        # All iterates are Q X with Q a polynomial in S = X Xᵀ, so the long side is needed at the start and at the end only.
        s, q = x @ x.mT, torch.eye(rows, dtype=x.dtype, device=x.device)
        for _ in range(steps):
            p = torch.baddbmm(s, s, s, beta=b, alpha=c)
            p.diagonal(dim1=-2, dim2=-1).add_(a)
            q, s = p @ q, p @ s @ p
        x = q @ x
    else:
        for _ in range(steps):
            s = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(g.shape)


def as_matrices(p: Tensor) -> Tensor | None:
    """A parameter as the matrices that it holds; None for a vector, and for matrices of one or two rows or columns.

    >>> [None if m is None else tuple(m.shape) for m in map(as_matrices, map(torch.ones, [(8,), (8, 4, 3, 3), (2, 8, 5), (1, 6)]))]
    [None, (8, 36), (2, 8, 5), None]
    """
    if p.ndim < 2:
        return None
    found = p if p.ndim == 3 else p.flatten(1)
    return found if min(found.shape[-2:]) > 2 else None


class Muon(Optimizer):
    """Muon for matrices and kernels, AdamW for all else.

    Args:
        betas, eps: of AdamW.
        momentum: μ, with Nesterov's look ahead.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-2,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    with torch.autocast(p.device.type, enabled=False):  # in bfloat16 the iteration leaves its band, and ends in NaN
                        (self._adam if as_matrices(p) is None else self._muon)(p, p.grad, self.state[p], group)
        return loss

    @staticmethod
    def _muon(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(p)
        m = state["momentum"].mul_(group["momentum"]).add_(g)
        matrices = as_matrices(g.add(m, alpha=group["momentum"]))
        assert matrices is not None
        update = orthogonalise(matrices).masked_fill_(matrices == 0, 0)  # what never had a gradient is masked, and stays zero
        p.add_(update.reshape(p.shape), alpha=-0.2 * math.sqrt(max(matrices.shape[-2:])) * group["lr"])

    @staticmethod
    def _adam(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        state["step"] += 1
        first, second = group["betas"]
        mean, square = state["mean"].lerp_(g, 1 - first), state["square"].mul_(second).addcmul_(g, g, value=1 - second)
        scale = (square / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
        p.addcdiv_(mean, scale, value=-group["lr"] / (1 - first ** state["step"]))


def make_optimizer(module: nn.Module, spec: OptimizerSpec, slow: tuple[nn.Module, float] | None = None) -> Optimizer:
    """The optimizer that a specification names, over the trainable parameters of a module; those of `slow` are a group with "scale"."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    cls = Muon if spec.name == "Muon" else getattr(torch.optim, spec.name)
    options: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay}
    if spec.name in ("Muon", "AdamW", "Adam"):
        options["betas"] = spec.betas
    if spec.name in ("AdamW", "Adam") and all(p.device.type == "cpu" for p in parameters):
        options["fused"] = True  # one pass over a parameter in the place of nine
    if slow is None:
        return cls(parameters, **options)
    part, scale = slow
    theirs = {id(p) for p in part.parameters()}
    groups = [([p for p in parameters if id(p) not in theirs], 1.0), ([p for p in parameters if id(p) in theirs], scale)]
    return cls([{"params": found, "scale": factor, "lr": spec.lr * factor} for found, factor in groups if found], **options)  # type: ignore[arg-type]
