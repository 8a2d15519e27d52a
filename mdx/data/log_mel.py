"""Log-mel spectra of recordings.

Contents: mel_filters, log_mel, normalized.

Convention: frame i is the window of samples that begins at i * hop, so that a recording of n
samples has 1 + (n - window) // hop frames and none of them sees padding. Energies are squared
magnitudes, triangles have height 1, logarithms are natural with a floor of 1e-10.

Reference: Young et al., The HTK Book (the mel scale 2595 log10(1 + f / 700)).
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import signal

_FLOOR = 1e-10


def _mel(hertz):
  return 2595.0 * np.log10(1.0 + np.asarray(hertz, np.float64) / 700.0)


@functools.lru_cache(maxsize=8)
def mel_filters(num_mels: int, num_bins: int, rate: int) -> np.ndarray:
  """Triangular filters float64 [num_bins, num_mels], evenly spaced in mels up to rate / 2.

  Args:
    num_mels: filters.
    num_bins: frequencies from 0 to rate / 2.
    rate: samples a second.

  Raises:
    ValueError: a filter that no frequency falls into.
  """
  edges = 700.0 * (10.0 ** (np.linspace(0.0, _mel(rate / 2), num_mels + 2) / 2595.0) - 1.0)
  hertz = np.linspace(0.0, rate / 2, num_bins)[:, None]
  low, middle, high = edges[:-2], edges[1:-1], edges[2:]
  found = np.maximum(0.0, np.minimum((hertz - low) / (middle - low),
                                     (high - hertz) / (high - middle)))
  if not found.any(axis=0).all():
    raise ValueError(f"num_mels {num_mels} is too many for {num_bins} frequencies of a window; use "
                     "fewer, or a longer window_ms.")
  return found


def log_mel(wave: np.ndarray, rate: int, *, num_mels: int, window_ms: float = 25.0,
            hop_ms: float = 10.0) -> np.ndarray:
  """Log-mel spectrum of a recording.

  Args:
    wave: float32 [n], in [-1, 1].
    rate: samples a second.
    num_mels: channels.
    window_ms: length of the Hann window, milliseconds.
    hop_ms: from one window to the next.

  Returns:
    float32 [frames, num_mels].

  Raises:
    ValueError: a recording shorter than a window.
  """
  window, hop = round(rate * window_ms / 1000), round(rate * hop_ms / 1000)
  if len(wave) < window:
    raise ValueError(f"{len(wave)} samples, less than a window of {window} ({window_ms:g} ms); "
                     "leave the recording out, or use a shorter window_ms.")
  size = 1 << (window - 1).bit_length()
  frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), window)[::hop]
  spectrum = np.fft.rfft(frames * signal.windows.hann(window, sym=False), size, axis=1)
  energy = np.abs(spectrum) ** 2 @ mel_filters(num_mels, size // 2 + 1, rate)
  return np.log(np.maximum(energy, _FLOOR)).astype(np.float32)


def normalized(frames: np.ndarray) -> np.ndarray:
  """Frames float32 [n, channels] with mean 0 and variance 1 of each channel over the recording."""
  frames = frames.astype(np.float64)
  spread = np.maximum(frames.std(axis=0, keepdims=True), 1e-3)
  return ((frames - frames.mean(axis=0, keepdims=True)) / spread).astype(np.float32)
