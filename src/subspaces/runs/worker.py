"""A process that does one run after the other: ``python -m subspaces.runs.worker ROOT TRAINER``.

It reads configs and writes events, one JSON object per line, so nothing of the caller's program is imported again
and the libraries and the data are loaded once for many runs. When its input closes, because the parent is done or
dead, it writes down the state of the run in hand and ends.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from subspaces.registry import import_object
from subspaces.runs.cargo import receive
from subspaces.runs.run import Run
from subspaces.runs.stop import StopPolicy
from subspaces.runs.store import run_once
from subspaces.training.callbacks import Callback

Send = Callable[[dict[str, Any]], None]


def load_trainer(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names."""
    return import_object("trainer", name)


class ProgressSender(Callback):
    """Tells at the start and after each evaluation how far the run is."""

    def __init__(self, send: Send) -> None:
        self.send = send

    def start(self, state: Any) -> None:
        self.send({"event": "progress", "part": state.step / state.total_steps})

    def epoch(self, state: Any, row: dict[str, Any]) -> None:
        self.send({"event": "progress", "part": state.step / state.total_steps})


def work(root: Path, trainer: str, jobs: "queue.Queue[str]", send: Send, busy: threading.Event) -> None:
    """Do jobs until the process is ended."""
    train = load_trainer(trainer)
    while True:
        line = jobs.get()
        busy.set()
        try:
            fields = json.loads(line)
            if (task := fields.pop("cargo", None)) is not None:
                receive(**task)
            policy = StopPolicy(**fields.pop("policy", {}))
            config = Run.from_dict(fields)
            result = run_once(config, root, wait=False, policy=policy, trainer=train, callbacks=[ProgressSender(send)])
            send({"event": "busy" if result is None else "done"})
        except Exception as error:
            send({"event": "error", "message": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})
        finally:
            busy.clear()


def main() -> None:
    """Set up the two pipes and work until the input closes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born ignoring it
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not get between the events
    jobs: queue.Queue[str] = queue.Queue()
    busy = threading.Event()

    def send(event: dict[str, Any]) -> None:
        try:
            channel.write(json.dumps(event) + "\n")
        except BrokenPipeError:
            os.kill(os.getpid(), signal.SIGINT)

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(line)
        if not busy.is_set():
            os._exit(0)
        os.kill(os.getpid(), signal.SIGINT)  # the run in hand writes its state and leaves

    threading.Thread(target=listen, daemon=True).start()
    try:
        work(Path(sys.argv[1]), sys.argv[2], jobs, send, busy)
    except KeyboardInterrupt:
        os._exit(0)


if __name__ == "__main__":
    main()
