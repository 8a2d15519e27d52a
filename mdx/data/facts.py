"""Facts of training data that an objective may ask for.

Contents: Facts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mdx import config as config_lib
from mdx.data import pipeline
from mdx.data import sources


@dataclasses.dataclass(frozen=True)
class Facts:
  """Facts that a data config says of its training records; read when asked for.

  Attributes:
    config: `config.data`.
  """
  config: Mapping[str, Any]

  def labels(self, kind: str) -> tuple[str, ...]:
    """The labels of the training records, sorted, with "O" (no entity) first.

    Args:
      kind: of `sources.labelled.KINDS`, what must be labelled.

    Raises:
      ValueError: the source labels something else, or nothing.
    """
    found = set()
    cfg = {**config_lib.to_dict(self.config), "labels": ()}
    for source, *_ in pipeline.read_config(cfg).parts():
      if source.kind != kind:
        raise ValueError(f"this objective is for labels of {kind}, but data source {source.title} "
                         f"labels {source.kind}; use another.")
      for record in source.records("train"):
        found.update(record["tags"] if kind == "words" else [record["label"]])
    return tuple(sorted(found, key=lambda label: (label != "O", label)))

  def dates(self) -> dict[str, str]:
    """{"first_date", "last_date"} of dated documents; {} of others.

    Raises:
      ValueError: sources of different dates.
    """
    found = [source.dates() for source, *_ in pipeline.read_config(self.config).parts()]
    for dates in found:
      if dates != found[0]:
        raise ValueError("data config: the sources of a mixture must have one first_date and "
                         f"last_date; got {found[0]} and {dates}.")
    return found[0]

  @property
  def has_test(self) -> bool:
    """Whether there is a test split."""
    return all("test" in sources.build(fields).splits
               for fields in pipeline.read_config(self.config).source_configs())

  @property
  def layout(self) -> str:
    """Name of the layout of the rows, of `data.layouts`; that of the first source of a mixture."""
    data = pipeline.read_config(self.config)
    return data.layout or sources.layout_of(data.source_configs()[0])

  def fields(self) -> tuple[str, ...]:
    """Names of the fields of a batch."""
    return tuple(pipeline.shapes(self.config, 1))
