"""The progress display of a running study, with a line for each finished cell."""

from nestling.core.result import Result
from nestling.report.progress import Progress
from nestling_lab.studies.study import Tell

# the figure to show for a cell: the first of these that it has
HEADLINES = ("accuracy", "val_perplexity", "val_loss")


def board(quiet: bool = False) -> Progress:
    """A progress display with bars for all running cells, or plain lines."""
    return Progress("steps", quiet=quiet, every=30.0, ends=True)


def teller(shown: Progress, name: str) -> Tell:
    """The callback that a cell calls at every step."""
    return lambda step, steps, loss: shown.show(step, steps, f"loss {loss:.3f}", name)


def finish(shown: Progress, name: str, result: Result) -> None:
    """Show that a cell is finished."""
    shown.end(name)
    figures = {key: result.metrics.get(key) for key in HEADLINES}
    numbers = [f"{k} {x:.4g}" for k, x in figures.items() if isinstance(x, int | float)]
    figure = numbers[0] if numbers else "no figure"
    end = "diverged" if result.metrics.get("diverged") else f"finished, {figure}"
    shown.note(f"{name}: {end}")
