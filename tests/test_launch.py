"""The launchers in launch/: two local processes train as one, and every wrapper says what JAX and the site read."""

import inspect
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster

from conftest import small_run
from strega_jax import command
from strega_jax.models.calibration import load_calibration
from strega_jax.models.reference import load_reference
from strega_jax.run_config import as_config, as_run
from strega_jax.training.loop import train
from strega_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
# What a user may pass on, hard to quote on purpose.
LINE = ["--config=configs/paper_t1.py", "--workdir=gs://bucket/a run", "--config.data.lesions=('it\\'s $HOME/',)"]


def losses(workdir: Path) -> dict[int, float]:
    return {int(line["step"]): line["loss"] for line in read_metrics(workdir) if "loss" in line}


def launch(name: str, *arguments: str, bin_folder: Path | None = None, **environment: str) -> str:
    """Run a launcher with stand-ins from `bin_folder` before everything else on PATH; its standard output."""
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}" if bin_folder else os.environ["PATH"]
    done = subprocess.run(
        ["bash", str(LAUNCH / name), *arguments],
        cwd=ROOT, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def stand_in(folder: Path, name: str, script: str) -> Path:
    """An executable called `name` that runs `script` in bash."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)
    return path


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines()]


def test_two_processes_train_as_one_and_one_goes_on_from_their_checkpoint(disc_store, tmp_path):
    """Both sum over two devices, in another order: tolerance 2e-5 of the loss, as for one device and two."""
    # As small as can be, for every process compiles; with the detector's defaults spelt out, as in a config file.
    smallest = small_run(
        model={"maps": (8,)},
        training={"steps": 4, "validate_every": 2, "checkpoint_every": 2},
        postprocess={"threshold": "healthy"},
    )
    run = as_run(as_config(smallest))
    config = tmp_path / "config.py"
    config.write_text(
        "from strega_jax.config import Run\nfrom strega_jax.run_config import as_config\n"
        f"def get_config():\n    return as_config(Run.from_mapping({run.to_dict()!r}))\n"
    )
    two = tmp_path / "two"
    done = subprocess.run(
        ["bash", str(LAUNCH / "local_two_processes.sh"), f"--config={config}", f"--workdir={two}",
         f"--config.data.store={disc_store.path}"],
        cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert train(run, disc_store, tmp_path / "one") == 4
    assert done.stderr.count("parameters:") == 1, "only process 0 tells"
    assert len(list((two / "tensorboard").iterdir())) == 1, "only process 0 logs"
    lines = read_metrics(two)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "validation_loss" in line] == [2, 4]
    calibration = load_calibration(two)
    assert calibration is not None
    assert calibration.refinement == run.postprocess.refinement
    assert load_reference(two) is not None
    one = losses(tmp_path / "one")
    np.testing.assert_allclose([losses(two)[s] for s in one], list(one.values()), rtol=2e-5)

    shutil.rmtree(two / "checkpoints" / "4")
    assert train(run, disc_store, two) == 4
    np.testing.assert_allclose([losses(two)[s] for s in one], list(one.values()), rtol=2e-5)
    assert [line["step"] for line in read_metrics(two) if "loss" in line] == [1, 2, 3, 4]


def test_when_one_of_two_processes_fails_the_other_is_killed(tmp_path):
    python = stand_in(tmp_path / "bin", "python", f"""
        echo $$ >{tmp_path}/pid$JAX_PROCESS_ID
        if [[ $JAX_PROCESS_ID == 1 ]]; then
            until [[ -s {tmp_path}/pid0 ]]; do sleep 0.01; done
            exit 7
        fi
        trap '' TERM
        exec sleep 300""")  # fmt: skip
    done = subprocess.run(
        ["bash", str(LAUNCH / "local_two_processes.sh")], env={**os.environ, "PYTHON": str(python), "PORT": "1"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 7
    assert "status 7" in done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid0").read_text()), 0)


def test_sigterm_reaches_both_processes_and_is_waited_for(tmp_path):
    python = stand_in(tmp_path / "bin", "python", f"""
        trap 'sleep 0.2; echo saved >{tmp_path}/saved$JAX_PROCESS_ID; exit 0' TERM
        echo ready >{tmp_path}/ready$JAX_PROCESS_ID
        for _ in {{1..3000}}; do sleep 0.01; done""")  # fmt: skip
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "local_two_processes.sh")], env={**os.environ, "PYTHON": str(python), "PORT": "1"}
    )
    while not all((tmp_path / f"ready{i}").exists() for i in (0, 1)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert all((tmp_path / f"saved{i}").exists() for i in (0, 1))


def test_the_local_launcher_sets_what_initialize_is_given(tmp_path, monkeypatch):
    python = stand_in(tmp_path / "bin", "python", f"""
        env | grep ^JAX_ >{tmp_path}/env$JAX_PROCESS_ID
        printf '%s\\n' "$@" >{tmp_path}/arguments$JAX_PROCESS_ID""")  # fmt: skip
    launch("local_two_processes.sh", *LINE, PYTHON=str(python), PORT="23456")
    for index in (0, 1):
        for line in (tmp_path / f"env{index}").read_text().splitlines():
            monkeypatch.setenv(*line.split("=", 1))
        given = command._explicit_cluster()
        assert given == {"coordinator_address": "127.0.0.1:23456", "num_processes": 2, "process_id": index}
        inspect.signature(jax.distributed.initialize).bind(**given)
        arguments = (tmp_path / f"arguments{index}").read_text().splitlines()
        assert arguments == ["-m", "strega_jax.train", *LINE, "--distributed", "--cpu_devices=1"]


def test_a_tpu_pod_is_asked_for_and_every_worker_trains(tmp_path):
    stand_in(tmp_path / "bin", "gcloud", "exit 9")
    output = launch("tpu_pod.sh", "--dry_run", *LINE, bin_folder=tmp_path / "bin",
                    ZONE="us-west4-a", STORE="gs://bucket/store", QUEUE="--spot --network=fast")  # fmt: skip
    create, archive, copy, ssh = commands(output)
    assert create[:5] == ["gcloud", "compute", "tpus", "queued-resources", "create"]
    assert {"--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--zone=us-west4-a",
            "--node-id=strega", "--spot", "--network=fast"} <= set(create)  # fmt: skip
    assert archive[:2] == ["git", "archive"]
    assert "--worker=all" in copy
    assert "--worker=all" in ssh
    remote = shlex.split(ssh[-1])
    assert remote[-len(LINE) :] == LINE
    assert remote[-len(LINE) - 2 : -len(LINE)] == ["STORE=gs://bucket/store", "strega/launch/tpu_worker.sh"]


def test_a_tpu_pod_is_waited_for_and_not_asked_for_twice(tmp_path):
    record = tmp_path / "calls"
    stand_in(tmp_path / "bin", "sleep", "exit 0")
    stand_in(tmp_path / "bin", "git", "exit 0")
    stand_in(tmp_path / "bin", "gcloud", f"""
        if [[ $4 == describe ]]; then
            # nothing until it is created, then queued for a while
            [[ -e {tmp_path}/created ]] || exit 1
            echo x >>{tmp_path}/described
            (($(wc -l <{tmp_path}/described) > 5)) && echo ACTIVE || echo WAITING_FOR_RESOURCES
            exit
        fi
        [[ $4 == create ]] && touch {tmp_path}/created
        echo "$3 $4" >>{record}""")  # fmt: skip
    launch("tpu_pod.sh", *LINE, bin_folder=tmp_path / "bin", ZONE="z")
    assert record.read_text().splitlines() == ["queued-resources create", "tpu-vm scp", "tpu-vm ssh"]
    launch("tpu_pod.sh", *LINE, bin_folder=tmp_path / "bin", ZONE="z")
    assert record.read_text().splitlines()[3:] == ["tpu-vm scp", "tpu-vm ssh"]


def test_a_tpu_worker_makes_its_environment_and_trains():
    output = launch("tpu_worker.sh", "--dry_run", *LINE, STORE="gs://bucket/store", HOME="/home/me")
    *setup, training = commands(output)
    assert ["gcloud", "storage", "rsync", "--recursive", "gs://bucket/store", "/home/me/store"] in setup
    assert any("3.12" in line for line in setup), "TPU images bring Python 3.10"
    start = training.index("-m")
    assert training[:2] == ["sudo", "systemd-run"]
    assert training[start:] == ["-m", "strega_jax.train", *LINE, "--distributed",
                                "--config.data.store=/home/me/store"]  # fmt: skip


def test_the_jobset_has_what_jobset_gke_and_jax_need(tmp_path, monkeypatch):
    output = launch("gke.sh", "--dry_run", *LINE, IMAGE="image", STORE="gs://bucket/store", TOPOLOGY="16x16")
    *manifest, apply = output.splitlines()
    assert shlex.split(apply) == ["kubectl", "apply", "--filename=-"]
    jobset = yaml.safe_load("\n".join(manifest))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", jobset["metadata"]["name"])
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    [replicated] = jobset["spec"]["replicatedJobs"]
    assert set(replicated) == {"name", "replicas", "template"}
    job = replicated["template"]["spec"]
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    assert job["completions"] == job["parallelism"] == 64
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["nodeSelector"] == {"cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
                                   "cloud.google.com/gke-tpu-topology": "16x16"}  # fmt: skip
    [container] = pod["containers"]
    assert container["image"] == "image"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["args"] == [*LINE, "--config.data.store=/store", "--distributed"]
    assert "command" not in container, "the image's entry point is the train line"
    ports = {port["containerPort"] for port in container["ports"]}
    assert int(cloud_tpu_cluster.coordinator_port) in ports
    volumes = {volume["name"] for volume in pod["volumes"]}
    for user in [container, *pod["initContainers"]]:
        assert {mount["name"] for mount in user["volumeMounts"]} == volumes
    # What the manifest says GKE gives JAX is what JAX asks for.
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    assert "TPU_WORKER_HOSTNAMES" in text
    assert "TPU_WORKER_ID" in text
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b,c")
    monkeypatch.setenv("TPU_WORKER_ID", "2")
    assert clusters.GkeTpuCluster.is_env_present()
    assert clusters.GkeTpuCluster._get_worker_list_in_slice() == ["a", "b", "c"]
    assert clusters.GkeTpuCluster._get_process_id_in_slice() == 2


def test_gke_applies_what_the_dry_run_shows(tmp_path):
    stand_in(tmp_path / "bin", "kubectl", f"cat >{tmp_path}/applied")
    settings: Any = {"IMAGE": "image", "STORE": "gs://bucket/store"}
    shown = launch("gke.sh", "--dry_run", *LINE, **settings)
    launch("gke.sh", *LINE, bin_folder=tmp_path / "bin", **settings)
    assert (tmp_path / "applied").read_text() == "".join(shown.splitlines(keepends=True)[:-1])


def test_the_image_trains_from_what_it_copies():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    assert lines[-1] == 'ENTRYPOINT ["python", "-m", "strega_jax.train"]'
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line


def test_slurm_starts_a_process_a_gpu_and_jax_finds_them(tmp_path, monkeypatch):
    text = (LAUNCH / "slurm.sbatch").read_text()
    header = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert len(header) == text.count("#SBATCH")
    assert text.rindex("#SBATCH") < text.index("set -euo"), "SLURM reads no header after the first command"
    assert header["ntasks-per-node"] == header["gpus-per-node"]
    assert header["signal"].startswith("TERM@"), "to the processes, not (B:) to the batch shell"
    stand_in(tmp_path / "bin", "srun", f"printf '%s\\n' \"$@\" >{tmp_path}/arguments")
    tree = tmp_path / "tree"
    stand_in(tree / ".venv" / "bin", "python", "exit 9")
    subprocess.run(["bash", str(LAUNCH / "slurm.sbatch"), *LINE], cwd=tree, check=True, timeout=60,
                   env={**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"})  # fmt: skip
    arguments = (tmp_path / "arguments").read_text().splitlines()
    start = arguments.index(".venv/bin/python")
    assert "--gpu-bind=none" in arguments[:start], "JAX's device ids count all GPUs of the node"
    assert arguments[start + 1 :] == ["-m", "strega_jax.train", *LINE, "--distributed"]
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[3-4]", "SLURM_NTASKS": "16",
                        "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "2"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert command._explicit_cluster() == {}, "srun's variables are for JAX to find"
    address, count, index, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 1
    )
    assert address is not None
    assert address.startswith("node3:")
    assert (count, index, list(local or [])) == (16, 9, [1])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: the launchers were NOT checked")
    done = subprocess.run([shellcheck, "--external-sources", str(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_launcher_wraps_the_same_train_line():
    for path in [*SCRIPTS, LAUNCH / "Dockerfile"]:
        if path.name in ("dry_run.sh", "tpu_pod.sh", "gke.sh"):
            continue  # the first launches nothing, the others run tpu_worker.sh and the image
        assert re.search(r'-m"?,? "?strega_jax\.train', path.read_text()), path
