"""The command line: `pofx VERB …`. One file per verb; this one finds the verb, parses, runs and reports.

A verb is a typed function; `cyclopts` makes the flags from its signature. It returns an `Answer`, which is printed here: as text, or
with `--json` as exactly one JSON object on stdout, everything else going to stderr. Nothing here imports torch.

Exit codes: 0 done; 2 wrong usage or input; 1 failure; 130 interrupted. An error is one to three lines; a traceback needs --debug.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pofx.errors import CapabilityError, InputError, PofxError, nearest

if TYPE_CHECKING:
    from cyclopts import App

    from pofx.cli.common import Answer, Common

# verb → (what it does, a working example). `digits` ships with scikit-learn, so that each example runs anywhere.
VERBS: dict[str, tuple[str, str]] = {
    "train": ("Learn p(x) from images; the same command resumes.", "pofx train pixelcnn digits --out runs/digits --minutes 1"),
    "sample": ("Draw images from a run.", "pofx sample runs/digits -n 64 -o samples.png"),
    "evaluate": ("How good a run is on train, valid and test.", "pofx evaluate runs/digits digits:test"),
    "score": ("What each image costs: nats and bits/dim.", "pofx score runs/digits digits:test -o scores.csv"),
    "outliers": ("Flag the images that do not fit, and show where.", "pofx outliers runs/digits digits:test -o odd"),
    "classify": ("Label images, or say that no label fits.", "pofx classify runs/classifier digits:test -o labels.csv --pooled"),
    "encode": ("The latent code, or the features, of each image.", "pofx encode runs/vae digits:test -o codes.parquet"),
    "probe": ("What features know of labels: accuracy by few labels and many.", "pofx probe runs/vae digits -o probe.html"),
    "export": ("A part of a run in a form of its own.", "pofx export runs/vae --encoder -o runs/encoder"),
    "reconstruct": ("Images beside what their codes decode to.", "pofx reconstruct runs/vae digits:test -o reconstructed.png"),
    "interpolate": (
        "From one image to another through latent space.",
        "pofx interpolate runs/vae digits:test#3 digits:test#8 -o strip.png",
    ),
    "traverse": ("What each latent dimension does, the most used first.", "pofx traverse runs/vae -o dimensions.png"),
    "edit": ("Change an attribute of images: learn it, then add it.", "pofx edit runs/vae digits:test --add three=1 -o edited.png"),
    "complete": (
        "Fill the hole of an image; kept pixels come back bit for bit.",
        "pofx complete runs/digits digits:test#3 --keep top:4 -o sheet.png",
    ),
    "forecast": (
        "Draw futures of series: bands, and how good they are.",
        "pofx forecast runs/ecg timeseries:ECG200:test --keep 60 -o forecast.png",
    ),
    "compress": ("Images into a lossless file, as small as the model is good.", "pofx compress runs/digits digits:test -o set.pofx"),
    "decompress": ("The images of a compressed file, bit for bit.", "pofx decompress set.pofx -o images"),
    "list": ("What a compressed file holds, and whether it is whole.", "pofx list set.pofx"),
    "latents": ("A map of the latent space, coloured by label.", "pofx latents runs/vae -o map.png"),
    "report": ("One self-contained page about a run.", "pofx report runs/digits"),
    "compare": ("Runs of any family side by side.", "pofx compare runs/digits runs/vae"),
    "reproduce": ("Train what a recipe says, and compare with the number it expects.", "pofx reproduce digits-pixelcnn --minutes 1"),
    "info": ("What a run is, and how it was made.", "pofx info runs/digits"),
    "models": ("What each model can tell and accepts.", "pofx models --tree"),
    "data": ("Look at images before learning from them.", "pofx data digits -o contact.png"),
    "bound": ("What a variational bound loses on one image, exactly.", "pofx bound digits:test#3 -o bound.html"),
    "equilibrium": (
        "The game of a GAN on densities that are known: V against V*, D against D*.",
        'pofx equilibrium --p "normal(0,1)" --q "normal(3,1)" -o equilibrium.html',
    ),
    "course": ("Questions that notes leave open, each answered with a number.", "pofx course bound"),
    "chain": ("What each pixel of an image costs, and the file that it becomes.", "pofx chain runs/digits digits:test#3 -o chain.html"),
    "mass": ("All 512 images of 3×3, as large as they are probable.", "pofx mass -o mass.html"),
    "studio": ("Look at runs and play with them, in the browser.", "pofx studio runs"),
    "serve": ("Answer over HTTP: score, outliers, sample, encode, complete, classify.", "pofx serve runs/digits --port 8000"),
    "push": ("Share a run: to a folder or the Hugging Face Hub.", "pofx push runs/digits hf:you/digits-pixelcnn"),
    "pull": ("Fetch a shared run.", "pofx pull hf:you/digits-pixelcnn -o runs/theirs"),
}


EPILOGUE = f"""Start with:  {VERBS["train"][1]}
Then:        {VERBS["report"][1]}

pofx VERB --help shows what a verb takes, with an example."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pofx` with these arguments (those of the process by default) and return its exit code.

    >>> main(["--version"])
    0.1.0
    0
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # read once, when torch loads
        # Threads that spin cost 40× beside another job. None at all costs a third of the speed alone: a microsecond of it bridges most gaps.
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    tokens = [*(sys.argv[1:] if argv is None else argv)]  # `list` is a verb: its module takes this name here, once it is imported
    verb = tokens[0] if tokens and tokens[0] in VERBS else None
    try:
        return _run(tokens, verb)
    except KeyboardInterrupt:
        _tell("interrupted.", verb)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once more when it flushes stdout at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  the outermost handler: nothing above it could do better
        if "--debug" in tokens:
            import traceback

            traceback.print_exc()
        return _explain(error, verb)


