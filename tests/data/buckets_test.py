"""Buckets: batches are cut to what they have, and no loss, draw or state is another."""

import json

import jax
import numpy as np
import pytest
import tiny

import mdx
from mdx import modes
from mdx import types
from mdx.build import setup as setup_lib
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.train import step as step_lib
from mdx.utils import rng

_TEXTS = tuple("abcdefgh"[:1 + i % 8] * (1 + i % 5) for i in range(40))  # 1 to 40 tokens
_BYTES = tokenizer_lib.build("byte")


def _data(**fields):
  return dict(length=48, source=dict(name="memory", documents=_TEXTS), packing="pad",
              **fields)


def _batches(number=None, *, batch_size=4, state=None, rows=None, **fields):
  batches = iter(pipeline.build(_data(**fields), _BYTES, split="train", batch_size=batch_size,
                                seed=1, rows=rows))
  if state is not None:
    batches.set_state(state)
  return (batches, [next(batches) for _ in range(number)]) if number else batches


def test_a_batch_has_the_least_bucket_that_holds_its_longest_row():
  for whole, cut in zip(_batches(20)[1], _batches(20, buckets=(8, 16, 32))[1]):
    longest = int(whole["segment_ids"].sum(axis=1).max())
    size = next(n for n in (8, 16, 32, 48) if n >= longest)
    for name, x in whole.items():
      np.testing.assert_array_equal(x[:, :size], cut[name])
      assert cut[name].shape == (4, size)


def test_windows_have_every_row_once_and_batches_of_about_one_length():
  _, plain = _batches(8)
  _, sorted_ = _batches(8, buckets=(8, 16, 32), bucket_window=4)
  key = lambda batch: [bytes(row[:n]) for row, n in zip(
      batch["tokens"], batch["segment_ids"].sum(axis=1))]
  for first in (0, 4):
    both = [sorted(sum((key(b) for b in found[first:first + 4]), [])) for found in (plain, sorted_)]
    assert both[0] == both[1]
  spread = lambda found: sum(np.ptp(b["segment_ids"].sum(axis=1)) for b in found)
  assert spread(sorted_) < spread(plain) / 2
  sizes = [b["tokens"].shape[1] for b in sorted_]
  assert sizes != sorted(sizes)  # batches of a window are in an order of their own


@pytest.mark.parametrize("taken", [0, 1, 4, 6])
def test_a_state_goes_on_within_a_window(taken):
  options = dict(buckets=(8, 32), bucket_window=4)
  batches = _batches(**options)
  for _ in range(taken):
    next(batches)
  state = json.loads(json.dumps(batches.get_state()))
  rest = [next(batches) for _ in range(6)]
  for one, other in zip(rest, _batches(6, state=state, **options)[1]):
    np.testing.assert_array_equal(one["tokens"], other["tokens"])


def test_every_process_cuts_alike():
  options = dict(buckets=(8, 16, 32), bucket_window=2)
  _, whole = _batches(6, **options)
  halves = [_batches(6, rows=slice(i, i + 2), **options)[1] for i in (0, 2)]
  for batch, *parts in zip(whole, *halves):
    np.testing.assert_array_equal(batch["tokens"], np.concatenate([p["tokens"] for p in parts]))


@pytest.mark.parametrize("fields, message", [
    (dict(buckets=(16, 8)), "rising lengths"), (dict(buckets=(0, 64)), "rising lengths"),
    (dict(bucket_window=2), "no data.buckets"), (dict(buckets=(8,), num_shards=2), "num_shards=1"),
    (dict(buckets=(8,), packing="concat"), "use pad or crop"),
    (dict(buckets=(8,), source=dict(name="structure", documents=dict(name="grammar"))),
     "have no buckets")])
def test_buckets_that_cannot_be_are_one_line(fields, message):
  with pytest.raises(ValueError, match=message):
    pipeline.build(_data() | fields, _BYTES, split="train", batch_size=4, seed=1)


def test_special_tokens_need_room_that_buckets_take(tmp_path):
  with pytest.raises(ValueError, match="gem puts special tokens .* data.buckets"):
    setup_lib.setup(tiny.config("gem", data__buckets=(8,)), str(tmp_path))


@pytest.mark.parametrize("name, changes", [
    ("finetune", {"network.dropout": 0.1}),
    pytest.param("mlm", {"network.dropout": 0.1}, marks=pytest.mark.slow),
    pytest.param("mirror", {"network.attention_dropout": 0.0}, marks=pytest.mark.slow),
    *(tiny.releases(name, {}) for name in ("diffusion", "electra", "rts", "ar", "meap", "ernie_gram",
                                           "drbert", "genmd4", "sedd", "d3pm"))])
@pytest.mark.slow
def test_the_loss_is_the_same_in_any_bucket(name, changes, tmp_path):
  config = tiny.config(name, data__length=32)
  if name == "finetune":
    config.data.update(length=200, source=dict(name="packaged", task="intent", num_train=50))
  else:
    config.data.source = dict(name="memory", documents=tuple(x[:20] for x in _TEXTS), holdout_every=5)
    config.data.packing = "pad"
  run = setup_lib.setup(tiny.changed(config, {"ema_decay": 0.0} | changes), str(tmp_path))
  params = run.objective.init(rng.root(0))

  @jax.jit
  def loss_and_grad(batch):
    context = types.context(3, key=rng.root(5))
    prepared, weights = run.objective.prepare(params, batch, rng.root(7), context)
    loss, _, grads = step_lib.loss_and_grad(run.objective, params, prepared, weights, context, 2)
    return loss, grads

  found = []
  for buckets in ((), (24,) if config.data.length < 99 else (150,)):
    batch = next(iter(pipeline.build(run.config["data"] | {"buckets": buckets}, run.tokenizer,
                                     split="train", batch_size=8, seed=0)))
    found.append((batch["tokens"].shape[1], loss_and_grad(
        batch | {"example_index": np.arange(8, dtype=np.int32)})))
  (whole, (loss, grads)), (size, (cut_loss, cut_grads)) = found
  assert size < whole
  np.testing.assert_allclose(cut_loss, loss, rtol=2e-6)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, atol=2e-6, rtol=1e-4), grads,
               cut_grads)


@pytest.mark.release
@pytest.mark.slow
def test_words_are_tagged_alike_in_buckets_in_training_and_after_it(tmp_path):
  results = []
  for number, buckets in enumerate(((), (16, 32))):
    config = tiny.config("finetune", data__length=64, data__buckets=buckets)
    config.data.source.update(task="speech", num_train=64)
    config.objective = dict(name="tagging", labels=(), attention=dict(name="full"))
    config.eval.measures = ("word_accuracy",)
    results.append(modes.run("train", config, str(tmp_path / str(number))))
    model = mdx.load(str(tmp_path / str(number)))
    results[-1]["tags"] = model.predict([["a", "short", "row"], ["word"] * 12])
  plain, cut = results
  assert plain["tags"] == cut["tags"]
  for name in ("word_accuracy", "nats_per_token"):
    np.testing.assert_allclose(plain[name], cut[name], rtol=1e-5)
