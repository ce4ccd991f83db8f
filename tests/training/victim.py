"""A process that trains in forked children, so that each can be killed and none pays for imports.

Reads one JSON request per line, forks, and answers with the child's pid; when the child has ended, with how it ended. The
child marks when it validates (a file `validating` beside the run), which a test cannot see from outside.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import lightning.pytorch  # noqa: F401 - imported once, for all children
import torch

import pofx.training.module as module
from pofx import catalog
from pofx.data import load_data
from pofx.training import train

torch.set_num_threads(1)
DATA = load_data("digits")
# Dropout, a batch norm, two players, and weights large enough that writing them takes a moment.
ARGUMENTS = {
    "pixelcnn": {"layers": 2, "channels": 8, "dropout": 0.2},
    "vae": {"latents": 8, "channels": 16, "stages": 2, "dropout": 0.3},
    "gan": {"latents": 16, "channels": 16},
}


def child(request: dict) -> None:
    mark = Path(request["out"]).with_suffix(".validating")
    original = module.validate

    def validate(*args, **kwargs):
        mark.touch()
        try:
            return original(*args, **kwargs)
        finally:
            mark.unlink(missing_ok=True)

    module.validate = validate
    torch.manual_seed(0)
    name = request.pop("model")
    cls = catalog.get(name)
    warnings.simplefilter("ignore")
    train(cls(DATA.space, **ARGUMENTS[name]), DATA, threads=1, seed=3, quiet=True, average=2000, augment=("flip", "shift"), **request)


def main() -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(request)
                code = 0
            except BaseException as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                sys.stderr.flush()
            finally:
                os._exit(code)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
