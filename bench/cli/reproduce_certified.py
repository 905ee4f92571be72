"""The paper's Table 6, whose figures are none of an attack: shown, planned, certified."""

from __future__ import annotations

from bench.cli import summary
from bench.cli.certify_command import CertificateReporter, show_costs, write_certificates
from bench.cli.options import request
from bench.cli.reproduced import Where, categories_of, certificates_of, say_commands
from bench.cli.screen import Screen
from bench.plan import plan as planning
from bench.plan import presets, protocols
from bench.plan.certify import CertifyConfig
from bench.run.certify import certify_plan
from bench.run.determinism import deterministic
from bench.text import LONGEST, one_line


def show(where: Where, console: Screen) -> list[str]:
    """Show the table; with --run certify first what is missing. Returns what went wrong."""
    from bench.report.paper import certified, certified_render

    dataset, categories = categories_of(where, certified.CATEGORIES, "mvtec")
    side = where.image_size or presets.get(where.preset).side(dataset)
    per_class = protocols.get(where.protocol).per_class
    recipe = certified.CertifiedRecipe(dataset, categories, where.preset, where.protocol, side, per_class)

    def look() -> tuple[tuple[certified.CertifiedRow, ...], list[str]]:
        certificates, wrong = certificates_of(where, console)
        found = certified.rows(recipe, certificates, summary.revisions())
        return found, [*certified.notes(found, certificates, recipe), *wrong]

    found, notes = look()
    missing = certified.missing(found)
    asked = CertifyConfig(
        sigmas=(certified.SIGMA,),
        samples=recipe.samples,
        radii=(0.0, recipe.radius),
        rules=("percentile", "paper"),
    )

    def planned() -> planning.Plan:
        return planning.make(
            request(
                detectors=",".join(dict.fromkeys(row.detector for row in missing)),
                attacks=protocols.get(where.protocol).default_attacks,
                dataset=dataset,
                data_root=where.data_root,
                categories=",".join(dict.fromkeys(row.category for row in missing)),
                preset=where.preset,
                protocol=where.protocol,
                limit=where.limit,
                image_size=side,
                device=where.devices[0],
                settings=None,
                out=where.out,
                cache=where.cache,
            )
        )

    odd: list[str] = []
    if where.dry_run:
        console.print(recipe.title, style="bold", markup=False, highlight=False)
        say_commands(recipe.commands(missing), console)
        if missing:
            plan = planned()
            show_costs(plan, asked, plan.jobs, console)
        else:
            console.print("Nothing is missing.")
        return []
    if where.run and missing:
        plan = planned()
        deterministic(plan.run.torch_device())
        with CertificateReporter(console, plan.several_fits) as reporter:
            odd += certify_plan(plan, asked, reporter).problems
        write_certificates(where.out, console)
        found, notes = look()
    console.print(certified_render.terminal(found, console.width, recipe=recipe))
    judged = certified.finding(found)
    told = f" ({judged.found})" if judged.found else ""
    console.print(f"- {judged.holds}: {recipe.claim}{told}", markup=False, highlight=False)
    for note in notes:
        console.print(f"- {one_line(note, LONGEST)}", style="dim", markup=False, highlight=False)
    say_commands(recipe.commands(certified.missing(found)), console)
    for path in certified_render.write(found, where.out, recipe, notes):
        console.print(f"Written: {path}", markup=False, highlight=False)
    return odd
