"""The house of CONTRIBUTING.md, read from the source: who may import whom, and where each dependency lives."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = "mixkabrn_jax"
# What the modules of a room may import from the other rooms.
ROOMS = {
    "ops": set(),
    "sharding": set(),
    "processes": set(),
    "host": set(),
    "locks": set(),
    "data": {"locks"},
    "layers": {"ops", "sharding"},
    "models": {"ops", "sharding", "layers"},
    "runs": {"ops", "sharding", "processes", "locks", "layers", "models", "data"},
    **{
        room: {"ops", "sharding", "processes", "locks", "layers", "models", "data", "runs"}
        for room in ("training", "inference", "interop")
    },
    "interpret": {"ops", "layers", "models"},
    "export": {"data", "layers", "models", "runs"},
    "evaluation": {"ops", "sharding", "processes", "layers", "models", "data", "runs", "training", "inference"},
}
HOMES = {
    "optax": ("mixkabrn_jax/training/optimizer.py",),
    "orbax": ("mixkabrn_jax/runs/arrays.py",),
    "grain": ("mixkabrn_jax/data/",),
    "tokenizers": ("mixkabrn_jax/data/tokenizers/",),
    "matplotlib": ("mixkabrn_jax/training/curve.py", "mixkabrn_jax/evaluation/pictures.py"),
    "safetensors": ("mixkabrn_jax/runs/model_file.py",),
    "onnx": ("mixkabrn_jax/export/onnx/",),
    "sacrebleu": ("mixkabrn_jax/evaluation/translation.py",),
    "mixkabrn_run": ("mixkabrn_jax/export/",),
    "flax": (
        *("mixkabrn_jax/layers/", "mixkabrn_jax/models/", "mixkabrn_jax/interop/"),
        # Models are split and merged here, and made for a run.
        *(
            "mixkabrn_jax/training/step.py",
            "mixkabrn_jax/training/experiment.py",
            "mixkabrn_jax/runs/adapters.py",
            "mixkabrn_jax/runs/model.py",
            "mixkabrn_jax/runs/model_file.py",
        ),
    ),
}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "registry"}


def python_files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def imports(tree, path):
    """Full names of all that is imported anywhere in a file: `from a import b` counts as a.b."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*origin, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def imported(path):
    return set(imports(ast.parse(path.read_text()), path))


def room(module):
    """The room of a module of the library, `None` for all others."""
    parts = module.split(".")
    return parts[1] if parts[0] == LIBRARY and len(parts) > 1 else None


LIBRARY_FILES = python_files(LIBRARY)


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=name)
def test_imports_of_the_library_run_one_way(path):
    own = path.relative_to(ROOT / LIBRARY).parts[0].removesuffix(".py")
    if own == "__init__":
        allowed = set()
    else:
        assert own in ROOMS, f"a new room {own}: say in ROOMS what it may import"
        allowed = ROOMS[own] | {own}
    wrong = {module for module in imported(path) if room(module) and room(module) not in allowed}
    assert not wrong, f"{name(path)} imports {sorted(wrong)}; {own} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", python_files(f"{LIBRARY}/ops"), ids=name)
def test_ops_are_jax_and_the_standard_library_and_import_only_ops_that_are_leaves(path):
    allowed = {*sys.stdlib_module_names, "jax", "numpy"}
    assert {module.split(".")[0] for module in imported(path)} - {LIBRARY} <= allowed
    inside = {module for module in imported(path) if module.startswith(LIBRARY)}
    # An op hands work to its own accelerator kernels, which may use any op.
    free = f"{LIBRARY}.ops." if "kernels" in path.parts else f"{LIBRARY}.ops.kernels"
    leaves = {module for module in map(file_of, inside) if module and not any(map(room, imported(module)))}
    wrong = {module for module in inside if not module.startswith(free) and file_of(module) not in leaves}
    assert not wrong, f"{name(path)} imports {sorted(wrong)}"


