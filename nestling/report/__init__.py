"""Reports: tables, figures and self-contained pages."""

from nestling.report.figure import Curve, bars, grid, lines
from nestling.report.page import Section, page, write_page
from nestling.report.table import Table

__all__ = ["Curve", "Section", "Table", "bars", "grid", "lines", "page", "write_page"]
