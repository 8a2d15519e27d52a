"""A run on 8 devices is the run on one, for every mesh, and compiles its step once.

The vocabulary of 11 ids is padded to 16 rows, so that the tensor axis divides it.
"""

import functools
import logging
import re

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import tiny

from mdx import sharding
from mdx.networks import transformer
from mdx.objectives.causal import ar
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.tokens import mlm
from mdx.train import loop
from mdx.train import optimizer as optimizer_lib
from mdx.train import state as state_lib
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

STEPS, ROWS, LENGTH = 3, 16, 8
# Adam divides by the gradient: where that is rounding noise, a small eps would amplify it.
OPTIMIZER = optimizer_lib.Optimizer(learning_rate=1e-2, warmup_steps=0, eps=1e-4)
OBJECTIVES = {
    "bernoulli": functools.partial(diffusion.MaskedDiffusion, mask_draw="bernoulli"),
    "exact_count": functools.partial(diffusion.MaskedDiffusion, mask_draw="exact_count"),
    # Every kind of draw that a masked LM has: spans of words, static masks, a rate that moves.
    "mlm": functools.partial(
        mlm.MaskedLM, unit="whole_word", word_edges=np.arange(32).reshape(16, 2) >= 12, span_max=3,
        mask_draw="exact_count", mask_rate=0.4, final_mask_rate=0.2, anneal_steps=2, num_masks=2),
    "ar": ar.AutoRegressive,
}
POSITIONS = dict(bernoulli="learned", exact_count="learned", mlm="rope", ar="rope")
MESHES = {
    "data8": dict(data=8),
    "fsdp8": dict(fsdp=8),
    "data2_fsdp2_tensor2": dict(data=2, fsdp=2, tensor=2),
    "fsdp2_tensor2_sequence2": dict(fsdp=2, tensor=2, sequence=2),
    "replica2_data2_tensor2": dict(replica=2, data=2, tensor=2),
}
RUNS = ([("exact_count", mesh) for mesh in MESHES]
        + [("bernoulli", "data2_fsdp2_tensor2"), ("mlm", "fsdp2_tensor2_sequence2"),
           ("ar", "data2_fsdp2_tensor2"), ("ar", "fsdp2_tensor2_sequence2")])
QUICK = (("exact_count", "fsdp2_tensor2_sequence2"),)


def _batch(step):
  """Rows of unequal length, two documents in each."""
  draw = np.random.default_rng(step)
  first = draw.integers(1, LENGTH, (ROWS, 1))
  place = np.arange(LENGTH)[None]
  real = place < draw.integers(4, LENGTH + 1, (ROWS, 1))
  return {"tokens": draw.integers(0, 10, (ROWS, LENGTH)).astype(np.int32), "loss_mask": real,
          "segment_ids": np.where(real, 1 + (place >= first), 0).astype(np.int32),
          "positions": np.where(place >= first, place - first, place).astype(np.int32)}


def _run(name, mesh, table=None, **fields):
  """Three steps as `modes.train` makes them: final state, loss and gradient norm of each."""
  jax.set_mesh(mesh)
  spec = transformer.Transformer(**dict(num_layers=2, width=16, num_heads=4, mlp_width=24,
                                        vocab_size=11, position=POSITIONS[name]) | fields)
  objective = OBJECTIVES[name](network=spec.network(), mask_id=10)
  optimizer = OPTIMIZER.build(STEPS, tiny.PARTS)
  init = state_lib.init_fn(objective, optimizer, keep_ema=True)
  state = state_lib.create(init, rng.root(7), tiny.PARTS, mesh, table)
  step = jax.jit(
      step_lib.make_step(objective, optimizer, seed=7, rate=OPTIMIZER.rate(STEPS), ema_decay=0.9),
      donate_argnums=0, out_shardings=(jax.tree.map(lambda x: x.sharding, state), None))
  logged = []
  for i in range(STEPS):
    state, metrics = step(state, loop.place(_batch(i), i, mesh), {})
    logged.append({k: metrics[k][0] for k in ("loss", "grad_norm")})
  return state, jax.device_get(logged)


@functools.cache
def _on_one_device(name):
  state, logged = _run(name, sharding.make_mesh({}, devices=jax.devices()[:1]))
  return jax.device_get(state), logged


def _assert_same_run(found, expected):
  (state, logged), (other_state, other_logged) = found, expected
  for one, other in zip(logged, other_logged):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), one, other)
  for part in ("params", "ema"):
    others = tree.flatten(getattr(other_state, part))
    for path, leaf in tree.flatten(getattr(state, part)).items():
      # As a whole: Adam blows up the rounding of single gradients near zero.
      error = np.linalg.norm(leaf - others[path])
      assert error <= 1e-5 * np.linalg.norm(others[path]), (path, error)


@pytest.mark.parametrize("name,mesh", [
    run if run in QUICK else pytest.param(*run, marks=pytest.mark.slow) for run in RUNS])
def test_eight_devices_train_what_one_device_trains_and_compile_once(name, mesh, caplog, capfd):
  expected = _on_one_device(name)
  with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
    found = _run(name, sharding.make_mesh(MESHES[mesh]))
  compiled = [r.getMessage() for r in caplog.records]
  assert sum(bool(re.match(r"Compiling jit\(step\)", text)) for text in compiled) == 1
  # XLA says so when it has to replicate an activation of the whole batch on every device.
  assert "Involuntary full rematerialization" not in capfd.readouterr().err
  state, logged = found
  _assert_same_run((jax.device_get(state), logged), expected)
  assert logged[2]["loss"] < logged[0]["loss"] * 2 and int(state.step) == STEPS
  embedding = state.params["model"]["embed"]["embedding"]
  if MESHES[mesh].get("tensor"):
    assert embedding.shape == (16, 16) and embedding.sharding.spec == P("tensor", "fsdp")


@pytest.mark.slow
def test_key_value_heads_that_are_not_sharded_may_be_fewer_than_the_tensor_axis():
  fields = dict(num_kv_heads=1, num_layers=1)
  one = _run("mlm", sharding.make_mesh({}, devices=jax.devices()[:1]), **fields)
  one = jax.device_get(one[0]), one[1]
  table = dict(vocab="tensor", embed="fsdp", mlp="tensor", heads="")
  state, logged = _run("mlm", sharding.make_mesh(dict(data=4, tensor=2)), table, **fields)
  _assert_same_run((jax.device_get(state), logged), one)
