"""`make torture`: commands whose processes are ended by ``kill -9`` again and again, and what became of their runs.

Each course is one command in a folder of its own, given again after each kill until it ends by itself. After every kill
and at the end it is checked that finished runs are as they were and are never begun again, that no run is in two hands,
and that the answer, the rows and the files are those of a course without kills. Exit status 1 for any fault.

Kills come at random moments while a run is in hand (parent, a worker, or all), and at every kind of change of the disk
that an undisturbed course makes (`faults.py`): before it, after it, and half through a write.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture_zygote import ask

HERE = Path(__file__).parent
TASK = "torture_task.py:task"
COMMANDS: dict[str, list[str]] = {
    "dimension": ["dimension", TASK, "--workers", "2", "--max-runs", "8", "--d-max", "60", "--baseline-runs", "2"],
    "train": ["train", TASK, "--record", "epoch", "--epochs", "24"],
    "transition": [
        "transition", TASK, "--workers", "2", "--burn-in", "0", "--levels", "0.3", "--first", "7", "--d-min", "4",
        "--d-max", "64", "--budget", "12", "--runs", "2", "--window", "5", "--no-predict", "--json",
    ],
    "reproduce": ["reproduce", "torture_recipe.toml", "--workers", "2"],
}  # fmt: skip
PATIENCE = 240.0
"""Seconds after which a command that does not end is a fault."""


@dataclass
class Tally:
    """What was done and what was found."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By command and place."""
    in_hand: Counter[str] = field(default_factory=Counter)
    """Kills while a run was claimed, by command."""
    courses: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    """Runs that were finished, by command."""
    faults: list[str] = field(default_factory=list)
    stopped: Counter[str] = field(default_factory=Counter)
    """Launches that ended by themselves with an error, as a run does whose process was killed twice."""


