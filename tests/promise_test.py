"""A new method is one file: extensions of every kind, defined here and registered with one line.

Each trains two steps on 1 and 8 devices, and with 1 and 2 microbatches, to equal results; is saved,
killed and resumed; is exported; and its programs compile for a machine that is not there.
"""

import dataclasses
import functools
import importlib.util
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mdx
from mdx import modes
from mdx import objectives
from mdx import samplers
from mdx import sharding
from mdx import tasks
from mdx import types
from mdx.configs import mdpo
from mdx.corruption import mask as mask_lib
from mdx.data import layouts
from mdx.data import source as source_lib
from mdx.data import sources
from mdx.eval import evaluators
from mdx.networks import adaptation
from mdx.networks import attention
from mdx.networks import heads
from mdx.objectives import reading
from mdx.objectives.tokens import mlm
from mdx.samplers import decoder
from mdx.samplers import logits as logits_lib
from mdx.samplers import loop
from mdx.utils import rng
from mdx.utils import tree

_TOPOLOGY = "v5e:2x2" if importlib.util.find_spec("libtpu") else "gpu:4"


# An objective with a head of its own, and an evaluator of its own.


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithValue(mlm.MaskedLM):
  """MLM, and the share of a row that is masked, regressed from its mean state."""
  evaluators = ("loss", "value_error")

  @property
  def scales(self):
    return {"mlm": 1.0, "value": 0.5}

  def parts(self):
    return super().parts() | {"value": heads.mlp_part(self.network.width, 8, 1)}

  def served(self, config):
    return {"name": "mlm"}

  def prepare(self, params, batch, key, context):
    batch, weights = super().prepare(params, batch, key, context)
    return batch, weights | {"value": jnp.float32(len(batch["example_index"]))}

  def score(self, params, batch, hidden, context):
    totals, aux = super().score(params, batch, hidden, context)
    error = self.error(params, batch, hidden)
    count = jnp.float32(len(error))
    return totals | {"value": error.sum()}, aux._replace(
        metrics=aux.metrics | {"value_error": (error.sum(), count)})

  def error(self, params, batch, hidden):
    share = batch["is_target"].mean(axis=1)
    return jnp.square(heads.mlp(params["value"], hidden.mean(axis=1))[:, 0] - share)


class ValueError_(types.Evaluator):
  """Squared error of the value, of one batch without masks."""

  def __init__(self, parts):
    objective = parts.objective

    def error(params):
      tokens = jnp.zeros((8, 16), jnp.int32)
      batch = {"tokens": tokens, "noisy_tokens": tokens, "is_target": tokens > 0,
               "example_index": jnp.arange(8)}
      return objective.error(params, *objective.read(params, batch, types.context(0))).mean()

    self._error = jax.jit(error)

  def __call__(self, params, frozen, *, quick):
    return {"value_error": float(self._error(params))}


# A loss that compares the rows of the global batch.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast(types.Coupled):
  """InfoNCE of two views of a row, which differ in the dropout of the network."""
  network: types.Network
  mask_id: int
  evaluators = ()
  scales = {"nce": 1.0}

  def prepare(self, params, batch, key, context):
    return batch, {"nce": jnp.float32(len(batch["example_index"]))}

  def represent(self, params, rows, context):
    read = lambda name: reading.encode(
        self.network, params["model"], rows, attention=attention.Full(),
        noise=reading.noise_for(context.noise, name)).astype(jnp.float32).mean(axis=1)
    return read("one"), read("two")

  def compare(self, params, reps, batch, context):
    one, two = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in reps)
    nats = heads.cross_entropy(one @ two.T / 0.1, jnp.arange(len(one)))
    return {"nce": nats.sum()}, types.Aux({"nce": (nats.sum(), jnp.float32(len(one)))}, {}, {})


