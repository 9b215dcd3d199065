import pytest

from mixkabrn_jax.training import loop, profile
from tests import toy


@pytest.mark.parametrize(("field", "value"), [("start", 0), ("steps", -1)])
def test_an_impossible_value_is_named(field, value):
    with pytest.raises(ValueError, match=f"config.profile.{field}={value}"):
        profile.ProfileConfig(**({"start": 1, "steps": 0} | {field: value}))


@pytest.mark.parametrize(("steps", "traced"), [(0, []), (1, [4]), (2, [4, 5]), (9, [4, 5, 6])])
def test_the_steps_that_were_asked_for_are_traced(monkeypatch, tmp_path, steps, traced):
    seen, calls = [], []
    monkeypatch.setattr(profile.jax.profiler, "start_trace", lambda path: calls.append(path))
    monkeypatch.setattr(profile.jax.profiler, "stop_trace", lambda: calls.append("stop"))
    with profile.Profile(profile.ProfileConfig(start=4, steps=steps), tmp_path) as trace:
        for step in range(1, 7):
            trace.before(step)
            if len(calls) == 1:
                seen.append(step)
            trace.after(step, ())
    assert seen == traced
    assert calls == ([str(tmp_path), "stop"] if traced else [])  # the last ends with the run


@pytest.mark.slow
def test_a_run_leaves_a_trace_in_its_directory(tmp_path):
    text = toy.write_text(tmp_path / "text.txt")
    small = {"model__ffn": "mlp", "model__mixer": "attention", "model__num_experts": 0, "model__num_layers": 1}
    config = toy.experiment(text, num_steps=3, profile__start=2, profile__steps=1, **small)
    assert loop.train(loop.prepare(config, tmp_path / "run")) == 0
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
