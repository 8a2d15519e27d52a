"""Embedding of texts by the model of a run, for evaluators.

Contents: Embedding, Embedded (base).

Convention: an evaluator reads the table of its name in `config.eval`, and `eval.embedding` says
what all have in common. Rows are cut or padded to those of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.data import pipeline
from mdx.eval import likelihood
from mdx.networks import pooling as pooling_lib
from mdx.objectives import reading
from mdx.utils import processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding:
  """Fields of `config.eval.embedding`.

  Attributes:
    pooling: name of a pooling, or a table of `name` and fields; "" = as the objective has it, or
      the mean.
    attention: of a given pooling, and of objectives without an embedding.
    dims: figures also of the first so many columns, "spearman_dim16".
  """
  pooling: Any = ""
  attention: Any = dataclasses.field(default_factory=lambda: {"name": "full"})
  dims: tuple[int, ...] = ()

  def embed(self, objective: types.Objective):
    """Returns (params, batch) -> float32 [B, D].

    Raises:
      ValueError: an unknown pooling, one with parameters, or more columns than the model has.
    """
    network = objective.network
    if wrong := [dim for dim in self.dims if not 0 < dim <= network.width]:
      raise ValueError(f"eval.embedding.dims has {wrong[0]}; expected 1 to {network.width}, the "
                       "width of the embeddings.")
    own = objective.embedder().vectors
    if own is not None and not self.pooling:
      return own
    pool = pooling_lib.build(self.pooling or "mean")
    if pool.part(network.width) is not None:
      raise ValueError("eval.embedding.pooling has parameters, which only an objective trains; "
                       "leave it empty.")
    attention = reading.attention_of(self.attention, network)

    def embed(params, batch):
      found = network.encode(params["model"], reading.inputs_of(batch), attention=attention,
                             keep_layers=pool.reads_layers)
      return pool(found.layers if pool.reads_layers else found.last, batch["segment_ids"] > 0,
                  tokens=batch["tokens"])

    return embed


class Embedded(types.Evaluator):
  """Base: reads the texts, embeds them, and gives the figures of each width.

  Attributes:
    table: name of the table in `config.eval`, and of the evaluator.
    fields: dataclass of the table, which has `best_by`: the figure whose best weights are kept,
      "" = the last ones.
    names: figures of which larger is better.
    others: figures beside them.
  """
  table: ClassVar[str]
  fields: ClassVar[type]
  names: ClassVar[tuple[str, ...]]
  others: ClassVar[tuple[str, ...]] = ()
  from_start = True

  def __init__(self, parts: Any):
    """Reads the texts; `parts` are those of a run."""
    self._parts = parts
    common, self.own = _read(parts.config, self)
    self.best_by = self.own.best_by
    self._dims = common.dims
    self._embed = processes.Jitted(common.embed(parts.objective))
    self.data = self.read()

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for fields without meaning."""
    common, own = _read(config, cls)
    common.embed(objective)
    config_lib.check(own, f"eval.{cls.table}", choices=dict(best_by=("", *cls.names)))

  def vectors(self, params: types.Params, texts: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Embeddings float32 [N, D] of texts, {"text"} or {"tokens"} each."""
    config, parts = self._parts.config, self._parts
    data = dict(config["data"], source={"name": "text"}, mixture=None, layout="views",
                packing="crop", labels=None, fill="pad", too_long="error", separators=1)
    batches = pipeline.batches_of(data, texts, parts.tokenizer, batch_size=config["batch_size"])
    results, _ = likelihood.run_batches(self._embed, params, batches, mesh=parts.mesh)
    return np.concatenate(results)[:len(texts)]

  def read(self) -> Any:
    """Returns the texts and what is known of them.

    Raises:
      ValueError: data that has no such figures.
    """

  def embedded(self, params: types.Params) -> Any:
    """Returns the embeddings of the texts, a tree of float32 [N, D]."""

  def figures(self, found: Any) -> dict[str, float]:
    """Returns figures of embeddings, by name."""

  def __call__(self, params, frozen, *, quick):
    """Figures of all of the texts: those of a part would be other measures."""
    del frozen, quick
    found = self.embedded(params)
    width = next(iter(found.values())).shape[1]
    results = {}
    for dim in dict.fromkeys((width, *self._dims)):
      cut = {name: x[:, :dim] for name, x in found.items()}
      results |= {name if dim == width else f"{name}_dim{dim}": value
                  for name, value in self.figures(cut).items()}
    return results

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    return f"{self.table:<20}" + ", ".join(
        f"{name} {results[name]:.4f}" for name in (*self.names, *self.others) if name in results)


def _read(config, evaluator):
  """`eval.embedding` and the table of an evaluator, built."""
  tables = config["eval"]
  if evaluator.table not in tables:
    raise ValueError(f"eval.evaluators has {evaluator.table!r}, which reads the table "
                     f"eval.{evaluator.table}; give it a source.")
  common = config_lib.construct(Embedding, tables.get("embedding", {}), what="eval.embedding")
  own = config_lib.construct(evaluator.fields, tables[evaluator.table],
                             what=f"eval.{evaluator.table}")
  return common, own