def _run(tokens: list[str], verb: str | None) -> int:
    if tokens and verb is None and not tokens[0].startswith("-"):
        raise InputError(f"No verb {tokens[0]!r}. {nearest(tokens[0], VERBS)} See: pofx --help")
    app = make_app(verb, tokens[1:])
    if verb and {"--help", "-h"} & set(tokens):
        app.help_print([verb])
        return 0
    command, bound, _ = _parse(app, tokens, verb)
    if verb is None or "common" not in bound.signature.parameters:  # pofx alone, --help, --version
        command(*bound.args, **bound.kwargs)
        return 0
    from pofx.cli.common import Common, show

    common: Common = bound.arguments.setdefault("common", Common())
    with _only_answers(common):
        answer: Answer = command(*bound.args, **bound.kwargs)
    show(answer, common)
    return 0


def _parse(app: App, tokens: list[str], verb: str | None) -> Any:
    """`App.parse_args`; a mistyped flag is named before anything that is missing because of it."""
    from cyclopts import MissingArgumentError

    try:
        return app.parse_args(tokens)
    except MissingArgumentError as error:
        if verb is None:
            raise
        flags = [name for argument in app[verb].assemble_argument_collection() for name in argument.names if name.startswith("-")]
        typed = [token.partition("=")[0] for token in error.unused_tokens or () if token.startswith("-")]
        unknown = [flag for flag in typed if flag not in flags]
        if not unknown:
            raise
        close = get_close_matches(unknown[0], flags, n=1)
        raise InputError(
            f"Unknown option: {unknown[0]}." + (f" Did you mean {close[0]}?" if close else "") + f"\nSee: pofx {verb} --help"
        ) from error


@contextlib.contextmanager
def _only_answers(common: Common) -> Any:
    """While a verb works, whatever a library prints goes to stderr: stdout is for the answer."""
    import logging
    import warnings

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        if not common.debug:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module=r"pofx(\..*)?")  # what we warn of is meant for the user
            warnings.showwarning = lambda message, *_: common.note(str(message))
            for name in ("lightning", "lightning.pytorch", "lightning.fabric", "datasets", "huggingface_hub"):
                logging.getLogger(name).setLevel(logging.ERROR)
        yield


def make_app(verb: str | None, rest: Sequence[str]) -> App:
    """The parser: every verb by name, and only the one asked for in full."""
    from cyclopts import App, Group, Parameter

    import pofx

    app = App(
        name="pofx",
        help="Learn p(x) from your images, without labels, and put it to work.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=pofx.__version__,
        default_parameter=Parameter(negative=()),
        exit_on_error=False,
        print_error=False,
    )
    for name, (what, example) in VERBS.items():
        if name != verb:
            app.command(f"pofx.cli.{name}:{name}", name=name, help=what)
            continue
        module = importlib.import_module(f"pofx.cli.{name}")
        function: Callable[..., Any] = module.command(rest) if hasattr(module, "command") else getattr(module, name)
        app.command(
            function,
            name=name,
            help_epilogue=f"Example:\n  {getattr(function, 'example', example)}",
            group_parameters=Group("Options", sort_key=2),
        )
    return app


def _tell(message: str, verb: str | None) -> None:
    with contextlib.suppress(OSError):
        print(f"pofx {verb}: {message}" if verb else f"pofx: {message}", file=sys.stderr)


def _explain(error: Exception, verb: str | None) -> int:
    """Print what went wrong in one to three lines, and return the exit code."""
    import errno

    from cyclopts import CycloptsError

    if isinstance(error, CycloptsError):
        from cyclopts import MissingArgumentError, UnusedCliTokensError

        message = " ".join(str(error).split())
        if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
            message = f"{len(error.unused_tokens)} argument{'s' * (len(error.unused_tokens) > 1)} too many: {' '.join(error.unused_tokens)}"
        elif isinstance(error, MissingArgumentError) and error.argument is not None and not error.keyword:
            message = f"{error.argument.names[0]} is missing."
        hint = f"See: pofx {verb or ''} --help".replace("  ", " ")
        _tell(f"{message}\n{hint}" + (f"\nExample: {VERBS[verb][1]}" if verb else ""), verb)
        return 2
    if isinstance(error, PofxError):
        _tell(str(error), verb)
        return 2 if isinstance(error, InputError | CapabilityError) else 1
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        fix = {
            errno.ENOSPC: "The disk is full. What was written before is complete; free some space and run the same command again.",
            errno.EDQUOT: "Your disk quota is used up. Free some space and run the same command again.",
            errno.EACCES: "Choose a place that you may read and write, or change its permissions (ls -l).",
            errno.EROFS: "That file system is read-only; choose another place.",
        }.get(error.errno or 0, "")
        _tell(f"{error.strerror or error}{where}" + (f"\n{fix}" if fix else ""), verb)
        return 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        _tell("out of memory. Try a smaller --batch-size, or fewer channels; on a GPU also --device cpu.", verb)
        return 1
    summary = " ".join(f"{type(error).__name__}: {error}".split())
    _tell(f"internal error ({summary[:200]}); run again with --debug for the traceback and report it.", verb)
    return 1
