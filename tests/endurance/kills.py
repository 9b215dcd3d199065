"""A run that is killed again and again beside one that was left alone."""

import collections
import random
import time

from tests.endurance.life import HEARTBEAT, Run

MOMENTS = ("write", "write", "training", "write", "start")
"""Of five kills, which come while a checkpoint is written, at any time of training, and before its first step."""
PATIENCE = HEARTBEAT + 20.0
"""Seconds that the others have to end in once one process is killed: JAX looks for it, and Python ends slowly."""


def again_and_again(run: Run, number: int, chance: random.Random) -> list[dict]:
    """One record a kill: its moment, the step of the log it came at, where its life had started from."""
    kills, starting = [], 5.0
    while len(kills) < number:
        moment = MOMENTS[len(kills) % len(MOMENTS)]
        with run.living() as life:
            # Before that, the others would wait for a killed one as for one that is yet to come: for 300 s.
            came = life.until(life.has_met)
            met = time.monotonic()
            if moment == "start":
                time.sleep(chance.uniform(0, starting))
            else:
                came = came and life.until(life.is_training)
                starting = time.monotonic() - met
                came = came and _comes(moment, run, life, chance)
            if not came:
                life.finish()  # an end of its own that was none is not to pass for one
                print(f"the run came to its end after {len(kills)} kills", flush=True)
                break
            told = {}
            if run.num_processes == 1:
                life.kill()
            else:
                killed = chance.randrange(run.num_processes)
                life.kill(killed)
                told = {"killed": killed, "others": life.others_end(killed, PATIENCE)}
            came_to = {"from": life.started_from(), "at": run.logged(), "left": run.half_written()}
            kills.append({"moment": moment, **came_to, **told})
        print(f"kill {len(kills)}: {kills[-1]}", flush=True)
    with run.living() as life:
        life.finish()
        print(f"ended, from step {life.started_from()}", flush=True)
        kills.append({"moment": "none", "from": life.started_from(), "at": run.changes["num_steps"], "left": []})
    return kills


def _comes(moment, run, life, chance):
    """Waits for a moment of training, and says whether it came."""
    if moment == "training":
        to = life.started_from() + chance.randint(1, 12)
        came = life.until(lambda: run.logged() >= to)
        time.sleep(chance.uniform(0, 0.05))
        return came
    for _ in range(chance.randint(1, 4)):
        if not (life.until(lambda: not run.half_written()) and life.until(run.half_written)):
            return False
    time.sleep(chance.uniform(0, 0.2))
    return True


def others_ended(kills: list[dict]) -> bool:
    """Whether all whose neighbour was killed ended by themselves, and with the status of a bad end."""
    return all(other["status"] not in (None, 0) for kill in kills for other in kill.get("others", []))


def table(kills: list[dict]):
    """Lines of Markdown."""
    # Before its first step, a life may not have come to remove what the one before left.
    hits = sum(bool(kill["left"]) for kill in kills if kill["moment"] != "start")
    yield f"{len(kills) - 1} kills, {hits} of them while a checkpoint was written or deleted, and one life to the end."
    yield ""
    are_several = any("others" in kill for kill in kills)
    yield "| life | started from step | killed | after the log's step | half written or deleted |" + (
        " process killed | the other ended after | with status |" if are_several else ""
    )
    yield "|---|---|---|---|---|" + "---|---|---|" * are_several
    for number, kill in enumerate(kills, 1):
        origin = "-" if kill["from"] is None else kill["from"]
        left = ", ".join(kill["left"]) or "-"
        row = f"| {number} | {origin} | {kill['moment']} | {kill['at']} | {left} |"
        yield row + (_others(kill) if are_several else "")
    if are_several:
        yield ""
        yield "The other one said:"
        yield ""
        said = collections.Counter(other["told"] for kill in kills for other in kill.get("others", []))
        yield from (f"    {count} x  {line}" for line, count in said.most_common())


def ends_table(ends: dict[str, dict[str, str]]):
    """Lines of Markdown."""
    yield "| SHA-256 of | uninterrupted | killed | |"
    yield "|---|---|---|---|"
    for part, digest in ends["uninterrupted"].items():
        other = ends["killed"][part]
        yield f"| {part} | {digest[:16]} | {other[:16]} | {'the same' if digest == other else '**another**'} |"


def _others(kill):
    if "others" not in kill:
        return " - | - | - |"
    seconds = ", ".join(f"{other['seconds']} s" for other in kill["others"])
    statuses = ", ".join("**it did not**" if o["status"] is None else str(o["status"]) for o in kill["others"])
    return f" {kill['killed']} | {seconds} | {statuses} |"
