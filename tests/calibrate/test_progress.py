import io

from rich.console import Console

from paro_trt.calibrate import RichProgress


def test_bars_show_stages_and_what_an_earlier_run_finished(monkeypatch):
    page = io.StringIO()
    console = Console(file=page, force_terminal=True, width=120)
    monkeypatch.setattr("rich.progress.get_console", lambda: console)
    with RichProgress() as progress:
        progress.start("orders", total=4, done=1)
        progress.advance()
        progress.note("[kept] as written")
    shown = page.getvalue()
    assert "orders" in shown
    assert "2/4" in shown
    assert "[kept] as written" in shown
