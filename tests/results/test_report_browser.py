"""The page in a real browser: no error, no request, cells that open, tables that sort, curves that are read by key."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import Page, chromium
from html_sweeps import leave_large_sweep
from job.folder.local import LocalFolder
from support import draw, job

HOSTILE = "<script>document.title='taken'"
GRID = "trial,lr,epochs,batch_size,image_size,weights\n1,0.02,1,8,40,none\n2,0.02,3,8,40,none\n3,0.005,3,8,40,none\n"
WIDTHS = (360, 1600)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def report(browser: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a trained sweep with a hostile class; the browser is asked for first, since it may be absent."""
    folder = tmp_path_factory.mktemp("browser")
    for label, count in ((HOSTILE, 30), ("disc", 30)):
        for number in range(count):
            draw(folder / "in" / label / f"{number}.jpg", "disc", number)
    (folder / "grid.csv").write_text(GRID)
    done = job("sweep", "--images", folder / "in", "--test", "0.2", "--grid", folder / "grid.csv", folder / "sweep")
    assert done.code == 0, done.err
    return folder / "sweep" / "summary.html"


@pytest.fixture
def page(browser: Page, report: Path) -> Page:
    """The page, loaded afresh at the full width."""
    browser.events.clear()
    browser.show(1600)
    browser.open(report.as_uri())
    return browser


def test_page_loads_without_an_error_and_asks_for_nothing(page: Page, report: Path) -> None:
    page.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.requests == [report.as_uri()]
    assert page.troubles == []
    assert page.run("document.title") != "taken" and HOSTILE in page.run("document.body.innerText")


def test_policy_refuses_what_somebody_adds_to_the_page(browser: Page, report: Path, tmp_path: Path) -> None:
    """Were a name ever written without its escape, it still could not run or send anything."""
    spoilt = report.read_text().replace("</main>", "<script>document.title='taken'</script>"
                                        "<img src='http://127.0.0.1:9/x' onerror='document.title=1'></main>")
    (tmp_path / "spoilt.html").write_text(spoilt)
    browser.events.clear()
    browser.open((tmp_path / "spoilt.html").as_uri())
    assert browser.run("document.title") not in ("taken", "1")
    assert len(browser.troubles) >= 2


def test_a_cell_of_the_matrix_opens_its_images_by_keyboard(page: Page) -> None:
    cell = "[...document.querySelectorAll('.matrix a')][0]"
    target = page.run(f"{cell}.getAttribute('href')")
    shown = f"getComputedStyle(document.querySelector('{target}')).display"
    assert page.run(shown) == "none"
    page.run(f"{cell}.focus()")
    page.press("Enter")
    assert page.run("location.hash") == target and page.run(shown) == "block"
    num_images, num_decoded = page.run(
        f"Promise.all([...document.querySelectorAll('{target} img')].map(image => image.decode().then(() => "
        "image.naturalWidth))).then(found => [found.length, found.filter(width => width > 30).length])")
    count = int(page.run(f"{cell}.textContent"))
    assert num_images == num_decoded and 0 < num_images <= count
    page.run(f"document.querySelector('{target} .close').click()")
    assert page.run(shown) == "none"


def test_a_heading_sorts_both_ways_and_says_so(page: Page) -> None:
    read = "[...document.querySelectorAll('#table-trials tbody tr')].map(row => row.dataset.trial)"
    assert len(page.run(read)) == 3
    head = "document.querySelector('#table-trials th[data-name=trial]')"
    for order, sort in ((["1", "2", "3"], "ascending"), (["3", "2", "1"], "descending")):
        page.run(f"{head}.querySelector('button').focus()")
        page.press("Enter")
        assert page.run(read) == order and page.run(f"{head}.getAttribute('aria-sort')") == sort


def test_values_of_a_curve_are_read_with_the_arrow_keys_and_the_pointer(page: Page) -> None:
    readout = "document.querySelector('[data-chart=val_acc] .readout').textContent"
    page.run("document.querySelector('[data-chart=val_acc] svg').focus()")
    page.press("End")
    last = "document.querySelector('[data-values=val_acc] tbody tr:last-child')"
    values = page.run(f"[...{last}.querySelectorAll('td')].map(cell => cell.textContent).filter(text => text)")
    assert page.run(readout).startswith("Epoch 3: ") and all(value in page.run(readout) for value in values)
    page.run("document.querySelector('[data-chart=val_acc]').scrollIntoView()")
    x, y = page.run("(box => [box.left + box.width / 8, box.top + box.height / 2])"
                    "(document.querySelector('[data-chart=val_acc] svg').getBoundingClientRect())")
    page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert page.run(readout).startswith("Epoch 1: ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_at_either_width(page: Page, width: int, scheme: str, tmp_path: Path) -> None:
    page.show(width, scheme=scheme)
    path = tmp_path / f"{width}-{scheme}.png"
    page.picture(path)
    # A bar for scrolling may stand beside the page.
    assert width - 20 <= struct.unpack(">I", path.read_bytes()[16:20])[0] <= width
    assert page.run("document.documentElement.scrollWidth") <= width
    style = page.run("(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))")
    back, text = (int(colour.partition("(")[2].partition(",")[0]) for colour in style)
    assert back > text + 128 if scheme == "light" else text > back + 128


def test_print_shows_no_controls_and_all_rows(page: Page) -> None:
    page.show(800, media="print")
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.run("getComputedStyle(document.querySelector('.tall')).maxHeight") == "none"
    page.show(1600)


def test_a_page_of_200_trials_and_1000_classes_is_usable(browser: Page, tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path / "large"))
    leave_large_sweep(folder, num_trials=200, num_classes=1000, num_images=3000)
    assert job("gather", folder.uri).code == 0
    browser.events.clear()
    browser.show(360)
    browser.open((tmp_path / "large" / "summary.html").as_uri())
    assert browser.troubles == [] and browser.run("document.documentElement.scrollWidth") <= 360
    browser.show(1600)
    seconds = browser.run("(() => { const began = performance.now();"
                          "document.querySelector('#table-trials th[data-name=lr] button').click();"
                          "document.body.offsetHeight; return (performance.now() - began) / 1000 })()")
    assert browser.run("document.querySelectorAll('#table-trials tbody tr').length") == 200
    assert seconds < 2
