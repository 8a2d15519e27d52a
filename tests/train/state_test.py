"""The train state: its start, and the average of what is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdx import types
from mdx.train import state as state_lib
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Two(types.Objective):
  """An objective of two parameters."""

  def init(self, key):
    return {"model": {"w": jax.random.normal(key, (3,)), "v": jnp.ones(2)}}


@pytest.mark.slow
def test_a_new_average_is_a_copy_so_that_both_can_be_donated():
  state = state_lib.init_fn(_Two(), optax.sgd(0.1), keep_ema=True)(rng.root(0))
  one, other = state.params["model"]["w"], state.ema["model"]["w"]
  assert one.unsafe_buffer_pointer() != other.unsafe_buffer_pointer()
  np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("keep_ema", [True, False])
def test_what_is_not_trained_has_neither_average_nor_moments(keep_ema):
  state = state_lib.init_fn(_Two(), optax.adam(0.1), keep_ema=keep_ema,
                            trains=lambda path: path == "model/w")(rng.root(0))
  assert {k: set(v) for k, v in state.ema.items()} == ({"model": {"w"}} if keep_ema else {})
  assert state.opt_state[0].mu["model"].keys() == {"w"} and int(state.step) == 0


def test_the_averaged_parameters_are_the_others_where_there_is_no_average():
  state = state_lib.init_fn(_Two(), optax.sgd(0.1), keep_ema=True,
                            trains=lambda path: path == "model/w")(rng.root(0))
  state = state._replace(ema={"model": {"w": jnp.zeros(3)}})
  found = state_lib.averaged(state)["model"]
  np.testing.assert_array_equal(found["w"], np.zeros(3))
  np.testing.assert_array_equal(found["v"], np.ones(2))
