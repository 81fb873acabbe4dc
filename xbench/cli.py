"""The command line, thin: options in, one call, text out. Imports nothing heavy until a command needs it."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xbench.errors import XbenchError

if TYPE_CHECKING:
    from rich.console import Console

    from xbench.leaderboard import Leaderboard
    from xbench.workflow import Outcome

app = typer.Typer(
    pretty_exceptions_enable=False,
    add_completion=False,
    help="How good are this model's explanations, and did they just get worse?",
)
_WrongOption: type[Exception] = typer.BadParameter.__mro__[2]  # click's base of such errors, which typer does not export
INTERRUPTED, PIPE = 130, 141  # exit codes, as shells say of programs that were interrupted, and whose reader went away
MESSAGE = 300  # letters of an unexpected error that a line shows
KINDS = ("methods", "metrics", "datasets", "models", "suites", "recipes", "published")

Plugins = Annotated[list[str], typer.Option("--plugin", help="A plug-in file or module to load first; may be repeated.")]


@app.callback()
def main(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """How good are this model's explanations, and did they just get worse?"""


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="methods, metrics, datasets, models, suites, recipes or published (by papers)")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    plugin: Plugins = [],
) -> None:
    """List what there is."""
    from xbench import suite
    from xbench.errors import did_you_mean
    from xbench.registry import registry

    if kind not in KINDS:
        raise XbenchError(f"cannot list {kind!r}{did_you_mean(kind, KINDS)}")
    for name in plugin:
        registry.load(name)
    if kind == "suites":
        found = {name: suite.title(suite.find(name)) for name in suite.suites()}
    elif kind == "recipes":
        from xbench.training import recipes

        found = {name: recipes.load(recipes.find(name)).title for name in recipes.recipes()}
    elif kind == "published":
        from xbench import published

        found = published.listing(published.load())
    else:
        single: Any = kind.removesuffix("s")
        found = {}
        for id in registry.ids(single):
            plugin_ = registry.plugins.get((single, id)) or registry.get(single, id)
            found[id] = plugin_.summary
    if as_json:
        print(json.dumps(found, indent=1))
        return
    width = max(map(len, found), default=0)
    for name, summary in found.items():
        print(f"{name:{width}}  {summary.replace('``', '')}".rstrip())


