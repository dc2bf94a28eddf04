"""Excel workbooks: the first worksheet, with a header. The extra ``excel`` installs openpyxl."""

# pandas and openpyxl have no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportMissingModuleSource=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# ruff: noqa: PLC0415  openpyxl is optional

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import date, datetime, time
from itertools import islice, repeat, zip_longest
from typing import Any, NamedTuple, cast

import pandas as pd

from opencode_tasks.domain.extras import install_hint
from opencode_tasks.errors import InputError
from opencode_tasks.frames.arrow_frame import ColumnBuilder, batches, column_cells
from opencode_tasks.frames.cells import cell_text, is_null
from opencode_tasks.frames.content import InputFile, one_line

INSTALL = f"needs the package openpyxl: {install_hint('excel')}"
# Limits of the format.
MAX_ROWS, MAX_COLUMNS, MAX_CELL_CHARS = 1_048_576, 16_384, 32_767
# A spreadsheet has 15 exact digits.
MAX_EXACT_INTEGER = 10**15
# Dates of 1900 differ between spreadsheets.
FIRST_YEAR = 1900
# The format writes characters that XML does not allow, and texts that look like that, in this way.
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
# A formula in the XML of a worksheet.
_FORMULA = re.compile(rb"<(\w{1,20}:)?f[\s/>]")
# The attributes of a row, and one attribute, in it.
_ROW = re.compile(rb"<(?:\w{1,20}:)?row\b([^<>]*)>")
_ATTRIBUTE = re.compile(rb"""\s(r|hidden)\s*=\s*["'](\w+)["']""")
BLOCK_BYTES, MAX_TAG_BYTES = 2**20, 24
_TO_ESCAPE = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)|[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


def is_installed() -> bool:
    """Return whether openpyxl can be imported."""
    try:
        import openpyxl
    except ImportError:
        return False
    return bool(openpyxl)


def read_excel(file: InputFile) -> pd.DataFrame:
    """Read the first visible worksheet of a workbook.

    The first row that is not empty has the names of the columns. Cells are texts, numbers, booleans and
    times, as the workbook has them; of a formula, its last result. A row is bad if a cell has an error such
    as #N/A, or a formula that was never calculated. Raises InputError if the file is not a workbook, or if
    openpyxl is not installed.
    """
    if not is_installed():
        raise InputError((f"INPUT {file.name}: {INSTALL}",))
    with file.open_bytes() as opened:
        content = io.BytesIO(opened.read())
    try:
        with ExitStack() as books:
            results = books.enter_context(_open_book(content, data_only=True))
            has_formulas = _has_formulas(content)
            formulas = books.enter_context(_open_book(content, data_only=False)) if has_formulas else None
            return _read_book(file, content, results, formulas)
    except InputError:
        raise
    except zipfile.BadZipFile as error:
        raise InputError((f"INPUT {file.name}: not an Excel workbook: {one_line(error)}",)) from error
    # openpyxl has no exception of its own for parts that it does not know.
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OSError, SyntaxError) as error:
        fault = f"not an Excel workbook that can be read: {one_line(error)}; save it as .xlsx again"
        raise InputError((f"INPUT {file.name}: {fault}",)) from error


def write_excel(frames: Iterable[pd.DataFrame], file: Any) -> None:
    """Write frames as one workbook with one worksheet.

    Numbers, booleans and times without a zone are cells of their types; other values are text, which no
    spreadsheet runs as a formula. So are numbers with more than 15 digits. Raises OSError if the table has
    more rows, columns or characters in a cell than a workbook can hold.
    """
    import openpyxl
    from openpyxl.cell import WriteOnlyCell

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")

    def cell(value: Any) -> Any:
        plain = _excel_value(value)
        made = WriteOnlyCell(sheet)
        if isinstance(plain, str):
            # Not by ``value``: it makes formulas, and cuts long texts.
            made._value, made.data_type = plain, "s"  # noqa: SLF001
        elif isinstance(plain, float):
            # openpyxl writes 16 digits, and some numbers have 17.
            made._value, made.data_type = repr(float(plain)), "n"  # noqa: SLF001
        elif plain is not None:
            made.value = plain
        return made

    # A sheet that is not closed reports an error when it is collected.
    with closing(sheet):
        written = 0
        for number, frame in enumerate(frames):
            if number == 0:
                sheet.append([cell(str(name)) for name in frame.columns])
            written += len(frame)
            if written >= MAX_ROWS or len(frame.columns) > MAX_COLUMNS:
                raise OSError(f"an Excel worksheet has at most {MAX_ROWS:,} rows and {MAX_COLUMNS:,} columns")
            columns = [column_cells(frame.iloc[:, at]) for at in range(len(frame.columns))]
            for row in zip(*columns, strict=True):
                sheet.append([cell(value) for value in row])
    book.save(file)


