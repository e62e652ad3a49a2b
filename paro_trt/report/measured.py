"""The figures that calibration measured and that are within their ranges.

A plan's `measured` is a free mapping. A figure outside its range is listed among the other
figures and not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import EFFECT, TIME_SHARE, ParoPlan, figure_name

_DENSITY = "density"
_SAME_DENSITY = 1e-3
_HELDOUT = "heldout_error"
_SPEED = ("attention_share", "attention_speedup", "model_speedup")


@dataclass(frozen=True)
class SpeedForecast:
    """The expected speed, by Amdahl's law from the measured share of attention.

    Args:
        share: of attention in the dense model's time, in [0, 1].
        attention: times as fast, > 0.
        model: times as fast, > 0.
    """

    share: float
    attention: float
    model: float

    @property
    def rest(self) -> float:
        """Time outside attention; the dense model's whole time is 1."""
        return 1.0 - self.share

    @property
    def attention_time(self) -> float:
        """Time of attention with the plan; the dense model's whole time is 1."""
        return self.share / self.attention


@dataclass(frozen=True)
class MeasuredFigures:
    """Figures known by name, and the rest.

    Args:
        heldout_error: relative L2 error of attention outputs on prompts not calibrated on.
        layer_errors: the same of each layer, by its name.
        effects: relative L2 error of the prediction that each layer adds, by its name.
        time_shares: of each layer in the plan's counted time, by its name.
        speed: None where attention was not timed.
        others: everything else, by name.
    """

    heldout_error: float | None
    layer_errors: dict[str, float]
    effects: dict[str, float]
    time_shares: dict[str, float]
    speed: SpeedForecast | None
    others: dict[str, float]


def measured_figures(plan: ParoPlan) -> MeasuredFigures:
    """What the plan's calibration measured."""
    left = dict(plan.calibration.measured)
    of_layers: dict[str, dict[str, float]] = {_HELDOUT: {}, EFFECT: {}, TIME_SHARE: {}}
    for figure, by_name in of_layers.items():
        for layer in plan.layers:
            value = _take_positive(left, figure_name(figure, layer.name))
            if value is not None:
                by_name[layer.name] = value
    heldout = _take_positive(left, _HELDOUT)
    if abs(left.get(_DENSITY, -1.0) - plan.density()) < _SAME_DENSITY:
        del left[_DENSITY]  # the page shows it already
    return MeasuredFigures(
        heldout,
        of_layers[_HELDOUT],
        of_layers[EFFECT],
        of_layers[TIME_SHARE],
        _take_speed(left),
        left,
    )


def _take_positive(figures: dict[str, float], name: str) -> float | None:
    return figures.pop(name) if figures.get(name, -1.0) >= 0.0 else None


def _take_speed(figures: dict[str, float]) -> SpeedForecast | None:
    values = [figures.get(name, -1.0) for name in _SPEED]
    share, attention, model = values
    if not (0.0 <= share <= 1.0 and attention > 0.0 and model > 0.0):
        return None
    for name in _SPEED:
        del figures[name]
    return SpeedForecast(share, attention, model)
