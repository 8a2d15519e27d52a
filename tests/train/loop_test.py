"""The loop: its order, its log, stopping, and resuming bit for bit."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mdx import checkpoint
from mdx import metrics as metrics_lib
from mdx import sharding
from mdx.data import pipeline
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.sources import documents
from mdx.networks import transformer
from mdx.objectives.diffusion import masked as diffusion
from mdx.train import loop
from mdx.train import meter
from mdx.train import optimizer as optimizer_lib
from mdx.train import progress
from mdx.train import state as state_lib
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

TOKENIZER = tokenizer_lib.build("char", ["abcdefghij"])
DATA = {"length": 8, "append_eos": False,
        "source": {"name": "memory", "documents": ["abcdefghij" * 3, "jihgf", "acegi" * 4] * 4,
                   "holdout_every": 0}}
ROWS = 4


class _Stop:
  """Asks to stop before some step."""

  def __init__(self, at=None):
    self._at = at

  def reached(self, step):
    return step == self._at


class _Numbers:
  """A writer that keeps what it is given."""

  def __init__(self, events=None):
    self.lines, self._events = [], events

  def write(self, step, kind, values):
    self.lines.append({"step": step, "kind": kind} | dict(values))
    if self._events is not None:
      self._events.append(f"log {kind} {step}")

  def close(self):
    pass


def _intervals(steps, log_steps=1, checkpoint_steps=100, eval_steps=0):
  return loop.Intervals(steps=steps, log_steps=log_steps, checkpoint_steps=checkpoint_steps,
                        eval_steps=eval_steps)


def _one_device():
  return sharding.make_mesh({}, devices=jax.devices()[:1])


class _Lazy:
  """A metric that notes when it is read."""

  def __init__(self, events, step, value, on_read):
    self._events, self._step, self._value, self._on_read = events, step, value, on_read

  def __array__(self, dtype=None, copy=None):
    self._events.append(f"read {self._step}")
    self._on_read(self._step)
    return np.asarray(self._value, dtype)


def _fake_run(steps, *, start=0, losses=None, stop=None, metrics=lambda step: {},
              on_read=lambda step: None, on_other=lambda: None, clock=None, **intervals):
  """Runs the loop over fakes; returns the events, the writer, and the rate or the error."""
  events = []
  losses = losses or [1.0] * steps

  @dataclasses.dataclass
  class State:
    step: int

    def items(self):
      return {"step": self.step}

  class Checkpoints:

    def save(self, step, items, *, data, meta):
      assert meta == {"hash": "x", "step": step} and items == {"step": step}
      events.append(f"save {step}")
      on_other()

    def wait(self):
      events.append("wait")

  def batches():
    for i in itertools.count(start):
      events.append(f"fetch {i}")
      yield {"tokens": np.zeros((2, 3), np.int32)}

  def step_fn(state, batch, frozen):
    assert frozen == {}
    i = state.step
    events.append(f"step {i} of {batch['example_index'][0] // 2}")
    return State(i + 1), {"loss": (_Lazy(events, i, losses[i], on_read), 1.0)} | metrics(i)

  def evaluate(state, step):
    assert state.step == step
    events.append(f"evaluate {step}")
    on_other()
    return {"nats": 1.5}

  writer = _Numbers(events)
  try:
    result = loop.fit(State(start), step_fn, batches(), start=start, clock=clock,
                      intervals=_intervals(steps, **intervals), mesh=_one_device(), writers=writer,
                      checkpoints=Checkpoints(), meta={"hash": "x"}, stop=_Stop(stop),
                      evaluate=evaluate)
  except (loop.NonFinite, progress.Stopped) as error:
    result = error
  return events, writer.lines, result


def test_the_order_is_evaluate_save_fetch_step_and_metrics_are_read_one_step_late():
  events, _, _ = _fake_run(4, log_steps=2, checkpoint_steps=2, eval_steps=2)
  assert events == [
      "fetch 0", "step 0 of 0",
      "fetch 1", "step 1 of 1", "read 0",
      "read 1", "log train 2", "evaluate 2", "log eval 2", "save 2", "fetch 2", "step 2 of 2",
      "fetch 3", "step 3 of 3", "read 2",
      "read 3", "log train 4", "save 4", "wait"]


def test_a_resumed_run_neither_evaluates_nor_saves_the_step_it_starts_from():
  events, _, _ = _fake_run(4, start=2, log_steps=2, checkpoint_steps=2, eval_steps=2)
  assert events[:2] == ["fetch 2", "step 2 of 2"] and events[-2:] == ["save 4", "wait"]


def test_a_finished_run_does_nothing():
  events, lines, (state, rate) = _fake_run(3, start=3)
  assert not events and not lines and state.step == 3 and rate == 0


@pytest.mark.parametrize("step,value", [(0, np.nan), (2, np.inf), (3, np.nan), (4, -np.inf)])
def test_a_loss_that_is_not_finite_aborts_naming_its_step_and_is_never_saved(step, value):
  losses = [1.0] * 5
  losses[step] = value
  events, _, error = _fake_run(5, losses=losses, checkpoint_steps=1)
  assert isinstance(error, loop.NonFinite) and f"the loss of step {step} is {value}" in str(error)
  assert "\n" not in str(error)
  assert [e for e in events if e.startswith("save")] == [f"save {i}" for i in range(1, step + 1)]
  assert events[-1] == "wait"  # what was saved before reaches the disk


def test_a_stop_saves_waits_and_says_so():
  events, lines, error = _fake_run(5, stop=3)
  assert isinstance(error, progress.Stopped) and "at step 3; everything is saved" in str(error)
  assert events[-2:] == ["save 3", "wait"] and "step 3 of 3" not in events
  assert [x["step"] for x in lines] == [1, 2, 3]


def test_the_last_step_is_logged_though_no_interval_ends_there():
  _, lines, _ = _fake_run(5, log_steps=3, losses=[5.0, 4.0, 3.0, 2.0, 1.0])
  assert [(x["step"], x["loss"]) for x in lines] == [(3, 4.0), (5, 1.5)]


def test_logged_means_are_weighted_by_their_weights():
  _, lines, _ = _fake_run(3, log_steps=3, metrics=lambda i: {"nats": (10.0 * i, 1.0 + i)})
  assert lines[0]["nats"] == pytest.approx((0 + 10 + 20) / (1 + 2 + 3))


def test_the_rate_leaves_out_compilation_evaluation_and_saving(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])

  def wait(seconds):
    now[0] += seconds

  # 6 tokens a step: 100 seconds for the first, which compiles, then two each.
  _, lines, (_, rate) = _fake_run(
      7, on_read=lambda step: wait(100.0 if step == 0 else 2.0), on_other=lambda: wait(50.0),
      log_steps=2, eval_steps=3, checkpoint_steps=2)
  rates = [x["tokens_per_second"] for x in lines if x["kind"] == "train"]
  assert rates == pytest.approx([3.0] * 4) and rate == pytest.approx(3.0)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_rates_are_finite_and_positive(steps):
  _, lines, (_, rate) = _fake_run(steps, eval_steps=1, checkpoint_steps=1)
  rates = [x["tokens_per_second"] for x in lines if "tokens_per_second" in x] + [rate]
  assert np.isfinite(rates).all() and (rate > 0) == (steps > 1)


def test_intervals_shrink_with_the_run_and_must_be_positive():
  short = loop.Intervals(steps=3, log_steps=50, checkpoint_steps=250, eval_steps=250)
  assert (short.log_steps, short.checkpoint_steps, short.eval_steps) == (3, 3, 3)
  for field in ("steps", "log_steps", "checkpoint_steps"):
    with pytest.raises(ValueError, match=f"config.{field} must be at least 1, got 0"):
      loop.Intervals(**dict(steps=1, log_steps=1, checkpoint_steps=1, eval_steps=1) | {field: 0})
  with pytest.raises(ValueError, match="config.eval_steps must be at least 0, got -1"):
    loop.Intervals(steps=1, log_steps=1, checkpoint_steps=1, eval_steps=-1)


def test_rows_are_numbered_through_the_whole_run_and_wrap_before_int32_ends():
  batch = {"tokens": np.zeros((4, 2), np.int32)}
  assert loop.place(batch, 3, _one_device())["example_index"].tolist() == [12, 13, 14, 15]
  last = loop.place(batch, 2 ** 29 - 1, _one_device())["example_index"]
  assert last.dtype == jnp.int32 and last.tolist() == list(range(2 ** 31 - 4, 2 ** 31))
  assert loop.place(batch, 2 ** 29, _one_device())["example_index"].tolist() == [0, 1, 2, 3]


@pytest.fixture(name="parts", scope="module")
def _parts():
  """Mesh, initial state's function and compiled step of a small model over two devices."""
  mesh = sharding.make_mesh(dict(fsdp=2), devices=jax.devices()[:2])
  jax.set_mesh(mesh)
  spec = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16,
                                 vocab_size=TOKENIZER.vocab_size)
  objective = diffusion.MaskedDiffusion(network=spec.network(), mask_id=TOKENIZER.mask_id)
  fields = optimizer_lib.Muon(learning_rate=1e-2, layer_decay=0.8)
  optimizer = fields.build(4, tiny.PARTS)
  init = state_lib.init_fn(objective, optimizer, keep_ema=True)
  state = state_lib.create(init, rng.root(3), tiny.PARTS, mesh)
  step_fn = jax.jit(
      step_lib.make_step(objective, optimizer, seed=3, rate=fields.rate(4), ema_decay=0.9),
      donate_argnums=0, out_shardings=(jax.tree.map(lambda x: x.sharding, state), None))
  initial = jax.device_get(state)
  shardings = jax.tree.map(lambda x: x.sharding, state)
  return mesh, lambda: jax.device_put(initial, shardings), step_fn


