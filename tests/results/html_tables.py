"""A page as tests read it, with the standard library's parser: its tags, its text and its tables."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

CELLS = ("td", "th")


@dataclass
class Cell:
    """A cell of a table: its attributes and its text; that of <small> is apart."""

    attributes: dict[str, str]
    text: str = ""
    small: str = ""


@dataclass
class Table:
    """A table: its attributes, and its rows of cells, the heading's too."""

    attributes: dict[str, str]
    rows: list[list[Cell]] = field(default_factory=list)
    row_attributes: list[dict[str, str]] = field(default_factory=list)

    def texts(self) -> list[list[str]]:
        return [[cell.text.strip() for cell in row] for row in self.rows]


class Reader(HTMLParser):
    """Reads a page. tags: name and attributes of each; texts: all text outside of style and script."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, str] = {}
        self.tables: list[Table] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self.open.append(tag)
        if tag == "table":
            self.tables.append(Table(attributes))
        elif tag == "tr":
            self.tables[-1].rows.append([])
            self.tables[-1].row_attributes.append(attributes)
        elif tag in CELLS:
            self.tables[-1].rows[-1].append(Cell(attributes))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.raw[self.open[-1]] = self.raw.get(self.open[-1], "") + data
            return
        self.texts.append(data)
        if any(tag in CELLS for tag in self.open):
            cell = self.tables[-1].rows[-1][-1]
            if "small" in self.open:
                cell.small += data
            elif "span" not in self.open or "thead" in self.open:
                cell.text += data

    @property
    def text(self) -> str:
        """The text of the page, each run of blanks as one."""
        return " ".join(" ".join(self.texts).split())

    def table(self, **attributes: str) -> Table:
        """The table with these attributes; data_x stands for data-x."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        found = [table for table in self.tables if wanted.items() <= table.attributes.items()]
        assert len(found) == 1, f"{len(found)} tables with {wanted}"
        return found[0]