class Zygote:
    """The process that forks commands, for the time of a ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "zygote")

    def __enter__(self) -> "Zygote":
        source = str(HERE.parent / "src")
        paths = os.pathsep.join([source, str(HERE), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "torture_zygote.py"), self.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Course:
    """One command in one folder, from its first launch to its own end."""

    def __init__(self, zygote: Zygote, command: str, folder: Path, tally: Tally, draw: random.Random) -> None:
        self.zygote, self.command, self.tally, self.draw = zygote, command, tally, draw
        self.out, self.log, self.folder = folder / "out", folder / "log", folder
        folder.mkdir(parents=True)
        self.finished: dict[str, tuple[int, str]] = {}
        self.read = 0
        self.output = ""
        self.done = False

    # ---- launches

    def launch(self, plan: dict[str, Any] | None = None) -> int:
        """Give the command; the number of its process."""
        self.begun = self.log.stat().st_size if self.log.exists() else 0
        status = self.folder / "status"
        status.unlink(missing_ok=True)
        job = {
            "argv": [*COMMANDS[self.command], "--out", str(self.out)], "cwd": str(HERE), "root": str(self.out),
            "log": str(self.log), "status": str(status), "plan": plan,
            "draw": self.draw.random() < 0.1,
        }  # fmt: skip
        with open(os.devnull) as nothing, open(self.folder / "output", "w") as told:
            return ask(self.zygote.path, job, [nothing.fileno(), told.fileno(), told.fileno()])

    def lines(self, since: int = 0) -> list[list[str]]:
        with open(self.log) as file:
            file.seek(since)
            return [line.split() for line in file.read().splitlines()]

    def workers(self) -> list[int]:
        """Numbers of the workers of this launch that live."""
        found = [int(line[0]) for line in self.lines(self.begun) if line[1:3] == ["worker", "start"]]
        return [pid for pid in found if alive(pid)]

    def wait(self, pid: int, end: float = PATIENCE) -> bool:
        """Whether the command ends in time."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                return bool(select.select([handle], [], [], end)[0])
            finally:
                os.close(handle)
        return True

    def claimed(self) -> bool:
        """Whether a run is in hand."""
        return any(self.out.rglob("claim"))

    # ---- kills

    def planned(self, plan: dict[str, Any]) -> bool:
        """A launch in which one process kills itself at a change of the disk; the parent of a worker follows it.

        Whether the command came to its end all the same.
        """
        fired = self.folder / "fired"
        fired.unlink(missing_ok=True)
        pid = self.launch({**plan, "fired": str(fired)})
        if plan["role"] == "worker" and self.draw.random() < 0.95:
            end = time.monotonic() + PATIENCE
            while not fired.exists() and alive(pid) and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(self.draw.uniform(0, 0.3))
            if alive(pid):
                held = self.claimed()
                os.kill(pid, signal.SIGKILL)
                self.tally.kills[self.command, "at random: parent after a worker"] += 1
                self.tally.in_hand[self.command] += held
        code = self.ends(pid)
        for line in self.lines(self.begun):
            if line[2] == "killed":
                self.tally.kills[self.command, f"{line[1]}: {line[5]} {line[3]} of {line[4]}"] += 1
                self.tally.in_hand[self.command] += line[4] not in ("record", "page", "figure", "rows")
                if line[1] == "parent":
                    self.leave()
        self.check()
        return code == 0

    def at_random(self) -> bool:
        """A launch in which a worker and then the parent, or all at once, are killed while a run is in hand."""
        pid = self.launch()
        who = self.draw.choice(("parent", "all", "worker")) if self.command != "train" else "parent"
        for victim in ("worker", "parent") if who == "worker" else (who,):
            if not self._until_in_hand(pid):
                break
            time.sleep(self.draw.uniform(0, 0.3) ** 2 * 3)
            workers, held = self.workers(), self.claimed()
            targets = {"parent": [pid], "all": [pid, *workers], "worker": workers[:1]}[victim]
            if not alive(pid) or not targets:
                break
            for target in targets:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, signal.SIGKILL)
            self.tally.kills[self.command, f"at random: {victim}"] += 1
            self.tally.in_hand[self.command] += held
        code = self.ends(pid)
        self.leave()
        self.check()
        return code == 0

    def _until_in_hand(self, pid: int) -> bool:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and alive(pid):
            if self.claimed():
                return True
            time.sleep(0.02)
        return False

    def leave(self) -> None:
        """Now and then the next launch meets workers of the last one that still write down their runs."""
        if self.draw.random() < 0.5:
            end = time.monotonic() + PATIENCE
            while self.workers() and time.monotonic() < end:
                time.sleep(0.01)

    # ---- checks

    def fault(self, text: str) -> None:
        self.tally.faults.append(f"{self.command} in {self.folder}: {text}")

    def ends(self, pid: int) -> int | None:
        """Wait for the command; its status, None if it was killed."""
        if not self.wait(pid):
            self.fault("it does not end")
            os.kill(pid, signal.SIGKILL)
        status = self.folder / "status"
        if not status.exists():
            return None
        code = int(status.read_text())
        self.output = (self.folder / "output").read_text()
        if code != 0:
            self.tally.stopped[self.command] += 1
            if "its process ended 2 times" not in self.output:
                self.fault(f"status {code}: {self.output[-500:]}")
        elif "Traceback" in self.output:
            self.fault(self.output[-500:])
        return code

    def check(self) -> None:
        """Finished runs are as they were; none was begun again; none was in two hands."""
        for line in self.lines(self.read):
            if line[2] == "fault":
                self.fault(" ".join(line))
            elif line[2] == "begin" and line[3] in self.finished:
                self.fault(f"{line[3]} was begun again")
        self.read = self.log.stat().st_size
        for key, (inode, digest) in self.finished.items():
            path = next(self.out.rglob(f"{key}/result.json"), None)
            if path is None:
                self.fault(f"the result of {key} is gone")
            elif (path.stat().st_ino, digest_of(path)) != (inode, digest):
                self.fault(f"the result of {key} was written again")
        for path in self.out.rglob("result.json"):
            self.finished.setdefault(path.parent.name, (path.stat().st_ino, digest_of(path)))

    def end(self) -> dict[str, Any]:
        """The answer after the command has ended by itself, and what lies in the folder that should not."""
        for _ in range(0 if self.done and self.draw.random() < 0.7 else 3):
            if self.ends(self.launch()) == 0:
                break
        else:
            if not self.done:
                self.fault("it does not come to its end")
        self.check()
        left = [path for path in self.out.rglob("*") if path.name in ("claim", ".takeover", "state.safetensors")]
        left += [path for path in self.out.rglob("*") if path.suffix == ".tmp" or path.name.startswith(".")]
        for path in left:
            self.fault(f"{path.relative_to(self.out)} is left")
        self.tally.courses[self.command] += 1
        self.tally.runs[self.command] += len(self.finished)
        return answer(self.out)


def alive(pid: int) -> bool:
    """Whether a process runs."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def digest_of(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def answer(out: Path) -> dict[str, Any]:
    """What a folder says, without times: rows, answers, and the bytes of files that have none."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name in ("result.json", "measurement.json", "transition.json"):
            found[name] = timeless(json.loads(path.read_text().replace(str(out), "OUT")))
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                found[name] = timeless(list(csv.DictReader(file)))
        elif path.suffix == ".safetensors" or path.name == "trajectory.bin":
            found[name] = digest_of(path)
    return found