def file_of(module):
    """The file of a module of the library, or of one that `from module import name` imports from."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return next((file for file in (path, path.parent.with_suffix(".py")) if file.exists()), None)


@pytest.mark.parametrize("path", python_files(f"{LIBRARY}/data"), ids=name)
def test_data_knows_nothing_of_jax(path):
    assert not {module.split(".")[0] for module in imported(path)} & {"jax", "jaxlib", "flax", "optax"}


@pytest.mark.parametrize("dependency", HOMES)
def test_a_dependency_has_one_home(dependency):
    users = [name(path) for path in LIBRARY_FILES if any(m.split(".")[0] == dependency for m in imported(path))]
    assert users
    strangers = [user for user in users if not user.startswith(HOMES[dependency])]
    assert not strangers, f"{dependency} lives in {HOMES[dependency]}, not in {strangers}"


def test_the_library_imports_nothing_from_the_edge():
    edge = {"absl", "ml_collections", "experiments", "configs", "benchmarks", "tests"}
    users = {name(path): {m for m in imported(path) if m.split(".")[0] in edge} for path in LIBRARY_FILES}
    assert not {path: modules for path, modules in users.items() if modules}


@pytest.mark.parametrize("path", python_files("configs"), ids=name)
def test_a_config_is_data(path):
    assert {module.split(".")[0] for module in imported(path)} <= {
        *sys.stdlib_module_names,
        "ml_collections",
        "configs",
    }


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=name)
def test_errors_of_a_user_are_not_assertions_and_none_is_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"{name(path)}:{node.lineno}: an assert in the library"
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            assert not broad, f"{name(path)}:{node.lineno}: a broad except"


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=name)
def test_only_transformations_of_jax_are_used(path):
    """`nnx.jit`, `nnx.grad` and the rest would hide state; an environment variable would be a hidden default."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            used = ast.unparse(node)
            assert used not in {"nnx.jit", "nnx.grad", "nnx.value_and_grad", "nnx.scan", "nnx.vmap", "nnx.Optimizer"}
            # The folder of caches is the user's, as HOME is.
            is_hidden = used in {"os.environ", "os.getenv"} and name(path) != f"{LIBRARY}/data/cache.py"
            assert not is_hidden, f"{name(path)}:{node.lineno}: a hidden default"


def test_no_file_is_named_for_what_does_not_belong_anywhere():
    files = python_files(LIBRARY, "experiments", "configs", "tests")
    parts = {name(path): set(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert not [path for path, names in parts.items() if names & FORBIDDEN_NAMES]


@pytest.mark.parametrize(
    "module",
    [
        f"{LIBRARY}.runs",
        *(
            f"experiments.{name}"
            for name in ("generate", "evaluate", "translate", "sweep", "report", "reporting.output")
        ),
    ],
)
def test_who_reads_a_run_imports_neither_optimiser_nor_pipeline(module):
    program = (
        f"import sys, {module}; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'optax', 'grain', 'orbax', 'jax'}))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_importing_the_package_loads_no_dependency():
    program = (
        f"import sys, {LIBRARY}; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'jax', 'flax', 'optax', 'orbax', 'grain', 'matplotlib', 'absl', 'ml_collections'}))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_no_module_takes_more_than_six_arguments():
    """Besides self and rngs: what belongs together is a dataclass."""
    found = {}
    for path in LIBRARY_FILES:
        for owner in ast.walk(ast.parse(path.read_text())):
            if not isinstance(owner, ast.ClassDef):
                continue
            for method in owner.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    given = method.args
                    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                    names = {argument.arg for argument in every if argument} - {"self", "rngs"}
                    if len(names) > 6:
                        found[f"{name(path)}:{method.lineno} {owner.name}"] = len(names)
    assert not found, found


def test_no_function_is_longer_than_60_lines():
    found = {}
    for path in LIBRARY_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if (length := node.end_lineno - first + 1) > 60:
                    found[f"{name(path)}:{node.lineno} {node.name}"] = length
    assert not found, found


def test_no_file_is_longer_than_300_lines():
    lengths = {name(path): len(path.read_text().splitlines()) for path in LIBRARY_FILES}
    found = {path: length for path, length in lengths.items() if length > 300}
    assert not found, found
