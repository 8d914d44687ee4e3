"""One function per run; its docstring holds the command, the duration and the measured result."""

from __future__ import annotations

import importlib

from training.run import Run


def load_experiment(name: str) -> object:
    """What `package.module:function` returns: a Run, or the runs of a study. Raises ValueError naming what is wrong."""
    module_name, _, function = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # it is there, and needs a package that is not
        raise ValueError(f"{name}: no module {error.name!r}; write package.module:function") from error
    make = getattr(module, function, None)
    if not callable(make):
        returns = {n: getattr(v, "__annotations__", {}).get("return") for n, v in vars(module).items()}
        there = [n for n, kind in returns.items() if getattr(kind, "__name__", kind) == "Run"]
        raise ValueError(f"{name}: no such experiment; {module_name} has {there}")
    return make()


def load_run(name: str) -> Run:
    """What `package.module:function` returns, when that is a Run, or of a study the run that
    `package.module:function:run` names. Raises ValueError otherwise.
    """
    module, function, one = (*name.split(":", 2), "", "")[:3]
    run = load_experiment(f"{module}:{function}")
    if one and isinstance(run, dict):
        if one not in run:
            raise ValueError(f"{name}: the study has no run {one!r}; it has {sorted(run)}")
        run = run[one]
    if not isinstance(run, Run):
        raise ValueError(f"{name} gives a {type(run).__name__}, not a Run")
    return run
