r"""Claim: Mirror-BERT."""

from mdx.configs import mirror
from mdx.configs.claims import common


def get_config(arg=None):
  """Arms and comparisons."""
  data = arg or "grammar"
  base = common.encoder(dict(sts="text").get(data, data), eval_steps=0, steps=1500, objective=dict(
      name="mlm", mask_rate=0.15, mask_draw="exact_count"))
  base.eval.probe.num_labels = 0
  run = mirror.get_config()
  run.update(steps=100, batch_size=128, eval_steps=20, checkpoint_steps=10_000, log_steps=20)
  run.network.update(base.network)
  run.network.update(dropout=0.1, attention_dropout=0.1)
  run.tokenizer, run.data = base.tokenizer, base.data.copy_and_resolve_references()
  run.data.layout = "views"
  run.init.base = base
  run.optimizer.update(learning_rate=1e-3)
  if data == "grammar":
    run.objective.update(span=3, span_unit="tokens", span_least=8)
    run.eval.similarity = dict(source=dict(name="grammar_pairs"), split="validation", limit=0, best_by="")
  elif data == "sts":
    run.eval.similarity = dict(source=dict(name="table", path="/work/shared/data/similarity/stsb/stsb-en-dev.csv.xz", fields=("0","1"), label="2", has_header=False, holdout_every=0), split="train", limit=0, best_by="")
  run.eval.evaluators = ("similarity",)
  if data == "intents":
    run.eval.evaluators = ("clustering", "pair_classification", "text_classification")
    run.eval.text_classification = dict(source=dict(name="packaged", task="intent"), split="validation", limit=300, num_train=70, best_by="")
  else:
    del run.eval["clustering"], run.eval["pair_classification"]
  arms = dict(mirror=dict())
  return common.claim("mirror", run, arms, ())
