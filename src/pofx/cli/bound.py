"""`pofx bound [RUN] IMAGE -o bound.html`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, load_model, run_info, table
from pofx.cli.interpolate import one_image
from pofx.errors import InputError


def bound(
    run: str,
    image: str | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    others: str | None = None,
    decoders: Flag = False,
    seed: int = 0,
    draws: int = 20_000,
    gradient_draws: int = 4_000,
    points: int = 2_000_000,
    limit: int = 1000,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """What a variational bound loses on one image, exactly.

    log p(x) = ELBO + KL(q ‖ p(z|x)), each computed by quadrature, for models with one or two latents. The page also shows why the integral
    is intractable with more, how the reparameterized gradient compares with the score function, and where the run lies in the plane of
    rate and distortion.

    Args:
        run: a run folder or a Hub id; left out, a small VAE with two latents is trained on digits for some seconds.
        image: an image file, or DATA#index, e.g. digits:test#3.
        out: a .html page, or a .png with the first figure.
        others: more runs of the same images for the plane of rate and distortion, e.g. runs/beta2,runs/beta4.
        decoders: also train small decoders of 1 to 32 latents on digits (a minute, once) and show naive Monte Carlo on them.
        seed: of the draws of z.
        draws: of z for the importance-weighted estimates.
        gradient_draws: of z for each gradient estimator.
        points: evaluations of the decoder that one integral may take.
        limit: test images in the aggregate posterior.
    """
    import torch

    from pofx.workflows import bound as workflow
    from pofx.workflows.rate_distortion import training_path

    if image is None:
        name, image = "a small VAE", run
        folder, model = workflow.tiny(say=common.note)
        run = str(folder)
        common.note(f"RUN was left out: a small VAE with two latents, trained on digits, stands in for it ({run}).")
    else:
        name, model = run, load_model(run, common)
    info = run_info(run)
    x, y = one_image(image, model, run, data_flags, common).take(torch.tensor([0]))
    given = model.batch(x, y).given
    try:
        images = info.load_data(common.note).test
    except InputError as error:
        images = None
        common.note(f"no aggregate posterior, no plane of rate and distortion: {error}")
    more = [] if others is None else [other.strip() for other in others.split(",") if other.strip()]
    loaded = [(other, load_model(other, common)) for other in more]
    paths = {key: training_path(Path(folder) / "metrics.csv") for key, folder in [(name, run), *((other, other) for other in more)]}
    with common.progress("integrating") as progress:
        made = workflow.bound(
            model,
            x,
            given,
            out,
            name=name,
            image=image,
            images=images,
            others=loaded,
            paths=paths,
            decoders=decoders,
            seed=seed,
            draws=draws,
            gradient_draws=gradient_draws,
            points=points,
            limit=limit,
            say=common.note,
            progress=progress,
        )
    facts = made.to_json() | {"run": run, "out": None if out is None else str(out)}
    parts = made.found.parts
    shown = table("", "nats", "", right=("nats",))
    shown.add_row("log p(x)", f"{parts.log_prob:.6f}", "by quadrature")
    for e in reversed(made.found.weighted):
        shown.add_row(f"E[L_{e.k}]", f"{e.mean:.4f}", f"± {e.se:.4f}, {e.n:,} repeats")
    shown.add_row("ELBO", f"{parts.elbo:.6f}", "by quadrature")
    shown.add_row("KL(q ‖ p(z|x))", f"{parts.kl_posterior:.6f}", "by quadrature")
    shown.add_row("KL(q ‖ N(0, I))", f"{parts.kl_prior:.6f}", "by quadrature")
    head = f"{image}: log p(x) = ELBO + KL(q ‖ p(z|x)), residual {parts.residual:.1e} nats"
    return Answer(facts, [head, "", shown, "", str(out) if out else "Add -o bound.html for the page."])
