"""Facts of training data that an objective may ask for.

Contents: Facts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    """The labels of the training records; see `pipeline.labels`."""
    return pipeline.labels(self.config, kind)

  def dates(self) -> dict[str, str]:
    """The first and last date of dated documents; see `pipeline.date_range`."""
    return pipeline.date_range(self.config)

  @property
  def layout(self) -> str:
    """Name of the layout of the rows, of `data.layouts`; that of the first source of a mixture."""
    data = pipeline.read_config(self.config)
    return data.layout or sources.layout_of(data.source_configs()[0])

  def fields(self) -> tuple[str, ...]:
    """Names of the fields of a batch."""
    return tuple(pipeline.shapes(self.config, 1))