def _train(parts, workdir, *, stop=None, checkpoint_steps=100, **intervals):
  """As modes.train does; returns the state, the iterator and the writer, or Stopped."""
  mesh, fresh, step_fn = parts
  jax.set_mesh(mesh)
  workdir.mkdir(exist_ok=True)
  checkpoints, start, state = checkpoint.Checkpoints(workdir, keep=10), 0, fresh()
  window = None
  data = iter(pipeline.build(DATA, TOKENIZER, split="train", batch_size=ROWS, seed=0))
  restored = checkpoints.restore(state.items(), data=data)
  if restored is not None:
    start, items = restored
    window = items.pop("meta").get("window")
    state = state_lib.State(step=jax.device_put(np.int32(start), state.step.sharding), **items)
  writers = metrics_lib.open_writers(str(workdir), {"tensorboard": False}, resume_step=start,
                                     is_main=True)
  try:
    state, _ = loop.fit(state, step_fn, data, start=start, mesh=mesh, writers=writers,
                        intervals=_intervals(4, checkpoint_steps=checkpoint_steps, **intervals),
                        checkpoints=checkpoints, meta={}, window=window, stop=_Stop(stop))
  finally:
    checkpoints.close()
    writers.close()
  return jax.device_get(state), data


def _assert_bitwise(found, expected):
  assert not tree.difference(expected, found)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_two_steps_a_stop_and_two_more_are_four_steps_bit_for_bit(parts, tmp_path):
  whole, data = _train(parts, tmp_path / "whole")
  with pytest.raises(progress.Stopped):
    _train(parts, tmp_path / "cut", stop=2)
  resumed, resumed_data = _train(parts, tmp_path / "cut")
  _assert_bitwise(resumed, whole)
  assert int(whole.step) == 4 and set(whole.items()) == {"params", "ema", "opt_state", "extra"}
  _assert_bitwise(next(resumed_data), next(data))

  def curve(name):
    lines = metrics_lib.read(tmp_path / name / "metrics.jsonl")
    return [{k: v for k, v in x.items() if k != "tokens_per_second"} for x in lines]

  assert curve("cut") == curve("whole") and [x["step"] for x in curve("cut")] == [1, 2, 3, 4]


