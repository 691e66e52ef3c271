"""The workbook of a sweep, summary.xlsx, sheet by sheet."""
