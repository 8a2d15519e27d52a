"""Shared by all tests: 8 simulated devices, strict key use, a compile cache."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_DEVICES = "--xla_force_host_platform_device_count=8"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()

# pylint: disable=wrong-import-position
from absl import flags
import jax
import pytest

# A third of the time of a fresh run: code of fusions by LLVM alone, and one thread of it a process,
# of which there are two. A jaxlib that does not know a flag ends the process, so they are given to
# versions that were seen to know them.
if jax.__version__.startswith("0.10."):
  for _flag in ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"):
    if _flag not in os.environ["XLA_FLAGS"]:
      os.environ["XLA_FLAGS"] += f" {_flag}"

flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# Most of the time of a fresh run is LLVM's; what is tested does not depend on its passes.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
  jax.config.update("jax_compilation_cache_dir",
                    os.path.join(os.path.dirname(__file__), os.pardir, ".pytest_cache", "jax"))


@pytest.fixture(autouse=True)
def _no_mesh():
  """Every test starts and ends without a mesh in context."""
  yield
  jax.set_mesh(jax.make_mesh((), (), devices=jax.devices()[:1]))


@pytest.fixture(scope="session")
def checkout():
  """The root of the repository."""
  return os.path.abspath(os.path.join(os.path.dirname(__file__), os.pardir))
