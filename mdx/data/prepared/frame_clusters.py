"""Clusters of frames, targets of masked prediction.

Contents: windows, centres.

Reference: Hsu et al. 2021, arXiv:2106.07447 (HuBERT: k-means of spectral frames).
"""

from __future__ import annotations

import numpy as np
from scipy.cluster import vq


def windows(frames: np.ndarray, span: int) -> np.ndarray:
  """Stretches of `span` frames side by side, [n // span, span * channels], of frames [n, C]."""
  whole = len(frames) // span * span
  return frames[:whole].reshape(-1, span * frames.shape[1])


def centres(x: np.ndarray, num_clusters: int, *, seed: int = 0) -> np.ndarray:
  """Centres float32 [num_clusters, D] of vectors [N, D], by k-means.

  Raises:
    ValueError: fewer vectors than clusters.
  """
  if len(x) < num_clusters:
    raise ValueError(f"{len(x)} stretches of frames, fewer than num_clusters {num_clusters}; give "
                     "more recordings, or make fewer clusters.")
  found, _ = vq.kmeans2(np.asarray(x, np.float64), num_clusters, iter=50, minit="++", seed=seed)
  return found.astype(np.float32)
