"""`python -m bench slurm`: a run as a job array of Slurm, each element a shard of it on one folder."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from bench import files
from bench.cli import run_command, shell
from bench.errors import BenchError
from bench.plan import plan as planning
from bench.plan.devices import ALL, devices_of
from bench.run import shards, slurm
from bench.text import one_line, plural

OWN = ("array", "time", "partition", "gres", "cpus_per_task", "mem", "account", "python", "submit")
PICTURED = 1000  # cells whose pictures the closing job draws: some ten minutes
NOT_HERE = ("shard", "dry_run", "executor", "ray_gpus", "ray_cpus")  # of the run's options


def _with_the_options_of_run(command: Callable[..., None]) -> Callable[..., None]:
    """Typer reads a command's options off its signature: all of `run`'s, then the command's own."""
    hints = get_type_hints(command, include_extras=True), get_type_hints(run_command.run, include_extras=True)
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    of_run = [p for name, p in inspect.signature(run_command.run).parameters.items() if name not in NOT_HERE]
    parameters = [
        p.replace(annotation=known[p.name], kind=p.KEYWORD_ONLY)
        for known, some in zip(hints, (own, of_run), strict=True)
        for p in some
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


@_with_the_options_of_run
def slurm_array(
    context: typer.Context,
    array: Annotated[int, typer.Option(help="Elements of the array, each of which does a share of the run.")],
    time: Annotated[str, typer.Option(help="Limit of each: minutes, 4:00:00, 1-12.")] = "",
    partition: Annotated[str, typer.Option(help="Of the cluster.")] = "",
    gres: Annotated[str, typer.Option(help="Devices of each element; '' on a cluster without GPUs.")] = "gpu:1",
    cpus_per_task: Annotated[int | None, typer.Option(help="Cores of each element, and so threads.")] = None,
    mem: Annotated[str, typer.Option(help="Memory of each element, e.g. 16G.")] = "",
    account: Annotated[str, typer.Option(help="Whom it is charged to.")] = "",
    python: Annotated[str, typer.Option(help="Python of the cluster's machines (default: this one).")] = "",
    submit: Annotated[bool, typer.Option("--submit", help="Hand it in, rather than print how.")] = False,
    **options: Any,
) -> None:
    """Write a run as a Slurm job array, with a closing job that draws tables and pages; --submit hands it in."""
    console = shell.console(options["verbose"])
    wanted = slurm.Wanted(array, time, partition, gres, cpus_per_task, mem, account)
    # This machine may have no GPU. Everything else about the request is to be found here, and not by each element.
    _check_device(options["device"])
    config, _ = run_command.config_of({**options, **dict.fromkeys(NOT_HERE), "device": "cpu"})
    plan = planning.make(config)
    fitting = shards.shares(plan, array)
    files.check_writable(config.out)
    # An element sees what its own Python has installed: "all" might be others there.
    run_words = _words(context, {"detectors": ",".join(plan.detectors)})
    interpreter = [python or sys.executable, "-m", "bench"]
    out = str(config.out.absolute())
    closing = [
        [*interpreter, "report", *["--no-pictures"] * (plan.cells > PICTURED), out],
        [*interpreter, "report", "--html", out],  # pages show the pictures that the first has drawn
    ]
    scripts = slurm.write(wanted, [*interpreter, "run", *run_words], closing, config.out, Path.cwd())
    cells = f"{plural(plan.cells, 'cell')}, {plural(len(plan.jobs), 'fit')}"
    most = max(map(len, fitting))
    console.print(f"{cells}; {plural(array, 'element')} of at most {plural(most, 'fit')} each.", highlight=False)
    if plan.cells > PICTURED:
        told = f"The closing job leaves out the pictures of single cells; python -m bench report {out} draws them."
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    for line in (f"Written: {scripts.array}", f"Written: {scripts.report}", *scripts.commands()):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if submit:
        job, said = slurm.submit(scripts)
        console.print(f"Handed in: array {job}. {said}", markup=False, highlight=False, soft_wrap=True)


def _check_device(text: str) -> None:
    """Whether some machine could have it; how many there are of `cuda:all` is for each element to see."""
    kinds = {text.removesuffix(ALL)} if text.endswith(ALL) else {name.partition(":")[0] for name in devices_of(text)}
    if not kinds <= {"auto", "cpu", "cuda", "xpu"} or text == f"cpu{ALL}":
        raise BenchError(f"There is no device {one_line(text, 40)!r}; use auto, cpu, cuda or cuda:all.")


def _words(context: typer.Context, settled: dict[str, str]) -> list[str]:
    """The options of `run` that were given, as words; `settled`: in other words than the user's."""
    words = []
    given = dict(context.params)
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in OWN or name not in given:
            continue
        source = context.get_parameter_source(name)
        if name not in settled and (source is None or source.name != "COMMANDLINE"):
            continue
        option, value = parameter.opts[0], settled.get(name, given[name])
        if isinstance(value, bool):
            words += [option] * value
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words.append(f"{option}={one}")
    return words
