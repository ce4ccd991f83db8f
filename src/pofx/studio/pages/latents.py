"""Move through latent space: a point on a plane of two dimensions, sliders, a path between two images, and attributes by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from pofx.errors import InputError
from pofx.studio.board import Board, canvas
from pofx.studio.parts import choose_run, chosen, command, figure, one_of, pixels, same, status, told, view_value
from pofx.studio.shelf import Shelf, Wanted

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pofx.model import Decoder
    from pofx.tasks.edit import Direction

ORDER = 3
TITLE = "Latent space"
ABOUT = """A decoder makes an image of every point z. **Drag** the point over the plane of two dimensions (arrow keys move it too), or move one dimension at a
time; take an image or a sample as the start, slide between two images, or add an attribute. Images of a GAN have codes by inversion, which is approximate
and takes seconds."""

ROWS, COLUMNS = 6, 7  # sliders, and thumbnails of each
REACH = 3.0  # standard deviations to each side
PLANE = 9  # images to a side
ATTRIBUTES = 6
MEASURED = 500  # images over which the use of dimensions is measured


@dataclass(frozen=True, eq=False)
class Spot:
    """Where a person is in the latent space of a run.

    Attributes:
        z: `(latent_dims,)` float64; `center` and `scale` of its dimensions: those of the prior, or of the codes.
        dims: the dimensions of the sliders, the most used first; axes: those of the plane.
        strengths: what is added, by the name of the attribute.
        start: a point that was marked, or None.
        codes: of images that were looked up, by number.
    """

    run: str
    z: Tensor
    center: Tensor
    scale: Tensor
    dims: tuple[int, ...]
    axes: tuple[int, int]
    label: int = 0
    strengths: dict[str, float] = field(default_factory=dict)
    start: Tensor | None = None
    codes: dict[int, Tensor] = field(default_factory=dict)

    def of(self, dim: int) -> float:
        """A coordinate in standard deviations."""
        return float((self.z[dim] - self.center[dim]) / self.scale[dim])

    def moved(self, **to: float) -> Spot:
        """With some coordinates at other places, in standard deviations: `moved(d3=1.5)`."""
        z = self.z.clone()
        for name, value in to.items():
            dim = int(name[1:])
            z[dim] = self.center[dim] + self.scale[dim] * value
        return replace(self, z=z)


def decoded(model: Decoder, spot: Spot, z: Tensor, known: dict[str, Direction]) -> Tensor:
    """E[x | z + attributes] of codes `(m, d)`, as uint8 `(m, C, H, W)` of 256 levels."""
    import torch

    from pofx import pictures
    from pofx.tasks._decoding import means, repeated

    step = sum((s * known[name].tensor for name, s in spot.strengths.items() if name in known), torch.zeros(z.shape[1], dtype=torch.double))
    codes = (z + step).to(model.dtype)
    value = repeated(view_value(model, spot.label), len(codes))
    return torch.from_numpy(pictures.shades(means(model, codes, value, size=len(codes)), model.space.levels - 1))


def one_picture(model: Decoder, spot: Spot, known: dict[str, Direction]) -> str:
    from PIL import Image

    from pofx import pictures
    from pofx.tasks._decoding import decodes_to

    return figure(
        Image.fromarray(pictures.rgb(decoded(model, spot, spot.z[None], known))[0]), decodes_to(model).replace("means", "mean"), side=320
    )


def plane(model: Decoder, spot: Spot, known: dict[str, Direction]) -> Image:
    """Images over the plane of two dimensions, the others as they are; the largest second coordinate is at the top."""
    import torch

    from pofx import pictures

    i, j = spot.axes
    at = torch.linspace(-REACH, REACH, PLANE, dtype=torch.double)
    z = spot.z.repeat(PLANE, PLANE, 1)
    z[:, :, i] = spot.center[i] + spot.scale[i] * at
    if j != i:
        z[:, :, j] = spot.center[j] + spot.scale[j] * at.flip(0)[:, None]
    return pictures.grid(decoded(model, spot, z.flatten(0, 1), known), columns=PLANE, scale=1, pad=0)


def board(spot: Spot, src: str) -> Board:
    x, y = (min(max((spot.of(dim) + REACH) / (2 * REACH), 0.0), 0.999) for dim in spot.axes)
    return Board(src, PLANE, PLANE, point=(x, 1 - y))


def build(shelf: Shelf) -> None:
    choice = choose_run(shelf, Wanted(("Decoder",), "be moved through its latent space"))
    with gr.Row(equal_height=False, elem_classes="stage"):
        with gr.Column(scale=1, min_width=330):
            stage = canvas("point", "The plane of two latent dimensions: drag the point", elem_id="plane")
            with gr.Row():
                across = gr.Dropdown([], label="Left to right", min_width=80, elem_id="across")
                up = gr.Dropdown([], label="Bottom to top", min_width=80)
        with gr.Column(scale=1, min_width=330):
            picture = pixels(height=345)
            where = gr.Markdown("", elem_classes="status", elem_id="where")
    error = status()
    with gr.Row():
        number = gr.Number(0, label="Number", precision=0, minimum=0, min_width=80)
        label = gr.Number(0, label="Class (a run given label)", precision=0, minimum=0, min_width=80)
        from_image = gr.Button("Start from this test image", min_width=120)
        from_sample = gr.Button("Start from this sample", min_width=120)
        origin = gr.Button("Start from the middle", min_width=120)
    with gr.Accordion("One dimension at a time, the most used first"):
        sliders, strips = [], []
        for _ in range(ROWS):
            with gr.Row(equal_height=True):
                sliders.append(gr.Slider(-REACH, REACH, 0, step=0.05, label="–", min_width=200))
                strips.append(pixels(height=48))
    with gr.Accordion("Between two images", open=True), gr.Row():
        first = gr.Number(0, label="From test image", precision=0, minimum=0, min_width=80)
        second = gr.Number(1, label="to test image", precision=0, minimum=0, min_width=80)
        t = gr.Slider(0, 1, 0, step=0.02, label="Way from the first to the second", min_width=200, elem_id="way")
    with gr.Accordion("Attributes: directions that have a name", open=False):
        nothing = gr.Markdown("", elem_classes="status")
        strengths = [gr.Slider(-REACH, REACH, 0, step=0.05, label="–", visible=False) for _ in range(ATTRIBUTES)]
        with gr.Row():
            mark = gr.Button("Mark this point as the start", min_width=120)
            name = gr.Textbox("", label="Name", max_lines=1, min_width=100, elem_id="direction")
            keep = gr.Button("Save the way from the start to here", min_width=120)
    hand = same()
    state = gr.State(None)

    def current(spot: Spot | None) -> Spot:
        if spot is None:
            raise InputError("Choose a run that decodes first.")
        return spot

    def known(spot: Spot) -> dict[str, Direction]:
        from pofx.tasks.edit import directions, fingerprint

        own = fingerprint(shelf.model(spot.run))
        return {key: found for key, found in directions(spot.run).items() if found.model == own}

    def line(spot: Spot) -> str:
        i, j = spot.axes
        return f"z{i} = {spot.of(i):+.2f}, z{j} = {spot.of(j):+.2f} standard deviations; |z| = {float(spot.z.norm()):.2f}, √d = {len(spot.z) ** 0.5:.2f}"

    def values(spot: Spot) -> list[Any]:
        return [gr.Slider(value=round(spot.of(dim), 2)) for dim in spot.dims] + [gr.skip()] * (ROWS - len(spot.dims))

    # A moved point: the image at once, and the plane where it changed. Outputs: state, canvas, picture, where, sliders
    moved = [state, stage, picture, where, *sliders]

    def shown(spot: Spot, src: str | None = None) -> tuple[Any, ...]:
        from pofx.workflows._page import data_uri

        with shelf.computing():
            model, names = shelf.model(spot.run), known(spot)
            image = one_picture(model, spot, names)  # type: ignore[arg-type]
            src = data_uri(plane(model, spot, names)) if src is None else src  # type: ignore[arg-type]
        return (spot, board(spot, src), image, line(spot), *values(spot))

    def opened(run: str | None, label: float) -> tuple[Any, ...]:
        import torch
        from PIL import Image

        from pofx import pictures
        from pofx.model import Decoder, Encoder, require
        from pofx.tasks._decoding import draws, has_prior
        from pofx.tasks.bulk import subset
        from pofx.tasks.encode import codes
        from pofx.tasks.traverse import traverse

        model = require(shelf.model(chosen(run)), Decoder, to="be moved through its latent space")
        given = view_value(model, label)
        images = subset(shelf.data(str(run)).test, MEASURED) if isinstance(model, Encoder) else None
        with shelf.computing():
            found = traverse(model, images, given=given, rows=ROWS, columns=COLUMNS, reach=REACH)
            d = model.latent_dims
            center, scale = torch.zeros(d, dtype=torch.double), torch.ones(d, dtype=torch.double)
            if images is not None and not has_prior(model):
                z = codes(model, images).double()
                center, scale = z.mean(0), z.std(0, correction=0).clamp(min=1e-6)
            start = center if isinstance(model, Encoder) else draws(model, [0])[0].double()
        axes = (found.dims[0], found.dims[min(1, len(found.dims) - 1)])
        spot = Spot(str(run), start.clone(), center, scale, found.dims, axes, int(label or 0))
        rows = []
        for k, dim in enumerate(found.dims):
            sheet = pictures.rgb(pictures.shades(found.x[k], model.space.levels - 1))
            rows.append(
                (
                    f"z{dim}: {float(found.activity[dim]):.3g} {found.unit.split(' ')[0]}",
                    Image.fromarray(sheet.transpose(1, 0, 2, 3).reshape(sheet.shape[1], -1, 3)),
                )
            )
        gone = ROWS - len(rows)
        bars = [gr.Slider(label=text, value=round(spot.of(dim), 2), visible=True) for (text, _), dim in zip(rows, found.dims, strict=True)]
        thumbnails = [figure(strip, side=max(strip.size) * max(1, 44 // strip.size[1]), alt=text) for text, strip in rows]
        choices = [(f"z{dim}", dim) for dim in (found.dims if d > 64 else range(d))]
        both = [gr.Dropdown(choices=choices, value=axis) for axis in axes]
        first_four = shown(spot)[:4]
        return (*first_four, *bars, *[gr.Slider(label="–", value=0)] * gone, *thumbnails, *[""] * gone, *both, *attributes(spot))

    def attributes(spot: Spot) -> list[Any]:
        names = list(known(spot))
        said = (
            ""
            if names
            else "None yet. Save one here, or learn one from labels: " + f"`pofx edit {spot.run} digits --learn three --labels 3`"
        )
        if len(names) > ATTRIBUTES:
            said = f"The first {ATTRIBUTES} of {len(names)}; all with `pofx edit {spot.run} IMAGES --add NAME=1`."
        bars = [gr.Slider(label=key, value=spot.strengths.get(key, 0), visible=True) for key in names[:ATTRIBUTES]]
        return [said, *bars, *[gr.Slider(visible=False)] * (ATTRIBUTES - len(bars))]

    def dragged(found: Any, spot: Spot | None) -> tuple[Any, ...]:
        spot, here = current(spot), Board.of(found)
        x, y = here.point or (0.5, 0.5)
        i, j = spot.axes
        to = spot.moved(**{f"d{j}": (1 - 2 * y) * REACH}).moved(**{f"d{i}": (2 * x - 1) * REACH})
        after, _, image, text, *bars = shown(to, here.src)
        return after, image, text, *bars

    def slid(spot: Spot | None, *bars: float) -> tuple[Any, ...]:
        spot = current(spot)
        to = spot.moved(**{f"d{dim}": value for dim, value in zip(spot.dims, bars, strict=False)})
        return shown(to)[:4]

    def turned(spot: Spot | None, i: int | None, j: int | None) -> tuple[Any, ...]:
        spot = current(spot)
        return shown(replace(spot, axes=(int(spot.axes[0] if i is None else i), int(spot.axes[1] if j is None else j))))

    def code(spot: Spot, i: int) -> tuple[Spot, Tensor]:
        """The code of a test image, kept for the next time."""
        import torch

        from pofx.data.part import Split
        from pofx.tasks.encode import encode

        if i not in spot.codes:
            test = shelf.data(spot.run).test
            one: Split = test.select(torch.tensor([one_of(test, i)]).numpy())
            with shelf.computing():
                z = encode(shelf.model(spot.run), one).z[0].double()
            spot = replace(spot, codes=spot.codes | {i: z})
        return spot, spot.codes[i]

    def at_image(spot: Spot | None, i: float, label: float) -> tuple[Any, ...]:
        spot, z = code(current(spot), int(i or 0))
        return shown(replace(spot, z=z, label=int(label or 0)))

    def at_sample(spot: Spot | None, i: float, label: float) -> tuple[Any, ...]:
        from pofx.tasks._decoding import draws

        spot = current(spot)
        return shown(replace(spot, z=draws(shelf.model(spot.run), [int(i or 0)])[0].double(), label=int(label or 0)))  # type: ignore[arg-type]

    def at_origin(spot: Spot | None, label: float) -> tuple[Any, ...]:
        spot = current(spot)
        return shown(replace(spot, z=spot.center.clone(), label=int(label or 0)))

    def between(spot: Spot | None, a: float, b: float, t: float) -> tuple[Any, ...]:
        import torch

        from pofx.tasks._decoding import has_prior
        from pofx.tasks.interpolate import lerp, slerp

        spot = current(spot)
        spot, first = code(spot, int(a or 0))
        spot, second = code(spot, int(b or 0))
        way = slerp if has_prior(shelf.model(spot.run)) and len(first) > 1 else lerp
        return shown(replace(spot, z=way(first, second, torch.tensor([t], dtype=torch.double))[0]))

    def added(spot: Spot | None, *bars: float) -> tuple[Any, ...]:
        spot = current(spot)
        names = list(known(spot))[:ATTRIBUTES]
        return shown(replace(spot, strengths={key: value for key, value in zip(names, bars, strict=False) if value}))

    def marked(spot: Spot | None) -> tuple[Any, ...]:
        spot = current(spot)
        return replace(spot, start=spot.z.clone()), "Marked. Move to where the attribute is, name it, and save it."

    def saved(spot: Spot | None, name: str) -> tuple[Any, ...]:
        from pofx.tasks.edit import Direction, check_name, fingerprint, save

        spot = current(spot)
        if spot.start is None:
            raise InputError("Mark a start first: the point without the attribute.")
        check_name(name.strip())
        way = spot.z - spot.start
        if not float(way.norm()) > 0:
            raise InputError("This is the point that was marked: move away from it first.")
        model = shelf.model(spot.run)
        save(
            spot.run,
            Direction(
                name.strip(), tuple(way.tolist()), "groups", (), (0, 0), None, None, fingerprint(model), "two points, by hand in the studio"
            ),
        )
        return spot, *attributes(spot)

    quick: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
    attribute_outputs = [nothing, *strengths]
    choice.run.change(
        told(4 + 2 * ROWS + 2 + 1 + ATTRIBUTES)(opened),
        [choice.run, label],
        [*moved, *strips, across, up, *attribute_outputs, error],
        show_progress="minimal",
    )
    stage.input(told(3 + ROWS)(dragged), [stage, state], [state, picture, where, *sliders, error], **quick)
    for slider in sliders:
        slider.input(told(4)(slid), [state, *sliders], [state, stage, picture, where, error], **quick)
    for axis in (across, up):
        axis.input(told(4 + ROWS)(turned), [state, across, up], [*moved, error], **quick)
    from_image.click(told(4 + ROWS)(at_image), [state, number, label], [*moved, error], show_progress="minimal")
    from_sample.click(told(4 + ROWS)(at_sample), [state, number, label], [*moved, error], show_progress="hidden")
    origin.click(told(4 + ROWS)(at_origin), [state, label], [*moved, error], show_progress="hidden")
    t.input(told(4 + ROWS)(between), [state, first, second, t], [*moved, error], **quick)
    for strength in strengths:
        strength.input(told(4 + ROWS)(added), [state, *strengths], [*moved, error], **quick)
    mark.click(told(2)(marked), [state], [state, nothing, error], show_progress="hidden")
    keep.click(told(2 + ATTRIBUTES)(saved), [state, name], [state, *attribute_outputs, error], show_progress="hidden")

    def by_hand(spot: Spot | None, a: float, b: float) -> tuple[str, str]:
        run = spot.run if spot else "RUN"
        data = shelf.card(run).json.get("data", {}).get("name", "digits") if spot else "digits"
        lines = [
            command("pofx", "traverse", run, "-o", "dimensions.png"),
            command("pofx", "interpolate", run, f"{data}:test#{int(a or 0)}", f"{data}:test#{int(b or 0)}", "-o", "strip.png"),
        ]
        if spot and spot.strengths:
            lines.append(
                command(
                    "pofx",
                    "edit",
                    run,
                    f"{data}:test",
                    *(w for k, v in spot.strengths.items() for w in ("--add", f"{k}={v:g}")),
                    "-o",
                    "edited.png",
                )
            )
        z = (
            "torch.zeros(1, model.latent_dims)"
            if spot is None or len(spot.z) > 16
            else f"torch.tensor([{[round(v, 3) for v in spot.z.tolist()]}])"
        )
        return "\n".join(lines), f'import pofx, torch\n\nmodel = pofx.load("{run}")\nx = model.decode({z}).mean'

    gr.on([state.change, first.change, second.change], by_hand, [state, first, second], hand.both, show_progress="hidden")
