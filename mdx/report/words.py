"""Words of reports: names, units and terms as a person reads them.

Contents: TERMS, label.
"""

from __future__ import annotations

import re


def label(name: str) -> str:
  """A method's name in its usual spelling: "diffu_grpo" is "diffu GRPO"."""
  return re.sub(r"\b(\w{4})\b", lambda m: m[1].upper(), name.replace("_", " ")) if (
      "po" in name) else name.replace("_", " ")
