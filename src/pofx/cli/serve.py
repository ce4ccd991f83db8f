"""`pofx serve RUN`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pofx.cli.common import Answer, Common, Flag
from pofx.errors import InputError


def serve(
    run: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    threads: int | None = None,
    alpha: float = 0.05,
    guarantee: Literal["marginal", "calibration"] = "marginal",
    pooled: Flag = False,
    no_calibration: Flag = False,
    token_file: Path | None = None,
    queue: int = 2000,
    wait: float = 5.0,
    timeout: float = 60.0,
    max_mb: float = 16.0,
    max_megapixels: float = 16.0,
    max_images: int = 1000,
    common: Common = Common(),
) -> Answer:
    """Answer over HTTP: score, outliers, sample, encode, complete, classify.

    Images come as PNG, JPEG, .npy or JSON; answers are those of the command line, to the last digit. /docs shows what the run can do, /health and
    /metrics (Prometheus) how it is. Ctrl-C stops it, when what was taken in is finished. Needs: pip install "pofx[serve]"

    Args:
        run: a run folder or a Hub id.
        host: 127.0.0.1 is this machine alone; any other asks for a token, in the environment as POFX_TOKEN or in --token-file.
        port: 0 for any that is free.
        workers: processes that hold the model; on several GPUs they take turns.
        threads: of each worker; by default torch's own number, or an equal share of the cores.
        alpha: share of normal images that /outliers may flag, and of each class that /classify may miss.
        guarantee: of /outliers, as of pofx outliers.
        pooled: calibrate /classify for all classes together, where there are few images of each.
        no_calibration: no /outliers, and no reject in /classify: the run's own data is not needed then.
        token_file: a file that holds the token.
        queue: images that may wait; a request that finds so many is told to come back (429).
        wait: milliseconds that an idle worker waits for company, to fill its batch.
        timeout: seconds that a request may take.
        max_mb: of a request.
        max_megapixels: of a picture.
        max_images: in a request, or asked for.
    """
    for name, value, least in (("workers", workers, 1), ("queue", queue, 1), ("max-images", max_images, 1), ("threads", threads, 1)):
        if value is not None and value < least:
            raise InputError(f"--{name} {value}: it must be at least {least}, e.g. --{name} {least}")
    for name, number in (("timeout", timeout), ("max-mb", max_mb), ("max-megapixels", max_megapixels)):
        if not 0 < number < float("inf"):
            raise InputError(f"--{name} {number:g}: it must be above 0, e.g. --{name} 16")
    if not 0 <= wait <= 1000 * timeout:
        raise InputError(f"--wait {wait:g}: milliseconds, from 0 to the --timeout, e.g. --wait 5")
    if not 0 < alpha < 1:
        raise InputError(f"--alpha {alpha} must be between 0 and 1, e.g. --alpha 0.05.")
    if not 0 <= port < 65536:
        raise InputError(f"--port {port}: a port is 0 … 65535, e.g. --port 8000")
    token = _token(token_file)
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f'pofx serve needs {error.name}, which is not installed: pip install "pofx[serve]"') from error
    from pofx.serve.payload import Limits
    from pofx.serve.pool import Settings, default_threads
    from pofx.serve.service import serve as task

    settings = Settings(
        run=run,
        device=common.device,
        workers=workers,
        threads=default_threads(workers) if threads is None else threads,
        alpha=alpha,
        guarantee=guarantee,
        pooled=pooled,
        calibrate=not no_calibration,
        queue=queue,
        window=wait / 1000,
        timeout=timeout,
    )
    limits = Limits(bytes=int(max_mb * 2**20), pixels=int(max_megapixels * 1e6), images=max_images)
    ended = task(settings, host=host, port=port, token=token, limits=limits, note=common.note)
    facts = {"run": run, "address": ended.address, "requests": ended.requests, "images": ended.images, "workers_died": ended.deaths}
    died = "" if not ended.deaths else f"; {ended.deaths} worker{'s' * (ended.deaths > 1)} died and were replaced"
    return Answer(facts, f"stopped: {ended.requests} requests, {ended.images} images{died}")


def _token(file: Path | None) -> str | None:
    """From the file, else from the environment: a command line is seen by others on the machine."""
    if file is None:
        return os.environ.get("POFX_TOKEN") or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--token-file {file}: {getattr(error, 'strerror', None) or error}. Make one: openssl rand -hex 16 > {file}"
        ) from error
