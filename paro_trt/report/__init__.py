"""`paro-trt report`: a plan as one self-contained HTML page that makes no request."""

from .page import ReportSummary, write_report

__all__ = ["ReportSummary", "write_report"]
