"""`pofx models`: what exists, what it can tell, and what it accepts."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from pofx import catalog
from pofx.cli.common import Answer, Common, Flag, table
from pofx.names import kebab

# Capabilities as column heads that fit a terminal; one that is not listed is shown by its own name.
HEADS = {
    "ExactLikelihood": "exact p(x)",
    "Autoregressive": "step by step",
    "Codable": "compress",
    "LowerBound": "bound",
    "LatentVariable": "latent z",
    "Sampler": "sample",
}


def models(
    *,
    tree: Annotated[Flag, Parameter(help="The taxonomy instead; what is not built yet is in grey.")] = False,
    here: Annotated[
        str | None, Parameter(help="A model: where it stands in the taxonomy, what it can tell, its paper and its file.")
    ] = None,
    common: Common = Common(),
) -> Answer:
    """What each model can tell and accepts."""
    if here is not None:
        return _here(here)
    return Answer(catalog.taxonomy().to_json(), lambda console: console.print(drawn_tree())) if tree else _table()


def _here(name: str) -> Answer:
    from pofx.model import capabilities

    cls = catalog.get(name)
    name = catalog.name_of(cls)
    can, file = capabilities(cls), f"{cls.__module__.replace('.', '/')}.py"
    facts = {"model": name, "class": cls.__name__, "family": list(cls.family), "capabilities": can, "paper": cls.paper, "file": file}

    def draw(console: Any) -> None:
        console.print(drawn_tree(name))
        console.print(f"\ncan    {', '.join(HEADS.get(c, c.lower()) for c in can)}\npaper  {cls.paper}\nfile   {file}")

    return Answer(facts, draw)


def drawn_tree(here: str | None = None) -> Any:
    """The taxonomy as rich draws it; with a sign at a model."""
    from rich.tree import Tree

    def grow(node: Any, branch: catalog.Branch) -> None:
        for leaf in branch.leaves:
            label = f"{leaf.class_name}  (pofx train {leaf.name})" if leaf.built else f"{leaf.class_name}  (not yet)"
            sign = "  ← you are here" if leaf.name == here else ""
            node.add(label + sign, style="bold" if sign else "" if leaf.built else "bright_black")
        for name, below in branch.branches.items():
            grow(node.add(name), below)

    root = Tree("models of images")
    grow(root, catalog.taxonomy())
    return root


def _table() -> Answer:
    from pofx.model import CAPABILITIES, capabilities
    from pofx.views import View

    views = {kebab(name): cls for name, cls in catalog.settings().items() if issubclass(cls, View)}
    heads = {c: HEADS.get(c, c.lower()) for c in CAPABILITIES}
    found: dict[str, dict[str, Any]] = {}
    wide = table("model", *heads.values(), "levels", "from", "given")
    narrow = table("model", "can", "levels", "from", "given")
    remarks: list[str] = []
    for name, cls in catalog.models().items():
        refused = {view: why for view, view_class in views.items() for base, why in cls.refuses.items() if issubclass(view_class, base)}
        given = [view for view in views if view not in refused]
        can = capabilities(cls)
        found[name] = {
            "class": cls.__name__,
            "family": list(cls.family),
            "paper": cls.paper,
            "capabilities": can,
            "levels": list(cls.accepts_levels),
            "smallest": list(cls.smallest),
            "given": given,
            "refuses": refused,
        }
        accepts = (
            "–".join(map(str, cls.accepts_levels)),
            "×".join(map(str, cls.smallest)),
            "any" if not refused else " ".join(given) or "none",
        )
        wide.add_row(name, *("●" if c in can else "·" for c in CAPABILITIES), *accepts)
        narrow.add_row(name, ", ".join(heads[c] for c in can), *accepts)
        for why in dict.fromkeys(refused.values()):
            which = ", ".join(view for view in refused if refused[view] == why)
            remarks.append(f"{name} takes no --given{f' {which}' if given else ''}: {why}")
    legend = f"--given is one of: {', '.join(views)}. Settings of a model: pofx train MODEL --help"

    def draw(console: Any) -> None:
        fits = wide.__rich_measure__(console, console.options.update(max_width=1000)).maximum <= console.width
        for part in (wide if fits else narrow, "", *remarks, legend):
            console.print(part)

    return Answer({"models": found}, draw)
