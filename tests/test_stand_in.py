"""Device faults without a device: the cases of `stand_in_cases`, all in one process of their own."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = re.findall(r"^@case\ndef (\w+)", (HERE / "stand_in_cases.py").read_text(), re.MULTILINE)


@functools.cache
def _found() -> dict[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "stand_in_cases.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.standin
@pytest.mark.parametrize("name", NAMES)
def test_holds_on_an_accelerator(name):
    fault = _found()[name]
    assert not fault, fault


def test_there_are_cases():
    assert len(NAMES) > 5
