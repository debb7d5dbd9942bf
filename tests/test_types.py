"""What a type checker is told: every public function has its types, and the package says that it has."""

import inspect
from collections.abc import Callable
from pathlib import Path

import minigam

PACKAGE = Path(minigam.__file__).parent


def public_functions() -> dict[str, Callable]:
    """Return the functions that minigam names, and the methods and properties of the classes it names."""
    found = {}
    for name in minigam.__all__:
        named = getattr(minigam, name)
        if inspect.isfunction(named):
            found[name] = named
        elif inspect.isclass(named):
            for method, member in inspect.getmembers_static(named):
                function = getattr(member, "fget", getattr(member, "__func__", member))
                if inspect.isfunction(function) and not method.startswith("_"):
                    found[f"{name}.{method}"] = function
    return found


def test_public_functions_have_types():
    functions, missing = public_functions(), []
    assert {"train_step", "Tensor.backward", "Tensor.shape", "GAMConfig.from_dict"} <= functions.keys()
    for name, function in functions.items():
        signature = inspect.signature(function)
        named = {p: v.annotation for p, v in signature.parameters.items() if p not in ("self", "cls")}
        named["return"] = signature.return_annotation
        missing += [f"{name}: {part}" for part, kind in named.items() if kind is signature.empty]
    assert not missing


def test_the_package_says_that_it_has_types():
    assert (PACKAGE / "py.typed").is_file()
