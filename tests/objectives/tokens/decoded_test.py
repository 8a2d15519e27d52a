"""MLM with a decoder that serving leaves out.

Reference: Liang et al. 2024, arXiv:2401.15861.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import model as model_lib
from mdx import types
from mdx.build import setup as setup_lib
from mdx.modes import export as exporting
from mdx.networks import attention as attention_lib
from mdx.networks import visibility
from mdx.objectives.tokens import decoded
from mdx.objectives.tokens import mlm
from mdx.utils import rng

import encoder_nets as nets
import oracle
import tiny

NETWORK = nets.network("lm")
DECODERS = ("plain", "gua", "emd")


def _objective(**fields):
  return decoded.DecodedLM(network=NETWORK, mask_id=nets.MASK_ID,
                           **{"mask_rate": 0.4, "replace_mask_rate": 0.9, **fields})


def _grad(objective, params, rows):
  return jax.value_and_grad(lambda p: objective(p, rows, nets.CONTEXT)[0]["mlm"])(params)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_without_its_share_the_decoder_changes_nothing_and_learns_nothing(decoder):
  objective = _objective(decoder=decoder, decoder_rate=0.0)
  plain = mlm.MaskedLM(network=NETWORK, mask_id=nets.MASK_ID, mask_rate=0.4, replace_mask_rate=0.9)

  @jax.jit
  def run(rows):
    params, key = objective.init(rng.root(1)), rng.root(0)
    one, _ = objective.prepare(params, rows, key, nets.CONTEXT)
    other, _ = plain.prepare(params, rows, key, nets.CONTEXT)
    ours = lambda share: _grad(objective, params, one | {
        "decoder_share": share * jnp.ones(rows["tokens"].shape)})
    return (one["decoder_share"], ours(0.0), ours(1.0),
            _grad(plain, {"model": params["model"]}, other))

  share, (total, grads), (_, full), (expected, wanted) = run(nets.batch(4))
  assert not np.asarray(share).any()
  np.testing.assert_allclose(total, expected, rtol=1e-6)
  jax.tree.map(lambda *x: np.testing.assert_allclose(*x, atol=1e-6),
               grads["model"], wanted["model"])
  assert len(jax.tree.leaves(grads["decoder"])) and all(not np.asarray(x).any() for x in jax.tree.leaves(grads["decoder"]))
  assert len(jax.tree.leaves(full["decoder"])) and all(np.asarray(x).any() for x in jax.tree.leaves(full["decoder"]))


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["example", "token", "convex"])
def test_states_are_mixed_as_they_are_drawn(mix):
  objective = _objective(mix=mix, decoder_rate=0.3)
  rows, _ = nets.prepare(objective, nets.batch(2000))
  share = np.asarray(rows["decoder_share"])
  if mix != "token":
    assert (share == share[:, :1]).all()
    share = share[:, 0]
  if mix == "convex":
    assert 0 <= share.min() < share.max() < 0.3 and abs(share.mean() - 0.15) < 0.01
  else:
    assert set(share.ravel()) == {0.0, 1.0} and abs(oracle.z_score(share.ravel() > 0, 0.3)) < 4
  rows = {k: v[:3] for k, v in rows.items()}
  params = jax.jit(objective.init)(rng.root(1))
  read = jax.jit(lambda share: objective.read(
      params, rows | {"decoder_share": jnp.full(rows["tokens"].shape, share)}, nets.CONTEXT)[1])
  first, half, second = (np.asarray(read(x)) for x in (0.0, 0.5, 1.0))
  assert np.abs(first - second).max() > 0.1
  np.testing.assert_allclose(half, (first + second) / 2, atol=1e-5)


def test_masks_are_revealed_in_two_layers_and_other_places_are_always_seen():
  rows, _ = nets.prepare(_objective(reveal_rate=0.25), nets.batch(2000))
  is_masked, hidden = (np.asarray(x) for x in (rows["noisy_tokens"] == nets.MASK_ID,
                                               rows["is_hidden"]))
  assert not hidden[~is_masked].any() and abs(oracle.z_score(hidden[is_masked], 0.75)) < 4
  first, *rest = visibility.Unmasking(rows["is_hidden"]).of_layers(3)
  positions = jnp.arange(nets.LENGTH)[None]
  seen = np.asarray(attention_lib.visible(first, positions, None))[:, 0]
  np.testing.assert_array_equal(seen, ~hidden[:, None] | np.eye(nets.LENGTH, dtype=bool))
  assert [attention_lib.visible(value, positions, None) for value in rest] == [None, None]


@pytest.mark.slow
def test_a_hidden_mask_reaches_the_others_only_in_the_second_block():
  """With one block that hides all masks, what stands at one changes itself alone."""
  objective = _objective(decoder_layers=2)
  tokens = jnp.zeros((2, nets.LENGTH), jnp.int32)
  attention = visibility.Unmasking(tokens.at[:, 4].set(1) > 0)

  @jax.jit
  def run():
    params = objective.init(rng.root(1))["decoder"]
    hidden = jax.random.normal(rng.root(2), (1, nets.LENGTH, 16))
    states = jnp.concatenate([hidden, hidden.at[0, 4].add(1.0)])
    out = []
    for layers, value in ((1, attention), (2, attention), (1, attention_lib.Full())):
      part = params | {"layers": jax.tree.map(lambda x, n=layers: x[:n], params["layers"])}
      out.append(NETWORK.vary(num_layers=layers).encode(
          part, types.Inputs(None, states=states), attention=value).last)
    return out

  changed = [np.flatnonzero((np.abs(x[0] - x[1]) > 1e-6).any(axis=1)).tolist()
             for x in map(np.asarray, run())]
  assert changed == [[4], list(range(nets.LENGTH)), list(range(nets.LENGTH))]


@pytest.mark.slow
def test_the_enhanced_mask_decoder_reads_the_encoder_at_every_step():
  """Two steps of one block equal runs of each query by itself, with keys of the encoder."""
  objective, length = _objective(decoder="emd", decoder_rate=1.0), nets.LENGTH

  @jax.jit
  def run(rows):
    params = objective.init(rng.root(1))
    rows, _ = objective.prepare(params, rows, rng.root(0), nets.CONTEXT)
    hidden = objective.encode(NETWORK, params["model"], rows["noisy_tokens"], rows)
    queries = hidden + params["decoder"]["position_embed"]["embedding"][None, :length]
    # A row for each query: as often as there are keys, then the keys.
    each = lambda x: x.reshape((-1, 1) + x.shape[2:]).repeat(length, axis=1)
    keys = lambda x: x.repeat(length, axis=0)
    segments = rows["segment_ids"]
    both = jnp.concatenate([each(segments), keys(segments)], axis=1)
    for _ in range(2):
      states = jnp.concatenate([each(queries), keys(hidden)], axis=1)
      queries = objective.decoder_network.encode(
          params["decoder"], types.Inputs(None, segment_ids=both, states=states),
          attention=visibility.Crossed()).last[:, 0].reshape(hidden.shape)
    return objective.read(params, rows, nets.CONTEXT)[1], queries

  rows = nets.batch(3, padding=3)
  found, expected = (np.asarray(x)[np.asarray(rows["segment_ids"]) > 0] for x in run(rows))
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("fields, message", [
    (dict(decoder="other"), "decoder is 'other'"), (dict(mix="rows"), "mix is 'rows'"),
    (dict(decoder_rate=1.5), "decoder_rate must lie"),
    (dict(decoder_layers=1), "decoder_layers must be at least 2"),
    (dict(mask_rate=0.1, predict_rate=0.2), "predict_rate above mask_rate")])
def test_values_that_cannot_be_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _objective(**fields)


@pytest.mark.slow
def test_the_served_model_is_the_plain_encoder_bit_by_bit(tmp_path):
  cfg, workdir = tiny.config("drbert", mesh__data=-1), tmp_path / "run"
  run = setup_lib.setup(cfg, str(workdir))
  params = jax.jit(run.objective.init)(rng.root(0))
  model = model_lib.Model(objective=run.objective, params=params, tokenizer=run.tokenizer,
                          mesh=run.mesh, max_length=run.spec.max_length, source="",
                          config=run.config)
  model.save(str(workdir))  # what a run of no steps would leave
  tiny.changed(cfg, {"export.path": str(tmp_path / "out"), "init.checkpoint": str(workdir)})
  exporting.run(cfg, str(workdir))
  served = model_lib.load(str(tmp_path / "out"))
  assert isinstance(served.objective, mlm.MaskedLM)
  assert not isinstance(served.objective, decoded.DecodedLM) and set(served.params) == {"model"}
  tokens = np.random.default_rng(0).integers(0, 20, (2, 12), np.int32)
  both = [jax.tree.map(np.asarray, x["model"]) for x in (params, served.params)]
  jax.tree.map(np.testing.assert_array_equal, *both)
  encode = lambda objective, params: objective.encode(
      objective.network, params, tokens, {"tokens": tokens})
  states = jax.jit(lambda one, other: (encode(run.objective, one),
                                       encode(served.objective, other)))(*both)
  np.testing.assert_array_equal(*map(np.asarray, states))
