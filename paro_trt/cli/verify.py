"""`paro-trt verify`."""


def verify() -> None:
    """Compare."""
