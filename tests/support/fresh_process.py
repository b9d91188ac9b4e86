"""Runs code in a fresh process, and tells which packages it loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from command_line import Answer, environment, fresh

HEAVY = ("tensorflow", "keras", "jax", "numpy", "pydantic", "yaml", "rich", "PIL", "matplotlib")

KERAS = ("tensorflow", "keras", "jax", "matplotlib")


def loaded_after(code: str, folder: Path) -> tuple[int, set[str], str]:
    """Return exit code, loaded packages and standard error of a fresh process."""
    program = (
        f"import atexit, sys, json\natexit.register(lambda: print('LOADED', json.dumps(sorted(sys.modules))))\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    last = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("LOADED "))
    return done.returncode, {name.partition(".")[0] for name in json.loads(last[7:])}, done.stderr


TELL_MEMORY = (
    "import atexit, pathlib, sys\n"
    "status = lambda: pathlib.Path('/proc/self/status').read_text()\n"
    "peak = lambda: [line.split()[1] for line in status().splitlines() if line.startswith('VmHWM')][0]\n"
    "atexit.register(lambda: pathlib.Path('peak').write_text(peak()))\n"
    "from wisesr_cli.__main__ import main\n"
    "main()"
)


def with_peak(folder: Path, *arguments: object) -> tuple[Answer, int]:
    """Run a command in a fresh process; return its answer and its peak of memory in megabytes."""
    answer = fresh(*arguments, cwd=folder, program=("-c", TELL_MEMORY))
    return answer, int((folder / "peak").read_text(encoding="ascii")) // 1024


def command(*words: str) -> str:
    return f"sys.argv = ['wisesr', *{list(words)!r}]\nfrom wisesr_cli.__main__ import main\nmain()"