class _Row(NamedTuple):
    """A row of a worksheet. ``faults`` are those of cells, by their position in the row."""

    number: int
    cells: tuple[Any, ...]
    faults: Mapping[int, str]


@contextmanager
def _open_book(content: io.BytesIO, *, data_only: bool) -> Generator[Any]:
    """Open a workbook with the results of its formulas, or with the formulas."""
    import openpyxl

    book = openpyxl.load_workbook(content, read_only=True, data_only=data_only)
    with closing(book):
        yield book


def _has_formulas(content: io.BytesIO) -> bool:
    with zipfile.ZipFile(content) as archive:
        for name in archive.namelist():
            if name.startswith("xl/worksheets/"):
                with archive.open(name) as part:
                    before = b""
                    while block := part.read(BLOCK_BYTES):
                        if _FORMULA.search(before + block):
                            return True
                        before = block[-MAX_TAG_BYTES:]
    return False


def _read_book(file: InputFile, content: io.BytesIO, book: Any, written: Any | None) -> pd.DataFrame:
    if not book.worksheets:
        raise InputError((f"INPUT {file.name}: the workbook has no worksheet",))
    shown = (at for at, sheet in enumerate(book.worksheets) if sheet.sheet_state == "visible")
    first = next(shown, 0)
    sheet = book.worksheets[first]
    rows = _rows(sheet, None if written is None else written.worksheets[first])
    header = next(rows, None)
    if header is None:
        raise InputError((f"INPUT {file.name}: the first worksheet is empty",))
    if len(book.sheetnames) > 1:
        file.notes.append(f"INPUT {file.name}: only the worksheet {sheet.title!r} is read")
    for at, fault in header.faults.items():
        raise InputError(
            (f"INPUT {file.name}, worksheet row {header.number}: the name of column {at + 1} {fault}",)
        )
    hidden = _hidden_rows(content, sheet)
    numbers: list[int] = []
    frame = _frame(file, header.cells, _numbered(rows, numbers) if hidden else rows)
    if found := len(hidden.intersection(numbers)):
        named = "one row is read that is" if found == 1 else f"{found:,} rows are read that are"
        file.notes.append(f"INPUT {file.name}: {named} hidden or filtered out in the worksheet")
    return frame


def _numbered(rows: Iterable[_Row], numbers: list[int]) -> Iterator[_Row]:
    """Yield the rows, and add their numbers to ``numbers``."""
    for row in rows:
        numbers.append(row.number)
        yield row


def _hidden_rows(content: io.BytesIO, sheet: Any) -> set[int]:
    """Return the numbers of the hidden rows of a worksheet."""
    hidden: set[int] = set()
    number = 0
    # openpyxl does not report them in its mode for large workbooks.
    for tag in _tags(content, sheet._worksheet_path):  # noqa: SLF001
        attributes = dict(_ATTRIBUTE.findall(tag))
        number = int(attributes.get(b"r", number + 1))
        if attributes.get(b"hidden") in (b"1", b"true"):
            hidden.add(number)
    return hidden


def _tags(content: io.BytesIO, part: str) -> Iterator[bytes]:
    """Yield the attributes of each row in the XML of a worksheet."""
    with zipfile.ZipFile(content) as archive, archive.open(part) as opened:
        before = b""
        while block := opened.read(BLOCK_BYTES):
            text = before + block
            yield from _ROW.findall(text)
            # A tag may end in the next block.
            before = text[text.rfind(b"<") :]
            if b">" in before:
                before = b""


