"""Schedules while everything is killed: beats, workers, the broker."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

from tests.faults import Oracle
from tests.fleet import Fleet, Worker, until
from tests.schedules import check_runs, ended, write_schedule

RUNS = int(os.environ.get("MASKMILL_TEST_RUNS", "12"))


def test_each_run_once_whatever_is_killed(
    made: Fleet, tmp_path: Path, out: Path, oracle: Oracle
) -> None:
    """Two beats, of which one is paused at times, and two workers; what dies is started again."""
    random = Random(11)
    file = write_schedule(tmp_path, oracle.photos, oracle.card)
    beats = [made.serve(file) for _ in range(2)]
    workers = [made.worker("-m", str(oracle.card)) for _ in range(2)]

    def again(processes: list[Worker], start: object) -> None:
        assert callable(start)
        at = random.randrange(len(processes))
        processes[at].kill()
        processes[at] = start()

    for number in range(1, RUNS + 1):
        until(lambda n=number: len(ended(made)) >= n, 180, f"{number} runs", made.logs)
        fault = number % 4
        if fault == 0:
            again(beats, lambda: made.serve(file))
        elif fault == 1:
            again(workers, lambda: made.worker("-m", str(oracle.card)))
        elif fault == 2:
            random.choice(workers).kill_child()
        else:
            beats[0].process.send_signal(signal.SIGSTOP)
            until(lambda n=number: len(ended(made)) > n, 180, "one more run", made.logs)
            beats[0].process.send_signal(signal.SIGCONT)
    for each in [*beats, *workers]:
        each.kill()
    for run, _ in ended(made):
        oracle.check(run.output, "15. schedules: beats and workers killed, a beat paused")
    check_runs(made, out, oracle.expected)
