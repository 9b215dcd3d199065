"""A run that is started again and again, by one process or by several, and what it leaves in the end."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import jax

from mixkabrn_jax.runs import checkpoint, metrics, workdir
from mixkabrn_jax.training import experiment, guard, optimizer, step

ROOT = pathlib.Path(__file__).parent.parent.parent
CHANGES = {
    "num_steps": 200,
    "log_every": 3,
    "evaluate_every": 40,
    "evaluate_windows": 8,
    "checkpoint.every": 4,
    "checkpoint.keep": 3,
    "data.path": "LICENSE",
    "data.sequence_length": 64,
    "data.batch_size": 4,
    "model.d_model": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.key_width": 16,
    "model.value_width": 16,
    "model.hidden_width": 32,
    "training.router_bias_rate": 0.001,
}
SEVERAL = {
    "num_steps": 60,
    "evaluate_every": 20,
    "mesh.data": 2,
    "mesh.expert": 2,
    "mesh.context": 2,
    "model.ffn": "mlp",
    "model.num_layers": 1,
}
"""What else is changed where several processes share the run: few steps, and a model that compiles fast. On a CPU, JAX
keeps programs for the first process only, so a life is mostly the others' compilation."""
NUM_DEVICES = 8
HEARTBEAT = 10
"""Seconds; on a busy machine a process may be silent for a few."""
MACHINE = {"tokens_per_second", "model_flops_per_second", "model_flops_utilisation", "peak_memory_bytes"}


class Run(NamedTuple):
    """A small configs/lm.py:tiny in a workdir."""

    workdir: pathlib.Path
    num_processes: int = 1
    num_steps: int | None = None
    """None for those of `CHANGES`, or of `SEVERAL`."""

    @property
    def changes(self) -> dict:
        """The fields of the config that differ from tiny's."""
        num_steps = {} if self.num_steps is None else {"num_steps": self.num_steps}
        return CHANGES | (SEVERAL if self.num_processes > 1 else {}) | num_steps

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def logged(self) -> int:
        """The last step of the log."""
        log = self.workdir / "metrics.jsonl"
        return max((record["step"] for record in metrics.read(log)), default=0) if log.exists() else 0

    def half_written(self) -> list[str]:
        """What is being written, or deleted."""
        return sorted(path.name for path in self.checkpoints.glob("*.partial*"))

    @contextlib.contextmanager
    def living(self):
        """A life that does not outlast us."""
        life = Life(self)
        try:
            yield life
        finally:
            life.kill()

    def end(self) -> dict[str, str]:
        """SHA-256 of each part of what the finished run leaves."""
        state, iterator = self._restore()
        log = metrics.read(self.workdir / "metrics.jsonl")
        records = [{key: value for key, value in record.items() if key not in MACHINE} for record in log]
        parts = {name: part for name, part in state._asdict().items() if name != "step"}
        arrays = {name: jax.device_get(jax.tree.leaves(part)) for name, part in parts.items()}
        return (
            {name: _digest(leaf.tobytes() for leaf in leaves) for name, leaves in arrays.items()}
            | {"position of the data": _digest([json.dumps(iterator).encode()])}
            | {"log": _digest(json.dumps(record).encode() for record in records)}
        )

    def _restore(self):
        config = experiment.Experiment.from_dict(workdir.load_config(self.workdir))
        model = config.new_model(workdir.load_tokenizer(self.workdir).vocab_size)
        history = guard.init(config.guard, config.log_every)
        like = step.init(model, optimizer.make(config.optimizer, config.num_steps), history)
        with checkpoint.Checkpoints(self.checkpoints, read_only=True) as checkpoints:
            last = checkpoints.latest_intact_step()
            if last != config.num_steps:
                sys.exit(f"{self.workdir} ended at step {last}")
            restored, iterator = checkpoints.restore(last, step.parts(like))
            return step.from_parts(restored), iterator


class Life:
    """The processes of a run from one start to their end."""

    def __init__(self, run: Run):
        # Programs this small are not kept otherwise, and most of a life would be their compilation.
        more = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        command = [sys.executable, "-m", "experiments.train", "--config=configs/lm.py:tiny"]
        command += [f"--workdir={run.workdir}", *(f"--config.{field}={to}" for field, to in run.changes.items())]
        each = [command]
        if run.num_processes > 1:
            more["JAX_NUM_CPU_DEVICES"] = str(NUM_DEVICES // run.num_processes)
            together = [f"--coordinator_address=localhost:{_free_port()}", f"--num_processes={run.num_processes}"]
            together.append(f"--heartbeat_seconds={HEARTBEAT}")
            each = [[*command, *together, f"--process_id={number}"] for number in range(run.num_processes)]
        self._outputs = [run.workdir.with_suffix(f".{number}.txt") for number in range(run.num_processes)]
        self.began = time.monotonic()
        # Two runs of one program give the same bits on a CPU.
        environment = {"JAX_PLATFORMS": "cpu"} | os.environ | more
        self._processes = []
        for arguments, path in zip(each, self._outputs, strict=True):
            with path.open("w") as output:
                process = subprocess.Popen(
                    arguments, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
                )
            self._processes.append(process)

    def until(self, happens) -> bool:
        """Waits for it, and says whether it came before the end of a process."""
        while all(process.poll() is None for process in self._processes):
            if happens():
                return True
            time.sleep(0.001)
        return False

    def has_met(self) -> bool:
        """Whether each process has heard of the others; before that, they wait for each other for minutes."""
        return len(self._processes) == 1 or all("[Gloo]" in output.read_text() for output in self._outputs)

    def is_training(self) -> bool:
        """Whether the log says where the run started from: what follows is the first step."""
        return self.started_from() is not None

    def started_from(self) -> int | None:
        found = re.search(r"going on from step (\d+) in|new run in", self._outputs[0].read_text())
        return found and int(found[1] or 0)

    def warnings(self) -> list[str]:
        lines = self._outputs[0].read_text().splitlines()
        return [line.partition("] ")[2] for line in lines if "is damaged" in line]

    def kill(self, *numbers: int):
        """These processes; without any, all."""
        killed = [self._processes[number] for number in numbers] or self._processes
        for process in killed:
            process.send_signal(signal.SIGKILL)
        for process in killed:
            process.wait()

    def others_end(self, killed: int, within: float) -> list[dict]:
        """How the other processes end by themselves once one is killed; one that does not has no exit status."""
        began, ends = time.monotonic(), []
        for number, process in enumerate(self._processes):
            if number == killed:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0, began + within - time.monotonic()))
            seconds = round(time.monotonic() - began, 1)
            ends.append({"process": number, "seconds": seconds, "status": process.poll(), "told": self._told(number)})
        return ends

    def finish(self):
        for process, output in zip(self._processes, self._outputs, strict=True):
            if process.wait():
                sys.exit(f"a run that was to end well did not:\n{output.read_text()}")

    def _told(self, number):
        """Our sentence or JAX's about its end; else the last line that Gloo has no part in."""
        output = self._outputs[number].read_text()
        found = re.search(r"^error: .*|Terminating process .*?(?=; see)", output, re.MULTILINE)
        lines = [line for line in output.splitlines() if "[Gloo]" not in line]
        line = found[0] if found else lines[-1] if lines else ""
        return re.sub(r"\[?127\.0\.0\.1\]?:\d+", "127.0.0.1", line)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
