"""Held-out texts with moving states: figures of every rate, and what is refused."""

import jax
import pytest

from mdx.build import setup as setup_lib
from mdx.utils import rng

import tiny

_SMALL = dict(network__num_layers=1, eval__moving=dict(window=8, rates=(0.01, 0.1)))


@pytest.mark.slow
def test_rate_0_is_the_plain_model_and_other_texts_are_read_alike(tmp_path):
  config = tiny.config("hidden_states", **_SMALL)
  config.eval.moving.other = config.data.source
  config.eval.evaluators = ("moving_states",)
  run = setup_lib.setup(config, str(tmp_path))
  jax.set_mesh(run.mesh)
  evaluators = run.evaluation().members
  params = jax.jit(run.objective.init)(rng.root(0))
  assert evaluators["moving_states"](params, {}, quick=True) == {}
  found = evaluators["moving_states"](params, {}, quick=False)
  loss = evaluators["loss"](params, {}, quick=False)
  assert found["moving_nats_0"] == pytest.approx(loss["nats_per_token"], rel=1e-4)
  assert found["moving_nats_0.1"] != pytest.approx(found["moving_nats_0"], rel=1e-4)
  for rate in ("0.01", "0.1"):
    assert found[f"other_nats_{rate}"] == found[f"moving_nats_{rate}"]
    assert found[f"other_gain_{rate}"] == found["other_nats_0"] - found[f"other_nats_{rate}"]
  text = evaluators["moving_states"].text(found)
  assert [line.split()[0] for line in text.splitlines()] == ["rate", "0", "0.01", "0.1"]
  assert evaluators["moving_states"].text({}) == ""


@pytest.mark.parametrize("name, changes, message", [
    ("mlm", {}, "from left to right, which objective mlm does not"),
    ("hidden_states", dict(data__isolate_documents=True), "set data.isolate_documents=False"),
    ("hidden_states", dict(eval__moving=dict(window=5)), "window 5 does not divide data.length 16"),
    ("hidden_states", dict(eval__moving=dict(window=8, rates=(0.0,))), "rates must be positive"),
    ("hidden_states", dict(network__max_length=20), "are 24 positions, more than network.max_len")])
def test_what_cannot_be_read_so_is_refused(name, changes, message, tmp_path):
  config = tiny.config(name, **dict(_SMALL if name == "hidden_states" else {}) | changes)
  config.eval.evaluators = ("moving_states",)
  with pytest.raises(ValueError, match=message) as error:
    setup_lib.setup(config, str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