@app.command()
def show(
    spec: Annotated[str, typer.Argument(help="A spec such as grad_cam or insertion(steps=exact(10))")],
    out: Annotated[Path | None, typer.Option(help="Of a dataset: draw its first pictures with their truth, as PNG or SVG.")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="How many pictures --out shows.")] = 12,
    plugin: Plugins = [],
) -> None:
    """Show what a plug-in is, its parameters and what it declares; of a dataset also a sheet of pictures."""
    import inspect

    from xbench.plugins import KINDS as kinds
    from xbench.registry import registry
    from xbench.specs import parse

    for name in plugin:
        registry.load(name)
    if out is not None:
        from xbench.report.sheets import sheet

        sheet(registry.dataset(spec)(), pictures, out)
        print(out)
        return
    id = parse(spec).name.partition("@")[0]
    matching = [
        kind for kind in kinds if any(id == i or ("<" in i and id.startswith(i.partition("<")[0])) for i in registry.ids(kind))
    ]
    if not matching:
        from xbench.errors import did_you_mean

        raise XbenchError(f"unknown plug-in {id!r}{did_you_mean(id, [i for kind in kinds for i in registry.ids(kind)])}")
    for kind in matching:
        plugin_ = registry.get(kind, id)
        documented = (inspect.getdoc(plugin_.make) or "").replace("``", "")
        print(f"{kind} {plugin_.id}\n\n{documented}\n")
        for key, value in vars(plugin_.info).items():
            shown = ", ".join(sorted(value)) if isinstance(value, frozenset) else value
            if shown not in ("", None, ()) and not callable(value):  # which files a method reads is told by its parameters
                print(f"  {key}: {shown}")
        if plugin_.names and id == plugin_.id:
            print(f"  members: {', '.join(plugin_.names())}")
        for p in plugin_.parameters:
            print(f"  parameter {p.name}: {p.annotation}" + ("" if p.default is p.empty else f", default {p.default}"))
        print(f"  source: {plugin_.module}")
        if kind == "model" and parse(spec).name != plugin_.id:  # one of a family, or with a checkpoint: it has a card of its own
            try:
                print(f"\n{registry.model(spec)().card}")
            except XbenchError as error:
                print(f"\nnot here: {error}")


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="A suite's name or the path of a TOML file")],
    methods: Annotated[str | None, typer.Option(help="Comma-separated specs instead of the suite's.")] = None,
    models: Annotated[str | None, typer.Option(help="Comma-separated specs instead of the suite's.")] = None,
    datasets: Annotated[str | None, typer.Option(help="Which of the suite's datasets; any other takes their place.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Which of the suite's metrics.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N items of each dataset.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the suite's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory [results/runs/SUITE].")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Pictures in every forward pass; auto: the measured best.")] = None,
    device: Annotated[str, typer.Option(help="Where models compute, such as cuda:0.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, -compiled behind it or not; a protocol of its own.")] = "float32",
    shard: Annotated[str | None, typer.Option(help="Only part I/N of the work; see merge.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch [all cores].")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work and the threads.")] = 1,
    plugin: Plugins = [],
    save_maps: Annotated[bool, typer.Option("--save-maps", help="Keep every map; changed metrics need no new ones.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what is in the run directory.")] = False,
) -> None:
    """Run a suite, or what is left of it, and show the leaderboard; an experiment, from the start, and show its figures."""
    from xbench import workflow
    from xbench.report.progress import Console
    from xbench.suite import Selection, experiment, find, listed, parse_batch_size, parse_dtype, parse_shard

    if experiment(find(suite)):
        texts = {"--methods": methods, "--metrics": metrics, "--shard": shard}
        fixed = {"--dtype": dtype != "float32", "--workers": workers > 1, "--save-maps": save_maps, "--fresh": fresh}
        if given := [name for name, value in (texts | fixed).items() if value]:
            raise XbenchError(f"{suite} is an experiment without maps, to which {given[0]} does not apply; leave it out")
        _run_ood(suite, models, datasets, limit, seed, out, batch_size, device, threads, plugin)
        return
    lists = (listed(methods), listed(models), listed(datasets), listed(metrics))
    size, tuned = parse_batch_size(batch_size)
    selection = Selection(*lists, limit, seed, size, parse_shard(shard), device, parse_dtype(dtype))
    start = time.perf_counter()
    with Console() as progress:
        done = workflow.run(
            suite,
            selection,
            out=out,
            plugins=plugin,
            fresh=fresh,
            save_maps=save_maps,
            tuned=tuned,
            threads=threads,
            workers=workers,
            progress=progress,
        )
    _show(done, start)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or the path of a TOML file")],
    dataset: Annotated[str | None, typer.Option(help="A dataset's spec instead of the recipe's; a part is held out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the training [results/runs/train-RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished training.")] = False,
    plugin: Plugins = [],
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda (all of them), cuda:1 or mps.")] = "auto",
    devices: Annotated[int | None, typer.Option(min=1, help="How many devices [all GPUs, one CPU].")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch [all cores].")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what is in the folder.")] = False,
) -> None:
    """Train by a recipe: a classifier, a CLIP, a network without labels (SimCLR), or a projection for the method eclip."""
    from xbench.report.progress import Console
    from xbench.training import session

    try:
        with Console(unit="") as progress:
            done = session.train(
                recipe,
                dataset=dataset,
                out=out,
                resume=resume,
                fresh=fresh,
                plugins=plugin,
                epochs=epochs,
                device=device,
                devices=devices,
                threads=threads,
                progress=progress,
            )
    except KeyboardInterrupt as error:
        print("\nxbench: interrupted; go on after the last whole epoch with --resume", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error
    if done is None:  # a further process of a training on several devices
        return
    print(done.card.sentence())
    use = f"the method eclip(projection={done.folder})" if done.card.parts else f"the model trained@{done.folder}"
    print(f"{'trained in' if done.trained else 'finished before:'} {done.folder}; use it as {use}")


@app.command()
def score(
    maps: Annotated[Path, typer.Argument(help="Folder of maps by item id: .npy, or .safetensors that hold many")],
    suite: Annotated[str, typer.Option(help="The suite whose protocol and metrics score them.")],
    name: Annotated[str, typer.Option(help="Their row on the leaderboard.")],
    models: Annotated[str | None, typer.Option(help="Comma-separated specs instead of the suite's.")] = None,
    datasets: Annotated[str | None, typer.Option(help="Which of the suite's datasets.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Which of the suite's metrics.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N items of each dataset.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory, that of a run to stand beside [results/runs/SUITE].")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch [all cores].")] = None,
    plugin: Plugins = [],
) -> None:
    """Put maps that were made elsewhere on a suite's leaderboard."""
    from xbench import workflow
    from xbench.report.progress import Console
    from xbench.suite import Selection, listed

    selection = Selection(None, listed(models), listed(datasets), listed(metrics), limit)
    start = time.perf_counter()
    with Console() as progress:
        done = workflow.score(maps, name, suite, selection, out=out, plugins=plugin, threads=threads, progress=progress)
    _show(done, start)


@app.command()
def items(
    suite: Annotated[str, typer.Argument(help="A suite's name or the path of a TOML file")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    models: Annotated[str | None, typer.Option(help="Comma-separated specs instead of the suite's.")] = None,
    datasets: Annotated[str | None, typer.Option(help="Which of the suite's datasets.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N items of each dataset.")] = None,
    plugin: Plugins = [],
) -> None:
    """List what a suite explains: every item with its target class and the window of the picture that the model sees."""
    from xbench import workflow
    from xbench.suite import Selection, listed

    table = workflow.items(suite, Selection(None, listed(models), listed(datasets), None, limit), plugins=plugin)
    _write(out, table.to_csv(index=False))
    print(f"{len(table)} items: {out}")


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, such as the shards of one run.")],
    out: Annotated[Path, typer.Option(help="Where the merged run goes.")],
) -> None:
    """Merge run directories; the shards of a run together are the undivided run."""
    from xbench import leaderboard, runs

    rows, manifest = runs.merge(folders, out)
    board = leaderboard.build(rows, manifest, runs.reference(*runs.suites(manifest)))
    _write(out / "leaderboard.html", _html(board, rows, manifest, out))
    _print(board)
    print(f"{len(rows)} rows of {len(folders)} runs: {out}")


@app.command("leaderboard")
def leaderboard_(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; rows of equal protocol share a table.")],
    format: Annotated[str, typer.Option(help="table, csv, md, latex, json or html")] = "table",
    models: Annotated[str | None, typer.Option(help="Which models: comma-separated specs, or ids for all their specs.")] = None,
    datasets: Annotated[str | None, typer.Option(help="Which datasets.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Which metrics.")] = None,
    methods: Annotated[str | None, typer.Option(help="Which methods; controls stay.")] = None,
    group: Annotated[str | None, typer.Option(help="Metrics of one group, such as localization or complexity.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to a file instead of the screen.")] = None,
) -> None:
    """Show the leaderboard of one or more runs, finished or not, beside the reference rows of the same suite and protocol."""
    from xbench import leaderboard, runs
    from xbench.errors import did_you_mean
    from xbench.filters import Filter
    from xbench.report import latex, tables
    from xbench.submissions import read_all
    from xbench.suite import listed

    asked = Filter(listed(models), listed(datasets), listed(metrics), listed(methods), group)
    rows, manifest = read_all(folders)
    board = leaderboard.build(rows, manifest, runs.reference(*runs.suites(manifest)), asked)
    renderers = {"csv": tables.to_csv, "md": tables.to_markdown, "latex": latex.to_latex, "json": tables.to_json}
    if format == "table" and out is None:
        _print(board)
        return
    if format == "html":
        text = _html(board, rows, manifest, *folders)
    elif format in renderers:
        text = renderers[format](board)
    else:
        raise XbenchError(f"unknown format {format!r}{did_you_mean(format, ['table', 'html', *renderers])}")
    if out is None:
        print(text)
    else:
        _write(out, text)


@app.command()
def submit(
    run: Annotated[Path, typer.Argument(help="Run directory: finished, whole tracks, with the suite's controls.")],
    name: Annotated[str, typer.Option(help="Of the submission: lower-case letters, digits, hyphens.")],
    by: Annotated[str, typer.Option(help="Who measured.")],
    link: Annotated[str, typer.Option(help="Where to read more.")] = "",
    note: Annotated[str, typer.Option(help="One line for the leaderboard.")] = "",
    suite: Annotated[str | None, typer.Option(help="The run's suite, where it is a TOML file of your own.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder [results/submissions/SUITE/NAME].")] = None,
    plugin: Plugins = [],
) -> None:
    """Check a finished run and place its rows and tables under results/."""
    from xbench import submissions
    from xbench.manifests import Submission
    from xbench.registry import registry

    who = Submission(name=name, by=by, link=link, note=note)
    for module in plugin:
        registry.load(module)
    folder, rows = submissions.submit(run, who, suite, out)
    for line in submissions.nan_lines(rows):
        print(line)
    print(f"{len(rows)} rows of {rows['method'].nunique()} methods: {folder}")


@app.command()
def verify(folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Submissions.")]) -> None:
    """Check that submissions are whole, and that their rows give their tables."""
    from xbench import submissions

    for folder in folders:
        print(f"{folder}: {submissions.verify(folder)} rows give its tables")


@app.command("tables")
def tables_(folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Submissions.")]) -> None:
    """Write the tables of submissions anew from their rows, after a change of xbench's statistics or forms."""
    from xbench import submissions

    for folder in folders:
        submissions.write_tables(folder)
        print(f"{folder}: tables written")


@app.command()
def gate(
    baseline: Annotated[Path, typer.Argument(help="Run directory or published results that the run is held against.")],
    run: Annotated[Path, typer.Argument(help="Run directory, computed by the code at hand.")],
    margins: Annotated[Path | None, typer.Option(help="How much loss is let pass [gate.toml where there is one].")] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML to write.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Markdown to write, made for a pull request.")] = None,
) -> None:
    """Did explanations get worse? Exit code 0: no; 1: yes; 2: cannot judge, and what would settle it."""
    from xbench import gate, runs
    from xbench.report import verdicts

    standing = Path("gate.toml")
    chosen = margins or (standing if standing.is_file() else None)
    report = gate.judge(runs.read(baseline), runs.read(run), gate.load(chosen) if chosen else None)
    if junit is not None:
        _write(junit, verdicts.to_junit(report))
    if summary is not None:
        _write(summary, verdicts.to_markdown(report))
    print("\n".join(verdicts.to_lines(report)))
    raise typer.Exit(report.exit_code)


@app.command("compare")
def compare_(
    run: Annotated[Path, typer.Argument(help="Run directory; of two runs the old one.")],
    first: Annotated[str, typer.Argument(metavar="METHOD|RUN", help="A method of the run or of the reference; or the new run.")],
    second: Annotated[str | None, typer.Argument(metavar="[METHOD]", help="Another method.")] = None,
    metric: Annotated[str | None, typer.Option(help="By which to find the items that differ most [the first].")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="How many items that differ most to show.")] = 6,
    out: Annotated[Path | None, typer.Option(help="PNG or JPEG to write: a sheet of these items with both maps.")] = None,
    format: Annotated[str, typer.Option(help="table, md or json")] = "table",
) -> None:
    """Compare two methods of a run, or two runs: which is better, by how much, how sure, at what cost, where they differ most."""
    from xbench import compare, runs
    from xbench.errors import did_you_mean
    from xbench.report import comparisons

    renderers = {"md": comparisons.to_markdown, "json": comparisons.to_json}
    if format != "table" and format not in renderers:
        raise XbenchError(f"unknown format {format!r}{did_you_mean(format, ['table', *renderers])}")
    if second is not None:
        report = compare.of_methods(runs.beside_reference(runs.read(run)), first, second)
        folders = run, run
    elif Path(first).is_dir():
        folders = Path(first), run
        report = compare.of_runs(runs.read(folders[0]), runs.read(run), (first, str(run)))
    else:
        raise XbenchError(f"{first} is not a run directory; name a second run, or two methods of {run}")
    differences = compare.differing(report, metric)
    if format == "table":
        console = _console()
        for part in comparisons.to_terminal(report, differences[:pictures], console.width):
            console.print(part)
    else:
        print(renderers[format](report, differences[:pictures]), end="")
    if out is not None:  # apart from the text, which may be JSON
        print(comparisons.to_sheet(report, folders, differences, pictures, out), file=sys.stderr)


@app.command()
def explain(
    image: Annotated[str, typer.Argument(help="A picture file, or with --pictures a dataset")],
    model: Annotated[str, typer.Option(help="A model")] = "efficientnet_lite0",
    method: Annotated[str, typer.Option(help="One or more methods, comma-separated")] = "grad_cam",
    target: Annotated[str | None, typer.Option(help="Class by index, name or WordNet id [the prediction; or the label]")] = None,
    text: Annotated[list[str] | None, typer.Option(help="What to look for, for a CLIP; may be repeated, a row each.")] = None,
    concept: Annotated[list[str] | None, typer.Option(help="The same by WordNet synset, such as bird.n.01.")] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="So many of a dataset's pictures, a row each.")] = None,
    out: Annotated[Path | None, typer.Option(help="PNG or JPEG to write [IMAGE-explained.png]")] = None,
    plugin: Plugins = [],
) -> None:
    """Explain a picture, or some of a dataset: a sheet with an overlay per method."""
    from xbench.explain import explain_dataset, explain_picture, explain_words
    from xbench.registry import registry
    from xbench.suite import listed

    for name in plugin:
        registry.load(name)
    methods, path = listed(method) or [], Path(image)
    sheet = out or (path.with_name(f"{path.stem}-explained.png") if pictures is None else Path("explained.png"))
    if pictures is None and not path.exists() and image.partition("(")[0] in registry.ids("dataset"):
        raise XbenchError(f"{image} is a dataset; say how many of its pictures to explain: --pictures 6")
    if (text or concept) and target is not None:
        raise XbenchError("--target is a class of the model, --text and --concept are words of your own; give one or the other")
    if text or concept:
        print(explain_words(image, pictures, model, methods, text or [], concept or [], sheet))
    elif pictures is not None:
        print(explain_dataset(image, pictures, model, methods, target, sheet))
    else:
        print(explain_picture(path, model, methods, target, sheet))


@app.command("validate-metrics")
def validate_metrics(
    metrics: Annotated[str | None, typer.Option(help="Comma-separated specs instead of all; your own with --plugin.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N items of each dataset.")] = None,
    out: Annotated[Path, typer.Option(help="Run directory; continued where it stopped.")] = Path("results/runs/validate"),
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the table here, as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the table here, as Markdown.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
    plugin: Plugins = [],
) -> None:
    """Put metrics to the test: planted maps on generated scenes, of which it is known which is better."""
    from xbench import validating, validation
    from xbench.report import validations
    from xbench.report.progress import Console
    from xbench.suite import listed

    with Console() as progress:
        found = validating.validate(listed(metrics), out, limit=limit, plugins=plugin, workers=workers, progress=progress)
    table = validations.to_markdown(found)
    print(table)
    if json_:
        validation.save(found, json_)
    if markdown:
        _write(markdown, table)
    wrong = sum(not verdict.valid for verdict in found)
    print(f"{len(found) - wrong} of {len(found)} metrics order all plants rightly")
    if wrong:
        raise typer.Exit(1)


@app.command()
def cite(run: Annotated[Path, typer.Argument(help="Run directory")]) -> None:
    """Print BibTeX of all that a run used."""
    from xbench import citations, runs

    _, manifest = runs.read(run)
    print("\n\n".join(citations.of_run(manifest)))


@app.command()
def doctor() -> None:
    """Check the installation: versions, plug-ins that cannot be read, what is missing."""
    import importlib.metadata
    import platform

    from xbench.plugins import KINDS as kinds
    from xbench.registry import registry

    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in ("xbench-xai", "torch", "torchvision", "timm", "captum", "numpy", "pandas", "pyarrow", "grad-cam", "foolbox"):
        try:
            print(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} missing")
    failed = 0
    for kind in kinds:
        for id in registry.ids(kind):
            try:
                plugin = registry.get(kind, id)
                members = [name for name in (plugin.names or list)() if name not in plugin.refused]
                if members:
                    registry.get(kind, id.partition("<")[0] + members[0])
            except XbenchError as error:
                failed += 1
                print(f"{kind} {id}: {error}")
    for module, why in registry.broken.items():
        failed += 1
        print(f"{module}: {why}")
    print("all plug-ins load" if not failed else f"{failed} plug-ins do not load")
    if failed:
        raise typer.Exit(2)


def _run_ood(
    which: str,
    models: str | None,
    datasets: str | None,
    limit: int | None,
    seed: int | None,
    out: Path | None,
    batch_size: str | None,
    device: str,
    threads: int | None,
    plugins: list[str],
) -> None:
    from xbench.ood import session
    from xbench.report import detections
    from xbench.report.progress import Console
    from xbench.suite import listed, parse_batch_size

    size, tuned = parse_batch_size(batch_size)
    if tuned:
        raise XbenchError(f"{which} is an experiment, which measures no batch size; give --batch-size a number")
    start = time.perf_counter()
    with Console(unit=" batches") as progress:
        done = session.run(
            which,
            models=listed(models),
            datasets=listed(datasets),
            limit=limit,
            seed=seed,
            batch_size=size,
            device=device,
            out=out,
            plugins=plugins,
            threads=threads,
            progress=progress,
        )
    console = _console()
    for part in detections.to_terminal(done.title, done.boards):
        console.print(part)
    print(f"{len(done.rows)} scored pictures in {time.perf_counter() - start:.0f} s: {done.folder}")


def _show(done: Outcome, start: float) -> None:
    """The leaderboard of a run on the screen and as a page, and what went wrong."""
    board = done.leaderboard()
    if done.computed or not (done.folder / "leaderboard.html").is_file():
        _write(done.folder / "leaderboard.html", _html(board, done.rows, done.manifest, done.folder))
    _print(board)
    what = f"{done.computed} values computed" if done.computed else "nothing left to compute"
    print(f"{what} in {time.perf_counter() - start:.0f} s; rows, pictures and curves: {done.folder}/leaderboard.html")
    for name, (bad, of) in done.nan_methods().items():
        raise XbenchError(
            f"method {name} returned NaN or infinite maps: {bad} of {of} values are NaN and not ranked; mend the method"
        )


def _html(board: Leaderboard, rows: Any, manifest: Any, *folders: Path) -> str:
    from xbench.gallery import Key
    from xbench.report import html
    from xbench.store import Store

    shown: dict[Key, Any] = {}
    for folder in folders:
        shown |= Store(folder).gallery()
    return html.render(board, rows, manifest, shown)


def _print(board: Leaderboard) -> None:
    from xbench.report import terminal

    console = _console()
    for part in terminal.to_terminal(board, console.width):
        console.print(part)


def _console() -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160, color_system=None)


