"""``[workloads.NAME.load]``: how requests arrive, how much of it is measured, and what is asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from suites.measure.load.arrivals import MOST_REQUESTS

LoadKind = Literal["open", "closed", "capacity"]

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


CLIENT_REQUESTS = 5
"""Fewest requests of an episode for each client of a closed loop."""


class _Table(BaseModel):
    # Strict: a number in quotes or a truth value is no number. A whole number is a float still.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SloTable(_Table):
    """``[workloads.NAME.load.slo]``: at least ``share`` of the requests end within ``e2el_ms``."""

    e2el_ms: _Positive
    """From a request's intended arrival to its answer."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.99


class LoadTable(_Table):
    """One of three: an open loop (``rate`` or ``rate_share``), a closed one (``concurrency``), or
    ``capacity = true``, the search for the highest rate that keeps the ``slo``."""

    rate: _Positive | None = None
    """Requests a second, whatever becomes of them."""
    rate_share: Annotated[float, Field(gt=0, le=10)] | None = None
    """The same as a share of what this cell finishes back to back, which is measured first."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Clients that send when their last answer has come."""
    capacity: bool = False
    arrivals: Literal["poisson", "gamma"] = "poisson"
    burstiness: _Positive | None = None
    """Shape of the gamma distribution of the gaps: below 1 in bursts, above 1 more evenly."""
    slots: Annotated[int, Field(ge=1, le=256)] = 1
    """Calls that the session takes at once; the others wait in the order of their arrival."""
    seconds: Annotated[float, Field(ge=0.05, le=3600)] | None = None
    """During which requests arrive in one episode; 2 unless ``requests`` is given."""
    requests: Annotated[int, Field(ge=20, le=MOST_REQUESTS)] | None = None
    """Requests of one episode, instead."""
    episodes: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Turns of the cell; 4 by default. A capacity search has ``probes``."""
    probes: Annotated[int, Field(ge=4, le=200)] | None = None
    """Most episodes of a capacity search; 16 by default. Its error is shared among them."""
    resolution: Annotated[float, Field(gt=1, le=4)] | None = None
    """Quotient of the rates shown to miss and to keep the SLO at which a search ends; 1.1."""
    slo: SloTable | None = None

    @model_validator(mode="after")
    def _one_kind_and_what_belongs_to_it(self) -> LoadTable:
        given = [
            name
            for name, there in (
                ("rate", self.rate is not None),
                ("rate_share", self.rate_share is not None),
                ("concurrency", self.concurrency is not None),
                ("capacity", self.capacity),
            )
            if there
        ]
        if len(given) != 1:
            raise ValueError(
                "give one of rate, rate_share, concurrency and capacity = true"
                + (f", not {' and '.join(given)}" if given else "")
            )
        if self.arrivals == "gamma" and self.burstiness is None:
            raise ValueError('arrivals = "gamma" needs burstiness, the shape of its gaps')
        if self.arrivals == "poisson" and self.burstiness not in (None, 1):
            raise ValueError('burstiness belongs to arrivals = "gamma"; Poisson arrivals have 1')
        if self.seconds is not None and self.requests is not None:
            raise ValueError("give seconds or requests, not both")
        if self.rate is not None and self.requests is None:
            expected = self.rate * (self.episode_seconds or 0.0)
            if expected > MOST_REQUESTS:
                raise ValueError(
                    f"rate x seconds are {expected:,.0f} requests an episode, more than "
                    f"{MOST_REQUESTS:,}; give a lower rate, or fewer seconds"
                )
        if self.concurrency is not None:
            if self.arrivals != "poisson" or self.burstiness is not None:
                raise ValueError(
                    "arrivals and burstiness belong to an open loop; with concurrency a request "
                    "arrives when its client's last answer has come"
                )
            if self.slots > self.concurrency:
                raise ValueError(
                    f"slots = {self.slots} of {self.concurrency} clients would stay empty; "
                    "slots must be at most concurrency"
                )
            fewest = CLIENT_REQUESTS * self.concurrency
            if self.requests is not None and self.requests < fewest:
                raise ValueError(
                    f"requests must be at least {fewest}, {CLIENT_REQUESTS} times concurrency: the "
                    "first and the last of each client meet fewer others"
                )
        if self.capacity:
            if self.slo is None:
                raise ValueError("capacity = true needs [workloads.NAME.load.slo], which it keeps")
            if self.episodes is not None:
                raise ValueError("a capacity search has probes instead of episodes")
        elif self.probes is not None or self.resolution is not None:
            key = "probes" if self.probes is not None else "resolution"
            raise ValueError(f"{key} belongs to capacity = true")
        return self

    @property
    def kind(self) -> LoadKind:
        if self.capacity:
            return "capacity"
        return "closed" if self.concurrency is not None else "open"

    @property
    def shape(self) -> float:
        """Of the gaps' gamma distribution: 1 is a Poisson process."""
        return 1.0 if self.burstiness is None else self.burstiness

    @property
    def episode_seconds(self) -> float | None:
        """None where an episode has a number of requests instead."""
        return None if self.requests is not None else (self.seconds or 2.0)

    @property
    def most_turns(self) -> int:
        return (self.probes or 16) if self.capacity else (self.episodes or 4)
