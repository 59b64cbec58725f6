"""What every command shares: its flags, Ctrl-C, and output that nobody reads."""

import ast
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from absl import flags

from strega_jax import command
from strega_jax.config import Run

ROOT = Path(__file__).parents[1]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

flags.DEFINE_bool("for_test", False, "A switch of the tests of the command line.")
flags.DEFINE_string("for_test_text", "", "A text of the tests of the command line.")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--for-test", "--for_test"),
        ("--no-for-test", "--nofor_test"),
        ("--nofor-test", "--nofor_test"),
        ("--for-test-text=a-b --config.model.per-slice=x-y", "--for_test_text=a-b --config.model.per_slice=x-y"),
        ("--for-test-text --a-b --c-d", "--for_test_text --a-b --c_d"),
        ("--for-test in-1 out-2 -- --a-b", "--for_test in-1 out-2 -- --a-b"),
    ],
)
def test_hyphens_in_the_names_of_flags_are_as_good_as_underscores(given, meant):
    assert command.with_underscores(given.split()) == meant.split()


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_every_command_starts_by_the_one_way_that_guards_it(script):
    module, function = script.split(":")
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
    (entry,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    called = [ast.unparse(node.func) for node in ast.walk(entry) if isinstance(node, ast.Call)]
    assert called == ["command.run"]


def test_the_console_scripts_help_names_every_field_of_the_config_with_what_the_source_says():
    code = "import sys; sys.argv[0] = 'strega-train'; from strega_jax.train import cli; cli()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Train a detector on healthy brains")
    assert "--workdir: Folder of the run" in done.stdout
    assert "--[no]debug: Show the traceback" in done.stdout
    assert "--config.training.epochs=70.0\n" in done.stdout
    shown, flat = done.stdout.splitlines(), " ".join(done.stdout.split())
    for section, settings in Run().to_dict().items():
        names = [f"{section}.{name}" for name in settings] if isinstance(settings, dict) and settings else [section]
        for name in names:
            assert any(line.startswith((f"  --config.{name}=", f"  --config.{name}.NAME")) for line in shown), name
    source = (ROOT / "strega_jax" / "config.py").read_text()
    fields = source[source.index("class Preprocess") : source.index("    @classmethod")]
    comments = re.findall(r"^ {4}(?:\w+: .*? {2})?# (.*)$", fields, re.MULTILINE)
    assert len(comments) > 40
    for comment in comments:
        assert comment in flat


HEAVY = {
    "jax",
    "flax",
    "scipy",
    "nibabel",
    "orbax",
    "grain",
    "optax",
    "matplotlib",
    "skimage",
    "PIL",
    "pydicom",
    "cc3d",
}
LOADED = """
import atexit, importlib, sys
atexit.register(lambda: print("loaded:", *{name.split(".")[0] for name in sys.modules}))
importlib.import_module(sys.argv.pop(1)).cli()
"""


@pytest.mark.parametrize("ending", ["--help", "--config=strega --helpp"])
@pytest.mark.parametrize("script", SCRIPTS.values())
def test_a_help_text_and_a_misspelt_flag_wait_for_no_library_of_the_work(script, ending):
    line = [sys.executable, "-c", LOADED, script.split(":")[0], *ending.split()]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    told, _, loaded = done.stdout.partition("loaded: ")
    assert done.returncode == (ending != "--help")
    assert ("python -m strega_jax." in told) == (ending == "--help")
    assert ("Unknown command line flag 'helpp'" in done.stderr) == (ending != "--help")
    assert not HEAVY & set(loaded.split())


def test_the_benchmark_of_start_up_times_a_help_text():
    line = [sys.executable, ROOT / "benchmarks" / "startup.py", "--runs=1", "--nopredict", "--commands=strega-doctor"]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
    rows = [row.strip("|").split("|") for row in done.stdout.splitlines()]
    ratios = {name.strip(): float(ratio) for name, _, ratio in rows[2:]}
    assert set(ratios) == {"import jax, flax, scipy, nibabel", "strega-doctor --help", "strega-doctor, misspelt"}
    assert min(ratios.values()) > 0


# A command of two threads, and an unneeded line at each step.
WORK = """
import pathlib, sys, tempfile, time
sys.argv[0] = "strega-test"
from strega_jax import command
from strega_jax.pipeline import in_threads
from strega_jax.scans.files import appearing_in

def work(number):
    with appearing_in("out") as folder:
        (folder / str(number)).write_text("half")
        sys.stdout.write("at work\\n")  # in one piece, for threads
        sys.stdout.flush()
        time.sleep(float(sys.argv[1].split("=")[1]))

def main():
    for number, _, error in in_threads(range(30), work, 2):
        print("done", number, error, flush=True)
        print("done", number, error, file=sys.stderr, flush=True)
    pathlib.Path("end").touch()
    return 7

from absl import flags
flags.DEFINE_float("seconds", 0, "")
command.run(main)
"""