def _write(path: Path, text: str) -> None:
    from xbench.store import write_text

    write_text(path, text)


def cli() -> None:
    """The console script. An error is one line and exit code 2, a traceback only with --debug: exit code 1 means "got worse"."""
    code = _safely(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _said(error, debug=False)
    if code == PIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
    sys.exit(code)


def _safely(arguments: list[str]) -> int:
    """Run a command and say in one line what went wrong. -> the exit code."""
    try:
        # Not by calling the app: that makes 1 of a closed pipe, and says nothing of an interruption.
        with typer.main.get_command(app).make_context("xbench", [a for a in arguments if a != "--debug"] or ["--help"]) as context:
            context.command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except BaseException as error:  # a plug-in may want to exit, too
        return _said(error, debug="--debug" in arguments)  # which is allowed anywhere
    return 0


def _said(error: BaseException, *, debug: bool) -> int:
    """Say in one line what went wrong. -> the exit code."""
    if isinstance(error, BrokenPipeError):  # whoever read has enough
        return PIPE
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        print("\nxbench: interrupted; start the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    text = " ".join(str(error).split())
    if isinstance(error, XbenchError):
        message = text
    elif isinstance(error, _WrongOption):
        command = getattr(getattr(error, "ctx", None), "command_path", "xbench")
        message = f"{getattr(error, 'format_message', error.__str__)().rstrip('.')}; see {command} --help"
    elif isinstance(error, MemoryError):
        message = "out of memory; take fewer pictures a pass with --batch-size, or fewer --workers"
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        message = f"unexpected error: {type(error).__name__}{text and ': '}{text[:MESSAGE]}; --debug shows where it happened"
    print(f"xbench: {message}", file=sys.stderr)
    return 2
