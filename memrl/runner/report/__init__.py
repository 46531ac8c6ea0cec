"""What runs have learned, as one page to look at, and as pictures and tables for a paper."""

from memrl.runner.report.write import Report, ReportOptions, write_report

__all__ = ["Report", "ReportOptions", "write_report"]
