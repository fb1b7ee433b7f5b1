"""What is shown to a reader: tables, figures and pages that stand alone."""

from nestling.report.figure import Curve, bars, grid, lines
from nestling.report.page import Section, page, write_page
from nestling.report.table import Table

__all__ = ["Curve", "Section", "Table", "bars", "grid", "lines", "page", "write_page"]
