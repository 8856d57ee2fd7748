"""Progress of long prompts, for people who wait."""

from __future__ import annotations

import contextlib
import importlib
from typing import Callable, Iterator, Union

# Called with the tokens that are done and those that there are.
Report = Callable[[int, int], None]
# A name, or a function to call.
Progress = Union[None, str, Report]


@contextlib.contextmanager
def reporting(progress: Progress, title: str = "prompt") -> Iterator[Report]:
    """What to call as tokens are fed: nothing, a function, or a bar of "tqdm" or "rich".
    ImportError if that package is not installed, ValueError for another name."""
    if progress is None:
        yield lambda done, total: None
    elif callable(progress):
        yield progress
    elif progress == "tqdm":
        tqdm = importlib.import_module("tqdm").tqdm
        with tqdm(desc=title, unit="token", unit_scale=True) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show
    elif progress == "rich":
        rich_progress = importlib.import_module("rich.progress")
        with rich_progress.Progress() as display:
            task = display.add_task(title, total=None)
            yield lambda done, total: display.update(task, completed=done, total=total)
    else:
        raise ValueError(f'progress: "tqdm", "rich" or a function, not {progress!r}')
