"""Text for people, on the first process of a job.

Contents: say.
"""

from __future__ import annotations

import jax


def say(text: str) -> None:
  """Prints on the first process only."""
  if jax.process_index() == 0:
    print(text, flush=True)
