"""Words of reports: the sentence that says what a run did, names, units and terms.

Contents: TERMS, SMALLER_IS_BETTER, LARGER_IS_BETTER, label, name_of, term_of, flat,
duration, is_share, quantity, is_error, error_of, figures, headline.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

TERMS = {
    "base model": "the model before reinforcement learning",
    "bits per character": "negative log2-likelihood of held-out text divided by its characters; "
                          "of diffusion models an upper bound. Smaller is better",
    "confidence": "probability that the model gives to the token it proposes",
    "dead groups": "share of prompts whose rollouts all earn the same, so that nothing can be "
                   "learned from them",
    "denoising steps": "network calls in which the masked positions of an answer are filled; with "
                       "fewer steps more tokens are committed together",
    "EMA": "exponential moving average of the weights over the training steps",
    "goodput": "share of the time since the first start that went into steps that count",
    "gradient norm": "Euclidean norm of the gradient over all parameters, before clipping",
    "held-out": "never trained on",
    "KL": "divergence of the trained model from the base model, in nats",
    "low confidence": "remasking rule that commits the most confident tokens and never changes "
                      "them (LLaDA, arXiv:2502.09992)",
    "MDPO": "masked diffusion policy optimisation: reinforcement learning on the trajectories that "
            "the sampler itself visits (He et al. 2025, arXiv:2508.13148)",
    "nats per token": "negative log-likelihood of held-out text divided by its tokens. Smaller is "
                      "better",
    "network calls": "evaluations of the network for one answer, also called NFE",
    "over-denoised": "right in the prediction of some step, wrong at the end",
    "perplexity": "exponential of the nats per token. Smaller is better",
    "policy ratio": "probability of the sampled tokens under the trained model divided by that "
                    "under the model that sampled them",
    "RCR": "running confidence remasking: tokens of low confidence are masked again (He et al. "
           "2025, arXiv:2508.13148)",
    "reward": "score that the task's checker gives to an answer",
    "rollouts": "answers sampled from the model that is being trained",
    "standard error": "standard deviation of a figure over draws of the held-out problems. Another "
                      "seed or processor trains another model, and may differ by more",
    "updates": "steps of the optimizer",
}
_NAMES = {
    "accuracy": "right answers", "best_of_steps": "right in some step", "bits_per_char":
    "bits per character", "dead_groups": "dead groups", "grad_norm": "gradient norm",
    "ema": "EMA", "kl": "KL", "log_prob": "log-probability", "matmul_flops":
    "matrix multiplications", "nfe": "network calls", "nfe_rollout": "network calls of rollouts",
    "over_denoising": "over-denoised", "ratio": "policy ratio", "reward": "reward", "rcr": "RCR",
    "stderr": "standard error", "wall_seconds": "wall time", "peak_host_bytes":
    "most memory, host", "peak_device_bytes": "most memory, a device", "num_rows": "rows",
    "num_examples": "held-out problems", "num_tokens": "held-out tokens", "num_chars":
    "held-out characters", "seconds": "time", "lr": "learning rate"}
_TERM_OF = {"right answers": "", "network calls of rollouts": "network calls", "base":
            "base model", "policy ratio": "policy ratio"}
SMALLER_IS_BETTER = ("nats_per_token", "bits_per_char", "perplexity", "loss", "over_denoising",
                     "generative_perplexity", "seconds", "nfe")
LARGER_IS_BETTER = ("accuracy", "macro_f1", "f1", "mcc", "pearson", "spearman", "pearson_spearman",
                    "entity_f1", "word_accuracy", "map", "mrr", "p_at_1", "reward",
                    "tokens_per_second")
_SHARES = ("accuracy", "over_denoising", "goodput", "best_of_steps", "dead_groups", "interval_low",
           "interval_high")
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def label(name: str) -> str:
  """A method's name in its usual spelling: "diffu_grpo" is "diffu GRPO"."""
  return " ".join(word.upper() if word in ("mdpo", "grpo", "ar", "mlm", "rts", "d3pm", "sedd")
                  else word for word in name.split("_"))