def test_a_line_over_a_stop_is_the_mean_of_all_its_steps(parts, tmp_path):
  _train(parts, tmp_path / "whole", log_steps=4)
  with pytest.raises(progress.Stopped):
    _train(parts, tmp_path / "cut", stop=2, log_steps=4)
  _train(parts, tmp_path / "cut", log_steps=4)
  lines = [metrics_lib.read(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
  for line in lines[0] + lines[1]:
    line.pop("tokens_per_second", None)
  assert lines[0] == lines[1] and [x["step"] for x in lines[0]] == [4]


@pytest.mark.slow
def test_a_run_that_was_killed_between_checkpoints_repeats_the_lost_steps(parts, tmp_path):
  whole, _ = _train(parts, tmp_path / "run", checkpoint_steps=1)
  for step in (3, 4):
    (tmp_path / "run" / "checkpoints" / str(step)).rename(tmp_path / f"lost_{step}")
  resumed, _ = _train(parts, tmp_path / "run", checkpoint_steps=1)
  _assert_bitwise(resumed, whole)
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(x)["step"] for x in lines] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_checkpoint_written_while_training_goes_on_holds_the_state_of_its_step(tmp_path):
  steps = 6
  mesh = _one_device()
  jax.set_mesh(mesh)
  params = {"model": {"embed": {"embedding": jnp.zeros((1024, 1024))}}}
  state = state_lib.State(jnp.int32(0), params, jax.tree.map(jnp.copy, params), {}, {})

  def step(state, batch, frozen):
    del batch, frozen
    return (jax.tree.map(lambda x: x + 1, state),
            {"loss": (jnp.float32(1), jnp.float32(1))})

  data = iter(pipeline.build(DATA, TOKENIZER, split="train", batch_size=ROWS, seed=0))
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=steps)
  loop.fit(state, jax.jit(step, donate_argnums=0), data, start=0, mesh=mesh, writers=_Numbers(),
           intervals=_intervals(steps, checkpoint_steps=1), checkpoints=checkpoints, meta={},
           stop=_Stop())
  checkpoints.close()
  assert checkpoints.steps() == list(range(steps, 0, -1))
  for step in checkpoints.steps():
    for which in ("raw", "ema"):
      found = checkpoint.load_params(str(checkpoints.directory / str(step)),
                                     checkpoint.abstract(params), which)
      assert (np.asarray(found["model"]["embed"]["embedding"]) == step).all(), (step, which)


