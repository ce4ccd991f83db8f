"""A process that trains in forked children, several for one run, so that none pays for imports.

Reads one JSON request per line: {"ranks": [rank, …] of "size", "model", "arguments", and what `train` takes}. Forks a child for each
rank, with the variables that torchrun would set, and answers with their pids, and with how each ended once all have.
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import lightning.pytorch  # noqa: F401 - imported once, for all children
import torch

from pofx import catalog
from pofx.data import load_data
from pofx.training import Run, train

torch.set_num_threads(1)
DATA = load_data("digits")


def child(request: dict, rank: int, size: int, port: int) -> None:
    if size > 1:
        os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{size}"}
        os.environ |= {"LOCAL_WORLD_SIZE": f"{size}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "GROUP_RANK": "0"}
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False"}
    torch.manual_seed(0)
    cls, arguments = catalog.get(request.pop("model")), request.pop("arguments", {})
    model = cls(DATA.space, **catalog.arguments_from_json(arguments))
    data = DATA if "labels" not in request else DATA.few_labels(request.pop("labels"), unlabelled=True)
    warnings.simplefilter("ignore")
    options = {"threads": size, "seed": 3, "quiet": rank > 0, "checkpoint_seconds": 1e9} | request
    run = train(model, data, **options)
    assert isinstance(run, Run)
    if rank == size - 1:  # the last one has the same as the first
        Path(f"{request['out']}.metrics").write_text(json.dumps(run.metrics))


def main() -> None:
    from pofx.training.processes import _free_port

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        size, port = request.pop("size"), _free_port()
        pids = {}
        for rank in range(size):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    with tempfile.TemporaryFile() as nothing:
                        os.dup2(nothing.fileno(), 0)
                    child(request, rank, size, port)
                    code = 0
                except BaseException as error:
                    sys.stderr.write(f"rank {rank}: {type(error).__name__}: {error}\n")
                    sys.stderr.flush()
                    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
                finally:
                    os._exit(code)
            pids[pid] = rank
        print(json.dumps({"pids": list(pids)}), flush=True)
        codes = [0] * size
        for _ in range(size):
            pid, status = os.wait()
            codes[pids[pid]] = os.waitstatus_to_exitcode(status)
        print(json.dumps({"codes": codes}), flush=True)


if __name__ == "__main__":
    main()
