"""`pofx equilibrium --p DENSITY --q DENSITY -o equilibrium.html`: its flags, and those of the loss, read from the source."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from cyclopts import Group, Parameter

from pofx import signatures
from pofx.cli.common import Answer, Common, Flag, table

if TYPE_CHECKING:
    from pofx.tasks.equilibrium import Equilibrium


def equilibrium(
    *,
    p: str | None = None,
    q: str | None = None,
    points: Path | None = None,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    animation: Path | None = None,
    exact: Flag = False,
    critic_steps: int | None = None,
    smoothing: float | None = None,
    steps: int = 2000,
    lr: float = 4e-3,
    seed: int = 0,
    common: Common = Common(),
) -> Answer:
    """The game of a GAN on densities that are known: V against V*, D against D*.

    Without --exact a small generator and a small critic play the game, the generator starting as q. Densities are written as normal(mean, sd),
    uniform(low, high), and of two numbers normal2(mx, my, sd), ring(k, radius, sd), grid(k, spacing, sd); weighted sums of them too.

    Args:
        p: density of the data; normal(0, 1) by default.
        q: density to compare it with, where the generator starts: one normal, or with --exact any; by default a normal beside p.
        points: in the place of --p: a .csv or .npy with a point (one or two numbers) in each row; p is then their kernel density (of
            1,000 of them, evenly spaced, where there are more).
        out: a .html page.
        animation: the game as .gif, or .png (APNG, in more colours).
        exact: no game: only what quadrature gives.
        critic_steps: critic steps for one of the generator; 3 by default, 5 for Wasserstein losses.
        smoothing: s of one-sided label smoothing: reals are called real with 1 − s only.
        steps: of the generator.
        lr: learning rate of both players.
        seed: of weights, data and z.
    """
    return run({}, p=p, q=q, points=points, out=out, animation=animation, exact=exact, critic_steps=critic_steps, smoothing=smoothing,
               steps=steps, lr=lr, seed=seed, common=common)  # fmt: skip


def run(
    chosen: dict[str, Any],
    *,
    p: str | None,
    q: str | None,
    points: Path | None,
    out: Path | None,
    smoothing: float | None,
    common: Common,
    **more: Any,
) -> Answer:
    """`equilibrium` with a loss as `signatures.gather` returns it."""
    from pofx import catalog
    from pofx.workflows import equilibrium as workflow

    loss = catalog.arguments_from_json(chosen).get("loss")
    with common.progress("playing") as progress:
        made = workflow.equilibrium(p, q, out, points=points, loss=loss, smoothing=smoothing, say=common.note, progress=progress, **more)
    facts = made.to_json() | {
        "out": None if out is None else str(out),
        "animation": None if more["animation"] is None else str(more["animation"]),
    }
    shown = [f"p = {made.exact.p}, q = {made.exact.q}", "", _exact(made.exact)]
    if made.game is not None:
        last, name = made.game.last, type(made.game.loss).__name__
        shown += ["", f"{name}, {made.game.steps:,} steps of the generator, {made.game.critic_steps} of the critic for each:", ""]
        rows = table("in the end", "nats", right=("nats",))
        if last.value is not None:
            rows.add_row("V(D), of the learned critic", f"{last.value:.4f}")
        rows.add_row("V*, of the generator's density", f"{last.best:.4f}")
        if last.gap is not None:
            rows.add_row("V* − V(D)", f"{last.gap:.4f}")
        shown += [rows]
        if last.transport is not None:
            near = "" if last.w1 is None else f"; it is {last.w1:.4f}"
            shown += [f"The critic shows that the Wasserstein-1 distance is at least {last.transport:.4f}{near}."]
        if made.game.lost:
            shown += [f"The game has not arrived: {made.game.lost}"]
    return Answer(facts, [*shown, "", str(out) if out else "Add -o equilibrium.html for the page."])


def _exact(found: Equilibrium) -> Any:
    rows = table("exact", "", right=("",))
    rows.add_row("V* = −log 4 + 2 JSD", f"{found.value:.6f} nats")
    rows.add_row("JSD", f"{found.jsd:.6f} nats")
    rows.add_row("KL(p ‖ q)", f"{found.kl_pq:.6f} nats")
    rows.add_row("KL(q ‖ p)", f"{found.kl_qp:.6f} nats")
    rows.add_row("Wasserstein-1", found.w1_note if found.w1 is None else f"{found.w1:.6f}")
    if found.smoothing:
        rows.add_row(f"V(D*) with smoothing {found.smoothing:g}", f"{found.smoothed_value:.6f} nats")
    return rows


def command(tokens: Sequence[str]) -> Callable[..., Answer]:
    """`equilibrium` with --loss and the settings of the losses."""
    setting = signatures.loss_setting()
    group = Group("The loss", sort_key=4)
    own = {}
    for flag, hint, default, text in signatures.flags((setting,)):
        shown = default if default not in (None, "none") else False
        own[flag.replace(".", "__")] = (
            flag,
            Annotated[hint, Parameter(name=f"--{flag}", group=group, help=text or None, show_default=shown), signatures.Unchecked()],
        )
    base, hints = inspect.signature(equilibrium), get_type_hints(equilibrium, include_extras=True)
    defaults = {key: p.default for key, p in base.parameters.items()}

    def specific(**values: Any) -> Answer:
        typed = {flag: values[key] for key, (flag, _) in own.items() if values.get(key, signatures.UNSET) is not signatures.UNSET}
        if typed and "loss" not in typed:
            typed["loss"] = "non-saturating"
        return run(signatures.game_loss(typed), **(defaults | {key: value for key, value in values.items() if key not in own}))

    parameters = [p.replace(annotation=hints[key]) for key, p in base.parameters.items()]
    parameters += [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=signatures.UNSET, annotation=hint) for key, (_, hint) in own.items()
    ]
    specific.__signature__ = inspect.Signature(parameters)
    specific.__annotations__ = {p.name: p.annotation for p in parameters}
    specific.__doc__ = equilibrium.__doc__
    return specific
