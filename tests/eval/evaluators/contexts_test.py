"""Readings of long rows: their figures, what overlapping windows cost, and what is refused."""

import math

import jax
import numpy as np
import pytest

from mdx.build import setup as setup_lib
from mdx.utils import rng

import tiny

_LONG = dict(data__length=32, eval__evaluators=("contexts",), network__num_layers=1)


@pytest.mark.slow
def test_every_reading_has_its_perplexity_and_its_cost(tmp_path):
  run = setup_lib.setup(tiny.config("recurrent", **_LONG), str(tmp_path))
  jax.set_mesh(run.mesh)
  evaluators = run.evaluation().members
  params = jax.jit(run.objective.init)(rng.root(0))
  params["memory"]["out"]["kernel"] *= 10
  assert evaluators["contexts"](params, {}, quick=True) == {}
  found = evaluators["contexts"](params, {}, quick=False)
  loss = evaluators["loss"](params, {}, quick=False)
  assert math.log(found["perplexity_own"]) == pytest.approx(loss["nats_per_token"], rel=1e-5)
  assert found["perplexity_own"] != pytest.approx(found["perplexity_disjoint"], rel=1e-3)
  # Rows of 4 windows: overlapping ones are 4, and 3 and a half that are padded to 4.
  assert found["flops_overlapping"] == pytest.approx(2 * found["flops_disjoint"], rel=1e-6)
  assert found["flops_disjoint"] < found["flops_own"] < 2 * found["flops_disjoint"]
  assert all(found[f"temporaries_{name}"] > 0 for name in ("own", "disjoint", "overlapping"))
  text = evaluators["contexts"].text(found)
  assert [line.split()[0] for line in text.splitlines()] == [
      "reading", "own", "disjoint", "overlapping"]
  assert f"{found['perplexity_overlapping']:.2f}" in text and evaluators["contexts"].text({}) == ""
  assert np.isfinite(list(found.values())).all()


def test_an_objective_without_windows_is_refused(tmp_path):
  with pytest.raises(ValueError, match="which objective ar does not have; leave it out"):
    setup_lib.setup(tiny.config("ar", eval__evaluators=("contexts",)), str(tmp_path / "run"))
