"""Fine dust in six hours' time, at twelve stations in Beijing (Zhang et al. 2017).

A station is a gateway that has measured every hour for four years. It forecasts the logarithm of
PM2.5 six hours ahead from what it measures now and has measured before. The last year is held out.
A gateway keeps little: of the other three years each has the last ``days``.
"""

import csv
import gzip
from functools import cache
from pathlib import Path

import numpy as np

from client_worker import Task
from client_worker.models import linear_regression
from client_worker.tasks.feature_statistics import Statistics, statistics_task
from warren_examples.air_quality import FILES, WHERE

AHEAD_H, DAY_H, YEAR_H = 6, 24, 24 * 365
MEASURED = slice(5, 15)  # PM2.5, PM10, SO2, NO2, CO, O3, temperature, pressure, dew point, rain
WIND_DIRECTION, WIND_SPEED = 15, 16
COMPASS = (
    *("N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE"),
    *("S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW"),
)
LAGS_H = (1, 3, 6, 12, 24)
Records = tuple[np.ndarray, np.ndarray]


@cache
def read(path: Path) -> Records:
    """Inputs (hours, 23), NaN where nothing was measured, and the target, at all hours."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: {WHERE}")
    with gzip.open(path, "rt", newline="") as file:
        _, *rows = csv.reader(file)
    measured = np.array([[_number(text) for text in row[MEASURED]] for row in rows])
    measured[:, :6] = np.log1p(measured[:, :6])
    speed = np.array([_number(row[WIND_SPEED]) for row in rows])
    points = [row[WIND_DIRECTION] for row in rows]
    known = [COMPASS.index(point) if point in COMPASS else np.nan for point in points]
    angle = np.array(known) * (2 * np.pi / len(COMPASS))
    hour = np.array([int(row[4]) for row in rows]) * (2 * np.pi / DAY_H)
    month = np.array([int(row[2]) for row in rows]) * (2 * np.pi / 12)
    dust = measured[:, 0]
    lagged = [np.r_[np.full(lag, np.nan), dust[:-lag]] for lag in LAGS_H]
    waves = [wave(angle_) for angle_ in (hour, month) for wave in (np.sin, np.cos)]
    winds = [speed, speed * np.sin(angle), speed * np.cos(angle), np.isnan(speed) * 1.0]
    x = np.column_stack([measured, *winds, *waves, *lagged])
    return x, np.r_[dust[AHEAD_H:], np.full(AHEAD_H, np.nan)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan  # NA


def station(data: str, shard: int, days: int) -> tuple[Records, Records]:
    """A station's last ``days`` before the last year, and that year; where the target is known."""
    x, y = read(Path(data) / FILES[shard % len(FILES)])
    parts = slice(-YEAR_H - days * DAY_H, -YEAR_H), slice(-YEAR_H, None)
    train, test = ((x[part][~np.isnan(y[part])], y[part][~np.isnan(y[part])]) for part in parts)
    return train, test


def statistics(data: str, save: str, shard: int = 0, days: int = 365) -> Task:
    """The first run: means and deviations of all stations' measurements."""
    return statistics_task(station(data, shard, days)[0][0], Path(f"{save}-{shard}.npz"))


def inputs(known: Statistics, x: np.ndarray) -> np.ndarray:
    """Standardised alike everywhere; a cloudburst is 70 deviations, of which 4 say all."""
    return np.clip(known.standardise(x), -4, 4)


def forecast(
    data: str, save: str, shard: int = 0, days: int = 365, learning_rate: float = 0.05
) -> Task:
    """The second run: linear regression on inputs that are standardised alike everywhere."""
    known = Statistics.load(Path(f"{save}-{shard}.npz"))
    (x, y), (test_x, test_y) = station(data, shard, days)
    model = linear_regression(x.shape[1], l2=1e-3, epochs=2, batch_size=64, seed=shard)
    test = inputs(known, test_x), test_y
    return Task(model, (inputs(known, x), y), learning_rate, validation=test)
