"""Frozen models that are the run's own at the start."""

import json

import numpy as np
import pytest

from mdx import modes
from mdx.build import setup as setup_lib
from mdx.utils import tree

import tiny

SMALL = dict(steps=3, log_steps=1, checkpoint_steps=3, eval_steps=0, objective__num_draws=2)


def _base(tmp_path, **changes):
  config = tiny.config("sft", steps=2, network__width=32, **changes)
  modes.run("train", config, str(tmp_path / "base"))
  return str(tmp_path / "base")


def test_without_weights_to_start_from_there_is_no_initial_model(tmp_path):
  with pytest.raises(ValueError, match="frozen.reference.checkpoint is 'init', the weights that "
                                       "the run starts from, and init.checkpoint is empty"):
    setup_lib.setup(tiny.config("preference", **SMALL), str(tmp_path))


@pytest.mark.slow
def test_the_reference_stays_what_the_run_started_from_over_a_restart(tmp_path):
  config = tiny.config("preference", network__width=32, init__checkpoint=_base(tmp_path), **SMALL)
  results = modes.run("train", config, str(tmp_path / "run"))
  lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  losses = [x["loss"] for x in lines if x["kind"] == "train"]
  np.testing.assert_allclose(losses[0], np.log(2), rtol=1e-5)
  assert losses[1] != losses[0] and 0 <= results["pair_accuracy"] <= 1
  run = setup_lib.setup(config, str(tmp_path / "run"))
  frozen = setup_lib.load_frozen(run)["reference"]
  start = tiny.stored(tmp_path / "base")[1]["params"]
  found, expected = tree.flatten(frozen), tree.flatten(start)
  assert found.keys() == expected.keys()
  for path, leaf in found.items():
    np.testing.assert_array_equal(leaf, expected[path])