def test_an_initial_state_that_was_donated_cannot_be_used_by_mistake(parts, tmp_path):
  mesh, fresh, step_fn = parts
  jax.set_mesh(mesh)
  state = fresh()
  batch = loop.place(next(iter(pipeline.build(DATA, TOKENIZER, split="train", batch_size=ROWS,
                                              seed=0))), 0, mesh)
  step_fn(state, batch, {})
  with pytest.raises(RuntimeError, match="deleted"):
    np.asarray(state.params["model"]["embed"]["embedding"])


def test_the_clock_begins_after_the_first_step_and_stands_still_while_others_work(tmp_path,
                                                                                  monkeypatch):
  now = [0.0]
  monkeypatch.setattr(meter.time, "process_time", lambda: now[0])

  def wait(seconds):
    now[0] += seconds

  clock = meter.Clock(tmp_path, 0)
  # A step's metrics are read while the next one runs, so all but the first count.
  _fake_run(7, on_read=lambda step: wait(100.0 if step == 0 else 2.0),
            on_other=lambda: wait(50.0), eval_steps=3, checkpoint_steps=2, clock=clock)
  assert clock.cpu_seconds == pytest.approx(2.0 * 6)


def test_a_bad_record_in_the_middle_saves_the_run_and_a_resumed_one_goes_on_exactly(
    parts, tmp_path, monkeypatch):
  whole, _ = _train(parts, tmp_path / "whole")
  read, bad = documents.Documents._row, [True]

  def row(self, index):
    if bad[0] and len(seen) >= 4:
      raise ValueError("record 7: bad")
    seen.append(index)
    return read(self, index)

  seen = []
  monkeypatch.setattr(documents.Documents, "_row", row)
  with pytest.raises(ValueError, match="record 7: bad Everything until step [0-3] is saved: .*skip"):
    _train(parts, tmp_path / "run")
  assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
  bad[0] = False
  resumed, _ = _train(parts, tmp_path / "run")
  _assert_bitwise(resumed, whole)
