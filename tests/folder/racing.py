"""Writers that race for one name."""

import threading

from job.folder.storage import Folder


def race(folder: Folder, contents: list[bytes]) -> list[int]:
    """Write row.json once from as many threads at once; return the numbers of those that wrote it."""
    start, won = threading.Barrier(len(contents)), list[int]()

    def write(number: int) -> None:
        start.wait()
        if folder.write_once("row.json", contents[number]):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won
