"""Checkpoints in a bucket, of a server that stands in for Google's (gcp-storage-emulator)."""

import json
import socket

import jax
import numpy as np
import pytest
import tiny

from mdx import checkpoint
from mdx import main
from mdx import modes

server_lib = pytest.importorskip("gcp_storage_emulator.server")
pytest.importorskip("gcsfs")
_FOLDER = "gs://bucket/runs/a"


@pytest.fixture(scope="module")
def bucket():
  """A bucket in memory; returns what lists its objects."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  server = server_lib.create_server("localhost", port, in_memory=True, default_bucket="bucket")
  server.start()
  url = f"http://localhost:{port}"
  with pytest.MonkeyPatch.context() as patch:
    for name, value in (("STORAGE_EMULATOR_HOST", url), ("TENSORSTORE_GCS_HTTP_URL", url),
                        ("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none"), ("GOOGLE_CLOUD_PROJECT", "p")):
      patch.setenv(name, value)
    yield checkpoint.epath.Path("gs://bucket")
  server.stop()


@pytest.mark.slow
def test_a_run_keeps_its_checkpoints_in_a_bucket_and_goes_on_from_them(bucket, tmp_path):
  config = tiny.config("diffusion", steps=6, checkpoint_steps=2, log_steps=1,
                       checkpoint__directory=_FOLDER)
  modes.run("train", config, str(tmp_path / "run"))
  assert sorted(x.name for x in (bucket / "runs/a").iterdir()) == ["4", "6"]  # the newest two
  assert not (tmp_path / "run" / "checkpoints").exists()
  losses = _losses(tmp_path / "run")

  # Cut short while the last one was written: its objects are there, but for the last of them.
  (bucket / "runs/a/6" / checkpoint._COMPLETE).unlink()  # pylint: disable=protected-access
  (tmp_path / "run" / "results.json").unlink()
  assert checkpoint.Checkpoints("", directory=_FOLDER).steps() == [4]
  modes.run("train", config, str(tmp_path / "run"))
  assert _losses(tmp_path / "run") == losses and len(losses) == 6
  assert checkpoint.Checkpoints("", directory=_FOLDER).steps() == [6, 4]

  # What reads a run finds them by its workdir.
  config.init.checkpoint = str(tmp_path / "run")
  evaluated = modes.run("eval", config, str(tmp_path / "eval"))
  trained = json.loads((tmp_path / "run" / "results.json").read_text())
  np.testing.assert_allclose(evaluated["bits_per_char"], trained["bits_per_char"], rtol=1e-6)

  config.init.checkpoint = ""
  config.checkpoint.directory = "gs://bucket/runs/b"
  with pytest.raises(ValueError, match=r"keeps its checkpoints in gs://bucket/runs/a, not"):
    modes.run("train", config, str(tmp_path / "run"))


def _losses(workdir):
  lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [x["loss"] for x in lines if x["kind"] == "train"]


@pytest.mark.release
@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(bucket):
  items = {"params": {"w": jax.numpy.arange(4.0)}, "extra": {}}
  checkpoints = checkpoint.Checkpoints("", directory="gs://bucket/runs/c/saved")
  for step in (1, 2):
    checkpoints.save(step, items, data=None, meta={"step": step})
  checkpoints.close()
  for file in (bucket / "runs/c/saved/2/params").glob("*"):
    if file.is_file():
      file.unlink()
  step, found = checkpoint.Checkpoints("", directory="gs://bucket/runs/c/saved").restore(items)
  assert step == 1 and found["params"]["w"].tolist() == [0, 1, 2, 3]
  assert (bucket / "runs/c/damaged_checkpoints/2").is_dir()


@pytest.mark.parametrize("workdir, directory, message", [
    ("gs://bucket/run", "", "workdir gs://bucket/run is a URL"),
    ("run", "s3://bucket/run", "neither a path nor a bucket"),
])
def test_what_is_no_place_for_checkpoints_is_bad_input(workdir, directory, message, tmp_path,
                                                       monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  config = tiny.config("diffusion", checkpoint__directory=directory)
  assert main._run(config, workdir, False, False) == main.BAD_INPUT  # pylint: disable=protected-access
  assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
