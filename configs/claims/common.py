"""Common parts of the claims about pre-training: small runs, and the comparisons of encoders."""

from ml_collections import config_dict

from mdx import tasks
from mdx.configs import common
from mdx.configs import finetune
from mdx.data import task_rows

# What the tokenizer, clusters and n-grams of the data are called, and where its labels begin.
ASSETS = {"grammar": "grammar", "intents": "snips", "text": "holmes"}
INTENTS = ("AddToPlaylist", "BookRestaurant", "GetWeather", "PlayMusic", "RateBook",
           "SearchCreativeWork", "SearchScreeningEvent")
BOOKS = ("THE ADVENTURES OF SHERLOCK HOLMES", "THE MEMOIRS OF SHERLOCK HOLMES",
         "THE RETURN OF SHERLOCK HOLMES", "THE HOUND OF THE BASKERVILLES")


def get_config(**changes):
  """A run of half a minute on 2 cores; nothing but its results is kept.

  Args:
    **changes: keys of the config, such as `steps`.
  """
  run = common.get_config()
  run.update(steps=500, batch_size=32, eval_steps=0, checkpoint_steps=10_000)
  run.network.update(num_layers=2, width=64, num_heads=2, mlp_width=192)
  run.optimizer.learning_rate = 4e-3
  run.eval.update(final_samples=8, baselines=False)
  run.sampler.num_samples = 0
  run.update(changes)
  return run


def translate(run, task, steps):
  """Gives a run on a task a small autoregressive base model of task `translation`.

  Args:
    run: config of mode rl or eval; changed.
    task: fields of the task.
    steps: of the base.

  Returns:
    Sizes of the task's rows, a `task_rows.Sizes`.
  """
  task = dict(name="translation", **task)
  sizes, base = task_rows.of_task(tasks.build(task)), run.init.base
  run.task = task
  base.objective = dict(name="ar")
  base.update(steps=steps, batch_size=64, eval_steps=0, checkpoint_steps=steps, log_steps=100)
  base.network.update(num_layers=2, width=48, num_heads=2, mlp_width=96, max_length=16)
  base.optimizer.update(learning_rate=4e-3)
  base.tokenizer.path = sizes.tokenizer
  base.data.length = sizes.length
  base.data.source = dict(name="task", task=task)
  base.eval.update(num_batches=2)
  return sizes


def data_of(arg, name, choices=tuple(ASSETS)):
  """Which data a claim about encoders is made on, one of `choices`; without `arg` the first.

  Raises:
    ValueError: another argument.
  """
  if arg and arg not in choices:
    raise ValueError(f"configs/claims/{name}.py takes one of {', '.join(choices)}, got {arg!r}.")
  return arg or choices[0]


def encoder(data, **changes):
  """A small encoder whose frozen states are probed with few labels during its training.

  The rate is constant and the probed weights are averaged, so that a run may be compared at every
  step of it, at equal steps as at equal CPU time.

  Args:
    data: "grammar": the topic (one of 8) of documents of the toy grammar, from 24 labels;
      "intents": what a spoken request wants (one of 7, snips.txt.xz), from 28 labels, after 1500
      steps; "text": which of the four packaged books a passage of 300 characters is from, from 64.
    **changes: keys of the config.
  """
  run = get_config(steps=600, eval_steps=100, ema_decay=0.98)
  run.optimizer.update(learning_rate=3e-3, schedule="constant", warmup_steps=100)
  run.eval.update(final_samples=1, num_samples=1, num_batches=2)
  run.network.position = "learned"
  run.data.update(packing="crop")
  if data == "grammar":
    run.tokenizer.path = "grammar"
    run.data.length = 24
    run.data.source = dict(name="grammar", num_sentences=3, num_documents=16_000,
                           num_validation=800)
    run.eval.probe.update(num_labels=24)
  elif data == "intents":
    run.steps = 1500
    common.read_requests(run)
    run.data.source.section_marks = INTENTS
    run.eval.probe.update(num_labels=28)
  else:
    run.data.length = 80
    run.data.source = dict(name="text", path="asset:holmes.txt.xz", document_chars=300,
                           section_marks=BOOKS, holdout_every=10)
    run.eval.probe.update(num_labels=64)
  run.update(changes)
  return run


def finetuned(base, **changes):
  """A fine-tuning of 200 steps on the intents of 70 requests, of an encoder that `base` trains.

  Args:
    base: of `encoder("intents")`.
    **changes: keys of the config.
  """
  run = finetune.get_config("intent")
  run.update(steps=200, checkpoint_steps=10_000)
  run.optimizer.update(warmup_steps=20, layer_decay=1.0)
  run.network.update(base.network)
  run.objective.pooling = "mean"
  run.data.length = base.data.length
  run.data.source.num_train = 70
  run.init.base = base
  run.update(changes)
  return run


def compared(pairs, **fields):
  """Each pair (left, right) at equal steps and at equal CPU time, by the probe.

  Args:
    pairs: names of arms.
    **fields: of the comparisons.
  """
  return tuple(
      dict(name=f"{left} beats {right} at equal {what}", left=left, right=right, equal=equal,
           **fields)
      for left, right in pairs
      for equal, what in (("updates", "steps"), ("cpu_seconds", "CPU time")))


def claim(statement, run, arms, comparisons):
  """The config of a claim about encoders."""
  return config_dict.ConfigDict(dict(
      mode="claim", statement=statement, seeds=(0, 1, 2), run=run, arms=arms, grids=dict(),
      choose_by="", measures=("last", "best", "first", "cpu_seconds", "nats_per_token"),
      comparisons=comparisons))