def name_of(key: str) -> str:
  """A metric's or figure's name in words; the last part of a dotted key decides."""
  head, _, last = key.rpartition(".")
  words = _NAMES.get(last, last.replace("_", " "))
  return f"{name_of(head)}: {words}" if head else words


def term_of(words: str) -> str:
  """The term of TERMS that a cell names; "" if none."""
  known = {term.lower(): term for term in TERMS}
  words = re.sub(r" \(.*\)$", "", words)
  return known.get(_TERM_OF.get(words, words).lower(), "")


def flat(value: Any, above: str = "") -> dict[str, Any]:
  """{dotted path: leaf} of nested dicts."""
  if not isinstance(value, Mapping):
    return {above: value}
  found: dict[str, Any] = {}
  for key, inner in value.items():
    found |= flat(inner, f"{above}.{key}" if above else str(key))
  return found


def duration(seconds: float) -> str:
  """Seconds as hours, minutes and seconds."""
  if seconds < 60 or not math.isfinite(seconds):
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _number(value: float) -> str:
  if isinstance(value, int) or not math.isfinite(value):
    return f"{value:,}" if isinstance(value, int) else str(value)
  if value == int(value) and abs(value) < 1e6 or abs(value) >= 1000:
    return f"{value:,.0f}"
  return f"{value:.4g}"


def is_share(key: str) -> bool:
  """Whether a figure is a share, shown in percent."""
  last = key.rpartition(".")[2]
  return last in _SHARES or last.endswith(("_accuracy", "_rate")) and last != "learning_rate"


def quantity(key: str, value: Any, error: float | None = None) -> str:
  """A figure with its unit and, in the same cell, its error.

  Args:
    key: name in `results.json`, which tells the unit: seconds, bytes, FLOPs, shares.
    value: of the figure; anything else than a number is written as it is.
    error: standard error.
  """
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return value if isinstance(value, str) else json.dumps(value, default=str)
  last = key.rpartition(".")[2]
  if is_share(key):
    return f"{100 * value:.1f}" + ("" if error is None else f" ± {100 * error:.1f}") + " %"
  if error is not None and math.isfinite(error) and error > 0:
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{digits}f} ± {error:.{digits}f}"
  if last.endswith("seconds") or key.startswith("seconds."):
    return duration(value)
  if last.endswith("bytes"):
    return f"{value / 2**30:.2f} GiB" if value >= 2**28 else f"{value / 2**20:.1f} MiB"
  if last.endswith("flops"):
    size, prefix = next(((s, p) for s, p in _PREFIXES if value >= s), (1.0, ""))
    return f"{value / size:.3g} {prefix}FLOP"
  return _number(value)


def is_error(key: str, keys: Mapping[str, Any]) -> bool:
  """Whether a figure is the error of another one, and stands in its cell."""
  head, _, last = key.rpartition(".")
  return (last.endswith("_stderr") and key.removesuffix("_stderr") in keys) or (
      last == "stderr" and (f"{head}." if head else "") + "accuracy" in keys)


def error_of(key: str, results: Mapping[str, Any]) -> float | None:
  """The standard error of a figure, if it is known."""
  found = results.get(f"{key}_stderr", results.get(
      re.sub(r"accuracy$", "stderr", key)) if key.endswith("accuracy") else None)
  return float(found) if isinstance(found, (int, float)) else None


def figures(results: Mapping[str, Any]) -> dict[str, tuple[Any, float | None]]:
  """{key: (value, error)} of the figures that fit into a cell each; tables and curves do not."""
  scalars = {key: value for key, value in flat(results).items()
             if isinstance(value, (int, float, str)) and key != "identity"
             and not key.startswith("task.")}
  return {key: (value, error_of(key, scalars)) for key, value in scalars.items()
          if not is_error(key, scalars)}


def _percent(value: float) -> str:
  """A share without its error, on one line with its sign."""
  return f"{100 * value:.{0 if 0.005 < value < 0.995 else 1}f}\u00a0%"


