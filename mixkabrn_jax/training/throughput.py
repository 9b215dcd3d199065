"""Tokens per second from one record of the log to the next, and what they say of the hardware."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import jax
from jax.sharding import Mesh

from mixkabrn_jax.training import utilisation


class Throughput:
    """Measures from the end of one record's last step to the end of the next one's, less the time that was not
    training. A record is written later than that, when the next step is under way or even done: a thread waits for the
    step and looks at the clock."""

    def __init__(
        self,
        flops_per_token: float,
        mesh: Mesh,
        tokens_before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """
        Args:
            tokens_before: of the first record, those that an earlier process trained on.
            clock: seconds since any moment.
        """
        self._flops_per_token, self._mesh, self._tokens_before = flops_per_token, mesh, tokens_before
        self._clock, self._thread = clock, ThreadPoolExecutor(1, thread_name_prefix="throughput")
        self.start()

    def start(self) -> None:
        """The first record's time is counted from here."""
        self._since = self._clock()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what is not training."""
        began = self._clock()
        yield
        self._since += self._clock() - began

    def when_ready(self, arrays) -> Future:
        """The time at which these arrays are computed."""
        return self._thread.submit(lambda: (jax.block_until_ready(arrays), self._clock())[1])

    def figures(self, tokens: float, finished: float) -> dict[str, float]:
        """Of a record of so many tokens whose last step was finished at this time; records come in order."""
        tokens_per_second = (tokens - self._tokens_before) / (finished - self._since)
        self._since, self._tokens_before = finished, 0.0
        device, flops = self._mesh.local_devices[0], tokens_per_second * self._flops_per_token / self._mesh.size
        figures = {
            "tokens_per_second": tokens_per_second,
            "model_flops_per_second": flops,
            "peak_memory_bytes": utilisation.peak_memory_bytes(device),
        }
        peak = utilisation.peak_flops(device)
        return figures if peak is None else figures | {"model_flops_utilisation": flops / peak}

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False)