def _rows(sheet: Any, written: Any | None) -> Iterator[_Row]:
    """Yield the rows of a worksheet that are not empty. ``written`` is the same one with its formulas."""
    sheet.reset_dimensions()
    if written is not None:
        written.reset_dimensions()
    sources = repeat(()) if written is None else written.iter_rows()
    for number, (cells, source) in enumerate(zip(sheet.iter_rows(), sources, strict=False), start=1):
        faults = {
            at: fault
            for at, (cell, formula) in enumerate(zip_longest(cells, source))
            if (fault := _cell_fault(cell, formula)) is not None
        }
        values = tuple(map(_value, cells))
        if faults or any(value is not None for value in values):
            yield _Row(number, values, faults)


def _cell_fault(cell: Any, formula: Any) -> str | None:
    if cell.data_type == "e":
        return f"has the error {cell.value}"
    # The type of a formula whose result is an empty text is "str".
    if cell.value is None and cell.data_type != "str" and formula is not None and formula.data_type == "f":
        return "has a formula without a result: open the workbook in a spreadsheet and save it"
    return None


def _frame(file: InputFile, header: tuple[Any, ...], rows: Iterator[_Row]) -> pd.DataFrame:
    width = max(at for at, name in enumerate(header, start=1) if name is not None)
    names = [cell_text(name) or f"column_{at}" for at, name in enumerate(header[:width], start=1)]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(
            (f"INPUT {file.name}: several columns are named {repeated[0]!r}; rename all but one",)
        )
    builder = ColumnBuilder()
    for batch in batches(islice(_cells(file, rows, names), file.limit)):
        builder.add([dict(zip(names, cells, strict=True)) for cells in batch])
    frame = builder.frame() if builder.rows else pd.DataFrame(columns=pd.Index(names, dtype=object))
    # A table may begin at any column.
    before = next(at for at, name in enumerate(header) if name is not None)
    while before and not frame.iloc[:, :before].isna().all(axis=None):
        before -= 1
    return cast("pd.DataFrame", frame.iloc[:, before:])


def _cells(file: InputFile, rows: Iterator[_Row], names: Sequence[str]) -> Iterator[list[Any]]:
    width = len(names)
    for position, row in enumerate(rows):
        cells = [*row.cells[:width]]
        if any(cell is not None for cell in row.cells[width:]):
            file.bad_row(position, f"worksheet row {row.number}: more cells than the header has")
        elif row.faults:
            at, fault = next(iter(row.faults.items()))
            column = repr(names[at]) if at < width else str(at + 1)
            file.bad_row(position, f"worksheet row {row.number}: the cell of column {column} {fault}")
        yield cells + [None] * (width - len(cells))


def _value(cell: Any) -> Any:
    value = cell.value
    if isinstance(value, datetime) and value.time() == time() and "h" not in cell.number_format.lower():
        return value.date()
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value) if isinstance(value, str) else value


def _excel_value(value: Any) -> Any:
    if is_null(value):
        return None
    if isinstance(value, pd.Timestamp) and not value.nanosecond:
        value = value.to_pydatetime()
    if isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)) or _is_exact(value):
        return value
    text = _TO_ESCAPE.sub(lambda found: f"_x{ord(found[0]):04X}_", cell_text(value) or "")
    if len(text) > MAX_CELL_CHARS:
        fault = f"a cell of Excel has at most {MAX_CELL_CHARS:,} characters, and one has {len(text):,}"
        raise OSError(f"{fault}; use another format")
    return text


def _is_exact(value: Any) -> bool:
    """Return whether a cell can hold the value, so that it is read back as the same value."""
    if isinstance(value, int):
        return abs(value) < MAX_EXACT_INTEGER
    if isinstance(value, datetime):
        is_plain = value.tzinfo is None and not value.microsecond and not isinstance(value, pd.Timestamp)
        return is_plain and value.year > FIRST_YEAR
    if isinstance(value, time):
        return value.tzinfo is None and not value.microsecond
    return isinstance(value, date) and value.year > FIRST_YEAR
