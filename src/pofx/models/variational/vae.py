"""Variational autoencoder (Kingma and Welling 2014; Rezende, Mohamed and Wierstra 2014).

    p(x) = ∫ p(x|z) N(z; 0, I) dz,   q(z|x) = N(z; μ(x), diag σ²(x)),   z = μ + σ ⊙ ε
    log p(x) ≥ L(x) = E_q[log p(x|z)] − KL(q(z|x) ‖ N(0, I)),   KL = ½ Σ_j (μ_j² + σ_j² − 1 − log σ_j²)

p(x|z) is a distribution over the integers themselves (`likelihoods.py`), so L bounds the probability mass of the image. The bound, its
importance-weighted form and the training are those of `nn/variational.py`; here are only the two nets, of `nn/coding.py`.

Differences from the papers: SiLU in place of tanh; KL is warmed up over the first part of training (Bowman et al. 2016), but every number
that leaves the model is at β = 1. With importance_samples = k it is the importance-weighted autoencoder (Burda et al. 2016); with
likelihood="gaussian" and scale="pixel" the decoder is the original's, a mean and a diagonal covariance of x given z; scale="shared" learns
one variance for all, scale="optimal" takes the best one for the training set (Rybkin et al. 2021, σ-VAE), which is stored.
"""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from pofx.likelihoods import normalised
from pofx.model import Gaussian
from pofx.nn import coding
from pofx.nn.coding import Network
from pofx.nn.variational import Draw, Explanation, LikelihoodName, Scale, Variational
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View

# Images a step: no worse for the same minutes than fewer, and sooner an epoch (docs/variational.md)
BATCHES: dict[Network, int] = {"mlp": 256, "convolutional": 128, "residual": 64}


class VAE(Variational):
    """VAE with a diagonal Gaussian posterior, a unit Gaussian prior and a likelihood on integers.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        latents: dimensions of z; by default 32, or as many as the image has numbers.
        network: "mlp", "convolutional" or "residual".
        channels: width of convolutions.
        stages: halvings of the image in a residual net; they drop out below size 2.
        hidden: units of each hidden layer of an mlp.
        layers: hidden layers of an mlp (0: linear), or convolutions.
        likelihood: "auto" is Bernoulli for 2 levels, otherwise the discretized logistic.
        components: of a logistic mixture.
        scale: of a Gaussian or logistic likelihood: "pixel" is said by the decoder for each sub-pixel, "shared" is one learned number per
            channel, "optimal" the one that suits the training set best.
        dropout: share of hidden activations dropped in training.
        beta: weight of the KL term in training.
        free_bits: nats that each latent dimension may cost without being pushed down.
        kl_warmup: share of training over which the weight of the KL term rises from 0 to beta.
        importance_samples: draws of z per image in training; above 1 the objective is that of the IWAE.
        lr: learning rate (of AdamW for an mlp of two levels, of Muon otherwise).

    Raises:
        InputError: no latents, or more than the image has numbers; a likelihood that does not fit the levels; numbers out of range.

    >>> model = VAE.small(ImageSpace(1, 4, 4, levels=2))
    >>> model.elbo(model.sample(3)).shape
    torch.Size([3])
    """

    family: ClassVar = ("explicit", "approximate", "variational")
    paper: ClassVar = "Kingma and Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114"

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        latents: int | None = None,
        network: Network = "residual",
        channels: int = 64,
        stages: int = 3,
        hidden: int = 200,
        layers: int = 2,
        likelihood: LikelihoodName = "auto",
        components: int = 5,
        scale: Scale = "pixel",
        dropout: float = 0.0,
        beta: float = 1.0,
        free_bits: float = 0.0,
        kl_warmup: float = 0.1,
        importance_samples: int = 1,
        lr: float = 3e-3,
    ) -> None:
        self.latent_dims = min(32, space.dims) if latents is None else latents
        coding.check_network(
            "VAE", network, latents=self.latent_dims, hidden=hidden, layers=layers, channels=channels, stages=stages, dims=space.dims
        )
        super().__init__(
            space,
            given,
            context=hidden if network == "mlp" else channels,
            likelihood=likelihood,
            components=components,
            scale=scale,
            dropout=dropout,
            beta=beta,
            free_bits=free_bits,
            kl_warmup=kl_warmup,
            importance_samples=importance_samples,
            lr=lr,
        )
        self.latents, self.network = latents, network
        self.channels, self.stages, self.hidden, self.layers = channels, stages, hidden, layers
        self.batch_size = max(64, BATCHES[network] // importance_samples)
        if network == "mlp" and space.levels == 2:  # Muon would be most of a step; of more levels it is worth that: docs/variational.md
            self.optimizer = "AdamW"
        width = {"channels": channels, "stages": stages, "hidden": hidden, "layers": layers}
        self.encoder = coding.encoder(network, space, self.context, outputs=2 * self.latent_dims, **width)
        self.decoder = coding.decoder(network, space, self.context, latents=self.latent_dims, outputs=self.head.size, **width)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, latents=2, channels=8, stages=1)

    def read(self, x: Tensor, context: Tensor | None, noise: Noise | None) -> tuple[Tensor, ...]:
        out = self.encoder(normalised(x, self.space.levels, self.dtype), context, noise, self.dropout)
        return out.to(self.dtype).chunk(2, 1)  # the KL in full precision where the net ran in bf16

    def infer(self, read: tuple[Tensor, ...], draw: Draw, context: Tensor | None, noise: Noise | None) -> Explanation:
        q = Gaussian(*read)
        z = draw(q)
        return Explanation(q, z, lambda: self.decoder(z, context, noise, self.dropout))

    def generate(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.decoder(z, context)

    def first_layer(self, z: Tensor) -> Tensor:
        return self.decoder.first(z.to(self.device, self.dtype))
