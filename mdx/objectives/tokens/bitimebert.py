"""BiTimeBERT 2.0: masks that know time, dating of documents, and replaced persons.

Contents: BiTimeBERT, MASKINGS.

Convention: rows are those of sources of dated documents (`sources.dated`, `toys.news`), with
`spans` coded as in `mdx.corruption.temporal` and the day at the first position of `labels`.
`params["model"]` is the model; the heads "dating" and "tser" are left out when it is served.

Reference: Wang et al., BiTimeBERT (arXiv:2204.13032) and BiTimeBERT 2.0 (arXiv:2406.01863).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Mapping

import jax.numpy as jnp

from mdx import assets
from mdx import config as config_lib
from mdx import types
from mdx.corruption import mask as mask_lib
from mdx.corruption import temporal
from mdx.networks import heads
from mdx.objectives.tokens import detection
from mdx.objectives.tokens import mlm
from mdx.objectives.tokens import selection
from mdx.utils import dates

MASKINGS = ("plain", "tamlm", "etamlm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BiTimeBERT(mlm.MaskedLM):
  """MLM + dating_weight * dating + tser_weight * replaced persons, each a mean of what it counts.

  mlm: of the masked tokens, as in `mlm`
  dating: cross-entropy of the period that a document is of, from its first position
  tser: of mentions of persons, whether another of the same pool stands there, by the states of the
    mention's first and last position; a mention for which there is no other is not judged. Neither
    are replaced mentions masked, nor neighbours both replaced.

  Attributes (more in `MaskedLM`):
    masking: "plain" as there; "tamlm": whole temporal expressions first, see
      `temporal.time_aware`; "etamlm": signals of time too, whose random tokens are of another
      class. The last two select an exact share of single tokens, without spans or copies.
    temporal_rate, signal_rate: shares of the expressions, and of the signals, that are chosen.
    granularity: of dating: "day", "week", "month" or "year".
    first_date, last_date: days that there are periods for; "" = those of the data. Documents of
      others are not dated.
    dating_weight: factor; 0: no such term, no head.
    tser_weight: the same.
    tser_rate: at which mentions are drawn; fewer are replaced, see `temporal.replace_persons`.
    tser_pool: persons that replace one: of the same "month", or "all".
    persons: JSON file with them, as `python -m mdx.data.prepare persons` makes it.
    to_ids: `Tokenizer.encode`.

  Raises:
    ValueError: values out of range, a file that is not there or is of another tokenizer or other
      dates, or choices that exclude each other.
  """
  masking: str = "etamlm"
  mask_draw: str = "exact_count"
  temporal_rate: float = 0.3
  signal_rate: float = 0.3
  granularity: str = "month"
  first_date: str = ""
  last_date: str = ""
  dating_weight: float = 1.0
  tser_weight: float = 1.0
  tser_rate: float = 0.5
  tser_pool: str = "month"
  persons: str = ""
  to_ids: Any = dataclasses.field(default=None, repr=False, compare=False)

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(
        self, "objective", at_least=dict(dating_weight=0, tser_weight=0),
        choices=dict(masking=MASKINGS, tser_pool=("month", "all"), granularity=dates.GRANULARITIES),
        between=dict.fromkeys(("temporal_rate", "signal_rate", "tser_rate"), "[0, 1]"))
    if self.num_copies > 1:
      raise ValueError("objective.name bitimebert reads a row once; set predict_rate to at most "
                       f"mask_rate {self.mask_rate}, not {self.predict_rate}.")
    if self.masking != "plain" and (self.unit != "token" or self.span_max > 1
                                    or self.replace_together or self.mask_draw != "exact_count"):
      raise ValueError(f"objective.masking {self.masking} selects an exact share of single "
                       "tokens; leave unit, mask_draw, span_max and replace_together, or use "
                       "masking plain.")
    if not (self.first_date and self.last_date):
      raise ValueError("objective.first_date and last_date are needed; the sources dated and news "
                       "give them.")
    self.calendar.num_periods(self.granularity)
    if self.tser_weight:
      self.pools  # pylint: disable=pointless-statement  (checks it)

  @property
  def calendar(self) -> dates.Calendar:
    """Days from the first to the last date."""
    return dates.Calendar(self.first_date, self.last_date)

  @functools.cached_property
  def pools(self) -> temporal.Persons:
    """The persons of each month, or one pool of all."""
    if not self.persons:
      raise ValueError("objective.tser_weight needs persons, a file that python -m "
                       "mdx.data.prepare persons makes; or set it to 0.")
    path = assets.resolve(self.persons)
    identity, first, last, names, ids, months = selection.prepared(
        "persons", path, "tokenizer", "first_date", "last_date", "names", "ids", "months")
    if identity != self.tokenizer_hash:
      raise ValueError(f"objective.persons {path} has names in ids of another tokenizer "
                       f"({identity}) than that of the run ({self.tokenizer_hash}); make one of "
                       "its own.")
    if (first, last) != (self.first_date, self.last_date):
      raise ValueError(f"objective.persons {path} has the months of {first} .. {last}, the run is "
                       f"from {self.first_date} to {self.last_date}; make one of these.")
    pools = months if self.tser_pool == "month" else [sorted(set().union(*months))]
    return temporal.Persons.of(names, ids, pools)

  @functools.cached_property
  def signal_ids(self) -> list[list[int]]:
    """Tokens that are a signal of each class, at the beginning of a text or behind a space."""
    found = []
    for words in temporal.SIGNALS:
      ids = set()
      for text in (f"{space}{w}" for word in words for w in (word, word.capitalize())
                   for space in ("", " ")):
        try:
          of_text = self.to_ids(text)
        except ValueError:  # a vocabulary without it
          continue
        if len(of_text) == 1:
          ids.add(int(of_text[0]))
      found.append(sorted(ids))
    return found

  @property
  def scales(self) -> Mapping[str, float]:
    """The terms there are."""
    terms = {"mlm": 1.0, "dating": self.dating_weight, "tser": self.tser_weight}
    return {name: weight for name, weight in terms.items() if weight or name == "mlm"}

  @classmethod
  def complete(cls, config, data):
    """The config with the first and last date of its training data."""
    found, fields = data.dates(), config["objective"]
    for name, date in found.items():
      if fields.get(name) not in (None, "", date):
        raise ValueError(f"objective.{name} is {fields[name]}, that of the data {date}; leave it "
                         "out.")
    return {**config, "objective": {**fields, **found}}

  def parts(self):
    """The model and the heads."""
    width = self.network.width
    parts = dict(super().parts())
    if self.dating_weight:
      parts["dating"] = heads.mlp_part(width, width, self.calendar.num_periods(self.granularity))
    if self.tser_weight:
      parts["tser"] = heads.mlp_part(2 * width, width, 1)
    return parts

  def served(self, config):
    """MLM, without the heads."""
    del config
    return {"name": "mlm"}

  def prepare(self, params, batch, key, context):
    """Replaces persons, then masks others.

    Returns:
      The batch with `noisy_tokens` and `is_target` [B, L]; with `period` int32 [B] and `is_dated`
      bool [B]; and with `is_replaced` and `is_judged` bool [B, L], at first positions of mentions.
    """
    if "spans" not in batch:
      raise ValueError("objective bitimebert reads documents with a date; use data.source.name "
                       "dated or news.")
    day = batch["labels"][:, 0] - self.calendar.first
    in_range = (day >= 0) & (day <= self.calendar.last - self.calendar.first)
    day = jnp.where(in_range, day, 0)
    of_day = lambda granularity: jnp.asarray(self.calendar.periods(granularity))[day]
    counts = {}
    if self.dating_weight:
      batch = batch | {"period": of_day(self.granularity), "is_dated": in_range}
      counts["dating"] = batch["is_dated"]
    if self.tser_weight:
      pool = of_day("month") if self.tser_pool == "month" else jnp.zeros_like(day)
      batch = self._replaced(self.draws(batch, key)("persons"), batch, pool, in_range)
      counts["tser"] = batch["is_judged"]
    batch, weights = super().prepare(params, batch, key, context)
    return batch, weights | {name: x.sum(dtype=jnp.float32) for name, x in counts.items()}

  def _replaced(self, keys, batch, pool, in_range):
    """The batch with persons replaced, which are not masked then."""
    allowed = mask_lib.allowed_positions(batch)
    dated = batch | {"loss_mask": allowed & in_range[:, None]}
    tokens, replaced, judged = temporal.replace_persons(keys, dated, pool, self.pools,
                                                        self.tser_rate)
    is_written = jnp.take_along_axis(replaced, temporal.units(dated), axis=1)
    return batch | {"tokens": tokens, "loss_mask": allowed & ~is_written, "is_replaced": replaced,
                    "is_judged": judged}

  def select(self, keys, rate, batch, words, nth=0):
    """Selects by `masking`; no units but with "plain"."""
    if self.masking == "plain":
      return super().select(keys, rate, batch, words, nth)
    signal_rate = self.signal_rate if self.masking == "etamlm" else None
    return temporal.time_aware(keys, rate, batch, temporal_rate=self.temporal_rate,
                               signal_rate=signal_rate), None

  def random_tokens(self, draws, batch):
    """Signals of another class for signals, with "etamlm"."""
    if self.masking != "etamlm":
      return None
    return temporal.other_signals(draws("signal"), batch["spans"], self.signal_ids)

  def score(self, params, batch, hidden, context):
    """The terms there are; `rows` has the nats of the masked tokens."""
    totals, aux = super().score(params, batch, hidden, context)
    metrics = aux.metrics
    if self.dating_weight:
      logits, is_dated = heads.mlp(params["dating"], hidden[:, 0]), batch["is_dated"]
      nats = jnp.where(is_dated, heads.cross_entropy(logits, batch["period"]), 0.0)
      right = is_dated & (logits.argmax(axis=-1) == batch["period"])
      totals, count = totals | {"dating": nats.sum()}, is_dated.sum(dtype=jnp.float32)
      metrics = metrics | {"dating_nats": (totals["dating"], count),
                           "dating_accuracy": (right.sum(dtype=jnp.float32), count)}
    if self.tser_weight:
      last = temporal.last_positions(temporal.units(batch))
      ends = jnp.concatenate(
          [hidden, jnp.take_along_axis(hidden, last[..., None], axis=1)], axis=-1)
      network = self.network._replace(
          head=lambda params, hidden, name: heads.mlp(params, hidden)[..., 0])
      nats, _, found = detection.losses(network, params["tser"], ends, batch["is_replaced"],
                                        batch["is_judged"])
      totals = totals | {"tser": nats.sum()}
      metrics = metrics | {name.replace("rtd", "tser"): x for name, x in found.items()}
    return totals, types.Aux(metrics, aux.rows, aux.state)
