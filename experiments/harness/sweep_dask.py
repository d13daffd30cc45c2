"""The tasks of a sweep on the workers of a dask scheduler, wherever these are."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from experiments.harness import sources, task
from experiments.harness.config import ConfigError
from experiments.harness.run_folder import title
from experiments.harness.sweep_here import Tell


class LostError(RuntimeError):
    """The scheduler is gone, and with it whatever was handed to it."""


class OnDask:
    """Runs tasks on the workers of a scheduler, which tries those of a killed worker again.

    Args:
      address: of the scheduler.
      experiment: one that times what it runs is refused where that would be disturbed.
      tell: says what a user should know.
    """

    interrupted = "Interrupted. What workers have begun is measured to its end there."

    def __init__(self, address: str, experiment: str, tell: Tell) -> None:
        self._address, self._tell = address, tell
        self._client = _connect(address)
        try:
            if sources.times(experiment):
                self._check_alone(title(experiment))
        except BaseException:
            self.close()
            raise

    def environment(self, name: str) -> task.Outcome:
        if not self._client.nthreads():
            self._tell(None, f"{self._address} has no worker yet; waits for one.")
        asked = self._client.submit(task.run, ["environment", name], os.getcwd(), pure=False)
        return self._outcome(asked)

    def run(self, words: Mapping[int, list[str]]) -> Generator[tuple[int, task.Outcome]]:
        """The outcomes as they come."""
        from distributed import as_completed

        numbers = {}
        for number, mine in words.items():
            log = Path(mine[1]).with_suffix(".begun")
            log.unlink(missing_ok=True)
            job = self._client.submit(task.on_worker, mine, os.getcwd(), str(log), pure=False)
            numbers[job] = number
        for done in as_completed(numbers, loop=self._client.loop):
            yield numbers[done], self._outcome(done)

    def close(self) -> None:
        self._client.close()

    def _outcome(self, job: Any) -> task.Outcome:
        """Of a job, waited for; an error of dask or of a worker is what it said last."""
        try:
            error = job.exception()
        except Exception as lost:
            error = lost
        if job.cancelled() or self._client.status != "running":
            raise LostError(f"--workers = {self._address}: the scheduler is gone.")
        return task.Outcome(1, f"{error}", 0.0) if error else job.result()

    def _check_alone(self, experiment: str) -> None:
        from distributed.comm.addressing import get_address_host

        threads: Counter[str] = Counter()
        for worker, count in self._client.nthreads().items():
            threads[get_address_host(worker)] += count
        faults = [
            f"--workers = {self._address}: {experiment} times what it runs, and {count} threads of "
            f"workers on {host} would slow each other down; should be one worker a machine, with "
            "--nthreads 1"
            for host, count in threads.items()
            if count > 1
        ]
        if faults:
            raise ConfigError(faults, "of the sweep")


def _connect(address: str) -> Any:
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ModuleNotFoundError:
        raise ConfigError(
            ["--workers: dask is not installed: python -m pip install 'rnnscan[sweep]'"],
            "of the sweep",
        ) from None
    # A scheduler that is gone is told of here, and once.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        # Before a client is made, which one that is no address would keep from closing.
        _, port = get_address_host_port(address)
        if not 0 < port < 2**16:
            raise ValueError("its port should lie between 1 and 65535")
    except (ValueError, TypeError) as error:
        raise ConfigError(
            [f"--workers = {address}: is no address: {error}; right is for instance host:8786"],
            "of the sweep",
        ) from None
    try:
        return Client(address, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"--workers = {address}: no scheduler answers: {error}"], "of the sweep"
        ) from None
