"""Many command lines of one command, each in a process of its own, for the price of loading the command once."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

STARTER = """
import importlib, json, os, sys
module, lines, results = json.loads(sys.argv[1])
sys.argv = [f"strega-{module}"]
cli = importlib.import_module(f"strega_jax.{module}").cli
for number, line in enumerate(lines):
    child = os.fork()
    if child == 0:
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{results}/{number}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv += line
        cli()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    open(f"{results}/{number}.code", "w").write(str(code))
"""


def run_lines(module: str, lines: Sequence[Sequence[str]], folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run `strega-MODULE` with each of the argument lists in `folder`; the processes are forked before JAX computes."""
    with tempfile.TemporaryDirectory() as results:
        given = json.dumps([module, [list(map(str, line)) for line in lines], results])
        starter = [sys.executable, "-W", "ignore", "-c", STARTER, given]
        subprocess.run(starter, cwd=folder, timeout=300, check=True, stdin=subprocess.DEVNULL)
        told = [
            [(Path(results) / f"{number}.{name}").read_text(encoding="utf-8") for name in ("code", "stdout", "stderr")]
            for number in range(len(lines))
        ]
    return [
        subprocess.CompletedProcess(line, int(code), stdout, stderr)
        for line, (code, stdout, stderr) in zip(lines, told, strict=True)
    ]