def timeless(value: Any) -> Any:
    """JSON without times, and without the hashes over them."""
    gone = ("seconds", "sha256", "environment", "command", "sizes")
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in gone}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Where two answers differ; empty where they do not."""
    names = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    return ", ".join(names[:4])


def places(lines: list[list[str]]) -> list[dict[str, Any]]:
    """The ways to end a process at each kind of change of the disk of an undisturbed course."""
    seen = Counter((line[1], line[3], line[4]) for line in lines if line[2] == "call")
    found = []
    for (role, op, place), count in sorted(seen.items()):
        for when in ("before", "after", "half") if "write" in op else ("before", "after"):
            found.append({"role": role, "op": op, "place": place, "when": when, "most": min(count, 4)})
    return found


def torture(zygote: Zygote, command: str, kills: int, folder: Path, tally: Tally, draw: random.Random) -> None:
    """End processes of one command so many times, in as many courses as that takes."""
    calm = Course(zygote, command, folder / f"{command}-calm", tally, draw)
    faults = len(tally.faults)
    expected = calm.end()
    if len(tally.faults) > faults:
        return
    turn = turns(places(calm.lines()), draw)
    first = sum(count for (name, _), count in tally.kills.items() if name == command)
    number = 0
    while (done := sum(n for (name, _), n in tally.kills.items() if name == command) - first) < kills:
        number += 1
        course = Course(zygote, command, folder / f"{command}-{number}", tally, draw)
        before = len(tally.faults)
        for _ in range(min(draw.randint(8, 16), kills - done)):
            plan = next(turn)
            course.done = course.at_random() if plan is None else course.planned(plan)
            if course.done:
                break
        if differs := difference(course.end(), expected):
            course.fault(f"another answer: {differs}")
        (folder / f"{command}.md").write_text(tables(tally) + "\n" + "\n".join(tally.faults))
        if len(tally.faults) == before:
            shutil.rmtree(course.folder)
            shutil.rmtree(f"{course.out}.locks", ignore_errors=True)


def turns(known: list[dict[str, Any]], draw: random.Random) -> Iterator[dict[str, Any] | None]:
    """Ways to kill, in turn: each known place once per round, mixed, with as many random moments between."""
    while True:
        for plan in draw.sample(known, len(known)):
            yield {**plan, "count": draw.randint(1, plan["most"]) if draw.random() < 0.4 else 1}
            yield None


def tables(tally: Tally) -> str:
    """Counts by command and by place."""
    lines = ["| command | courses | runs | kills | while a run was in hand | launches that named a run killed twice |"]
    lines.append("|---|---|---|---|---|---|")
    for name in COMMANDS:
        total = sum(count for (command, _), count in tally.kills.items() if command == name)
        cells = (tally.courses[name], tally.runs[name], total, tally.in_hand[name], tally.stopped[name])
        lines.append(f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    lines += ["", "| place of the kill | " + " | ".join(COMMANDS) + " |", "|---|" + "---|" * len(COMMANDS)]
    for place in sorted({place for _, place in tally.kills}):
        lines.append(f"| {place} | " + " | ".join(str(tally.kills[name, place]) for name in COMMANDS) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="of all commands together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="commands whose names begin so")
    parser.add_argument("--folder", type=Path, default=None, help="where the courses lie; those with faults are kept")
    options = parser.parse_args()
    memory = Path("/dev/shm")  # a kill does not ask where files lie, and waiting for a disk takes most of the time
    folder = options.folder or Path(tempfile.mkdtemp(prefix="torture-", dir=memory if memory.is_dir() else None))
    tally, draw, started = Tally(), random.Random(options.seed), time.monotonic()
    chosen = [name for name in COMMANDS if name.startswith(options.only)]
    with Zygote(folder) as zygote:
        for name in chosen:
            torture(zygote, name, -(-options.kills // len(chosen)), folder, tally, draw)
            print(
                f"{name}: {time.monotonic() - started:.0f} s, {len(tally.faults)} faults", file=sys.stderr, flush=True
            )
    print(tables(tally))
    for text in tally.faults[:40]:
        print(f"fault: {text}")
    total = sum(tally.kills.values())
    print(f"\n{total:,} kills, {sum(tally.in_hand.values()):,} with a run in hand, {len(tally.faults)} faults.")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
