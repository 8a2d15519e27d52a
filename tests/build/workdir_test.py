"""The workdir of a run: one run at a time, nothing left of a refused one, foreign weights refused."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from mdx.build import workdir as workdir_lib

_HOLDER = """
import pathlib, sys, time
from mdx.build import workdir
with workdir.in_use(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(60)
"""


@pytest.mark.slow
def test_a_second_run_in_a_workdir_is_refused_and_a_killed_one_frees_it(tmp_path):
  path = tmp_path / "run"
  with subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE,
                        text=True, cwd=pathlib.Path(__file__).parents[2]) as holder:
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="in use by another run that has not ended; wait for it"):
      with workdir_lib.in_use(path):
        pass
    with workdir_lib.in_use(path, alone=False):
      pass  # an evaluation may look on
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
  with workdir_lib.in_use(path):
    (path / "results.json").write_text("{}")
  assert path.exists()


def test_of_a_refused_run_no_folder_is_left(tmp_path):
  (tmp_path / "here").mkdir()
  for path in (tmp_path / "a" / "b", tmp_path / "here"):
    with pytest.raises(ValueError, match="no"), workdir_lib.in_use(path):
      raise ValueError("no")
  assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_a_workdir_that_cannot_be_written_is_refused_in_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "run"):
    with pytest.raises(ValueError, match="cannot be written .* use another --workdir"):
      with workdir_lib.in_use(path):
        pass


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"hash": "first"}))
  expected = {"hash": "now", "tokenizer": "t"}
  for stored in ({"hash": "first", "tokenizer": "t"}, {"hash": "now", "tokenizer": "t"}, {}):
    workdir_lib.check_meta(tmp_path, stored, expected)
  for stored in ({"hash": "other", "tokenizer": "t"}, {"hash": "now", "tokenizer": "u"}):
    with pytest.raises(ValueError, match="are those of another run"):
      workdir_lib.check_meta(tmp_path, stored, expected)