def start(folder: Path, code: str, **streams) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, "--seconds=0.3"], cwd=folder, env=ENVIRONMENT, **streams)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> tuple[Path, int, str]:
    folder = tmp_path_factory.mktemp("interrupted")
    with start(folder, WORK, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    return folder, process.returncode, errors


def test_ctrl_c_ends_in_one_line_and_leaves_nothing_half_written(interrupted):
    folder, code, errors = interrupted
    assert code == 130
    told = [line for line in errors.splitlines() if line and not line.startswith("done")]
    assert told == ["interrupted: what is complete is kept"]
    # What was at work came to its end, and not everything was begun; a slow machine may have begun a third.
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert {"out", "out/0"} <= left <= {"out", *(f"out/{number}" for number in range(10))}


@pytest.mark.parametrize(
    ("loaded", "told"),
    [("absl", "interrupted before anything was done"), ("jax._src", "interrupted: what is complete is kept")],
)
def test_ctrl_c_while_a_command_is_loaded_ends_in_one_line(loaded, told, tmp_path):
    command_line = [sys.executable, "-X", "importtime", "-m", "strega_jax.doctor"]
    with subprocess.Popen(command_line, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        lines, sent = [], False
        for line in process.stderr:
            if loaded in line and not sent:  # the package is there, what it needs is still being loaded
                process.send_signal(signal.SIGINT)
                sent = True
            if not line.startswith("import time:"):
                lines.append(line)
    assert process.returncode == 130
    assert "".join(lines).strip() == told


def test_ctrl_c_waits_until_a_module_is_loaded(tmp_path):
    # As a compiled module that drops what is raised in it, or crashes by it.
    drops = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    sum(range(10**6))\n"
    (tmp_path / "drops.py").write_text(drops + "except KeyboardInterrupt:\n    print('raised too early')\nloaded = 1\n")
    code = (
        "from strega_jax import command\ndef main():\n    import time, drops\n    print('loaded')\n    time.sleep(30)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + "command.run(main)"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130
    assert done.stdout in ("", "loaded\n")
    assert done.stderr.strip() == "interrupted: what is complete is kept"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-", "| head -n 1"])
def test_output_that_nobody_reads_stops_no_work(closed, tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    line = f"{sys.executable} work.py --seconds=0 {closed}; echo ${{PIPESTATUS[0]}} > code"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=60, check=False)
    assert (tmp_path / "code").read_text() == "7\n"
    assert (tmp_path / "end").exists()
    assert [(tmp_path / "out" / str(number)).read_text() for number in range(30)] == ["half"] * 30


def test_a_terminal_of_another_encoding_gets_what_it_can_show(tmp_path):
    code = "from strega_jax import terminal; terminal.make_ready(); print('a → ü')"
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "a \\u2192 \\xfc\n"


def test_the_version_is_told_whatever_else_is_missing():
    done = subprocess.run(
        [sys.executable, "-m", "strega_jax.segment", "--version"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"strega-jax {command.version()}\n")


def test_places_where_no_results_can_be_are_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    assert command.output_folder(str(tmp_path / "new" / "er")) == tmp_path / "new" / "er"
    for place in ("file", "file/below"):
        with pytest.raises(command.ConfigError, match="is a file; name a folder"):
            command.output_folder(str(tmp_path / place))
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(command.ConfigError, match="nothing can be written"):
            command.output_folder(str(tmp_path / "locked"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another C library")
def test_a_command_keeps_freed_memory_before_it_does_anything():
    program = (
        "import sys; from strega_jax import command, memory;"
        "memory.keep_freed_memory = lambda: print('kept', 'jax' in sys.modules);"
        "sys.argv = ['strega-test']; command.run(lambda: print('done') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["kept", "False", "done"]


ENDING = """
import atexit, sys
from strega_jax import command

class Held:
    def __del__(self):
        print("taken apart")

held = Held()

def main():
    atexit.register(print, "handled")
    print("done")
    return 3

try:
    command.run(main)
except SystemExit as end:
    code = end.code
sys.exit(code + 1)
"""


@pytest.mark.parametrize(
    ("name", "code", "printed"),
    [("strega-test", 3, ["done", "handled"]), ("study.py", 4, ["done", "handled", "taken apart"])],
)
def test_a_command_ends_after_all_exit_handlers_and_a_program_that_calls_it_as_ever(name, code, printed, tmp_path):
    (tmp_path / name).write_text(ENDING)
    done = subprocess.run([sys.executable, str(tmp_path / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (code, printed), done.stderr


def test_predict_loads_no_pydicom_for_nifti_and_leaves_it_to_be_loaded():
    pytest.importorskip("pydicom", reason="no pydicom: nothing to leave out")
    program = """
import sys
from strega_jax import predict
predict._load_nibabel()
print("nibabel" in sys.modules, any(name.startswith("pydicom") for name in sys.modules))
import pydicom
print(pydicom.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "pydicom"]
