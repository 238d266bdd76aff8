"""Read Parquet files. Arrow does not look at texts when it reads them: what is not UTF-8 would fail much later."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["check_cells", "read_table"]


def read_table(path: str | Path) -> pa.Table:
    """Read a file; categories of pandas, and views of texts, become the words that they are.

    Raises:
        ValueError: If it is damaged, or a text is not UTF-8.
        OSError: If it cannot be read.
    """
    table = pq.read_table(path)
    table = table.cast(pa.schema(map(_plain, table.schema), table.schema.metadata))
    check_cells(table)
    return table


def _plain(column: pa.Field) -> pa.Field:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return column.with_type(pa.string() if pa.types.is_string_view(kind) else kind)


def check_cells(table: pa.Table) -> None:
    """Raise a ValueError if a cell is not what its column says, such as a text that is not UTF-8."""
    for name in table.column_names:
        try:
            table[name].validate(full=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"the column {name!r} is damaged ({str(error).splitlines()[0]}).") from None
