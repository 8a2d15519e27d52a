"""Facts of training data that an objective may ask for.

Contents: Facts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mdx.data import pipeline


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a data config says of its training records; read when asked for.

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

  def fields(self) -> tuple[str, ...]:
    """Names of the fields of a batch."""
    return tuple(pipeline.shapes(self.config, 1))
