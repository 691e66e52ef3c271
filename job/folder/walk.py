"""All files of a folder on disk, links included: on every disk the same."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from job.errors import BadData

# Folders that link to each other in many ways would have names without end.
MOST_WAYS = 1000


def walk(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder's path and the names of its files, sorted; a folder that links reach twice comes twice.

    A link to a folder that holds the link is skipped, because it never ends. Raises OSError for an unreadable folder,
    and BadData if more than a thousand ways of links lead to one folder.
    """
    # The real path of a folder, after those of the folders that hold the links to it.
    chains: dict[str, tuple[str, ...]] = {str(top): (os.path.realpath(top),)}
    ways: Counter[str] = Counter()
    for folder, folders, files in os.walk(top, onerror=unless_gone, followlinks=True):
        chain = chains.pop(folder)
        yield folder, sorted(files)
        followed = []
        for name in sorted(folders):
            path, real = f"{folder.rstrip('/')}/{name}", f"{chain[-1].rstrip('/')}/{name}"
            is_link = Path(path).is_symlink()
            if is_link:
                real = os.path.realpath(path)
                ways[real] += 1
                if any(f"{above}/".startswith(f"{real.rstrip('/')}/") for above in chain):
                    continue
            if ways[real] > MOST_WAYS:
                raise BadData(f"{path}: more than {MOST_WAYS} links lead to {real}; remove some of them")
            chains[path] = (*chain, real) if is_link else (*chain[:-1], real)
            followed.append(name)
        folders[:] = followed


def unless_gone(error: OSError) -> None:
    """Raise the error of a folder that cannot be read, unless it was deleted meanwhile."""
    if not isinstance(error, FileNotFoundError):
        raise error