# A loss towards a frozen teacher, whose masks the teacher guides.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distil(types.Objective):
  """-sum of the teacher's distribution times the student's log-probabilities.

  Positions of which the teacher is least certain are masked.
  """
  network: types.Network
  mask_id: int
  teacher: Any = dataclasses.field(default=None, repr=False)
  scales = {"distil": 1.0}

  @classmethod
  def build(cls, fields, world):
    return cls(network=world.network, mask_id=world.tokenizer.mask_id,
               teacher=world.frozen.get("teacher"))

  def served(self, config):
    return {"name": "mlm"}

  def look(self, frozen, batch, context):
    answer = self.teacher.reader().answer(frozen["teacher"], types.Request(batch["tokens"], None))
    certain = jax.nn.log_softmax(answer.logits).max(axis=-1)
    return batch | {"certainty": certain}

  def prepare(self, params, batch, key, context):
    half = batch["tokens"].shape[1] // 2
    uncertain = jnp.argsort(jnp.argsort(batch["certainty"], axis=1), axis=1) < half
    is_masked = uncertain & mask_lib.allowed_positions(batch)
    noisy = jnp.where(is_masked, self.mask_id, batch["tokens"])
    return batch | {"noisy": noisy, "is_masked": is_masked}, {
        "distil": is_masked.sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    request = types.Request(batch["noisy"], None)
    wanted = self.teacher.reader().answer(context.frozen["teacher"], request).logits
    hidden = reading.encode(self.network, params["model"], batch, tokens=batch["noisy"],
                            attention=attention.Full(), noise=context.noise)
    scores = heads.log_probs(self.network.head(params["model"], hidden, "lm"), self.mask_id)
    real = jnp.arange(scores.shape[-1]) != self.mask_id
    nats = -(jax.nn.softmax(wanted) * jnp.where(real, scores, 0.0)).sum(axis=-1)
    rows = jnp.where(batch["is_masked"], nats, 0.0).sum(axis=1)
    count = batch["is_masked"].sum(axis=1, dtype=jnp.float32)
    return {"distil": rows.sum()}, types.Aux({"distil": (rows.sum(), count.sum())},
                                             {"nll": rows, "count": count}, {})


# An adaptation.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(types.Adaptation):
  """A factor for each output of a projection (IA3; Liu et al. 2022, arXiv:2205.05638)."""
  targets: tuple = ("k", "v", "up")

  def leaves(self, shape, axes):
    ones = lambda key, shape, dtype: jnp.ones(shape, dtype)
    return {"ia3": types.Leaf((shape[1],), ones, (axes[1],), decays=False)}

  def output(self, own, x, y):
    return y * jnp.expand_dims(own["ia3"].astype(y.dtype), tuple(range(y.ndim - 1)))

  def merged(self, own, kernel):
    return kernel * own["ia3"][None]


# Frames of floats: a source, a layout with a field of its own, and a frontend.


@dataclasses.dataclass(frozen=True)
class Spectra(types.Layout):
  """Frames float32 [length, 3], and the energy of a row."""
  packings = ("pad", "crop")
  takes = ()
  reads = ()
  fields = {"frames": types.Field("float32", ("length", 3)), "energy": types.Field("float32", ()),
            "loss_mask": types.Field("bool", pad=False), "segment_ids": types.Field("int32"),
            "positions": types.Field("int32")}

  def row(self, record, cfg, tokenizer):
    return {"frames": record["x"], "energy": np.float32(np.square(record["x"]).mean())}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waves(source_lib.Source):
  """Sums of sinusoids."""
  layout = "spectra"
  in_memory = True
  number: int = 64

  def records(self, split):
    draw = np.random.default_rng(len(split))
    phase = draw.uniform(0, 6, (self.number, 1, 3))
    time = np.arange(16)[None, :, None]
    return [{"x": x} for x in np.sin(time * (1 + phase) / 3).astype(np.float32)]


@dataclasses.dataclass(frozen=True)
class Linear(types.Frontend):
  """Frames through one matrix into the first block."""
  width: int

  def part(self):
    normal = lambda key: {"kernel": jax.random.normal(key, (3, self.width)) / 3 ** 0.5}
    return types.Part(normal, lambda path, shape: (None, "embed"), is_served=True)

  def embed(self, params, batch):
    return types.Inputs(None, batch["positions"], batch["segment_ids"],
                        states=batch["frames"] @ params["kernel"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedFrames(types.Objective):
  """Squared error of masked frames, read through a frontend."""
  network: types.Network
  mask_id: int
  scales = {"error": 1.0}

  @property
  def frontend(self):
    return Linear(self.network.width)

  def parts(self):
    return super().parts() | {"frontend": self.frontend.part(),
                              "frames": heads.mlp_part(self.network.width, 8, 3)}

  def prepare(self, params, batch, key, context):
    keys = rng.per_example(rng.stream(key, "mask"), batch["example_index"])
    is_masked = mask_lib.bernoulli(keys, 0.5, batch["loss_mask"])
    return batch | {"is_masked": is_masked}, {"error": is_masked.sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    shown = jnp.where(batch["is_masked"][..., None], 0.0, batch["frames"])
    inputs = self.frontend.embed(params["frontend"], batch | {"frames": shown})
    hidden = self.network.encode(params["model"], inputs, attention=attention.Full(),
                                 noise=reading.noise_of(context.noise, batch)).last
    error = jnp.square(heads.mlp(params["frames"], hidden) - batch["frames"]).sum(axis=-1)
    rows = jnp.where(batch["is_masked"], error, 0.0).sum(axis=1)
    count = batch["is_masked"].sum(axis=1, dtype=jnp.float32)
    return {"error": rows.sum()}, types.Aux({"error": (rows.sum(), count.sum())},
                                            {"nll": rows, "count": count}, {})


# A decoding rule with parameters, and the objective that trains them beside a frozen model.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unmasking(decoder.Decoder):
  """Writes each open position with probability sigmoid(bias + slope * confidence), or the first."""
  counts_steps = False
  acts = True

  def parts(self):
    return {"unmasking": types.Part(lambda key: {"bias": jnp.zeros(()), "slope": jnp.ones(())})}

  def score(self, own, confidence):
    return own["bias"] + own["slope"] * confidence

  def commit(self, params, state, proposal, keys):
    score = self.score(params["unmasking"], proposal.confidence)
    draw = logits_lib.uniforms(keys, proposal.positions) < jax.nn.sigmoid(score)
    first = decoder.best_of(-proposal.positions, proposal.is_open, jnp.ones(len(score), jnp.int32))
    none = ~jnp.any(draw & proposal.is_open, axis=1, keepdims=True)
    log_prob = jnp.where(draw, jax.nn.log_sigmoid(score), jax.nn.log_sigmoid(-score))
    return decoder.Commit(proposal.is_open & (draw | (first & none)),
                          action=(draw & proposal.is_open).astype(jnp.int32),
                          action_log_prob=jnp.where(proposal.is_open, log_prob, 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imitate(types.Objective):
  """Cross-entropy of writing a masked position where the frozen model is right; no other part."""
  network: types.Network
  mask_id: int
  teacher: Any = dataclasses.field(default=None, repr=False)
  scales = {"right": 1.0}

  @classmethod
  def build(cls, fields, world):
    return cls(network=world.network, mask_id=world.tokenizer.mask_id,
               teacher=world.frozen.get("teacher"))

  @property
  def rule(self):
    return Unmasking(mask_id=self.mask_id)

  def parts(self):
    return {name: part._replace(is_served=True) for name, part in self.rule.parts().items()}

  def prepare(self, params, batch, key, context):
    keys = rng.per_example(rng.stream(key, "mask"), batch["example_index"])
    is_masked = mask_lib.bernoulli(keys, 0.5, mask_lib.allowed_positions(batch))
    return batch | {"is_masked": is_masked}, {"right": is_masked.sum(dtype=jnp.float32)}

  def __call__(self, params, batch, context):
    noisy = jnp.where(batch["is_masked"], self.mask_id, batch["tokens"])
    answer = self.teacher.reader().answer(context.frozen["teacher"], types.Request(noisy, None))
    scores = self.rule.score(params["unmasking"], jax.nn.softmax(answer.logits).max(axis=-1))
    is_right = answer.logits.argmax(axis=-1) == batch["tokens"]
    nats = jnp.where(batch["is_masked"], heads.binary_cross_entropy(scores, is_right), 0.0)
    count = batch["is_masked"].sum(axis=1, dtype=jnp.float32)
    return {"right": nats.sum()}, types.Aux({"right": (nats.sum(), count.sum())},
                                            {"nll": nats.sum(axis=1), "count": count}, {})


# A task of several turns with a tool.


@dataclasses.dataclass(frozen=True)
class Calculator(types.Environment):
  """The tool says the sum of the digits of a turn, modulo 4; a turn that repeats it is right."""

  def examples(self, split):
    return [{"prompt": "12"[:1 + i % 2] + "3", "answer": ""} for i in range(16)]

  def prompt(self, example):
    return example["prompt"]

  def reply(self, examples, transcripts):
    return [None if text.startswith("4") else f"{self._sum(text)}." for text in transcripts]

  def _sum(self, text):
    return str(sum(int(c) for c in text if c.isdigit()) % 4 + 1)

  def score(self, examples, completions):
    share = [sum(c == text[-1] for c in text) / 20 if text else 0 for text in completions]
    return {"reward": np.array(share, np.float32), "correct": np.array(share) > 0.2}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
  """The one line of each extension."""
  for table, name, value in (
      (objectives.OBJECTIVES, "with_value", WithValue),
      (evaluators.EVALUATORS, "value_error", ValueError_),
      (objectives.OBJECTIVES, "contrast", Contrast),
      (objectives.OBJECTIVES, "distil", Distil),
      (adaptation.ADAPTATIONS, "scale", Scale),
      (layouts.LAYOUTS, "spectra", Spectra()),
      (sources.SOURCES, "waves", Waves),
      (objectives.OBJECTIVES, "masked_frames", MaskedFrames),
      (samplers.SAMPLERS, "unmasking", Unmasking),
      (objectives.OBJECTIVES, "imitate", Imitate),
      (tasks.TASKS, "calculator", Calculator)):
    monkeypatch.setitem(table, name, value)


def _config(name, tmp_path, **changes):
  config = tiny.config("mlm", **dict(steps=2, batch_size=16, log_steps=1, checkpoint_steps=1,
                                     eval_steps=0, sampler__num_samples=0) | changes)
  if name == "scale":
    config.objective = dict(name="mlm")
    config.adaptations = (dict(name="scale"),)
    config.init.checkpoint = _base(tmp_path)
    return config
  config.objective = dict(name=name)
  if name == "contrast":
    config.network.dropout = 0.1
  if name in ("distil", "imitate"):
    config.frozen = dict(teacher=dict(checkpoint=_base(tmp_path)))
  if name == "masked_frames":
    config.data = dict(length=16, packing="pad", append_eos=False, source=dict(name="waves"))
    config.tokenizer.path = "byte"
  return config


@functools.cache
def _base(tmp_path):
  """The workdir of an MLM model that has learned a little."""
  config = tiny.config("mlm", steps=3, optimizer__learning_rate=0.05, sampler__num_samples=0)
  modes.run("train", config, str(tmp_path / "base"))
  return str(tmp_path / "base")


EXTENSIONS = ("with_value", "contrast", "distil", "scale", "masked_frames", "imitate")


def _train(config, workdir, monkeypatch, num_devices, mode="train"):
  """Losses of the steps, and the final parameters."""
  make = sharding.make_mesh
  with monkeypatch.context() as patch:
    patch.setattr(sharding, "make_mesh", lambda sizes, devices=None: make(
        sizes, jax.devices()[:num_devices] if devices is None else devices))
    modes.run(mode, config, str(workdir))
  lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [x["loss"] for x in lines if x["kind"] == "train"], tree.flatten(
      tiny.stored(workdir)[1]["params"])


@pytest.mark.parametrize("name", tiny.mostly_slow(
    EXTENSIONS, ["with_value"], ci=["contrast"]))
@pytest.mark.slow
def test_an_extension_trains_alike_on_devices_and_microbatches_and_resumes(name, tmp_path,
                                                                          monkeypatch):
  losses, params = _train(_config(name, tmp_path), tmp_path / "one", monkeypatch, 1)
  assert len(losses) == 2 and np.isfinite(losses).all()
  for num_devices, num_microbatches in ((8, 2),):
    found, others = _train(_config(name, tmp_path, microbatches=num_microbatches),
                           tmp_path / "other", monkeypatch, num_devices)
    assert found == pytest.approx(losses, rel=1e-5)
    for path, leaf in params.items():
      np.testing.assert_allclose(others[path], leaf, atol=2e-5, err_msg=path)
  # As if killed after the first step was saved.
  shutil.rmtree(tmp_path / "one" / "checkpoints" / "2")
  (tmp_path / "one" / "results.json").unlink()
  again, resumed = _train(_config(name, tmp_path), tmp_path / "one", monkeypatch, 1)
  assert again == losses
  for path, leaf in params.items():
    np.testing.assert_array_equal(resumed[path], leaf, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.mostly_slow(EXTENSIONS, [], ci=["with_value", "distil"]))
def test_an_extension_is_exported_and_compiled_for_a_machine_that_is_not_there(name, tmp_path):
  config = _config(name, tmp_path)
  modes.run("train", config, str(tmp_path / "run"))
  tiny.changed(config, {"export.path": str(tmp_path / "out"),
                        "init.checkpoint": str(tmp_path / "run")})
  modes.run("export", config, str(tmp_path / "run"))
  stored = json.loads((tmp_path / "out" / "config.json").read_text())["config"]["objective"]
  served = {"with_value": "mlm", "scale": "mlm", "distil": "mlm"}.get(name, name)
  assert stored["name"] == served  # the head of with_value is left behind
  config = tiny.changed(_config(name, tmp_path), {"compile.topology": _TOPOLOGY,
                                                  "mesh.data": 2, "mesh.fsdp": 2})
  programs = modes.run("compile", config, str(tmp_path / "compile"))["programs"]
  assert [one["name"] for one in programs] == ["train_step"]


@pytest.mark.slow
def test_a_rule_with_parameters_decodes_with_those_that_were_trained(tmp_path):
  modes.run("train", _config("imitate", tmp_path), str(tmp_path / "run"))
  params = tiny.stored(tmp_path / "run")[1]["params"]
  model = mdx.load(_base(tmp_path))
  sampler = samplers.build(dict(name="unmasking", gen_length=8), model.objective,
                           mask_id=model.tokenizer.mask_id)
  run = jax.jit(lambda weights, params: loop.decode(
      reading.answerer(model.objective, weights), sampler, jnp.full((4, 8), sampler.mask_id),
      params=params, key=rng.root(0), row_index=jnp.arange(4), record="commits"))
  eager = {"unmasking": {"bias": jnp.float32(99), "slope": jnp.float32(0)}}
  found, at_once = (run(model.params, x) for x in (params, eager))
  assert np.all(np.asarray(found.tokens) != sampler.mask_id)
  assert found.nfe.max() > 1 and at_once.nfe.max() == 1
  assert np.all(np.asarray(found.trajectory.action_log_prob) <= 0)


@pytest.mark.release
@pytest.mark.slow
def test_an_environment_with_a_tool_trains_alike_on_devices_and_microbatches_and_resumes(
    tmp_path, monkeypatch):
  base = tiny.changed(mdpo.get_config().init.base, {
      "steps": 2, "batch_size": 8, "network.num_layers": 1, "network.width": 16,
      "network.num_heads": 2, "network.mlp_width": 16, "eval.final_samples": 1,
      "data.source.task.num_train": 40, "data.source.task.num_validation": 8,
      "data.source.task.num_test": 8})
  modes.run("train", base, str(tmp_path / "base"))
  config = mdpo.get_config("diffu_grpo")
  with config.unlocked():
    config.task = dict(name="calculator")
  tiny.changed(config, {
      "init.checkpoint": str(tmp_path / "base"), "updates": 2, "rollout.num_prompts": 8,
      "rollout.group_size": 2, "eval.num_examples": 8, "eval.batch_size": 8, "eval.nfe": (2,),
      "eval.remasking": ("low_confidence",), "eval.curve_nfe": 2, "rollout.sampler.steps": 2,
      "rollout.sampler.gen_length": 6, "log_steps": 1, "eval_steps": 2, "checkpoint_steps": 1,
      "rollout.max_turns": 2, "rollout.max_reply_length": 3})
  losses, params = _train(config, tmp_path / "one", monkeypatch, 1, "rl")
  assert len(losses) == 2 and np.isfinite(losses).all()
  config.microbatches = 2
  found, others = _train(config, tmp_path / "other", monkeypatch, 8, "rl")
  assert found == pytest.approx(losses, rel=1e-4, abs=1e-5)
  for path, leaf in params.items():
    np.testing.assert_allclose(others[path], leaf, atol=2e-5, err_msg=path)
  shutil.rmtree(tmp_path / "one" / "checkpoints" / "2")
  (tmp_path / "one" / "results.json").unlink()
  config.microbatches = 1
  again, resumed = _train(config, tmp_path / "one", monkeypatch, 1, "rl")
  assert again == losses
  for path, leaf in params.items():
    np.testing.assert_array_equal(resumed[path], leaf, err_msg=path)


@pytest.mark.slow
def test_an_evaluator_of_ones_own_is_in_the_results(tmp_path):
  results = modes.run("train", _config("with_value", tmp_path, steps=1), str(tmp_path / "run"))
  assert results["value_error"] > 0 and results["nats_per_token"] > 0