def _of_rl(config: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[str, str]:
  """The title and sentence of an RL run, from its table."""
  table, noun = results["table"], _noun(config, results)
  first, steps = table[0]["remasking"], sorted({row["nfe"] for row in table})
  models = list(dict.fromkeys(row["model"] for row in table))
  cell = {(row["model"], row["nfe"]): row for row in table if row["remasking"] == first}
  few, many = cell[models[0], steps[0]], cell[models[0], steps[-1]]
  count = f"{few['num_examples']:,} held-out problems"
  if len(models) < 2:
    return (f"The {models[0]} model has {_percent(few['accuracy'])} of {noun} right in {steps[0]} "
            "steps", f"With {steps[-1]} steps {_percent(many['accuracy'])}; {count}.")
  after, end = cell[models[1], steps[0]], cell[models[1], steps[-1]]
  change = after["accuracy"] - few["accuracy"]
  noise = 2 * math.hypot(after["stderr"], few["stderr"])
  both = f"from {_percent(few['accuracy'])} to {_percent(after['accuracy'])}"
  verb = "raised" if change > noise else "lowered" if change < -noise else ""
  title = (f"{label(models[1])} {verb} correct {noun} in {steps[0]} steps {both}" if verb else
           f"{label(models[1])} did not measurably change correct {noun} in {steps[0]} steps: "
           f"{both}")
  more = ("" if len(steps) < 2 else f" In {steps[-1]} steps {_percent(many['accuracy'])} before "
          f"and {_percent(end['accuracy'])} after.")
  trained = ("" if not results.get("updates") else f"{results['updates']:,} updates"
             + (f" on {results['rollouts']:,} rollouts" if results.get("rollouts") else "") + ", ")
  return title, (f"{trained}{count}, standard error {100 * after['stderr']:.1f} points; a repeated "
                 f"run may differ by more.{more}")


def _noun(config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
  task = results.get("task")
  if isinstance(task, Mapping) and isinstance(task.get("noun"), str):
    return task["noun"]
  return f"{config.get('task', {}).get('name', 'task')} problems"


def _of_training(config: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[str, str]:
  """The title and sentence of a run that is measured in one figure."""
  found = figures(results)
  wanted = config.get("eval", {}).get("measures") or ()
  names = [*(f"test_{name}" for name in wanted), *wanted, "bits_per_char", "nats_per_token",
           "generative_perplexity", "accuracy"]
  key = next((name for name in names if isinstance(found.get(name, ("",))[0], float)), "")
  method = label(config.get("objective", {}).get("name", "")) or "The model"
  if not key:
    return "", ""
  steps = f" after {results['steps']:,} steps" if isinstance(results.get("steps"), int) else ""
  where = "" if key.startswith("test_") else " held out"
  compared = [f"{name} {results[f'{name}_bits_per_char']:.3f}" for name in ("unigram", "bigram")
              if isinstance(results.get(f"{name}_bits_per_char"), float)]
  time = results.get("seconds")
  parts = [f"{results['parameters']:,} parameters" if "parameters" in results else "",
           duration(time) if isinstance(time, (int, float)) else "",
           f"for comparison {' and '.join(compared)} bits" if compared else ""]
  sentence = ", ".join(filter(None, parts))
  return (f"{method}: {quantity(key, *found[key])} {name_of(key)}{where}{steps}",
          sentence[:1].upper() + sentence[1:] + "." if sentence else "")


def headline(config: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[str, str]:
  """Title and sentence that say how a run ended; ("", "") where no rule knows.

  Args:
    config: of the run.
    results: contents of `results.json` or `eval.json`.
  """
  if isinstance(results.get("table"), list) and results["table"]:
    return _of_rl(config, results)
  if isinstance(results.get("comparisons"), list) and "statement" in results:
    verdicts = [row["verdict"] for row in results["comparisons"]]
    counts = [f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)]
    return results["statement"], f"Comparisons: {', '.join(counts)}."
  if "accuracy" in results and "num_examples" in results:
    share = quantity("accuracy", results["accuracy"], results.get("stderr"))
    over = results.get("over_denoising")
    return (f"{share} of {results['num_examples']:,} {_noun(config, results)} right",
            f"{results.get('nfe', 0):.1f} network calls a problem"
            + ("" if over is None else f", {_percent(over)} over-denoised") + ".")
  if "num_rows" in results and "nfe" in results:
    return (f"{results['num_rows']:,} samples in {results['nfe']:.4g} network calls each", "")
  return _of_training(config, results)
