"""Job arrays: each process does one share of the scans, and all of them may write into one folder at once."""

import json
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from strega_jax import command
from strega_jax.errors import ConfigError
from strega_jax.inference.jobs import make_jobs
from strega_jax.inference.sessions import group_sessions
from strega_jax.output import group
from strega_jax.scans.case import Case
from strega_jax.scans.splits import share_of

DOCS = Path(__file__).parents[1] / "docs" / "launching.md"
SCANS = st.sets(
    st.tuples(st.sampled_from("abcdefg"), st.sampled_from(["", "ses-1", "ses-2"]), st.sampled_from(["T1w", "FLAIR"]))
)


def case_of(subject: str, session: str, contrast: str) -> Case:
    name = "_".join(part for part in (f"sub-{subject}", session, contrast) if part)
    return Case("cohort", f"sub-{subject}", session, contrast, Path(f"{name}.nii.gz"), None, name)


@settings(max_examples=60, deadline=None)
@given(SCANS, st.integers(1, 9))
def test_shares_are_disjoint_and_together_everything_and_sessions_stay_whole(scans, count):
    cases = [case_of(*scan) for scan in scans]
    shares = [share_of(cases, index, count) for index in range(count)]
    assert sorted(case.name for share in shares for case in share) == sorted(case.name for case in cases)
    assert shares == [[case for case in cases if case in share] for share in shares]
    assert shares == [sorted(share_of(cases[::-1], i, count), key=cases.index) for i in range(count)]
    subjects = [len({case.subject for case in share}) for share in shares]
    assert max(subjects) - min(subjects) <= 1
    sessions = [session.name for share in shares for session in group_sessions(make_jobs(share, Path("out")))]
    assert sorted(sessions) == sorted(session.name for session in group_sessions(make_jobs(cases, Path("out"))))


def test_shares_count_from_one():
    assert [command.share(f"{i}/3") for i in (1, 2, 3)] == [(0, 3), (1, 3), (2, 3)]
    assert command.share(None) == (0, 1)


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "-1/4", "1/0", "0/0", "a/b", "1/4/4", "1.0/4", "1/", "²/4"])
def test_a_wrong_share_is_told_in_one_line(text):
    with pytest.raises(ConfigError, match=f"^--shard={re.escape(text)}: i/n is wanted, .* e.g. 1/4$"):
        command.share(text)


def add_result(folder: Path, name: str) -> None:
    content = {"anomaly_ml": 1.0, "brain_ml": 1000.0, "components": [], "quality_control": [], "name": name}
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_boxes.json").write_text(json.dumps(content))


def listed(folder: Path) -> list[str]:
    return [line.split("\t")[0] for line in (folder / "group.tsv").read_text().splitlines()[1:]]


def test_an_older_list_of_results_never_replaces_a_newer_one(tmp_path, monkeypatch):
    add_result(tmp_path, "a")
    inner, others = group.write_tsv, []

    def slow(path, rows):
        """Another process ends between this one's look at the results and its word on them."""
        if not others:
            add_result(tmp_path, "b")
            others.append(threading.Thread(target=group.write_group, args=(tmp_path,)))
            others[0].start()
            others[0].join(timeout=0.5)
        inner(path, rows)

    monkeypatch.setattr(group, "write_tsv", slow)
    assert group.write_group(tmp_path) == 1
    others[0].join(timeout=60)
    assert listed(tmp_path) == ["a", "b"]
    assert ">b<" in (tmp_path / "group.html").read_text()


def test_where_no_lock_can_be_had_the_list_is_written_all_the_same(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(group.fcntl, "flock", refused)
    add_result(tmp_path, "a")
    assert group.write_group(tmp_path) == 1
    assert listed(tmp_path) == ["a"]


def test_what_another_process_is_writing_is_not_listed(tmp_path):
    add_result(tmp_path, "a")
    add_result(tmp_path / ".writing-x", "b")
    assert group.write_group(tmp_path) == 1
    assert listed(tmp_path) == ["a"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A `python` that prints its arguments."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    return {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def recipe(heading: str) -> str:
    """The first block of code after a heading of the documentation."""
    return re.split(r"```\w*\n", DOCS.read_text().split(f"**{heading}")[1])[1]


def shard_named_by(command_line: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command_line, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("-m strega_jax.predict --input=")
    return done.stdout.split("--shard=")[1].strip()


def test_the_recipe_for_slurm_names_every_share(environment):
    script = recipe("SLURM array")
    first, last = re.findall(r"--array=(\d+)-(\d+)", script)[0]
    for index in (first, last):
        variables = {"SLURM_ARRAY_TASK_ID": index, "SLURM_ARRAY_TASK_COUNT": last}
        named = shard_named_by(["bash", "-uc", script], environment | variables)
        assert named == f"{index}/{last}"
        command.share(named)


def test_the_recipe_for_kubernetes_names_every_share(environment):
    job = yaml.safe_load(recipe("Kubernetes"))["spec"]
    assert job["completionMode"] == "Indexed"
    (container,) = job["template"]["spec"]["containers"]
    count = job["completions"]
    for index in (0, count - 1):
        variables = {"JOB_COMPLETION_INDEX": str(index)}
        named = shard_named_by([*container["command"], *container["args"]], environment | variables)
        assert named == f"{index + 1}/{count}"
