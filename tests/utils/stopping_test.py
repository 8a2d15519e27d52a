"""A signal ends a process that compiles, and lets one go on that computes."""

import signal
import subprocess
import sys
import time

import pytest

_PROGRAM = """
import os, sys, time
from mdx.utils import stopping
stopping.watch(lambda: os._exit(75))
import signal
signal.signal(signal.SIGTERM, lambda *_: None)  # as of training, which goes on to its next step
from jax._src import compiler
compiler.busy = time.sleep
exec(compile("def run(s):\\n  busy(s)", compiler.__file__, "exec"), compiler.__dict__)
run = compiler.run if sys.argv[1] == "compile" else time.sleep
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
run(float(sys.argv[2]))
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("work, seconds, code", [("compile", 60, 75), ("compute", 8, 0)])
def test_a_signal_ends_a_compilation_and_waits_for_a_step(work, seconds, code):
  process = subprocess.Popen([sys.executable, "-c", _PROGRAM, work, str(seconds)], text=True,
                             stdout=subprocess.PIPE)
  assert process.stdout.readline() == "ready\n"
  began = time.monotonic()
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=50)
  assert process.returncode == code and ("done" in out) == (code == 0)
  assert time.monotonic() - began < 10
