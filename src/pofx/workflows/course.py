"""Questions that notes on generative models leave open, and slips that they make: each with an answer, a command, and a check that is computed.

The checks are in `_course_checks.py`. Nothing here is a stored number: an answer that did not hold would say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pofx.errors import InputError, nearest
from pofx.model import Progress
from pofx.tasks._files import check_out
from pofx.workflows import _course_checks as checks
from pofx.workflows import _course_figures as figures
from pofx.workflows import _page as html
from pofx.workflows._course_checks import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["question", "slip", "panel"]
HEADS: dict[Kind, str] = {"question": "Questions that notes leave open", "slip": "Where notes slip", "panel": "Small exact panels"}
SUFFIXES = (".html", ".png")
ALL = "all"


@dataclass(frozen=True)
class Entry:
    """
    Attributes:
        key: what it is called on the command line.
        title: the question, or what notes say.
        answer: in a few sentences.
        command: where to see more of it.
        check: computes the numbers.
        figure: draws them; None where there is nothing to draw.
    """

    key: str
    kind: Kind
    title: str
    answer: str
    command: str
    check: Callable[[], Finding]
    figure: Callable[[], Figure] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "kind": self.kind, "title": self.title, "answer": self.answer, "command": self.command}


@dataclass(frozen=True)
class Answered:
    """An entry and what its check found."""

    entry: Entry
    finding: Finding

    def to_json(self) -> dict[str, Any]:
        f = self.finding
        return self.entry.to_json() | {"numbers": dict(f.numbers), "holds": f.holds, "said": f.said}


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "diagonals", "question", "Where does 2N − 1 come from?",
        "An image of N×N has 2N − 1 diagonals, and the Diagonal BiLSTM takes one at a time: all that a pixel of diagonal t reads lies on diagonal t − 1. "
        "The paper moves each row one place further right than the row above, so that diagonals stand upright: a map N wide becomes 2N − 1 wide, and "
        "N² steps become 2N − 1.",
        "pofx train pixelrnn digits --kind diagonal --out runs/diagonal --minutes 1", checks.diagonals,
    ),
    Entry(
        "parameters", "question", "Where does 2^N − 1 come from?",
        "N binary pixels have 2^N images, and a table needs a probability for each; they sum to 1, which leaves 2^N − 1 free. The chain rule alone saves "
        "nothing: 1 + 2 + … + 2^(N−1) is the same number. What saves is to write each conditional with few weights: N(N+1)/2 in a fully visible belief "
        "network.",
        "pofx train fvbn mnist:threshold --out runs/fvbn --minutes 1", checks.free_numbers,
    ),
    Entry(
        "dimension", "question", "Why reduce the dimension?",
        "Because images use few of the directions that their pixels offer: what is common to pixels can be said once. Where pixels have nothing in "
        "common there is nothing to reduce, and a code of fewer numbers only loses.",
        "pofx train autoencoder digits --latents 8 --out runs/autoencoder --minutes 1", checks.fewer_dimensions, figures.directions_figure,
    ),
    Entry(
        "bound", "question", "Why this bound?",
        "log p(x) is an integral over z that no grid can hold, and draws from the prior miss the few z that explain x. L needs z from q(z|x) only, has "
        "gradients, and loses exactly KL(q ‖ p(z|x)): whatever raises it raises log p(x) or makes q a better posterior.",
        "pofx bound digits:test#3 -o bound.html", checks.this_bound,
    ),
    Entry(
        "posterior", "question", "One μ, σ per image or per batch?",
        "Per image. The encoder is a function of x, and q(z|x) is its answer for that x; a batch is only how many are asked at once.",
        "pofx encode runs/vae digits:test -o codes.parquet", checks.one_for_each_image,
    ),
    Entry(
        "latent", "question", "How is a latent picked so that it means something?",
        "By the likelihood it is not: z and any rotation of z give the same p(x). A diagonal q is what prefers some axes, those in which the true "
        "posterior is diagonal, and dimensions that do not pay for their KL are left at the prior. Meaning beyond that needs labels or structure "
        "(Locatello et al. 2019).",
        "pofx traverse runs/vae -o dimensions.png", checks.picked_latents,
    ),
    Entry(
        "optimum", "question", "Does the optimum give p = q?",
        "If the generator can be any density, yes: V* = −log 4 + 2 JSD(p, q) is least at q = p, and there only. If it cannot, the optimum is the "
        "nearest q that it can be, by the divergence that the game stands for; and training may stop before either.",
        'pofx equilibrium --p "normal(0,1)" --q "normal(0,1)" --exact', checks.optimum,
    ),
    Entry(
        "squared-error", "question", "Why is a squared error a likelihood?",
        "−log N(x; x̂, ½I) = ‖x − x̂‖² + D/2 · log π. The constant has no gradient, so that least squares is maximum likelihood of a Gaussian of fixed "
        "variance given z. It is no p(x), and no likelihood of whole-numbered pixels.",
        "pofx train autoencoder digits --out runs/autoencoder --minutes 1", checks.least_squares, figures.squares_figure,
    ),
    Entry(
        "implicit", "slip", "“An autoencoder is an implicit density model”",
        "An implicit density is one that can be drawn from and not evaluated. A plain autoencoder has no prior over its codes: there is nothing to "
        "draw from. Its place in the taxonomy is “without density”.",
        "pofx models --tree", checks.no_density,
    ),
    Entry(
        "deterministic", "slip", "“The z of an autoencoder is discrete”",
        "It is deterministic: one x, one z. Its values are real numbers. Discrete codes are those of another model (VQ-VAE).",
        "pofx encode runs/autoencoder digits:test -o codes.csv", checks.deterministic,
    ),
    Entry(
        "dropped-kl", "slip", "“The third term is dropped because it is small”",
        "KL(q(z|x) ‖ p(z|x)) cannot be computed, and it is at least 0: what is left without it is a lower bound. It may be large.",
        "pofx bound digits:test#3", checks.dropped_term,
    ),
    Entry(
        "prior-samples", "slip", "“The decoder's images are reconstructions”",
        "A reconstruction decodes a z that was read from x. A sample decodes a z of the prior and has no x that it should be like. Good ones of the "
        "first kind say little about the second: the prior may have holes where no image has taught the decoder.",
        "pofx reconstruct runs/vae digits:test -o reconstructed.png", checks.prior_samples,
    ),
    Entry(
        "last-step", "slip", "“In training the decoder samples x̂ from p(x|z)”",
        "In training its last step is log p(x|z) of the pixels that are there, a likelihood. Pixels are drawn only when images are generated; a draw "
        "would have no gradient.",
        "pofx train vae digits --out runs/vae --minutes 1", checks.last_step,
    ),
    Entry(
        "mixture", "panel", "A discretized mixture of logistics: bins that sum to 1",
        "A density is cut at the edges between levels, and the outer bins reach to infinity: whatever the means and scales, the bins sum to 1.",
        "pofx train pixelcnn-pp digits --likelihood logistic-mixture --out runs/mixture --minutes 1", checks.bins, figures.mixture_figure,
    ),
    Entry(
        "jacobian", "panel", "Masks and receptive fields, as a Jacobian",
        "The derivative of log p(x_i | x_<i) by every pixel is exactly 0 outside of the past: that is what a mask is for. Inside, it shows what the model "
        "looked at.",
        "pofx sample runs/digits --trace -o trace.gif", checks.masks, figures.jacobian_figure,
    ),
    Entry(
        "reparameterization", "panel", "Reparameterization, with ε held fixed",
        "z = μ + σε moves smoothly with μ and σ while ε stays. The derivative passes through z, and its mean is the gradient of the mean.",
        "pofx bound digits:test#3 -o bound.html", checks.held_fixed, figures.reparameterization_figure,
    ),
    Entry(
        "bayes", "panel", "Bayes' rule as tables",
        "All 16 binary images of 2×2 and two labels: p(x|y) p(y) = p(x, y) = p(y|x) p(x) in each cell.",
        "pofx mass -o mass.html", checks.every_cell, figures.bayes_figure,
    ),
)  # fmt: skip


def entry(key: str) -> Entry:
    """One of them by its key; InputError where there is none."""
    for e in ENTRIES:
        if e.key == key:
            return e
    raise InputError(f"There is no {key!r} in the course. {nearest(key, [e.key for e in ENTRIES])} See: pofx course")


def course(key: str = ALL, out: str | Path | None = None, *, progress: Progress | None = None) -> tuple[Answered, ...]:
    """Answer one question, or all.

    Args:
        key: of an entry, or "all".
        out: a .html page; of one entry that is drawn, also a .png.
        progress: called with (done, total).

    Raises:
        InputError: no such key; another file ending; nothing to draw.

    >>> (found,) = course("parameters")
    >>> found.finding.holds, found.finding.numbers["2^9 − 1"]
    (True, 511)
    """
    one = None if key == ALL else entry(key)
    asked = ENTRIES if one is None else (one,)
    figure = None if one is None else one.figure
    target = None if out is None else check_out(out, SUFFIXES)
    if target is not None and target.suffix.lower() == ".png" and figure is None:
        drawn = ", ".join(e.key for e in ENTRIES if e.figure is not None)
        raise InputError(
            f"{key} has no one figure; those of {drawn} have. The page: pofx course {key} -o {Path(str(out)).with_suffix('.html')}"
        )
    found = []
    for i, e in enumerate(asked):
        found.append(Answered(e, e.check()))
        if progress is not None:
            progress(i + 1, len(asked))
    if target is not None:
        html.put(target, figure, lambda: render(found))
    return tuple(found)


def shown(value: Any) -> str:
    """A number of a finding for people."""
    if isinstance(value, float):
        return f"{value:.3g}" if value and abs(value) < 1e-4 else f"{value:.6f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else str(value)


def render(found: Sequence[Answered]) -> str:
    """The page as HTML."""
    body = []
    for kind, head in HEADS.items():
        parts = []
        for a in found:
            if a.entry.kind != kind:
                continue
            parts += [f"<h3>{escape(a.entry.title)}</h3>", html.paragraph(a.entry.answer)]
            parts.append(html.flag(f"{'Computed' if a.finding.holds else 'It does not hold'}: {a.finding.said}", alarm=not a.finding.holds))
            if a.entry.figure is not None:
                with html.inked():
                    parts.append(html.drawing(a.entry.figure()))
            parts += [
                html.table(["", ""], [[name, shown(v)] for name, v in a.finding.numbers.items()], text=(0,)),
                html.code(a.entry.command),
            ]
        body.append(html.section(head, *parts))
    return html.page("The course", "Each number on this page was computed when it was made.", body)
