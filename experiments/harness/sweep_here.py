"""The tasks of a sweep on this machine: as many at once as there are jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent import futures

from experiments.harness import task

Tell = Callable[[int | None, str], None]  # of the point of that number, or of none


class Here:
    """Runs tasks below this process, the processors divided among them.

    Args:
      jobs: how many at once.
      tell: says what a user should know.
    """

    interrupted = "Interrupted."

    def __init__(self, jobs: int, tell: Tell) -> None:
        self._jobs, self._tell = jobs, tell
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    def environment(self, name: str) -> task.Outcome:
        return task.run(["environment", name], os.getcwd(), self._started)

    def run(self, words: Mapping[int, Sequence[str]]) -> Generator[tuple[int, task.Outcome]]:
        """The outcomes as they come; one whose folder another process has goes to the end."""
        free = _shares(min(self._jobs, max(1, len(words))))
        waited: Counter[int] = Counter()

        def one(number: int) -> task.Outcome:
            if waited[number]:
                self._stopped.wait(min(2.0 ** waited[number], task.PAUSE))
            share = free.pop()
            try:
                return task.run(
                    [*share, *words[number]],
                    os.getcwd(),
                    self._started,
                    lambda killer, tries: self._again(number, killer, tries),
                )
            finally:
                free.append(share)

        with futures.ThreadPoolExecutor(len(free)) as pool:
            try:
                pending = {pool.submit(one, number): number for number in words}
                while pending:
                    for done in futures.wait(pending, return_when=futures.FIRST_COMPLETED).done:
                        number, outcome = pending.pop(done), done.result()
                        if not outcome.busy:
                            yield number, outcome
                            continue
                        if not waited[number]:
                            self._tell(number, "another process is measuring it; waits for that")
                        waited[number] += 1
                        pending[pool.submit(one, number)] = number
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop(asked=isinstance(error, KeyboardInterrupt))
                raise

    def close(self) -> None:
        pass

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._running.add(process)
        if self._stopped.is_set():
            process.send_signal(signal.SIGINT)

    def _again(self, number: int, killer: int, tries: int) -> bool:
        if self._stopped.is_set():
            return False
        self._tell(number, f"killed by signal {killer}, tried again ({tries} of {task.TRIES - 1})")
        return True

    def _stop(self, *, asked: bool) -> None:
        """They keep the points that they have measured, and end; asked once more, at once."""
        self._stopped.set()
        running = [process for process in list(self._running) if process.poll() is None]
        try:
            for process in running:
                process.send_signal(signal.SIGINT)
            if asked and running:
                self._tell(None, "Stopping what runs; Ctrl-C once more ends it at once.")
            for process in running:
                process.wait()
        except KeyboardInterrupt:
            for process in list(self._running):
                process.kill()


def processors() -> list[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _shares(jobs: int) -> list[list[str]]:
    """The arguments that give each job its processors; none where there is one job."""
    if jobs == 1:
        return [[]]
    mine = processors()
    return [["--processors", ",".join(map(str, mine[n::jobs]))] for n in range(jobs)]
