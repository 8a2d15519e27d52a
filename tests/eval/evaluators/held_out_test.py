"""The held-out loss of other texts: that of the run's own for the same texts, and what is refused."""

import jax
import pytest

from mdx.build import setup as setup_lib
from mdx.utils import rng

import tiny


def _config(texts):
  config = tiny.config("diffusion")
  config.eval.evaluators = ("elsewhere",)
  config.eval.elsewhere = texts
  return config


@pytest.mark.slow
def test_the_same_texts_elsewhere_have_the_same_loss_and_others_another(tmp_path):
  own = tiny.config("diffusion").data.source.to_dict()
  texts = dict(same=own, other=own | dict(documents=tuple(x.upper() for x in own["documents"])))
  run = setup_lib.setup(_config(texts), str(tmp_path))
  jax.set_mesh(run.mesh)
  evaluators = run.evaluation().members
  params = jax.jit(run.objective.init)(rng.root(0))
  for quick in (True, False):
    found = evaluators["elsewhere"](params, {}, quick=quick)
    held_out = evaluators["loss"](params, {}, quick=quick)
    for name in ("nats_per_token", "nats_per_token_stderr", "bits_per_char"):
      assert found[f"same_{name}"] == held_out[name]
    assert found["other_nats_per_token"] != found["same_nats_per_token"]
  lines = evaluators["elsewhere"].text(found).splitlines()
  assert sorted(line.split()[0] for line in lines) == ["other", "same"]


@pytest.mark.parametrize("texts, message", [
    ({}, "which names none; set eval.elsewhere"),
    (dict(old=dict(name="text", path="nowhere.txt")), "eval.elsewhere.old: .*nowhere.txt"),
    (dict(old=dict(name="txt")), "eval.elsewhere.old: unknown .*name 'txt'")])
def test_texts_that_cannot_be_read_are_one_line_before_anything_runs(texts, message, tmp_path):
  with pytest.raises(ValueError, match=message) as error:
    setup_lib.setup(_config(texts), str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
