"""Reports: folders, pages, figures, tables and JUnit files, made from result objects."""

from thetabox.json_text import json_text
from thetabox.report.folder import check_claim, output_folder, write_file, write_files
from thetabox.report.junit import Case, Suite, write_junit, write_suites
from thetabox.report.step_summary import append_summary
from thetabox.report.tables import comparison_tables, curve_table, plain_table
from thetabox.report.write import csv_text, write, write_comparison, write_proof
from thetabox.report.yields import (
    SAMPLED,
    sampled_note,
    sampled_table,
    sampled_text,
    write_yield,
    write_yield_proof,
    yield_table,
)

__all__ = [
    "SAMPLED",
    "Case",
    "Suite",
    "append_summary",
    "check_claim",
    "comparison_tables",
    "csv_text",
    "curve_table",
    "json_text",
    "output_folder",
    "plain_table",
    "sampled_note",
    "sampled_table",
    "sampled_text",
    "write",
    "write_comparison",
    "write_file",
    "write_files",
    "write_junit",
    "write_proof",
    "write_suites",
    "write_yield",
    "write_yield_proof",
    "yield_table",
]
