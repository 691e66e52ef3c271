"""Rows -> table -> workbook; picture -> class with confidence."""
