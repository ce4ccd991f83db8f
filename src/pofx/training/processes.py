"""Several processes, one run: who starts them, which images each takes, what they tell one another, and what happens when one dies.

A step of B images is cut into R pieces of consecutive images, one for each process, as equal as can be. Process r minimises

    (n_r R / B) L_r,     so that the mean of gradients over processes is     Σ_r (n_r / B) ∇L_r = ∇L of the whole step.

Who starts them: `torchrun` or `srun`, whose variables say which process this is; else the first process of a machine starts the others by the
same command. Numbers of the host (logs, decisions) travel by gloo as float64 and JSON; gradients by NCCL where there are GPUs.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pofx.errors import InputError, RunError
from pofx.training.progress import say

T = TypeVar("T")

PATIENCE = 5.0  # seconds that a process has to notice by itself that another is gone
TIMEOUT = timedelta(minutes=30)  # for the others to come, and for any one message
STARTED = "POFX_STARTED_FOR"  # in a process that the first one started: the run that it was started for
_BROKEN = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|store", re.IGNORECASE)


def helper() -> bool:
    """Whether another process of the run speaks for this one: it is not the first. Known before it has joined."""
    return _which(os.environ)[0] > 0


def _which(env: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Rank, size, rank on this machine and processes on this machine, of a process that was started by something; (0, 1, 0, 1) else."""

    def number(name: str, default: int) -> int:
        return int(env.get(name, "") or default)

    if STARTED in env:
        local, size, node = number("LOCAL_RANK", 0), number("WORLD_SIZE", 1), number("NODE_RANK", 0)
        here = number("LOCAL_WORLD_SIZE", size)
        return node * here + local, size, local, here
    if "TORCHELASTIC_RUN_ID" in env:  # torchrun
        return number("RANK", 0), number("WORLD_SIZE", 1), number("LOCAL_RANK", 0), number("LOCAL_WORLD_SIZE", 1)
    if number("SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PROCID" in env:  # srun; plain sbatch and salloc start one process
        size, nodes = number("SLURM_STEP_NUM_TASKS", 1), number("SLURM_STEP_NUM_NODES", number("SLURM_NNODES", 1))
        return number("SLURM_PROCID", 0), size, number("SLURM_LOCALID", 0), max(1, size // nodes)
    return 0, 1, 0, 1


class Processes:
    """The processes of a run, seen from one of them. Nothing is started before `join`.

    Attributes:
        rank, size: which one this is, and how many there are.
        local, here: the same on this machine.
        outside: torchrun or srun started all of them.

    >>> one = Processes()
    >>> one.part(8), one.first, one.tell({"a": 1})
    (slice(0, 8, None), True, {'a': 1})
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0, here: int = 1, *, outside: bool = False) -> None:
        self.rank, self.size, self.local, self.here, self.outside = rank, size, local, here, outside
        self.peers: list[tuple[str, int]] = []  # (machine, pid) of each
        self._started: list[subprocess.Popen[bytes]] = []
        self._set: list[str] = []  # variables of the environment that are ours
        self._control: Any = None
        self._over = threading.Event()
        self._device = torch.device("cpu")
        self.out = Path()

    @classmethod
    def find(cls, devices: int | None, nodes: int | None, strategy: str, device: torch.device, out: Path) -> Processes:
        """The processes that were asked for, or that torchrun or srun has started, for the run in `out`.

        Raises:
            InputError: the two contradict each other; there are not so many GPUs; this program cannot be started again.
        """
        if strategy not in ("auto", "ddp"):
            raise InputError(
                f"--strategy {strategy}: use auto or ddp; both train with DistributedDataParallel where there are several processes."
            )
        for name, value in (("devices", devices), ("nodes", nodes)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"--{name} {value}: it must be a whole number of at least 1, e.g. --{name} 2")
        rank, size, local, here = _which(os.environ)
        if STARTED in os.environ:  # a program may train more than once: this process came for one of its runs, and finds the others done
            meant = os.environ[STARTED] == str(out.resolve()) and (devices or 1) * (nodes or 1) == size
            found = cls(rank, size, local, here) if meant else cls()
        elif size > 1:
            asked = {"devices": (devices, here), "nodes": (nodes, size // here)}
            wrong = [f"--{name} {value}" for name, (value, there) in asked.items() if value not in (None, there)]
            if wrong:
                flags = " and ".join(text.split()[0] for text in wrong)
                raise InputError(f"{' and '.join(wrong)}: {size} processes were started, {here} on a machine. Leave out {flags}.")
            found = cls(rank, size, local, here, outside=True)
        else:
            found = cls._ours(devices or 1, nodes or 1)
        found.out = out
        if found.size > 1 and device.type == "cuda" and found.here > torch.cuda.device_count():
            raise InputError(f"--devices {found.here}: this machine has {torch.cuda.device_count()} GPU. Use that many, or --device cpu")
        if found.size > 1 and device.type == "mps":
            raise InputError(f"--devices {found.here}: MPS trains in one process. Leave it out, or use --device cpu")
        return found

    @classmethod
    def _ours(cls, here: int, nodes: int) -> Processes:
        size = here * nodes
        if size == 1:
            return cls()
        if nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
            line = f"torchrun --nnodes {nodes} --nproc-per-node {here} --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m pofx train …"
            raise InputError(f"--nodes {nodes}: run the command on every machine, under srun or like this (HOST is one of them):\n{line}")
        if not Path(sys.argv[0]).is_file():
            raise InputError(
                f"--devices {here} runs this program {here} times, and it is no file (a notebook, or python -c?). "
                "Put it into a file, or use: pofx train … --devices"
            )
        return cls(int(os.environ.get("NODE_RANK", 0)) * here, size, 0, here)

    # What each does --------------------------------------------------------------------------------------------------

    @property
    def first(self) -> bool:
        return self.rank == 0

    def part(self, n: int) -> slice:
        """Of n images, those of this process: the pieces of all are n images, in order, and differ by one at most."""
        return part(n, self.rank, self.size)

    # Begin and end ---------------------------------------------------------------------------------------------------

    def decide(self, function: Callable[[], T], alone: Callable[[T], bool]) -> T | None:
        """What `function` finds, a JSON value, on the first process and then on all; where it is `alone`'s, nobody else has to be started.
        None to a process that has nothing to do, since the first one says why, or does it alone."""
        if self.size == 1:
            return function()
        if not self.first:
            self.join()
            return self.tell(None)
        if not self.outside:
            found = function()
            if not alone(found):
                self.join()
                self.tell(found)
            return found
        told: T | None = None
        try:
            told = function()
        finally:  # the others are there, and wait
            self.join()
            self.tell(told)
        return told

    def join(self) -> None:
        """Start what has to be started, and wait until all are there."""
        if self.size == 1 or dist.is_initialized():
            return
        if self.local == 0 and not self.outside:
            self._start()
        cuda = torch.cuda.is_available() and self._device.type == "cuda"
        if cuda:
            torch.cuda.set_device(self._device)
        self._address()
        options: dict[str, Any] = {"device_id": self._device} if cuda else {}
        dist.init_process_group("nccl" if cuda else "gloo", rank=self.rank, world_size=self.size, timeout=TIMEOUT, **options)
        self._control = dist.new_group(backend="gloo", timeout=TIMEOUT) if cuda else None
        self.peers = [(str(host), int(pid)) for host, pid in (self._from([socket.gethostname(), os.getpid()], r) for r in range(self.size))]
        threading.Thread(target=self._watch, daemon=True, name="pofx-processes").start()

    def on(self, device: torch.device) -> torch.device:
        """The device of this process, of the type that was asked for."""
        self._device = torch.device("cuda", self.local) if self.size > 1 and device.type == "cuda" else device
        return self._device

    def environment(self) -> Any:
        """Lightning's word for who started the processes."""
        from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

        if not self.outside:
            return LightningEnvironment()
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return TorchElasticEnvironment()
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(self.here))  # `srun -n` leaves it out, and Lightning asks for it
        return SLURMEnvironment(auto_requeue=False)

    def _start(self) -> None:
        """Run the same command for the others of this machine."""
        import __main__

        module = getattr(getattr(__main__, "__spec__", None), "name", None)
        command = [sys.executable, *(["-m", module] if module else [os.path.abspath(sys.argv[0])]), *sys.argv[1:]]
        ours = {
            "MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"),
            "MASTER_PORT": os.environ.get("MASTER_PORT") or str(_free_port()),
            "NODE_RANK": str(self.rank // self.here),
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.here),
            "LOCAL_RANK": "0",
        }
        self._set = [name for name in ours if name not in os.environ]
        os.environ.update(ours)
        for local in range(1, self.here):
            env = {**os.environ, "LOCAL_RANK": str(local), STARTED: str(self.out.resolve())}
            self._started.append(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL))

    def _address(self) -> None:
        """srun says which machines there are; the first of them is where processes meet."""
        if self.outside and "MASTER_ADDR" not in os.environ:
            slurm = self.environment()
            os.environ.update(MASTER_ADDR=str(slurm.main_address), MASTER_PORT=str(slurm.main_port))

    def close(self, *, well: bool) -> None:
        """The end: with `well` all of them came here, and what this one started ends by itself; else it is killed."""
        self._over.set()
        if self.size == 1:
            return
        for process in self._started:
            try:
                if not well:
                    process.kill()
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
        if dist.is_initialized() and well:
            dist.destroy_process_group()
        for name in self._set:
            os.environ.pop(name, None)

    @property
    def joined(self) -> bool:
        """Whether the others are there."""
        return bool(self.peers)

    @property
    def ends_here(self) -> bool:
        """Whether this process was started for this run alone: what follows in a program is for the one that started it."""
        return self.size > 1 and STARTED in os.environ

    # What they tell one another --------------------------------------------------------------------------------------

    def tell(self, value: Any) -> Any:
        """A JSON value of the first process, on all."""
        return value if self.size == 1 else self._from(value, 0)

    def _from(self, value: Any, source: int) -> Any:
        mine = self.rank == source
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8) if mine else torch.empty(0, dtype=torch.uint8)
        length = torch.tensor([len(content)])
        dist.broadcast(length, source, group=self._control)
        content = content if mine else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(content, source, group=self._control)
        return json.loads(content.numpy().tobytes())

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over processes, on the tensor's device."""
        if self.size == 1:
            return tensor
        tensor = tensor.detach().clone()
        dist.all_reduce(tensor, group=self._control if tensor.device.type == "cpu" else None)
        return tensor

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums over processes, in float64."""
        return list(values) if self.size == 1 else self.total(torch.tensor(values, dtype=torch.float64)).tolist()

    def largest(self, *values: int) -> list[int]:
        """The largest of each over processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._control)
        return tensor.tolist()

    def agree(self, value: bool) -> bool:
        """What the first process says."""
        return bool(self.largest(int(value and self.first))[0])

    def barrier(self) -> None:
        self.largest(0)

    @torch.no_grad()
    def share(self, module: nn.Module) -> None:
        """Give all processes the parameters and buffers of the first."""
        if self.size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0, group=self._control if whole.device.type == "cpu" else None)
                tensor.copy_(whole)

    # When one dies ---------------------------------------------------------------------------------------------------

    def broke(self, error: BaseException) -> bool:
        """Whether an error comes of another process being gone."""
        lost = isinstance(error, dist.DistError) or (type(error) is RuntimeError and bool(_BROKEN.search(str(error))))
        return self.size > 1 and lost

    def lost(self, goes_on: str) -> BaseException:
        """What to raise then: one process of a machine says who is gone, the others end silently.

        Args:
            goes_on: where the same command goes on.
        """
        until = time.monotonic() + PATIENCE / 2
        while not self._gone() and time.monotonic() < until:
            time.sleep(0.05)
        return RunError(self._message(goes_on)) if self._speaks() else SystemExit(1)

    def _gone(self) -> list[int]:
        machine = socket.gethostname()
        return [rank for rank, (host, pid) in enumerate(self.peers) if host == machine and not alive(pid)]

    def _speaks(self) -> bool:
        """Whether this is the first process of this machine that is still there."""
        machine, gone = socket.gethostname(), self._gone()
        return self.rank == next((r for r, (host, _) in enumerate(self.peers) if host == machine and r not in gone), self.rank)

    def _message(self, goes_on: str) -> str:
        gone = [f"process {rank} of {self.size} (pid {self.peers[rank][1]})" for rank in self._gone()]
        who = " and ".join(gone) or f"a process on another machine, one of {self.size} in all,"
        what = f"{who[0].upper()}{who[1:]} {'are' if len(gone) > 1 else 'is'} gone: killed, or out of memory."
        return f"{what} The others stopped. The same command goes on from {goes_on}."

    def _watch(self) -> None:
        """End this process where another one of this machine is gone and nothing else has noticed: it waits for a message that never comes."""
        while not self._over.wait(0.5):
            if self._gone():
                if not self._over.wait(PATIENCE):
                    if self._speaks():
                        say(f"pofx: {self._message('its last checkpoint')}")
                    for process in self._started:
                        process.kill()
                    os._exit(1)
                return


def part(n: int, rank: int, size: int) -> slice:
    """Of n things in a row, those of process `rank` of `size`.

    >>> [part(7, rank, 3) for rank in range(3)]
    [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
    """
    whole, rest = divmod(n, size)
    start = rank * whole + min(rank, rest)
    return slice(start, start + whole + (rank < rest))


def alive(pid: int) -> bool:
    """Whether there is a process of that number that has not ended."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OSError:  # no /proc: it answered the signal
        return True


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
