"""Rows -> table -> workbook; image -> class with confidence."""
